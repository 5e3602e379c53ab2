"""Work that is spread over several processes.

    for result in in_parallel(function, [(first, second), …], jobs=4): ...

No process outlives the one that started it, even if that one is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

import cv2
from threadpoolctl import threadpool_limits

from common.errors import InputError


def in_parallel(function, tasks: list[tuple], jobs: int) -> Iterator:
    """Results of function(*task) in order, from `jobs` processes of one thread each."""
    if jobs <= 1:
        yield from (function(*task) for task in tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=be_a_worker) as pool:
        try:
            yield from pool.map(function, *zip(*tasks, strict=True)) if tasks else ()
        except BrokenProcessPool as error:
            advice = "a worker process died, likely for memory; run again with --jobs 1"
            raise InputError(advice) from error


def be_a_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent process, and do not outlive it."""
    cv2.setNumThreads(1)
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Wait for the parent process to end, then end this one: it may have been killed outright."""
    parent_process().join()
    os._exit(1)
