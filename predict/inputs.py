"""What a command line's paths mean: slices, scans, and folders that hold some of them."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

from common.card import Card
from common.errors import InputError, warn
from predict.result import is_result
from scan.cases import (
    PICTURES,
    SCANS,
    SEG,
    find_modality,
    is_dicom_folder,
    list_visible,
    open_folder,
    parse_names,
)
from scan.pairs import find_masks, list_scan_files

MRI_ALONE = {"flair", "t1ce"}  # modalities that no CT is called after
MOST_NAMED = 5  # folders in a message: a line or two


def find_inputs(paths: list[str | Path], card: Card | None = None) -> list[Path]:
    """The slices and scans that `paths` name: files, DICOM folders, or folders of either.

    Where the model's card names the modalities of an MRI, case folders take the place of scans.
    Raises InputError for a path that does not exist and for a folder that holds none.
    """
    found, is_mri = [], bool(card and card.is_mri)
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        here = [find_header(path)] if path.is_file() else list_inputs(path, card or Card())
        if not is_mri:
            here = leave_out_mri(here, path)
        if not here:
            needed = "scan and no picture (NIfTI, DICOM, PNG, JPEG)"
            if is_mri:
                needed = f"file of {' or '.join(card.channels)}, and no picture"
            raise InputError(f"{path} holds no {needed}{advise_below(path)}")
        found += [p for p in here if p not in found]
    return found


def find_header(path: Path) -> Path:
    """The .hdr beside an .img, which is the same scan; any other file itself."""
    if path.suffix.lower() != ".img":
        return path
    name = f"{path.stem}.hdr".lower()
    return next((p for p in list_visible(path.parent) if p.name.lower() == name), path)


def advise_below(folder: Path) -> str:
    """Which folders below hold pictures or scans in files, in words; "" where none does."""
    found = Counter(
        str(path.parent)
        for path in list_scan_files(folder, (*SCANS, *PICTURES))
        if not any(map(is_result, path.parents))
    )
    if not found:
        return ""
    few = ", ".join(shlex.quote(name) for name in sorted(found)[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" * (len(found) > MOST_NAMED)
    return f" itself; there are {found.total()} in folders below: give these ({few}{more})"


def leave_out_mri(files: list[Path], path: Path) -> list[Path]:
    """The files without those that their names make an MRI, which a network of CT cannot mask.

    FLAIR and contrast-enhanced T1 are of MRI alone, and so are three modalities together; t1 and t2
    may be times. Raises InputError where nothing is left, or `path` holds case folders alone.
    """
    scans = files or ([*path.glob("*/*")] if path.is_dir() else [])
    kinds = {}
    for file in scans:
        if file.name.lower().endswith(SCANS) and (kind := find_modality(file.name, ())[0]):
            kinds.setdefault(file.parent, {})[file] = kind
    cases = {
        folder: found
        for folder, found in kinds.items()
        if MRI_ALONE & set(found.values()) or len({*found.values()} - {SEG}) > 2
    }
    if not cases:
        return files
    left = [file for file in files if file not in cases.get(file.parent, ())]
    folder, found = next(iter(cases.items()))
    case = f"{folder} holds files of an MRI ({', '.join(sorted(set(found.values())))})"
    if left:
        warn(f"{case}, which this network of head CT cannot mask: left out")
        return left
    command = f"python pred.py {shlex.quote(str(folder if path.is_file() else path))}"
    raise InputError(
        f"{case}, and this network masks head CT; give one of MRI that train.py has made: "
        f"{command} --model files/tumour_net/model.keras"
    )


def list_inputs(folder: Path, card: Card) -> list[Path]:
    """The inputs in a folder: pictures, scans and DICOM series; or case folders for an MRI's card.

    Masks that lie beside their scans are left out.
    """
    if card.is_mri:
        return list_cases(folder, card)
    files = [
        path
        for path in list_visible(folder)
        if path.name.lower().endswith((*SCANS, *PICTURES, ".zip"))
    ]
    masks = find_masks(files)
    if masks:
        few = "1 mask" if len(masks) == 1 else f"{len(masks)} masks"
        warn(f"{folder}: {few} of other files there left out, such as {masks[0].name}")
    from scan.dicom_series import list_slices  # 50 ms, which a file that is named need not wait for

    scans = [path for found in list_dicom(folder) for path in list_slices(found) or [found]]
    return [open_folder(file) for file in files if file not in masks] + scans


def list_dicom(folder: Path) -> list[Path]:
    """The folders below that each hold one DICOM study: series of one study are one input."""
    if not os.access(folder, os.R_OK | os.X_OK):
        warn(f"{folder}: no permission to look into it; left out")
        return []
    if is_dicom_folder(folder):
        return [folder]
    # no results of an earlier run, nor links back up the tree
    folders = [
        path
        for path in list_visible(folder)
        if path.is_dir()
        and not is_result(path)
        and not folder.resolve().is_relative_to(path.resolve())
    ]
    below = [found for path in folders for found in list_dicom(path)]
    if len(below) > 1:
        from scan.dicom_files import read_study_uid  # as above

        studies = set(map(read_study_uid, below))
        return [folder] if len(studies) == 1 and "" not in studies else below
    return below


def list_cases(folder: Path, card: Card) -> list[Path]:
    """The folder, if it holds a file of one of the card's modalities; else the pictures in it, and
    the same in all folders below."""
    entries = list_visible(folder)
    scans = [path for path in entries if path.name.lower().endswith(SCANS)]
    if any(find_channel(path.name, card) for path in scans):
        return [folder]
    pictures = [path for path in entries if path.name.lower().endswith(PICTURES)]
    masks = set(find_masks(pictures))
    pictures = [path for path in pictures if path not in masks]
    return pictures + [q for path in entries if path.is_dir() for q in list_cases(path, card)]


def find_channel(name: str, card: Card) -> str:
    """Which of the card's modalities a file is by its name; "" for none of them."""
    kind = find_modality(name, card.channels, parse_names(card.names))[0]
    return kind if kind in card.channels else ""
