"""The mask's edge at the scan's own resolution: the last voxel that shows no bone.

The network says on cubes of 1.5 mm what lies inside the skull. People who draw a mask stop at the
first voxel that is brighter than the brain, in thick slices too: bone in a voxel makes it brighter.
Contrast and fresh blood are as bright without any bone. The network knows them, so they stay. In
thin slices with contrast, vessels are followed from where the network knows them.
"""

from __future__ import annotations

from typing import NamedTuple

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
CONTRAST = (120.0, 600.0)  # HU of vessels in a CTA: above fresh blood, below metal
NOISE = 0.4  # mm: standard deviation of the blur, in a slice, that takes a scan's noise off


class Inside(NamedTuple):
    """What the network says about a head.

    share, hyperdense: (X, Y, Z) float32, the probability that a cube lies inside the skull, and
    that it is bright there; hu: the brain's median HU.
    """

    share: np.ndarray
    hyperdense: np.ndarray
    hu: float


def find_inside(
    share: np.ndarray, hyperdense: np.ndarray, cubes: np.ndarray, thickness: float
) -> Inside:
    """The Inside of a scan with voxels up to `thickness` mm long; from probabilities and HU, each
    (X, Y, Z) on cubes."""
    if thickness <= THIN_SLICES:
        vessels = find_vessels(share, hyperdense, cubes)
        share, hyperdense = (np.where(vessels, np.float32(1), f) for f in (share, hyperdense))
    deep = scipy.ndimage.binary_erosion(share > 0.5, iterations=3)
    brain = cubes[deep if deep.any() else share > 0.5]
    return Inside(share, hyperdense, float(np.median(brain)))


def find_vessels(share: np.ndarray, hyperdense: np.ndarray, cubes: np.ndarray) -> np.ndarray:
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
    near = scipy.ndimage.binary_dilation(share > 0.5, iterations=3)
    bright = (cubes > low) & (cubes < high) & near
    known &= bright
    thick = scipy.ndimage.binary_opening(bright, np.ones((2, 2, 2))) | known
    followed = scipy.ndimage.binary_dilation(known, iterations=STEPS, mask=thick)
    half_known = (hyperdense > HYPERDENSE / 2) | (share > 0.5)
    return bright & (scipy.ndimage.binary_dilation(followed) | half_known)


def decide(hu, share, hyperdense, brain: float) -> np.ndarray:
    """Which voxels (…) of HU are in the mask, bool.

    A voxel is in where the network takes it for inside the skull. One as bright as bone must be
    surely inside, or known as bright. `share` and `hyperdense` are as in `Inside`, `brain` is its
    `hu`.
    """
    bright = (share > BRIGHT) | (hyperdense > HYPERDENSE)
    return np.where(hu < brain + SHOWS_BONE, share > LIKELY, bright)


def smoothed(hu: np.ndarray, spacing: np.ndarray, axis: int) -> np.ndarray:
    """HU (X, Y, Z) as float32, blurred by NOISE in every slice across `axis`."""
    rows, columns = (NOISE / mm for mm in np.delete(spacing, axis))
    slices = np.moveaxis(hu, axis, 0)
    blurred = [
        cv2.GaussianBlur(np.ascontiguousarray(s, np.float32), (5, 5), columns, sigmaY=rows)
        for s in slices
    ]
    return np.moveaxis(np.stack(blurred), 0, axis)
