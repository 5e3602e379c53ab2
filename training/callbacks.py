"""What train.py does at the end of each epoch: figures, warnings, the best network so far; and how
a run that was killed is resumed.

    backup = BackupAndRestore("files/training", identify_run(options, pairs), patience)
    backup.restore(model)                           # after compile(); nothing for a new run
    model.fit(slices, initial_epoch=backup.epoch, callbacks=[
        AveragedWeights(backup.epoch > 0),          # the others see averaged weights
        Validation(cases, progress),                # and read its figures
        progress,
        BestModel("files/model.keras", said),       # what its card shall say
        StandstillWarning("files/dataset"),
        *patience,                                  # Keras' own, whose counters are kept
        backup,                                     # the last one
    ])
    backup.remove()
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import uuid
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.card import read_card
from common.errors import InputError, quietly, replacing, warn
from common.files import checksum, read_json, write_text
from dataset.read import DESCRIPTION, Pair
from model import save_model
from training.batches import Slices
from training.devices import feed

with quietly():
    import keras

# When a network has stopped learning, chosen by eye:
BLACK, WHITE = 1e-3, 0.98  # shares of the pixels that are labelled: fewer, and more
FLAT_EPOCHS, FLAT_LOSS = 4, 1e-4  # in so many epochs the loss changes by less than this share

COUNTERS = ("wait", "best", "cooldown_counter")  # what Keras' callbacks count over the epochs
# Options that a resumed run may be given anew
MAY_CHANGE = {"output", "threads", "command", "fresh", "patience", "spacing_mm", "sure"}
MAY_CHANGE |= {"devices", "track", "onnx"}


# ---------------------------------------------------------------- how the training goes


class AveragedWeights(keras.callbacks.SwapEMAWeights):
    """Between two epochs the network has the mean of the optimiser's last weights (`use_ema`).

    The weights of a single step go up and down with the samples of the last few: on a handful of
    patients the best of such epochs is a lucky one. The mean does better (Polyak averaging;
    Izmailov et al., UAI 2018, arXiv:1803.05407). The first of the callbacks.
    """

    def __init__(self, is_resumed: bool):
        super().__init__(swap_on_epoch=True)
        self._ema_weights_in_model = is_resumed  # as they were when the backup was written


class Validation(keras.callbacks.Callback):
    """Adds the figures of a validation by case, called val_…, to those of an epoch.

    Keras' own validation averages over batches, in which a black mask of an empty slice earns as
    much as a right one of a tumour. Stands before the others, which read its figures.
    """

    def __init__(self, cases: Sequence[Slices], progress: keras.callbacks.Callback):
        super().__init__()
        self.cases, self.progress = cases, progress

    def on_epoch_end(self, epoch, logs=None):
        figures = validate(self.model, self.cases, [self.progress])
        logs |= {f"val_{name}": value for name, value in figures.items()}


def validate(model: keras.Model, cases: Sequence[Slices], callbacks=()) -> dict[str, float]:
    """Means over the cases of the figures of each; a case does not count in a figure where it has
    none (see `metrics.to_figures`)."""
    options = {"callbacks": list(callbacks), "verbose": 0, "return_dict": True}
    table = pd.DataFrame([model.evaluate(feed(slices, model), **options) for slices in cases])
    return table.mean().to_dict()


class Log(keras.callbacks.CSVLogger):
    """data.csv: a row an epoch, which is counted from 1, as on the terminal."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch + 1, logs)


class TensorBoard(keras.callbacks.TensorBoard):
    """TensorBoard's logs, whose epochs are counted from 1, too."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch + 1, logs)


class StandstillWarning(keras.callbacks.Callback):
    """Says in plain words when the network has stopped learning: all black, all white, flat."""

    def __init__(self, folder: str):
        super().__init__()
        self.losses = []
        self.advice = (
            "lower --lr tenfold, or take --loss dice_cross_entropy; look at the pictures and "
            f"masks in {folder} too: do they belong together?"
        )

    def on_epoch_end(self, epoch, logs=None):
        # Both shares: a few steps into a run, validation alone may be off, since batch
        # normalisation has not yet averaged over enough batches.
        shares = np.array([logs["positive"], logs["val_positive"]])
        self.losses.append(logs["loss"])
        recent = self.losses[-FLAT_EPOCHS:]
        if shares.max() < BLACK or shares.min() > WHITE:
            colour = "black" if shares.max() < BLACK else "white"
            warn(
                f"in epoch {epoch + 1} the predicted masks are all {colour} "
                f"({shares[1]:.2%} of them is labelled): if that stays, {self.advice}"
            )
        elif len(recent) == FLAT_EPOCHS and np.ptp(recent) < FLAT_LOSS * abs(np.mean(recent)):
            flat = f"the loss has stood still at {recent[-1]:.5f} for {FLAT_EPOCHS} epochs"
            warn(f"{flat}: {self.advice}")


class BestModel(keras.callbacks.Callback):
    """ModelCheckpoint on validation Dice that writes model and card at once and atomically.

    `figure` is the Dice that counts. A model at `path` that is not of this run (`said["run"]`) is
    kept under another name. The best value so far is read from the card on disk, so that a resumed
    run never replaces a better network by a worse one. `said` is the JSON of the card, but for what
    is found out here.
    """

    def __init__(self, path: str | Path, said: dict, figure: str = "dice"):
        super().__init__()
        self.path, self.said, self.figure = Path(path), said, figure
        before = read_card(path)
        self.ours = before.run == said["run"]
        # a kill between model and card leaves two that do not fit: that epoch is repeated
        is_whole = self.ours and self.path.exists() and before.sha256 == checksum(self.path)
        self.best = before.validation[figure] if is_whole else -math.inf

    def on_epoch_end(self, epoch, logs=None):
        figures = {n.removeprefix("val_"): v for n, v in logs.items() if n.startswith("val_")}
        # a loss that is NaN counts, too: the empty masks of a burst network may look right
        if not (figures[self.figure] > self.best and math.isfinite(figures["loss"])):
            return
        if not self.ours:
            keep_aside(self.path)
            self.ours = True
        self.best = float(figures[self.figure])
        found = {"epochs": epoch + 1, "validation": round_figures(figures)}
        save_model(self.model, self.path, self.said | found)


def keep_aside(path: Path) -> None:
    """Rename a model that is in the way, with its card and export, to model.previous[N].keras."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.stem}.previous{n or ''}.keras") for n in itertools.count())
    kept = next(name for name in names if not name.exists())
    rename_model(path, kept)
    print(f"the model that was in {path} is kept as {kept}")


def rename_model(path: Path, name: Path) -> None:
    """Rename a model with its card and exports."""
    for ending in (".json", ".xml", ".bin", ".onnx", ".keras"):
        if path.with_suffix(ending).exists():
            os.replace(path.with_suffix(ending), name.with_suffix(ending))


def round_figures(figures: dict[str, float]) -> dict[str, float]:
    """A validation's figures as a card holds them; JSON knows no NaN."""
    return {n: None if math.isnan(v) else round(float(v), 6) for n, v in figures.items()}


# ---------------------------------------------------------------- going on after a kill


class BackupAndRestore(keras.callbacks.Callback):
    """keras.callbacks.BackupAndRestore for a run that may be killed between any two writes.

    An epoch counts as finished when `state.json`, which names the epoch's weights (with the
    optimiser's), has replaced the one before. It also holds what Keras' own callback forgets: the
    counters of EarlyStopping and ReduceLROnPlateau, and the `identity` of the run.
    Must be the last callback. A run killed after its last epoch repeats what follows it (blending,
    the export). `remove` ends a run, and nothing of it is left behind.
    Raises InputError when `folder` holds an unfinished run of another identity.
    """

    def __init__(self, folder, identity: dict, callbacks=(), fresh: bool = False):
        super().__init__()
        self.folder, self.callbacks = Path(folder), callbacks
        if fresh:
            self.remove()
        self.state = {"epoch": 0, "run": uuid.uuid4().hex, "command": identity, "counters": {}}
        if (self.folder / "state.json").exists():
            self.state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        self.epoch = self.state["epoch"]  # finished ones
        self.refuse_others(identity)

    def refuse_others(self, identity: dict) -> None:
        """Raise InputError when the unfinished run was started with other options."""
        if changed := list_changes(self.state["command"], identity):
            raise InputError(
                f"{self.folder} holds an unfinished run (epoch {self.epoch} done) of another "
                f"command ({changed}): give that command again to resume it, or add --fresh to "
                "drop it"
            )

    def restore(self, model: keras.Model) -> None:
        """Put the weights of the last finished epoch into the compiled model, if there is one."""
        if self.epoch:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self.weights_of(self.epoch))
            print(f"going on after epoch {self.epoch}, the last finished one")

    def on_train_begin(self, logs=None):  # after the others have set themselves to zero
        for callback in self.callbacks:
            vars(callback).update(self.state["counters"].get(type(callback).__name__, {}))

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.weights_of(epoch + 1)) as path:
            self.model.save_weights(path)
        counters = {
            type(callback).__name__: {n: v for n, v in vars(callback).items() if n in COUNTERS}
            for callback in self.callbacks
        }
        self.write(self.state | {"epoch": epoch + 1, "counters": counters})
        self.weights_of(epoch).unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        self.write(self.state | {"over": True})

    def write(self, state: dict) -> None:
        self.state = state
        write_text(self.folder / "state.json", json.dumps(state, default=float))

    def remove(self) -> None:
        # first: a state that outlives its weights could not be resumed
        (self.folder / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def weights_of(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}.weights.h5"


def identify_run(options: Namespace, pairs: Sequence[Pair]) -> dict:
    """The options and the dataset in which a resumed run must agree with the one that was killed.

    `pairs` are those to train and those to validate.
    """
    # a cosine ends where it was to end; the other schedule does not know the last epoch
    free = MAY_CHANGE | ({"epochs"} if options.schedule == "plateau" else set())
    chosen = {name: value for name, value in vars(options).items() if name not in free}
    names = "\n".join(str(pair.image) for pair in pairs)
    made = json.dumps(read_json(Path(options.data) / DESCRIPTION), sort_keys=True)
    dataset = hashlib.sha256((names + made).encode()).hexdigest()[:12]
    return chosen | {"data": str(Path(options.data).resolve()), "pictures": dataset}


def list_changes(before: dict, now: dict) -> str:
    """What differs between two identities of a run, in words; "" where they are the same."""
    return "; ".join(
        f"{name} {before.get(name)} is now {value}"
        for name, value in now.items()
        if before.get(name) != value
    )


def cut_log(log: Path, epochs: int) -> None:
    """Leave the rows of the finished epochs in data.csv: a killed run may have written one more.

    They are numbered anew, for earlier versions counted from 0.
    """
    if not epochs or not log.exists():
        log.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        return
    rows = pd.read_csv(log, dtype=str).head(epochs)
    rows["epoch"] = range(1, len(rows) + 1)
    write_text(log, rows.to_csv(index=False))
