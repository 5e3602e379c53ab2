"""Train the U-Net on a dataset folder; the best network of the run becomes files/model.keras.

    python data.py --synthetic 20 --out files/dataset        # something to learn from
    python train.py                                          # files/model.keras, its card, curves
    python train.py --size 256 --width 24 --epochs 60 --schedule cosine --lr 1e-3
    python train.py --start-from files/model.keras --lr 1e-5 # goes on from finished weights
    python train.py --data files/tumour --loss dice_focal --lr 1e-3 --patience 5
    KERAS_BACKEND=jax python train.py                        # any backend of Keras will do

The dataset's dataset.json says whether it holds slices or volumes, and which channels and labels.
Killed at any moment, the same command goes on from the last finished epoch. Watch a run with
`tensorboard --logdir files/tensorboard`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common import SOFTWARE
from common.card import BRAIN, HEAD, Card, read_card
from common.errors import InputError, explained, quietly, run
from common.files import read_json
from common.report import plot_curves
from dataset.read import Pair, read_description
from metrics import LOSSES, Accuracy, Dice, IoU, Precision, Recall, Specificity, Tensor, make_loss
from model import build_unet, export_model, layer_type, load_model, save_model
from scan.views import VIEWS, WINDOW
from training.batches import Slices, TrainingSlices, check_masks, read_pairs
from training.callbacks import BestModel, Progress, StandstillWarning, round_figures
from training.resume import BackupAndRestore, cut_log, identify_run
from training.settings import DEFAULT_BATCH, DEFAULT_SIZE, Settings, list_gpus, to_settings

with quietly():
    import keras


# ---------------------------------------------------------------- options


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; raises InputError for options that make no run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    args = parser.parse_args(argv)
    if args.blend is True:
        args.blend = args.start_from or True
    check_options(args)
    args.command = "python train.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    return args


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


def check_options(args: argparse.Namespace) -> None:
    """Raise InputError for options that make no run, whatever the dataset."""
    counts = (args.epochs, args.workers, *(n for n in (args.batch, args.steps) if n is not None))
    if min(counts) < 1 or args.lr <= 0:
        raise InputError("--epochs, --batch, --steps and --workers are 1 or more, --lr above 0")
    if args.seed < 0 or (args.size is not None and args.size < 1):
        raise InputError("--seed is 0 or more, --size 1 or more")
    if not 0 <= args.sure < 1:
        raise InputError(f"--sure {args.sure} is not a probability: 0 or more, less than 1")
    if args.label_weights and not (min(args.label_weights) >= 0 < max(args.label_weights)):
        raise InputError("--label-weights are 0 or more, and not all 0")
    if args.blend and not args.start_from:
        raise InputError("--blend is for tuning: name the weights to begin with by --start-from")
    if args.blend and Path(args.blend).resolve() == Path(args.output, "model.keras").resolve():
        raise InputError(f"--blend needs {args.blend} at the end, too: move it elsewhere")


# ---------------------------------------------------------------- network


def input_shape(settings: Settings, card: Card) -> tuple[int, ...]:
    """(H, W, C) of slices fitted to --size, (X, Y, Z, C) of volumes on their dataset's grid."""
    spatial = card.grid if card.is_3d else (settings.size, settings.size)
    return (*spatial, len(card.channels))


def build_network(settings: Settings, steps: int, card: Card) -> keras.Model:
    """The network to train on a dataset: a new one, or that of --start-from.

    One label is learned by a sigmoid, several and the background by a softmax. `steps` is the
    number of batches in an epoch.
    """
    shape, labels = input_shape(settings, card), len(card.labels)
    classes = labels + 1 if labels > 1 else 1
    if not settings.start_from:
        model = build_unet(shape, classes, settings.width, settings.depth, settings.dropout)
        return prepare_for_training(model, settings.precision, steps)
    start = settings.start_from
    model, _ = load_model(start)
    given = model.input_shape[1:]
    if given not in (shape, (*[None] * len(shape[:-1]), shape[-1])):
        advice = f"give --size {given[0]}" if len(given) == len(shape) == 3 else "take another"
        raise InputError(f"{start} takes {given}, the dataset gives {shape}: {advice}")
    if model.output_shape[-1] != classes:
        raise InputError(f"{start} was not made for {labels} labels: take another")
    return prepare_for_training(model, settings.precision, steps)


def prepare_for_training(model: keras.Model, precision: str, steps: int) -> keras.Model:
    """A copy of the network that computes in `precision`; its output stays float32.

    Batch normalisation averages over a tenth of an epoch of `steps` batches, at most over Keras'
    100: otherwise validation shows nonsense for an epoch or two on a small dataset.
    """
    momentum = 1 - float(np.clip(10 / steps, 0.01, 0.5))
    policy = precision if precision == "float32" else f"mixed_{precision}"
    last = model.layers[-1].name

    def convert(layer):
        config = layer.get_config() | {"dtype": "float32" if layer.name == last else policy}
        if "momentum" in config:
            config["momentum"] = momentum
        return layer_type(layer, fused=True).from_config(config)

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy


def compile_model(model: keras.Model, settings: Settings, steps: int, card: Card) -> None:
    """Compile, and build what Keras would otherwise build by drawing samples of its own."""
    rate = settings.lr
    if settings.schedule == "cosine":
        total = settings.epochs * steps
        warm = min(500, total // 10)  # steps
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100, max(1, total - warm), alpha=0.01, warmup_target=rate, warmup_steps=warm
        )
    share = keras.metrics.MeanMetricWrapper(positive_share, name="positive")
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=make_loss(settings.loss, settings.label_weights, settings.background),
        metrics=[*choose_metrics(card), share],
        jit_compile="auto" if list_gpus() else False,  # XLA halves TensorFlow's speed on a CPU
    )
    model.optimizer.build(model.trainable_variables)
    shape = input_shape(settings, card)
    image, mask = np.zeros((1, *shape), np.float32), np.zeros((1, *shape[:-1], 1), np.float32)
    model.test_on_batch(image, mask)


def choose_metrics(card: Card) -> list[keras.metrics.Metric]:
    """The figures of every epoch: means over the labels and, where there are several areas, the
    figures of each."""
    chosen = {"dice": Dice, "iou": IoU, "precision": Precision, "recall": Recall}
    if len(card.areas) == 1:
        return [kind(name=name) for name, kind in chosen.items()]
    chosen["specificity"] = Specificity
    of_areas = [
        kind(name=f"{name}_{area.replace(' ', '_')}", areas=[labels])
        for name, kind in chosen.items()
        for area, labels in card.areas.items()
    ]
    means = [kind(name=name) for name, kind in chosen.items()]
    return [*means, Accuracy(name="accuracy"), *of_areas]


def positive_share(mask: Tensor, probability: Tensor) -> Tensor:
    """Share of the pixels of each sample that are predicted as some label, (batch,)."""
    axes = tuple(range(1, len(probability.shape) - 1))
    if probability.shape[-1] == 1:
        found = probability[..., 0] > 0.5
    else:
        found = keras.ops.argmax(probability, axis=-1) > 0
    return keras.ops.mean(keras.ops.cast(found, "float32"), axis=axes)


# ---------------------------------------------------------------- the run


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, look at the dataset, and train."""
    args = parse(argv)
    train_pairs, val_pairs = read_pairs(args.data, args.views)
    card = read_description(args.data) or Card()
    settings = to_settings(args, card)
    prepare_device(settings)
    things, count = ("volumes", 20) if card.is_3d else ("pictures", 200)
    for purpose, pairs in (("train", train_pairs), ("validate", val_pairs)):
        print(f"{len(pairs)} {things} to {purpose}")
        check_masks(pairs, settings.seed, card.labels.values(), count)
    with explained(settings.output):
        path = train(settings, train_pairs, val_pairs, card)
    best = read_json(path.with_suffix(".json"))
    print(
        f"best validation Dice {best['validation']['dice']:.4f} after epoch {best['epochs']}: "
        f"{settings.output}/model.keras; curves in {settings.output}/curves.png"
    )


def prepare_device(settings: Settings) -> None:
    """Say what the training runs on; OpenCV leaves the cores to the reading threads."""
    cv2.setNumThreads(1)
    name = ", ".join(list_gpus()) or f"CPU ({os.cpu_count()} cores)"
    backend = keras.backend.backend()
    print(f"device: {name}; backend: {backend}; precision: {settings.precision}")


def train(
    settings: Settings, train_pairs: Sequence[Pair], val_pairs: Sequence[Pair], card: Card
) -> Path:
    """Fit, from the start or the last finished epoch; return the path of the best model."""
    keras.utils.set_random_seed(settings.seed)
    output, workers = Path(settings.output), settings.workers
    shape = (card.grid if card.is_3d else settings.size, settings.batch, choose_window(card))
    slices = TrainingSlices(
        train_pairs, *shape, steps=settings.steps, seed=settings.seed, workers=workers
    )
    check = Slices(val_pairs, *shape, workers=workers)
    patience = make_patience(settings)
    command = identify_run(settings, [*train_pairs, *val_pairs])
    backup = BackupAndRestore(output / "training", command, patience, settings.fresh)
    model = build_network(settings, len(slices), card)
    if settings.blend:  # refused now, not at the end
        average_weights(model, load_model(settings.blend)[0], settings.blend)
    compile_model(model, settings, len(slices), card)
    backup.restore(model)
    cut_log(output / "data.csv", backup.epoch)
    best = BestModel(output / "model.keras", compose_card(settings, card, backup.state["run"]))
    callbacks = [
        best,
        keras.callbacks.TerminateOnNaN(),
        Progress(slices),
        StandstillWarning(settings.data),
        *patience,
        keras.callbacks.CSVLogger(output / "data.csv", append=True),
        *make_tensorboard(output),
        backup,
    ]
    if not backup.state.get("over"):
        history = fit_network(model, slices, check, settings.epochs, backup.epoch, callbacks)
        plot_curves(output / "data.csv", output / "curves.png")
        refuse_nan(history, best, backup)
    if settings.blend and not read_card(best.path).blend:
        blend_best(settings, best.path, check, card)
    # else pred.py does it when it first needs it; JAX cannot export a network for any size
    if importlib.util.find_spec("openvino") and keras.backend.backend() != "jax":
        export_model(best.path, check.spread(10 if card.is_3d else 300))
    backup.remove()
    return best.path


def fit_network(
    model: keras.Model, slices: Slices, check: Slices, epochs: int, first: int, callbacks: list
) -> keras.callbacks.History:
    """keras.Model.fit from epoch `first`; raises the InputError of a reading thread as it was."""
    try:
        return model.fit(
            slices,
            validation_data=check,
            epochs=epochs,
            initial_epoch=first,
            callbacks=callbacks,
            shuffle=False,  # TrainingSlices does, in a way that a resumed run repeats
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except Exception:
        for error in (slices.error, check.error):
            if isinstance(error, InputError):
                raise error from None
        raise


def refuse_nan(history: keras.callbacks.History, best: BestModel, backup: BackupAndRestore) -> None:
    """Explain a run that TerminateOnNaN has stopped, and end it; raises InputError."""
    if not all(map(math.isfinite, history.history.get("loss", []))):
        backup.remove()
        kept = f"{best.path} holds the best model before" if best.ours else "no model was written"
        raise InputError(
            f"the loss is no longer a number, the training has burst ({kept}): "
            "start again with a lower --lr, or with --precision float32"
        )


def make_patience(settings: Settings) -> list[keras.callbacks.Callback]:
    """The callbacks that lose patience with a validation Dice that rises no more."""
    rising = {"monitor": "val_dice", "mode": "max"}
    stop = keras.callbacks.EarlyStopping(patience=settings.patience, **rising)
    if settings.schedule == "cosine":
        return [stop]
    soon = max(1, settings.patience // 3)
    return [keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=soon, **rising), stop]


def make_tensorboard(output: Path) -> list[keras.callbacks.Callback]:
    """The TensorBoard callback, where it is installed."""
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
        return [keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False)]
    print("no TensorBoard logs: `pip install tensorflow tensorboard` for them")
    return []


def blend_best(settings: Settings, path: Path, check: Slices, card: Card) -> None:
    """Replace the best epoch's weights by their mean with the weights of --blend.

    A network and what it was tuned to lie in one basin of the loss, and the networks between them
    often do better than either on other data (Wortsman et al., CVPR 2022, arXiv:2109.01903).
    """
    (other, other_card), (tuned, _) = load_model(settings.blend), load_model(path)
    tuned.set_weights(average_weights(tuned, other, settings.blend))
    compile_model(tuned, settings, 1, card)
    figures = round_figures(tuned.evaluate(check, verbose=0, return_dict=True))
    found = {"validation": figures, "blend": other_card.sha256 or settings.blend}
    save_model(tuned, path, read_json(path.with_suffix(".json")) | found)


def average_weights(model: keras.Model, other: keras.Model, name: str) -> list[np.ndarray]:
    """The mean of two networks' weights; InputError naming the `other` if it is of another kind."""
    pairs = list(zip(model.get_weights(), other.get_weights(), strict=False))
    if len(model.weights) != len(other.weights) or any(a.shape != b.shape for a, b in pairs):
        raise InputError(
            f"{name} is not a network of the size that is trained: give --blend another"
        )
    return [(a + b) / 2 for a, b in pairs]


# ---------------------------------------------------------------- the model's card


def compose_card(settings: Settings, card: Card, run_id: str) -> dict:
    """The JSON of the model's card, by its dataset's `card`, but for what training finds out."""
    window, start = choose_window(card), settings.start_from
    return {
        "channels": card.channels,
        **describe_labels(card),
        "window": window,
        "spacing_mm": settings.spacing_mm or seen_spacing(settings, card),
        "sure": settings.sure,
        "views": settings.views or card.views,
        "training_data": card.source or f"the pictures in {settings.data}",
        "licence": card.licence,
        "start_from": start and (read_card(start).sha256 or start),
        "command": settings.command,
        "seed": settings.seed,
        "backend": f"{keras.backend.backend()}, keras {keras.version()}, {settings.precision}",
        "python": sys.version.split()[0],
        "software": SOFTWARE,
        "run": run_id,
    }


def describe_labels(card: Card) -> dict:
    """The part of a model's card about scaling and labels; no keys that its dataset leaves open."""
    said = {
        "normalise": card.normalise if card.label_values else None,
        "names": card.names if card.is_mri else None,
        "label_values": card.label_values or None,
        "regions": card.regions or None,
        "fit": card.fit,
        "labels": card.labels,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if card.labels == HEAD:  # both together are the mask, which has one label
        one = {"labels": {1: BRAIN}, "label_values": {1: 1}, "regions": {}}
        said |= one | {"classes": list(HEAD.values())}
    return said


def choose_window(card: Card) -> tuple[float, float] | None:
    """Window in HU of what the network sees: the dataset's, or the default for stored HU; None
    where the dataset holds no HU."""
    if card.is_mri:
        return None
    return WINDOW if card.window in (None, "hu") else card.window


def seen_spacing(settings: Settings, card: Card) -> float | None:
    """Size in mm of what the network sees as a pixel or voxel; None where cases differ."""
    if card.is_3d or not card.spacing_mm:
        return card.spacing_mm
    return card.spacing_mm * card.size / settings.size


if __name__ == "__main__":
    run(main)
