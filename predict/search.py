"""A tree of folders, searched for inputs by the names in it: scans, pictures, DICOM studies, cases.

    folders = list(walk(Path("archive"), has_dicom))
    studies = find_studies(folders)

Names come first: of a folder's files at most a few are opened, to see whether they are DICOM.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import warn
from predict.result import absolute, is_result
from scan.cases import PICTURES, SCANS, has_ending, is_dicom_folder


@dataclass(frozen=True)
class Folder:
    """A folder and its visible files, sorted. A folder that is called like a scan counts as a file.

    is_whole: the folder is one input as a whole, with all that lies below it.
    """

    path: Path
    files: list[Path]
    is_whole: bool


def walk(
    folder: Path,
    is_whole: Callable[[Sequence[Path]], bool],
    out: Path | None = None,
    above: tuple[Path, ...] = (),
) -> Iterator[Folder]:
    """Yield a folder and the folders below it, each before those in it.

    `is_whole` says of a folder's files whether the folder is one input; nothing below it is
    searched then. Left out are hidden folders, results, `out`, and links to a folder in which they
    lie, `above` the folder. A folder that cannot be read is left out with a warning.
    """
    try:
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=get_name)
    except OSError:
        warn(f"{folder}: no permission to look into it; left out")
        return
    files, below, above = [], [], (*above, folder)
    for entry in visible:
        path = folder / entry.name
        if not is_folder(entry) or is_called_like_file(path):
            files.append(path)
        elif not is_useless(path, out) and not (entry.is_symlink() and is_loop(path, above)):
            below.append(path)
    whole = is_whole(files)
    yield Folder(folder, files, whole)
    for path in () if whole else below:
        yield from walk(path, is_whole, out, above)


def get_name(entry: os.DirEntry) -> str:
    """The key by which a folder's entries are sorted."""
    return entry.name


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; False for a link that leads in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_called_like_file(folder: Path) -> bool:
    """Whether a folder stands for the file in it, as some archives unpack: X.nii/any.nii."""
    return has_ending(folder, (*SCANS, *PICTURES)) and not is_dicom_folder(folder)


def is_useless(folder: Path, out: Path | None) -> bool:
    """Whether a folder holds results, or what a Mac adds to archives."""
    is_out = out is not None and absolute(folder) == absolute(out)
    return is_out or folder.name == "__MACOSX" or is_result(folder)


def is_loop(link: Path, above: Sequence[Path]) -> bool:
    """Whether a link leads to one of the folders through which it was reached, or above one."""
    target = link.resolve()
    return any(folder.resolve().is_relative_to(target) for folder in above)


def find_studies(folders: Sequence[Folder]) -> list[Path]:
    """The folders that each hold one DICOM study, of the folders of a tree as `walk` yields them.

    Folders of several series are one input where all are of one study: the folder above them.
    """
    found: dict[Path, list[Path]] = {}
    for folder in reversed(folders):  # those below come before those above
        below = found.pop(folder.path, [])
        here = [folder.path] if folder.is_whole else below
        if len(here) > 1 and are_of_one_study(here):
            here = [folder.path]
        found.setdefault(folder.path.parent, []).extend(here)
    return [path for paths in found.values() for path in reversed(paths)]


def are_of_one_study(folders: Sequence[Path]) -> bool:
    """Whether the first DICOM images of all folders name the same study."""
    from scan.dicom_files import read_study_uid  # a picture need not wait for DICOM

    first = read_study_uid(folders[0])
    return bool(first) and all(read_study_uid(folder) == first for folder in folders[1:])
