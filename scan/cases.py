"""Files and folders of scans; which files are the modalities of a case, by their names.

    case = find_case("BraTS2021_00000", ["flair", "t1ce"])

Names are those of the BraTS challenges of 2012 to 2024 and of data that follow them, in any letter
case and with any separators: `x_flair`, `x-t2f`, `Flair_subtrMeanDivStd`; `x_t1ce`, `x-t1c`, `T1c`,
`x_T1GD`; `x_seg`, `x-seg`, `OTMultiClass`. Other names are given as patterns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common.errors import InputError
from common.files import read_json
from scan.dicom_start import ENDINGS, begins_as_dicom, read_start

SCANS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
TEXTS = (".json", ".txt", ".csv", ".tsv", ".xml")  # which lie beside scans
SEG = "seg"  # the label volume, among the modalities
OTHER = "other"  # an image or a mask that is none of the modalities
# How a file's name may spell a modality
SPELLINGS = {
    "flair": ("t2_flair", "t2flair", "flair", "t2f"),
    "t1ce": (
        *("t1_ce", "t1_gd", "t1_post", "t1_contrast", "t1post", "t1ce", "t1gd", "t1c", "t1km"),
        *("t1w_ce", "t1w_gd", "t1w_post", "ce_t1w", "gd_t1w", "post_t1w", "gadolinium_t1w"),
    ),
    "t1": ("t1", "t1n", "t1w", "t1pre", "t1_pre", "t1_native"),
    "t2": ("t2", "t2w"),
    SEG: (
        *("seg", "segm", "segmentation", "otmulticlass", "ot", "gt", "label", "labels", "dseg"),
        *("tumor_seg", "tumor_segmentation", "brats_tumor_seg", "tumor_mask", "tumormask"),
        *("glistrboost_manuallycorrected", "manuallycorrected", "gtv"),
    ),
    OTHER: (
        *("bias", "glistrboost", "brain_mask", "brain_seg", "brain_segmentation"),
        "brain_parenchyma_segmentation",
    ),
}
# Visits of one patient must not be torn apart by a split
VISIT = re.compile(
    r"(BraTS-[A-Z-]+-\d+|UPENN-GBM-\d+|UCSD-PTGBM-\d+)[-_]\d+|(sub-[A-Z\d]+)_ses-.+"
    r"|(.+?)[-_](?:timepoint|visit|session)[-_]?\d+",
    re.I,
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
    ending = next((e for e in (*SCANS, ".img", *PICTURES) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    """Whether a file's name has one of the endings, in any letter case."""
    return path.name.lower().endswith(tuple(endings))


def list_visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden files."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def list_tree(folder: str | Path) -> list[Path]:
    """A folder and all folders below it, sorted, but for those that are called like scans.

    Raises InputError where it is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    below = (p for p in folder.rglob("*") if p.is_dir() and not has_ending(p, SCANS))
    return [folder, *sorted(below)]


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
    return folder.is_dir() and has_dicom(sorted(folder.iterdir()))


def has_dicom(files: Iterable[Path]) -> bool:
    """Whether some of a folder's files are DICOM.

    Texts are not opened, and of other files of one ending only the first; a number is no ending.
    """
    opened = set()
    for file in files:
        ending = file.suffix.lower().strip(".0123456789")
        known = has_ending(file, (*SCANS, *PICTURES, *TEXTS))
        if known or ending in opened and not has_ending(file, ENDINGS):
            continue
        if is_dicom(file):
            return True
        opened.update([ending] if ending else [])
    return False


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or by its first bytes."""
    if has_ending(path, SCANS + PICTURES) or not path.is_file():
        return False
    if has_ending(path, ENDINGS):
        return True
    return path.name.upper() != "DICOMDIR" and begins_as_dicom(read_start(path))


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
            return kind, find_free(name, pattern)
    stem = get_stem(name)
    plain = re.sub("[^a-z0-9]", "_", stem.lower())
    best = (0, 0, "", stem)
    spelled = {channel: (channel.lower(),) for channel in channels} | SPELLINGS
    for kind, spellings in spelled.items():
        for word in (word for word in spellings if word in plain):
            for found in re.finditer(f"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", plain):
                rest = stem[: found.start()].rstrip("_-. ") + stem[found.end() :]
                # the last word counts; of two that end there, the longer: t2_flair, not flair
                best = max(best, (found.end(), len(word), kind, rest))
    return best[2:]


def find_free(name: str, pattern: str) -> str:
    """What the stars of a glob stand for in a scan's name; "" where that is unclear."""
    start = pattern.rstrip("*")
    wanted = get_stem(start) if has_ending(Path(start), SCANS) else pattern
    exact = "(.*)".join(map(re.escape, wanted.split("*")))
    found = re.fullmatch(exact, get_stem(name), flags=re.I)
    return "".join(found.groups()).rstrip("_-. ") if found else ""


def find_cases(
    folder: str | Path, channels: Sequence[str], patterns: dict[str, str] | None = None
) -> tuple[list[Case], list[str]]:
    """The cases with all of `channels` and labels, in and below a folder, and a line on each other.

    A folder with one file a modality is a case of that folder's name; files of several cases in
    one folder are told apart by the rest of their names. Raises InputError when there is no case.
    """
    cases, left_over, needed = [], [], (*channels, SEG)
    folders = list_tree(folder)
    groups = group_files(folders, channels, patterns or read_nnunet_channels(Path(folder)))
    lone = [path for found in groups.values() if set(found) == {SEG} for path in found[SEG]]
    for name, found in sorted(groups.items()):
        try:
            cases.append(make_case(name, found, needed, folder))
        except InputError as error:
            advice = propose_name(name, found, needed, lone)
            left_over.append(f"{error}{advice}; left out")
    if not cases:
        said = left_over[0] if left_over else tell_files(folders)
        raise InputError(
            f"found no case with {', '.join(channels)} and labels in {folder} ({said}); name them "
            f"as BraTS does, or give --names {channels[0]}=GLOB … {SEG}=GLOB"
        )
    return cases, left_over


def find_channels(folder: str | Path) -> list[str]:
    """The modalities of BraTS that every case with labels in and below a folder has; [] without a
    case, as in a folder of CT."""
    if not Path(folder).is_dir():
        return []
    groups = group_files(list_tree(folder), (), {}).values()
    found = [set(files) - {SEG} for files in groups if SEG in files and len(files) > 1]
    return [kind for kind in SPELLINGS if found and all(kind in files for files in found)]


def tell_files(folders: Sequence[Path]) -> str:
    """The first scans in some folders, in words, and a glob for the first of them."""
    paths = [p for folder in folders for p in list_visible(folder) if has_ending(p, SCANS)]
    if not paths:
        return "it holds no NIfTI file"
    names = [path.name for path in paths]
    more = " …" * (len(names) > 6)
    glob = make_glob(names[0], [path.name for path in paths if path.parent == paths[0].parent])
    return f"it holds {', '.join(names[:6])}{more}, so a GLOB may be '{glob}'"


def make_glob(name: str, others: Sequence[str]) -> str:
    """A glob for what a file's name has, and the names beside it have not: *_FL.nii.gz."""
    prefix = os.path.commonprefix([name, *others])
    prefix = prefix[: max(map(prefix.rfind, "_-. ")) + 1].rstrip("_-. ")
    return f"*{name[len(prefix) :]}" if prefix else name


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
        said = f"{folder} holds no NIfTI file that is named as a modality"
        raise InputError(f"{said} ({tell_files([folder])})")
    return make_case(folder.resolve().name, *found.values(), channels, folder)


def group_files(folders: list[Path], channels, patterns) -> dict[str, dict[str, list[Path]]]:
    """{case: {modality: [files]}} of the files in some folders, of which all lie in the first."""
    by_case: dict[str, dict] = {}
    for folder in folders:
        files = [p for p in list_visible(folder) if has_ending(p, SCANS) or is_dicom_folder(p)]
        known = [(*find_modality(p.name, channels, patterns), p) for p in files]
        if folder.name == "labelsTr":
            known = [(SEG, get_stem(path), path) for path in files]
        known = [found for found in known if found[0] not in ("", OTHER)]
        is_one = len({kind for kind, *_ in known}) == len(known) and folder.name not in NNUNET
        # one folder a modality, called like it: the case is the folder above
        is_part = len(known) == 1 and find_modality(folder.name, channels)[0] == known[0][0]
        whole = folder.resolve().parent if is_part else folder.resolve()
        for kind, rest, path in known:
            name = whole.name if is_one or not rest else rest
            by_case.setdefault(name, {}).setdefault(kind, []).append(path)
    for name, found in list(by_case.items()):
        # cases of one name in several folders
        if any(len({path.parent for path in paths}) > 1 for paths in found.values()):
            del by_case[name]
            for kind, path in ((kind, path) for kind, paths in found.items() for path in paths):
                parts = path.parent.relative_to(folders[0]).parts
                parts = parts[:-1] if name in parts[:-1] else parts
                whole = "_".join(parts if parts[-1:] == (name,) else (*parts, name))
                by_case.setdefault(whole, {}).setdefault(kind, []).append(path)
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
    files = {kind: open_folder(found[kind][0]) for kind in needed if kind != SEG}
    labels = found.get(SEG)
    return Case(name, files, open_folder(labels[0]) if labels else None)


def propose_name(name: str, found: dict[str, list[Path]], needed, lone: Sequence[Path]) -> str:
    """Which file beside a case's own may be the only one that it lacks, and what to do then.

    `lone` are label volumes that belong to no case.
    """
    missing = [kind for kind in needed if kind not in found]
    if len(missing) != 1 or set(found) == {SEG}:
        return ""
    kind, own = missing[0], [path for paths in found.values() for path in paths]
    folders = {path.parent for path in own}
    others = [p for f in folders for p in list_visible(f) if has_ending(p, SCANS)]
    others = [p.name for p in others if find_modality(p.name, needed)[0] in ("", OTHER)]
    if others:
        glob = make_glob(others[0], [path.name for path in own])
        more = f" (there are also {', '.join(others[1:4])})" if others[1:] else ""
        return f"; if {others[0]} is it, give --names '{kind}={glob}'{more}"
    lone = [path for path in lone if path.parent in folders]
    if kind == SEG and lone:
        file = lone[0].name
        return f"; if {file} is it, call it {name}_{SEG}{file[len(get_stem(file)) :]}"
    return ""


# nnU-Net and the Decathlon: folders of many cases, and the name that the labels' have
NNUNET = ("imagesTr", "imagesTs", "labelsTr", "labelsTs")


def read_nnunet_channels(folder: Path) -> dict[str, str]:
    """{modality: glob} that the dataset.json of nnU-Net gives; {} where there is none."""
    about = read_json(folder / "dataset.json")
    channels = about.get("channel_names", about.get("modality"))
    if "numTraining" not in about or not isinstance(channels, dict):
        return {}
    return {
        find_modality(str(name), ())[0] or str(name).lower(): f"*_{int(number):04d}.nii*"
        for number, name in channels.items()
        if str(number).isdecimal()
    }


def parse_names(given: Sequence[str]) -> dict[str, str]:
    """{modality: glob} of --names, as `find_case` takes them."""
    if not all(0 < text.find("=") < len(text) - 1 for text in given):
        raise InputError("--names takes MODALITY=GLOB, such as flair=*_FL.nii.gz")
    return dict(text.split("=", 1) for text in given)
