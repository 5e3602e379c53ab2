"""The report: a page of every input with its picture, to be sorted and filtered; distributions.

It opens from the file system, with no server and no network. The rows are data in the page, and its
script (predict/report.html) draws those that are in view; the pictures stay files beside it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from common.errors import printable
from common.files import write_text
from common.report import VERDICTS, to_hex
from predict.distribution import draw_distribution
from predict.signs import SIGNS

if TYPE_CHECKING:  # that module imports this one
    from predict.ratings import Rating
    from predict.summary import Row

TEMPLATE = Path(__file__).with_name("report.html")
# What the page measures of an input: attributes and signs of its row. The mask's volume is enough,
# without the one before --border
MEASURES = {"ml": "volume (mL)", **SIGNS, "seconds": "time (s)"}
del MEASURES["volume_ml"]


def write_report_page(rows: Sequence[Row], path: Path) -> None:
    """Write the page of some rows, in their order. Raises InputError when it cannot be written."""
    values = {name: list_values(rows, name) for name in MEASURES}
    values = {name: found for name, found in values.items() if np.isfinite(found).any()}
    titles, names = [MEASURES[name] for name in values], [printable(row.name) for row in rows]
    figures = [
        draw_distribution(found, names, title, number)
        for number, (found, title) in enumerate(zip(values.values(), titles, strict=True))
    ]
    table = np.column_stack([*values.values(), np.empty((len(rows), 0))]).tolist()
    found = [to_data(row, measured, path.parent) for row, measured in zip(rows, table, strict=True)]
    parts = {
        "colours": "\n".join(f".{v} {{ color: {to_hex(c)} }}" for v, c in VERDICTS.items()),
        "figures": "\n".join(figures),
        "data": pack({"measures": titles, "rows": found}),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    write_text(path, re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], page))


def list_values(rows: Sequence[Row], name: str) -> np.ndarray:
    """A measure of each row, (rows,) float; NaN where there is none."""
    found = (row.signs.get(name) if name in SIGNS else getattr(row, name) for row in rows)
    return np.array([math.nan if value is None else value for value in found], float)


def to_data(row: Row, measured: list[float], folder: Path) -> list:
    """What the page's script knows of a row: name, verdict, what is said, the addresses of overlay,
    picture and mask, and the measures, None where there is none."""
    said = [row.error] if row.error else row.said
    if row.rating:
        said = [tell_rating(row.rating), *said]
    return [
        printable(row.name),
        row.verdict,
        [printable(text) for text in said],
        *(link(file, folder) for file in (row.overlay, row.picture, row.mask)),
        [float(f"{value:.5g}") if math.isfinite(value) else None for value in measured],
    ]


def tell_rating(rating: Rating) -> str:
    """A rating in one line: rated fix by AB: leaks into the orbit."""
    by = f" by {rating.who}" if rating.who else ""
    note = f": {rating.note}" if rating.note else ""
    return f"rated {rating.rating}{by}{note}"


def link(file: Path | None, folder: Path) -> str:
    """A file's address as seen from a folder; "" for none."""
    if file is None:
        return ""
    return quote(os.fsencode(os.path.relpath(file, folder).replace(os.sep, "/")))


def pack(content: dict) -> str:
    """An object as JSON, compressed, in base64; so no name in it can end the page's script."""
    text = json.dumps(content, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode())).decode()
