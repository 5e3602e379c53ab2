"""Values of a CT in HU: the constants, whether values can be HU of a head, and how they are mended.

hu, notes = clean_values(stored)     # no NaN, no padding, int16 where nothing is lost
hu, notes = to_hu(hu)                # stored values whose intercept is missing become HU
reasons = doubt_hu(hu)               # why these cannot be HU of a head; () if they can
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

AIR = -1024  # HU: nothing is darker; padding, also where lossy compression blurred it, becomes AIR
PADDING = (-1500, -2000, -3024)  # HU: what scanners write outside their round field of view
# HU, round numbers: bone is brighter than BONE, tissue than BODY; air is darker than BLANK
BONE, BODY, BLANK = 250.0, -300.0, -950.0
HAS_BONE = 0.001  # of a scan's voxels: a head has more of bone; chosen by eye
LOWEST_AIR, HIGHEST_AIR = -1100.0, -900.0  # HU: air on a scanner a little off; round numbers
FEW = 0.02  # of voxels, a round number: noise may lie below the air, and air is more
STORED = 1024  # scanners add this to HU so that stored values are positive
TOO_LOW = (1024, 32768)  # an intercept that was applied twice; one that unsigned values need
SOFT = (-150.0, 150.0)  # HU: the commonest value of a body, be it fat, muscle or brain, lies here
LARGEST = 1e6  # HU: a larger value, such as the largest float32, stands for no number
# mm2: the foramen magnum (some 800: Gruber et al., Int J Legal Med 2009) with the mask's error
FORAMEN_AREA = 900.0


def clean_values(array: np.ndarray, is_hu: bool = True) -> tuple[np.ndarray, list[str]]:
    """Values without NaN, and HU without padding; int16 where no value is lost; notes on it."""
    notes, nothing = [], AIR if is_hu else 0
    if array.dtype.kind == "f":
        most = LARGEST if is_hu else np.inf
        strange = sum(int((~(np.abs(part) < most)).sum()) for part in chunks(array))
        if strange:
            array = np.where(np.abs(array) < most, array, array.dtype.type(nothing))
            taken = "air" if is_hu else "0"
            which = "NaN, infinite or over a million" if is_hu else "NaN or infinite"
            notes.append(f"{strange} voxels that are no number ({which}) taken as {taken}")
    if is_hu:
        array, found = remove_shift(array)
        notes += found
    limits = np.iinfo(np.int16)
    low, high = array.min(), array.max()
    fits = limits.min <= low and high <= limits.max
    whole = array.dtype.kind != "f" or all((p == np.rint(p)).all() for p in chunks(array))
    array = array.astype(np.int16 if fits and whole else np.float32, copy=False)
    if is_hu and low < AIR:
        array = np.maximum(array, AIR, out=array if array.flags.writeable else None)
        if low <= max(PADDING):
            notes.append("padding taken as air")
    return array, notes


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a few MB each, along the axis that lies farthest apart in memory."""
    array = np.moveaxis(array, int(np.argmax(np.abs(array.strides))), 0)
    return (array[start : start + 8] for start in range(0, len(array), 8))


def remove_shift(array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Values without a shift far below HU, and a note where they plainly had one.

    An intercept that was applied twice, or one for unsigned values, puts air and body too low.
    """
    sample = thin_sample(array)
    if sample.min() > 2 * AIR + 100 or not doubt_hu(np.maximum(sample, AIR)):
        return array, []
    sample = sample.astype(np.float32)
    for shift in () if has_brain(sample) else TOO_LOW:
        shifted = np.maximum(sample + shift, AIR)
        if has_brain(shifted) and not doubt_hu(shifted):
            array = array.astype(np.int32 if array.dtype.kind in "iu" else array.dtype)
            where = f"values from {sample.min():.0f} with all of the body {shift} too low"
            note = f"{where} (the intercept was applied twice?) shifted by {shift}"
            return array + array.dtype.type(shift), [note]
    return array, []


def to_hu(hu: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A scan's values (any shape) in HU, and a note where they were not.

    Stored values that plainly lack their intercept (all positive, the body near 1024) are shifted
    by -1024, and those whose air lies 1024 too high above padding by as much; all others are
    returned as they are.
    """
    low = float(hu.min())
    shift = 2 * STORED + int(low)
    if low in (0, AIR) and is_padded(thin_sample(hu), shift):
        note = f"values with padding at {low:.0f} and air near {shift - 1000} shifted by -{shift}"
        return np.maximum(hu - hu.dtype.type(shift), hu.dtype.type(AIR)), (note,)
    body = commonest(hu)
    if body is None or hu.min() < 0 or not SOFT[0] < body - STORED < SOFT[1]:
        return hu, ()
    if not has_bone(hu - np.float32(STORED)):
        return hu, ()
    note = (
        f"values from 0 with the body at {body:.0f} taken as HU + {STORED} (the header lacks the "
        f"intercept) and shifted by -{STORED}"
    )
    return hu - hu.dtype.type(STORED), (note,)


def is_padded(values: np.ndarray, shift: int) -> bool:
    """Whether values (any shape) less a shift are HU of a head in air, but for padding below.

    The padding is the least value, and nothing but air lies next above it. In sound values, where
    `shift` is 1024 too much, brain is taken for the air, and no body is left.
    """
    rest = values[values > values.min()].astype(np.float32) - shift
    if not len(rest) or (rest < LOWEST_AIR).mean() > FEW or (rest < HIGHEST_AIR).mean() <= FEW:
        return False
    return not doubt_hu(np.maximum(values.astype(np.float32) - shift, AIR))


def doubt_hu(hu: np.ndarray) -> tuple[str, ...]:
    """Why values (any shape) cannot be HU of a head, in words; () if they can."""
    low, high = float(hu.min()), float(hu.max())
    if low >= 0 and high <= 255:
        return (f"values from {low:.0f} to {high:.0f} are those of an 8-bit picture, not HU",)
    if low >= -50:
        where = f"values from {low:.0f} to {high:.0f} hold no air"
        return (f"{where}: not HU (MRI, or a missing intercept?)",)
    body = commonest(hu)
    if body is None or not SOFT[0] < body < SOFT[1]:
        seen = "no body is seen" if body is None else f"most of the body lies at {body:.0f}"
        return (f"{seen}: not HU (MRI, or a wrong slope or intercept?)",)
    if not has_bone(hu):
        return ("no bone is seen (nothing above 250 HU): not HU, or no head",)
    return ()


def commonest(hu: np.ndarray) -> float | None:
    """The commonest value outside air, to 20; None where there is nothing but air.

    Air lies within a quarter of the range above the lowest value.
    """
    sample = thin_sample(hu).astype(np.float32)
    low, high = sample.min(), np.quantile(sample, 0.995)
    sample = sample[sample > low + 0.25 * (high - low)]
    if not len(sample):
        return None
    start = sample.min()
    steps, counts = np.unique((sample - start) // 20, return_counts=True)
    return float(start + 20 * steps[counts.argmax()] + 10)


def has_brain(hu: np.ndarray) -> bool:
    """Whether many more voxels have values of brain, 0 to 80 HU, than of spongy bone."""
    brain, spongy = (np.count_nonzero((hu > low) & (hu < low + 80)) for low in (0, 200))
    return brain > 3 * spongy


def has_bone(hu: np.ndarray) -> bool:
    """Whether more than HAS_BONE of the scan is as dense as bone."""
    return bool((thin_sample(hu) > BONE).mean() > HAS_BONE)


def thin_sample(hu: np.ndarray) -> np.ndarray:
    """Some 96 to 191 voxels along each axis, evenly spaced."""
    return hu[tuple(slice(None, None, max(1, n // 96)) for n in hu.shape)]
