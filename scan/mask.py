"""Geometry of a mask on an array's voxels: its largest part, its holes, its box, its overlap.

mask[find_box(mask, 5)]                # the mask and five voxels around it
grow_mask(mask, scan.spacing, -2.0)    # 2 mm smaller
"""

from __future__ import annotations

import cc3d
import fill_voids
import numpy as np
import scipy  # scipy.ndimage takes 0.3 s to load, at its first use, which a picture does not have


def tidy_mask(mask: np.ndarray) -> np.ndarray:
    """Reduce a mask (X, Y, Z) to its largest part without holes, in place; return it."""
    if mask.any():
        box = find_box(mask, 0)  # far quicker than all of a large scan
        mask[box] = fill_voids.fill(keep_largest(np.array(mask[box], order="K")))
    return mask


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask (X, Y, Z) whose voxels touch by faces; an empty one as it is."""
    return cc3d.largest_k(mask, k=1, connectivity=6, binary_image=True) > 0


def grow_mask(mask: np.ndarray, spacing, mm: float) -> np.ndarray:
    """A mask (X, Y, Z) grown by `mm` in all directions, or shrunk where negative.

    Distances are Euclidean, between the centres of voxels of `spacing` (3,) mm. A face of the scan
    is no border: where it cuts the mask, the mask does not shrink.
    """
    if mm == 0 or not mask.any():
        return mask
    reach = np.ceil(abs(mm) / np.asarray(spacing)).astype(int) + 1
    box = find_box(mask, reach)
    part = mask[box]
    if part.all() and mm < 0:
        return mask
    away = scipy.ndimage.distance_transform_edt(~part if mm > 0 else part, sampling=spacing)
    grown = np.zeros_like(mask)
    # 1e-6 mm more, for distances that are not exact in binary
    grown[box] = away <= mm + 1e-6 if mm > 0 else away > 1e-6 - mm
    return grown


def find_ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first voxel (3,) of a mask (X, Y, Z) along each axis, and the one after its last."""
    lines = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([line[0] for line in lines]), np.array([line[-1] + 1 for line in lines])


def find_box(mask: np.ndarray, margin) -> tuple[slice, ...]:
    """The box of a mask (X, Y, Z) with `margin` voxels, one number or three, on every side."""
    low, high = find_ends(mask)
    low = np.maximum(low - np.ceil(margin), 0).astype(int)
    high = np.minimum(high + np.ceil(margin), mask.shape).astype(int)
    return tuple(map(slice, low.tolist(), high.tolist()))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks; 1 when both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0
