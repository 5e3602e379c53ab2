"""Masks and labels in; masks and scans out, as NIfTI files on the scan's own grid.

labels = read_labels("labels.nii.gz", scan)           # canonical, the grid checked
write_mask(mask, scan, "mask.nii.gz")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from isal import igzip

from common.errors import InputError, replacing
from scan.hu import AIR
from scan.mask import to_one_label
from scan.nib import nib
from scan.stored import load_stored
from scan.volume import Volume, check_grid, to_source_order

# ---------------------------------------------------------------- reading


def read_mask(path: str | Path, volume: Volume | None = None) -> np.ndarray:
    """Read a NIfTI mask as (X, Y, Z) bool in canonical orientation, as `read_noted_mask` does."""
    return read_noted_mask(path, volume)[0]


def read_noted_mask(
    path: str | Path, volume: Volume | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a NIfTI mask of one label as (X, Y, Z) bool in canonical orientation, and notes on it.

    Raises InputError when its shape or affine is not that of `volume` (to a tenth of a voxel), and
    for several labels.
    """
    return to_one_label(read_drawn(path, volume), path)


def read_labels(path: str | Path, volume: Volume | None = None) -> np.ndarray:
    """Read a NIfTI label volume as (X, Y, Z) uint8 in canonical orientation.

    Raises InputError as `read_mask` does, and for values other than 0, 1, … 255.
    """
    labels = read_drawn(path, volume)
    whole = np.rint(labels)
    if not (np.abs(labels - whole) < 1e-3).all() or whole.min() < 0 or whole.max() > 255:
        raise InputError(f"{path} is no label volume: its values are not all of 0, 1, … 255")
    return whole.astype(np.uint8)


def read_drawn(path: str | Path, volume: Volume | None) -> np.ndarray:
    """What was drawn on `volume`, (X, Y, Z) in canonical orientation, its grid checked."""
    stored = load_stored(path, volume.position if volume else None)
    orientation = nib.io_orientation(stored.affine)
    drawn = nib.apply_orientation(stored.array, orientation)
    if volume is not None:
        turned = nib.orientations.inv_ornt_aff(orientation, stored.array.shape)
        advice = "give the mask that was drawn on this scan"
        check_grid(drawn.shape, stored.affine @ turned, path, volume, advice)
    return drawn


# ---------------------------------------------------------------- writing


def write_mask(mask: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write a canonical mask (X, Y, Z) on the scan's own grid, or not at all.

    It is bool, or uint8 labels, and becomes uint8 NIfTI. This is quickest where it lies in memory
    as the scan does (np.zeros_like(volume.hu, bool)). Shape, affine, sform and qform codes and
    zooms are the scan's (those of a DICOM series as dcm2niix stores it). The same mask gives the
    same bytes. Raises InputError when `path` cannot be written.
    """
    array = to_source_order(mask, volume)
    array = array.view(np.uint8) if array.dtype == bool else array.astype(np.uint8, copy=False)
    write_nifti(array, (0, max(1, int(array.max()))), volume, path)


def write_scan(volume: Volume, path: str | Path) -> None:
    """Write the scan as it was understood, in whole HU as int16 NIfTI, on its own grid.

    Raises InputError when `path` cannot be written.
    """
    write_nifti(*to_whole(volume), volume, path)


def pack_scan(volume: Volume) -> bytes:
    """The file that `write_scan` writes, not compressed."""
    return to_nifti(*to_whole(volume), volume)


def to_whole(volume: Volume) -> tuple[np.ndarray, tuple]:
    """A scan in whole HU, int16, in its source's order; the limits of the window, 0 for none."""
    hu, limits = volume.hu, np.iinfo(np.int16)
    if hu.dtype != np.int16:
        hu = np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)
    return to_source_order(hu, volume), (0, 0)


def write_brain(mask: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write the scan with everything outside its canonical mask (X, Y, Z) set to air, HU, NIfTI.

    On the scan's own grid as `write_mask` does; int16 or float32, as `volume.hu`.
    Raises InputError when `path` cannot be written.
    """
    brain = np.full_like(volume.hu, AIR)
    np.copyto(brain, volume.hu, where=mask)
    write_nifti(to_source_order(brain, volume), (0, 0), volume, path)


def write_map(parts: Sequence[np.ndarray], volume: Volume, path: str | Path, most: float) -> None:
    """Write canonical maps (X, Y, Z), from 0 to `most`, as float32 NIfTI on the scan's own grid.

    One is a volume of three dimensions; of several, each is a volume of the fourth.
    Raises InputError when `path` cannot be written.
    """
    arrays = [to_source_order(part, volume).astype(np.float32, copy=False) for part in parts]
    data = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
    write_nifti(data, (0, most), volume, path)


def write_nifti(data: np.ndarray, shown: tuple, volume: Volume, path: str | Path) -> None:
    """Write an array in the source's order under the source's header, freed of texts."""
    content = to_nifti(data, shown, volume)
    with replacing(path) as temporary:
        compressed = temporary.name.lower().endswith(".gz")
        temporary.write_bytes(igzip.compress(content, mtime=0) if compressed else content)


def to_nifti(data: np.ndarray, shown: tuple, volume: Volume) -> bytes:
    """What a NIfTI file of an array holds, under the source's header without its texts."""
    header = volume.header.copy()
    header.set_data_shape(data.shape)
    header.set_data_dtype(data.dtype)
    if data.ndim > 3:
        header["pixdim"][4] = 1  # ITK refuses a step of 0, which a scan's header may have there
    header["cal_min"], header["cal_max"] = shown
    header.set_slope_inter(1, 0)
    header.extensions.clear()  # these and the texts may name the patient
    for text in {"descrip", "aux_file", "db_name", "intent_name"} & set(header.keys()):
        header[text] = b""
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(data, None, header).to_bytes()
