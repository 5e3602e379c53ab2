"""An input on its way: read, predicted, written, each step while the next input is in another.

    for work in predict_files(targets, load, wanted, card):
        print(work.about or work.error)

A module for each kind of input does the steps. To add a kind, write such a module and name it in
`choose_kind`:

    source = kind.read(path, wanted, card)             # InputError for what cannot be used
    kind.show(source, folder, card)                    # what a viewer shows below the mask
    result = kind.predict(source, network, wanted)     # a Result
    about = kind.write(target, source, result, wanted, card)    # what the JSON says
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from common import SOFTWARE
from common.card import Card
from common.errors import InputError
from common.files import read_json, write_json
from predict import picture
from predict.bids import publish
from predict.manifest import tell_time
from predict.network import Network
from predict.result import Result, Target, Wanted, claimed, input_version, remove_stale
from scan.cases import PICTURES, is_dicom


@dataclass
class Work:
    """An input on its way through `read`, `predict` and `write`.

    kind: the module that handles it; source: what that has read, until it is written; version: the
    input's fingerprint when it was read; about: what its JSON says in the end; error: why there is
    none; seconds: time spent on it.
    """

    target: Target
    kind: ModuleType | None = None
    version: str = ""
    source: object = None
    result: Result | None = None
    about: dict = field(default_factory=dict)
    error: InputError | None = None
    seconds: float = 0.0


def predict_files(
    targets: list[Target],
    load: Callable[[], Network],
    wanted: Wanted,
    card: Card,
) -> Iterator[Work]:
    """Predict the inputs and write their results, in order; `load` gives the network.

    While one input is predicted, the next is read and the one before written, each in a thread: at
    most three are in memory. Reading begins before the network is loaded, hence its `card`.
    """
    waiting = in_background(timed(lambda work: read(work, wanted, card)), map(Work, targets))
    network = load()
    predicted = map(timed(lambda work: predict(work, network, wanted)), waiting)
    return in_background(timed(lambda work: write(work, network.card, wanted)), predicted)


def in_background(function: Callable, items: Iterable) -> Iterator:
    """Yield function(item) in order; the next one starts in a thread before a result is given."""
    thread, items = ThreadPoolExecutor(1), iter(items)

    def begin():
        return next((thread.submit(function, item) for item in items), None)

    def results(under_way):
        while under_way:
            following = begin()
            yield under_way.result()
            under_way = following

    return results(begin())


def timed(function: Callable[[Work], None]) -> Callable[[Work], Work]:
    """A step that adds its time and keeps its InputError; work that failed before is passed on."""

    def run_step(work: Work) -> Work:
        start = time.perf_counter()
        if work.error is None:
            try:
                function(work)
            except InputError as error:
                work.error = error
            except MemoryError:
                work.error = InputError(f"{work.target.path} needs more memory than there is")
            if work.error:
                work.source = work.result = None
        work.seconds += time.perf_counter() - start
        return work

    return run_step


def choose_kind(path: Path, card: Card) -> ModuleType:
    """The module for an input, by what it is and what the model's card asks for."""
    if path.name.lower().endswith(PICTURES):
        return picture
    # what follows brings SciPy and nibabel, for which a picture need not wait half a second
    if card.is_mri:
        from predict import tumour

        return tumour
    from predict import brain
    from scan.read import has_no_place

    return picture if is_dicom(path) and has_no_place(path) else brain


def read(work: Work, wanted: Wanted, card: Card) -> None:
    """Choose the kind of the input and read it; InputError for what cannot be used."""
    if not work.target.path.exists():  # a list may name it
        raise InputError(f"{work.target.path} does not exist; check the path")
    work.version = input_version(work.target)
    work.kind = choose_kind(work.target.path, card)
    work.source = work.kind.read(work.target.path, wanted, card)


def predict(work: Work, network: Network, wanted: Wanted) -> None:
    """Find the mask; a network that has learned too little is named as one."""
    work.result = work.kind.predict(work.source, network, wanted)
    if weakness := network.card.weakness:
        work.result = work.result.doubt(weakness)


def write(work: Work, card: Card, wanted: Wanted) -> None:
    """Write mask, overlay and, last, the JSON; let go of the scan."""
    start = time.perf_counter()
    before = read_json(work.target.json)
    with claimed(work.target) as target:
        if target.folder != work.target.folder:
            before = {}
        work.target = target
        about = work.kind.write(target, work.source, work.result, wanted, card)
        seconds = work.seconds + time.perf_counter() - start
        about = {
            **target.owner,
            "input_version": work.version,
            "label": target.label or target.path.name,
            **about,
            "model": card.sha256,
            "software": SOFTWARE,
            "wanted": asdict(wanted),
            "seconds": round(seconds, 2),
            "finished": tell_time(),
        }
        if target.bids:
            about = publish(target, about, card)
        if before.get("corrections"):
            from predict.correction import keep_corrections  # which brings nibabel

            about = keep_corrections(target.folder, before, about)
        write_json(target.json, about)
    remove_stale(target.folder, before, about)
    work.about, work.source, work.result = about, None, None
