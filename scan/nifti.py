"""NIfTI files: scans, masks and labels in, masks and scans out on the scan's own grid.

scan = read_nifti(path, position, is_hu)              # usually by scan.read.read_volume
labels = read_labels("labels.nii.gz", scan)           # canonical, the grid checked
write_mask(mask, scan, "mask.nii.gz")
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib

from common.errors import InputError, replacing
from scan.hu import AIR
from scan.mask import to_one_label
from scan.nib import nib
from scan.volume import Volume, check_affine, check_grid, make_affine, to_source_order, to_volume

DAMAGED = (OSError, EOFError, ValueError, zlib.error)
# nibabel raises these for a file that is no image, or a damaged one
UNREADABLE = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, *DAMAGED)
AS_HFS = (
    "the header says nothing of the orientation: taken as HFS (columns to the patient's left, "
    "rows to the back, slices to the head)"
)


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
    image = load_nifti(Path(path))
    affine, _ = orient(image, path, volume.position if volume else None)
    orientation = nib.io_orientation(affine)
    drawn = nib.apply_orientation(load_values(image, path), orientation)
    if volume is not None:
        affine = affine @ nib.orientations.inv_ornt_aff(orientation, image.shape[:3])
        check_grid(drawn.shape, affine, path, volume, "give the mask that was drawn on this scan")
    return drawn


def read_nifti(path: Path, position: str | None, is_hu: bool) -> Volume:
    """Read a NIfTI scan; arguments and errors as in `scan.read.read_volume`."""
    image = load_nifti(path)
    affine, notes = orient(image, path, position)
    name = path.name[: path.name.lower().rindex(".nii")]
    header, values = image.header.copy(), load_values(image, path)
    lying = None if has_orientation(header) else position or "HFS"
    return to_volume(values, affine, header, name, path, notes, position=lying, is_hu=is_hu)


def has_orientation(header: nib.Nifti1Header) -> bool:
    """Whether a header has an sform or a qform."""
    return bool(header["sform_code"] or header["qform_code"])


def load_nifti(path: Path) -> nib.Nifti1Image:
    """The image unread; InputError unless it is one 3-D volume of real numbers."""
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except UNREADABLE as error:
        raise InputError(f"{path} is no readable NIfTI image; export it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path} is no NIfTI image; convert it to .nii.gz")
    shape = image.shape
    if 0 in shape or len(shape) < 3:
        kind = "has an axis of no voxels" if 0 in shape else f"is {len(shape)}-D, not a 3-D scan"
        raise InputError(f"{path} {kind} (shape {shape}); give a 3-D scan")
    if (count := math.prod(shape[3:])) > 1:
        raise InputError(f"{path} holds {count} volumes (shape {shape}); give one volume alone")
    if image.get_data_dtype().kind not in "iufb":
        kind = "colour" if image.get_data_dtype().fields else "complex"
        raise InputError(f"{path} holds {kind} voxels, not HU; give the scan itself")
    return image


def load_values(image: nib.Nifti1Image, path: str | Path) -> np.ndarray:
    """(I, J, K) values in the source's order, integers where it stores integers unscaled."""
    try:
        compressed = Path(path).name.lower().endswith(".gz")
        array = inflate(image, path) if compressed else image.dataobj.get_unscaled()
    except (*DAMAGED, isal_zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged; copy or export it again") from error
    except MemoryError as error:
        shape = " x ".join(map(str, image.shape[:3]))
        raise InputError(f"{path} is larger than memory: its header says {shape}") from error
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if (slope, intercept) != (1, 0):
        array = array.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
    return array.reshape(image.shape[:3], order="F")


def inflate(image: nib.Nifti1Image, path: str | Path) -> np.ndarray:
    """The stored voxels of a .nii.gz, at twice the speed of zlib and without a second copy."""
    array = np.empty(image.shape, image.dataobj.dtype, order="F")
    left = memoryview(array.reshape(-1, order="F").view(np.uint8))
    with igzip.open(path) as file:
        file.read(image.dataobj.offset)
        while left:
            count = file.readinto(left[: 1 << 20])
            if not count:
                raise EOFError("fewer voxels than the header says")
            left = left[count:]
        file.read(1)  # past the end the checksum is verified
    return array


def orient(image: nib.Nifti1Image, path: str | Path, position: str | None):
    """The source's affine and notes; without sform and qform it follows from `position`."""
    header, notes = image.header, []
    affine = image.affine.astype(float)
    if not header["sform_code"]:
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            stored = type(header).from_fileobj(file, check=False)  # checked, 0 mm would be 1 mm
        if not (np.abs(stored["pixdim"][1:4]) > 0).all():
            raise InputError(f"{path} says voxels of no size (pixdim 0); repair its header")
    if not has_orientation(header):
        if position is None:
            notes.append(AS_HFS)
        affine = make_affine(position or "HFS", header.get_zooms()[:3], image.shape)
    check_affine(affine, image.shape, path)
    return affine, notes


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
    hu, limits = volume.hu, np.iinfo(np.int16)
    if hu.dtype != np.int16:
        hu = np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)
    write_nifti(to_source_order(hu, volume), (0, 0), volume, path)


def write_brain(mask: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write the scan with everything outside its canonical mask (X, Y, Z) set to air, HU, NIfTI.

    On the scan's own grid as `write_mask` does; int16 or float32, as `volume.hu`.
    Raises InputError when `path` cannot be written.
    """
    brain = np.full_like(volume.hu, AIR)
    np.copyto(brain, volume.hu, where=mask)
    write_nifti(to_source_order(brain, volume), (0, 0), volume, path)


def write_nifti(data: np.ndarray, shown: tuple, volume: Volume, path: str | Path) -> None:
    """Write an array in the source's order under the source's header, freed of texts."""
    header = volume.header.copy()
    header.set_data_shape(data.shape)
    header.set_data_dtype(data.dtype)
    header["cal_min"], header["cal_max"] = shown
    header.set_slope_inter(1, 0)
    header.extensions.clear()  # these and the texts may name the patient
    for text in {"descrip", "aux_file", "db_name", "intent_name"} & set(header.keys()):
        header[text] = b""
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = kind(data, None, header).to_bytes()
    with replacing(path) as temporary:
        compressed = temporary.name.lower().endswith(".gz")
        temporary.write_bytes(igzip.compress(content, mtime=0) if compressed else content)
