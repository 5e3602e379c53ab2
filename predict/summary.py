"""Summary and report of all results in and below a folder, whichever runs made them.

    collect(Path("results"))        # results/summary.csv, results/report.html

All that is read are a result's JSON, the manifests of the runs (predict/manifest.py), the ratings
(predict/ratings.py) and the masks that were rated.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from common.errors import InputError, printable, replacing, warn
from common.files import read_json
from predict.manifest import RUNS, read_failures
from predict.ratings import Rating, find_newest_mask, name_result, read_ratings, sort_ratings
from predict.report_page import write_report_page
from predict.result import Target, find_json, is_result
from predict.signs import FAILED, SIGNS

READERS = 16  # threads that wait for a file server. A round number
MEASURED = ("scan", "mL", "verdict", "seconds", "warnings", "mask", "input", *SIGNS)
COLUMNS = (*MEASURED, "rating", "rated_by", "rating_note")


@dataclass(frozen=True)
class Row:
    """One input in summary and report: its result, or the error that left it without one.

    name, input: the input, in short and as its whole path. verdict: "" where none is given. said:
    reasons and notes. ml, seconds: None where not measured. mask, overlay, picture: files of the
    result, None where it failed; the picture is the overlay, small where that is large. signs: of
    the verdict, by name. finished: when the result was complete (UTC, ISO 8601), "" where unknown.
    folder: the result's. newest: its newest mask, perhaps a correction; rating: what people said of
    that, None where nobody did.
    """

    name: str
    input: str
    verdict: str = ""
    said: tuple[str, ...] = ()
    error: str = ""
    ml: float | None = None
    seconds: float | None = None
    mask: Path | None = None
    overlay: Path | None = None
    picture: Path | None = None
    signs: dict[str, float] = field(default_factory=dict)
    finished: str = ""
    folder: Path | None = None
    newest: Path | None = None
    rating: Rating | None = None


def collect(out: Path) -> str:
    """Write summary and report of all that lies in and below a folder; return a line that counts.

    The summary is summary.tsv in a BIDS dataset, summary.csv elsewhere. Where there is neither a
    result nor a failure, nothing is written, and "" is returned. Raises InputError where the files
    cannot be written.
    """
    results = rate_results(find_results(out), out)
    failures = find_failures(results, out)
    failed = {row.input for row in failures}
    rows = [row for row in results if row.input not in failed] + failures
    if not rows:
        return ""
    rows.sort(key=lambda row: (row.name, row.input))
    is_bids = (out / "dataset_description.json").exists()
    summary, page = out / ("summary.tsv" if is_bids else "summary.csv"), out / "report.html"
    write_summary(rows, summary)
    write_report_page(rows, page)
    count = len(rows) - len(failures)
    return f"{count} results and {len(failures)} failed inputs: {summary}, {page}"


def collect_anew(out: Path) -> str:
    """The same for `pred.py --collect`: raises InputError where there is nothing to sum up."""
    if said := collect(out):
        return said
    raise InputError(f"{out} holds no results of pred.py; give the folder of its --out")


# ---------------------------------------------------------------- what lies there


def find_results(out: Path) -> Iterator[Row]:
    """A row for each complete result in a folder and in all below, hidden ones and links apart.

    Each level of the tree is read by several threads, since a file server takes its time.
    """
    folders = [out]
    with ThreadPoolExecutor(READERS) as pool:
        while folders:
            below = list(chain.from_iterable(pool.map(list_folders, folders)))
            rows = list(pool.map(read_result, below))
            yield from (row for row in rows if row and row.mask)
            folders = [folder for folder, row in zip(below, rows, strict=True) if row is None]


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, but for links, and hidden ones that are no result's by their name.

    File servers keep old copies of everything in hidden folders. A warning tells where none can be
    seen.
    """
    try:
        with os.scandir(folder) as entries:
            return [
                folder / entry.name
                for entry in entries
                if (entry.name[0] != "." or find_json(Path(entry.name)))
                and entry.is_dir(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):  # taken away just now; or a file lies there
        return []
    except OSError as error:
        warn(f"{folder}: {error.strerror}; left out")
        return []


def read_result(folder: Path) -> Row | None:
    """The row of a result's folder, without a mask where it is not complete; None of others."""
    path = find_json(folder)
    about = read_json(path) if path else {}
    if "input" not in about:
        return None
    files = {
        "mask": about.get("mask"),
        "overlay": f"{path.stem}_overlay.png",
        "picture": about.get("thumbnail", f"{path.stem}_overlay.png"),
    }
    return Row(
        name=about.get("label", Path(about["input"]).name),
        input=about["input"],
        verdict=about.get("verdict", ""),
        said=tuple(dict.fromkeys([*about.get("reasons", ()), *about.get("notes", ())])),
        ml=about.get("volume_ml"),
        seconds=about.get("seconds"),
        **{kind: folder / name for kind, name in files.items() if name},
        signs=about.get("signs", {}),
        finished=about.get("finished", ""),
        folder=folder,
        newest=find_newest_mask(folder, about),
    )


def rate_results(rows: Iterable[Row], out: Path) -> list[Row]:
    """The rows of results in and below `out`, each with what people said of its newest mask."""
    ratings = sort_ratings(read_ratings(out))
    named = ((row, name_result(row.folder, out)) for row in rows)
    return [replace(row, rating=ratings.find(name, row.newest)) for row, name in named]


def find_failures(results: Iterable[Row], out: Path) -> list[Row]:
    """A row for each input that has failed and has had no result since."""
    newest = {}
    for row in results:
        newest[row.input] = max(row.finished, newest.get(row.input, ""))
    return [
        Row(failure["name"], failure["input"], FAILED, error=failure["error"])
        for failure in read_failures(out)
        if failure["time"] > newest.get(failure["input"], "")
    ]


def adds_up(out: Path, targets: Sequence[Target]) -> bool:
    """Whether a run has a manifest and ends with a summary: it has several inputs, or writes into a
    folder that holds a manifest, or results of other inputs."""
    ours = {target.folder for target in targets}
    others = (folder for folder in list_folders(out) if folder not in ours)
    return len(targets) > 1 or any((out / RUNS).glob("*.json")) or any(map(is_result, others))


# ---------------------------------------------------------------- the table


def write_summary(rows: Iterable[Row], path: Path) -> None:
    """Write a table with a row for each input: see COLUMNS. The mask's path is seen from there.

    A .tsv is written as BIDS asks: tabs between the columns, n/a where there is no value.
    """
    is_tsv = path.suffix == ".tsv"
    how = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if is_tsv else {}
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, **how, lineterminator="\n" if is_tsv else "\r\n")
        table.writerow(COLUMNS)
        for row in rows:
            cells = list_cells(row, path.parent)
            table.writerow(["n/a" if is_tsv and cell == "" else cell for cell in cells])


def list_cells(row: Row, folder: Path) -> list[str | float]:
    """What stands in the columns of a row, "" where there is no value."""
    said = [f"error: {row.error}"] if row.error else row.said
    mask = os.path.relpath(row.mask, folder) if row.mask else ""
    texts = row.name, "; ".join(said), mask, row.input
    name, said, mask, path = map(printable, texts)
    signs = (row.signs.get(sign) for sign in SIGNS)
    rated = (row.rating.rating, row.rating.who, row.rating.note) if row.rating else [None] * 3
    cells = (name, row.ml, row.verdict, row.seconds, said, mask, path, *signs, *rated)
    return ["" if cell is None else cell for cell in cells]
