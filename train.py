"""Train the U-Net on a dataset folder; the best network of the run becomes files/model.keras.

    python data.py --synthetic 20 --out files/dataset        # something to learn from
    python train.py                                          # files/model.keras, its card, curves
    python train.py --size 256 --width 24 --epochs 60 --schedule cosine --lr 1e-3
    python train.py --start-from files/model.keras --lr 1e-5 # goes on from finished weights
    python train.py --data files/tumour --loss dice_focal --lr 1e-3 --patience 5
    KERAS_BACKEND=jax python train.py                        # any backend of Keras will do

What the dataset is, slices or volumes, of how many channels and labels, stands in its dataset.json.
Killed at any moment, the same command goes on from the last finished epoch. Watch a run with
`tensorboard --logdir files/tensorboard`.
"""

import argparse
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import os
import shlex
import shutil
import sys
import time
import uuid
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

import augment
import cases
import data
import metrics
import report
from cases import card_of
from errors import InputError, explained, quietly, replacing, run, warn
from model import build_unet, export_model, kind_of, load_model, save_model

with quietly():
    import keras

SIZE, BATCH = 160, 32  # pixels a side to which slices are fitted, and how many make a step
COUNTERS = ("wait", "best", "cooldown_counter")  # what Keras' callbacks count over the epochs


# ---------------------------------------------------------------------------- input
class Slices(keras.utils.PyDataset):
    """Batches (image, mask) of a list of pairs in order, float32 in [0, 1].

    Of slices, images are (batch, size, size, channels), of volumes (batch, *size, channels), `size`
    being their grid; masks are as large and hold one channel, the label where there are several.
    `window` in HU is used for pictures that hold HU. Reading runs in `workers` threads.
    """

    def __init__(self, pairs, size, batch, window, workers=2):
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=2 * workers)
        self.pairs, self.size, self.batch, self.window = pairs, size, batch, window
        self.busy = 0.0  # seconds that the threads spent here
        self.error = None  # TensorFlow hides a thread's exception in one of its own

    def __len__(self):
        return math.ceil(len(self.pairs) / self.batch)

    def __getitem__(self, index):
        start = time.perf_counter()
        try:
            samples = [self.sample(number) for number in self.numbers(index)]
        except Exception as error:
            self.error = error
            raise
        self.busy += time.perf_counter() - start
        return batch_of(samples)

    def spread(self, most):
        """One batch of at most so many of the pairs, spread evenly."""
        chosen = np.linspace(0, len(self.pairs) - 1, min(most, len(self.pairs))).astype(int)
        return batch_of([self.sample(number) for number in chosen])

    def numbers(self, index):
        """The numbers of the samples in a batch."""
        return range(index * self.batch, min((index + 1) * self.batch, len(self.pairs)))

    def sample(self, number):
        """Image and mask, fitted and normalised as for a prediction."""
        pair = self.pairs[number]
        image, mask = data.read_pair(pair)
        if mask.ndim == 2:  # volumes are stored on their grid
            image, _ = data.fit(image, self.size, outside=data.outside(image))
            mask = (data.fit_labels(mask, self.size)[0] if pair.labels > 1
                    else data.fit(mask, self.size, is_mask=True)[0])  # fmt: skip
        return data.normalise(image, self.window), mask if pair.labels > 1 else mask > 0


def batch_of(samples):
    """Pairs of image and mask as one batch, float32, both with an axis of channels."""
    images, masks = (np.stack(part).astype(np.float32, copy=False)
                     for part in zip(*samples, strict=True))  # fmt: skip
    return images if images.ndim > masks.ndim else images[..., None], masks[..., None]


class TrainingSlices(Slices):
    """Shuffled and augmented batches, `steps` an epoch (default: once through the pairs).

    A sample is a function of the seed and of its number since the run began, nothing else: the
    numbers run through the list again and again, each time shuffled anew, however long an epoch
    is, and a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(self, *args, steps=None, seed=0, **options):
        super().__init__(*args, **options)
        self.steps, self.seed = steps or max(1, len(self.pairs) // self.batch), seed
        self.epoch = 0  # set by Progress
        self.order = functools.lru_cache(2)(self.order)

    def __len__(self):
        return self.steps

    def numbers(self, index):
        first = (self.epoch * self.steps + index) * self.batch
        return range(first, first + self.batch)

    def sample(self, number):
        turn, place = divmod(number, len(self.pairs))
        pair = self.pairs[self.order(turn)[place]]
        rng = np.random.default_rng((self.seed, number))
        image, mask = data.read_pair(pair)
        return augment.augment(image, mask, rng, self.size, self.window, labels=pair.labels)

    def order(self, turn):
        """The order of the pairs in their `turn`-th shuffle."""
        return np.random.default_rng((self.seed, turn)).permutation(len(self.pairs))


def check_masks(pairs, seed, names=("brain",), count=200):
    """Look at some masks before hours are spent; raises InputError if they cannot be learned.

    `names` are those of the labels. Pictures of a single label may be of any greys, but no labels.
    """
    chosen = [pairs[place] for place in np.random.default_rng(seed).permutation(len(pairs))[:count]]
    grey = [line for pair in chosen if pair.labels == 1 and not pair.place
            for line in [strange_mask(pair)] if line]  # fmt: skip
    shares = np.array([label_shares(pair) for pair in chosen])
    if grey:
        warn(f"{len(grey)} of {len(chosen)} masks looked at are not 0/1 ({grey[0]}): what is "
             "brighter than half counts as brain; store masks as PNG of 0 and 255")  # fmt: skip
    if not shares.any():
        raise InputError(
            f"all of the {len(chosen)} masks looked at are empty, so there is nothing to learn; "
            f"look at {chosen[0].mask}"
        )
    for name, share in zip(names, shares.T, strict=True):
        print(f"  {np.count_nonzero(share) / len(share):.0%} of {len(share)} masks looked at hold "
              f"{name}, on average {share.mean():.1%} of the picture")


def strange_mask(pair):
    """What is odd about a mask that should be 0/1, None if it is one."""
    values = np.unique(data.decode(pair.mask))
    if len(values) > 2 or values[-1] not in (0, 1, 255):
        return f"{pair.mask} holds {len(values)} grey values"
    return None


def label_shares(pair):
    """The share of a pair's mask that each label has; InputError for a label that has no name."""
    mask = data.read_pair(pair)[1]
    shares = np.bincount(mask.ravel().astype(np.uint8), minlength=pair.labels + 1) / mask.size
    if len(shares) > pair.labels + 1:
        raise InputError(f"{pair.mask} holds the label {len(shares) - 1}, its dataset only up to "
                         f"{pair.labels}; make the dataset again")  # fmt: skip
    return shares[1:]


def read_pairs(folder, views=None):
    """Training and validation pairs of a dataset folder, and its dataset.json ({} if none)."""
    splits = data.read_dataset(folder)
    found = [
        [pair for pair in splits.get(split, []) if not views or pair.view in views]
        for split in ("Train", "Val")
    ]
    for split, pairs in zip(("Train", "Val"), found, strict=True):
        if not pairs:
            asked = f" of the views {' '.join(views)}" if views else ""
            raise InputError(f"{folder} has no {split} pairs{asked}: make some with data.py")
    return *found, data.describe(folder)


# ---------------------------------------------------------------------------- callbacks
class Progress(keras.callbacks.Callback):
    """Tells the dataset its epoch, and adds speed and learning rate to the epoch's figures."""

    def __init__(self, slices):
        super().__init__()
        self.slices = slices

    def on_epoch_begin(self, epoch, logs=None):
        self.slices.epoch, self.slices.busy = epoch, 0.0
        self.start, self.trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.trained or time.perf_counter() - self.start
        speed = len(self.slices) * self.slices.batch / seconds
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["slices_per_second"] = round(speed, 2)
        # At 100 % the threads cannot keep up and the device waits for them.
        busy = self.slices.busy / self.slices.workers / seconds
        print(f"\nepoch {epoch + 1}: {speed:.1f} slices/s in training, input threads {busy:.0%} "
              f"busy, validation Dice {logs.get('val_dice', math.nan):.4f}", flush=True)


class StandstillWarning(keras.callbacks.Callback):
    """Says in plain words when the network has stopped learning: all black, all white, flat."""

    advice = ("lower --lr tenfold, or take --loss dice_cross_entropy; look at the pictures and "
              "masks in {folder} too: do they belong together?")

    def __init__(self, folder, epochs=4):
        super().__init__()
        self.epochs, self.losses = epochs, []
        self.advice = self.advice.format(folder=folder)

    def on_epoch_end(self, epoch, logs=None):
        # In training too: a few steps into a run, validation alone may be off, since batch
        # normalisation has not yet averaged over enough batches.
        shares = np.array([logs["positive"], logs["val_positive"]])
        self.losses.append(logs["loss"])
        recent = self.losses[-self.epochs :]
        if shares.max() < 1e-3 or shares.min() > 0.98:
            colour = "black" if shares.max() < 0.5 else "white"
            warn(f"in epoch {epoch + 1} the predicted masks are all {colour} "
                 f"({shares[1]:.2%} of them is labelled): if that stays, {self.advice}")
        elif len(recent) == self.epochs and np.ptp(recent) < 1e-4 * abs(np.mean(recent)):
            warn(f"the loss has stood still at {recent[-1]:.5f} for {self.epochs} epochs: "
                 f"{self.advice}")


class BestModel(keras.callbacks.Callback):
    """ModelCheckpoint on validation Dice that writes model and card at once and atomically.

    What was at `path` and is not of this run (`card["run"]`) is kept under another name. The best
    value so far is read from the card on disk, so that a resumed run never puts a worse network
    over a better one.
    """

    def __init__(self, path, card):
        super().__init__()
        self.path, self.card = Path(path), card
        self.best = -math.inf
        self.ours = card_of(path).get("run") == card["run"]
        if self.ours:
            self.best = card_of(path)["validation"]["dice"]

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_end(self, logs=None):
        # also when one is not a number: of a burst network, slices without a label may look right
        if not (logs["dice"] > self.best and math.isfinite(logs["loss"])):
            return
        if not self.ours:
            keep(self.path)
            self.ours = True
        self.best = float(logs["dice"])
        save_model(self.model, self.path,
                   self.card | {"epochs": self.epoch + 1, "validation": rounded(logs)})


def keep(path):
    """Rename a model that is in the way, with its card and export, to model.previous[N].keras."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.stem}.previous{n or ''}.keras") for n in itertools.count())
    kept = next(name for name in names if not name.exists())
    for ending in (".keras", ".json", ".xml", ".bin"):
        if path.with_suffix(ending).exists():
            os.replace(path.with_suffix(ending), kept.with_suffix(ending))
    print(f"\nthe model that was in {path} is kept as {kept}")


class BackupAndRestore(keras.callbacks.Callback):
    """keras.callbacks.BackupAndRestore for a run that may be killed between any two writes.

    An epoch counts as finished when `state.json`, which names the epoch's weights (with the
    optimiser's), has replaced the one before. It also holds what Keras' own callback forgets:
    the counters of EarlyStopping and ReduceLROnPlateau, and which command the run belongs to.
    Must be the last callback. What comes after the last epoch (blending, the export) is done again
    by a run that was killed there; `remove` ends it, and a run that is over leaves nothing behind.
    """

    def __init__(self, folder, command, callbacks=(), fresh=False):
        super().__init__()
        self.folder, self.callbacks = Path(folder), callbacks
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.state = {"epoch": 0, "run": uuid.uuid4().hex, "command": command, "counters": {}}
        if (self.folder / "state.json").exists():
            self.state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            refuse_other_command(self.state, command, self.folder)
        self.epoch = self.state["epoch"]  # finished ones

    def restore(self, model):
        """Put the weights of the last finished epoch into the compiled model, if there is one."""
        if self.epoch:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self._weights(self.epoch))
            print(f"going on after epoch {self.epoch}, the last finished one")

    def on_train_begin(self, logs=None):  # after the others have set themselves to nought
        for callback in self.callbacks:
            vars(callback).update(self.state["counters"].get(type(callback).__name__, {}))

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._weights(epoch + 1)) as path:
            self.model.save_weights(path)
        counters = {
            type(callback).__name__: {
                name: value for name, value in vars(callback).items() if name in COUNTERS
            }
            for callback in self.callbacks
        }
        self.write(self.state | {"epoch": epoch + 1, "counters": counters})
        self._weights(epoch).unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        self.write(self.state | {"over": True})

    def write(self, state):
        """Put a state in the place of the one before."""
        self.state = state
        with replacing(self.folder / "state.json") as path:
            path.write_text(json.dumps(state, default=float), encoding="utf-8")

    def remove(self):
        """The run is over: nothing is gone on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _weights(self, epoch):
        return self.folder / f"epoch_{epoch}.weights.h5"


def refuse_other_command(state, command, folder):
    """Raise InputError when an unfinished run was started with other options."""
    changed = [
        f"{name} {state['command'].get(name)} is now {value}"
        for name, value in command.items()
        if state["command"].get(name) != value
    ]
    if changed:
        raise InputError(
            f"{folder} holds an unfinished run (epoch {state['epoch']} done) of another command "
            f"({'; '.join(changed)}): give that command again to go on, or add --fresh to drop it"
        )


# ---------------------------------------------------------------------------- network
def for_training(model, precision, steps):
    """A copy of the network that computes in `precision`; its output stays float32.

    Batch normalisation averages over a tenth of an epoch of `steps` batches, at most over Keras'
    100: on a small dataset, validation would else show nonsense for an epoch or two.
    """
    momentum = 1 - float(np.clip(10 / steps, 0.01, 0.5))
    policy = precision if precision == "float32" else f"mixed_{precision}"
    last = model.layers[-1].name

    def convert(layer):
        config = layer.get_config() | {"dtype": "float32" if layer.name == last else policy}
        if "momentum" in config:
            config["momentum"] = momentum
        return kind_of(layer, fused=True).from_config(config)

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy


def input_shape(args, about):
    """(H, W, C) of slices fitted to --size, (X, Y, Z, C) of volumes on their dataset's grid."""
    return (*spatial_shape(args, about), len(cases.channels(about)))


def spatial_shape(args, about):
    """The shape of what the network sees, without its channels."""
    return tuple(about["grid"]) if is_3d(about) else (args.size, args.size)


def is_3d(about):
    """Whether a dataset is of volumes."""
    return about.get("dimensions") == 3


def labels_of(about):
    """{"1": name, …} of a dataset's labels."""
    return about.get("labels", {"1": "brain"})


def build(args, steps, about=None):
    """The network to train on a dataset described by `about`: a new one, or that of --start-from.

    One label is learned by a sigmoid, several and the background by a softmax.
    """
    about = about or {}
    shape, labels = input_shape(args, about), len(labels_of(about))
    classes = labels + 1 if labels > 1 else 1
    if not args.start_from:
        model = build_unet(shape, classes, args.width, args.depth, args.dropout)
        return for_training(model, args.precision, steps)
    model, _ = load_model(args.start_from)
    given = model.input_shape[1:]
    if given not in (shape, (*[None] * len(shape[:-1]), shape[-1])):
        advice = f"give --size {given[0]}" if len(given) == len(shape) == 3 else "take another"
        raise InputError(f"{args.start_from} takes {given}, the dataset gives {shape}: {advice}")
    if model.output_shape[-1] != classes:
        raise InputError(f"{args.start_from} was not made for {labels} labels: take another")
    return for_training(model, args.precision, steps)


def positive(mask, probability):
    """Share of the pixels of each sample that are predicted as some label, (batch,)."""
    axes = tuple(range(1, len(probability.shape) - 1))
    found = (probability[..., 0] > 0.5 if probability.shape[-1] == 1
             else keras.ops.argmax(probability, axis=-1) > 0)  # fmt: skip
    return keras.ops.mean(keras.ops.cast(found, "float32"), axis=axes)


def metrics_of(about):
    """What is measured in every epoch: means over the labels and, of several, each area's own."""
    chosen = {"dice": metrics.Dice, "iou": metrics.IoU, "precision": metrics.Precision,
              "recall": metrics.Recall, "specificity": metrics.Specificity}  # fmt: skip
    areas = cases.areas(about)
    if len(areas) == 1:
        del chosen["specificity"]
        return [kind(name=name) for name, kind in chosen.items()]
    return [
        *(kind(name=name) for name, kind in chosen.items()),
        metrics.Accuracy(name="accuracy"),
        *(kind(name=f"{name}_{area.replace(' ', '_')}", areas=[labels])
          for name, kind in chosen.items() for area, labels in areas.items()),
    ]  # fmt: skip


def compile_model(model, args, steps, about=None):
    """Compile, and build what Keras would otherwise build by drawing samples of its own."""
    about = about or {}
    rate = args.lr
    if args.schedule == "cosine":
        total = args.epochs * steps
        warm = min(500, total // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            args.lr / 100, max(1, total - warm), alpha=0.01, warmup_target=args.lr,
            warmup_steps=warm,
        )
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=metrics.loss(args.loss, args.label_weights, args.background),
        metrics=[
            *metrics_of(about),
            keras.metrics.MeanMetricWrapper(positive, name="positive"),
        ],
        # XLA halves the speed of TensorFlow on a CPU
        jit_compile="auto" if gpus() else False,
    )
    model.optimizer.build(model.trainable_variables)
    shape = input_shape(args, about)
    image, mask = np.zeros((1, *shape), np.float32), np.zeros((1, *shape[:-1], 1), np.float32)
    model.test_on_batch(image, mask)


# ---------------------------------------------------------------------------- the run
def options(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="files/dataset", help="dataset folder (default: %(default)s)")
    add("--output", default="files", help="where model, data.csv, curves go (%(default)s)")
    add("--views", nargs="+", choices=(*data.VIEWS, "mip"), help="of these views only")
    add("--size", type=int, help=f"slices are fitted to SIZE x SIZE ({SIZE})")
    add("--width", type=int, default=16, help="filters on the first level (%(default)s)")
    add("--depth", type=int, default=4, help="number of poolings (%(default)s)")
    add("--dropout", type=float, default=0.0, help="within each block (%(default)s)")
    add("--start-from", metavar="MODEL", help="begin with the weights of this .keras file")
    add("--blend", nargs="?", const=True, metavar="MODEL",
        help="end with the mean of the best epoch's weights and MODEL's (those begun with)")
    add("--epochs", type=int, default=50, help="at most (%(default)s)")
    add("--steps", type=int, help="batches an epoch (default: once through the pictures)")
    add("--batch", type=int, help=f"slices or volumes in a step ({BATCH} slices, 1 volume)")
    add("--loss", choices=sorted(metrics.LOSSES), default="dice", help="(%(default)s)")
    add("--label-weights", nargs="+", type=float, metavar="W",
        help="how much each label counts in the loss (all alike)")
    add("--background", action=argparse.BooleanOptionalAction,
        help="whether background counts in it (not in dice and iou, else it does)")
    add("--lr", type=float, default=1e-4, help="Adam's learning rate (%(default)s)")
    add("--schedule", choices=("plateau", "cosine"), default="plateau",
        help="lower the rate when validation Dice rises no more, or warm up and follow a cosine "
        "to the last epoch (%(default)s)")
    add("--patience", type=int, default=12,
        help="epochs without a better validation Dice before stopping (%(default)s)")
    add("--precision", choices=("float32", "bfloat16", "float16"),
        help="default: float16 on a GPU, else float32; bfloat16 is faster on CPUs with AMX")
    add("--spacing-mm", type=float, help="voxel size of the pictures, for the card")
    add("--sure", type=float, default=0.5,
        help="the mask of a single slice is empty where its mean probability is less, for the card")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--workers", type=int, default=2, help="threads that read pictures (%(default)s)")
    add("--fresh", action="store_true", help="drop an unfinished run instead of going on with it")
    args = parser.parse_args(argv)
    counts = (args.epochs, args.workers, *(n for n in (args.batch, args.steps) if n is not None))
    if min(counts) < 1 or args.lr <= 0:
        raise InputError("--epochs, --batch, --steps and --workers are 1 or more, --lr above 0")
    if args.seed < 0 or (args.size is not None and args.size < 1):
        raise InputError("--seed is 0 or more, --size 1 or more")
    if not 0 <= args.sure < 1:
        raise InputError(f"--sure {args.sure} is no probability: 0 or more, less than 1")
    if args.label_weights and not (min(args.label_weights) >= 0 < max(args.label_weights)):
        raise InputError("--label-weights are 0 or more, and not all 0")
    if args.blend and not args.start_from:
        raise InputError("--blend is for tuning: name the weights to begin with by --start-from")
    if args.blend is True:
        args.blend = args.start_from
    if args.blend and Path(args.blend).resolve() == Path(args.output, "model.keras").resolve():
        raise InputError(f"--blend needs {args.blend} at the end, too: move it elsewhere")
    args.command = "python train.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    return args


def main(argv=None):
    args = options(argv)
    train_pairs, val_pairs, about = read_pairs(args.data, args.views)
    settle(args, about)
    print_device(args)
    things, count = ("volumes", 20) if is_3d(about) else ("pictures", 200)
    for purpose, pairs in (("train", train_pairs), ("validate", val_pairs)):
        print(f"{len(pairs)} {things} to {purpose}")
        check_masks(pairs, args.seed, labels_of(about).values(), count)
    with explained(args.output):
        best = train(args, train_pairs, val_pairs, about)
    print(f"best validation Dice {best['validation']['dice']:.4f} after epoch {best['epochs']}: "
          f"{args.output}/model.keras; curves in {args.output}/curves.png")


def settle(args, about):
    """Fill in the options that the dataset decides; InputError for those it has no use for."""
    labels = labels_of(about).values()
    if len(labels) == 1 and (args.label_weights or args.background is not None):
        raise InputError(f"--label-weights and --background are for several labels: {args.data} "
                         "has one")  # fmt: skip
    if args.label_weights and len(args.label_weights) != len(labels):
        raise InputError(f"--label-weights takes one for each of {', '.join(labels)}")
    if is_3d(about):
        if args.size:
            grid = " x ".join(map(str, about["grid"]))
            raise InputError(f"the volumes of {args.data} are of {grid} voxels: leave --size out")
        args.batch = args.batch or 1
    else:
        args.size, args.batch = args.size or SIZE, args.batch or BATCH


def print_device(args):
    """Say what the training runs on, and choose the precision that suits it."""
    cv2.setNumThreads(1)  # the reading threads are enough
    args.precision = args.precision or ("float16" if gpus() else "float32")
    name = ", ".join(gpus()) or f"CPU ({os.cpu_count()} cores)"
    print(f"device: {name}; backend: {keras.backend.backend()}; precision: {args.precision}")


def gpus():
    """Names of the GPUs that Keras can use."""
    if keras.backend.backend() == "torch":  # for which Keras lists no devices
        import torch

        return ["cuda"] if torch.cuda.is_available() else []
    return keras.distribution.list_devices("gpu")


def train(args, train_pairs, val_pairs, about):
    """Fit, from the start or the last finished epoch; return the best model's card."""
    keras.utils.set_random_seed(args.seed)
    output, window = Path(args.output), window_of(about)
    shape = (about["grid"] if is_3d(about) else args.size, args.batch, window)
    slices = TrainingSlices(
        train_pairs, *shape, steps=args.steps, seed=args.seed, workers=args.workers
    )
    check = Slices(val_pairs, *shape, workers=args.workers)
    patience = patience_of(args)
    backup = BackupAndRestore(
        output / "training", command_of(args, train_pairs, val_pairs, about), patience, args.fresh
    )
    model = build(args, len(slices), about)
    if args.blend:
        mean_weights(model, load_model(args.blend)[0], args.blend)  # refused now, not at the end
    compile_model(model, args, len(slices), about)
    backup.restore(model)
    cut_log(output / "data.csv", backup.epoch)
    best = BestModel(output / "model.keras", card(args, about, window, backup.state["run"]))
    callbacks = [
        best,
        keras.callbacks.TerminateOnNaN(),
        Progress(slices),
        StandstillWarning(args.data),
        *patience,
        keras.callbacks.CSVLogger(output / "data.csv", append=True),
        *tensorboard(output),
        backup,
    ]
    if not backup.state.get("over"):
        history = fit(model, slices, check, args.epochs, backup.epoch, callbacks)
        report.curves(output / "data.csv", output / "curves.png")
        refuse_nan(history, best, backup)
    if args.blend and "blend" not in card_of(best.path):
        blend(args, best.path, check, about)
    if importlib.util.find_spec("openvino"):  # else pred.py does it when it first needs it
        export_model(best.path, check.spread(10 if is_3d(about) else 300))
    backup.remove()
    return card_of(best.path)


def fit(model, slices, check, epochs, initial_epoch, callbacks):
    """keras.Model.fit; raises the InputError of a reading thread as it was."""
    try:
        return model.fit(
            slices,
            validation_data=check,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=callbacks,
            shuffle=False,  # TrainingSlices does, in a way that a resumed run repeats
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except Exception:
        for error in (slices.error, check.error):
            if isinstance(error, InputError):
                raise error from None
        raise


def blend(args, path, check, about):
    """Put the mean of the weights of --blend and of the best epoch's in the latter's place.

    A network and what it was tuned to lie in one basin of the loss; what lies between them often
    does better than either on other data (Wortsman et al., CVPR 2022, arXiv:2109.01903).
    """
    (other, about_other), (tuned, about_tuned) = load_model(args.blend), load_model(path)
    tuned.set_weights(mean_weights(tuned, other, args.blend))
    compile_model(tuned, args, 1, about)
    figures = rounded(tuned.evaluate(check, verbose=0, return_dict=True))
    sha256 = about_other.get("sha256", args.blend)
    save_model(tuned, path, about_tuned | {"validation": figures, "blend": sha256})


def mean_weights(model, other, name):
    """The mean of two networks' weights; InputError naming the `other` if it is of another kind."""
    pairs = list(zip(model.get_weights(), other.get_weights(), strict=False))
    if len(model.weights) != len(other.weights) or any(a.shape != b.shape for a, b in pairs):
        raise InputError(f"{name} is no network of the size that is trained: give --blend another")
    return [(a + b) / 2 for a, b in pairs]


def rounded(figures):
    """A card's figures of a validation."""
    return {name: round(float(value), 6) for name, value in figures.items()}


def patience_of(args):
    """The callbacks that lose patience with a validation Dice that rises no more."""
    rising = {"monitor": "val_dice", "mode": "max"}
    stop = keras.callbacks.EarlyStopping(patience=args.patience, **rising)
    if args.schedule == "cosine":
        return [stop]
    slower = keras.callbacks.ReduceLROnPlateau(
        factor=0.5, patience=max(1, args.patience // 3), **rising
    )
    return [slower, stop]


def window_of(about):
    """Window in HU of what the network sees: the dataset's, or the default for stored HU; None
    where the dataset holds no HU."""
    if cases.is_mri(about):
        return None
    window = about.get("window", "hu")
    return data.WINDOW if window == "hu" else tuple(window)


def command_of(args, train_pairs, val_pairs, about):
    """What makes a run this run and no other: a resumed run must agree in all of it."""
    free = {"epochs"} if args.schedule == "plateau" else set()  # a cosine ends where it was to end
    free |= {"output", "workers", "command", "fresh", "patience", "spacing_mm", "sure"}
    names = "\n".join(str(pair.image) for pair in (*train_pairs, *val_pairs))
    made = json.dumps(about, sort_keys=True)
    dataset = hashlib.sha256((names + made).encode()).hexdigest()[:12]
    chosen = {name: value for name, value in vars(args).items() if name not in free}
    return chosen | {"data": str(Path(args.data).resolve()), "pictures": dataset}


def card(args, about, window, run_id):
    """The model's card, but for what the training finds out."""
    kept = ("normalise", "names", "label_values", "regions", "fit")
    said = {name: about[name] for name in kept if name in about} | {"labels": labels_of(about)}
    if labels_of(about) == cases.HEAD:  # of the two the mask is made, which is of one label
        said |= {"labels": {"1": cases.BRAIN}, "label_values": {"1": 1}, "regions": {},
                 "classes": list(cases.HEAD.values())}  # fmt: skip
    return {
        "channels": cases.channels(about),
        **said,
        "window": window and list(window),
        "spacing_mm": args.spacing_mm or spacing_of(args, about),
        "sure": args.sure,
        "views": args.views or about.get("views"),
        "training_data": about.get("source", f"the pictures in {args.data}"),
        "licence": about.get("licence"),
        "start_from": args.start_from and card_of(args.start_from).get("sha256", args.start_from),
        "command": args.command,
        "seed": args.seed,
        "backend": f"{keras.backend.backend()}, keras {keras.version()}, {args.precision}",
        "python": sys.version.split()[0],
        "run": run_id,
    }


def spacing_of(args, about):
    """The size in mm of what the network sees as a pixel or voxel; None where cases differ."""
    spacing = about.get("spacing_mm")
    return spacing * about["size"] / args.size if spacing and not is_3d(about) else spacing


def cut_log(log, epochs):
    """Leave the rows of the finished epochs in data.csv: a killed run may have written one more."""
    if not epochs or not log.exists():
        log.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        return
    rows = pd.read_csv(log, dtype=str).head(epochs)
    with replacing(log) as path:
        rows.to_csv(path, index=False)


def tensorboard(output):
    """The TensorBoard callback, where it is installed."""
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
        return [keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False)]
    print("no TensorBoard logs: `pip install tensorflow tensorboard` for them")
    return []


def refuse_nan(history, best, backup):
    """Explain a run that TerminateOnNaN has stopped, and end it; raises InputError."""
    if not all(map(math.isfinite, history.history.get("loss", []))):
        backup.remove()
        kept = f"{best.path} holds the best model before" if best.ours else "no model was written"
        raise InputError(
            f"the loss is no longer a number, the training has burst ({kept}): "
            "start again with a lower --lr, or with --precision float32"
        )


if __name__ == "__main__":
    run(main)
