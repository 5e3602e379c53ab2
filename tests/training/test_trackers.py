"""What trackers are told; MLflow and Weights & Biases themselves are tried where they are."""

import json

import pytest

from common.errors import InputError
from training import trackers
from training.options import parse
from training.trackers import MLflow, Tracker, Wandb, check_trackers


class Recorder(Tracker):
    """Keeps what it is told."""

    name = "recorder"

    def begin(self):
        self.epochs, self.cards = [], []

    def log_card(self, said):
        self.cards.append(said)

    def log(self, epoch, figures):
        self.epochs.append((epoch, figures))

    def end(self):
        self.epochs.append("end")


@pytest.fixture
def options(tmp_path):
    return parse(["--output", str(tmp_path), "--lr", "1e-3"])


def test_a_tracker_is_told_options_card_and_figures(options, tmp_path):
    tracker = Recorder(options, {"run": "a"})
    assert tracker.options["lr"] == "0.001"
    tracker.on_train_begin()
    tracker.on_epoch_end(0, {"loss": 0.5})
    (tmp_path / "model.json").write_text('{"run": "a", "validation": {"dice": 0.9}}')
    tracker.on_train_end()
    assert tracker.epochs == [(1, {"loss": 0.5}), "end"]
    assert tracker.cards == [{"run": "a"}, {"run": "a", "validation": {"dice": 0.9}}]


def test_the_names_of_cases_are_not_told(options, tmp_path):
    said = {"run": "a", "fold": 1, "training_cases": ["Doe_Jane"], "validation_cases": []}
    tracker = Recorder(options, said)
    tracker.on_train_begin()
    (tmp_path / "model.json").write_text(json.dumps(said))
    tracker.on_train_end()
    assert tracker.cards == [{"run": "a", "fold": 1}] * 2


def test_the_card_of_another_run_is_not_told(options, tmp_path):
    (tmp_path / "model.json").write_text('{"run": "b"}')
    tracker = Recorder(options, {"run": "a"})
    tracker.on_train_begin()
    tracker.on_train_end()
    assert tracker.cards == [{"run": "a"}]


def test_a_tracker_that_fails_does_not_end_the_training(options, monkeypatch, capsys):
    def fail(*_):
        raise ConnectionError("no server")

    tracker = Recorder(options, {"run": "a"})
    tracker.on_train_begin()
    monkeypatch.setattr(tracker, "log", fail)
    tracker.on_epoch_end(2, {"loss": 0.5})
    assert "--track recorder has lost epoch 3: no server" in capsys.readouterr().err


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    check_trackers([])
    with pytest.raises(InputError, match="--track wandb needs a package: pip install wandb"):
        parse(["--track", "wandb"])


def follow(kind, options, first, epochs):
    """A process of a run, which is killed: nothing is ended."""
    tracker = kind(options, {"run": "a" * 32})
    tracker.on_train_begin()
    for epoch in range(first, first + epochs):
        tracker.on_epoch_end(epoch, {"loss": 0.5 / (epoch + 1), "val_dice": float("nan")})
    return tracker


def test_mlflow_goes_on_with_the_same_run(options, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    follow(MLflow, options, 0, 2)
    options.threads = 7  # may change
    follow(MLflow, options, 2, 1).on_train_end()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["lr"] == "0.001"
    losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert losses == [(1, 0.5), (2, 0.25), (3, pytest.approx(0.5 / 3))]
    (card,) = (tmp_path / "mlflow/artifacts").glob("*/artifacts/card.json")
    assert json.loads(card.read_text()) == {"run": "a" * 32}


def test_wandb_writes_both_parts_of_a_run_under_its_name(options, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    follow(Wandb, options, 0, 2).run.finish()
    follow(Wandb, options, 2, 1).on_train_end()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{'a' * 32}/*.wandb"))
    assert files and all(path.stat().st_size for path in files)
    assert b"val_dice" in files[-1].read_bytes()
