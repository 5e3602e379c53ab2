"""Maps of what the networks said: the probability of each label, and where the answers disagree.

    maps = make_maps(wanted, probability, answers, grid)      # while the mask is found
    names = name_maps(card)                                   # which label each probability is of

The uncertainty is the standard deviation of the foreground's probability over {views} x {networks}
x {the image, the image mirrored left to right}. It is 0 where all agree and at most 0.5.

Its sum is told and not judged: no limit of the verdict stands on it. With the shipped network, in
benchmarks/calibration.py's --set tune (one label map, a scan of each kind) sound scans had 25 to
68 mL, and three real ones of 2.5 to 5 mm slices, whose masks are good, 67 to 100 mL. Of masks that
were not empty, those with a Dice below 0.95 had 40 mL (blurred), 154 mL (slices out of order) and
235 mL (blanked), and other signs told all three already. The sum also depends on the networks: with
two less trained ones beside it, the shipped one gave a real scan 213 mL instead of 85 mL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.card import BRAIN, Card
from predict.result import Wanted

if TYPE_CHECKING:  # which a picture need not wait for
    from scan.volume import Grid

MOST_SPREAD = 0.5  # the greatest standard deviation that numbers in [0, 1] can have


@dataclass(frozen=True)
class Maps:
    """What the networks said, float32; None for a map that is not wanted.

    probability: (labels, …); uncertainty: (…). Both are as the networks gave them: nothing is
    cleaned. They lie on the cubes of `grid`; without one, on the picture's pixels or the scan's
    canonical voxels. They are 0 where no network was asked.
    """

    probability: np.ndarray | None
    uncertainty: np.ndarray | None
    grid: Grid | None = None

    def change(self, function: Callable[[np.ndarray], np.ndarray]) -> Maps:
        """The same maps, each changed by a function of its array."""
        maps = (self.probability, self.uncertainty)
        return Maps(*(None if part is None else function(part) for part in maps), self.grid)


def make_maps(
    wanted: Wanted, probability: np.ndarray, answers: Iterable[np.ndarray], grid: Grid | None = None
) -> Maps:
    """The maps that are wanted, of the probability (labels, …).

    `answers` are the foreground's probabilities (…), one by one; no network is asked for them
    before they are needed.
    """
    spread = measure_spread(answers) if wanted.uncertainty else None
    return Maps(probability if wanted.probabilities else None, spread, grid)


def make_blank(shape: tuple[int, ...], wanted: Wanted, labels: int = 1) -> Maps | None:
    """Maps of `shape` that are wanted, 0 everywhere; None where no map is wanted."""
    if not wanted.maps:
        return None
    return Maps(
        np.zeros((labels, *shape), np.float32) if wanted.probabilities else None,
        np.zeros(shape, np.float32) if wanted.uncertainty else None,
    )


def stack_maps(slices: Sequence[Maps], axis: int) -> Maps | None:
    """The maps of a scan, (…, X, Y, Z), of those of its slices across an axis; None of none."""
    if not slices:
        return None
    several = [maps.probability for maps in slices], [maps.uncertainty for maps in slices]
    return Maps(*(None if parts[0] is None else np.stack(parts, axis - 3) for parts in several))


def measure_spread(answers: Iterable[np.ndarray]) -> np.ndarray:
    """The standard deviation (…), float32, of arrays (…) that come one by one.

    By Welford's updates (Technometrics 4:419, 1962), which give exactly 0 for equal numbers.
    """
    mean = squares = np.float32(0)
    for count, answer in enumerate(answers, 1):
        off = answer - mean
        mean = mean + off / count
        squares = squares + off * (answer - mean)
    return np.sqrt(squares / count).astype(np.float32)


def name_maps(card: Card) -> dict[int, str]:
    """{value in the mask's file: name} of the labels whose probabilities are given, in order.

    A network of CT may tell more classes apart than the one mask that it makes.
    """
    if not card.is_mri:
        return {1: BRAIN}
    return {card.label_values.get(label, label): name for label, name in card.labels.items()}
