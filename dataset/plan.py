"""A plan of training, chosen from what a dataset holds and from the machine, as an expert would.

    plan = make_plan(card, count, Machine.here())       # {"size": 192, "batch": 16, …}
    estimate_minutes(plan, card, Machine.here())

data.py writes the plan into dataset.json, train.py follows it, and any option overrules it. The
keys are the names of train.py's options. The choices were made on real patients' MRI and on
synthetic CT, each on cases that no reported figure comes from: see benchmarks/README.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass

import numpy as np

MULTIPLE = 16  # sizes are multiples of 2 ** depth
DEPTH = 4
# Width (filters on the first level) and side of a 3-D patch: on a GPU as in nnU-Net (Isensee et
# al., Nature Methods 18, 2021), on a CPU as small as a useful network may be
WIDTH = {"gpu": 32, "cpu": 16}
PATCH = {"gpu": 128, "cpu": 64}
WIDTH_3D = {"gpu": 32, "cpu": 8}
CT_SIZE = 160  # pixels a side to which slices of a CT are fitted, as for the shipped network
MOST_SIZE = 256  # pixels a side of a picture: larger ones are fitted to it
BATCHES = {2: (32, 8), 3: (4, 2)}  # the most and the least samples of a step, by dimensions
# In training a level keeps so many arrays of its features: two blocks down, two up, each of a
# convolution, a normalisation and a ReLU, then as many gradients, and what is concatenated
KEPT = 28
SHARE = 0.5  # of the memory at hand
STEPS = (50, 250)  # an epoch has at least and, as in nnU-Net, at most so many
SAMPLES = {2: 60_000, 3: 6_000}  # drawn in a whole training: with fewer, Dice still rises
HOURS = 3  # the longest training that is planned
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
USED = 0.35  # of a machine's speed in multiplying matrices: what training comes to, as measured


@dataclass(frozen=True)
class Machine:
    """memory: bytes at hand for a training; speed: operations a second in float32, None for a GPU,
    which is not asked; cores."""

    memory: int
    speed: float | None
    cores: int

    @property
    def kind(self) -> str:
        return "cpu" if self.speed else "gpu"

    @classmethod
    def here(cls) -> Machine:
        """This machine: its NVIDIA GPU where it has one, else its processor, timed for 0.1 s."""
        cores = os.cpu_count() or 1
        if memory := read_gpu_memory():
            return cls(memory, None, cores)
        return cls(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"), time_matrix(), cores)


def read_gpu_memory() -> int:
    """Bytes of memory of the first NVIDIA GPU; 0 without one."""
    if not shutil.which("nvidia-smi"):
        return 0
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return int(said[0]) << 20 if said and said[0].isdecimal() else 0


def time_matrix() -> float:
    """Operations a second in multiplying two float32 matrices, the best of three times."""
    matrix = np.ones((1024, 1024), np.float32)
    seconds = []
    for _ in range(4):  # the first one starts NumPy's threads
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds[1:])
