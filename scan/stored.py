"""What a file of a scan stores: its array, where its voxels lie, a header to write masks under.

stored = load_stored("scan.nii.gz", position="HFS")   # Stored, for scan.nifti and scan.read

NIfTI-1 and -2, one file or two, gzipped or not whatever the name says; Analyze 7.5; and what
scan/itk.py reads. Headers are mended where the right value is sure, with a note.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from isal import igzip, isal_zlib

from common.errors import InputError
from scan.cases import has_ending
from scan.itk import ITK, load_itk
from scan.nib import nib
from scan.volume import check_affine, choose_volume, make_affine

DAMAGED = (OSError, EOFError, ValueError, zlib.error, isal_zlib.error)
# nibabel raises these for a file that is no image, or a damaged one
UNREADABLE = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, *DAMAGED)
GZIP, MOST_LAYERS = b"\x1f\x8b", 3  # first bytes; times that a file is unpacked
SINGLE, PAIR = b"n+1", b"ni1"  # magic of NIfTI-1 (nifti1.h): header and voxels in one file or two
AS_HFS = (
    "the header says nothing of the orientation: taken as HFS (columns to the patient's left, "
    "rows to the back, slices to the head)"
)
AS_LAS = (
    "Analyze files do not say which side is left: taken as SPM and FSL do (columns to the "
    "patient's left, rows to the front, slices to the head); check it, and use NIfTI"
)
BY_QFORM = "the header's sform is no geometry, and its qform was taken"
BY_SFORM_OF_PAIR = 2  # NIFTI_XFORM_ALIGNED_ANAT: for a header that had no code


class Stored(NamedTuple):
    """A file's array and what its header says.

    array: (I, J, K) in the file's order, scaled; affine: (4, 4) its voxels to RAS+ world mm;
    header: NIfTI, on its grid; position: taken because the header said nothing, else None.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    notes: tuple[str, ...]
    position: str | None = None


def load_stored(path: str | Path, position: str | None = None, number: int | None = None) -> Stored:
    """Read a file; `position` as in `scan.read.read_volume`; `number` of the volume in 4-D, from 1.

    Raises InputError unless it holds a 3-D scan of real numbers, or that volume.
    """
    path = Path(path)
    if has_ending(path, ITK):
        array, affine, notes = load_itk(path, number)
        header = make_header(array.shape, array.dtype, affine, 1)
        check_affine(affine, array.shape, path)
        return Stored(array, affine, header, notes)
    try:
        return load_nifti(path, position, number)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except EOFError as error:
        raise InputError(f"{path} is truncated or damaged; copy or export it again") from error
    except UNREADABLE as error:
        raise InputError(f"{path} is no readable NIfTI image; export it again") from error


def load_nifti(path: Path, position: str | None, number: int | None) -> Stored:
    """Read a NIfTI or Analyze file; arguments and errors as in `load_stored`."""
    voxels = path
    if has_ending(path, (".hdr", ".img")):
        path, voxels = find_pair(path)
    with unpacked(path) as (file, layers):
        header, sizes = read_header(file, path)
        notes = tell_layers(path, layers)
        shape, dtype = check_shape(header, path)
        index, taken = choose_volume(shape, number, path)
        affine, lying, more = orient(header, sizes, shape, path, position)
        scale = header.get_slope_inter()
        notes += more + taken
        if voxels == path:
            array = read_values(file, layers, header.get_data_offset(), index, shape, dtype, path)
    if voxels != path:
        with unpacked(voxels) as (file, layers):
            start = header.get_data_offset()
            array = read_values(file, layers, start, index, shape, dtype, voxels)
    return Stored(scale_values(array, *scale), affine, to_single(header, affine), notes, lying)


# ---------------------------------------------------------------- files


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file to be read as it is once unpacked, and how many times it is gzipped."""
    with ExitStack() as stack:
        file, layers = stack.enter_context(path.open("rb")), 0
        while layers < MOST_LAYERS and file.peek(2)[:2] == GZIP:
            file = stack.enter_context(igzip.IGzipFile(fileobj=file, mode="rb"))
            layers += 1
        yield file, layers


def tell_layers(path: Path, layers: int) -> tuple[str, ...]:
    """A note where a file is not packed as its name says."""
    if layers == path.name.lower().endswith(".gz"):
        return ()
    is_packed = ("not gzipped", "gzipped", "gzipped twice", "gzipped three times")[layers]
    return (f"the file is {is_packed}, whatever its name says",)


def find_pair(path: Path) -> tuple[Path, Path]:
    """The header and the voxels of a scan in two files, of which `path` is one."""
    stem = path.name[:-4].lower()
    beside = {p.name.lower(): p for p in path.parent.iterdir()}
    found = [beside.get(stem + ending) for ending in (".hdr", ".img")]
    if None in found:
        lacks = (".hdr", ".img")[found.index(None)]
        raise InputError(f"{path} is half of a scan: {path.stem}{lacks} is not beside it")
    return tuple(found)


# ---------------------------------------------------------------- headers


def read_header(file: BinaryIO, path: Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """The header at the start of a file, checked, and the pixdim that it holds unchecked.

    It is of NIfTI-1, NIfTI-2 or, where there is no magic, of Analyze.
    """
    start = file.read(540)
    if int.from_bytes(start[:4], "little") == 540 or int.from_bytes(start[:4], "big") == 540:
        kind = nib.Nifti2Header if start[4:7] == SINGLE else nib.nifti2.Nifti2PairHeader
    elif (magic := start[344:347]) in (SINGLE, PAIR):
        kind = nib.Nifti1Header if magic == SINGLE else nib.nifti1.Nifti1PairHeader
        start = start[:348]
    elif has_ending(path, (".hdr",)):
        kind, start = nib.spm2analyze.Spm2AnalyzeHeader, start[:348]
    else:
        raise nib.filebasedimages.ImageFileError
    stored = kind(start, check=False)
    return kind(start), stored["pixdim"][1:4]  # checked, 0 mm would be 1 mm


def check_shape(header: nib.Nifti1Header, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of the voxels; InputError unless they are real numbers in 3-D."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if 0 in shape or len(shape) < 3:
        kind = "has an axis of no voxels" if 0 in shape else f"is {len(shape)}-D, not a 3-D scan"
        raise InputError(f"{path} {kind} (shape {shape}); give a 3-D scan")
    if dtype.kind not in "iufb":
        kind = "colour" if dtype.fields else "complex"
        raise InputError(f"{path} holds {kind} voxels, not HU; give the scan itself")
    if not np.isfinite(header["vox_offset"]):
        raise InputError(f"{path} does not say where its voxels begin; copy it again")
    return shape, dtype


def orient(
    header: nib.Nifti1Header, sizes: np.ndarray, shape, path: Path, position: str | None
) -> tuple[np.ndarray, str | None, tuple[str, ...]]:
    """The affine, the position taken because the header says none, and notes.

    A sound qform takes the place of an sform that is no geometry, in the header, too. `sizes` are
    the voxel's, as stored.
    """
    if isinstance(header, nib.spm2analyze.Spm2AnalyzeHeader):
        affine, lying, notes = header.get_best_affine(), None, (AS_LAS,)
        check_sizes(sizes, path)
    elif header["sform_code"]:
        affine, lying, notes = header.get_sform(), None, ()
        try:
            check_affine(affine, shape, path)
        except InputError:
            if not header["qform_code"]:
                raise
            affine, notes = read_qform(header, sizes, path)
            check_affine(affine, shape, path)
            header.set_sform(affine, int(header["sform_code"]))
            notes = (BY_QFORM, *notes)
    elif header["qform_code"]:
        lying, (affine, notes) = None, read_qform(header, sizes, path)
    else:
        check_sizes(sizes, path)
        lying, notes = position or "HFS", () if position else (AS_HFS,)
        affine = make_affine(lying, header.get_zooms()[:3], shape)
    check_affine(affine, shape, path)
    return affine.astype(float), lying, notes


def read_qform(header, sizes: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of a header's qform, and a note where its quaternion was mended.

    One that is longer than 1 is made 1 long, as nifti1_io.c does, in the header, too.
    """
    check_sizes(sizes, path)
    parts, notes = [f"quatern_{letter}" for letter in "bcd"], ()
    length = np.linalg.norm([float(header[part]) for part in parts])
    if 1 + 3 * np.finfo(header["quatern_b"].dtype).eps < length**2 < np.inf:
        for part in parts:
            header[part] = header[part] / length
        notes = (f"the header's quaternion is {length:.6g} long and was made 1",)
    return header.get_qform(), notes


def check_sizes(sizes: np.ndarray, path: Path) -> None:
    """Raise InputError for voxels of no size."""
    if not (np.abs(sizes) > 0).all():
        raise InputError(f"{path} says voxels of no size (pixdim 0); repair its header")


def to_single(header, affine: np.ndarray) -> nib.Nifti1Header:
    """The header of one NIfTI file, of whichever kind a header is."""
    if isinstance(header, nib.spm2analyze.Spm2AnalyzeHeader):
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        return make_header(shape, dtype, affine, BY_SFORM_OF_PAIR)
    if header.is_single:
        return header
    kind = nib.Nifti2Header if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header
    single = kind(header.binaryblock, header.endianness, check=False)
    single["magic"], single["vox_offset"] = kind.single_magic, kind.single_vox_offset
    return single


def make_header(shape, dtype: np.dtype, affine: np.ndarray, code: int) -> nib.Nifti1Header:
    """A NIfTI header for an array, its affine as sform and qform with a code."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(affine, code)
    header.set_qform(affine, code)
    header.set_xyzt_units("mm")
    return header


# ---------------------------------------------------------------- values


def read_values(
    file: BinaryIO, layers: int, start: int, index: int, shape, dtype: np.dtype, path: Path
) -> np.ndarray:
    """The stored voxels (I, J, K) of a volume in a file whose voxels begin at byte `start`."""
    try:
        start += index * math.prod(shape[:3]) * dtype.itemsize
        if not layers:
            return np.memmap(file, dtype, "c", start, shape[:3], order="F")
        return inflate(file, start, shape[:3], dtype, index + 1 == math.prod(shape[3:]))
    except DAMAGED as error:
        raise InputError(f"{path} is truncated or damaged; copy or export it again") from error
    except MemoryError as error:
        says = " x ".join(map(str, shape[:3]))
        raise InputError(f"{path} is larger than memory: its header says {says}") from error


def inflate(file: BinaryIO, start: int, shape, dtype: np.dtype, is_last: bool) -> np.ndarray:
    """Voxels (I, J, K) of a gzipped file, at twice the speed of zlib and without a second copy."""
    array = np.empty(shape, dtype, order="F")
    left = memoryview(array.reshape(-1, order="F").view(np.uint8))
    file.seek(start)
    while left:
        count = file.readinto(left[: 1 << 20])
        if not count:
            raise EOFError("fewer voxels than the header says")
        left = left[count:]
    if is_last:
        file.read(1)  # past the end the checksum is verified
    return array


def scale_values(array: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    """Values as the header scales them, integers where it does not."""
    slope, intercept = 1 if slope is None else slope, intercept or 0
    if (slope, intercept) != (1, 0):
        array = array.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
    return array
