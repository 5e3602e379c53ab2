"""What a command line's paths mean: slices, scans, and folders that hold some of them."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.card import Card
from common.errors import InputError, warn
from common.progress import track
from predict.result import absolute
from predict.search import Folder, find_studies, walk
from scan.cases import (
    PICTURES,
    SCANS,
    SEG,
    find_modality,
    has_dicom,
    has_ending,
    is_dicom_folder,
    list_visible,
    open_folder,
    parse_names,
)
from scan.pairs import find_masks

MRI_ALONE = {"flair", "t1ce"}  # modalities that no CT is called after
Inputs = dict[Path, Path]  # {input: the folder below which it was found}


def find_inputs(
    paths: Sequence[str | Path], card: Card | None = None, out: Path | None = None
) -> Inputs:
    """The slices and scans that `paths` name: files, DICOM folders, or trees of folders of either.

    Where the model's card names the modalities of an MRI, case folders take the place of scans.
    The results' folder `out` is not searched. Raises InputError for a path that does not exist and
    for a folder that holds no input.
    """
    several, is_mri = [], bool(card and card.is_mri)
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        here = [find_header(path)] if path.is_file() else list_inputs(path, card or Card(), out)
        if not is_mri:
            here = leave_out_mri(here, path)
        if not here:
            needed = "scan and no picture (NIfTI, DICOM, PNG, JPEG)"
            if is_mri:
                needed = f"file of {' or '.join(card.channels)}, and no picture"
            raise InputError(f"{path} holds no {needed}, nor do the folders below")
        several.append(dict.fromkeys(here, path.parent if path.is_file() else path))
    return join_inputs(*several)


def find_listed(lines: Iterable[str], card: Card, out: Path | None = None) -> Inputs:
    """The inputs that a list names, a path a line; empty lines and those with # first are skipped.

    A path that does not exist, and a folder without an input, are inputs that fail when they are
    read. Their results lie below the folders that the line names.
    """
    paths = [Path(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise InputError("the list names no path; write one in each line")
    found: Inputs = {}
    for path in paths:
        here = list_inputs(path, card, out) if path.is_dir() else [find_header(path)]
        found |= dict.fromkeys(here or [path], Path(path.anchor))
    if not card.is_mri:
        left = set(leave_out_mri(list(found), paths[0]))
        found = {path: root for path, root in found.items() if path in left}
    return join_inputs(found)


def read_list(path: str) -> list[str]:
    """The lines of a file, or of the standard input for "-"; bytes that are no text are kept, since
    they may be of a file's name."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if b"\0" in content:
        raise InputError(f"{path} is no text; give a list of paths, one in each line")
    return os.fsdecode(content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")).split("\n")


def join_inputs(*several: Inputs) -> Inputs:
    """All inputs, each once, however its path was written; the first one counts."""
    first: dict[Path, tuple[Path, Path]] = {}
    for path, root in (item for found in several for item in found.items()):
        first.setdefault(absolute(path), (path, root))
    return dict(first.values())


def find_header(path: Path) -> Path:
    """The .hdr beside an .img, which is the same scan; any other file itself."""
    if path.suffix.lower() != ".img" or not path.exists():
        return path
    name = f"{path.stem}.hdr".lower()
    return next((p for p in list_visible(path.parent) if p.name.lower() == name), path)


def leave_out_mri(files: list[Path], path: Path) -> list[Path]:
    """The files without those that their names make an MRI, which a network of CT cannot mask.

    FLAIR and contrast-enhanced T1 are of MRI alone, and so are three modalities together; t1 and t2
    may be times. Raises InputError where nothing is left, or `path` holds case folders alone.
    """
    kinds = {}
    for file in files:
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
    case += f", as do {len(cases) - 1} more folders" * (len(cases) > 1)
    if left:
        warn(f"{case}, which this network of head CT cannot mask: left out")
        return left
    command = f"python pred.py {shlex.quote(str(folder if path.is_file() else path))}"
    raise InputError(
        f"{case}, and this network masks head CT; give one of MRI that train.py has made: "
        f"{command} --model files/tumour_net/model.keras"
    )


def list_inputs(root: Path, card: Card, out: Path | None = None) -> list[Path]:
    """The inputs in and below a folder: pictures, scans and DICOM studies; or pictures and case
    folders for an MRI's card.

    Masks that lie beside their scans, or in folders of masks, are left out.
    """
    if card.is_mri:
        folders = search(root, functools.partial(holds_case, card=card), out)
        cases = [f.path for f in folders if f.is_whole or holds_dicom_case(f.path, card)]
        of_cases = set(cases)
        loose = [folder for folder in folders if folder.path not in of_cases]
        return drop_masks(loose, PICTURES, root) + cases
    folders = search(root, has_dicom, out)
    files = drop_masks(folders, (*SCANS, *PICTURES, ".zip"), root)
    from scan.dicom_series import list_slices  # 50 ms, which a file that is named need not wait for

    studies = find_studies(folders)
    return [*files, *(path for study in studies for path in list_slices(study) or [study])]


def search(root: Path, is_whole, out: Path | None) -> list[Folder]:
    """The folders of a tree, as `walk` yields them; how far it is where that takes long."""
    return list(track(walk(root, is_whole, out), None, "folder"))


def drop_masks(folders: Sequence[Folder], endings: Sequence[str], root: Path) -> list[Path]:
    """The files with one of the endings, but for masks of others among them."""
    groups = [[file for file in f.files if has_ending(file, endings)] for f in folders]
    files = [file for group in groups for file in group]
    found = [mask for group in groups for mask in find_masks(group)]
    masks = dict.fromkeys([*found, *find_masks(files, root)])
    if masks:
        few = "1 mask" if len(masks) == 1 else f"{len(masks)} masks"
        warn(f"{root}: {few} of other files there left out, such as {next(iter(masks)).name}")
    return [path for file in files if file not in masks for path in open_file(file)]


def open_file(path: Path) -> Iterator[Path]:
    """The file, or that in a folder which is called like a file; none, and a warning, where that
    folder holds several."""
    try:
        yield open_folder(path)
    except InputError as error:
        warn(f"{error}; left out")


def holds_case(files: Sequence[Path], card: Card) -> bool:
    """Whether one of a folder's files is one of the card's modalities."""
    return any(has_ending(path, SCANS) and find_channel(path.name, card) for path in files)


def holds_dicom_case(folder: Path, card: Card) -> bool:
    """Whether a folder holds a DICOM folder that is called like one of the card's modalities."""
    return any(
        find_channel(path.name, card) and is_dicom_folder(path) for path in list_visible(folder)
    )


def find_channel(name: str, card: Card) -> str:
    """Which of the card's modalities a file is by its name; "" for none of them."""
    kind = find_modality(name, card.channels, parse_names(card.names))[0]
    return kind if kind in card.channels else ""
