"""Ratings: what people said of the masks in a folder of results, a row each in its `ratings.tsv`.

    add_rating(out, Rating(who="AB", result="p1/x_prediction", mask=…, sha256=…, rating="pass"))
    found = sort_ratings(read_ratings(out))
    found.find("p1/x_prediction", find_newest_mask(folder, about))      # a Rating, or None

The file is a table with tabs between the columns, which pandas and spreadsheets read. A row is only
ever added. What counts of a result is the newest row about its newest mask.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from common.errors import InputError, printable
from common.files import checksum
from predict.manifest import tell_time

NAME = "ratings.tsv"
RATINGS = ("pass", "fix", "fail")
MOST_WHO, MOST_NOTE = 80, 1000  # characters. Round numbers
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # the file may not be a link to somewhere else
LONGEST = 20_000  # characters of a line, whose paths have up to 4096 bytes each. A round number


@dataclass(frozen=True)
class Rating:
    """A row: who said what of which mask, and when.

    when: UTC, ISO 8601. result: the result's folder, as `name_result` writes it. mask: name of the
    file that was rated; sha256: its checksum. rating: one of RATINGS. note: "" for none.
    """

    when: str = field(default_factory=tell_time)
    who: str = ""
    result: str = ""
    mask: str = ""
    sha256: str = ""
    rating: str = ""
    note: str = ""


COLUMNS = tuple(column.name for column in fields(Rating))


# ---------------------------------------------------------------- the file


def add_rating(out: Path, rating: Rating) -> Rating:
    """Add a row to the ratings of a folder; return it as it was written, once the disk has it.

    The row is added by one write under a lock, so people who rate at the same time lose nothing,
    and neither does a process that is killed. A last line without an end is what a killed process
    left of a row that nobody was told of; it is cut off. Raises InputError where the rating is none
    of RATINGS or the file cannot be written.
    """
    import fcntl  # which Windows has not: there ratings are only read

    if rating.rating not in RATINGS:
        raise InputError(f"a rating is {', '.join(RATINGS)}, not {printable(rating.rating)}")
    *start, note = map(printable, astuple(rating))
    start[1] = start[1][:MOST_WHO]
    row, path = Rating(*start, note[:MOST_NOTE]), out / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK, 0o666)
        try:
            # of this opened file: threads wait for each other, too
            fcntl.flock(file, fcntl.LOCK_EX)
            append_row(file, row)
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; this rating is lost") from error
    return row


def append_row(file: int, row: Rating) -> None:
    """Write a row, and the names of the columns before the first one, at the end of a locked file.

    Raises OSError, and leaves the file as it was, where the disk does not take the whole row.
    """
    size = find_end(file)
    os.ftruncate(file, size)
    content = (to_line(row) if size else to_line(COLUMNS) + to_line(row)).encode()
    try:
        if os.write(file, content) < len(content):
            raise OSError(0, "the disk is full")
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def find_end(file: int) -> int:
    """The place in a file behind the end of its last whole line."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 4096)
        if (found := os.pread(file, end - start, start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def to_line(cells: Rating | Iterable[str]) -> str:
    """A line of the table. No cell holds a tab or the end of a line: `printable` has seen to it."""
    line = io.StringIO()
    cells = astuple(cells) if isinstance(cells, Rating) else cells
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow(cells)
    return line.getvalue()


def read_ratings(out: Path) -> list[Rating]:
    """The ratings of a folder, oldest first; none where there is no such file.

    Lines that are no rating are left out: names of columns, and what a killed process or an editor
    left. Raises InputError where the file cannot be read.
    """
    try:
        file = os.open(out / NAME, os.O_RDONLY | NO_LINK)
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as text:
            *lines, _ = text.read().split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {out / NAME}: {error.strerror}") from error
    lines = (line.rstrip("\r") for line in lines if len(line) < LONGEST)
    rows = (next(csv.reader([line], delimiter="\t"), ()) for line in lines)
    found = (Rating(*row) for row in rows if len(row) == len(COLUMNS))
    return [rating for rating in found if rating.rating in RATINGS]


# ---------------------------------------------------------------- which counts


@dataclass(frozen=True)
class Ratings:
    """The newest rating of each mask of each result, by the result's name and the checksum."""

    newest: dict[str, dict[str, Rating]]

    def find(self, result: str, mask: Path | None, digest=checksum) -> Rating | None:
        """What was said last of a result's mask as it is now; None where nobody rated it.

        result: its folder, as `name_result` writes it. Only a mask that may be rated is read;
        `digest` is checksum, or what remembers its answers.
        """
        rated = self.newest.get(result)
        if not rated or mask is None or not mask.is_file():
            return None
        return rated.get(digest(mask))


def sort_ratings(ratings: Iterable[Rating]) -> Ratings:
    """Ratings, oldest first, by result and mask."""
    newest: dict[str, dict[str, Rating]] = {}
    for rating in ratings:
        newest.setdefault(rating.result, {})[rating.sha256] = rating
    return Ratings(newest)


def name_result(folder: Path, out: Path) -> str:
    """What the ratings of `out` call a result's folder: its path from there, printable, with /."""
    return printable(Path(os.path.relpath(folder, out)).as_posix())


def find_newest_mask(folder: Path, about: dict) -> Path | None:
    """The mask that a result's JSON stands for: the newest correction, or the predicted one.

    A correction lies beside the mask. None where the JSON names no mask.
    """
    if not about.get("mask"):
        return None
    mask = folder / about["mask"]
    corrections = about.get("corrections") or [{"file": mask.name}]
    return mask.with_name(Path(corrections[-1]["file"]).name)
