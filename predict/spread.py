"""Many inputs, spread over worker processes (common/cluster.py), or over the jobs of an array.

with open_works(targets, workers, scheduler, models, "openvino", wanted, card) as works:
    for work in works: ...          # as predict/work.py gives them, but as they are done
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from common.card import Card
from common.cluster import WorkerDied, open_cluster, spread
from common.errors import InputError, tell
from predict.network import Network, list_models, prepare
from predict.result import Target, Wanted, absolute, remove_unfinished
from predict.work import Work, predict, predict_files, read, timed, write

KEPT = threading.local()  # the network that a thread of a worker has loaded, and its key


@contextmanager
def open_works(
    targets: Sequence[Target],
    workers: int,
    scheduler: str | None,
    models: Sequence[str],
    backend: str,
    wanted: Wanted,
    card: Card,
) -> Iterator[Iterator[Work]]:
    """Yield an iterator of the targets' works; leaving the block ends what is still under way.

    One worker is this process, in which the works come in order. The network is then loaded here.
    """
    if not targets:
        yield iter(())
        return
    workers = min(workers, len(targets))
    if workers == 1 and not scheduler:
        yield predict_files(targets, functools.partial(Network, models, backend), wanted, card)
        return
    prepare(models, backend)  # here and once, not in every worker
    models = tuple(str(absolute(path)) for path in list_models(models))
    tasks = ((target, models, backend, wanted, card) for target in targets)
    with open_cluster(workers, scheduler) as client:
        yield (to_work(task[0], found) for task, found in spread(client, predict_alone, tasks))


def predict_alone(
    target: Target, models: tuple[str, ...], backend: str, wanted: Wanted, card: Card
) -> Work:
    """Predict one target in a worker and write its result; the work holds nothing large."""
    network = keep_network(models, backend, card)
    work = Work(replace(target, path=absolute(target.path), folder=absolute(target.folder)))
    timed(lambda work: read(work, wanted, card))(work)
    timed(lambda work: predict(work, network, wanted))(work)
    timed(lambda work: write(work, network.card, wanted))(work)
    return replace(work, kind=None, source=None, result=None)


def keep_network(models: tuple[str, ...], backend: str, card: Card) -> Network:
    """The network, loaded once a thread of a worker, and anew where its files have changed."""
    key = models, backend, card.sha256
    if getattr(KEPT, "key", None) != key:
        KEPT.network = Network(models, backend)
        KEPT.key = key
    return KEPT.network


def to_work(target: Target, found: Work | WorkerDied) -> Work:
    """The work of a target, its paths as they were given; `found` is what came of it.

    Where the workers died, they could not remove what they had begun; so that is done here.
    """
    if isinstance(found, WorkerDied):
        remove_unfinished(target)
        return Work(target, error=InputError(f"{target.path}: {found}"))
    folder = target.folder.with_name(found.target.folder.name)
    return replace(found, target=replace(target, folder=folder))


# ---------------------------------------------------------------- the jobs of an array


def parse_part(text: str) -> tuple[int, int]:
    """(3, 16) of "3/16"; raises InputError for what is no such part."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--part {text}: give K/N with K from 1 to N, such as 3/16")
    return number, count


def take_part(targets: Sequence[Target], part: tuple[int, int]) -> list[Target]:
    """The targets of part (K, N), by the SHA-256 of each one's whole path.

    A target's part depends on nothing else: neither on the order nor on the others.
    """
    number, count = part

    def part_of(target: Target) -> int:
        return int.from_bytes(hashlib.sha256(target.input.encode()).digest()) % count + 1

    taken = [target for target in targets if part_of(target) == number]
    if count > 1:
        tell(f"part {number}/{count}: {len(taken)} of {len(targets)} inputs")
    return taken
