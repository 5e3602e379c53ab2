"""What is kept of an unfinished run, and which command it belongs to."""

import keras
import numpy as np
import pytest

from common.card import Card
from common.errors import InputError
from train import parse
from training.resume import BackupAndRestore, identify_run
from training.settings import to_settings


def toy_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.5), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def backup_of(folder, model, command=None, fresh=False):
    counted = [keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau()]
    backup = BackupAndRestore(folder, command or {"width": 4}, counted, fresh)
    backup.set_model(model)
    return backup, counted


def test_backup_restores_weights_learning_rate_and_counters(tmp_path):
    model = toy_model()
    backup, counted = backup_of(tmp_path / "b", model)
    for epoch in range(3):
        backup.on_epoch_end(epoch)
    model.optimizer.learning_rate = 0.125
    counted[0].wait, counted[0].best, counted[1].cooldown_counter = 3, np.float32(0.75), 2
    backup.on_epoch_end(3)
    assert len(list((tmp_path / "b").iterdir())) == 2, "the last epoch's weights and the state"

    other = toy_model()
    again, counted_again = backup_of(tmp_path / "b", other)
    again.restore(other)
    for callback in (*counted_again, again):  # as fit() does; the first two forget
        callback.on_train_begin()
    assert again.epoch == 4 and again.state["run"] == backup.state["run"]
    assert float(other.optimizer.learning_rate) == 0.125
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
    assert (counted_again[0].wait, counted_again[0].best) == (3, 0.75)
    assert counted_again[1].cooldown_counter == 2


def test_another_command_does_not_go_on_with_an_unfinished_run(tmp_path):
    backup_of(tmp_path / "b", toy_model())[0].on_epoch_end(0)
    with pytest.raises(InputError, match="width 4 is now 8"):
        backup_of(tmp_path / "b", toy_model(), {"width": 8})
    assert backup_of(tmp_path / "b", toy_model(), {"width": 8}, fresh=True)[0].epoch == 0


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_only_options_that_change_the_run_bind_a_resumed_one(schedule):
    def command(*more):
        args = parse(["--schedule", schedule, *more])
        return identify_run(to_settings(args, Card()), [])

    assert command("--output", "x") == command()
    assert command("--width", "8") != command()
    assert (command("--epochs", "9") == command()) == (schedule == "plateau")
