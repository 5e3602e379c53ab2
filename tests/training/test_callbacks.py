"""The best network so far, warnings in plain words, and what is kept of an unfinished run."""

import keras
import numpy as np
import pytest

from common.card import Card, read_card
from common.errors import InputError
from common.files import checksum
from model import build_unet, save_model
from training.callbacks import (
    AveragedWeights,
    BackupAndRestore,
    BestModel,
    StandstillWarning,
    cut_log,
    identify_run,
)
from training.options import parse, settle


@pytest.fixture
def network():
    return build_unet((16, 16, 1), width=2, depth=2)


def test_a_resumed_run_leaves_a_better_model_of_its_own_in_place(network, tmp_path):
    path = tmp_path / "model.keras"
    save_model(network, path, {"run": "x", "validation": {"dice": 0.9}})
    before = path.read_bytes()
    best = BestModel(path, {"run": "x"})
    best.on_epoch_end(7, {"val_dice": 0.89, "val_loss": 0.5})
    best.on_epoch_end(8, {"val_dice": float("nan"), "val_loss": 0.5})
    assert path.read_bytes() == before
    best.set_model(network)
    best.on_epoch_end(9, {"val_dice": 0.91, "val_iou": float("nan"), "val_loss": 0.5})
    assert read_card(path).validation["dice"] == 0.91
    assert not (tmp_path / "model.previous.keras").exists()


def test_a_model_that_a_kill_parted_from_its_card_is_written_anew(network, tmp_path):
    path = tmp_path / "model.keras"
    save_model(network, path, {"run": "x", "validation": {"dice": 0.9}})
    path.write_bytes(path.read_bytes() + b"of another epoch")
    best = BestModel(path, {"run": "x"})
    best.set_model(network)
    best.on_epoch_end(4, {"val_dice": 0.9, "val_loss": 0.5})
    assert read_card(path).sha256 == checksum(path)
    path.unlink()
    assert BestModel(path, {"run": "x"}).best < 0


@pytest.mark.parametrize("share, colour", [(0.0, "black"), (1.0, "white")])
def test_all_black_or_white_predictions_are_explained(capsys, share, colour):
    warning = StandstillWarning("somewhere")
    warning.on_epoch_end(0, {"loss": 0.9, "positive": 0.2, "val_positive": 0.2})
    assert capsys.readouterr().err == ""
    warning.on_epoch_end(1, {"loss": 0.8, "positive": share, "val_positive": share})
    shown = capsys.readouterr().err
    assert f"all {colour}" in shown and "--lr" in shown and "somewhere" in shown


def test_a_flat_loss_is_explained(capsys):
    warning = StandstillWarning("somewhere")
    for epoch in range(4):
        warning.on_epoch_end(epoch, {"loss": 0.7, "positive": 0.2, "val_positive": 0.2})
    assert "stood still" in capsys.readouterr().err


def test_between_epochs_the_network_has_averaged_weights_and_goes_on_from_its_own():
    seen, expected = [], []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), loss="mse")
    model.layers[0].set_weights([np.ones((1, 1))])
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(model.get_weights()[0].item())
    )
    image, mask = np.ones((3, 1)), np.zeros((3, 1))
    averaged = [AveragedWeights(is_resumed=False), note]
    model.fit(image, mask, batch_size=1, epochs=2, verbose=0, callbacks=averaged)
    weight = mean = 1.0
    for step in range(6):
        weight -= 0.1 * 2 * weight  # the slope of weight²
        mean = weight if step == 0 else 0.5 * mean + 0.5 * weight
        expected += [mean] if step in (2, 5) else []
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_a_burst_network_is_not_kept_though_empty_slices_look_right(network, tmp_path):
    best = BestModel(tmp_path / "model.keras", {"run": "x"})
    best.set_model(network)
    best.on_epoch_end(0, {"val_dice": 0.13, "val_loss": float("nan")})
    assert not (tmp_path / "model.keras").exists()
    best.on_epoch_end(1, {"val_dice": 0.13, "val_loss": 0.8})
    assert (tmp_path / "model.keras").exists()


# ---- going on after a kill


def test_a_log_that_counted_from_nought_goes_on_from_one(tmp_path):
    log = tmp_path / "data.csv"
    log.write_text("epoch,loss\n0,0.5\n1,0.25\n2,0.125\n")
    cut_log(log, 2)
    assert log.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"


def toy_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.5), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def backup_of(folder, model, identity=None, fresh=False):
    counted = [keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau()]
    backup = BackupAndRestore(folder, identity or {"width": 4}, counted, fresh)
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


def test_a_backup_that_is_killed_while_it_is_removed_is_not_resumed(tmp_path, monkeypatch):
    backup, _ = backup_of(tmp_path / "b", toy_model())
    backup.on_epoch_end(0)
    monkeypatch.setattr("training.callbacks.shutil.rmtree", lambda *_, **__: None)
    backup.remove()
    assert backup_of(tmp_path / "b", toy_model())[0].epoch == 0


def test_another_command_does_not_go_on_with_an_unfinished_run(tmp_path):
    backup_of(tmp_path / "b", toy_model())[0].on_epoch_end(0)
    with pytest.raises(InputError, match="width 4 is now 8"):
        backup_of(tmp_path / "b", toy_model(), {"width": 8})
    assert backup_of(tmp_path / "b", toy_model(), {"width": 8}, fresh=True)[0].epoch == 0


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_only_options_that_change_the_run_bind_a_resumed_one(schedule):
    def identity(*more):
        return identify_run(settle(parse(["--schedule", schedule, *more]), Card()), [])

    assert identity("--output", "x") == identity()
    assert identity("--width", "8") != identity()
    assert (identity("--epochs", "9") == identity()) == (schedule == "plateau")
