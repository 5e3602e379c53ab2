"""What train.py does at the end of each epoch: figures, warnings, the best network so far.

model.fit(slices, callbacks=[
    BestModel("files/model.keras", said),         # what its card shall say
    Progress(slices),                             # TrainingSlices
    StandstillWarning("files/dataset"),
])
"""

from __future__ import annotations

import itertools
import math
import os
import time
from pathlib import Path

import numpy as np

from common.card import read_card
from common.errors import quietly, warn
from model import save_model
from training.batches import TrainingSlices

with quietly():
    import keras


class Progress(keras.callbacks.Callback):
    """Tells the dataset its epoch, and adds speed and learning rate to the epoch's figures."""

    def __init__(self, slices: TrainingSlices):
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
        busy = self.slices.busy / self.slices.workers / seconds  # at 100 % the device waits
        print(
            f"\nepoch {epoch + 1}: {speed:.1f} slices/s in training, input threads {busy:.0%} "
            f"busy, validation Dice {logs.get('val_dice', math.nan):.4f}",
            flush=True,
        )


class StandstillWarning(keras.callbacks.Callback):
    """Says in plain words when the network has stopped learning: all black, all white, flat."""

    def __init__(self, folder: str, epochs: int = 4):
        super().__init__()
        self.epochs, self.losses = epochs, []
        self.advice = (
            "lower --lr tenfold, or take --loss dice_cross_entropy; look at the pictures and "
            f"masks in {folder} too: do they belong together?"
        )

    def on_epoch_end(self, epoch, logs=None):
        # Both shares: a few steps into a run, validation alone may be off, since batch
        # normalisation has not yet averaged over enough batches.
        shares = np.array([logs["positive"], logs["val_positive"]])
        self.losses.append(logs["loss"])
        recent = self.losses[-self.epochs :]
        if shares.max() < 1e-3 or shares.min() > 0.98:
            colour = "black" if shares.max() < 0.5 else "white"
            warn(
                f"in epoch {epoch + 1} the predicted masks are all {colour} "
                f"({shares[1]:.2%} of them is labelled): if that stays, {self.advice}"
            )
        elif len(recent) == self.epochs and np.ptp(recent) < 1e-4 * abs(np.mean(recent)):
            warn(
                f"the loss has stood still at {recent[-1]:.5f} for {self.epochs} epochs: "
                f"{self.advice}"
            )


class BestModel(keras.callbacks.Callback):
    """ModelCheckpoint on validation Dice that writes model and card at once and atomically.

    A model at `path` that is not of this run (`said["run"]`) is kept under another name. The best
    value so far is read from the card on disk, so that a resumed run never replaces a better
    network by a worse one. `said` is the JSON of the card, but for what is found out here.
    """

    def __init__(self, path: str | Path, said: dict):
        super().__init__()
        self.path, self.said = Path(path), said
        before = read_card(path)
        self.ours = before.run == said["run"]
        self.best = before.validation["dice"] if self.ours else -math.inf

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_end(self, logs=None):
        # a loss that is NaN counts, too: the empty masks of a burst network may look right
        if not (logs["dice"] > self.best and math.isfinite(logs["loss"])):
            return
        if not self.ours:
            keep_aside(self.path)
            self.ours = True
        self.best = float(logs["dice"])
        found = {"epochs": self.epoch + 1, "validation": round_figures(logs)}
        save_model(self.model, self.path, self.said | found)


def keep_aside(path: Path) -> None:
    """Rename a model that is in the way, with its card and export, to model.previous[N].keras."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.stem}.previous{n or ''}.keras") for n in itertools.count())
    kept = next(name for name in names if not name.exists())
    for ending in (".keras", ".json", ".xml", ".bin"):
        if path.with_suffix(ending).exists():
            os.replace(path.with_suffix(ending), kept.with_suffix(ending))
    print(f"\nthe model that was in {path} is kept as {kept}")


def round_figures(figures: dict[str, float]) -> dict[str, float]:
    """A validation's figures as a card holds them."""
    return {name: round(float(value), 6) for name, value in figures.items()}
