"""The manifest of a run: what ran, with what, where and when, what came of it, what failed.

    with recorded(Path("results"), args, inputs=20, done_before=3) as add:
        for work in works:
            add(work)

results/runs/<UTC start>_<host>_<process>.json is written when the run starts, with no end, and
again when it ends, also by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from common import SOFTWARE
from common.errors import printable
from common.files import checksum, plain_name, read_json, write_json

if TYPE_CHECKING:  # which brings far more than is needed here
    from predict.work import Work

RUNS = "runs"  # the folder of the manifests, in that of the results
PACKAGES = (  # that may change a mask, or how it is made
    *("numpy", "scipy", "opencv-python-headless", "fill-voids", "connected-components-3d"),
    *("nibabel", "pydicom", "simpleitk", "openvino", "keras", "tensorflow", "dask", "distributed"),
)


@contextmanager
def recorded(
    out: Path | None, args: argparse.Namespace, inputs: int, done_before: int
) -> Iterator[Callable[[Work], None]]:
    """Yield a function that takes each finished work of a run; write the run's manifest around it.

    args: the options, with `model`, the networks' paths; inputs: how many there are, of which
    `done_before` have a result already. Where `out` is None, nothing is written.
    Raises InputError when the manifest cannot be written.
    """
    done, failed = [], []

    def add(work: Work) -> None:
        (failed if work.error else done).append(work.target.input)
        if work.error:
            failed[-1] = describe_failure(work)

    if out is None:
        yield add
        return
    about = describe_run(args)
    path = out / RUNS / name_manifest(about)

    def save(end: str | None) -> None:
        counts = count_works(inputs, done_before, len(done), failed)
        write_json(path, about | {"end": end, "counts": counts, "failed": failed})

    save(None)
    try:
        yield add
    finally:
        save(tell_time())


def describe_run(args: argparse.Namespace) -> dict:
    """What is known of a run when it starts."""
    return {
        "software": SOFTWARE,
        "python": platform.python_version(),
        "packages": find_versions(),
        "models": {str(path): checksum(path) for path in args.model if Path(path).is_file()},
        "command": shlex.join(map(printable, sys.argv)),
        "options": {name: v for name, v in vars(args).items() if name not in ("paths", "model")},
        "host": platform.node(),
        "process": os.getpid(),
        "start": tell_time(),
    }


def find_versions() -> dict[str, str]:
    """The version of each of PACKAGES that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def name_manifest(about: dict) -> str:
    """The file's name: unlike that of any other run, and sorted by when they start."""
    start = about["start"].replace("-", "").replace(":", "").replace("+0000", "Z")
    return f"{start}_{plain_name(about['host'])}_{about['process']}.json"


def count_works(inputs: int, done_before: int, done: int, failed: list[dict]) -> dict:
    """How many inputs have come to what end; `left` are those that the run did not get to."""
    return {
        "inputs": inputs,
        "done_before": done_before,
        "done": done,
        "failed": len(failed),
        "left": inputs - done_before - done - len(failed),
        "failed_by_reason": dict(Counter(failure["reason"] for failure in failed).most_common()),
    }


def describe_failure(work: Work) -> dict:
    """What a manifest says of an input that failed; `reason` is the error without the path."""
    path, error = work.target.path, " ".join(str(work.error).split())
    return {
        "input": work.target.input,
        "name": work.target.label or Path(work.target.input).name,
        "error": printable(error),
        "reason": printable(error.replace(str(path), "the input")),
        "time": tell_time(),
    }


def tell_time() -> str:
    """The time now, UTC, ISO 8601; texts of this kind sort as the times do."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_failures(out: Path) -> list[dict]:
    """The last failure of every input that failed in any run into a folder."""
    manifests = map(read_json, (out / RUNS).glob("*.json"))
    failures = [failure for about in manifests for failure in about.get("failed", ())]
    failures.sort(key=lambda failure: failure["time"])
    return list({failure["input"]: failure for failure in failures}.values())
