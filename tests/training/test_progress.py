"""What train.py says of how far it is: in a file, line by line."""

import re
import time

import keras
import pytest

from training import progress as module
from training.progress import Progress, tell_time


class Steps(list):
    """As many steps as of a dataset that is read in no time."""

    batch, busy, workers = 8, 0.0, 1


@pytest.fixture
def clock(monkeypatch):
    """The time that Progress sees, in s, as a list of one number."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def progress():
    """The progress of two epochs of 40 steps, each with 3 steps of validation."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    progress = Progress(Steps(range(40)), 3, epochs=2)
    progress.set_model(model)
    return progress


def train(progress, clock, steps, seconds):
    for step in range(steps):
        clock[0] += seconds
        progress.on_train_batch_end(step)


def validate(progress, clock, steps, seconds):
    for step in range(steps):
        clock[0] += seconds
        progress.on_test_batch_end(step)


def run_epoch(progress, clock, epoch):
    """Steps of 5 s, of validation 2 s, but for the first of each, which take 100 s."""
    progress.on_epoch_begin(epoch)
    train(progress, clock, 1, 5 if epoch else 100)
    train(progress, clock, 39, 5)
    progress.on_test_begin()
    validate(progress, clock, 1, 2 if epoch else 100)
    validate(progress, clock, 2, 2)
    figures = {name: 0.25 for name in ("loss", "val_loss", "val_dice", "val_dice_oedema")}
    progress.on_epoch_end(epoch, figures)


def test_an_epoch_is_one_line_in_a_log_and_foretold_once(progress, clock, capsys):
    for epoch in range(2):
        run_epoch(progress, clock, epoch)
    told, first, second = capsys.readouterr().out.splitlines()
    assert told == (  # 40 * 5 s + 3 * 5 s / 3
        "an epoch takes some 3:25 min with its validation, all 2 at most 6:50 min "
        "(6 of 40 steps done, 1.6 slices/s)"
    )
    figures = "loss 0.2500, validation loss 0.2500, validation Dice 0.2500"
    assert first == f"epoch 1 of 2: {figures}; 1.1 slices/s in training, input threads 0% busy"
    assert second == f"epoch 2 of 2: {figures}; 1.6 slices/s in training, input threads 0% busy"


def test_a_short_first_epoch_is_foretold_before_its_validation(progress, clock, capsys):
    progress.on_epoch_begin(0)
    train(progress, clock, 39, 0.25)
    assert capsys.readouterr().out == ""
    train(progress, clock, 1, 0.25)
    assert "an epoch takes some 0:10 min" in capsys.readouterr().out


def test_the_line_says_the_step_the_speed_and_what_is_left(progress, clock):
    progress.on_epoch_begin(0)
    assert progress.describe() == "epoch 1 of 2: the first step is not over yet"
    train(progress, clock, 1, 100)
    train(progress, clock, 9, 5)
    assert progress.describe() == (  # 30 * 5 s + 3 * 5 s / 3, and 205 s more
        "epoch 1 of 2, step 10 of 40, 1.6 slices/s, "
        "this epoch 2:35 min left, at most 6:00 min in all"
    )
    train(progress, clock, 30, 5)
    progress.on_test_begin()
    validate(progress, clock, 1, 100)
    validate(progress, clock, 1, 2)
    assert progress.describe() == (  # 2 s, and 40 * 5 s + 3 * 2 s more
        "epoch 1 of 2, validation step 2 of 3, 1.6 slices/s, "
        "this epoch 0:02 min left, at most 3:28 min in all"
    )


def test_what_passes_between_two_epochs_counts_as_well(progress, clock):
    progress.epochs = 3
    run_epoch(progress, clock, 0)
    clock[0] += 30  # the model is written
    progress.on_epoch_begin(1)
    assert "at most 7:22 min in all" in progress.describe()  # 2 * (200 + 6) + 30


@pytest.mark.parametrize(
    "seconds, said", [(37.6, "0:38 min"), (3599, "59:59 min"), (18_720, "5 h 12 min")]
)
def test_a_time_is_told_for_people(seconds, said):
    assert tell_time(seconds) == said


def test_a_file_gets_a_line_each_pause_though_no_step_ends(progress, monkeypatch, capsys):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    with progress:
        progress.on_epoch_begin(0)
        time.sleep(0.1)
    begun, announced, *lines = capsys.readouterr().out.splitlines()
    assert begun == "an epoch has 40 steps of 8; at most 2 epochs"
    assert "graph" in announced
    assert len(lines) >= 2 and set(lines) == {"epoch 1 of 2: the first step is not over yet"}


def test_a_terminal_gets_the_bar_and_no_line_a_minute(progress, monkeypatch, capsys):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with progress:
        progress.on_epoch_begin(0)
        time.sleep(0.1)
        shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert re.search(r"epoch 1 of 2: +0%.* 0/43", shown.err)
