"""What every part shares; imports nothing else of this project."""

import os

NAME, VERSION = "Brain region segmentation", "0.1.0"  # as in CHANGELOG.md
SOFTWARE = f"{NAME} {VERSION}"  # as the files name it that are written for others


def count_cores() -> int:
    """The cores that this process may use: at most OMP_NUM_THREADS, where that is set.

    Dask sets it in each worker process, batch systems in each job.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # on Linux
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


CORES = count_cores()
THREADS = min(4, CORES)  # that read or resample one scan; a round number
