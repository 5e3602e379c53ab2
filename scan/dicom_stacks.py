"""DICOM: which images make one scan: stacks of alike images, and the scans that share a series.

A series is one scan, as a rule. Exceptions are told by what the images' headers say and by where
they lie: two phases or reconstructions in one series; a series of its own for each slice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from scan.dicom_files import MARKS, Slice

# Round numbers
SAME = 0.01  # mm: images no farther apart are at one place
ALIKE = 2e-3  # of direction cosines (a tenth of a degree) and of mm: images of one stack
NEAR = 0.75  # of a scan's smallest gap: its slices never lie so near to each other
MIXED = 0.2  # of a group's slices: where more lie near those of another, they are of two scans
ODD = 0.1  # of the gaps: so few may be smaller than the scan's own
REPEATED = 0.2  # of the gaps: so few may be 0 where a scanner took a part of a scan once more
MOST_UNEVEN = 0.25  # of the gaps: more are of one length, or twice it, where slices make a scan
LOOSER = 1.3  # times the smallest gap of a mixture: the smallest gap of its parts is wider
LEAP = 2.1  # times the usual step: a wider one is no missing slice
ALTERNATE = 0.15  # mm: gaps that differ by less are of one length, given to a tenth
RUN = 5  # slices: numbers that rise along the scan for fewer, on average, are in no order
# Marks that count: where each slice has its own, their order tells
COUNTERS = (
    "AcquisitionNumber",
    "AcquisitionTime",
    "FrameAcquisitionDateTime",
    "ContentTime",
    "InstanceNumber",
)


class SliceSet(NamedTuple):
    """Slices of one stack that belong together, in no order; `part` says what tells them apart."""

    slices: list[Slice]
    part: str = ""


# ---------------------------------------------------------------- alike images


def stack_alike(images: list[Slice]) -> list[list[Slice]]:
    """Images of one size, orientation and pixel spacing, together."""

    def alike(a: Slice, b: Slice) -> bool:
        if a.size != b.size or bool(a.missing) != bool(b.missing):
            return False
        if a.missing:
            return True
        pairs = zip(a.cosines + a.spacing, b.cosines + b.spacing, strict=True)
        return all(abs(x - y) < ALIKE for x, y in pairs)

    stacks = []
    for image in images:
        same = [stack for stack in stacks if alike(stack[0], image)]
        if same:
            same[0].append(image)
        else:
            stacks.append([image])
    return stacks


def sort_by_height(stack: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Slices along their normal, one a place (of several acquisitions the first); and the rest."""
    stack = sorted(stack, key=lambda image: image.taken)
    height = measure_heights(stack)
    order = np.argsort(np.round(height / SAME), kind="stable")
    slices, doubles, last = [], [], -math.inf
    for n in order:
        new = height[n] - last > SAME
        (slices if new else doubles).append(stack[n])
        last = height[n] if new else last
    return slices, doubles


def measure_heights(stack: list[Slice]) -> np.ndarray:
    """Where slices lie along their normal, mm."""
    return np.array([image.origin for image in stack]) @ stack[0].normal


def place_by_location(stack: list[Slice]) -> list[Slice]:
    """Alike slices, by SliceLocation where ImagePositionPatient is the same in all of them.

    SliceLocation is taken to rise along the patient's axis nearest the normal (to the head, where
    slices are axial).
    """
    locations = {image.location for image in stack}
    if None in locations or 2 * len(locations) <= len(stack) or len(stack) < 3:
        return stack
    origins = np.array([image.origin for image in stack])
    if np.ptp(origins, axis=0).max() > SAME:
        return stack
    axis = int(np.abs(stack[0].normal).argmax())

    def move(image: Slice) -> Slice:
        origin = list(image.origin)
        origin[axis] = image.location
        return image._replace(origin=tuple(origin))

    return [move(image) for image in stack]


# ---------------------------------------------------------------- several scans in one series


def split_scans(stack: list[Slice]) -> list[SliceSet]:
    """The scans that a stack of alike slices with places holds, ordered by what tells them apart.

    A mark tells scans apart where slices of its values lie among each other, nearer than slices of
    one scan can. Values that follow each other along the body, such as the acquisitions of a scan
    step by step, are of one scan.
    """
    scans, before = [SliceSet(stack)], 0
    while len(scans) > before:
        before = len(scans)
        for number, mark in enumerate(MARKS):
            scans = [part for scan in scans for part in split_by_mark(scan, number, mark)]
    return scans


def split_by_mark(scan: SliceSet, number: int, mark: str) -> list[SliceSet]:
    """The scans that one mark tells apart; the scan itself where it tells nothing.

    Each group of slices joins the scan that it fits best. A mixture is closer spaced than its
    scans. A few slices that were taken once more are no scan.
    """
    groups = group_by_mark(scan.slices, number, mark)
    parts: list[tuple[str, list[Slice]]] = []
    for value, group in groups if len(groups) > 1 else []:
        fitting = [part for _, part in parts if not are_mixed(part, group)]
        if fitting:
            min(fitting, key=lambda part, group=group: measure_misfit(part, group)).extend(group)
        else:
            parts.append((value, list(group)))
    few = REPEATED if mark in COUNTERS else ODD
    mixture = find_gap(measure_heights(scan.slices), few)
    gaps = [find_gap(measure_heights(part), few) for _, part in parts if len(part) >= RUN]
    if len(parts) < 2 or not gaps or min(gaps) <= LOOSER * mixture:
        return [scan]
    return [
        SliceSet(part, scan.part or (f"{mark} {v}" if v else f"no {mark}")) for v, part in parts
    ]


def group_by_mark(slices: list[Slice], number: int, mark: str) -> list[tuple[str, list[Slice]]]:
    """Slices by the values of a mark, in their order.

    Where a mark counts slice by slice, slices that follow each other along the body are a group.
    """
    groups: dict[str, list[Slice]] = {}
    for image in slices:
        groups.setdefault(image.marks[number], []).append(image)
    if mark == "InstanceNumber":
        return find_runs(slices, number) or find_rounds(groups)
    if 2 * len(groups) <= len(slices):
        return sorted(groups.items(), key=lambda item: to_order(item[0]))
    return find_runs(slices, number) if mark in COUNTERS else []


def to_order(value: str) -> tuple[float, str]:
    """What sorts the values of a mark: numbers as such, before them what has no value."""
    try:
        return float(value or "-inf"), ""
    except ValueError:
        return math.inf, value


def find_rounds(groups: dict[str, list[Slice]]) -> list[tuple[str, list[Slice]]]:
    """The lowest slice of each number, the second lowest and so on, where numbers come again."""
    most = max(map(len, groups.values()))
    if most < 2 or RUN * most > sum(map(len, groups.values())):
        return []
    rounds: list[list[Slice]] = [[] for _ in range(most)]
    for group in groups.values():
        group, doubles = sort_by_height(group)
        if doubles:
            return []
        for n, image in enumerate(group):
            rounds[n].append(image)
    return [(f"the {n + 1}. of each", part) for n, part in enumerate(rounds)]


def find_runs(slices: list[Slice], number: int) -> list[tuple[str, list[Slice]]]:
    """Slices in the order of a counting mark, cut where their heights turn or leap."""
    try:
        counts = [float(image.marks[number]) for image in slices]
    except ValueError:
        return []
    ordered = [slices[n] for n in np.argsort(counts, kind="stable")]
    steps = np.diff(measure_heights(ordered))
    leaps = np.abs(steps) > LEAP * np.median(np.abs(steps)) if len(steps) else steps
    starts, way = [0], 0.0
    for n, (sign, leap) in enumerate(zip(np.sign(np.rint(steps / SAME)), leaps, strict=True), 1):
        cut = leap or (way and sign != way)
        way = 0.0 if cut else sign
        starts += [n] if cut else []
    if len(starts) < 2 or len(slices) < RUN * len(starts):
        return []
    runs = [ordered[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    return [(f"{run[0].marks[number]} to {run[-1].marks[number]}", run) for run in runs]


def are_mixed(a: list[Slice], b: list[Slice]) -> bool:
    """Whether many slices of one group lie among those of the other, nearer than in one scan."""
    both = measure_heights(a), measure_heights(b)
    return any(lie_among(*pair) for pair in (both, both[::-1]))


def lie_among(inner: np.ndarray, outer: np.ndarray) -> bool:
    """Whether more than MIXED of the heights `inner` lie between and near those of `outer`."""
    outer = np.unique(outer)
    between = inner[(inner > outer[0] + SAME) & (inner < outer[-1] - SAME)]
    away = np.abs(between[:, None] - outer).min(axis=1)
    return (away < NEAR * find_gap(outer)).sum() > MIXED * len(inner)


def measure_misfit(part: list[Slice], group: list[Slice]) -> float:
    """How far the gap between slices of a scan and more of them is off its usual gap, mm."""
    heights = measure_heights(part)
    between = np.abs(heights[:, None] - measure_heights(group)).min()
    return round(abs(between - find_gap(heights)), 1)


def find_gap(heights: np.ndarray, few: float = ODD) -> float:
    """The smallest gap between heights but for a share of `few`, mm; 0 for one height."""
    return float(np.quantile(np.diff(np.sort(heights)), few)) if len(heights) > 1 else 0.0


# ---------------------------------------------------------------- what cannot be told apart


def doubt_scan(slices: list[Slice], doubles: list[Slice]) -> str:
    """Why sorted slices and those at places already taken may be of two scans; "" if they are not.

    Two scans whose slices lie between each other show by gaps that alternate, and by slices that
    are thicker than they. Doubles of one acquisition and one number tell nothing (copies of an
    image have its SOPInstanceUID).
    """
    if len(slices) < RUN:
        return ""
    heights = measure_heights(slices)
    gaps = np.diff(heights)
    low, high = sorted((np.median(gaps[::2]), np.median(gaps[1::2])))
    fits = [np.abs(part - np.median(part)) < (high - low) / 4 for part in (gaps[::2], gaps[1::2])]
    overlap = (low + high) / 2 < NEAR * np.median([image.thickness for image in slices])
    if high - low > ALTERNATE and overlap and np.concatenate(fits).mean() > 1 - MOST_UNEVEN:
        return f"whose gaps alternate ({low:.1f} and {high:.1f} mm)"
    unclear = 0
    for image in doubles:
        first = slices[np.abs(heights - image.origin @ image.normal).argmin()]
        unclear += first.taken == image.taken and first.uid != image.uid
    return "of which two lie at most places" if 2 * unclear > len(slices) else ""


# ---------------------------------------------------------------- a series for each slice


def join_singles(images: list[Slice]) -> list[list[Slice]]:
    """Images, each of a series of its own, that together make scans: alike and evenly spaced."""
    joined = []
    for stack in stack_alike([image for image in images if not image.missing]):
        stack = place_by_location(stack)
        if len(stack) > 2 and all(is_even(scan.slices) for scan in split_scans(stack)):
            joined.append(stack)
    return joined


def is_even(slices: list[Slice]) -> bool:
    """Whether the gaps between slices are of one length, or twice it, but for a few."""
    gaps = np.diff(np.sort(measure_heights(slices)))
    if len(gaps) < 2 or gaps.min() < SAME:
        return False
    times = gaps / np.quantile(gaps, 0.25)
    odd = (np.abs(times - np.rint(times)) > 0.1) | (times > 2.5)
    return odd.sum() <= MOST_UNEVEN * len(gaps)
