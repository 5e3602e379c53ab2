"""A result: what is asked of a prediction, what comes of it, and the folder where it lies.

    for target in plan(paths, Path("results")):
        with claimed(target) as target:             # nobody else writes there
            …                                       # and its JSON last

A folder `<name>_prediction` belongs to the input that `<name>.json` in it names.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.card import Card
from common.errors import explained, make_folder, printable, replacing
from common.files import plain_name, read_json
from scan.cases import get_stem

if TYPE_CHECKING:  # which a picture need not wait for
    from predict.maps import Maps
    from predict.verdict import Verdict

# The files that predict/correction.py writes
DRAWN = re.compile(r"_((corrected|undone)(_\d+)?|desc-(corrected|undone)\d*)_(mask|dseg)\.nii\.gz$")
FOR_SCANS = "--border, --brain and --format are for scans: a slice's mask is a PNG as it was found"


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for beside the mask itself.

    series: number of the DICOM series, None to choose; formats: of the mask; brain: write the
    brain cut out of the scan; border: mm by which the mask is grown; volume: number of the volume
    of a 4-D scan, from 1. probabilities, uncertainty: write these maps, too (predict/maps.py).
    """

    series: int | None = None
    formats: tuple[str, ...] = ("nii",)
    brain: bool = False
    border: float = 0.0
    volume: int | None = None
    probabilities: bool = False
    uncertainty: bool = False

    @property
    def maps(self) -> bool:
        """Whether any map is wanted."""
        return self.probabilities or self.uncertainty

    @property
    def notes_of_slice(self) -> tuple[str, ...]:
        """A note where something is asked for that only a scan's mask can have."""
        asked = self.brain or self.border or self.formats != ("nii",)
        return (FOR_SCANS,) if asked else ()


NOTHING_MORE = Wanted()  # than the mask


@dataclass(frozen=True)
class Result:
    """A mask and what was noticed on the way.

    mask: of a picture (H, W), of a scan (X, Y, Z) on its canonical voxels; bool for a brain, uint8
    labels from 1 for an MRI. agreement: Dice of each pair of views, empty for a thin scan.
    verdict: whether to trust a scan's brain mask; None for anything else. maps: of what the
    networks said, where they are wanted.
    """

    mask: np.ndarray
    agreement: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    maps: Maps | None = None

    def doubt(self, reason: str) -> Result:
        """The same result, told with a reason not to trust it: its verdict is not ok."""
        verdict = self.verdict
        if verdict:
            grade = "check" if verdict.grade == "ok" else verdict.grade
            verdict = replace(verdict, grade=grade, reasons=(reason, *verdict.reasons))
        return replace(self, notes=(reason, *self.notes), verdict=verdict)


@dataclass(frozen=True)
class Target:
    """One input (a file or a folder), its name in files, and the folder of its results.

    label: its name for people, with its folders where it was found in a tree. bids: its URI in a
    BIDS dataset, where its mask becomes a part of BIDS derivatives.
    uri: what the input is, where that is no path; version: its fingerprint, where that is not to
    be taken from its files. Else "".
    """

    path: Path
    name: str
    folder: Path
    label: str = ""
    bids: str = ""
    uri: str = ""
    version: str = ""

    @property
    def input(self) -> str:
        """The input's URI, or its whole path, by which its results are known as its own."""
        return self.uri or printable(absolute(self.path))

    @property
    def json(self) -> Path:
        """The file that says what the result is; it is written last."""
        return self.folder / f"{self.name}.json"

    @property
    def owner(self) -> dict:
        """What the JSON says of whose the folder is. A BIDS dataset may be moved: the URI stays."""
        return {"input": self.input} | ({"bids": self.bids} if self.bids else {})

    @property
    def published(self) -> list[Path]:
        """Where mask, sidecar and brain lie in BIDS derivatives: beside the folder."""
        if not self.bids:
            return []
        brain, labels = (name_bids_mask(self.name, is_brain) for is_brain in (True, False))
        alone = f"{brain.removesuffix('mask')}{self.name.split('_')[-1]}.nii.gz"
        names = [f"{start}{end}" for start in (brain, labels) for end in (".json", ".nii.gz")]
        return [self.folder.parent / name for name in (*names, alone)]


# ---------------------------------------------------------------- its folder


def plan(paths: Iterable[Path] | Mapping[Path, Path], out: Path) -> list[Target]:
    """A target for each path; inputs of one name get folders of their own, always the same ones.

    Where `paths` is a mapping, it has the folder below which each path was found: the folders
    between them lie below `out`, too. The folder of an earlier result belongs to the input that its
    JSON names.
    """
    roots = paths if isinstance(paths, Mapping) else {}
    targets, taken = [], set()
    for path in paths:
        whole = absolute(path)
        name = plain_name(get_stem(whole).removesuffix(".dcm").removesuffix(".zip"))
        place = find_place(whole, absolute(roots.get(path, whole)))
        label = printable(place / whole.name)
        folders = list_folders(name, out.joinpath(*map(plain_name, place.parts)))
        free = (Target(path, name, f, label) for f in folders if f not in taken)
        target = next(filter(is_ours, free))
        taken.add(target.folder)
        targets.append(target)
    return targets


def find_place(path: Path, root: Path) -> Path:
    """The folders from a root down to a path, both whole, without those called like a file.

    None where the path is the root; where it lies elsewhere, as ../scan.nii.gz may do, all.
    """
    if path == root:
        return Path()
    folder = path.parent
    inner = folder.relative_to(root if folder.is_relative_to(root) else folder.anchor)
    return Path(*(part for part in inner.parts if get_stem(part) == part))


def is_ours(target: Target) -> bool:
    """Whether a target's folder is its own, or nobody's yet."""
    about = read_json(target.json)
    is_same = bool(target.bids) and about.get("bids") == target.bids
    return is_same or about.get("input") in (None, target.input)


def absolute(path: Path) -> Path:
    """A path from the root. A link stays a link, since its own name is the scan's."""
    return Path(os.path.abspath(path))


def name_bids_mask(name: str, is_brain: bool = True) -> str | None:
    """`sub-01_ses-02_desc-brain_mask` for a scan named `sub-01_ses-02_ct`; None if not BIDS.

    For labels, `sub-01_ses-02_desc-tumour_dseg`. BIDS 1.10, file name structure and "Imaging data
    type" of derivatives: key-value pairs, of which `desc` is the last, and a suffix.
    """
    if not re.fullmatch(r"sub-[a-zA-Z0-9]+(_[a-z]+-[a-zA-Z0-9]+)*_[a-zA-Z0-9]+", name):
        return None
    pairs = [pair for pair in name.split("_")[:-1] if not pair.startswith("desc-")]
    return "_".join([*pairs, *(("desc-brain", "mask") if is_brain else ("desc-tumour", "dseg"))])


def list_folders(name: str, out: Path) -> Iterator[Path]:
    """The folders in which results of inputs of a name may lie, in order."""
    yield out / f"{name}_prediction"
    yield from (out / f"{name}_prediction_{number}" for number in itertools.count(2))


def find_json(folder: Path) -> Path | None:
    """Where the JSON of a folder's results lies; None where the folder's name is none of theirs."""
    name = re.fullmatch(r"(.+)_prediction(_\d+)?", folder.name)
    return folder / f"{name[1]}.json" if name else None


def is_result(folder: Path) -> bool:
    """Whether a folder holds the results of a prediction."""
    path = find_json(folder)
    return path is not None and "input" in read_json(path)


def is_done(target: Target, card: Card, wanted: Wanted) -> bool:
    """Whether the result is there: of this input as it is now, of the same networks, as wanted."""
    about = read_json(target.json)
    return (
        (target.folder / about.get("mask", "no mask")).exists()
        and [about.get("wanted"), about.get("model")]
        == json.loads(json.dumps([asdict(wanted), card.sha256]))
        and about.get("bids", "") == target.bids
        and about.get("input_version") == input_version(target)
    )


def input_version(target: Target) -> str:
    """A fingerprint of an input: total bytes and latest modification time (ns).

    For a folder, over all its files, but for results that are written into it. The target's own
    version goes before.
    """
    if target.version:
        return target.version
    files = [target.path] if target.path.is_file() else target.path.rglob("*")
    about = [f.stat() for f in files if f.is_file() and target.folder not in f.parents]
    return f"{sum(a.st_size for a in about)} {max((a.st_mtime_ns for a in about), default=0)}"


def try_folder(folder: Path) -> None:
    """Raise InputError where a folder is not there and cannot be made; leave none behind."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with explained(folder):
        make_folder(folder)
        for path in missing:
            with suppress(OSError):  # another process has begun to write there
                path.rmdir()


@contextmanager
def claimed(target: Target) -> Iterator[Target]:
    """Yield the target in a folder of its own: another folder if another process has that one.

    Until the result is complete, the JSON there says no more than whose it is, since an earlier
    result does not stand for files that are about to be replaced. If the block fails, all files of
    the result go, so that no mask lies there without its JSON. What people have corrected
    (predict/correction.py) stays, and so does what the JSON says of it.
    """
    folders = itertools.chain([target.folder], list_folders(target.name, target.folder.parent))
    with explained(target.folder):
        target = next(t for t in (replace(target, folder=f) for f in folders) if take(t))
    before = read_json(target.json)
    ours, kept = written_files(before), keep_people(before)
    others = {path.name: path.stat().st_ino for path in target.folder.iterdir()}
    try:
        with replacing(target.json) as path:
            path.write_text(json.dumps(target.owner | kept), encoding="utf-8")
        yield target
    except BaseException:
        for path in target.folder.iterdir():
            new = others.get(path.name) != path.stat().st_ino
            stays = kept and path == target.json
            if (new or path.name in ours or path == target.json) and not stays:
                remove(path)
        for path in target.published:
            remove(path)
        with suppress(OSError):  # it is not empty
            target.folder.rmdir()
        raise


def take(target: Target) -> bool:
    """Whether a target's folder is its own, or nobody's yet; then there is a JSON in it."""
    make_folder(target.folder)
    try:
        target.json.touch(exist_ok=False)
    except FileExistsError:
        return is_ours(target)
    return True


def remove_unfinished(target: Target) -> None:
    """Remove the result of a target that was claimed by a process which died in the middle."""
    about = read_json(target.json)
    kept = keep_people(about)
    if about != target.owner | kept:
        return
    for path in target.published:
        remove(path)
    for path in target.folder.iterdir():
        if not (DRAWN.search(path.name) or (kept and path == target.json)):
            remove(path)
    with suppress(OSError):  # it is not empty
        target.folder.rmdir()


def keep_people(about: dict) -> dict:
    """The part of a result's JSON that is people's own work: its corrections, if there are any."""
    return {"corrections": about["corrections"]} if about.get("corrections") else {}


def remove_stale(folder: Path, before: dict, about: dict) -> None:
    """Remove files of an earlier result that the new one has not replaced, if its mask differs.

    `before` and `about` are what the JSON said and says.
    """
    if made_of(before) == made_of(about):
        return
    for name in written_files(before) - written_files(about):
        remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def made_of(said: dict) -> tuple:
    """What decides the mask that a JSON stands for."""
    wanted = said.get("wanted", {})
    options = wanted.get("series"), wanted.get("border"), wanted.get("volume")
    return said.get("model"), said.get("input_version"), *options


def written_files(said: dict) -> set[str]:
    """The names of a result's files, in its own folder whatever the JSON says."""
    keys = "brain", "dicom_sr", "uncertainty", "uncertainty_picture"
    one = (said.get(key) for key in keys)
    names = (*said.get("masks", ()), *said.get("probability", ()), *one)
    return {Path(name).name for name in names if name}
