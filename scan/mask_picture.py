"""Masks and labels in picture files: what is labelled, whatever its grey, colour or opacity.

mask, notes = read_noted_mask_picture("mask.png")      # (H, W) bool, of one label
labels = read_label_picture("labels.png")      # (H, W) uint8, the numbers of several
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from scan.picture import PNG, decode, read_content

SOFTENED = "its edges are softened: what is brighter than half was taken as the mask"
OPAQUE = "what is opaque was taken as the mask"
# How far from an edge, in pixels, a softened mask may hold a grey between the two modes, and one
# that is near a mode. JPEG rings within its blocks of 16 pixels; enlarging by 8 spreads over 4
BETWEEN, RINGING = 4, 16
# A picture of at most FEW values is none of JPEG: its edges are no wider than THIN pixels. By eye
FEW, THIN = 16, 2
# A softened mask has so many pixels of a grey elsewhere than at edges, at thin tips, and so large a
# share of its own; labels of their own have more. By trial on drawn masks and labels within them
TIPS, ODD = 4, 0.003
ANSWER = "store the one label that is meant as 255 and all else as 0"


def read_mask_picture(path: str | Path) -> np.ndarray:
    """A mask (H, W), bool, as `read_noted_mask_picture` gives it."""
    return read_noted_mask_picture(path)[0]


def read_noted_mask_picture(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """A mask (H, W), bool, of one label, and notes on what was made sure of.

    Black, transparency or number 0 of a palette is the background; the one other grey or colour is
    the mask. Edges that JPEG or resizing softened end at half. Raises InputError for several
    labels, of which it cannot know the one that is meant, and for a mask that looks inverted.
    """
    path = Path(path)
    content = read_content(path)
    image = decode(content, path)
    colours, alpha = split_alpha(image)
    if alpha is None:
        mask, notes = find_label(colours, content, path)
    else:
        mask, notes = find_opaque(colours, alpha, content, path)
    check_border(mask, path)
    return mask, notes


def read_label_picture(path: str | Path) -> np.ndarray:
    """Labels (H, W), uint8: the greys of a picture, or the numbers of its palette's colours.

    Raises InputError for colours without numbers, and for numbers over 255.
    """
    path = Path(path)
    content = read_content(path)
    colours, alpha = split_alpha(decode(content, path))
    labels = to_one_channel(colours)
    if labels is None and (labels := find_numbers(colours, content)) is None:
        raise InputError(f"{path} holds {list_values(colours)}; give numbers in place of colours")
    if labels.max() > 255:
        raise InputError(f"{path} holds {list_values(labels)}; give labels from 0 to 255")
    labels = labels.astype(np.uint8, copy=False)
    return labels if alpha is None else np.where(alpha > alpha.max() / 2, labels, np.uint8(0))


def read_asked_labels(path: str | Path, asked: Sequence[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (H, W), uint8, of which those of the numbers `asked` matter, and notes.

    Where only one is asked, a mask of about that number whose edges are softened is taken as well.
    Raises InputError as `read_label_picture` does, and for softened labels.
    """
    labels = read_label_picture(path)
    if np.isin(labels, (0, *asked)).all():
        return labels, ()
    if len(asked) == 1 and abs(int(labels.max()) - asked[0]) < 16 and is_softened(labels):
        return np.uint8(asked[0]) * (labels > labels.max() / 2), (SOFTENED,)
    if len(np.unique(labels)) > FEW:
        raise InputError(f"{path} holds {list_values(labels)}: these are no labels; store numbers")
    return labels, ()


# ---------------------------------------------------------------- channels


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours of a picture, and its opacity (H, W); None where that says nothing."""
    if image.ndim == 2 or image.shape[2] not in (2, 4):
        return image, None
    *colours, alpha = cv2.split(image)
    together = colours[0] if len(colours) == 1 else cv2.merge(colours)
    return together, alpha if alpha.min() < alpha.max() else None


def to_one_channel(colours: np.ndarray) -> np.ndarray | None:
    """The greys (H, W) of a picture whose channels are alike; None for colours."""
    if colours.ndim == 2:
        return colours
    first, *others = cv2.split(colours)
    return first if all(np.array_equal(first, other) for other in others) else None


def to_codes(colours: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), blue first, as one number each, red first: 0xrrggbb; 8 bits a channel."""
    if colours.dtype != np.uint8:
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    blue, green, red = (part.astype(np.uint32) for part in cv2.split(colours))
    return red << 16 | green << 8 | blue


def find_numbers(colours: np.ndarray, content: bytes) -> np.ndarray | None:
    """The numbers (H, W), uint8, of colours in the palette of a PNG; None without a palette."""
    start = content.find(b"PLTE", 0, 4096)  # it comes before the pixels
    if not content.startswith(PNG) or content[25] != 3 or start < 0:
        return None
    length = int.from_bytes(content[start - 4 : start], "big")
    palette = np.frombuffer(content, np.uint8, length, start + 4).reshape(1, -1, 3)
    codes = to_codes(np.ascontiguousarray(palette[..., ::-1]))[0]
    known, first = np.unique(codes, return_index=True)
    return first[np.searchsorted(known, to_codes(colours))].astype(np.uint8)


# ---------------------------------------------------------------- one label


def find_opaque(colours, alpha, content: bytes, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask in a picture of which a part is transparent: what is opaque.

    If the opaque part shows a few colours, these are labels, and the transparent one is background.
    """
    opaque, notes = find_label(alpha, content, path)
    shown = (colours if colours.ndim == 2 else to_codes(colours))[alpha == alpha.max()]
    if (shown == shown[0]).all() or len(np.unique(shown)) > FEW:
        return opaque, (OPAQUE, *notes)
    colours = colours.copy()
    colours[~opaque] = 0
    return find_label(colours, content, path)


def find_label(colours, content: bytes, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The one label of greys (H, W) or colours (H, W, 3), and notes; InputError for several."""
    grey = to_one_channel(colours)
    if grey is not None:
        level = grey
    else:
        level = np.maximum.reduce(cv2.split(colours))
        if level.all() and (numbers := find_numbers(colours, content)) is not None:
            return find_label(numbers, content, path)  # without black, number 0 is background
    most = level.max()
    mask = level > 0
    is_plain = np.array_equal(mask, level == most) or most == 0
    if is_plain and (grey is not None or is_one_colour(colours, mask)):
        return mask, ()
    if is_softened(level) and (grey is not None or is_one_hue(colours, level)):
        return level > most / 2, (SOFTENED,)
    raise InputError(f"{path} holds {list_values(colours)}, and one label is asked; {ANSWER}")


def is_one_colour(colours: np.ndarray, mask: np.ndarray) -> bool:
    """Whether colours (H, W, 3) are the same all over a mask (H, W)."""
    at = np.unravel_index(mask.argmax(), mask.shape)
    same = [
        part[mask] == value for part, value in zip(cv2.split(colours), colours[at], strict=True)
    ]
    return all(map(np.all, same))


def is_one_hue(colours: np.ndarray, level: np.ndarray) -> bool:
    """Whether the bright part of softened colours (H, W, 3) has one hue, but for its edges."""
    inside = cv2.erode((level > 0.75 * level.max()).view(np.uint8), square(BETWEEN)) > 0
    if not inside.any():
        return False
    hues = colours[inside] / np.float32(level.max())
    far = np.abs(hues - np.median(hues, axis=0)).max(axis=1) > 0.25
    return far.mean() <= ODD


def is_softened(level: np.ndarray) -> bool:
    """Whether brightness (H, W) has two modes, near black and at the top, and all else at edges."""
    seen = np.rint(level * np.float32(255 / level.max())).astype(np.uint8)
    counts = np.bincount(seen.ravel(), minlength=256)
    few = np.count_nonzero(counts) <= FEW
    low, high = seen < 64, seen > 191
    if not low.any():
        return False
    between = ~(low | high)
    off = ~between & (seen != counts[:64].argmax()) & (seen != 192 + counts[192:].argmax())
    odd = between & ~near_both(low, high, THIN if few else BETWEEN)
    odd |= (
        cv2.erode(off.view(np.uint8), square(THIN)) > 0
        if few
        else ~near_both(low, high, RINGING) & off
    )
    labelled = np.count_nonzero(high)
    return np.count_nonzero(between) <= labelled and np.count_nonzero(odd) <= TIPS + ODD * labelled


def near_both(low: np.ndarray, high: np.ndarray, reach: int) -> np.ndarray:
    """Where pixels of both masks lie within `reach` pixels."""
    near = [cv2.dilate(mask.view(np.uint8), square(reach)) for mask in (low, high)]
    return (near[0] & near[1]) > 0


def square(reach: int) -> np.ndarray:
    """The neighbourhood of a pixel, as OpenCV's filters take it."""
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


# ---------------------------------------------------------------- what is said


def check_border(mask: np.ndarray, path: Path) -> None:
    """Raise InputError for a mask that covers the picture's border and leaves something inside."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() > 0.9 and not mask.all():
        raise InputError(
            f"{path} labels the picture's border and leaves its middle: is it inverted? "
            "store the brain as 255 and all else as 0"
        )


def list_values(drawn: np.ndarray) -> str:
    """The commonest greys or colours of a picture, in order, with their share of its pixels."""
    is_grey = drawn.ndim == 2
    values, counts = np.unique(drawn if is_grey else to_codes(drawn), return_counts=True)
    names = [str(value) if is_grey else f"#{value:06x}" for value in values]
    commonest = np.sort(np.argsort(counts, kind="stable")[-8:])
    told = ", ".join(f"{names[n]} ({counts[n] / counts.sum():.1%})" for n in commonest)
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    return f"the {'values' if is_grey else 'colours'} {told}{more}"
