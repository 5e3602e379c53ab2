"""What a training run is asked for, settled once and read-only from then on.

settings = to_settings(parse(), card)     # the dataset decides what the command line leaves out
settings.batch, settings.precision
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from common.card import Card
from common.errors import InputError, quietly

with quietly():
    import keras

DEFAULT_SIZE, DEFAULT_BATCH = 160, 32  # pixels a side to which slices are fitted; slices in a step


@dataclass(frozen=True)
class Settings:
    """The options of train.py, by their names there; None where none is wanted.

    command: the command line itself, for the model's card.
    """

    data: str
    output: str
    views: list[str] | None
    size: int | None  # None for volumes: they stay on their dataset's grid
    width: int
    depth: int
    dropout: float
    start_from: str | None
    blend: str | None
    epochs: int
    steps: int | None
    batch: int
    loss: str
    label_weights: list[float] | None
    background: bool | None
    lr: float
    schedule: str
    patience: int
    precision: str
    spacing_mm: float | None
    sure: float
    seed: int
    workers: int
    fresh: bool
    command: str


def to_settings(args: Namespace, card: Card) -> Settings:
    """The options with what the dataset and the device decide.

    Raises InputError for options that the dataset has no use for.
    """
    labels = card.labels.values()
    if len(labels) == 1 and (args.label_weights or args.background is not None):
        raise InputError(
            f"--label-weights and --background are for several labels: {args.data} has one"
        )
    if args.label_weights and len(args.label_weights) != len(labels):
        raise InputError(f"--label-weights takes one for each of {', '.join(labels)}")
    if card.is_3d and args.size:
        grid = " x ".join(map(str, card.grid))
        raise InputError(f"the volumes of {args.data} are of {grid} voxels: leave --size out")
    size, batch = (None, 1) if card.is_3d else (DEFAULT_SIZE, DEFAULT_BATCH)
    decided = {
        "size": args.size or size,
        "batch": args.batch or batch,
        "precision": args.precision or ("float16" if list_gpus() else "float32"),
    }
    return Settings(**vars(args) | decided)


def list_gpus() -> list[str]:
    """Names of the GPUs that Keras can use."""
    if keras.backend.backend() == "torch":  # for which Keras lists no devices
        import torch

        return ["cuda"] if torch.cuda.is_available() else []
    try:
        return keras.distribution.list_devices("gpu")
    except RuntimeError:  # JAX's answer where there is none
        return []
