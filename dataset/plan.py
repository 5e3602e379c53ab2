"""A plan of training, chosen from what a dataset holds and from the machine, as an expert would.

    plan = make_plan(card, count, Machine.here())       # {"size": 192, "batch": 16, …}

data.py writes the plan into dataset.json, train.py follows it, and any option overrules it. The
keys are the names of train.py's options. benchmarks/README.md tells what was tried.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.card import Card

DEPTH = 4  # poolings
MULTIPLE = 2**DEPTH  # of a size that such a network takes
# Filters on the first level and side of a patch in voxels: on a GPU as in nnU-Net (Isensee et al.,
# Nature Methods 18, 2021), on a CPU as few as learn well in an hour or two
WIDTH = {"gpu": 32, "cpu": 16}
WIDTH_3D, PATCH = {"gpu": 32, "cpu": 12}, {"gpu": 128, "cpu": 80}
CT_SIZE = 160  # pixels a side to which slices of a CT are fitted, as for the shipped network
BATCH = {2: 16, 3: 2}  # samples of a step, by dimensions, where memory allows
# Arrays of a level's features that a step keeps in memory: two blocks down and two up, each of
# convolution, normalisation and ReLU, what is concatenated, and as many gradients
KEPT = 28
SHARE = 0.5  # of the memory
STEPS = (50, 250)  # the least and, as in nnU-Net, the most of an epoch
PASSES = 60  # over all slices, and the fewest and the most slices that are seen in all
SLICES = (15_000, 40_000)
PATCHES = 4_000  # that are seen in all, on a CPU
GPU = 10  # times as many of either are seen on a GPU
# As the shipped network's; a tumour's labels are missing in most slices (see metrics.py)
LOSS, MRI_LOSS = "dice_cross_entropy", "batch_dice_cross_entropy"
RATE = 1e-3  # Adam's, as the shipped network's
# Training's speed as a share of that of multiplying matrices in float32: measured on one Xeon in
# float32, and in bfloat16 on its matrix unit, AMX
USED, USED_AMX = 0.45, 1.1


@dataclass(frozen=True)
class Machine:
    """memory: bytes; speed: operations a second that a training comes to, None for a GPU, which is
    not asked."""

    memory: int
    speed: float | None

    @property
    def kind(self) -> str:
        return "cpu" if self.speed else "gpu"

    @classmethod
    def here(cls) -> Machine:
        """This machine: its NVIDIA GPU where it has one, else its processor, timed for 0.1 s."""
        if memory := read_gpu_memory():
            return cls(memory, None)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(memory, time_matrix() * (USED_AMX if has_amx() else USED))


def has_amx() -> bool:
    """Whether the processor has a matrix unit for bfloat16."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not on Linux
        return False


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


# ---------------------------------------------------------------- the plan


def make_plan(card: Card, count: int, machine: Machine) -> dict:
    """Options of train.py for a dataset of `count` training pairs, on a machine.

    `card` is the dataset's. "minutes" is what a training will take; None where that is not known.
    All else depends on the dataset, on there being a GPU, and on the memory, but not on the time.
    """
    kind, dimensions = machine.kind, card.dimensions
    if card.is_3d:
        shape = card.grid or choose_patch(card, PATCH[kind])
        plan = {"patch": list(shape), "width": WIDTH_3D[kind]}
    else:
        size = card.size if card.is_mri and card.size else CT_SIZE
        shape, plan = (size, size), {"size": size, "width": WIDTH[kind]}
    batch = BATCH[dimensions]
    sample = 4 * KEPT * plan["width"] * math.prod(shape) * 2  # bytes; levels below double the first
    while batch > 1 and batch * sample > SHARE * machine.memory:
        batch //= 2
    steps = int(np.clip(count // batch, *STEPS))
    seen = PATCHES if card.is_3d else int(np.clip(PASSES * count, *SLICES))
    seen *= GPU if kind == "gpu" else 1
    plan |= {"depth": DEPTH, "batch": batch, "steps": steps, "epochs": seen // (steps * batch) + 1}
    plan |= {"loss": MRI_LOSS if card.is_mri else LOSS, "lr": RATE, "schedule": "cosine"}
    return plan | {"minutes": estimate_minutes(shape, plan, card, machine)}


def choose_patch(card: Card, side: int) -> tuple[int, ...]:
    """Voxels of a patch: `side`, or less along the axes of which the volumes have fewer."""
    return tuple(min(side, round_up(n)) for n in card.shape or (side,) * 3)


def round_up(size: float) -> int:
    """The least multiple of MULTIPLE that is not smaller, but for rounding."""
    return MULTIPLE * math.ceil(size / MULTIPLE - 1e-3)


def estimate_minutes(shape: tuple, plan: dict, card: Card, machine: Machine) -> int | None:
    """Minutes of a training; None on a GPU, which is not asked how fast it is."""
    if not machine.speed:
        return None
    classes = len(card.labels) + 1
    once = count_operations(shape, len(card.channels), classes, plan["width"], plan["depth"])
    samples = plan["epochs"] * plan["steps"] * plan["batch"]
    # backwards takes twice as many as forwards
    return math.ceil(3 * once * samples / machine.speed / 60)


def count_operations(shape: tuple, channels: int, classes: int, width: int, depth: int) -> float:
    """Multiplications and additions by which a U-Net (see model.py) predicts one sample."""
    taps, below = 3 ** len(shape), 2 ** len(shape)
    total, voxels, filters, before = 0.0, math.prod(shape), width, channels
    for _ in range(depth):
        down = taps * filters * (before + filters)
        up = 2 * filters * filters + taps * filters * 3 * filters
        total += voxels * (down + up)
        voxels, before, filters = voxels / below, filters, 2 * filters
    total += voxels * taps * filters * (before + filters)
    return 2 * (total + math.prod(shape) * width * classes)


def describe_plan(plan: dict) -> str:
    """A plan in words, for people."""
    size = " x ".join(map(str, plan["patch"] if "patch" in plan else [plan["size"]] * 2))
    things = f"patches of {size} voxels" if "patch" in plan else f"slices of {size} pixels"
    length = f"{plan['epochs']} epochs of {plan['steps']} steps"
    time_ = f", some {plan['minutes']} minutes on this machine" if plan["minutes"] else ""
    return (
        f"{things}, batches of {plan['batch']}, width {plan['width']}, depth {plan['depth']}, "
        f"loss {plan['loss']}, learning rate {plan['lr']:g} ({plan['schedule']}), {length}{time_}"
    )
