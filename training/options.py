"""The command line of train.py as a Namespace, and what a dataset decides of it.

    options = settle(parse(argv), card)
    options.batch, options.precision

Options are read-only once they are settled, and have the names of the command line; None stands
where none is wanted.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.card import Card
from common.errors import InputError, quietly
from dataset.plan import Machine, has_amx, make_plan
from metrics import LOSSES
from scan.views import VIEWS
from training.trackers import TRACKERS, check_trackers

with quietly():
    import keras

# Whole numbers: the least of each, and the end of what NumPy's generator takes as a seed
NUMBERS = ("size", "width", "depth", "epochs", "steps", "batch", "threads", "devices")
LEAST = dict.fromkeys(NUMBERS, 1)
LEAST |= {"patience": 0, "seed": 0, "folds": 2}
END = 2**32
# Options that the dataset's plan decides where they are not given
PLANNED = ("size", "patch", "batch", "width", "depth", "loss", "lr", "schedule", "epochs", "steps")


def parse(argv: Sequence[str] | None = None, description: str = "") -> argparse.Namespace:
    """The command line, with itself as `command`; InputError for options that make no run."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="files/dataset", help="dataset folder (default: %(default)s)")
    output = "where model, data.csv, curves go (files; files/tuned of a fine-tuned network)"
    add("--output", help=output)
    add("--views", nargs="+", choices=(*VIEWS, "mip"), help="of these views only")
    planned = "of the options below, those not given are as the dataset's plan says"
    parser.epilog = f'{planned}: see "plan" in its dataset.json'
    add("--size", type=int, help="slices are fitted to SIZE x SIZE (planned)")
    patch = "voxels of the parts of volumes that are learned from, one number or three (planned)"
    add("--patch", type=int, nargs="+", metavar="N", help=patch)
    add("--width", type=int, help="filters on the first level (planned)")
    add("--depth", type=int, help="number of poolings (planned)")
    add("--dropout", type=float, default=0.0, help="within each block (%(default)s)")
    add_start(add)
    add_training_options(add)
    folds = "cross-validate: N networks, each validated on another part of Train and Val's patients"
    add("--folds", type=int, metavar="N", help=folds)
    add("--fold", type=int, metavar="K", help="train the K-th of these alone")
    add("--spacing-mm", type=float, help="voxel size of the pictures, for the card")
    sure = "the mask of a single slice is empty where its mean probability is less, for the card"
    add("--sure", type=float, help=f"{sure} (0.5)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--threads", type=int, default=2, help="that read pictures (%(default)s)")
    track = "also keep the run for these, below --output (pip install mlflow, wandb)"
    add("--track", nargs="+", choices=sorted(TRACKERS), default=[], help=track)
    add("--onnx", action="store_true", help="export the network for ONNX Runtime, too")
    devices = "GPUs that share every batch; as many CPUs where there is no GPU (%(default)s)"
    add("--devices", type=int, default=1, metavar="N", help=devices)
    add("--fresh", action="store_true", help="drop an unfinished run instead of going on with it")
    options = parser.parse_args(argv)
    if options.blend is True:
        options.blend = options.start_from or True
    check_run(options)
    options.command = "python train.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    return options


def add_start(add) -> None:
    """The options that say which network to begin with, for a parser's `add_argument`."""
    start = "begin with this network; on a dataset that data.py made for one (--results, --like), "
    start += "fine-tune it: the new one is kept if it is better on the scans held out of training"
    add("--start-from", metavar="MODEL", help=start)
    said = "where fine-tuning keeps the synthetic scans that it makes (%(default)s)"
    add("--synthetic", default="files/synthetic", metavar="FOLDER", help=said)


def add_training_options(add) -> None:
    """The options that say how to train, for a parser's `add_argument`."""
    blend = "end with the mean of the best epoch's weights and MODEL's (those begun with)"
    add("--blend", nargs="?", const=True, metavar="MODEL", help=blend)
    add("--epochs", type=int, help="at most (planned)")
    add("--steps", type=int, help="batches an epoch (planned)")
    add("--batch", type=int, help="slices or patches in a step (planned)")
    add("--loss", choices=sorted(LOSSES), help="(planned)")
    weights = "how much each label counts in the loss (all alike)"
    add("--label-weights", nargs="+", type=float, metavar="W", help=weights)
    background = "whether background counts in it (not in dice and iou, else it does)"
    add("--background", action=argparse.BooleanOptionalAction, help=background)
    add("--lr", type=float, help="Adam's learning rate (planned)")
    schedule = (
        "lower the rate when validation Dice rises no more, or warm up and follow a cosine to the "
        "last epoch (planned)"
    )
    add("--schedule", choices=("plateau", "cosine"), help=schedule)
    patience = "epochs without a better validation Dice before stopping (all, on a plateau a third)"
    add("--patience", type=int, help=patience)
    precision = "default: float16 on a GPU, bfloat16 on a CPU with AMX, else float32"
    add("--precision", choices=("float32", "bfloat16", "float16"), help=precision)


def check_run(options: argparse.Namespace) -> None:
    """Raise InputError for options that make no run, whatever the dataset."""
    check_numbers(options)
    check_trackers(options.track)
    weights, blend = options.label_weights, options.blend
    if options.fold is not None and not 1 <= options.fold <= (options.folds or 0):
        raise InputError(f"--fold {options.fold}: give --folds N, and a number from 1 to N")
    if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise InputError("--label-weights are 0 or more, and not all 0")
    if blend and not options.start_from:
        raise InputError("--blend is for tuning: name the weights to begin with by --start-from")
    output = Path(options.output or "files", "model.keras")
    if blend and Path(blend).resolve() == output.resolve():
        raise InputError(f"--blend needs {blend} at the end, too: move it elsewhere")


def check_numbers(options: argparse.Namespace) -> None:
    """Raise InputError for a number out of its range; NaN lies in none."""
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and not least <= value < END:
            raise InputError(f"--{name} {value}: give a whole number, {least} or more")
    patch = options.patch or [1]
    if len(patch) not in (1, 3) or not 1 <= min(patch) <= max(patch) < END:
        given = " ".join(map(str, patch))
        raise InputError(f"--patch {given}: give one or three numbers of voxels, 1 or more")
    for name in ("sure", "dropout"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{name} {value}: give a share, 0 or more and less than 1")
    for name, example in (("lr", "1e-4"), ("spacing_mm", "1.5")):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {value}: give a number above 0, such as {example}")


def settle(
    options: argparse.Namespace, card: Card, count: int = 0, tuning: dict | None = None
) -> argparse.Namespace:
    """The options with what the dataset, its plan and the device decide.

    `count` is the number of training pairs, by which a plan is made for a dataset that has none.
    `tuning` is what fine-tuning has in its place.
    Raises InputError for options that the dataset has no use for.
    """
    names = card.labels.values()
    if len(names) == 1 and (options.label_weights or options.background is not None):
        raise InputError(
            f"--label-weights and --background are for several labels: {options.data} has one"
        )
    if options.label_weights and len(options.label_weights) != len(names):
        raise InputError(f"--label-weights takes one for each of {', '.join(names)}")
    if card.is_3d and options.size:
        raise InputError(f"{options.data} holds volumes: leave --size out, or give --patch")
    if options.patch and (card.grid or not card.is_3d):
        what = "volumes of one grid" if card.is_3d else "slices"
        raise InputError(f"{options.data} holds {what}: leave --patch out")
    plan = card.plan or make_plan(card, count, Machine.here())
    plan = {"output": "files/tuned" if tuning else "files", "sure": 0.5} | plan | (tuning or {})
    given = {name: value for name, value in vars(options).items() if value is not None}
    decided = {name: plan.get(name) for name in vars(options)} | given
    if options.start_from:  # which has its own
        decided |= {"width": None, "depth": None}
    if card.is_3d:
        decided["patch"] = decided["patch"] * (3 // len(decided["patch"]))
    if decided["patience"] is None:  # a network is best where its cosine ends
        whole = decided["schedule"] == "cosine"
        decided["patience"] = decided["epochs"] if whole else math.ceil(decided["epochs"] / 3)
    decided["precision"] = decided["precision"] or choose_precision()
    return argparse.Namespace(**decided)


def choose_precision() -> str:
    """float16 on a GPU; bfloat16 on a CPU with AMX, where it is twice as fast; else float32."""
    if list_gpus():
        return "float16"
    return "bfloat16" if has_amx() else "float32"


def list_gpus() -> list[str]:
    """Names of the GPUs that Keras can use."""
    if keras.backend.backend() == "torch":  # for which Keras lists no devices
        import torch

        return ["cuda"] if torch.cuda.is_available() else []
    try:
        return keras.distribution.list_devices("gpu")
    except RuntimeError:  # JAX's answer where there is none
        return []
