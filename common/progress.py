"""How far a command is: a bar on a terminal, a line a minute in a log.

for scan in track(scans, total=len(scans), unit="scan"): ...
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from common.errors import tell

Thing = TypeVar("Thing")

PAUSE = 60  # s from one line to the next: a round number, so that a night's log can be read


def track(things: Iterable[Thing], total: int | None, unit: str, done: int = 0) -> Iterator[Thing]:
    """Yield the things, and say on stderr how many of `total` are through.

    `done` counts those that were through before. Where the total is not known (None), a bar comes
    only after a second.
    """
    from tqdm import tqdm  # late: a single slice is masked without it

    late = {"delay": 1, "leave": False} if total is None else {}
    bar = tqdm(things, total=total, unit=unit, initial=done, disable=None, **late)
    start = said = time.monotonic()
    for number, thing in enumerate(bar, done + 1):
        yield thing
        now = time.monotonic()
        if bar.disable and now - said >= PAUSE:
            said, spent = now, now - start
            rate = (number - done) / spent  # things a second
            count = number if total is None else f"{number} of {total}"
            told = f"{count} {unit}s after {format_time(spent)}, {60 * rate:.3g} a minute"
            left = "" if total is None else f", {format_time((total - number) / rate)} left"
            tell(told + left)


def format_time(seconds: float) -> str:
    """A time in words, as exactly as a person plans by it: "3 min", "2.5 h"."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
