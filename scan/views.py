"""A volume as pictures and back, fitted to a square, and scaled as a network sees it.

pictures = stack(array, "coronal")                     # (N, H, W), as a radiologist sees them
square, place = fit_square(pictures[0], 192, outside=air_of(pictures))
seen = normalise(square)                               # float32 in [0, 1]
picture = unfit_square(probability, place)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from scan.hu import AIR

WINDOW = (-200.0, 800.0)  # HU: from fat to dense contrast and the face of bone; round numbers
VIEWS = ("axial", "coronal", "sagittal")


# ---------------------------------------------------------------- what a network sees


def normalise(image: np.ndarray, window: tuple[float, float] | str | None = None) -> np.ndarray:
    """What a network sees, float32 in [0, 1].

    A uint8 picture was windowed by whoever made it, and is divided by 255. Any other type is HU,
    seen through `window` (lo, hi), else WINDOW. Where `window` is one of SCALES, the image is a
    whole MRI (X, Y, Z, C): each channel is scaled by its voxels within the brain, which get 1/255
    and more; all others get 0.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if window in SCALES:
        seen, brain = np.zeros(image.shape, np.float32), brain_of(image)
        for channel in range(image.shape[-1]) if brain.any() else ():
            values = image[..., channel][brain].astype(np.float32)
            seen[..., channel][brain] = (1 + 254 * SCALES[window](values)) / 255
        return seen
    low, high = window or WINDOW
    scaled = (image.astype(np.float32) - low) / (high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def zscore(values: np.ndarray) -> np.ndarray:
    """0 .. 1 of -4 .. 4 standard deviations from the mean."""
    mean, spread = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return np.clip((values - mean) / max(spread, 1e-9) / 8 + 0.5, 0, 1)


def minmax(values: np.ndarray) -> np.ndarray:
    """0 .. 1 of the least to the greatest value, but for a thousandth of them at either end."""
    low, high = np.percentile(values, (0.1, 99.9))
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


SCALES = {"zscore": zscore, "minmax": minmax}


def brain_of(image: np.ndarray) -> np.ndarray:
    """Where a skull-stripped MRI (X, Y, Z, C) shows something in any channel: (X, Y, Z) bool.

    Outside the brain a channel has one value, not always 0: that of most voxels of its faces.
    """
    brain = np.zeros(image.shape[:3], bool)
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        faces = [values.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]
        found, counts = np.unique(np.concatenate(faces), return_counts=True)
        brain |= values != found[counts.argmax()]
    return brain


def air_of(image: np.ndarray) -> int:
    """Air around the picture: black, or -1024 HU."""
    return 0 if image.dtype == np.uint8 else AIR


# ---------------------------------------------------------------- three views of a volume

# By view: the array's axes as slices, rows, columns, and how these run along the array's axes
AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
DIRECTIONS = {
    "axial": np.s_[::-1, ::-1, :],
    "coronal": np.s_[::-1, :, ::-1],
    "sagittal": np.s_[:, ::-1, ::-1],
}
SIDES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}  # where left and right of a picture lie


def stack(array: np.ndarray, view: str) -> np.ndarray:
    """Pictures (N, H, W) of an (X, Y, Z) RAS+ array as a radiologist sees them; no copy.

    axial: front up, the patient's right on the left, from the feet upwards; coronal: head up, right
    on the left, from the back forwards; sagittal: head up, front on the left, from the left to the
    right. A last axis of channels stays the last.
    """
    return array[DIRECTIONS[view]].transpose(*AXES[view], *range(3, array.ndim))


def unstack(pictures: np.ndarray, view: str) -> np.ndarray:
    """The (X, Y, Z) RAS+ array of pictures (N, H, W): the exact inverse of `stack`; no copy."""
    back = np.argsort(AXES[view]).tolist()
    return pictures.transpose(*back, *range(3, pictures.ndim))[DIRECTIONS[view]]


def pixel_spacing(spacing: Sequence[float], view: str) -> tuple[float, float]:
    """(row, column) spacing in mm of a view's pictures, for voxels of `spacing` (x, y, z) mm."""
    _, row, column = AXES[view]
    return float(spacing[row]), float(spacing[column])


# ---------------------------------------------------------------- a picture in a square


@dataclass(frozen=True)
class Placement:
    """Where `fit_square` put a picture of `shape` (H, W): its box in the square, in pixels."""

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def fit_square(
    picture: np.ndarray,
    size: int,
    is_mask: bool = False,
    spacing: tuple[float, float] = (1.0, 1.0),
    outside: float = 0,
) -> tuple[np.ndarray, Placement]:
    """A (size, size) picture that holds all of an (H, W[, C]) one, centred, and where it was put.

    Pixels of `spacing` (row, column; any unit) become square; the rest of the square is `outside`.
    uint8 stays uint8, anything else becomes float32; a mask (any type, true above 0) becomes
    uint8, strictly 0 or 255, by a threshold of 0.5 on the area.
    """
    place = find_placement(picture.shape[:2], size, spacing)
    if is_mask:
        picture = picture > 0
    square = put(resize(picture, place.height, place.width), size, place, outside)
    return (np.uint8(255) * (square >= 0.5) if is_mask else square), place


def fit_labels(
    labels: np.ndarray, size: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, Placement]:
    """Like `fit_square`, for uint8 labels (H, W): each pixel gets that of the nearest one."""
    place = find_placement(labels.shape, size, spacing)
    labels, shape = np.ascontiguousarray(labels), (place.width, place.height)
    small = cv2.resize(labels, shape, interpolation=cv2.INTER_NEAREST_EXACT)
    return put(small, size, place, 0), place


def unfit_square(picture: np.ndarray, place: Placement) -> np.ndarray:
    """The (H, W[, C]) picture that `fit_square` placed in `picture`, at its own size; linear."""
    box = picture[place.top : place.top + place.height, place.left : place.left + place.width]
    return resize(box, *place.shape)


def find_placement(shape: tuple, size: int, spacing: tuple[float, float]) -> Placement:
    """Where a picture of `shape` (H, W) goes in the square."""
    extent = np.multiply(shape, spacing)
    height, width = np.maximum(1, np.rint(extent * size / extent.max())).astype(int).tolist()
    return Placement(tuple(shape), (size - height) // 2, (size - width) // 2, height, width)


def put(small: np.ndarray, size: int, place: Placement, outside: float) -> np.ndarray:
    """A square of `outside` with a picture at its place."""
    square = np.full((size, size, *small.shape[2:]), outside, small.dtype)
    square[place.top : place.top + place.height, place.left : place.left + place.width] = small
    return square


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over areas along the axes that shrink, linear along those that grow."""
    picture = np.ascontiguousarray(picture, np.uint8 if picture.dtype == np.uint8 else np.float32)
    smaller, channels = np.minimum((width, height), picture.shape[1::-1]), picture.shape[2:]
    picture = cv2.resize(picture, smaller.tolist(), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture.reshape(height, width, *channels)  # OpenCV drops an axis of one channel
