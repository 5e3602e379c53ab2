"""Trackers of experiments for train.py --track: MLflow and Weights & Biases.

    check_trackers(options.track)                   # InputError where a package is missing
    callbacks = [*make_trackers(options, said), backup]

Both packages write into the run's own folder, and nothing is sent anywhere, unless the user's
environment says so (MLFLOW_TRACKING_URI, WANDB_MODE). They have callbacks for Keras; ours count
epochs from 1 as data.csv does, need no TensorFlow, and go on with the same run after a kill.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from common import NAME
from common.errors import InputError, make_folder, quietly, warn
from common.files import read_json

with quietly():
    import keras


class Tracker(keras.callbacks.Callback):
    """Tells a tracker the options of a run, its model's card and every epoch's figures.

    `said` is the JSON of the card at the start of the run; its "run" names the run for ever.
    A tracker that fails while the network trains is named in a warning, and the training goes on.
    """

    def __init__(self, options: Namespace, said: dict):
        super().__init__()
        self.options = {name: str(value) for name, value in vars(options).items()}
        self.said = leave_out_cases(said)
        self.folder = Path(options.output).resolve()

    def on_train_begin(self, logs=None):
        self.begin()
        self.log_card(self.said)

    def on_epoch_end(self, epoch, logs=None):
        try:
            self.log(epoch + 1, {name: float(value) for name, value in logs.items()})
        except Exception as error:  # whatever a package raises when a disk or a server fails
            warn(f"--track {self.name} has lost epoch {epoch + 1}: {error}")

    def on_train_end(self, logs=None):
        try:
            card = read_json(self.folder / "model.json")
            if card.get("run") == self.said["run"]:  # else no network of this run was kept
                self.log_card(leave_out_cases(card))
            self.end()
        except Exception as error:  # as above
            warn(f"--track {self.name} has lost the model's card: {error}")


def leave_out_cases(card: dict) -> dict:
    """A card without the names of cases, which may be those of patients."""
    return {name: value for name, value in card.items() if not name.endswith("_cases")}


class MLflow(Tracker):
    """A run in MLflow's database in the folder mlflow, or on the server of MLFLOW_TRACKING_URI."""

    name = "mlflow"

    def begin(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports to its makers
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # they tell how they make the database
            logging.getLogger(name).setLevel(logging.WARNING)
        folder = self.folder / "mlflow"
        make_folder(folder)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder}/mlflow.db")
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)
        if found := self.client.get_experiment_by_name(title):
            experiment = found.experiment_id
        else:
            where = None if uri else (folder / "artifacts").as_uri()
            experiment = self.client.create_experiment(title, artifact_location=where)
        before = self.client.search_runs([experiment], f"tags.run = '{self.said['run']}'")
        if before:
            self.run = before[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        tags = {"run": self.said["run"]}
        name = self.folder.name
        self.run = self.client.create_run(experiment, tags=tags, run_name=name).info.run_id
        for option, value in self.options.items():
            self.client.log_param(self.run, option, value)

    def log_card(self, said: dict) -> None:
        self.client.log_dict(self.run, said, "card.json")

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        rows = [Metric(name, value, now, epoch) for name, value in figures.items()]
        self.client.log_batch(self.run, metrics=rows)

    def end(self) -> None:
        self.client.set_terminated(self.run)


class Wandb(Tracker):
    """A run of Weights & Biases in the folder wandb; `wandb sync` sends it where one likes to."""

    name = "wandb"

    def begin(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it reports to its makers
        import wandb

        make_folder(self.folder)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", NAME),
            name=self.folder.name,
            id=self.said["run"],
            resume="allow",
            dir=self.folder,
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=self.options,
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )

    def log_card(self, said: dict) -> None:
        self.run.config.update({"card": said}, allow_val_change=True)

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        self.run.log({"epoch": epoch} | figures, step=epoch)

    def end(self) -> None:
        self.run.finish()


TRACKERS = {kind.name: kind for kind in (MLflow, Wandb)}


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError where the package of a tracker is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--track {name} needs a package: pip install {name}")


def make_trackers(options: Namespace, said: dict) -> list[Tracker]:
    """The callbacks that --track asks for."""
    return [TRACKERS[name](options, said) for name in options.track]
