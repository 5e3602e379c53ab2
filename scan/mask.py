"""A mask on an array's voxels: which are labelled, its largest part, its box, its overlap, doubts.

mask, notes = to_one_label(drawn, path)  # of one label, whatever its value
doubt_mask(mask, scan.hu)              # why it cannot be the brain of that head; () if it can
mask[find_box(mask, 5)]                # the mask and five voxels around it
grow_mask(mask, scan.spacing, -2.0)    # 2 mm smaller
"""

from __future__ import annotations

import cc3d
import fill_voids
import numpy as np
import scipy  # scipy.ndimage takes 0.3 s to load, at its first use, which a picture does not have

from common.errors import InputError
from scan.hu import BODY, BONE

FEW = 16  # values: softened masks have more, labels seldom. By eye
# SMALL: share of the head in the slice with most of the mask; of a brain it is 0.4 to 0.8, at the
# base of the skull 0.15. IN_BONE, IN_AIR: shares of a mask; a brain's edge may hold some 0.05 of
# bone, a head some 0.15; and air is in a brain after surgery alone. By eye
SMALL, IN_BONE, IN_AIR = 0.1, 0.1, 0.2


# ---------------------------------------------------------------- which voxels are labelled


def to_one_label(drawn: np.ndarray, path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The one label (X, Y, Z), bool, of a drawn volume, and notes on it.

    All that is not 0 is the mask, if it has one value. Of a mask that was resampled, what is over
    half is. Raises InputError for several labels, of which it cannot know the one that is meant.
    """
    most = float(np.nanmax(drawn))
    mask = drawn == most
    zeros = np.count_nonzero((drawn == 0) | (drawn != drawn))  # NaN is not drawn
    if zeros == drawn.size:
        return np.zeros(drawn.shape, bool), ()
    if most > 0 and np.count_nonzero(mask) + zeros == drawn.size:
        return mask, () if most == round(most) else (f"{most:.4g} was taken as the label",)
    values, counts = np.unique(drawn[np.nan_to_num(drawn) != 0], return_counts=True)
    if most > 0 and is_resampled(values / most, counts):
        return drawn > most / 2, (
            "its edges are softened: what is over half was taken as the mask",
        )
    shares = [f"{v:.4g} ({n / drawn.size:.1%})" for v, n in zip(values, counts, strict=True)]
    told = ", ".join(shares[:8]) + f" and {len(values) - 8} more" * (len(values) > 8)
    raise InputError(
        f"{path} holds the values {told}, and one label is asked; store the one that is meant as 1 "
        "and all else as 0"
    )


def is_resampled(values: np.ndarray, counts: np.ndarray) -> bool:
    """Whether values other than 0, the largest 1, and their counts are those of a mask resampled.

    Then most voxels are near 1, and the rest have many values, none of which is frequent.
    """
    near, low = values > 0.75, np.abs(values) < 1e-3
    rest = counts[~near & ~low]
    full = counts[near].sum()
    if values.min() < -0.25 or rest.sum() > full:
        return False
    exact = np.isclose(values, 1, atol=1e-3)
    return len(values) > FEW and rest.max(initial=0) < 0.3 * rest.sum() or (exact | low).all()


def doubt_mask(mask: np.ndarray, hu: np.ndarray) -> str:
    """Why a mask (X, Y, Z), bool, cannot be the brain of a head in HU (X, Y, Z); "" if it can."""
    count = np.count_nonzero(mask)
    if count in (0, mask.size):
        return "is empty" if count == 0 else "labels the whole scan"
    body = hu > BODY
    if body.all():  # without air these are no HU
        return ""
    in_air = 1 - np.count_nonzero(body & mask) / count
    if in_air > IN_AIR:
        return f"lies in air with {in_air:.0%} of it (inverted, or drawn on another scan?)"
    in_bone = np.count_nonzero((hu > BONE) & mask) / count
    if in_bone > IN_BONE:
        return f"holds {in_bone:.0%} of bone: far too large for a brain"
    areas = np.count_nonzero(mask, axis=(0, 1))
    largest = areas.argmax()
    share = areas[largest] / max(1, np.count_nonzero(body[..., largest]))
    small = f"covers {share:.1%} of the head in its largest slice: far too small for a brain"
    return small if share < SMALL else ""


# ---------------------------------------------------------------- its shape


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
