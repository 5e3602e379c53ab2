"""The best network so far, and warnings in plain words."""

import pytest

from common.card import read_card
from model import build_unet, save_model
from training.callbacks import BestModel, StandstillWarning


@pytest.fixture
def network():
    return build_unet((16, 16, 1), width=2, depth=2)


def test_a_resumed_run_leaves_a_better_model_of_its_own_in_place(network, tmp_path):
    path = tmp_path / "model.keras"
    save_model(network, path, {"run": "x", "validation": {"dice": 0.9}})
    before = path.read_bytes()
    best = BestModel(path, {"run": "x"})
    best.on_epoch_begin(7)
    best.on_test_end({"dice": 0.89, "loss": 0.5})
    best.on_test_end({"dice": float("nan"), "loss": 0.5})
    assert path.read_bytes() == before
    best.set_model(network)
    best.on_test_end({"dice": 0.91, "loss": 0.5})
    assert read_card(path).validation["dice"] == 0.91
    assert not (tmp_path / "model.previous.keras").exists()


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


def test_a_burst_network_is_not_kept_though_empty_slices_look_right(network, tmp_path):
    best = BestModel(tmp_path / "model.keras", {"run": "x"})
    best.set_model(network)
    best.on_epoch_begin(0)
    best.on_test_end({"dice": 0.13, "loss": float("nan")})
    assert not (tmp_path / "model.keras").exists()
    best.on_test_end({"dice": 0.13, "loss": 0.8})
    assert (tmp_path / "model.keras").exists()
