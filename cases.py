"""Which files belong together: a scan and its mask, the modalities of a case; cases are read here.

    case = find_case("BraTS2021_00000", ["flair", "t1ce"])
    scan, image = read_case(case)                  # (X, Y, Z, 2), and the grid to write back on

Names are those of the BraTS challenges of 2012 to 2024 and of data that follow them, in any letter
case and with any separators: `x_flair`, `x-t2f`, `Flair_subtrMeanDivStd`; `x_t1ce`, `x-t1c`, `T1c`,
`x_T1GD`; `x_seg`, `x-seg`, `OTMultiClass`. Other names are given as patterns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from errors import InputError

if TYPE_CHECKING:
    from volume import Volume

SCANS = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_NAME = re.compile(r"[_-](brain[_-]?)?(roi|mask|seg|segmentation|label)$")
LABELS = "seg"  # the label volume, among the modalities
# What the words of a file's name say
WORDS = {
    "flair": ("t2_flair", "t2flair", "flair", "t2f"),
    "t1ce": ("t1_ce", "t1_gd", "t1_post", "t1post", "t1ce", "t1gd", "t1c"),
    "t1": ("t1", "t1n", "t1w"),
    "t2": ("t2", "t2w"),
    LABELS: ("seg", "segm", "segmentation", "otmulticlass", "ot", "gt", "label", "labels"),
}

# What the values of a BraTS label volume mean: Menze et al., IEEE TMI 34 (2015); Baid et al.,
# arXiv:2107.02314 (2021); since 2023 the enhancing tumour is 3
CORE, OEDEMA, SOLID, ENHANCING = "necrotic core", "oedema", "non-enhancing core", "enhancing tumour"
BRATS = {
    (1, 2, 4): (CORE, OEDEMA, ENHANCING),
    (1, 2, 3): (CORE, OEDEMA, ENHANCING),
    (1, 2, 3, 4): (CORE, OEDEMA, SOLID, ENHANCING),
}
# What synthetic.py labels in a head CT, and the region that is the brain mask
HEAD = {"1": "tissue", "2": "hyperdense"}
BRAIN = "brain"
# Visits of one patient must not be torn apart by a split
VISIT = re.compile(r"(BraTS-[A-Z]+-\d+|UPENN-GBM-\d+)[-_]\d+|(sub-[A-Z\d]+)_ses-.+", re.I)


@dataclass(frozen=True)
class Case:
    """The files of one case: modality -> file, in the order asked for; labels where there are."""

    name: str
    files: dict[str, Path]
    labels: Path | None = None

    @property
    def patient(self) -> str:
        """The patient, where the name also tells the visit; else the case."""
        found = VISIT.fullmatch(self.name)
        return next(filter(None, found.groups())) if found else self.name


# ---------------------------------------------------------------- a scan and its mask


def stem(path: str | Path) -> str:
    """A file's name without its ending (.nii.gz counts as one)."""
    name = Path(path).name
    ending = next((e for e in SCANS + PICTURES if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def find_pairs(
    scans: str | Path, masks: str | Path | None = None, endings: Sequence[str] = SCANS
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair scans with masks by name: ([(case, scan, mask), …], [a line on each file left over]).

    `scans` is a scan, a folder of scans (NIfTI files or DICOM folders), or, without `masks`, a
    folder that holds both: X.nii.gz beside X_ROI, X_mask or X_seg.nii.gz, or two folders such as
    images/ and masks/. Letter case does not matter. Raises InputError when nothing pairs.
    """
    scans, masks = Path(scans), Path(masks) if masks else None
    for path in filter(None, (scans, masks)):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
    if scans.is_file() or is_dicom_folder(scans):
        if masks and masks.is_file():
            return [(stem(scans), scans, masks)], []
        masks = masks or scans.parent
        others = [path for path in list_scans(masks, endings) if path != scans]
        pairs, left_over = match([scans], others)[0], []
    else:
        if masks is None:
            scans, masks = image_and_mask_folders(scans)
        pairs, left_over = match(*scan_and_mask_files(scans, masks, endings))
    if not pairs:
        raise InputError(
            f"found no mask in {masks} for {scans}; name them X.nii.gz and X_mask.nii.gz, "
            "or give the masks' folder as second argument"
        )
    return pairs, left_over


def scan_and_mask_files(scans: Path, masks: Path, endings: Sequence[str]) -> tuple[list, list]:
    """Files of the two folders; those of one folder are told apart by their names."""
    files = list_scans(scans, endings)
    if scans != masks:
        return files, list_scans(masks, endings)
    mask_files = [file for file in files if MASK_NAME.search(stem(file).lower())]
    return [file for file in files if file not in mask_files], mask_files


def masks_among(files: Sequence[Path]) -> list[Path]:
    """Which files are by their names masks of others among them: X_mask.nii.gz beside X.nii.gz."""
    names = [stem(file).lower() for file in files]
    return [file for file, name in zip(files, names, strict=True)
            if MASK_NAME.search(name) and MASK_NAME.sub("", name) in names]  # fmt: skip


def match(scans: list[Path], masks: list[Path]) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pairs of one name, and a line for every file that has no partner or more than one."""
    by_name: dict[str, list[Path]] = {}
    for mask in masks:
        name = stem(mask).lower()
        for key in {name, MASK_NAME.sub("", name)}:
            by_name.setdefault(key, []).append(mask)
    names = [stem(scan).lower() for scan in scans]
    pairs, left_over = [], []
    for scan, name in zip(scans, names, strict=True):
        found = by_name.get(name, [])
        if names.count(name) > 1:
            left_over.append(f"{scan}: another scan has the same name; left out")
        elif len(found) > 1:
            several = ", ".join(m.name for m in found)
            left_over.append(f"{scan}: several masks ({several}); left out")
        elif not found:
            left_over.append(f"{scan}: no mask of that name; left out")
        else:
            pairs.append((stem(scan), scan, found[0]))
    used = {m for name in names for m in by_name.get(name, [])}
    left_over += [f"{mask}: no scan of that name; left out" for mask in masks if mask not in used]
    return pairs, left_over


def list_scans(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The folder's files with one of `endings` and its DICOM folders; or itself, if it is one."""
    if folder.is_file() or is_dicom_folder(folder):
        return [folder]
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [p for p in paths if p.name.lower().endswith(tuple(endings)) or is_dicom_folder(p)]


def is_dicom_folder(folder: Path) -> bool:
    """Whether there are DICOM files in the folder itself."""
    return folder.is_dir() and any(map(is_dicom, folder.iterdir()))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or by its first bytes."""
    if not path.is_file() or path.name.lower().endswith(SCANS + PICTURES):
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except PermissionError:
        return False


def image_and_mask_folders(folder: Path) -> tuple[Path, Path]:
    """(images, masks) inside `folder`, or the folder twice where it holds no such pair."""
    inside = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    masks = [p for p in inside if re.search("mask|roi|seg|label", p.name.lower())]
    others = [p for p in inside if p not in masks]
    images = [p for p in others if re.search("image|img|scan|ct", p.name.lower())] or others
    if len(images) == len(masks) == 1:
        return images[0], masks[0]
    return folder, folder


# ---------------------------------------------------------------- what a label means


def label_names(values: Sequence[int]) -> dict[str, str]:
    """{"1": name, …} of contiguous labels that were stored as `values`, in ascending order."""
    values = tuple(sorted(values))
    several = [f"label {value}" for value in values]
    names = BRATS.get(values, ["tumour"] if len(values) == 1 else several)
    return {str(index): name for index, name in enumerate(names, 1)}


def regions(names: dict[str, str]) -> dict[str, list[int]]:
    """The regions that the field scores, as contiguous labels; {} for labels of something else."""
    if names == HEAD:
        return {BRAIN: list(map(int, HEAD))}
    if ENHANCING not in names.values():
        return {}
    labels = {int(label): name for label, name in names.items()}
    return {
        "whole tumour": list(labels),
        "tumour core": [label for label, name in labels.items() if name != OEDEMA],
        "enhancing tumour": [label for label, name in labels.items() if name == ENHANCING],
    }


def read_json(path: Path) -> dict:
    """A JSON file's object; {} when there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def card_of(model: str | Path) -> dict:
    """The card beside a model file; {} when there is none that can be read."""
    return read_json(Path(model).with_suffix(".json"))


def areas(about: dict) -> dict[str, list[int]]:
    """What is scored of a dataset or card: {name: contiguous labels} of each label and region."""
    labels = about.get("labels", {"1": "brain"})
    return {name: [int(label)] for label, name in labels.items()} | about.get("regions", {})


def is_mri(about: dict) -> bool:
    """Whether a dataset or card is of MRI cases, scaled within the brain, and not of HU."""
    return about.get("normalise", "window") != "window"


def channels(about: dict) -> list[str]:
    """The channels of a dataset or card; of older ones, which only count them, that of a CT."""
    named = about.get("channels", 1)
    return named if isinstance(named, list) else ["ct"] * named


def contiguous(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Labels as they came -> 1, 2, … in the ascending order of `values`; uint8, all else is 0."""
    table = np.zeros(256, np.uint8)
    table[sorted(values)] = np.arange(1, len(values) + 1)
    return table[labels]


def original(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The inverse of `contiguous`: uint8 labels as they came."""
    return np.array([0, *sorted(values)], np.uint8)[labels]


# ---------------------------------------------------------------- which file is which


def kind_of(
    name: str, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> tuple[str, str]:
    """(modality, the rest of the name) of a file's name; ("", name) where it says nothing.

    A channel that is no modality of BraTS is a word of its own. `patterns` are globs by modality,
    for names of another manner: {"flair": "*_FL.nii.gz"}.
    """
    for kind, pattern in (patterns or {}).items():
        if fnmatch(name.lower(), pattern.lower()):
            return kind, ""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.I)
    words = re.sub("[^a-z0-9]", "_", stem.lower())
    best = (0, 0, "", stem)
    for kind, spellings in ({channel: (channel.lower(),) for channel in channels} | WORDS).items():
        for word in spellings:
            for found in re.finditer(f"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", words):
                rest = stem[: found.start()].rstrip("_-. ") + stem[found.end() :]
                # the last word counts, of two that end there the longer: t2_flair, not flair
                best = max(best, (found.end(), len(word), kind, rest))
    return best[2:]


def find_cases(
    folder: str | Path, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> tuple[list[Case], list[str]]:
    """The cases with all of `channels` and labels, in and below a folder, and a line on each other.

    A folder with one file a modality is a case of that folder's name; files of several cases in
    one folder are told apart by the rest of their names. Raises InputError when there is no case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    cases, left_over = [], []
    for name, found in sorted(_files_by_case(folder, channels, patterns).items()):
        try:
            cases.append(_case(name, found, (*channels, LABELS), folder))
        except InputError as error:
            left_over.append(f"{error}; left out")
    if not cases:
        said = f" ({left_over[0]})" if left_over else ""
        raise InputError(
            f"found no case with {', '.join(channels)} and labels in {folder}{said}; name them as "
            f"BraTS does, or give --names {channels[0]}=GLOB … {LABELS}=GLOB"
        )
    return cases, left_over


def find_picture_cases(
    folder: str | Path,
) -> tuple[dict[str, list[tuple[int, Path, Path]]], list[str]]:
    """Slices with masks in and below a folder, {case: [(index, image, mask), …]}, and a line on
    each file left over.

    X_12.tif with X_12_mask.tif is slice 12 of the case X, as in the LGG set (Buda et al., Computers
    in Biology and Medicine 109 (2019)); without a number, the case is the folder. Cases of one name
    in several folders are named after these, too. Pairs as `find_pairs`. InputError when there is
    none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    found: dict[str, dict[Path, list]] = {}
    left_over = []
    for place in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
        if not any(p.name.lower().endswith(PICTURES) for p in place.iterdir()):
            continue
        pairs, lines = match(*scan_and_mask_files(place, place, PICTURES))
        left_over += lines
        for name, image, mask in pairs:
            case, _, number = name.rpartition("_")
            case = case if case and number.isdigit() else place.resolve().name
            slices = found.setdefault(case, {}).setdefault(place, [])
            index = int(number) if number.isdigit() else len(slices)
            if index in (other for other, *_ in slices):
                left_over.append(f"{image}: another slice of {case} has its number; left out")
            else:
                slices.append((index, image, mask))
    if not found:
        raise InputError(f"found neither NIfTI cases nor slices with masks in {folder}")
    named = {_case_name(case, place.relative_to(folder), len(places)): sorted(slices)
             for case, places in found.items() for place, slices in places.items()}  # fmt: skip
    return {name: named[name] for name in sorted(named)}, left_over


def _case_name(case: str, place: Path, places: int) -> str:
    """A case's name; where there are several `places` with one of that name, after its folder."""
    folders = place.parent if place.name == case else place
    return "_".join((*folders.parts, case)) if places > 1 else case


def find_case(
    folder: str | Path, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> Case:
    """The one case whose files a folder holds, with or without labels.

    Raises InputError when a modality is missing, has several files, or there are several cases.
    """
    folder = Path(folder)
    found = _files_by_case(folder, channels, patterns, deep=False)
    if len(found) > 1:
        raise InputError(f"{folder} holds {len(found)} cases; give a folder with one")
    if not found:
        raise InputError(f"{folder} holds no NIfTI file that is named as a modality")
    return _case(folder.resolve().name, *found.values(), channels, folder)


def _files_by_case(folder: Path, channels, patterns, deep: bool = True) -> dict[str, dict]:
    """{case: {modality: [files]}} of a folder, or of a whole tree where `deep`."""
    by_case: dict[str, dict] = {}
    folders = sorted(p for p in folder.rglob("*") if p.is_dir()) if deep else []
    for place in (folder, *folders):
        files = [p for p in sorted(place.iterdir()) if p.name.lower().endswith(SCANS)]
        named = [(*kind_of(p.name, channels, patterns), p) for p in files]
        named = [(kind, rest, path) for kind, rest, path in named if kind and path.name[0] != "."]
        kinds = [kind for kind, _, _ in named]
        together = len(set(kinds)) == len(kinds) or patterns
        for kind, rest, path in named:
            name = place.resolve().name if together else rest
            by_case.setdefault(name, {}).setdefault(kind, []).append(path)
    return by_case


def _case(name: str, found: dict[str, list[Path]], needed: Sequence[str], folder: Path) -> Case:
    """A Case of the files found; InputError for one that is missing or there several times."""
    for kind in needed:
        if kind not in found:
            there = ", ".join(found) or "nothing"
            raise InputError(f"{folder}: no {kind} volume in {name}, only {there}")
    for kind in (*needed, LABELS):
        if len(files := found.get(kind, [])) > 1:
            several = ", ".join(path.name for path in files)
            raise InputError(f"{folder}: several {kind} volumes in {name} ({several})")
    files = {kind: found[kind][0] for kind in needed if kind != LABELS}
    return Case(name, files, found.get(LABELS, [None])[0])


# ---------------------------------------------------------------- reading


def read_case(case: Case) -> tuple[Volume, np.ndarray]:
    """The grid of a case (the Volume of its first modality) and all modalities (X, Y, Z, C).

    float32, as stored, in canonical orientation. Raises InputError for a file that cannot be read
    or lies on another grid, and for one that shows nothing.
    """
    from volume import check_grid, read_volume

    scans = [read_volume(path, is_hu=False) for path in case.files.values()]
    for scan in scans:
        check_grid(scan.hu.shape, scan.affine, scan.path, scans[0], "register them to one grid")
        if scan.hu.min() == scan.hu.max():
            raise InputError(f"{scan.path} shows nothing: all voxels are {scan.hu.min()}")
    return scans[0], np.stack([scan.hu.astype(np.float32) for scan in scans], -1)
