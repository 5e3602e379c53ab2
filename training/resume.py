"""Resuming a run that was killed: its last finished epoch is kept in a folder until it is over.

backup = BackupAndRestore("files/training", identify_run(settings, pairs), callbacks)
backup.restore(model)                       # after compile(); nothing for a new run
model.fit(..., initial_epoch=backup.epoch, callbacks=[*callbacks, backup])
backup.remove()
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.errors import InputError, quietly, replacing
from common.files import read_json, write_text
from dataset.read import DESCRIPTION, Pair
from training.settings import Settings

with quietly():
    import keras

COUNTERS = ("wait", "best", "cooldown_counter")  # what Keras' callbacks count over the epochs
# Options that a resumed run may be given anew
MAY_CHANGE = {"output", "workers", "command", "fresh", "patience", "spacing_mm", "sure"}


class BackupAndRestore(keras.callbacks.Callback):
    """keras.callbacks.BackupAndRestore for a run that may be killed between any two writes.

    An epoch counts as finished when `state.json`, which names the epoch's weights (with the
    optimiser's), has replaced the one before. It also holds what Keras' own callback forgets: the
    counters of EarlyStopping and ReduceLROnPlateau, and the `command` that the run belongs to.
    Must be the last callback. A run killed after its last epoch repeats what follows it (blending,
    the export). `remove` ends a run, and nothing of it is left behind.
    """

    def __init__(self, folder, command: dict, callbacks=(), fresh: bool = False):
        super().__init__()
        self.folder, self.callbacks = Path(folder), callbacks
        if fresh:
            self.remove()
        self.state = {"epoch": 0, "run": uuid.uuid4().hex, "command": command, "counters": {}}
        if (self.folder / "state.json").exists():
            self.state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            refuse_other_command(self.state, command, self.folder)
        self.epoch = self.state["epoch"]  # finished ones

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
            type(callback).__name__: {
                name: value for name, value in vars(callback).items() if name in COUNTERS
            }
            for callback in self.callbacks
        }
        self.write(self.state | {"epoch": epoch + 1, "counters": counters})
        self.weights_of(epoch).unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        self.write(self.state | {"over": True})

    def write(self, state: dict) -> None:
        """Replace the state on disk."""
        self.state = state
        write_text(self.folder / "state.json", json.dumps(state, default=float))

    def remove(self) -> None:
        """Remove the folder: nothing is resumed from it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def weights_of(self, epoch: int) -> Path:
        """The file of an epoch's weights."""
        return self.folder / f"epoch_{epoch}.weights.h5"


def refuse_other_command(state: dict, command: dict, folder: Path) -> None:
    """Raise InputError when an unfinished run was started with other options."""
    changed = [
        f"{name} {state['command'].get(name)} is now {value}"
        for name, value in command.items()
        if state["command"].get(name) != value
    ]
    if changed:
        raise InputError(
            f"{folder} holds an unfinished run (epoch {state['epoch']} done) of another command "
            f"({'; '.join(changed)}): give that command again to resume it, or add --fresh to "
            "drop it"
        )


def identify_run(settings: Settings, pairs: Sequence[Pair]) -> dict:
    """The options and the dataset in which a resumed run must agree with the one that was killed.

    `pairs` are those to train and those to validate.
    """
    # a cosine ends where it was to end; the other schedule does not know the last epoch
    free = MAY_CHANGE | ({"epochs"} if settings.schedule == "plateau" else set())
    chosen = {name: value for name, value in vars(settings).items() if name not in free}
    names = "\n".join(str(pair.image) for pair in pairs)
    made = json.dumps(read_json(Path(settings.data) / DESCRIPTION), sort_keys=True)
    dataset = hashlib.sha256((names + made).encode()).hexdigest()[:12]
    return chosen | {"data": str(Path(settings.data).resolve()), "pictures": dataset}


def cut_log(log: Path, epochs: int) -> None:
    """Leave the rows of the finished epochs in data.csv: a killed run may have written one more."""
    if not epochs or not log.exists():
        log.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        return
    rows = pd.read_csv(log, dtype=str).head(epochs)
    write_text(log, rows.to_csv(index=False))
