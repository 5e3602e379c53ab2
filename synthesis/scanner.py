"""How a CT scanner shows a head: its blur, pixels and slices, its noise and its range of HU."""

import numpy as np
from scipy import ndimage

from scan.hu import AIR
from synthesis.space import Look, smooth_noise
from synthesis.surroundings import BRIGHTEST


def scan_arrays(arrays, look: Look, stored: bool, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """Show (X, Y, Z) arrays as a scanner resolves them: its blur, pixels and slices.

    Returns them as float32, and the height of each slice in voxels of what came in. `stored` is as
    in `ct.make_scan`.
    """
    step, own = look.spacing, int(rng.integers(2**31))
    seen = []
    for array in arrays:
        array = ndimage.gaussian_filter(array, look.sharpness / step)
        if look.pixel > 1.2 * step:
            array = coarse_pixels(array, look.pixel / step)
        heights = np.arange(array.shape[2], dtype=float)
        slices = look.thickness / step
        if slices > 1.2:
            means, middles = thick_slices(array, slices, np.random.default_rng(own))
            if stored:
                array, heights = means, middles
            else:  # as a prediction interpolates them
                array = at_heights(means, np.interp(heights, middles, np.arange(len(middles))))
        seen.append(array.astype(np.float32))
    return seen, heights


def add_scanner_noise(hu: np.ndarray, look: Look, rng) -> np.ndarray:
    """Add a scanner's shading, noise, kernel and clipping; return the new HU."""
    if rng.random() < 0.3:  # beam hardening, cupping
        hu = hu + rng.uniform(1, 8) * smooth_noise(hu.shape, rng, 50 / look.spacing)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [rng.uniform(0.3, 1.1)] * 2 + [0.3])
    hu = hu + look.noise * grain / grain.std()
    if rng.random() < 0.3:  # a sharp kernel overshoots within a slice
        hu = hu + rng.uniform(0.2, 0.8) * (hu - ndimage.gaussian_filter(hu, (1, 1, 0)))
    if rng.random() < 0.3:  # round reconstruction field
        x, y = (np.arange(n) - (n - 1) / 2 for n in hu.shape[:2])
        hu[x[:, None] ** 2 + y**2 > (min(hu.shape[:2]) / 2) ** 2] = AIR
    return np.clip(hu, AIR, BRIGHTEST).astype(np.float32)


def coarse_pixels(hu: np.ndarray, size: float) -> np.ndarray:
    """`hu` as slices with pixels `size` voxels wide show it, interpolated back."""
    means = ndimage.uniform_filter(hu, (size, size, 0))
    low = ndimage.zoom(means, (1 / size, 1 / size, 1), order=1)
    return ndimage.zoom(low, np.divide(hu.shape, low.shape), order=1)


def thick_slices(hu: np.ndarray, count: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """`hu` averaged over slices `count` voxels thick, and the slices' middles in voxels."""
    depth = hu.shape[2]
    edges = np.arange(rng.uniform(0, count), depth, count)
    if len(edges) < 4:
        return hu, np.arange(depth, dtype=float)
    total = np.concatenate([np.zeros_like(hu[..., :1]), hu.cumsum(2, dtype=np.float64)], 2)
    means = np.diff(at_heights(total, edges), axis=2) / count
    return means, (edges[1:] + edges[:-1]) / 2 - 0.5


def at_heights(array: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The values of an (X, Y, Z) array at `heights` along z (voxels), linear in between."""
    heights = np.clip(heights, 0, array.shape[2] - 1)
    low = np.minimum(heights.astype(int), array.shape[2] - 2)
    share = (heights - low).astype(np.float32)
    return array[..., low] * (1 - share) + array[..., low + 1] * share
