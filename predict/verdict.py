"""When not to trust a mask: a verdict of ok, check or failed, with its reasons in plain words.

    signs = measure_scan(...) | measure_answer(...)
    verdict = judge(signs, doubt_hu(scan.hu))

Reasons also come from `doubt_hu` (are these HU?) and, for a thin scan, from predict/brain.py. Signs
are plain numbers; LIMITS alone says which of them are worth a look and which are a failure.
benchmarks/calibration.py shows how well that works. Left and right cannot be told from a head, so
no sign stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np
from scipy import ndimage

from predict.signs import CHECK, FACES, FAILED, GRADES, OK
from scan.hu import BODY, BONE, FORAMEN_AREA
from scan.mask import dice
from scan.views import VIEWS

THIRDS = ("base", "middle", "upper")  # of the mask, from below
NEAR_BONE = 4.0  # mm from the border: dura, CSF and the network's own error lie between
EMPTY = "no brain was found"
DISAGREE = "the three views disagree in the mask's"
SPACING = "is the spacing right?"
UPSIDE_DOWN = "the header says that the head is up, but neck or face lie above the brain"
NEVER = np.inf  # beyond any value of a sign
# Round numbers. DENSE: HU of bone alone; FATTY: HU, fat and air are lower; WAVERS: probabilities
# between which a network is not sure; FEWEST: slices that show whether a face cuts the brain
DENSE, FATTY, WAVERS, FEWEST = 700.0, -30.0, (0.1, 0.9), 5
# mm between the centres of body and brain: nearer, as in a vault's scan, means nothing
APART = 20.0
COARSE = 6.0  # mm between the voxels that these centres are measured by, for speed


@dataclass(frozen=True)
class Verdict:
    """A grade of GRADES, its reasons (none for ok), and the signs by name that it follows from."""

    grade: str
    reasons: tuple[str, ...] = ()
    signs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """A sign is worth a look beyond `look_at` and a failure beyond `fail_at`.

    Beyond means below where `low`, else above. `reason` says it, with the sign's value in {}.
    """

    sign: str
    look_at: float
    fail_at: float
    reason: str
    low: bool = False

    def grade(self, value: float) -> str:
        """The grade of a value of the sign."""
        sense = -1 if self.low else 1
        for grade, limit in ((FAILED, self.fail_at), (CHECK, self.look_at)):
            if sense * value > sense * limit:
                return grade
        return OK


above, below = Limit, partial(Limit, low=True)


# Chosen on synthetic scans, sound and spoilt (benchmarks/calibration.py).
# Volumes: of adults 1322 +- 108 mL (women) and 1473 +- 117 mL (men) at 20 years, measured in CT
# (Abbott et al., J Craniofac Surg 11:211, 2000), 1106 to 1656 mL in 58 more (Surg Radiol Anat,
# 2010, doi:10.1007/s00276-010-0650-4); of children from 600 mL in the first months to 1200 mL at
# five years (Sgouros et al., J Neurosurg 91:610, 1999).
# Lengths: outside, heads of men are 189 mm long (Farkas et al., Cleft Palate Craniofac J 29:303,
# 1992) and skulls 176 mm (3000 in CT; Li et al., Int J Vehicle Safety 2:345, 2007); inside, 43 of
# synthetic scans and four real ones were 133 to 186 mm, 1.2 to 1.6 times as long as thin.
LIMITS = [
    below("volume_ml", 700, 300, "{:.0f} mL is less than the skull of all but infants holds"),
    above("volume_ml", 1950, 2600, "{:.0f} mL is more than a skull holds"),
    above("longest_mm", 195, 240, f"{{:.0f}} mm is longer than a skull is inside: {SPACING}"),
    above(
        "flatness", 1.9, NEVER, f"it is {{:.1f}} times as long as thin, no skull's shape: {SPACING}"
    ),
    below("agreement", 0.96, 0.70, "the three views disagree (Dice {:.2f})"),
    *(
        below(f"agreement_{third}", 0.88, -NEVER, f"{DISAGREE} {third} third (Dice {{:.2f}})")
        for third in THIRDS
    ),
    # in real scans of 5 mm slices with masks of 0.99 it is 3.8 and 4.5 mm
    above("border_mm", 5.0, 12.0, "the border is blurred: the network wavers over {:.1f} mm"),
    above("scattered", 0.03, 0.4, "{:.0%} of what looked like brain lay apart and was left out"),
    # a brain may end at the scan's lowest slice in the foramen magnum, of some 800 mm²
    *(
        above(
            f"cut_{face}_mm2",
            FORAMEN_AREA if face == "bottom" else 100,
            NEVER,
            f"the brain is cut: {{:.0f}} mm² of the mask lie at the scan's {face} face",
        )
        for axis in FACES
        for face in axis
    ),
    above("faces_air", 0.05, 0.5, "{:.0%} of the mask's border lies against air or blanked voxels"),
    below("near_bone", 0.85, 0.30, "only {:.0%} of the mask's border has bone beside it"),
    above("bone_inside", 0.03, 0.3, "{:.0%} of the mask is as dense as bone"),
    above("fat_inside", 0.06, 0.3, "{:.0%} of the mask is fat or air"),
    below("median_hu", 0, -60, "the mask's median of {:.0f} HU is too low for a brain"),
    above("median_hu", 90, 250, "the mask's median of {:.0f} HU is too high for a brain"),
    above("tail_mm", 20, NEVER, "the mask runs {:.0f} mm down what looks like the spinal canal"),
    below("upright", -0.4, -NEVER, UPSIDE_DOWN),
]


def judge(signs: dict[str, float], strange: tuple[str, ...] = ()) -> Verdict:
    """The verdict on a mask: its worst sign's, and no better than check if values are `strange`.

    Signs that were not measured may be missing. Reasons come worst first.
    """
    found = [(CHECK, reason) for reason in strange]
    graded = [(limit.grade(signs[limit.sign]), limit) for limit in LIMITS if limit.sign in signs]
    cut = any(grade != OK for grade, limit in graded if limit.sign.startswith("cut_"))
    for grade, limit in graded:
        if cut and limit.sign == "volume_ml" and limit.low:  # a part of a brain is small
            grade = min(grade, CHECK, key=GRADES.index)
        if cut and limit.sign == "flatness":  # and may have any shape
            continue
        if grade != OK:
            found.append((grade, limit.reason.format(signs[limit.sign])))
    if signs.get("volume_ml") == 0:
        found = [(FAILED, reason) for reason in (EMPTY, *strange)]
    found.sort(key=lambda item: -GRADES.index(item[0]))
    signs = {name: round(float(value), 4) for name, value in signs.items()}
    return Verdict(found[0][0] if found else OK, tuple(reason for _, reason in found), signs)


def describe_limits(sign: str) -> str:
    """Where a sign is worth a look and where a failure, in words: "check below 700 …"."""
    said = []
    for grade, name in ((CHECK, "look_at"), (FAILED, "fail_at")):
        ends = [(limit, getattr(limit, name)) for limit in LIMITS if limit.sign == sign]
        words = [
            f"{'below' if limit.low else 'above'} {end:g}"
            for limit, end in ends
            if abs(end) < NEVER
        ]
        said += [f"{grade} {' or '.join(words)}"] if words else []
    return ", ".join(said)


# ---------------------------------------------------------------- signs of the mask on its scan


def measure_scan(hu: np.ndarray, mask: np.ndarray, spacing, volume_ml: float) -> dict[str, float]:
    """The signs volume_ml (as given), cut_<face>_mm2 and upright of a mask on its scan.

    hu, mask: (X, Y, Z) RAS+; spacing: (3,) mm. cut_<face>_mm2 is the mask's area at a face of the
    scan; a scan less than five slices thick there has none.
    """
    signs = {"volume_ml": volume_ml}
    for axis, faces in enumerate(FACES):
        area = np.prod(np.delete(spacing, axis))
        for face, end in zip(faces, (0, -1), strict=True):
            if mask.shape[axis] >= FEWEST:
                # not take(), which copies all of an array that lies in Fortran order
                signs[f"cut_{face}_mm2"] = float(np.moveaxis(mask, axis, 0)[end].sum() * area)
    up = measure_upright(hu, mask, spacing)
    return signs if up is None else signs | {"upright": up}


def measure_upright(hu: np.ndarray, mask: np.ndarray, spacing) -> float | None:
    """How far below the brain the rest of the body lies: 1 straight below, -1 above.

    It is the sine of the direction from the body's centre (all tissue but the mask) to the brain's.
    None where one is missing, or where they are less than 20 mm apart, as in a scan of the vault.
    """
    every = tuple(slice(None, None, max(1, round(COARSE / s))) for s in spacing)
    brain, rest = mask[every], (hu[every] > BODY) & ~mask[every]
    if not (brain.any() and rest.any()):
        return None
    step = np.multiply(spacing, [s.step for s in every])
    centres = [np.mean(np.nonzero(part), axis=1) * step for part in (brain, rest)]
    way = centres[0] - centres[1]
    length = np.linalg.norm(way)
    return float(way[2] / length) if length > APART else None


# ---------------------------------------------------------------- signs of the network's answer


def measure_answer(
    views: dict[str, np.ndarray],
    every: dict[str, int],
    mask: np.ndarray,
    cubes: np.ndarray,
    spacing: float,
) -> dict[str, float]:
    """Signs of the network's answer: do the views agree, is the border sharp, what lies around it.

    views: probabilities (X, Y, Z) by view, where every `every[view]`-th slice was looked at;
    mask: bool, the part of them that was kept; cubes: HU. All lie on one straight grid of `spacing`
    mm, z towards the head. An empty mask has no signs.
    """
    if not mask.any():
        return {}
    mean = sum(views.values()) / len(views)
    shell = mask & ~ndimage.binary_erosion(mask, border_value=1)
    seen = seen_voxels(views, every)
    surface = max(np.count_nonzero(shell[seen]), 1)
    wavering = np.count_nonzero((mean[seen] > WAVERS[0]) & (mean[seen] < WAVERS[1]))
    smooth = ndimage.uniform_filter(cubes, 3)
    values = smooth[mask]
    width = 2 * round(NEAR_BONE / spacing) + 1
    return (
        measure_agreement(views, every, mask)
        | measure_axes(mask, spacing)
        | {
            "border_mm": wavering / surface * spacing,
            "scattered": 1 - np.count_nonzero(mask & (mean > 0.5)) / max((mean > 0.5).sum(), 1),
            "near_bone": np.mean(ndimage.maximum_filter(cubes, width)[shell] > BONE),
            "faces_air": np.mean(ndimage.minimum_filter(smooth, 3)[shell] < BODY),
            "bone_inside": np.mean(values > DENSE),
            "fat_inside": np.mean(values < FATTY),
            "median_hu": np.median(values),
            "tail_mm": measure_tail(mask, spacing),
        }
    )


def measure_axes(mask: np.ndarray, spacing: float) -> dict[str, float]:
    """Signs of a mask's size, whichever way the head is turned: `longest_mm`, and how many times
    the shortest axis that is (`flatness`), of the ellipsoid with the mask's second moments."""
    points = np.argwhere(mask[::2, ::2, ::2]) * 2 * spacing
    if len(points) < 2:
        return {}
    # the variance along an ellipsoid's semi-axis is a fifth of its square
    short, _, long = 2 * np.sqrt(5 * np.linalg.eigvalsh(np.cov(points.T)).clip(min=0))
    return {"longest_mm": long, "flatness": long / max(short, spacing)}


def measure_agreement(
    views: dict[str, np.ndarray], every: dict[str, int], mask: np.ndarray
) -> dict[str, float]:
    """The least Dice of two views: `agreement` overall, `agreement_<third>` of the mask's height.

    Dice is taken in the mask and nearby alone: what was left out as scattered is another sign.
    """
    near = ndimage.binary_dilation(mask, iterations=3)
    low, high = np.flatnonzero(mask.any((0, 1)))[[0, -1]]
    ends = np.rint(np.linspace(low, high + 1, len(THIRDS) + 1)).astype(int)
    parts = {f"agreement_{third}": ends[i : i + 2] for i, third in enumerate(THIRDS)}
    least = dict.fromkeys(("agreement", *parts), 1.0)
    for pair in combinations(views, 2):
        seen = seen_voxels(pair, every)
        a, b = ((views[view][seen] > 0.5) & near[seen] for view in pair)
        heights = np.arange(mask.shape[2])[seen[2]]
        for name, (start, stop) in {"agreement": (0, mask.shape[2]), **parts}.items():
            part = slice(*np.searchsorted(heights, (start, stop)))
            least[name] = min(least[name], dice(a[..., part], b[..., part]))
    return least


def seen_voxels(views: Iterable[str], every: dict[str, int]) -> tuple[slice, slice, slice]:
    """The voxels (X, Y, Z) at which all of some views looked, at every `every[view]`-th slice.

    Between its slices a view is interpolated, which says nothing about what the network sees.
    """
    x, y, z = (every[view] if view in views else 1 for view in reversed(VIEWS))
    return np.s_[::x, ::y, ::z]


def measure_tail(mask: np.ndarray, spacing: float) -> float:
    """mm from the mask's lowest slice up to the first wider than the foramen magnum, or to its end.

    Above the foramen the posterior fossa widens at once.
    """
    areas = mask.sum((0, 1)) * spacing**2
    low, high = np.flatnonzero(areas)[[0, -1]]
    areas = areas[low : high + 1]
    wide = np.flatnonzero(areas > FORAMEN_AREA)
    return float((wide[0] if len(wide) else len(areas)) * spacing)
