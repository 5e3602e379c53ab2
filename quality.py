"""When not to trust a mask: a verdict of ok, check or failed, with its reasons in plain words.

    hu, notes = to_hu(scan.hu)                                    # before predicting
    signs = signs_of_scan(...) | signs_of_cubes(...)              # after
    verdict = judge(signs, strange_hu(hu))

`signs` are plain numbers; LIMITS alone says which of them are worth a look and which a failure.
benchmarks/calibration.py shows how well that works. Left and right cannot be told from a head, so
no sign stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import scipy  # scipy.ndimage is loaded at its first use, which a picture does not have

from data import VIEWS

OK, CHECK, FAILED = GRADES = ("ok", "check", "failed")
LEFT_RIGHT = "left and right are the header's: no picture of a head can confirm them"
FACES = ("left", "right"), ("back", "front"), ("bottom", "top")  # low and high end of a RAS+ axis
THIRDS = ("base", "middle", "upper")  # of the mask, from below

BODY, BONE = -300.0, 250.0  # HU
STORED = 1024  # what scanners add to HU so that stored values are positive
SOFT = (-150.0, 150.0)  # HU: where the commonest value of a body lies, be it fat, muscle or brain
NEAR_BONE = 4.0  # mm from the border: dura, CSF and the network's own error lie between
EMPTY = "no brain was found"


@dataclass(frozen=True)
class Verdict:
    """`grade` of GRADES, why (nothing for ok), and the signs by name that it was drawn from."""

    grade: str
    reasons: tuple[str, ...] = ()
    signs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """A sign is worth a look beyond `check` and a failure beyond `fail`; None: never.

    Beyond is below where `low`, else above. `words` say it, with the sign's value as {}.
    """

    sign: str
    check: float | None
    fail: float | None
    words: str
    low: bool = False

    def grade(self, value: float) -> str:
        """The grade of a value of the sign."""
        for grade, limit in ((FAILED, self.fail), (CHECK, self.check)):
            if limit is not None and (value < limit if self.low else value > limit):
                return grade
        return OK


# Volumes: of adults 1322 +- 108 mL (women) and 1473 +- 117 mL (men) at 20 years, measured in CT
# (Abbott et al., J Craniofac Surg 11:211, 2000), 1106 to 1656 mL in 58 more (Surg Radiol Anat,
# 2010, doi:10.1007/s00276-010-0650-4); of children from 600 mL in the first months to 1200 mL at
# five years (Sgouros et al., J Neurosurg 91:610, 1999).
LIMITS = [
    Limit("volume_ml", 700, 300, "{:.0f} mL is less than the skull of all but infants holds",
          low=True),
    Limit("volume_ml", 1950, 2600, "{:.0f} mL is more than a skull holds"),
    Limit("agreement", 0.96, 0.70, "the three views disagree (Dice {:.2f})", low=True),
    *(Limit(f"agreement_{third}", 0.88, None,
            f"the three views disagree in the mask's {third} third (Dice {{:.2f}})", low=True)
      for third in THIRDS),
    Limit("border_mm", 3.5, 12.0, "the border is blurred: the network wavers over {:.1f} mm"),
    Limit("scattered", 0.03, 0.4, "{:.0%} of what looked like brain lay apart and was left out"),
    # a brain may end at the scan's lowest slice in the foramen magnum, of some 800 mm²
    *(Limit(f"cut_{face}_mm2", 900 if face == "bottom" else 100, None,
            f"the brain is cut: {{:.0f}} mm² of the mask lie at the scan's {face} face")
      for axis in FACES for face in axis),
    Limit("faces_air", 0.05, 0.5, "{:.0%} of the mask's border lies against air or blanked voxels"),
    Limit("near_bone", 0.85, 0.30, "only {:.0%} of the mask's border has bone beside it", low=True),
    Limit("bone_inside", 0.03, 0.3, "{:.0%} of the mask is as dense as bone"),
    Limit("fat_inside", 0.06, 0.3, "{:.0%} of the mask is fat or air"),
    Limit("median_hu", 0, -60, "the mask's median of {:.0f} HU is too low for a brain", low=True),
    Limit("median_hu", 90, 250, "the mask's median of {:.0f} HU is too high for a brain"),
    Limit("tail_mm", 20, None, "the mask runs {:.0f} mm down what looks like the spinal canal"),
    Limit("upright", -0.4, None, "the header says that the head is up, but neck or face lie above "
          "the brain", low=True),
]  # fmt: skip


def judge(signs: dict[str, float], strange: tuple[str, ...] = ()) -> Verdict:
    """The verdict on a mask: its worst sign's, and no better than check if values are `strange`.

    Signs that could not be measured may be missing. Reasons come worst first.
    """
    found = [(CHECK, words) for words in strange]
    graded = [(limit.grade(signs[limit.sign]), limit) for limit in LIMITS if limit.sign in signs]
    cut = any(grade != OK for grade, limit in graded if limit.sign.startswith("cut_"))
    for grade, limit in graded:
        if cut and limit.sign == "volume_ml" and limit.low:  # a part of a brain is small
            grade = min(grade, CHECK, key=GRADES.index)
        if grade != OK:
            found.append((grade, limit.words.format(signs[limit.sign])))
    if signs.get("volume_ml") == 0:
        found = [(FAILED, words) for words in (EMPTY, *strange)]
    found.sort(key=lambda item: -GRADES.index(item[0]))
    signs = {name: round(float(value), 4) for name, value in signs.items()}
    return Verdict(found[0][0] if found else OK, tuple(words for _, words in found), signs)


# ---------------------------------------------------------------- are these HU?


def to_hu(hu: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A scan's values (X, Y, Z) in HU, and a note where they were not.

    What is plainly stored values whose intercept went missing (all positive, the body near 1024)
    is shifted by -1024; all else is returned as it is.
    """
    body = commonest(hu)
    if body is None or hu.min() < 0 or not SOFT[0] < body - STORED < SOFT[1]:
        return hu, ()
    if not has_bone(hu - np.float32(STORED)):
        return hu, ()
    return hu - hu.dtype.type(STORED), (
        f"values from 0 with the body at {body:.0f} taken as HU + {STORED} (the header lacks the "
        f"intercept) and shifted by -{STORED}",)  # fmt: skip


def strange_hu(hu: np.ndarray) -> tuple[str, ...]:
    """Why the values (X, Y, Z) cannot be HU of a head, in words; nothing if they can."""
    low, high = float(hu.min()), float(hu.max())
    if low >= 0 and high <= 255:
        return (f"values from {low:.0f} to {high:.0f} are those of an 8-bit picture, not HU",)
    if low >= -50:
        return (f"values from {low:.0f} to {high:.0f} hold no air: not HU (MRI, or a missing "
                "intercept?)",)  # fmt: skip
    body = commonest(hu)
    if body is None or not SOFT[0] < body < SOFT[1]:
        words = "no body is seen" if body is None else f"most of the body lies at {body:.0f}"
        return (f"{words}: not HU (MRI, or a wrong slope or intercept?)",)
    if not has_bone(hu):
        return ("no bone is seen (nothing above 250 HU): not HU, or no head",)
    return ()


def commonest(hu: np.ndarray) -> float | None:
    """The commonest value of what is not air, to 20; None where there is nothing but air.

    Air is what lies within a quarter of the range above the lowest value.
    """
    sample = hu[tuple(slice(None, None, max(1, n // 96)) for n in hu.shape)].astype(np.float32)
    low, high = sample.min(), np.quantile(sample, 0.995)
    sample = sample[sample > low + 0.25 * (high - low)]
    if not len(sample):
        return None
    counts, edges = np.histogram(sample, np.arange(sample.min(), sample.max() + 40, 20))
    return float(edges[counts.argmax()] + 10)


def has_bone(hu: np.ndarray) -> bool:
    """Whether at least 0.1 % of the scan is as dense as bone."""
    sample = hu[tuple(slice(None, None, max(1, n // 96)) for n in hu.shape)]
    return bool((sample > BONE).mean() > 0.001)


# ---------------------------------------------------------------- signs of the mask on its scan


def signs_of_scan(hu: np.ndarray, mask: np.ndarray, spacing, volume_ml: float) -> dict[str, float]:
    """mm² of the mask at each face of the scan, and whether the head is up; its volume is given.

    hu and mask (X, Y, Z) RAS+, `spacing` (3,) mm; a face counts where the scan is thick enough
    (five slices) for it to be more than a stripe. volume_ml, cut_<face>_mm2, upright.
    """
    signs = {"volume_ml": volume_ml}
    for axis, faces in enumerate(FACES):
        area = np.prod(np.delete(spacing, axis))
        for face, end in zip(faces, (0, -1), strict=True):
            if mask.shape[axis] >= 5:
                # not take(), which copies all of an array that lies in Fortran order
                signs[f"cut_{face}_mm2"] = float(np.moveaxis(mask, axis, 0)[end].sum() * area)
    up = upright(hu, mask, spacing)
    return signs if up is None else signs | {"upright": up}


def upright(hu: np.ndarray, mask: np.ndarray, spacing, step: float = 6.0) -> float | None:
    """How far below the brain the rest of the body lies: 1 straight below, -1 above.

    The sine of the direction from the body's centre (all tissue but the mask) to the brain's;
    None where they are less than 20 mm apart, as in a scan of the vault alone, or one is missing.
    """
    every = tuple(slice(None, None, max(1, round(step / s))) for s in spacing)
    brain, rest = mask[every], (hu[every] > BODY) & ~mask[every]
    if not (brain.any() and rest.any()):
        return None
    step = np.multiply(spacing, [s.step for s in every])
    apart = [np.mean(np.nonzero(part), axis=1) * step for part in (brain, rest)]
    way = apart[0] - apart[1]
    length = np.linalg.norm(way)
    return float(way[2] / length) if length > 20 else None


# ---------------------------------------------------------------- signs of the network's answer


def signs_of_cubes(
    views: dict[str, np.ndarray],
    every: dict[str, int],
    mask: np.ndarray,
    cubes: np.ndarray,
    spacing: float,
) -> dict[str, float]:
    """How well the views agree, how sharp the border is, and what lies in the mask and around it.

    views: probabilities (X, Y, Z) by view, of which one slice in `every` was looked at; mask: bool,
    what was kept of them; cubes: HU; all on one straight grid of `spacing` mm, z towards the head.
    Nothing of an empty mask.
    """
    if not mask.any():
        return {}
    mean = sum(views.values()) / len(views)
    shell = mask & ~scipy.ndimage.binary_erosion(mask, border_value=1)
    seen = where_saw(views, every)
    surface = max(np.count_nonzero(shell[seen]), 1)
    wavering = np.count_nonzero((mean[seen] > 0.1) & (mean[seen] < 0.9))
    smooth = scipy.ndimage.uniform_filter(cubes, 3)
    inside = smooth[mask]
    width = 2 * round(NEAR_BONE / spacing) + 1
    return agreements(views, every, mask) | {
        "border_mm": wavering / surface * spacing,
        "scattered": 1 - np.count_nonzero(mask & (mean > 0.5)) / max((mean > 0.5).sum(), 1),
        "near_bone": np.mean(scipy.ndimage.maximum_filter(cubes, width)[shell] > BONE),
        "faces_air": np.mean(scipy.ndimage.minimum_filter(smooth, 3)[shell] < BODY),
        "bone_inside": np.mean(inside > 700),
        "fat_inside": np.mean(inside < -30),
        "median_hu": np.median(inside),
        "tail_mm": tail(mask, spacing),
    }


def agreements(
    views: dict[str, np.ndarray], every: dict[str, int], mask: np.ndarray
) -> dict[str, float]:
    """The least Dice of two views: `agreement` overall, `agreement_<third>` of the mask's height.

    Only where the mask is and nearby, for what was left out as scattered is a sign of its own.
    """
    near = scipy.ndimage.binary_dilation(mask, iterations=3)
    low, high = np.flatnonzero(mask.any((0, 1)))[[0, -1]]
    ends = np.rint(np.linspace(low, high + 1, len(THIRDS) + 1)).astype(int)
    parts = {f"agreement_{third}": ends[i : i + 2] for i, third in enumerate(THIRDS)}
    least = dict.fromkeys(("agreement", *parts), 1.0)
    for pair in combinations(views, 2):
        seen = where_saw(pair, every)
        a, b = ((views[view][seen] > 0.5) & near[seen] for view in pair)
        heights = np.arange(mask.shape[2])[seen[2]]
        for name, (start, stop) in {"agreement": (0, mask.shape[2]), **parts}.items():
            part = slice(*np.searchsorted(heights, (start, stop)))
            least[name] = min(least[name], dice(a[..., part], b[..., part]))
    return least


def where_saw(views: Iterable[str], every: dict[str, int]) -> tuple[slice, slice, slice]:
    """The voxels (X, Y, Z) at which all of some views looked, at one slice in `every` each.

    Between its slices a view is interpolated, which says nothing of what the network sees.
    """
    x, y, z = (every[view] if view in views else 1 for view in reversed(VIEWS))
    return np.s_[::x, ::y, ::z]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks; 1 when both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def tail(mask: np.ndarray, spacing: float, area: float = 1000.0) -> float:
    """mm from the mask's lowest slice up to the first wider than `area` mm², or to its end.

    A foramen magnum is about 800 mm² wide, and above it the posterior fossa widens at once.
    """
    areas = mask.sum((0, 1)) * spacing**2
    low, high = np.flatnonzero(areas)[[0, -1]]
    areas = areas[low : high + 1]
    wide = np.flatnonzero(areas > area)
    return float((wide[0] if len(wide) else len(areas)) * spacing)
