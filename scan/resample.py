"""Resampling between a volume's own voxels and straight grids.

array, grid = straighten(volume.hu, volume, 1.5)      # 1.5 mm cubes, tilt and gaps undone
for region in cut_slabs(grid, volume):                # slabs of the scan's own voxels
    mask[region] = unstraighten(probability, grid, volume, region) > 0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import scipy  # scipy.sparse is loaded at its first use, which a picture does not have

from common import THREADS
from scan.hu import AIR
from scan.volume import Grid, Volume, find_layout, make_grid

NEAR = 1e-6  # of a pitch: room for rounding at a voxel's face


def straighten(
    array: np.ndarray,
    volume: Volume,
    spacing: float,
    box: np.ndarray | None = None,
    outside: float = AIR,
) -> tuple[np.ndarray, Grid]:
    """Resample an array on the volume's canonical voxels onto cubes along its own straight axes.

    Returns float32 in the axis order of `array`, and its Grid. Gantry tilt and uneven gaps are
    undone: every slice is put where it truly lies. Values are interpolated linearly. A cube wider
    than a voxel gets their mean over its width, another the value at its centre. box: (2, 3) mm in
    straight coordinates (see `Grid.box`), else the whole volume. It may reach beyond the scan:
    there, and in the corners that a tilt leaves, cubes are `outside`.
    """
    lie = find_layout(volume)
    grid = make_grid(lie, float(spacing), box)
    targets = [grid.centres[axis] for axis in lie.order]
    along = weigh(lie.heights, lie.pitch[0], targets[0], spacing)
    down = weigh_samples(lie.index[1], lie.pitch[1], targets[1], spacing)
    across = weigh_samples(lie.index[2], lie.pitch[2], targets[2], spacing)
    used = np.unique(along.indices)
    planes = np.empty((len(used), len(targets[1]), len(targets[2])), np.float32)
    slices = array.transpose(lie.order)

    def fill(n: int) -> None:
        k = used[n]
        picture = slices[k] - np.float32(outside)
        if lie.skew:
            shift = [-lie.skew, lie.index[2][0]]
            picture = shear(picture, shift, (len(lie.index[2]), len(picture)))
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
    as `cut_slabs` gives them. Beyond the grid it is zero.
    """
    lie = find_layout(volume)
    region = region or (slice(None),) * 3
    index = [np.arange(volume.hu.shape[axis])[region[axis]] for axis in lie.order]
    sources = [grid.centres[axis] for axis in lie.order]
    along = weigh(sources[0], grid.spacing, lie.heights[index[0]])
    down = weigh_targets(sources[1], grid.spacing, lie.pitch[1] * index[1])
    upright = lie.index[2] if lie.skew else index[2]
    across = weigh_targets(sources[2], grid.spacing, lie.pitch[2] * upright)
    planes = np.asarray(array, np.float32).transpose(lie.order)
    planes = (along @ planes.reshape(len(planes), -1)).reshape(-1, *planes.shape[1:])
    pictures = np.empty([len(i) for i in index], np.float32)

    def fill(n: int) -> None:
        k = index[0][n]
        picture = down(lie.rows[k]) @ (across(lie.columns[k]) @ planes[n].T).T
        if lie.skew:
            shift = [lie.skew, index[2][0] - upright[0] + lie.skew * index[1][0]]
            picture = shear(picture, shift, (len(index[2]), len(index[1])))
        pictures[n] = picture

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(pictures))))
    return pictures.transpose(np.argsort(lie.order))


def straighten_labels(labels: np.ndarray, volume: Volume, grid: Grid) -> np.ndarray:
    """The label of the nearest voxel at each centre of a straight grid; 0 beyond the volume.

    Like `straighten`, for values that must not be averaged: (X, Y, Z) of the canonical voxels in,
    the same type out. A slice reaches halfway to its neighbours, an end one half a pitch outwards.
    """
    lie = find_layout(volume)
    heights, rows, columns = (grid.centres[axis] for axis in lie.order)
    slices = labels.transpose(lie.order)
    taken = np.abs(heights[:, None] - lie.heights).argmin(1)
    found = np.zeros([len(heights), len(rows), len(columns)], labels.dtype)
    for n, k in enumerate(taken):
        if abs(heights[n] - lie.heights[k]) > lie.pitch[0] * (0.5 + NEAR):
            continue
        r = np.rint((rows - lie.rows[k]) / lie.pitch[1] - NEAR).astype(int)[:, None]
        c = (columns - lie.columns[k]) / lie.pitch[2] - lie.skew * r
        c = np.rint(c - NEAR).astype(int)
        covered = (r >= 0) & (r < slices.shape[1]) & (c >= 0) & (c < slices.shape[2])
        r = np.broadcast_to(r, c.shape)
        found[n][covered] = slices[k][r[covered], c[covered]]
    return found.transpose(np.argsort(lie.order))


def weigh(source, pitch: float, target, width: float = 0.0) -> scipy.sparse.csr_array:
    """(targets, samples): means of the linear interpolant over `width` around each target.

    A sample is already a mean over `pitch`, so only the missing width is averaged: variances of box
    kernels add, so that is sqrt(width^2 - pitch^2). The end samples reach half a pitch outwards;
    beyond, weights are missing.
    """
    width = math.sqrt(max(width**2 - pitch**2, 0))
    count = max(1, math.ceil(2 * width / pitch))
    points = target[:, None] + ((np.arange(count) + 0.5) / count - 0.5) * width
    below = np.clip(np.searchsorted(source, points) - 1, 0, max(len(source) - 2, 0))
    above = np.minimum(below + 1, len(source) - 1)
    share = (points - source[below]) / np.where(above > below, source[above] - source[below], 1)
    share = np.clip(share, 0, 1)
    margin = pitch * (0.5 + NEAR)
    covered = (points >= source[0] - margin) & (points <= source[-1] + margin)
    lines = np.broadcast_to(np.arange(len(target))[:, None], points.shape)
    values = np.concatenate([((1 - share) * covered).ravel(), (share * covered).ravel()]) / count
    entries = np.concatenate([lines.ravel()] * 2), np.concatenate([below.ravel(), above.ravel()])
    shape = (len(target), len(source))
    weights = scipy.sparse.coo_array((values.astype(np.float32), entries), shape).tocsr()
    weights.eliminate_zeros()
    return weights


def weigh_samples(index, pitch, target, width) -> Callable[[float], scipy.sparse.csr_array]:
    """Weights of samples at first + pitch * index; kept, as most slices start at one place."""
    return lru_cache(lambda first: weigh(first + pitch * index, pitch, target, width))


def weigh_targets(source, pitch, offsets) -> Callable[[float], scipy.sparse.csr_array]:
    """Weights of grid centres for targets at first + offsets, kept likewise."""
    return lru_cache(lambda first: weigh(source, pitch, first + offsets))


def shear(picture: np.ndarray, shift, size: tuple[int, int]) -> np.ndarray:
    """A picture of `size` (columns, rows) whose pixel (r, c) is that at (r, a * r + b + c).

    shift: (a, b). It makes a skew picture upright, or an upright one skew again.
    """
    across = np.array([[1, *shift], [0, 1, 0]])
    return cv2.warpAffine(picture, across, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
