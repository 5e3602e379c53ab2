"""A 3-D scan: NIfTI or DICOM in, one canonical orientation in HU; masks out on the scan's own grid.

    volume = read_volume("scan.nii.gz")                   # or DICOM: a folder, a .zip, one file
    array, grid = straighten(volume.hu, volume, 1.5)      # 1.5 mm cubes, tilt and gaps undone
    for region in regions(grid, volume):                  # slabs of the scan's own voxels
        mask[region] = unstraighten(probability, grid, volume, region) > 0.5
    write_mask(mask, volume, "mask.nii.gz")

In memory a volume is RAS+ (nibabel's closest canonical). Straight coordinates are mm along the
volume's own orthonormal axes (`Grid.axes`): in them lie every grid of one volume and every `box`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cc3d
import cv2
import numpy as np
from isal import igzip, isal_zlib
from scipy import sparse

from errors import InputError, replacing

sys.modules.setdefault("pydicom", None)  # nibabel would load it, in 0.3 s, for what we do not use
import nibabel as nib  # noqa: E402
from nibabel import orientations  # noqa: E402

if sys.modules["pydicom"] is None:
    del sys.modules["pydicom"]
if TYPE_CHECKING:
    import dicom

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it says, our one line says
# Nothing is darker than air: padding, which lossy compression blurs, and all else below becomes AIR
AIR = -1024
# What scanners write outside their round field of view
PADDING = (-1500, -2000, -3024)
# Patient axes to which an array's columns (i), rows (j) and slices (k) run; PS3.3 C.7.3.1.1.2
POSITIONS = {
    "HFS": "LPS", "HFP": "RAS", "HFDR": "PRS", "HFDL": "ALS",
    "FFS": "RPI", "FFP": "LAI", "FFDR": "ARI", "FFDL": "PLI",
}  # fmt: skip
UNREADABLE = (  # what nibabel raises of a file that is no image, or a damaged one
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, EOFError,
    ValueError, zlib.error,
)  # fmt: skip
MOST = 1e6  # HU: what is more, as the largest float32, fills in for no number
BONE, BODY, BLANK = 250.0, -300.0, -950.0  # HU: bone is more, tissue is more, air is less
BARE, GONE = 0.5, 0.25  # of a slice's bone and of its tissue: more is missing in the next one
CURVED = 200.0  # mm: a head is no flatter, so its last slice no larger than 2 pi times that, by gap
LONGEST = 2500.0  # mm: no scanner's table is longer
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in canonical orientation, and what is needed to write back on its own grid.

    hu: (X, Y, Z) RAS+; int16 when the source's values are whole and fit, else float32. (Of MRI it
    holds what the file does.)
    affine: (4, 4) voxel of `hu` to RAS+ world mm, perhaps oblique or sheared.
    shifts: (slices, 3) world mm by which each slice lies off the affine (uneven gaps), or None.
    slice_axis: the axis of `hu` along which the source's slices are stacked.
    header, orientation: the source's NIfTI header and its nibabel orientation.
    position: the patient position taken because the header said nothing, else None.
    slices: of DICOM, which file and frame each source slice is, else None.
    """

    hu: np.ndarray
    affine: np.ndarray
    name: str
    path: Path
    notes: tuple[str, ...]
    header: nib.Nifti1Header
    orientation: np.ndarray
    slice_axis: int = 2
    shifts: np.ndarray | None = None
    position: str | None = None
    slices: tuple[dicom.Slice, ...] | None = None

    @property
    def spacing(self) -> np.ndarray:
        """(3,) voxel size in mm along the array's axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True, eq=False)
class Grid:
    """Cubes on a volume's own straight axes.

    axes: (3, 3) unit vectors in its columns, in RAS+ world; start: (3,) mm along them of the
    first voxel's centre; shape: voxels; spacing: mm.
    """

    axes: np.ndarray
    start: np.ndarray
    shape: tuple[int, int, int]
    spacing: float

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel of the grid to RAS+ world mm."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes * self.spacing
        affine[:3, 3] = self.axes @ self.start
        return affine

    @property
    def centres(self) -> list[np.ndarray]:
        """The voxel centres along each axis in mm, straight coordinates."""
        lines = zip(self.start, self.shape, strict=True)
        return [start + self.spacing * np.arange(count) for start, count in lines]

    def box(self, low, high) -> np.ndarray:
        """(2, 3) mm: the outer faces of voxels low .. high - 1, as `straighten` takes them."""
        return self.start + self.spacing * (np.array([low, high]) - 0.5)


# ---------------------------------------------------------------- reading


def read_volume(
    path: str | Path,
    position: str | None = None,
    series: int | None = None,
    is_hu: bool = True,
) -> Volume:
    """Read a NIfTI file, a DICOM folder tree or .zip, or the series to which a DICOM file belongs.

    Of several DICOM series the head CT is taken, or the one numbered `series` (dicom.list_series).

    `position` (a key of POSITIONS) says how the array of a file without orientation lies. Such an
    array is taken as a scanner shows it: first axis to the picture's right, second down, third
    along the table, a right-handed set; HFS then means columns to the patient's left, rows to the
    back, slices to the head. Where the header says an orientation, it is followed.

    Of a NIfTI file that holds no HU, such as MRI, each value stays what it is, but for what is no
    number, which becomes 0. Raises InputError for whatever is no 3-D scan.
    """
    path = Path(path)
    if position is not None and position not in POSITIONS:
        raise InputError(f"position {position!r} is unknown; choose of {', '.join(POSITIONS)}")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy or export it again")
    if path.is_dir() or not path.name.lower().endswith((".nii", ".nii.gz")):
        return _read_dicom(path, series)
    if series is not None:
        raise InputError(f"{path} is NIfTI and has no series to choose of; leave --series out")
    return _read_nifti(path, position, is_hu)


def read_mask(path: str | Path, volume: Volume | None = None) -> np.ndarray:
    """Read a NIfTI mask as (X, Y, Z) bool in canonical orientation.

    Raises InputError when its shape or affine is not that of `volume` (to a tenth of a voxel).
    """
    return _read_drawn(path, volume) > 0.5


def read_labels(path: str | Path, volume: Volume | None = None) -> np.ndarray:
    """Read a NIfTI label volume as (X, Y, Z) uint8 in canonical orientation.

    Raises InputError as `read_mask` does, and for values that are no whole numbers in 0 .. 255.
    """
    labels = _read_drawn(path, volume)
    whole = np.rint(labels)
    if not (np.abs(labels - whole) < 1e-3).all() or whole.min() < 0 or whole.max() > 255:
        raise InputError(f"{path} is no label volume: its values are not all of 0, 1, … 255")
    return whole.astype(np.uint8)


def _read_drawn(path: str | Path, volume: Volume | None) -> np.ndarray:
    """What was drawn on `volume`, (X, Y, Z) in canonical orientation, its grid checked."""
    image = _load_nifti(Path(path))
    affine, _ = _orient(image, path, volume.position if volume else None)
    orientation = nib.io_orientation(affine)
    drawn = nib.apply_orientation(_array(image, path), orientation)
    if volume is not None:
        affine = affine @ orientations.inv_ornt_aff(orientation, image.shape[:3])
        check_grid(drawn.shape, affine, path, volume, "give the mask that was drawn on this scan")
    return drawn


def check_grid(shape: tuple, affine: np.ndarray, path: str | Path, volume: Volume, advice: str):
    """Raise InputError unless a canonical shape and affine are those of `volume`.

    Corners may lie a tenth of a voxel apart. `path` is the file, `advice` what to do about it.
    """
    if shape != volume.hu.shape:
        raise InputError(
            f"{path} has shape {shape} and its scan {volume.path} {volume.hu.shape}; {advice}"
        )
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).T
    corners = corners * np.array([*np.subtract(shape, 1), 1])[:, None]
    apart = np.linalg.norm((affine - volume.affine) @ corners, axis=0).max()
    if apart > 0.1 * volume.spacing.min():
        raise InputError(
            f"{path} lies {apart:.2f} mm off its scan {volume.path} (their affines differ); "
            f"{advice}"
        )


def from_array(array: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """A Volume of a RAS+ array (X, Y, Z) that comes from no file."""
    header, kept = nib.Nifti1Image(array, affine).header, np.array([[0, 1], [1, 1], [2, 1]])
    return Volume(array, affine, name, Path(name), (), header, kept)


def read_slice(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A DICOM image that has no place in space (dicom.read_slice), (rows, columns) float32 HU.

    And notes on it. None for any other file.
    """
    import dicom

    found = dicom.read_slice(path)
    if found is None:
        return None
    hu, cleaned = _clean(found[0])
    return hu.astype(np.float32), (*found[1], *cleaned)


def _read_nifti(path: Path, position: str | None, is_hu: bool) -> Volume:
    image = _load_nifti(path)
    affine, notes = _orient(image, path, position)
    name = path.name[: path.name.lower().rindex(".nii")]
    header = image.header.copy()
    unknown = not (header["sform_code"] or header["qform_code"])
    return _canonical(
        _array(image, path), affine, header, name, path, notes,
        position=(position or "HFS") if unknown else None, is_hu=is_hu,
    )  # fmt: skip


def _load_nifti(path: Path) -> nib.Nifti1Image:
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
    if math.prod(shape[3:]) > 1:
        count = math.prod(shape[3:])
        raise InputError(f"{path} holds {count} volumes (shape {shape}); give one volume alone")
    if image.get_data_dtype().kind not in "iufb":
        kind = "colour" if image.get_data_dtype().fields else "complex"
        raise InputError(f"{path} holds {kind} voxels, not HU; give the scan itself")
    return image


def _array(image: nib.Nifti1Image, path: str | Path) -> np.ndarray:
    """(I, J, K) values in the source's order, integers where it stores integers unscaled."""
    try:
        compressed = Path(path).name.lower().endswith(".gz")
        array = _inflate(image, path) if compressed else image.dataobj.get_unscaled()
    except (OSError, EOFError, ValueError, zlib.error, isal_zlib.error) as error:
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


def _inflate(image: nib.Nifti1Image, path: str | Path) -> np.ndarray:
    """The stored voxels of a .nii.gz, at twice the speed of zlib and with no second copy."""
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


def _orient(image: nib.Nifti1Image, path: str | Path, position: str | None):
    """The source's affine and notes; without sform and qform it follows from `position`."""
    header, notes = image.header, []
    affine = image.affine.astype(float)
    if not header["sform_code"]:
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            stored = type(header).from_fileobj(file, check=False)  # checked, 0 mm would be 1 mm
        if not (np.abs(stored["pixdim"][1:4]) > 0).all():
            raise InputError(f"{path} says voxels of no size (pixdim 0); repair its header")
    if not (header["sform_code"] or header["qform_code"]):
        if position is None:
            notes.append(
                "the header says nothing of the orientation: taken as HFS (columns to the "
                "patient's left, rows to the back, slices to the head)"
            )
        affine = _lying(position or "HFS", header.get_zooms()[:3], image.shape)
    _check_affine(affine, image.shape, path)
    return affine, notes


def _check_affine(affine: np.ndarray, shape, path: str | Path) -> None:
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        upright = abs(np.linalg.det(affine[:3, :3] / sizes))
    if not (np.isfinite(affine).all() and upright > 1e-3):
        raise InputError(f"{path} has a singular affine (no 3-D geometry); repair its header")
    length = (sizes * shape[:3]).max()
    if length > LONGEST:
        raise InputError(f"{path} is {length / 1000:.1f} m long by its header; repair its spacing")


def _lying(position: str, zooms, shape) -> np.ndarray:
    """The affine of an array that a scanner shows in `position`, centred on the origin."""
    world = np.eye(3)
    towards = {"R": world[0], "A": world[1], "S": world[2]}
    towards |= {"L": -world[0], "P": -world[1], "I": -world[2]}
    affine = np.eye(4)
    affine[:3, :3] = np.stack([towards[letter] for letter in POSITIONS[position]], axis=1)
    affine[:3, :3] *= np.asarray(zooms, float)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape[:3]) - 1) / 2
    return affine


def _canonical(
    array, affine, header, name, path, notes, shifts=None, position=None, slices=None, is_hu=True
) -> Volume:
    """Turn a source array (I, J, K) with its affine into a Volume."""
    orientation = nib.io_orientation(affine)
    hu, found = _clean(nib.apply_orientation(array, orientation), is_hu)
    third = 2 if shifts is not None else _stacked(affine)
    axis, sign = orientation[third].astype(int)
    if shifts is not None and sign < 0:
        shifts = shifts[::-1]
    return Volume(
        hu, affine @ orientations.inv_ornt_aff(orientation, array.shape), name, path,
        (*notes, *found), header, orientation, int(axis), shifts, position, slices,
    )  # fmt: skip


def _stacked(affine: np.ndarray) -> int:
    """The source axis along which slices are stacked, however the file orders its axes.

    A tilt leaves the other two orthogonal. Without one it is the axis of the odd spacing, and of
    cubes the one most along the body.
    """
    size = np.linalg.norm(affine[:3, :3], axis=0)
    unit = affine[:3, :3] / size

    def stacked(axis: int) -> tuple:
        first, second = (axis + 1) % 3, (axis + 2) % 3
        skew = abs(unit[:, first] @ unit[:, second])
        odd = abs(np.log(size[axis] ** 2 / (size[first] * size[second])))
        return -round(skew, 3), round(odd, 2), abs(unit[2, axis])

    return max((2, 1, 0), key=stacked)


def _clean(array: np.ndarray, is_hu: bool = True) -> tuple[np.ndarray, list[str]]:
    """Values without NaN, HU without padding, as int16 where no value is lost, and notes of it."""
    notes, nothing = [], AIR if is_hu else 0
    if array.dtype.kind == "f":
        most = MOST if is_hu else np.inf
        strange = sum(int((~(np.abs(part) < most)).sum()) for part in _slabs(array))
        if strange:
            array = np.where(np.abs(array) < most, array, array.dtype.type(nothing))
            taken = "air" if is_hu else "0"
            which = "NaN, infinite or over a million" if is_hu else "NaN or infinite"
            notes.append(f"{strange} voxels that are no number ({which}) taken as {taken}")
    limits = np.iinfo(np.int16)
    low, high = array.min(), array.max()
    fits = limits.min <= low and high <= limits.max
    whole = array.dtype.kind != "f" or all((p == np.rint(p)).all() for p in _slabs(array))
    array = array.astype(np.int16 if fits and whole else np.float32, copy=False)
    if is_hu and low < AIR:
        array = np.maximum(array, AIR, out=array if array.flags.writeable else None)
        if low <= max(PADDING):
            notes.append("padding taken as air")
    return array, notes


def _slabs(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a few MB each, along the axis that lies farthest apart in memory."""
    array = np.moveaxis(array, int(np.argmax(np.abs(array.strides))), 0)
    return (array[start : start + 8] for start in range(0, len(array), 8))


def _read_dicom(path: Path, series: int | None) -> Volume:
    import dicom

    scan = dicom.read_series(path, series)
    _check_affine(scan.affine, scan.array.shape, path)
    header = nib.Nifti1Header()
    header.set_data_shape(scan.array.shape)
    header.set_xyzt_units("mm")
    header.set_sform(scan.affine, 1)
    # A qform knows no tilt; it serves readers that refuse one (ITK). The pictures' axes are kept
    upright = scan.affine.copy()
    upright[:3, 2] = scan.normal * np.linalg.norm(scan.affine[:3, 2])
    header.set_qform(upright, 1)
    return _canonical(
        scan.array, scan.affine, header, scan.name, path, scan.notes, scan.shifts,
        slices=scan.slices,
    )  # fmt: skip


# ---------------------------------------------------------------- writing


def write_mask(mask: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write a canonical mask (X, Y, Z) on the scan's own grid, or not at all.

    It is bool, or uint8 labels, and becomes uint8 NIfTI; quickest where it lies in memory as the
    scan does (np.zeros_like(volume.hu, bool)). Shape, affine, sform and qform codes and zooms are
    the scan's (those of a DICOM series as dcm2niix stores it). Same mask, same bytes. Raises
    InputError when `path` cannot be written.
    """
    array = _source_order(mask, volume)
    array = array.view(np.uint8) if array.dtype == bool else array.astype(np.uint8, copy=False)
    _write_nifti(array, (0, max(1, int(array.max()))), volume, path)


def write_scan(volume: Volume, path: str | Path) -> None:
    """Write the scan as it was understood, in whole HU as int16 NIfTI, on its own grid.

    Raises InputError when `path` cannot be written.
    """
    hu, limits = volume.hu, np.iinfo(np.int16)
    if hu.dtype != np.int16:
        hu = np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)
    _write_nifti(_source_order(hu, volume), (0, 0), volume, path)


def write_brain(mask: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write the scan with everything outside its canonical mask (X, Y, Z) set to air, HU, NIfTI.

    On the scan's own grid as `write_mask` does; int16 or float32, as `volume.hu`.
    Raises InputError when `path` cannot be written.
    """
    brain = np.full_like(volume.hu, AIR)
    np.copyto(brain, volume.hu, where=mask)
    _write_nifti(_source_order(brain, volume), (0, 0), volume, path)


def _write_nifti(data: np.ndarray, shown: tuple, volume: Volume, path: str | Path) -> None:
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


def write_dicom_seg(
    mask: np.ndarray, volume: Volume, path: str | Path, version: str = "unknown"
) -> None:
    """Write a canonical mask (X, Y, Z) as a DICOM SEG, one frame a source slice, or not at all.

    One binary segment, SNOMED CT 12738006 (brain), made automatically; `version`: of what made it,
    such as the model's checksum. Voxel for voxel what `write_mask` writes. As DICOM demands, the
    patient and study of the source are copied into it: it is as confidential as the scan.
    Raises InputError for a scan that is no DICOM, or when `path` cannot be written.
    """
    import dicom

    if volume.slices is None:
        raise InputError(f"{volume.path} is no DICOM scan, so no DICOM SEG can refer to it")
    pictures = _source_order(mask, volume).astype(bool).T[:, ::-1]
    dicom.write_seg(pictures, volume.slices, volume.path, path, version)


def _source_order(mask: np.ndarray, volume: Volume) -> np.ndarray:
    """A canonical array as the source stores it."""
    if mask.shape != volume.hu.shape:
        raise ValueError(f"mask of shape {mask.shape} for a scan of {volume.hu.shape}")
    back = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), volume.orientation)
    return nib.apply_orientation(mask, back)


def bids_mask_name(name: str) -> str | None:
    """`sub-01_ses-02_desc-brain_mask` for a scan named `sub-01_ses-02_ct`; None if not BIDS.

    BIDS 1.10, file name structure and "Imaging data type" of derivatives: key-value pairs, of
    which `desc` is the last, and a suffix.
    """
    if not re.fullmatch(r"sub-[a-zA-Z0-9]+(_[a-z]+-[a-zA-Z0-9]+)*_[a-zA-Z0-9]+", name):
        return None
    pairs = [pair for pair in name.split("_")[:-1] if not pair.startswith("desc-")]
    return "_".join([*pairs, "desc-brain", "mask"])


def millilitres(mask: np.ndarray, volume: Volume) -> float:
    """The volume in mL of a canonical mask (X, Y, Z); a slice reaches halfway to its neighbours."""
    lie = _layout(volume)
    thickness = np.gradient(lie.heights) if len(lie.heights) > 1 else np.array(lie.pitch[:1])
    voxels = np.count_nonzero(mask, axis=lie.order[1:])
    return float(voxels @ thickness * lie.pitch[1] * lie.pitch[2] / 1000)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask (X, Y, Z) whose voxels touch by faces; an empty one as it is."""
    return cc3d.largest_k(mask, k=1, connectivity=6, binary_image=True) > 0


# ---------------------------------------------------------------- straight grids


def straighten(
    array: np.ndarray,
    volume: Volume,
    spacing: float,
    box: np.ndarray | None = None,
    outside: float = AIR,
) -> tuple[np.ndarray, Grid]:
    """Resample an array on the volume's canonical voxels onto cubes along its own straight axes.

    Returns float32 in the axis order of `array`, and its Grid. Gantry tilt and uneven gaps are
    undone: every slice is put where it truly lies. A cube is the mean, over its own width, of the
    linear interpolant of the samples; where it is no wider than they are, the interpolant.
    box: (2, 3) mm in straight coordinates (see `Grid.box`), else the whole volume. It may reach
    beyond the scan: there, and in the corners that a tilt leaves, is `outside`.
    """
    lie = _layout(volume)
    grid = _make_grid(lie, float(spacing), box)
    targets = [grid.centres[axis] for axis in lie.order]
    along = _weights(lie.heights, lie.pitch[0], targets[0], spacing)
    down = _weights_at(lie.index[1], lie.pitch[1], targets[1], spacing)
    across = _weights_at(lie.index[2], lie.pitch[2], targets[2], spacing)
    used = np.unique(along.indices)
    planes = np.empty((len(used), len(targets[1]), len(targets[2])), np.float32)
    slices = array.transpose(lie.order)

    def fill(n: int) -> None:
        k = used[n]
        picture = slices[k] - np.float32(outside)
        if lie.skew:
            picture = _shear(picture, lie.skew, lie.index[2])
        planes[n] = (across(lie.columns[k]) @ (down(lie.rows[k]) @ picture).T).T

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(used))))
    cubes = (along[:, used] @ planes.reshape(len(used), -1)).reshape(-1, *planes.shape[1:])
    cubes += np.float32(outside)
    return cubes.transpose(np.argsort(lie.order)), grid


def unstraighten(
    array: np.ndarray, grid: Grid, volume: Volume, region: tuple[slice, ...] | None = None
) -> np.ndarray:
    """Resample an array on a straight grid linearly back onto the volume's canonical voxels.

    Returns float32 of the volume's shape, or of `region` alone: three slices of canonical voxels,
    as `regions` gives them. Beyond the grid it is zero.
    """
    lie = _layout(volume)
    region = region or (slice(None),) * 3
    index = [np.arange(volume.hu.shape[axis])[region[axis]] for axis in lie.order]
    sources = [grid.centres[axis] for axis in lie.order]
    along = _weights(sources[0], grid.spacing, lie.heights[index[0]])
    down = _weights_back(sources[1], grid.spacing, lie.pitch[1] * index[1])
    upright = lie.index[2] if lie.skew else index[2]
    across = _weights_back(sources[2], grid.spacing, lie.pitch[2] * upright)
    planes = np.asarray(array, np.float32).transpose(lie.order)
    planes = (along @ planes.reshape(len(planes), -1)).reshape(-1, *planes.shape[1:])
    pictures = np.empty([len(i) for i in index], np.float32)

    def fill(n: int) -> None:
        k = index[0][n]
        picture = down(lie.rows[k]) @ (across(lie.columns[k]) @ planes[n].T).T
        if lie.skew:
            picture = _shear_back(picture, lie.skew, lie.index[2], index[1], index[2])
        pictures[n] = picture

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(pictures))))
    return pictures.transpose(np.argsort(lie.order))


def nearest(labels: np.ndarray, volume: Volume, grid: Grid) -> np.ndarray:
    """The label of the nearest voxel at each centre of a straight grid; 0 beyond the volume.

    As `straighten`, for what must not be averaged: (X, Y, Z) of the canonical voxels in, the same
    type out. A slice reaches halfway to its neighbours, the end ones half a pitch outwards.
    """
    lie = _layout(volume)
    heights, rows, columns = (grid.centres[axis] for axis in lie.order)
    slices = labels.transpose(lie.order)
    taken = np.abs(heights[:, None] - lie.heights).argmin(1)
    found = np.zeros([len(heights), len(rows), len(columns)], labels.dtype)
    for n, k in enumerate(taken):
        if abs(heights[n] - lie.heights[k]) > lie.pitch[0] * (0.5 + 1e-6):
            continue
        r = np.rint((rows - lie.rows[k]) / lie.pitch[1] - 1e-6).astype(int)[:, None]
        c = (columns - lie.columns[k]) / lie.pitch[2] - lie.skew * r
        c = np.rint(c - 1e-6).astype(int)
        inside = (r >= 0) & (r < slices.shape[1]) & (c >= 0) & (c < slices.shape[2])
        r = np.broadcast_to(r, c.shape)
        found[n][inside] = slices[k][r[inside], c[inside]]
    return found.transpose(np.argsort(lie.order))


def box_of(mask: np.ndarray, volume: Volume) -> np.ndarray:
    """(2, 3) mm: the outer faces of a mask's voxels, straight coordinates as of `straighten`."""
    lie = _layout(volume)
    lines = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    slices, rows, columns = (lines[axis][[0, -1]] for axis in lie.order)
    sliced = slice(slices[0], slices[1] + 1)
    lean = lie.skew * rows
    ends = [
        lie.heights[slices] + lie.pitch[0] * np.array([-0.5, 0.5]),
        [lie.rows[sliced].min() + lie.pitch[1] * (rows[0] - 0.5),
         lie.rows[sliced].max() + lie.pitch[1] * (rows[1] + 0.5)],
        [lie.columns[sliced].min() + lie.pitch[2] * (columns[0] - 0.5 + lean.min()),
         lie.columns[sliced].max() + lie.pitch[2] * (columns[1] + 0.5 + lean.max())],
    ]  # fmt: skip
    return np.array(ends)[np.argsort(lie.order)].T


def whole_box(volume: Volume) -> np.ndarray:
    """(2, 3) mm: the outer faces of all of a volume's voxels, straight coordinates."""
    return _extent(_layout(volume))


def not_blanked(volume: Volume, box: np.ndarray) -> slice:
    """The slices (along `volume.slice_axis`) of a scan in HU that belong to a head not blanked out.

    Planning systems fill with air what lies outside an outline: whole slices, or all but the bare
    brain or a cylinder of it. That is looked for in a `box` (2, 3) mm (see `Grid.box`) about the
    brain, upwards first; what lies beyond it is taken as sound.
    """
    lie = _layout(volume)
    region = next(regions(_make_grid(lie, 1.0, box), volume, depth=len(lie.heights)), None)
    if region is None:
        return slice(0, len(lie.heights))
    every = max(1, round(3 / max(lie.pitch[1:])))  # mm: bone is wider
    slices = volume.hu[region].transpose(lie.order)[:, ::every, ::every]
    pixel, first = lie.pitch[1] * lie.pitch[2] * every**2, region[lie.order[0]].start
    stop = _blanked_from(slices, pixel, lie.pitch[0])
    start = stop - _blanked_from(slices[:stop][::-1], pixel, lie.pitch[0])
    stop = first + stop if stop < len(slices) else len(lie.heights)
    return slice(first + start if start else 0, stop)


def _blanked_from(slices: np.ndarray, pixel: float, gap: float) -> int:
    """The first of some slices (N, H, W) in HU from which on a head was blanked out; N if it was
    not. Pixels are of `pixel` mm2, slices `gap` mm apart.

    Skin covers all bone: where most of a slice's bone lies bare against air, with much else, there
    was more, unless a head just ends between two slices. What comes after has no skull.
    """
    bone, tissue, blank = slices > BONE, slices > BODY, slices < BLANK
    bones, tissues, bare, gone = (
        np.count_nonzero(part, axis=(1, 2)) * pixel
        for part in (bone, tissue, bone[:-1] & blank[1:], tissue[:-1] & blank[1:])
    )
    bones_after = np.maximum.accumulate(bones[::-1])[::-1][1:]
    bones, tissues = bones[:-1], tissues[:-1]
    cap = 2 * np.pi * CURVED * gap
    ends = (bare > BARE * bones) & (bones_after < BARE * bones) & (gone > GONE * tissues)
    ends &= tissues > cap
    return int(ends.argmax()) + 1 if ends.any() else len(slices)


def cropped(volume: Volume, slices: slice) -> Volume:
    """Some slices (along `volume.slice_axis`) of a scan, to be looked at: not to be written."""
    axis = volume.slice_axis
    region = tuple(slices if n == axis else slice(None) for n in range(3))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * slices.start
    shifts = None if volume.shifts is None else volume.shifts[slices]
    return replace(volume, hu=volume.hu[region], affine=affine, shifts=shifts)


def thinned(volume: Volume, spacing: float) -> Volume:
    """A scan with as few of its voxels as lie at most `spacing` mm apart, to be looked at."""
    steps = np.maximum(1, spacing // volume.spacing).astype(int)
    affine = volume.affine @ np.diag([*steps, 1])
    step = steps[volume.slice_axis]
    shifts = None if volume.shifts is None else volume.shifts[::step]
    hu = volume.hu[tuple(slice(None, None, n) for n in steps)]
    return replace(volume, hu=hu, affine=affine, shifts=shifts)


def regions(grid: Grid, volume: Volume, depth: int = 32) -> Iterator[tuple[slice, ...]]:
    """Slabs of at most `depth` source slices, together all canonical voxels within the grid."""
    lie = _layout(volume)
    low, high = (face[list(lie.order)] for face in grid.box((0, 0, 0), grid.shape))
    inside = np.flatnonzero((low[0] <= lie.heights) & (lie.heights <= high[0]))
    for start in range(0, len(inside), depth):
        part = inside[start : start + depth]
        slab = [slice(int(part[0]), int(part[-1]) + 1)]
        for axis, firsts in ((1, lie.rows), (2, lie.columns)):
            count = volume.hu.shape[lie.order[axis]]
            first = math.floor((low[axis] - firsts[part].max()) / lie.pitch[axis])
            last = math.ceil((high[axis] - firsts[part].min()) / lie.pitch[axis])
            if axis == 2 and lie.skew:
                first, last = 0, count
            slab.append(slice(min(max(first, 0), count), min(max(last + 1, 0), count)))
        yield tuple(slab[axis] for axis in np.argsort(lie.order))


class _Layout(NamedTuple):
    """How a volume's voxels lie in straight coordinates (mm along `axes`)."""

    axes: np.ndarray  # (3, 3) unit vectors in columns
    order: tuple[int, int, int]  # the array's axes as slices, rows, columns of a picture
    pitch: tuple[float, float, float]  # mm between slices, rows, columns
    index: tuple[np.ndarray, ...]  # of slices, rows, columns once skew pictures are upright
    skew: float  # columns to which a picture's next row is displaced; all but always 0
    heights: np.ndarray  # (slices,) mm along the normal
    rows: np.ndarray  # (slices,) mm of each slice's first row
    columns: np.ndarray  # (slices,) mm of each slice's first column


def _layout(volume: Volume) -> _Layout:
    """QR of the affine with its columns in the order columns, rows, slices of a picture.

    Then the normal is orthogonal to the pictures, and a tilt displaces whole slices in-plane.
    """
    s = volume.slice_axis
    c, r = (axis for axis in range(3) if axis != s)
    q, upper = np.linalg.qr(volume.affine[:3, [c, r, s]])
    signs = np.sign(np.diag(upper))
    q, upper = q * signs, upper * signs[:, None]
    axes = np.empty((3, 3))
    axes[:, [c, r, s]] = q
    slices, rows, columns = (volume.hu.shape[axis] for axis in (s, r, c))
    firsts = volume.affine[:3, 3] @ q + np.arange(slices)[:, None] * upper[:, 2]
    if volume.shifts is not None:
        firsts += volume.shifts @ q
    skew = upper[0, 1] / upper[0, 0]
    skew = 0.0 if abs(skew * rows) < 0.1 else float(skew)
    reach = skew * (rows - 1)
    upright = np.arange(math.floor(min(reach, 0)), columns + math.ceil(max(reach, 0)))
    pitch = (upper[2, 2], upper[1, 1], upper[0, 0])
    index = (np.arange(slices), np.arange(rows), upright)
    return _Layout(axes, (s, r, c), pitch, index, skew, *firsts.T[::-1])


def _extent(lie: _Layout) -> np.ndarray:
    """(2, 3) mm: the outer faces of all voxels."""
    box = np.empty((2, 3))
    firsts = (lie.heights, lie.rows, lie.columns)
    for axis, first, pitch, index in zip(lie.order, firsts, lie.pitch, lie.index, strict=True):
        ends = (index[0], index[-1]) if first is not lie.heights else (0, 0)
        box[0, axis] = first.min() + pitch * (ends[0] - 0.5)
        box[1, axis] = first.max() + pitch * (ends[1] + 0.5)
    return box


def _make_grid(lie: _Layout, spacing: float, box: np.ndarray | None) -> Grid:
    """The fewest cubes that cover the box or the volume, centred on it."""
    box = _extent(lie) if box is None else box
    low, high = np.asarray(box, float)
    shape = np.maximum(1, np.ceil((high - low) / spacing - 1e-3)).astype(int)
    start = (low + high - (shape - 1) * spacing) / 2
    return Grid(lie.axes, start, tuple(shape.tolist()), spacing)


def _weights(source, pitch: float, target, width: float = 0.0) -> sparse.csr_array:
    """(targets, samples): means of the linear interpolant over `width` around each target.

    A sample has the width `pitch`, so the mean is taken over sqrt(width^2 - pitch^2): variances
    of box kernels add. The end samples reach half a pitch outwards; beyond, weights are missing.
    """
    width = math.sqrt(max(width**2 - pitch**2, 0))
    count = max(1, math.ceil(2 * width / pitch))
    points = target[:, None] + ((np.arange(count) + 0.5) / count - 0.5) * width
    below = np.clip(np.searchsorted(source, points) - 1, 0, max(len(source) - 2, 0))
    above = np.minimum(below + 1, len(source) - 1)
    share = (points - source[below]) / np.where(above > below, source[above] - source[below], 1)
    share = np.clip(share, 0, 1)
    margin = pitch * (0.5 + 1e-6)
    inside = (points >= source[0] - margin) & (points <= source[-1] + margin)
    lines = np.broadcast_to(np.arange(len(target))[:, None], points.shape)
    values = np.concatenate([((1 - share) * inside).ravel(), (share * inside).ravel()]) / count
    places = np.concatenate([lines.ravel()] * 2), np.concatenate([below.ravel(), above.ravel()])
    weights = sparse.coo_array(
        (values.astype(np.float32), places), (len(target), len(source))
    ).tocsr()
    weights.eliminate_zeros()
    return weights


def _weights_at(index, pitch, target, width) -> Callable[[float], sparse.csr_array]:
    """Weights of samples at first + pitch * index; kept, as most slices start at one place."""
    return lru_cache(lambda first: _weights(first + pitch * index, pitch, target, width))


def _weights_back(source, pitch, offsets) -> Callable[[float], sparse.csr_array]:
    """Weights of grid centres for targets at first + offsets, kept likewise."""
    return lru_cache(lambda first: _weights(source, pitch, first + offsets))


def _shear(picture: np.ndarray, skew: float, upright: np.ndarray) -> np.ndarray:
    """A skew picture's rows moved to where they lie, over the columns `upright`."""
    across = np.array([[1, -skew, upright[0]], [0, 1, 0]])
    return cv2.warpAffine(
        picture, across, (len(upright), len(picture)), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _shear_back(picture, skew, upright, rows, columns) -> np.ndarray:
    """The inverse of `_shear` for some rows and columns of the source's picture."""
    across = np.array([[1, skew, columns[0] - upright[0] + skew * rows[0]], [0, 1, 0]])
    return cv2.warpAffine(
        picture, across, (len(columns), len(rows)), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
