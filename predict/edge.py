"""The mask's edge at the scan's own resolution: the last voxel that shows no bone.

The network says on cubes of 1.5 mm what lies inside the skull. People who draw a mask stop at the
first voxel that is brighter than the brain, in thick slices too: bone in a voxel makes it brighter.
Contrast and fresh blood are as bright without any bone. The network knows them, so they stay. In
thin slices with contrast, vessels are followed from where the network knows them.
"""

from __future__ import annotations

import cv2
import numpy as np
import scipy  # scipy.ndimage takes 0.3 s to load, at its first use: a picture needs none of it

# HU above the brain: a brighter voxel holds a tenth of bone (synthesis.ct.BONE_SHARE) or more, for
# bone of some 700 HU
SHOWS_BONE = 70.0
# LIKELY: a voxel without bone needs this probability of being inside the skull. BRIGHT: a voxel as
# bright as bone needs this one; or it needs HYPERDENSE of being a bright thing inside. Chosen on
# three real scans (benchmarks/README.md)
LIKELY, BRIGHT, HYPERDENSE = 0.4, 0.7, 0.3
# Vessels are followed in slices of at most THIN_SLICES mm, if KNOWN cubes or more are surely
# contrast. They have at most BRIGHTER times the HU of nine in ten of these, and lie at most STEPS
# cubes from them. Chosen on two synthetic CTAs
THIN_SLICES, KNOWN, BRIGHTER, STEPS = 2.0, 12, 1.15, 8
DEEP = 3  # cubes from the network's border, inwards and outwards: a round number
CONTRAST = (120.0, 600.0)  # HU of vessels in a CTA: above fresh blood, below metal
NOISE = 0.4  # mm: standard deviation of the blur, in a slice, that takes a scan's noise off


def measure_brain(inside: np.ndarray, cubes: np.ndarray) -> float:
    """The brain's median HU, away from its border (DEEP) where there is so much of it."""
    deep = scipy.ndimage.binary_erosion(inside > 0.5, iterations=DEEP)
    return float(np.median(cubes[deep if deep.any() else inside > 0.5]))


def find_vessels(inside: np.ndarray, hyperdense: np.ndarray, cubes: np.ndarray) -> np.ndarray:
    """Cubes (X, Y, Z), bool, in vessels full of contrast; none where there is hardly any contrast.

    They are as bright as the vessels that the network surely knows. A path of bright cubes, two
    thick, joins them to these; the blurred face of bone is thinner. Or the network gives them half
    of the usual probability.
    """
    low, high = CONTRAST
    known = (hyperdense > 0.5) & (cubes > low)
    if np.count_nonzero(known) < KNOWN:
        return np.zeros_like(known)
    high = min(high, BRIGHTER * np.quantile(cubes[known], 0.9))
    near = scipy.ndimage.binary_dilation(inside > 0.5, iterations=DEEP)
    bright = (cubes > low) & (cubes < high) & near
    known &= bright
    thick = scipy.ndimage.binary_opening(bright, np.ones((2, 2, 2))) | known
    followed = scipy.ndimage.binary_dilation(known, iterations=STEPS, mask=thick)
    half_known = (hyperdense > HYPERDENSE / 2) | (inside > 0.5)
    return bright & (scipy.ndimage.binary_dilation(followed) | half_known)


def decide(hu, inside, hyperdense, brain_hu: float) -> np.ndarray:
    """Which voxels (…) of HU are in the mask, bool.

    A voxel is in where the network takes it for inside the skull. One as bright as bone must be
    surely inside, or known as bright. `inside` and `hyperdense` are the probabilities of both.
    """
    bright = (inside > BRIGHT) | (hyperdense > HYPERDENSE)
    return np.where(hu < brain_hu + SHOWS_BONE, inside > LIKELY, bright)


def smooth_slices(hu: np.ndarray, spacing: np.ndarray, axis: int) -> np.ndarray:
    """HU (X, Y, Z) as float32, blurred by NOISE in every slice across `axis`."""
    rows, columns = (NOISE / mm for mm in np.delete(spacing, axis))
    slices = np.moveaxis(hu, axis, 0)
    blurred = [
        cv2.GaussianBlur(np.ascontiguousarray(s, np.float32), (5, 5), columns, sigmaY=rows)
        for s in slices
    ]
    return np.moveaxis(np.stack(blurred), 0, axis)
