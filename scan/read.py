"""Reading scans, of whichever kind the files are: add a reader here.

volume = read_volume("scan.nii.gz")                   # or DICOM: a folder, a .zip, one file
scan, image = read_case(case)                         # (X, Y, Z, C) of an MRI's modalities
hu, notes = read_slice("slice.dcm")                   # where has_no_place("slice.dcm")
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError
from scan.cases import SCANS, Case, get_stem, has_ending
from scan.dicom import has_no_place, read_dicom, read_slice
from scan.nifti import read_labels, read_mask
from scan.stored import load_stored
from scan.volume import POSITIONS, Volume, check_grid, to_volume

__all__ = ["has_no_place", "read_case", "read_labels", "read_mask", "read_slice", "read_volume"]


def read_volume(
    path: str | Path,
    position: str | None = None,
    series: int | None = None,
    is_hu: bool = True,
    number: int | None = None,
) -> Volume:
    """Read a file of SCANS, a DICOM folder tree or .zip, or the series of a DICOM file.

    Of several DICOM series, the head CT is taken, or the one numbered `series`. Of a 4-D file, the
    volume `number` is taken, from 1.

    `position` (a key of POSITIONS) says how the array of a file without orientation lies. Such an
    array is taken as a scanner shows it: first axis to the picture's right, second down, third
    along the table, a right-handed set; HFS then means columns to the patient's left, rows to the
    back, slices to the head. Where the header says an orientation, it is followed.

    The values of a file that holds no HU (not `is_hu`), such as MRI, are kept, except that NaN and
    infinite ones become 0. Raises InputError for anything that is no 3-D scan.
    """
    path = Path(path)
    if position is not None and position not in POSITIONS:
        raise InputError(f"position {position!r} is unknown; choose of {', '.join(POSITIONS)}")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy or export it again")
    if path.is_dir() or not has_ending(path, (*SCANS, ".img")):
        if number is not None:
            raise InputError(f"{path} has no volumes to choose of; leave --volume out")
        return read_dicom(path, series, is_hu)
    if series is not None:
        raise InputError(f"{path} is no DICOM and has no series to choose of; leave --series out")
    stored = load_stored(path, position, number)
    about = stored.header, get_stem(path), path, stored.notes
    return to_volume(stored.array, stored.affine, *about, position=stored.position, is_hu=is_hu)


def read_case(case: Case) -> tuple[Volume, np.ndarray]:
    """The grid of a case (the Volume of its first modality) and all modalities (X, Y, Z, C).

    float32, as stored, in canonical orientation. Raises InputError for a file that cannot be read,
    lies on another grid, or shows nothing.
    """
    scans = [read_volume(path, is_hu=False) for path in case.files.values()]
    for scan in scans:
        check_grid(scan.hu.shape, scan.affine, scan.path, scans[0], "register them to one grid")
        if scan.hu.min() == scan.hu.max():
            raise InputError(f"{scan.path} shows nothing: all voxels are {scan.hu.min()}")
    return scans[0], np.stack([scan.hu.astype(np.float32) for scan in scans], -1)
