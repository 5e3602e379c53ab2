"""Work that is spread over processes by Dask: on this machine, or on a running cluster.

    with open_cluster(workers=4) as client:
        for task, result in spread(client, function, [(first, second), …]): ...

Where neither several workers nor a scheduler are asked for, the work is done in this process, and
Dask need not be installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import cv2

from common import CORES
from common.errors import InputError, warn

if TYPE_CHECKING:
    from distributed import Client

INSTALL = "pip install -r requirements-cluster.txt"
SCHEDULER_GONE = "the scheduler is gone; start one anew, and the same command goes on"
SETTINGS = {  # of Dask, for the scheduler and the workers that are started here
    # Dask's value gives all memory back at once, which takes a tenth of the CPU time here
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.scheduler.allowed-failures": 1,  # a task whose worker died has a second try
    # A task waits at the scheduler, not at a worker: else it would share that worker's death
    "distributed.scheduler.worker-saturation": 1.0,
    # Dask's own profiler takes time, and memory as long as it runs
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
}


class WorkerDied(InputError):
    """A task has no result, since each process that tried it died."""


# ---------------------------------------------------------------- the command line


def add_cluster_options(parser: argparse.ArgumentParser, workers: int | None) -> None:
    """Add --workers with its default (None: all cores where Dask is installed), and --scheduler."""
    shown = "the cores" if workers is None else workers
    said = f"processes that share the cores of this machine (default: {shown}); more than 1 needs "
    said += f"Dask: {INSTALL}"
    parser.add_argument("--workers", type=int, default=workers, metavar="N", help=said)
    said = "let the workers of a running Dask cluster do it; they must see the same folders"
    parser.add_argument("--scheduler", metavar="ADDRESS", help=f"{said} (such as tcp://HOST:8786)")


def check_cluster_options(args: argparse.Namespace) -> None:
    """Settle the options of `add_cluster_options`; InputError where they cannot be met."""
    if args.scheduler and (args.workers or 1) > 1:
        said = "--workers starts processes here, --scheduler takes those of a cluster"
        raise InputError(f"{said}: leave one of them out")
    if args.workers is None:
        args.workers = 1 if args.scheduler else choose_workers()
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: give 1 or more")
    if args.scheduler or args.workers > 1:
        require_dask()


def choose_workers() -> int:
    """As many workers as there are cores; 1, and a line of advice, where Dask is not installed."""
    if CORES > 1 and not has_dask():
        warn(f"one of {CORES} cores is used; to use all: {INSTALL}")
        return 1
    return CORES


def has_dask() -> bool:
    return importlib.util.find_spec("distributed") is not None


def require_dask() -> None:
    """Raise InputError where Dask is not installed."""
    if not has_dask():
        raise InputError(f"--workers and --scheduler need Dask: {INSTALL}")


# ---------------------------------------------------------------- the workers


@contextmanager
def open_cluster(workers: int = 1, scheduler: str | None = None) -> Iterator[Client | None]:
    """Yield a client of `workers` processes of this machine, or of the cluster of a `scheduler`.

    It is None for one worker without a scheduler. The processes end with the block. Raises
    InputError when nobody answers at the scheduler's address.
    """
    if scheduler:
        with connect(scheduler) as client:
            yield client
    elif workers > 1:
        with start_workers(workers) as client:
            yield client
    else:
        yield None


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Yield a client of a cluster that runs already."""
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.CRITICAL):  # `spread` says what is wrong
        try:
            client = Client(address, set_as_default=False)
        except (OSError, ValueError) as error:
            advice = "start one with `dask scheduler`, or use --workers"
            raise InputError(f"no Dask scheduler answers at {address}; {advice}") from error
        with client:
            if not count_threads(client):
                warn(f"the scheduler at {address} has no workers yet; waiting for some")
            yield client


@contextmanager
def start_workers(count: int) -> Iterator[Client]:
    """Yield a client of `count` new processes, each with its share of the cores.

    They listen on this machine alone. None outlives this process, even if that is killed: Dask's
    nanny sees to it.
    """
    import dask
    from distributed import Client, LocalCluster

    share = str(max(1, CORES // count))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), share)
    threads |= {"TF_NUM_INTRAOP_THREADS": share, "TF_NUM_INTEROP_THREADS": "1"}
    with environment(**threads), dask.config.set(SETTINGS):
        with ctrl_c_blocked():  # the workers inherit that: Ctrl-C is for this process alone
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # none: Dask would pause a worker whose scan is large
                dashboard_address="127.0.0.1:0",  # which has no pages, as SETTINGS says
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables of the environment in a block, for the processes that are started there."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Hold Ctrl-C back in a block, also for the threads and processes that are started there."""
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- the tasks


def spread(
    client: Client | None, function: Callable, tasks: Iterable[tuple]
) -> Iterator[tuple[tuple, object]]:
    """Yield (task, function(*task)) as they are done; the result may be a WorkerDied.

    Without a client, all is done here, in order. Else as many tasks are under way as the workers
    have threads, and no more are drawn from `tasks`: so 50,000 need no memory. What `function`
    raises is raised here. Raises InputError when the scheduler is gone.
    """
    if client is None:
        yield from ((task, function(*task)) for task in tasks)
        return
    from distributed import as_completed

    waiting, under_way, completed = iter(tasks), {}, as_completed(loop=client.loop)
    group, numbers = f"{function.__name__}-{uuid.uuid4().hex}", itertools.count()

    def submit() -> None:
        free = max(1, count_threads(client)) - len(under_way)
        for task in itertools.islice(waiting, free):
            # of one group: Dask lets such tasks wait at the scheduler
            key = (group, next(numbers))
            future = client.submit(call_bounded, function, *task, key=key, pure=False)
            under_way[future] = task
            completed.add(future)

    submit()
    for future in completed:
        task, result = under_way.pop(future), find_result(future)
        submit()
        yield task, result


def count_threads(client: Client) -> int:
    """How many tasks the workers can do at a time; InputError when the scheduler is gone."""
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise InputError(SCHEDULER_GONE) from error


def call_bounded(function: Callable, *task) -> object:
    """Call a function in a worker, with as many threads as that may have."""
    cv2.setNumThreads(CORES)
    return function(*task)


def find_result(future) -> object:
    """The result of a task that is over, or a WorkerDied; raises what the task raised."""
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise InputError(SCHEDULER_GONE)
    error = future.exception()
    if isinstance(error, KilledWorker):
        tries = {2: "twice"}.get(error.allowed_failures + 1, f"{error.allowed_failures + 1} times")
        return WorkerDied(f"its worker died {tries}, likely for memory; give it fewer --workers")
    if error is not None:
        raise error
    return future.result()
