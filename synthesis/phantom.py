"""A label map of a head from nothing: ellipsoids for brain and skull, a face, neck and shoulders.

labels = make_phantom_labels(seed)      # (X, Y, Z) int16 at 1 mm, numbers as in `head.TISSUES`
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

SHAPE = (220, 240, 290)  # voxels of 1 mm
CENTRE = (110, 112, 185)  # voxel in the middle of the brain
FLATTER = 1.25  # the upper half of every ellipsoid is higher than the lower by this factor


class Axes(NamedTuple):
    """Coordinates in mm from the middle of the brain, float32, sparse: they broadcast."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def ball(self, centre, radii) -> np.ndarray:
        """Voxels (X, Y, Z) bool in an ellipsoid; centre (3,) and half axes (3,) in mm."""
        z = self.z * np.where(self.z > 0, 1, FLATTER)
        parts = zip((self.x, self.y, z), centre, radii, strict=True)
        return sum(np.abs((u - m) / r) ** 2 for u, m, r in parts) < 1


def make_phantom_labels(seed: int) -> np.ndarray:
    """Make a label map (X, Y, Z) int16 at 1 mm, the same for the same seed."""
    rng = np.random.default_rng([seed, 77])
    offsets = [np.arange(n, dtype=np.float32) - c for n, c in zip(SHAPE, CENTRE, strict=True)]
    axes = Axes(*np.meshgrid(*offsets, indexing="ij", sparse=True))
    size = rng.uniform((64, 80, 68), (72, 92, 78))  # half axes of the brain cavity, mm
    folds = rng.standard_normal(np.array(SHAPE) // 2).astype(np.float32)
    labels = np.zeros(SHAPE, np.int16)
    head = draw_head(labels, axes, size)
    draw_face(labels, axes)
    labels[~head] = 0
    draw_brain(labels, axes, size, ndimage.gaussian_filter(folds, 2.2))
    labels[~head] = 0
    return labels


def draw_head(labels: np.ndarray, axes: Axes, size: np.ndarray) -> np.ndarray:
    """Draw skin, muscle, spine and vault into `labels`; return where the head is (bool)."""
    x, y, z = axes
    neck = ((x / 58) ** 2 + ((y + 15) / 62) ** 2 < 1) & (z < -20)
    shoulders = (np.abs(x / 108) ** 3 + np.abs((y + 10) / 80) ** 3 < 1) & (z < -145)
    face = axes.ball((0, 45, -50), (58, 62, 62))
    head = axes.ball((0, 0, 0), size + 13) | neck | shoulders | face
    labels[head] = 511
    labels[ndimage.binary_erosion(head, iterations=3)] = 507
    for level in range(-165, -70, 17):  # vertebrae
        labels[(x**2 + (y + 22) ** 2 < 17**2) & (np.abs(z - level) < 7)] = 516
        labels[((x / 30) ** 2 + ((y + 48) / 14) ** 2 < 1) & (np.abs(z - level) < 4)] = 515
    for thickness, label in ((7, 515), (5, 516), (2, 515)):  # mm from the cavity
        labels[axes.ball((0, 0, 0), size + thickness)] = label
    return head


def draw_face(labels: np.ndarray, axes: Axes) -> None:
    """Draw petrous bones, nose, eyes, sinuses, airway and the neck's vessels into `labels`."""
    x, y, z = axes
    labels[(np.abs(x) > 22) & axes.ball((0, 5, -52), (62, 22, 14))] = 515  # petrous bones
    labels[axes.ball((0, 55, -55), (20, 32, 22))] = 509
    for side in (-1, 1):
        labels[axes.ball((side * 32, 86, -38), (13, 13, 13))] = 506
        labels[axes.ball((side * 30, 62, -62), (15, 18, 15))] = 0
        labels[((x - side * 30) ** 2 + y**2 < 3.5**2) & (z < -20)] = 502  # carotids
        labels[((x - side * 44) ** 2 + (y + 5) ** 2 < 5**2) & (z < -20)] = 514  # jugulars
    labels[((x / 9) ** 2 + ((y - 28) / 8) ** 2 + 0 * z < 1) & (z < -75)] = 0  # airway


def draw_brain(labels: np.ndarray, axes: Axes, size: np.ndarray, folds: np.ndarray) -> None:
    """Draw brain, ventricles, sagittal sinus, brainstem and cord into `labels`.

    Grey matter is where `folds`, smooth noise at 2 mm, is low.
    """
    x, y, z = axes
    cavity = axes.ball((0, 0, 0), size)
    labels[cavity] = 24
    folds = np.repeat(np.repeat(np.repeat(folds, 2, 0), 2, 1), 2, 2)[:, :, : SHAPE[2]]
    brain = axes.ball((0, 0, 0), size - 4) & (np.abs(x) > 1.5)
    labels[brain & (folds < 0.02)] = 3
    labels[brain & axes.ball((0, 0, 0), size - 14)] = 2
    labels[axes.ball((0, -45, -38), (45, 28, 22)) & cavity] = 8
    for side in (-1, 1):
        labels[axes.ball((side * 12, 0, 12), (7, 34, 13))] = 4
    labels[cavity & (x**2 / 25 + (y + size[1] - 2) ** 2 / 60 + 0 * z < 1)] = 514  # sagittal sinus
    bottom = -size[2] / FLATTER
    labels[(x**2 + (y + 18) ** 2 < 15**2) & (z < bottom + 12)] = 24  # the canal
    stem = (x**2 + (y + 18) ** 2 < 9**2) & (z < -15)
    labels[stem & (z >= bottom - 4)] = 16
    labels[stem & (z < bottom - 4)] = 512
