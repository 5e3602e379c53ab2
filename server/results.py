"""A folder of results as the page shows it: its list, and each result's files.

    results = Results(Path("masks"), cards)
    for result_id, row in results.list_rows().items(): …
    said = results.describe(result_id)             # what the viewer shows
    path = results.find_file(result_id, "mask.nii.gz")
    content = results.make_file(result_id, "scan.nii")

A request names a result by an id, and a file by a word of FILES: no path of a request ever reaches
the file system. What a result's JSON names is given out only where it lies in the folder, links
followed. The one exception is the scan that was masked, which is read as a scan, and only while its
fingerprint is the one in the JSON.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from common.card import Card
from common.errors import InputError
from common.files import checksum, read_json
from predict import brain, picture, tumour
from predict.manifest import RUNS
from predict.ratings import (
    NAME,
    Rating,
    Ratings,
    add_rating,
    name_result,
    read_ratings,
    sort_ratings,
)
from predict.result import Target, Wanted, find_json, input_version
from predict.summary import Row, find_failures, find_results, read_result
from scan.nib import nib
from scan.nifti import pack_scan, read_drawn
from server.uploads import MOST_NIFTI_VOXELS, Refused
from server.worker import INPUT_NAMES, PRIVATE, describe_areas

LOOK = 5.0  # s between two looks at a folder. A round number
# Voxels of a scan that is shown as a whole at once: 150 slices of 512 x 512. Before a larger one, a
# browser without a GPU shows every second voxel along each axis
MOST_AT_ONCE = 150 << 18
COARSE = ("coarse_scan.nii", "coarse_mask.nii")
MADE = ("scan.nii", "picture.png", *COARSE)  # files of a result that are made of its input
CORRECTED = "corrected_mask.nii.gz"  # what the newest correction is called
KEPT_SCAN = "scan.nii.gz"  # beside a mask, where somebody has kept it there
GONE = "the scan is not where it was when it was masked, or has changed"
NO_MASK = "there is no mask in NIfTI to lay over the scan"
NO_NETWORK = "the scan's modalities are not known: start app.py with --model and its network, too"


class Results:
    """The results in a folder and below. Raises InputError where there is no such folder."""

    def __init__(self, root: Path, cards: Sequence[Card]):
        if not root.is_dir():
            raise InputError(f"{root} is no folder; give the --out of pred.py")
        self.root, self.cards = Path(os.path.realpath(root)), cards
        self.lock, self.reading = threading.Lock(), threading.Lock()
        self.rows: dict[str, Row] = {}
        self.failures: list[Row] = []
        self.last: tuple = (None, None)  # (result and version, what was read)
        self.looked, self.told, self.ratings = -math.inf, None, Ratings({})
        self.read, self.digest = remember(self.read_row, find_json), remember(checksum)

    # ------------------------------------------------------------ the list

    def list_rows(self) -> dict[str, tuple[Row, Rating | None]]:
        """{id: row and rating} of every result, as they lie there now, or did LOOK ago."""
        with self.lock:
            if time.monotonic() - self.looked > LOOK:
                rows = sorted(find_results(self.root, self.read), key=lambda row: row.name)
                self.rows = {self.name_id(row): row for row in rows}
                self.failures = find_failures(rows, self.root) if self.keeps_runs() else []
                self.looked = time.monotonic()
            ratings = self.find_ratings()
            return {key: (row, self.find_rating(row, ratings)) for key, row in self.rows.items()}

    def keeps_runs(self) -> bool:
        """Whether what runs have left to say lies in the folder, links followed."""
        runs = self.root / RUNS
        return runs.is_dir() and all(map(self.is_ours, runs.glob("*.json")))

    def read_row(self, folder: Path) -> Row | None:
        """The row of a result's folder; None where its JSON is none of ours, or lies elsewhere."""
        path = find_json(folder)
        return read_result(folder) if path is None or self.is_ours(path) else None

    def name_id(self, row: Row) -> str:
        """A name for a result that stays the same, and says nothing."""
        place = os.fsencode(os.path.relpath(row.folder, self.root))
        return hashlib.sha256(place).hexdigest()[:16]

    def find_ratings(self) -> Ratings:
        """The ratings, read anew when the file has changed."""
        told = fingerprint(self.root / NAME)
        if told is None or told != self.told:  # None: no file, or a link that leads nowhere
            self.ratings, self.told = sort_ratings(read_ratings(self.root)), told
        return self.ratings

    def find_rating(self, row: Row, ratings: Ratings) -> Rating | None:
        return ratings.find(name_result(row.folder, self.root), row.newest, self.digest)

    def get(self, result_id: str) -> tuple[Row, dict]:
        """A result's row and its JSON, as they lie there now; Refused where there is none."""
        with self.lock:
            row = self.rows.get(result_id)
        row = row and self.read_row(row.folder)
        if not (row and row.mask):
            raise Refused("there is no such result, or it is being written", 404)
        return row, read_json(find_json(row.folder))

    # ------------------------------------------------------------ one result

    def describe(self, result_id: str) -> dict:
        """What the viewer needs to know of a result, with the names of its files; `no_scan` says
        why the scan is not among them."""
        row, about = self.get(result_id)
        files, reason = self.list_shown(row, about)
        mask = row.newest if self.is_ours(row.newest) else None
        entries = about.get("corrections", ())
        return {
            "kind": "slice" if is_slice(about) else INPUT_NAMES["label_values" in about],
            **describe_areas(about, self.choose_card(about)),
            "files": files,
            "no_scan": reason,
            "mask_sha256": checksum(mask) if mask else None,
            **{key: value for key, value in about.items() if key not in PRIVATE},
            "corrections": [{k: v for k, v in e.items() if k != "scan"} for e in entries],
        }

    def list_shown(self, row: Row, about: dict) -> tuple[list[str], str]:
        """The names of a result's files, those made of its input among them; why these are not."""
        files = [name for name, path in list_files(row, about).items() if self.is_ours(path)]
        if is_slice(about):
            reason = self.doubt_scan(row, about)
            return (files, reason) if reason else ([*files, "picture.png"], "")
        if "mask.nii.gz" not in files:
            return [name for name in files if name != "scan.nii.gz"], NO_MASK
        if "scan.nii.gz" in files:
            return files, ""
        if reason := self.doubt_scan(row, about):
            return files, reason
        is_large = math.prod(about.get("shape", [])) > MOST_AT_ONCE
        return [*files, "scan.nii", *(COARSE if is_large else ())], ""

    def choose_card(self, about: dict) -> Card:
        """The card of the network that made a result, or one of what its JSON says."""
        made_by = about.get("model")
        for card in self.cards:
            if card.sha256 and card.sha256 in (made_by if isinstance(made_by, list) else [made_by]):
                return card
        if values := about.get("label_values"):
            labels = dict(enumerate(values, 1))
            stored = dict(enumerate(values.values(), 1))
            return Card(labels=labels, label_values=stored, normalise="brain", channels=())
        return Card()

    def find_file(self, result_id: str, name: str) -> Path:
        """A file of a result, which lies in the folder; Refused where it does not."""
        row, about = self.get(result_id)
        path = list_files(row, about).get(name)
        if not (path and self.is_ours(path)):
            raise Refused("there is no such file of this result", 404)
        return path

    def is_ours(self, path: Path | None) -> bool:
        """Whether a path, links followed, is a file in the folder."""
        if path is None:
            return False
        real = Path(os.path.realpath(path))
        return real.is_relative_to(self.root) and real.is_file()

    # ------------------------------------------------------------ its scan

    def doubt_scan(self, row: Row, about: dict) -> str:
        """Why the scan that was masked cannot be shown; "" where it can."""
        if not self.choose_card(about).channels:
            return NO_NETWORK
        if math.prod(about.get("shape", [])) > MOST_NIFTI_VOXELS:
            return "the scan is too large to be shown"
        path = Path(about["input"])
        try:
            target = Target(path, "", row.folder)
            is_same = path.is_absolute() and path.exists()
            return "" if is_same and input_version(target) == about.get("input_version") else GONE
        except OSError:
            return GONE

    def make_file(self, result_id: str, name: str) -> bytes:
        """A file of MADE: the scan that was masked, as it was understood then.

        Raises Refused where it has changed since, and InputError where it cannot be read.
        """
        row, about = self.get(result_id)
        if name == "coarse_mask.nii":
            mask = row.newest if self.is_ours(row.newest) else None
            if mask is None:
                raise Refused("there is no such file of this result", 404)
            return pack_coarse(read_drawn(mask, None), about["affine"])
        source = self.read_scan(result_id, row, about)
        if is_slice(about):
            grey = picture.as_grey(source[0], self.choose_card(about).shown_channel)
            return cv2.imencode(".png", grey)[1].tobytes()
        scan = source.shown if isinstance(source, tumour.MRI) else source
        return pack_scan(scan) if name == "scan.nii" else pack_coarse(scan.hu, scan.affine)

    def read_scan(self, result_id: str, row: Row, about: dict):
        """What the input of a result holds, as its kind reads it; the last one is kept.

        One is read at a time, since each may take a GB of memory.
        """
        card, asked = self.choose_card(about), about.get("wanted", {})
        wanted = Wanted(series=asked.get("series"), volume=asked.get("volume"))
        with self.reading:
            if reason := self.doubt_scan(row, about):
                raise Refused(reason, 404)
            key = result_id, about["input_version"]
            if self.last[0] != key:
                self.last = None, None  # two would take twice the memory
                kind = choose_reader(about)
                self.last = key, kind.read(Path(about["input"]), wanted, card)
            return self.last[1]

    # ------------------------------------------------------------ what people say

    def rate(self, result_id: str, seen: str, said: dict[str, str]) -> Rating:
        """Write a rating of the mask whose checksum is `seen`; `said` has who, rating and note.

        Raises Refused where there is another mask by now, InputError where it cannot be written.
        """
        row, _ = self.get(result_id)
        if not self.is_ours(row.newest) or checksum(row.newest) != seen:
            raise Refused("the mask has changed since you opened it; look at it again", 409)
        name = name_result(row.folder, self.root)
        rating = Rating(result=name, mask=row.newest.name, sha256=seen, **said)
        return add_rating(self.root, rating)

    def correct(self, result_id: str, change: Callable[[Path], dict]) -> dict:
        """Do something with the corrections of a result, whose JSON `change` is given."""
        row, _ = self.get(result_id)
        entry = change(find_json(row.folder))
        self.looked = -math.inf  # its newest mask is another
        return entry


def remember(function, find=lambda path: path):
    """A function of a path that keeps its answers until the file that `find` names changes."""
    known = {}

    def ask(path: Path):
        told = fingerprint(find(path))
        if told is None:
            return function(path)
        if path not in known or known[path][0] != told:
            known[path] = told, function(path)
        return known[path][1]

    return ask


def fingerprint(path: Path | None) -> tuple | None:
    """What changes when a file does; None where there is no file."""
    try:
        about = os.stat(path)
    except (OSError, TypeError):
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def pack_coarse(array: np.ndarray, affine: np.ndarray | list) -> bytes:
    """Every second voxel of a canonical array (X, Y, Z) along each axis, as NIfTI."""
    part = np.ascontiguousarray(array[::2, ::2, ::2].T).T
    if part.dtype.kind == "f":
        part = np.clip(np.rint(part), -32768, 32767).astype(np.int16)
    scaled = np.asarray(affine) @ np.diag([2, 2, 2, 1])
    return nib.Nifti1Image(part, scaled).to_bytes()


def list_files(row: Row, about: dict) -> dict[str, Path]:
    """Where the files lie that a result gives out by these names, if they are there."""
    mask = row.mask
    ending = ".nii.gz" if mask.name.endswith(".nii.gz") else mask.suffix
    corrected = {CORRECTED: row.newest} if row.newest != mask else {}
    return {
        f"mask{ending}": mask,
        **corrected,
        "overlay.png": row.overlay,
        "thumbnail": row.picture,
        "result.json": find_json(row.folder),
        "scan.nii.gz": row.folder / KEPT_SCAN,
    }


def is_slice(about: dict) -> bool:
    return "volume_ml" not in about


def choose_reader(about: dict) -> ModuleType:
    """The module that reads the input of a result."""
    if is_slice(about):
        return picture
    return tumour if "label_values" in about else brain
