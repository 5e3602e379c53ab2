"""How far train.py is: a bar on a terminal, a line a minute in a file, a line for each epoch.

with Progress(slices, checks, epochs) as progress:      # checks: steps of a validation
    model.fit(slices, callbacks=[Validation(cases, progress), progress, ...])
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque

from tqdm import tqdm

from common.errors import quietly
from common.progress import PAUSE
from training.batches import TrainingSlices

with quietly():
    import keras

FIRST_LOOK = 20  # s of steps after which the time of an epoch is foretold: a round number
RECENT = 100  # steps by which the rest is foretold: a round number
FORWARD = 1 / 3  # share of a training step without its way back, which costs as two ways forward
# What the line of an epoch says; data.csv has all
FIGURES = {"loss": "loss", "val_loss": "validation loss", "val_dice": "validation Dice"}


class Progress(keras.callbacks.Callback):
    """Says how far a run is: a bar or a line a minute, and a line for each epoch.

    Tells the dataset its epoch, and adds speed and learning rate to the epoch's figures. `checks`
    are the steps of a validation.
    """

    def __init__(self, slices: TrainingSlices, checks: int, epochs: int):
        super().__init__()
        self.slices, self.checks, self.epochs = slices, checks, epochs
        self.training_steps, self.validation_steps = deque(maxlen=RECENT), deque(maxlen=RECENT)  # s
        self.between = 0.0  # s from an epoch's last step to the next epoch
        self.bar = self.first = self.last = None  # ends of this process' first and last step
        self.foretold = self.validation_begun = False
        self.epoch = 0
        self.trained = self.validated = 0  # steps of this epoch
        self.over = threading.Event()

    def __enter__(self) -> Progress:
        steps = f"{len(self.slices)} steps of {self.slices.batch}"
        say(f"an epoch has {steps}; at most {self.epochs} epochs")
        say("the first step takes longer, up to some minutes: it begins with building the graph")
        threading.Thread(target=self.repeat, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.over.set()
        self.close()

    def repeat(self) -> None:
        """Say how far the run is, once a PAUSE, where no bar says it."""
        while not self.over.wait(PAUSE):
            if self.bar is not None and self.bar.disable:
                say(self.describe())

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def on_epoch_begin(self, epoch, logs=None):
        now = time.perf_counter()
        if self.last is not None:
            self.between = now - self.last
        self.slices.epoch, self.slices.busy = epoch, 0.0
        self.epoch, self.trained, self.validated = epoch, 0, 0
        self.start = self.last = now
        self.seconds = None  # of training
        steps = len(self.slices) + self.checks
        self.bar = tqdm(total=steps, desc=self.title(), unit="step", leave=False, disable=None)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        self.trained += 1
        now = time.perf_counter()
        if self.first is None:
            self.first = now
        else:
            self.training_steps.append(now - self.last)
        self.last = now
        is_time = now - self.first > FIRST_LOOK or self.trained == len(self.slices)
        if is_time and self.training_steps and not self.foretold:
            self.foretold = True
            self.foretell()

    def on_test_batch_end(self, batch, logs=None):
        self.bar.update()
        self.validated += 1
        now = time.perf_counter()
        if self.validation_begun:  # else the graph was built in this step
            self.validation_steps.append(now - self.last)
        self.validation_begun, self.last = True, now

    def on_test_begin(self, logs=None):  # of each case
        self.seconds = self.seconds or time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        seconds = self.seconds or time.perf_counter() - self.start
        speed = len(self.slices) * self.slices.batch / seconds
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["slices_per_second"] = round(speed, 2)
        busy = self.slices.busy / self.slices.workers / seconds  # at 100 % the device waits
        figures = ", ".join(
            f"{title} {logs.get(name, math.nan):.4f}" for name, title in FIGURES.items()
        )
        say(
            f"{self.title()}: {figures}; {speed:.1f} slices/s in training, "
            f"input threads {busy:.0%} busy"
        )

    # ---- what is left

    def title(self) -> str:
        return f"epoch {self.epoch + 1} of {self.epochs}"

    def foretell(self) -> None:
        """Say how long an epoch and all epochs will take."""
        epoch = self.estimate(len(self.slices), self.checks)
        whole = (self.epochs - self.epoch) * epoch
        say(
            f"an epoch takes some {tell_time(epoch)} with its validation, all "
            f"{self.epochs - self.epoch} at most {tell_time(whole)} "
            f"({self.trained} of {len(self.slices)} steps done, {self.speed():.1f} slices/s)"
        )

    def describe(self) -> str:
        """How far the run is, in one line."""
        if not self.training_steps:
            return f"{self.title()}: the first step is not over yet"
        training, checks = len(self.slices), self.checks
        rest = self.estimate(training - self.trained, checks - self.validated)
        later = self.epochs - self.epoch - 1
        whole = rest + later * (self.estimate(training, checks) + self.between)
        step = f"step {self.trained} of {training}"
        if self.trained == training:
            step = f"validation step {self.validated} of {checks}"
        return (
            f"{self.title()}, {step}, {self.speed():.1f} slices/s, "
            f"this epoch {tell_time(rest)} left, at most {tell_time(whole)} in all"
        )

    def estimate(self, training: int, validation: int) -> float:
        """Seconds that some steps of training and of validation will take.

        Until the first validation, one of its steps is taken as FORWARD of a training step.
        """
        step = find_mean(self.training_steps)
        check = find_mean(self.validation_steps) if self.validation_steps else FORWARD * step
        return training * step + validation * check

    def speed(self) -> float:
        """Slices a second in the last steps of training."""
        return self.slices.batch / find_mean(self.training_steps)


def find_mean(seconds: deque[float]) -> float:
    return sum(seconds) / len(seconds)


def tell_time(seconds: float) -> str:
    """A time as 0:38 min, from an hour on as 5 h 12 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60} h {minutes % 60} min"


def say(line: str) -> None:
    """Print one line above the bar, at once."""
    tqdm.write(line)
    sys.stdout.flush()
