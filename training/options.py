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
from metrics import LOSSES
from scan.views import VIEWS

with quietly():
    import keras

DEFAULT_SIZE = 160  # pixels a side to which slices are fitted, as for the shipped network
DEFAULT_BATCH = 32  # slices in a step; a round number
# Whole numbers: the least of each, and the end of what NumPy's generator takes as a seed
LEAST = {"size": 1, "width": 1, "depth": 1, "epochs": 1, "steps": 1, "batch": 1, "workers": 1}
LEAST |= {"patience": 0, "seed": 0}
END = 2**32


def parse(argv: Sequence[str] | None = None, description: str = "") -> argparse.Namespace:
    """The command line, with itself as `command`; InputError for options that make no run."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="files/dataset", help="dataset folder (default: %(default)s)")
    add("--output", default="files", help="where model, data.csv, curves go (%(default)s)")
    add("--views", nargs="+", choices=(*VIEWS, "mip"), help="of these views only")
    add("--size", type=int, help=f"slices are fitted to SIZE x SIZE ({DEFAULT_SIZE})")
    add("--width", type=int, default=16, help="filters on the first level (%(default)s)")
    add("--depth", type=int, default=4, help="number of poolings (%(default)s)")
    add("--dropout", type=float, default=0.0, help="within each block (%(default)s)")
    add("--start-from", metavar="MODEL", help="begin with the weights of this .keras file")
    add_training_options(add)
    add("--spacing-mm", type=float, help="voxel size of the pictures, for the card")
    sure = "the mask of a single slice is empty where its mean probability is less, for the card"
    add("--sure", type=float, default=0.5, help=sure)
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--workers", type=int, default=2, help="threads that read pictures (%(default)s)")
    add("--fresh", action="store_true", help="drop an unfinished run instead of going on with it")
    options = parser.parse_args(argv)
    if options.blend is True:
        options.blend = options.start_from or True
    check_run(options)
    options.command = "python train.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    return options


def add_training_options(add) -> None:
    """The options that say how to train, for a parser's `add_argument`."""
    blend = "end with the mean of the best epoch's weights and MODEL's (those begun with)"
    add("--blend", nargs="?", const=True, metavar="MODEL", help=blend)
    add("--epochs", type=int, default=50, help="at most (%(default)s)")
    add("--steps", type=int, help="batches an epoch (default: once through the pictures)")
    add("--batch", type=int, help=f"slices or volumes in a step ({DEFAULT_BATCH} slices, 1 volume)")
    add("--loss", choices=sorted(LOSSES), default="dice", help="(%(default)s)")
    weights = "how much each label counts in the loss (all alike)"
    add("--label-weights", nargs="+", type=float, metavar="W", help=weights)
    background = "whether background counts in it (not in dice and iou, else it does)"
    add("--background", action=argparse.BooleanOptionalAction, help=background)
    add("--lr", type=float, default=1e-4, help="Adam's learning rate (%(default)s)")
    schedule = (
        "lower the rate when validation Dice rises no more, or warm up and follow a cosine to the "
        "last epoch (%(default)s)"
    )
    add("--schedule", choices=("plateau", "cosine"), default="plateau", help=schedule)
    patience = "epochs without a better validation Dice before stopping (%(default)s)"
    add("--patience", type=int, default=12, help=patience)
    precision = "default: float16 on a GPU, else float32; bfloat16 is faster on CPUs with AMX"
    add("--precision", choices=("float32", "bfloat16", "float16"), help=precision)


def check_run(options: argparse.Namespace) -> None:
    """Raise InputError for options that make no run, whatever the dataset."""
    check_numbers(options)
    weights, blend = options.label_weights, options.blend
    if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise InputError("--label-weights are 0 or more, and not all 0")
    if blend and not options.start_from:
        raise InputError("--blend is for tuning: name the weights to begin with by --start-from")
    if blend and Path(blend).resolve() == Path(options.output, "model.keras").resolve():
        raise InputError(f"--blend needs {blend} at the end, too: move it elsewhere")


def check_numbers(options: argparse.Namespace) -> None:
    """Raise InputError for a number out of its range; NaN lies in none."""
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and not least <= value < END:
            raise InputError(f"--{name} {value}: give a whole number, {least} or more")
    for name in ("sure", "dropout"):
        value = getattr(options, name)
        if not 0 <= value < 1:
            raise InputError(f"--{name} {value}: give a share, 0 or more and less than 1")
    for name, example in (("lr", "1e-4"), ("spacing_mm", "1.5")):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {value}: give a number above 0, such as {example}")


def settle(options: argparse.Namespace, card: Card) -> argparse.Namespace:
    """The options with what the dataset and the device decide.

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
        grid = " x ".join(map(str, card.grid))
        raise InputError(f"the volumes of {options.data} are of {grid} voxels: leave --size out")
    size, batch = (None, 1) if card.is_3d else (DEFAULT_SIZE, DEFAULT_BATCH)
    decided = {
        "size": options.size or size,  # None for volumes: they stay on their dataset's grid
        "batch": options.batch or batch,
        "precision": options.precision or ("float16" if list_gpus() else "float32"),
    }
    return argparse.Namespace(**vars(options) | decided)


def list_gpus() -> list[str]:
    """Names of the GPUs that Keras can use."""
    if keras.backend.backend() == "torch":  # for which Keras lists no devices
        import torch

        return ["cuda"] if torch.cuda.is_available() else []
    try:
        return keras.distribution.list_devices("gpu")
    except RuntimeError:  # JAX's answer where there is none
        return []
