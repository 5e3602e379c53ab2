"""The distribution of a measure as a small SVG: histogram, quartiles, outliers.

An SVG of our own needs no matplotlib, which who only predicts has not installed, and its outliers
can be clicked (predict/report.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, FOOT = 240, 38  # of the drawing, and where its histogram stands, in the SVG's own units
BOX = 50  # height at which the middle of the box lies
EDGE = 4  # left free at both sides
BARS = 48  # of the histogram. A round number, as are the next two
MOST_MARKED, MOST_NAMED = 30, 3  # outliers, those farthest off
FAR = 1.5  # an outlier lies so many times the box's length beyond it (Tukey 1977)


@dataclass(frozen=True)
class Distribution:
    """Some values in figures.

    quartiles: (3,), the median among them; whiskers: lowest and highest value that is no outlier;
    outliers: their indices, the farthest off first.
    """

    low: float
    high: float
    quartiles: np.ndarray
    whiskers: tuple[float, float]
    outliers: np.ndarray


def describe_distribution(values: np.ndarray) -> Distribution:
    """The distribution of values (n,), of which at least one is no NaN."""
    known = np.flatnonzero(np.isfinite(values))
    found = values[known]
    quartiles = np.percentile(found, [25, 50, 75])
    reach = FAR * (quartiles[2] - quartiles[0])
    beyond = np.maximum(quartiles[0] - reach - found, found - quartiles[2] - reach)
    far = np.argsort(-beyond, kind="stable")[: np.count_nonzero(beyond > 0)]
    inside = found[beyond <= 0]
    whiskers = inside.min(), inside.max()
    return Distribution(found.min(), found.max(), quartiles, whiskers, known[far])


def draw_distribution(values: np.ndarray, names: Sequence[str], title: str, number: int) -> str:
    """An HTML figure of values (n,), NaN for none; `names` are those of the n inputs.

    Its title, and each outlier, are buttons for the page's script: `number` is the measure's there.
    """
    found, title = describe_distribution(values), escape(title)
    span = found.high - found.low or 1.0

    def place(value: float) -> float:
        return round(EDGE + (WIDTH - 2 * EDGE) * (value - found.low) / span, 1)

    left, middle, right = map(place, found.quartiles)
    ends = map(place, found.whiskers)
    marks = [
        f'<path class="bars" d="{draw_bars(values, place)}"/>',
        '<path class="box" d="M{} {y}H{}'.format(*ends, y=BOX)
        + f'M{left} {BOX - 6}H{max(right, left + 1)}v12H{left}z"/>',
        f'<path class="median" d="M{middle} {BOX - 8}v16"/>',
    ]
    for index in found.outliers[:MOST_MARKED][::-1]:
        told = f"<title>{escape(names[index])}: {values[index]:.4g}</title>"
        at = f'cx="{place(values[index])}" cy="{BOX}" r="3"'
        marks.append(f'<circle data-row="{index}" {at}>{told}</circle>')
    scale = (f"{found.low:.4g}", f"median {found.quartiles[1]:.4g}", f"{found.high:.4g}")
    return (
        f'<figure><button data-measure="{number}">{title}</button>'
        f'<svg viewBox="0 0 {WIDTH} {BOX + 10}" role="img" aria-label="distribution: {title}">'
        f"{''.join(marks)}</svg><p>{''.join(f'<span>{text}</span>' for text in scale)}</p>"
        f"{name_outliers(found.outliers, names)}</figure>"
    )


def draw_bars(values: np.ndarray, place) -> str:
    """The path of a histogram; a bar that holds anything can be seen."""
    counts, edges = np.histogram(values[np.isfinite(values)], BARS)
    heights = np.where(counts, np.maximum(1, (FOOT - 4) * counts / counts.max()), 0)
    bars = zip(edges[:-1], edges[1:], heights, strict=True)
    return "".join(
        f"M{place(start)} {FOOT}v-{height:.1f}H{place(end)}V{FOOT}z"
        for start, end, height in bars
        if height
    )


def name_outliers(outliers: np.ndarray, names: Sequence[str]) -> str:
    """A line with the outliers that are farthest off, each a button, and the number of the rest."""
    if not len(outliers):
        return "<p>no outliers</p>"
    few = outliers[:MOST_NAMED]
    buttons = [f'<button data-row="{index}">{escape(names[index])}</button>' for index in few]
    more = len(outliers) - len(few)
    return f"<p>{' '.join(buttons)}{f' and {more} more' * bool(more)}</p>"
