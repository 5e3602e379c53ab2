"""A 3-D scan in memory, straight grids on it, and where its voxels lie.

volume = to_volume(array, affine, header, "scan", path, notes)     # of an array as a file stores it
volume = make_volume(array, affine, "phantom")                     # of one that comes from no file

In memory a volume is RAS+ (nibabel's closest canonical). Straight coordinates are mm along the
volume's own orthonormal axes (`Grid.axes`): every grid and every `box` of one volume lies in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from scan.hu import clean_values
from scan.mask import find_ends
from scan.nib import nib

# Patient axes to which an array's columns (i), rows (j) and slices (k) run; PS3.3 C.7.3.1.1.2
POSITIONS = dict(
    HFS="LPS", HFP="RAS", HFDR="PRS", HFDL="ALS", FFS="RPI", FFP="LAI", FFDR="ARI", FFDL="PLI"
)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of DICOM and ITK to NIfTI
THIN_SCAN = 30.0  # mm: in less, the other two views see nothing but a stripe; a round number
LONGEST = 2500.0  # mm: no scanner's table is longer; a round number
LEAST_UPRIGHT = 0.5  # cosine of a lean of 60 degrees: gantries tilt by up to 30
SHORTEST = 5.0  # mm: no scan is so small, but one in metres taken for mm; a round number
NO_SPACING = (
    "the header says voxels of exactly 1 mm and no place, as for an array without one: was the "
    "spacing lost? Then all sizes are wrong"
)
CLOSE = 0.005  # share of the step by which a slice's distance may differ unsaid: rounding
AS_IS = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation of a RAS+ array


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in canonical orientation, and what is needed to write back on its own grid.

    hu: (X, Y, Z) RAS+; int16 when the source's values are whole and fit, else float32. (Of an MRI,
    the values of its file.)
    affine: (4, 4) voxel of `hu` to RAS+ world mm, perhaps oblique or sheared.
    shifts: (slices, 3) world mm by which each slice lies off the affine (uneven gaps), or None.
    slice_axis: the axis of `hu` along which the source's slices are stacked.
    header, orientation: the source's NIfTI header and its nibabel orientation.
    position: the patient position taken because the header said nothing, else None.
    doubts: why the geometry may not be trusted, in words for the verdict.
    slices: of DICOM, which file and frame each source slice is (`dicom_files.Slice`), else None.
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
    slices: tuple[NamedTuple, ...] | None = None
    doubts: tuple[str, ...] = ()

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


class Layout(NamedTuple):
    """How a volume's voxels lie in straight coordinates (mm along `axes`)."""

    axes: np.ndarray  # (3, 3) unit vectors in columns
    order: tuple[int, int, int]  # the array's axes as slices, rows, columns of a picture
    pitch: tuple[float, float, float]  # mm between slices, rows, columns
    index: tuple[np.ndarray, ...]  # of slices, rows, columns once skew pictures are upright
    skew: float  # columns by which a picture's next row is displaced; nearly always 0
    heights: np.ndarray  # (slices,) mm along the normal
    rows: np.ndarray  # (slices,) mm of each slice's first row
    columns: np.ndarray  # (slices,) mm of each slice's first column


# ---------------------------------------------------------------- from a file's array to a Volume


def to_volume(
    array, affine, header, name, path, notes, shifts=None, position=None, slices=None, is_hu=True
) -> Volume:
    """Turn a source array (I, J, K) with its affine into a Volume."""
    orientation = nib.io_orientation(affine)
    hu, found = clean_values(nib.apply_orientation(array, orientation), is_hu)
    affine_of_hu = affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)
    third = 2 if shifts is not None else find_slice_axis(affine)
    axis, sign = orientation[third].astype(int)
    if shifts is not None and sign < 0:
        shifts = shifts[::-1]
    source = (header, orientation, int(axis), shifts, position, slices)
    doubts = doubt_spacing(affine, position)
    return Volume(hu, affine_of_hu, name, path, (*notes, *found), *source, doubts)


def doubt_spacing(affine: np.ndarray, position: str | None) -> tuple[str, ...]:
    """Why a source's affine may be no one's: voxels of 1 mm from the origin on, as programs write
    them for an array whose spacing they were not told; () if it says more. `position` is as in
    `Volume`: without orientation there is no origin."""
    turn = np.abs(affine[:3, :3])
    is_unit = np.isin(turn, (0, 1)).all() and (turn.sum(0) == 1).all()
    return (NO_SPACING,) if is_unit and (position or not affine[:3, 3].any()) else ()


def make_volume(array: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """A Volume of a RAS+ array (X, Y, Z) that comes from no file."""
    header = nib.Nifti1Image(array, affine).header
    return Volume(array, affine, name, Path(name), (), header, AS_IS)


def choose_volume(shape: tuple[int, ...], number: int | None, path: str | Path):
    """The index, from 0, of the volume numbered `number`, from 1, in a 3-D or 4-D shape; notes.

    Raises InputError where there is no such volume, or several and no number.
    """
    count = math.prod(shape[3:])
    if number is None and count > 1:
        advice = f"choose one by pred.py --volume N (1 to {count}), or give it alone"
        raise InputError(f"{path} holds {count} volumes (shape {shape}); {advice}")
    if number is not None and not 1 <= number <= count:
        held = "1 volume" if count == 1 else f"{count} volumes, numbered from 1"
        raise InputError(f"{path} holds {held}: there is no --volume {number}")
    notes = (f"volume {number} of {count} was taken",) if count > 1 else ()
    return (number or 1) - 1, notes


def to_source_order(array: np.ndarray, volume: Volume) -> np.ndarray:
    """A canonical array as the volume's source stores it."""
    if array.shape != volume.hu.shape:
        raise ValueError(f"mask of shape {array.shape} for a scan of {volume.hu.shape}")
    back = nib.orientations.ornt_transform(AS_IS, volume.orientation)
    return nib.apply_orientation(array, back)


def check_affine(affine: np.ndarray, shape, path: str | Path) -> None:
    """Raise InputError for an affine without 3-D geometry, or of a scan longer than any table or
    far shorter than a head."""
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        upright = abs(np.linalg.det(affine[:3, :3] / sizes))
    if not (np.isfinite(affine).all() and upright > 1e-3):
        raise InputError(f"{path} has a singular affine (no 3-D geometry); repair its header")
    if upright < LEAST_UPRIGHT:
        raise InputError(f"{path} has slices that lean by over 60 degrees; repair its affine")
    length = (sizes * shape[:3]).max()
    if length > LONGEST:
        raise InputError(f"{path} is {length / 1000:.1f} m long by its header; repair its spacing")
    if length < SHORTEST:
        raise InputError(f"{path} is {length:.2g} mm long by its header; repair its spacing")


def make_affine(position: str, zooms, shape) -> np.ndarray:
    """The affine of an array that a scanner shows in `position`, centred on the origin."""
    towards = dict(zip("RASLPI", np.vstack([np.eye(3), -np.eye(3)]), strict=True))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([towards[letter] for letter in POSITIONS[position]], axis=1)
    affine[:3, :3] *= np.asarray(zooms, float)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape[:3]) - 1) / 2
    return affine


def find_slice_axis(affine: np.ndarray) -> int:
    """The source axis along which slices are stacked, however the file orders its axes.

    A tilt leaves the other two orthogonal. Without one it is the axis of the odd spacing; of cubes
    it is the one most along the body.
    """
    size = np.linalg.norm(affine[:3, :3], axis=0)
    unit = affine[:3, :3] / size

    def rate(axis: int) -> tuple:
        first, second = (axis + 1) % 3, (axis + 2) % 3
        skew = abs(unit[:, first] @ unit[:, second])
        odd = abs(np.log(size[axis] ** 2 / (size[first] * size[second])))
        return -round(skew, 3), round(odd, 2), abs(unit[2, axis])

    return max((2, 1, 0), key=rate)


# ---------------------------------------------------------------- where voxels lie


def find_layout(volume: Volume) -> Layout:
    """The Layout of a volume, by a QR of its affine with columns, rows, slices in this order.

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
    return Layout(axes, (s, r, c), pitch, index, skew, *firsts.T[::-1])


def make_grid(lie: Layout, spacing: float, box: np.ndarray | None) -> Grid:
    """The fewest cubes that cover the box (2, 3) mm or the whole volume, centred on it."""
    low, high = np.asarray(find_extent(lie) if box is None else box, float)
    shape = np.maximum(1, np.ceil((high - low) / spacing - 1e-3)).astype(int)
    start = (low + high - (shape - 1) * spacing) / 2
    return Grid(lie.axes, start, tuple(shape.tolist()), spacing)


def measure_whole_box(volume: Volume) -> np.ndarray:
    """(2, 3) mm: the outer faces of all of a volume's voxels, straight coordinates."""
    return find_extent(find_layout(volume))


def find_extent(lie: Layout) -> np.ndarray:
    """(2, 3) mm: the outer faces of all voxels, and of the upright pictures where they are skew."""
    slices, rows, columns = (index[[0, -1]] for index in lie.index)
    return find_faces(lie, slices, rows, columns)


def measure_box(mask: np.ndarray, volume: Volume) -> np.ndarray:
    """(2, 3) mm: the outer faces of a mask's voxels, in the coordinates of `straighten`."""
    lie = find_layout(volume)
    low, high = find_ends(mask)
    slices, rows, columns = np.stack([low, high - 1])[:, lie.order].T
    lean = np.sort(lie.skew * rows)
    return find_faces(lie, slices, rows, columns + lean)


def find_faces(lie: Layout, slices, rows, columns) -> np.ndarray:
    """(2, 3) mm: the outer faces of the voxels from the first to the last (2,) along each axis."""
    part = slice(slices[0], slices[1] + 1)
    box = np.empty((2, 3))
    firsts, ends = (lie.heights, lie.rows, lie.columns), ((0, 0), rows, columns)
    for axis, first, pitch, (low, high) in zip(lie.order, firsts, lie.pitch, ends, strict=True):
        box[0, axis] = first[part].min() + pitch * (low - 0.5)
        box[1, axis] = first[part].max() + pitch * (high + 0.5)
    return box


def measure_ml(mask: np.ndarray, volume: Volume) -> float:
    """The volume in mL of a canonical mask (X, Y, Z); a slice reaches halfway to its neighbours.

    Of a map that is no mask, each voxel counts as often as its value says.
    """
    lie = find_layout(volume)
    thickness = np.gradient(lie.heights) if len(lie.heights) > 1 else np.array(lie.pitch[:1])
    across = lie.order[1:]
    is_mask = mask.dtype == bool
    voxels = np.count_nonzero(mask, axis=across) if is_mask else mask.sum(across, dtype=float)
    return float(voxels @ thickness * lie.pitch[1] * lie.pitch[2] / 1000)


def note_volume(volume: Volume) -> list[str]:
    """Why mL is not the number of voxels times `spacing_mm`, where it is not: a tilt, uneven gaps.

    The step between slices is then longer than their distance, across which a volume counts.
    """
    lie, step = find_layout(volume), volume.spacing[volume.slice_axis]
    gaps = np.diff(lie.heights)
    if len(gaps) and np.abs(gaps - step).max() > CLOSE * step:
        apart = f"{gaps.mean():.2f} mm apart"
        if np.ptp(gaps) > CLOSE * step:
            apart += f" on average ({gaps.min():.2f} to {gaps.max():.2f})"
        return [
            f"the volume counts slices as {apart}, measured across them; "
            f"spacing_mm has the step from one to the next, {step:.2f} mm"
        ]
    return []


def find_thin_axis(volume: Volume) -> int | None:
    """The axis along which a scan is one slice or few, less than THIN_SCAN; else None."""
    axis = int(np.argmin(volume.hu.shape * volume.spacing))
    return axis if volume.hu.shape[axis] * volume.spacing[axis] < THIN_SCAN else None


def crop_slices(volume: Volume, slices: slice) -> Volume:
    """Some slices (along `volume.slice_axis`) of a scan, to be looked at: not to be written."""
    axis = volume.slice_axis
    region = tuple(slices if n == axis else slice(None) for n in range(3))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * slices.start
    shifts = None if volume.shifts is None else volume.shifts[slices]
    return replace(volume, hu=volume.hu[region], affine=affine, shifts=shifts)


def thin_out(volume: Volume, spacing: float) -> Volume:
    """A scan with the fewest of its voxels that lie at most `spacing` mm apart, to be looked at."""
    steps = np.maximum(1, spacing // volume.spacing).astype(int)
    affine = volume.affine @ np.diag([*steps, 1])
    step = steps[volume.slice_axis]
    shifts = None if volume.shifts is None else volume.shifts[::step]
    hu = volume.hu[tuple(slice(None, None, n) for n in steps)]
    return replace(volume, hu=hu, affine=affine, shifts=shifts)


def cut_slabs(grid: Grid, volume: Volume, depth: int = 32) -> Iterator[tuple[slice, ...]]:
    """Slabs of at most `depth` source slices, together all canonical voxels within the grid."""
    lie = find_layout(volume)
    low, high = (face[list(lie.order)] for face in grid.box((0, 0, 0), grid.shape))
    within = np.flatnonzero((low[0] <= lie.heights) & (lie.heights <= high[0]))
    for start in range(0, len(within), depth):
        part = within[start : start + depth]
        slab = [slice(int(part[0]), int(part[-1]) + 1)]
        for axis, firsts in ((1, lie.rows), (2, lie.columns)):
            count = volume.hu.shape[lie.order[axis]]
            first = math.floor((low[axis] - firsts[part].max()) / lie.pitch[axis])
            last = math.ceil((high[axis] - firsts[part].min()) / lie.pitch[axis])
            if axis == 2 and lie.skew:
                first, last = 0, count
            slab.append(slice(min(max(first, 0), count), min(max(last + 1, 0), count)))
        yield tuple(slab[axis] for axis in np.argsort(lie.order))


def check_grid(shape: tuple, affine: np.ndarray, path: str | Path, volume: Volume, advice: str):
    """Raise InputError unless a canonical shape and affine are those of `volume`.

    Corners may lie a tenth of a voxel apart. `path` is the file, `advice` what to do about it.
    """
    if shape != volume.hu.shape:
        raise InputError(
            f"{path} has shape {shape} and its scan {volume.path} {volume.hu.shape}; {advice}"
        )
    corners = np.indices((2, 2, 2)).reshape(3, 8) * np.subtract(shape, 1)[:, None]
    off = affine - volume.affine
    apart = np.linalg.norm(off[:3, :3] @ corners + off[:3, 3:], axis=0).max()
    if apart > 0.1 * volume.spacing.min():
        raise InputError(
            f"{path} lies {apart:.2f} mm off its scan {volume.path} (their affines differ); "
            f"{advice}"
        )
