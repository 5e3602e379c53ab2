"""Which files belong together by their names: a scan and its mask, the modalities of a case.

    pairs, left_over = find_pairs("scans", "masks")
    case = find_case("BraTS2021_00000", ["flair", "t1ce"])

Names are those of the BraTS challenges of 2012 to 2024 and of data that follow them, in any letter
case and with any separators: `x_flair`, `x-t2f`, `Flair_subtrMeanDivStd`; `x_t1ce`, `x-t1c`, `T1c`,
`x_T1GD`; `x_seg`, `x-seg`, `OTMultiClass`. Other names are given as patterns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common.errors import InputError

SCANS = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_NAME = re.compile(r"[_-](brain[_-]?)?(roi|mask|seg|segmentation|label)$")
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
VISIT = re.compile(r"(BraTS-[A-Z]+-\d+|UPENN-GBM-\d+)[-_]\d+|(sub-[A-Z\d]+)_ses-.+", re.I)

Pairs = list[tuple[str, Path, Path]]  # (case, scan, mask)


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


def list_scans(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The folder's files with one of `endings` and its DICOM folders; or itself, if it is one."""
    if folder.is_file() or is_dicom_folder(folder):
        return [folder]
    return [p for p in list_visible(folder) if has_ending(p, endings) or is_dicom_folder(p)]


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


# ---------------------------------------------------------------- a scan and its mask


def find_pairs(
    scans: str | Path, masks: str | Path | None = None, endings: Sequence[str] = SCANS
) -> tuple[Pairs, list[str]]:
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
            return [(get_stem(scans), scans, masks)], []
        masks = masks or scans.parent
        others = [path for path in list_scans(masks, endings) if path != scans]
        pairs, left_over = match_names([scans], others)[0], []
    else:
        if masks is None:
            scans, masks = split_folder(scans)
        pairs, left_over = match_names(*list_scans_and_masks(scans, masks, endings))
    if not pairs:
        raise InputError(
            f"found no mask in {masks} for {scans}; name them X.nii.gz and X_mask.nii.gz, "
            "or give the masks' folder as second argument"
        )
    return pairs, left_over


def list_scans_and_masks(scans: Path, masks: Path, endings: Sequence[str]) -> tuple[list, list]:
    """Files of the two folders; those of one folder are told apart by their names."""
    files = list_scans(scans, endings)
    if scans != masks:
        return files, list_scans(masks, endings)
    mask_files = [file for file in files if MASK_NAME.search(get_stem(file).lower())]
    return [file for file in files if file not in mask_files], mask_files


def find_masks(files: Sequence[Path]) -> list[Path]:
    """The files whose names make them masks of others among them: X_mask.nii.gz beside X.nii.gz."""
    names = [get_stem(file).lower() for file in files]
    found = zip(files, names, strict=True)
    return [f for f, n in found if MASK_NAME.search(n) and MASK_NAME.sub("", n) in names]


def match_names(scans: list[Path], masks: list[Path]) -> tuple[Pairs, list[str]]:
    """Pairs of one name, and a line for every file that has no partner or more than one."""
    by_name: dict[str, list[Path]] = {}
    for mask in masks:
        name = get_stem(mask).lower()
        for key in {name, MASK_NAME.sub("", name)}:
            by_name.setdefault(key, []).append(mask)
    names = [get_stem(scan).lower() for scan in scans]
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
            pairs.append((get_stem(scan), scan, found[0]))
    used = {m for name in names for m in by_name.get(name, [])}
    left_over += [f"{mask}: no scan of that name; left out" for mask in masks if mask not in used]
    return pairs, left_over


def split_folder(folder: Path) -> tuple[Path, Path]:
    """(images, masks) inside `folder`, or the folder twice where it holds no such pair."""
    folders = [p for p in list_visible(folder) if p.is_dir()]
    masks = [p for p in folders if re.search("mask|roi|seg|label", p.name.lower())]
    others = [p for p in folders if p not in masks]
    images = [p for p in others if re.search("image|img|scan|ct", p.name.lower())] or others
    if len(images) == len(masks) == 1:
        return images[0], masks[0]
    return folder, folder


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


# ---------------------------------------------------------------- cases of slices in pictures


def find_picture_cases(
    folder: str | Path,
) -> tuple[dict[str, list[tuple[int, Path, Path]]], list[str]]:
    """Slices with masks in and below a folder, {case: [(index, image, mask), …]}, and a line on
    each file left over.

    X_12.tif with X_12_mask.tif is slice 12 of the case X, as in the LGG set (Buda et al., Computers
    in Biology and Medicine 109 (2019)); without a number, the case is the folder. Where several
    folders hold a case of one name, their names are added. Pairs as `find_pairs`. Raises InputError
    when there is none.
    """
    found: dict[tuple[str, Path], list] = {}
    left_over = []
    for below in list_tree(folder):
        if not any(has_ending(p, PICTURES) for p in below.iterdir()):
            continue
        pairs, lines = match_names(*list_scans_and_masks(below, below, PICTURES))
        left_over += lines
        for name, image, mask in pairs:
            case, _, number = name.rpartition("_")
            case = case if case and number.isdigit() else below.resolve().name
            slices = found.setdefault((case, below), [])
            index = int(number) if number.isdigit() else len(slices)
            if index in (other for other, *_ in slices):
                left_over.append(f"{image}: another slice of {case} has its number; left out")
            else:
                slices.append((index, image, mask))
    if not found:
        raise InputError(f"found neither NIfTI cases nor slices with masks in {folder}")
    several = Counter(case for case, _ in found)
    named = {}
    for (case, below), slices in found.items():
        parts = below.relative_to(folder).parts
        parts = parts[:-1] if parts[-1:] == (case,) else parts
        named["_".join((*parts, case)) if several[case] > 1 else case] = sorted(slices)
    return dict(sorted(named.items())), left_over
