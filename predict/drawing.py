"""Pictures of a result: a mask as a picture, its outline on a slice, a sheet of a scan's slices."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from common.card import Card, to_stored_values
from common.errors import replacing
from common.report import draw_labels, draw_mask, make_sheet
from scan.mask import find_box
from scan.picture import write_picture
from scan.views import VIEWS, normalise, pixel_spacing, stack
from scan.volume import Volume, find_thin_axis

OVERLAY_WINDOW = (-100.0, 300.0)  # HU: the inner table is white, the brain grey
AROUND = 40.0  # mm around a brain: face and neck, in which a mask may have leaked, but no shoulders


def to_stored(mask: np.ndarray, card: Card) -> np.ndarray:
    """A mask as a file holds it: 0 and 255 for bool, the card's own values for labels."""
    if mask.dtype == bool:
        return np.uint8(255) * mask
    return to_stored_values(mask, card.label_values.values())


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A grey picture with the outline of its mask, or with its labels in colours."""
    return (draw_mask if mask.dtype == bool else draw_labels)(picture, mask)


def as_grey(picture: np.ndarray) -> np.ndarray:
    """A picture as uint8 (H, W): the first channel of an MRI, HU in the window of a CTA."""
    if picture.dtype == np.uint8:
        return picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., 0])
    return np.rint(255 * normalise(picture, OVERLAY_WINDOW)).astype(np.uint8)


def draw_scan(scan: Volume, mask: np.ndarray, most: int = 40, height: int = 256) -> np.ndarray:
    """An RGB sheet of a scan's slices with its mask's outline, or with its labels in colours.

    It shows at most `most` axial slices, two coronal and two sagittal ones, `height` pixels high;
    of a thin scan its own slices alone. The scan is in HU, or grey (uint8). What is drawn ends
    AROUND a brain.
    """
    tiles, axis = [], find_thin_axis(scan)
    views = VIEWS if axis is None else VIEWS[2 - axis :][:1]  # axial lies across z, sagittal x
    hu = scan.hu
    if mask.dtype == bool and mask.any():
        box = find_box(mask, np.divide(AROUND, scan.spacing))
        hu, mask = hu[box], mask[box]
    for view in views:
        pictures, masks = stack(hu, view), stack(mask, view)
        size = np.multiply(pictures.shape[1:], pixel_spacing(scan.spacing, view))
        width, tall = (max(1, round(s * height / size.max())) for s in (size[1], size[0]))
        for index in choose_shown(masks, most if view == views[0] else 2):
            picture = as_grey(np.ascontiguousarray(pictures[index]))
            picture = cv2.resize(picture, (width, tall), interpolation=cv2.INTER_AREA)
            tiles.append(outlined(picture, resize_mask(masks[index], width, tall)))
    return make_sheet(tiles)


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask (H, W) in another size: by half of each pixel's area, labels by the nearest pixel."""
    if mask.dtype != bool:
        mask = np.ascontiguousarray(mask)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    area = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return area > 0.5


def choose_shown(masks: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` evenly spaced slices, top first, with a brain in them if any."""
    hit = np.flatnonzero(masks.any(axis=(1, 2)))
    span = np.arange(hit[0], hit[-1] + 1) if len(hit) else np.arange(len(masks))
    if most < len(span):
        edges = np.linspace(0, len(span), most + 1)
        span = span[((edges[1:] + edges[:-1]) / 2).astype(int)]
    return span[::-1]


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) uint8 picture, whole or not at all."""
    with replacing(path) as temporary:
        write_picture(temporary, image)
