"""From an array as a file stores it, with its affine, to a Volume in canonical orientation.

volume = to_volume(array, affine, header, "scan", path, notes)
volume = make_volume(array, affine, "phantom")         # of an array that comes from no file
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError
from scan.hu import clean_values
from scan.nib import nib
from scan.volume import POSITIONS, Volume

LONGEST = 2500.0  # mm: no scanner's table is longer
AS_IS = np.array([[0, 1], [1, 1], [2, 1]])  # the orientation of a RAS+ array


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
    place = (int(axis), shifts, position, slices)
    return Volume(hu, affine_of_hu, name, path, (*notes, *found), header, orientation, *place)


def make_volume(array: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """A Volume of a RAS+ array (X, Y, Z) that comes from no file."""
    header = nib.Nifti1Image(array, affine).header
    return Volume(array, affine, name, Path(name), (), header, AS_IS)


def to_source_order(array: np.ndarray, volume: Volume) -> np.ndarray:
    """A canonical array as the volume's source stores it."""
    if array.shape != volume.hu.shape:
        raise ValueError(f"mask of shape {array.shape} for a scan of {volume.hu.shape}")
    back = nib.orientations.ornt_transform(AS_IS, volume.orientation)
    return nib.apply_orientation(array, back)


def check_affine(affine: np.ndarray, shape, path: str | Path) -> None:
    """Raise InputError for an affine without 3-D geometry, or of a scan longer than any table."""
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        upright = abs(np.linalg.det(affine[:3, :3] / sizes))
    if not (np.isfinite(affine).all() and upright > 1e-3):
        raise InputError(f"{path} has a singular affine (no 3-D geometry); repair its header")
    length = (sizes * shape[:3]).max()
    if length > LONGEST:
        raise InputError(f"{path} is {length / 1000:.1f} m long by its header; repair its spacing")


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
