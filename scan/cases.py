"""Files and folders of scans; which files are the modalities of a case, by their names.

    case = find_case("BraTS2021_00000", ["flair", "t1ce"])

Names are those of the BraTS challenges of 2012 to 2024 and of data that follow them, in any letter
case and with any separators: `x_flair`, `x-t2f`, `Flair_subtrMeanDivStd`; `x_t1ce`, `x-t1c`, `T1c`,
`x_T1GD`; `x_seg`, `x-seg`, `OTMultiClass`. Other names are given as patterns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common.errors import InputError

SCANS = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SEG = "seg"  # the label volume, among the modalities
# How a file's name may spell a modality
SPELLINGS = {
    "flair": ("t2_flair", "t2flair", "flair", "t2f"),
    "t1ce": ("t1_ce", "t1_gd", "t1_post", "t1post", "t1ce", "t1gd", "t1c"),
    "t1": ("t1", "t1n", "t1w"),
    "t2": ("t2", "t2w"),
    SEG: ("seg", "segm", "segmentation", "otmulticlass", "ot", "gt", "label", "labels"),
}
# Visits of one patient must not be torn apart by a split
VISIT = re.compile(
    r"(BraTS-[A-Z-]+-\d+|UPENN-GBM-\d+|UCSD-PTGBM-\d+)[-_]\d+|(sub-[A-Z\d]+)_ses-.+", re.I
)


@dataclass(frozen=True)
class Case:
    """The files of one case: modality -> file, in the order asked for; labels where there are."""

    name: str
    files: dict[str, Path]
    labels: Path | None = None

    @property
    def patient(self) -> str:
        """The patient, as `find_patient`."""
        return find_patient(self.name)


def find_patient(case: str) -> str:
    """The patient of a case, where its name also tells the visit; else the case."""
    found = VISIT.fullmatch(case)
    return next(filter(None, found.groups())) if found else case


# ---------------------------------------------------------------- files and folders


def get_stem(path: str | Path) -> str:
    """A file's name without its ending (.nii.gz counts as one)."""
    name = Path(path).name
    ending = next((e for e in SCANS + PICTURES if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    """Whether a file's name has one of the endings, in any letter case."""
    return path.name.lower().endswith(tuple(endings))


def list_visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden files."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def list_tree(folder: str | Path) -> list[Path]:
    """A folder and all folders below it, sorted; InputError where it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    return [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]


def open_folder(path: Path) -> Path:
    """The file in a folder that is called like a file, as some archives unpack: X.nii/any.nii.

    Other paths stay as they are. Raises InputError for a folder with none or several such files.
    """
    if not path.is_dir() or get_stem(path) == path.name or is_dicom_folder(path):
        return path
    files = [p for p in list_visible(path) if p.is_file() and has_ending(p, SCANS + PICTURES)]
    if len(files) == 1:
        return files[0]
    raise InputError(f"{path} is a folder that is called like a file; put one file into it")


def is_dicom_folder(folder: Path) -> bool:
    """Whether there are DICOM files in the folder itself."""
    return folder.is_dir() and any(map(is_dicom, folder.iterdir()))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or by its first bytes."""
    if not path.is_file() or has_ending(path, SCANS + PICTURES):
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except PermissionError:
        return False


# ---------------------------------------------------------------- cases of several modalities


def find_modality(
    name: str, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> tuple[str, str]:
    """(modality, the rest of the name) of a file's name; ("", name) where it says nothing.

    A channel that is no modality of BraTS is a word of its own. `patterns` are globs by modality,
    for other names: {"flair": "*_FL.nii.gz"}.
    """
    for kind, pattern in (patterns or {}).items():
        if fnmatch(name.lower(), pattern.lower()):
            return kind, ""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.I)
    plain = re.sub("[^a-z0-9]", "_", stem.lower())
    best = (0, 0, "", stem)
    spelled = {channel: (channel.lower(),) for channel in channels} | SPELLINGS
    for kind, spellings in spelled.items():
        for word in spellings:
            for found in re.finditer(f"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", plain):
                rest = stem[: found.start()].rstrip("_-. ") + stem[found.end() :]
                # the last word counts; of two that end there, the longer: t2_flair, not flair
                best = max(best, (found.end(), len(word), kind, rest))
    return best[2:]


def find_cases(
    folder: str | Path, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> tuple[list[Case], list[str]]:
    """The cases with all of `channels` and labels, in and below a folder, and a line on each other.

    A folder with one file a modality is a case of that folder's name; files of several cases in
    one folder are told apart by the rest of their names. Raises InputError when there is no case.
    """
    cases, left_over, needed = [], [], (*channels, SEG)
    for name, found in sorted(group_files(list_tree(folder), channels, patterns).items()):
        try:
            cases.append(make_case(name, found, needed, folder))
        except InputError as error:
            left_over.append(f"{error}; left out")
    if not cases:
        said = f" ({left_over[0]})" if left_over else ""
        raise InputError(
            f"found no case with {', '.join(channels)} and labels in {folder}{said}; name them as "
            f"BraTS does, or give --names {channels[0]}=GLOB … {SEG}=GLOB"
        )
    return cases, left_over


def find_case(
    folder: str | Path, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> Case:
    """The one case whose files a folder holds, with or without labels.

    Raises InputError when a modality is missing, has several files, or there are several cases.
    """
    folder = Path(folder)
    found = group_files([folder], channels, patterns)
    if len(found) > 1:
        raise InputError(f"{folder} holds {len(found)} cases; give a folder with one")
    if not found:
        raise InputError(f"{folder} holds no NIfTI file that is named as a modality")
    return make_case(folder.resolve().name, *found.values(), channels, folder)


def group_files(folders: list[Path], channels, patterns) -> dict[str, dict[str, list[Path]]]:
    """{case: {modality: [files]}} of the files in some folders."""
    by_case: dict[str, dict] = {}
    for folder in folders:
        files = [p for p in list_visible(folder) if has_ending(p, SCANS)]
        known = [(*find_modality(p.name, channels, patterns), p) for p in files]
        known = [found for found in known if found[0]]
        together = len({kind for kind, *_ in known}) == len(known) or patterns
        for kind, rest, path in known:
            name = folder.resolve().name if together else rest
            by_case.setdefault(name, {}).setdefault(kind, []).append(path)
    return by_case


def make_case(name: str, found: dict[str, list[Path]], needed: Sequence[str], folder) -> Case:
    """A Case of the files found; InputError for one that is missing or there several times."""
    for kind in needed:
        if kind not in found:
            there = ", ".join(found) or "nothing"
            raise InputError(f"{folder}: no {kind} volume in {name}, only {there}")
    for kind in (*needed, SEG):
        if len(files := found.get(kind, [])) > 1:
            several = ", ".join(path.name for path in files)
            raise InputError(f"{folder}: several {kind} volumes in {name} ({several})")
    files = {kind: found[kind][0] for kind in needed if kind != SEG}
    return Case(name, files, found.get(SEG, [None])[0])


def parse_names(given: Sequence[str]) -> dict[str, str]:
    """{modality: glob} of --names, as `find_case` takes them."""
    if not all(0 < text.find("=") < len(text) - 1 for text in given):
        raise InputError("--names takes MODALITY=GLOB, such as flair=*_FL.nii.gz")
    return dict(text.split("=", 1) for text in given)
