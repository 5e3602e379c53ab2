"""train.py on a toy dataset of bright discs: learning, killing, going on, and plain words."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from make import make_discs

import train
from common.card import HEAD, Card, find_regions, read_card, to_card
from common.errors import InputError
from common.files import read_json
from dataset.read import read_dataset
from metrics import LOSSES, Confusion
from model import build_unet, load_model, save_model
from scan.views import WINDOW
from train import build_network, compile_model, compose_card, main, prepare_for_training
from training.batches import Slices, split_by_case
from training.callbacks import validate
from training.options import parse, settle

pytestmark = pytest.mark.usefixtures("quick_export")
ROOT = Path(train.__file__).parent
TOY = shlex.split("--size 32 --width 4 --depth 1 --batch 8 --lr 1e-2 --loss dice_cross_entropy")
WHOLE = "--epochs 4 --steps 20 --schedule cosine"  # the run of `trained`


def learn(folder, output, options=""):
    """Run train.py at toy size."""
    main([*TOY, "--data", str(folder), "--output", str(output), *shlex.split(options)])


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory):
    """One short run; its output folder."""
    output = tmp_path_factory.mktemp("trained")
    learn(discs, output, WHOLE)
    return output


TUNING = "--epochs 1 --steps 2 --lr 1e-3 --start-from"


@pytest.fixture(scope="module")
def tuned(discs, trained, tmp_path_factory):
    """A shorter run that begins with `trained`, in a folder that holds the same model already."""
    output = tmp_path_factory.mktemp("tuned")
    for name in ("model.keras", "model.json"):
        (output / name).write_bytes((trained / name).read_bytes())
    learn(discs, output, f"{TUNING} {trained}/model.keras")
    return output


def options_for(card, options=""):
    return settle(parse(["--width", "4", "--depth", "2", *shlex.split(options)]), card)


# ---- what a run leaves behind


def test_validation_dice_rises_and_the_log_has_a_row_an_epoch(trained):
    rows = pd.read_csv(trained / "data.csv")
    assert rows.epoch.tolist() == [1, 2, 3, 4]
    assert rows.val_dice.max() > max(0.6, rows.val_dice[0])
    assert (trained / "curves.png").stat().st_size > 1000
    assert not (trained / "training").exists(), "a finished run must not be gone on with"


def test_saved_weights_are_those_that_were_validated(trained, discs):
    """The saved model scores what its card says."""
    model, card = load_model(trained / "model.keras")
    pairs = read_dataset(discs)["Val"]
    model.compile(loss=LOSSES["dice"], metrics=[Confusion(card.areas)])
    dice = validate(model, split_by_case(Slices(pairs, 32, 8, None)))["dice"]
    best = card.validation["dice"]
    assert dice == pytest.approx(best, abs=1e-3)
    assert best == pytest.approx(pd.read_csv(trained / "data.csv").val_dice.max(), abs=1e-5)
    said = read_json(trained / "model.json")
    assert WHOLE in said["command"] and said["window"] == list(WINDOW)


def test_finetuning_starts_from_given_weights_and_keeps_the_model_in_the_way(trained, tuned):
    old, new = (read_json(folder / "model.json") for folder in (trained, tuned))
    assert new["validation"]["dice"] == pytest.approx(old["validation"]["dice"], abs=0.05)
    assert new["start_from"] == old["sha256"]
    kept = tuned / "model.previous.keras"
    assert kept.read_bytes() == (trained / "model.keras").read_bytes()
    load_model(kept)  # with a card that fits


def weights_of(*folders):
    return zip(*(load_model(f / "model.keras")[0].get_weights() for f in folders), strict=True)


def test_a_blend_may_be_with_another_network_of_the_same_size(trained, tuned, discs, tmp_path):
    other = tmp_path / "other"
    save_model(build_unet((None, None, 1), 1, 4, 1), other / "model.keras", {"window": [0, 1]})
    options = f"{TUNING} {trained}/model.keras --blend"
    learn(discs, tmp_path / "blend", f"{options} {other}/model.keras")
    for a, b, mean in weights_of(other, tuned, tmp_path / "blend"):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-5)
    save_model(build_unet((None, None, 1), 1, 5, 1), tmp_path / "wider.keras", {"window": [0, 1]})
    with pytest.raises(InputError, match="wider.keras is not a network of the size"):
        learn(discs, tmp_path, f"{options} {tmp_path}/wider.keras")
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("start", [[], ["--start-from", "files/model.keras"]])
def test_a_blend_needs_another_model_to_begin_with(start):
    with pytest.raises(InputError, match="--blend"):
        parse(["--blend", *start])


@pytest.mark.parametrize(
    "options, message", [("--epochs 0", "1 or more"), ("--size 33", "multiple of 2")]
)
def test_options_that_make_no_run_are_refused(discs, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        learn(discs, tmp_path, options)


def test_an_output_that_is_a_file_is_refused(discs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another"):
        learn(discs, tmp_path / "file")


# ---- input


@pytest.mark.parametrize(
    "values, message", [((0, 1, 2, 4), "holds the values 0 .*, 4 "), ((0, 0, 0, 0), "empty")]
)
def test_masks_that_cannot_be_learned_are_refused(tmp_path, values, message):
    make_discs(tmp_path)
    for path in (tmp_path / "Train/masks").iterdir():
        cv2.imwrite(str(path), np.repeat(np.array(values, np.uint8), 400).reshape(40, 40))
    with pytest.raises(InputError, match=message):
        learn(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_picture_is_named_in_one_line(tmp_path):
    make_discs(tmp_path)
    path = tmp_path / "Train/images/caseTrain0_axial_003.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=path.name):
        learn(tmp_path, tmp_path / "out", "--epochs 1")


# ---- several channels, labels, dimensions: as the dataset says

TUMOUR = {
    "channels": ["flair", "t1ce"],
    "normalise": "zscore",
    "label_values": {"1": 1, "2": 2, "3": 4},
    "labels": {"1": "necrotic core", "2": "oedema", "3": "enhancing tumour"},
    "regions": {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]},
}
VOLUMES = TUMOUR | {"dimensions": 3, "grid": [16, 8, 24], "spacing_mm": 1.0}


def test_the_network_is_as_the_dataset_says():
    slices, volumes = to_card(TUMOUR), to_card(VOLUMES)
    options = options_for(slices, "--size 32")
    assert build_network(options, 10, slices).input_shape == (None, 32, 32, 2)
    options = options_for(volumes)
    network = build_network(options, 10, volumes)
    assert network.input_shape == (None, 16, 8, 24, 2)
    assert network.output_shape == (None, 16, 8, 24, 4)
    compile_model(network, options, 10, volumes)
    batch = np.zeros((1, 16, 8, 24, 2)), np.zeros((1, 16, 8, 24, 1))
    row = network.test_on_batch(*batch, return_dict=True)
    areas = ("necrotic_core", "oedema", "enhancing_tumour", "whole_tumour", "tumour_core")
    kinds = ("dice", "iou", "precision", "recall", "specificity")
    expected = {f"{kind}_{area}" for kind in kinds for area in areas}
    assert set(row) == expected | {*kinds, "accuracy", "loss", "positive"}


def said_of(card, options=""):
    """The JSON of the card of a model that learns from a dataset with this `card`."""
    return json.loads(json.dumps(compose_card(options_for(card, options), card, "run")))


def test_a_network_of_two_labels_inside_the_skull_says_that_it_finds_the_brain():
    """Tissue and what is bright are learned apart; the mask, and so the card, knows one label."""
    card = Card(labels=HEAD, regions=find_regions(HEAD), window="hu")
    network = build_network(options_for(card, "--size 32"), 10, card)
    assert network.output_shape == (None, 32, 32, 3)
    said = said_of(card)
    assert said["labels"] == {"1": "brain"} and said["classes"] == ["tissue", "hyperdense"]
    assert to_card(said).areas == {"brain": [1]}


def test_the_card_says_all_that_a_prediction_needs():
    said = said_of(to_card(TUMOUR | {"size": 240, "spacing_mm": 1.0}), "--size 120")
    assert said.items() >= TUMOUR.items() and said["window"] is None and said["spacing_mm"] == 2
    assert said_of(to_card(VOLUMES))["spacing_mm"] == 1
    said = said_of(Card())
    assert said["channels"] == ["ct"] and said["spacing_mm"] is None
    assert said["window"] == list(WINDOW) and "normalise" not in said


# ---- going on after a kill


def test_killed_with_sigkill_a_run_goes_on_from_the_last_finished_epoch(
    discs, trained, tmp_path, capsys
):
    output, state = tmp_path / "out", tmp_path / "out/training/state.json"
    options = [*TOY, *shlex.split(WHOLE), "--data", str(discs), "--output", str(output)]
    process = subprocess.Popen([sys.executable, "train.py", *options], cwd=ROOT)
    while process.poll() is None:
        if state.exists() and json.loads(state.read_text())["epoch"] >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, "the toy run ended before it could be killed"
    done = json.loads(state.read_text())["epoch"]
    with open(output / "data.csv", "a") as csv:  # killed while it wrote a row
        csv.write("5,0.1")
    main(options)
    assert f"going on after epoch {done}" in capsys.readouterr().out
    rows = pd.read_csv(output / "data.csv")
    expected = pd.read_csv(trained / "data.csv")  # never killed
    assert rows.epoch.tolist() == expected.epoch.tolist()
    assert not rows.isna().any(axis=None)
    for figure in ("val_dice", "loss", "learning_rate"):
        np.testing.assert_allclose(rows[figure], expected[figure], atol=0.005)
    card = read_json(output / "model.json")
    assert card["validation"]["dice"] == pytest.approx(rows.val_dice.max(), abs=1e-5)
    assert card["epochs"] == rows.val_dice.argmax() + 1
    assert not state.exists() and not list(output.glob("*previous*"))


def test_onnx_is_exported_if_asked_for_and_refused_before_the_training(
    discs, tmp_path, monkeypatch
):
    made, validation = [], Namespace(spread=lambda count: None)
    monkeypatch.setattr(train, "export_model", lambda path, samples: made.append("openvino"))
    monkeypatch.setattr(train, "export_onnx", lambda path: made.append("onnx"))
    for onnx in (False, True):
        train.export_best(Namespace(onnx=onnx), tmp_path / "m.keras", validation, Card())
    assert made == ["openvino", "openvino", "onnx"]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "tf2onnx" else find(n))
    with pytest.raises(InputError, match="pip install -r requirements-onnx.txt"):
        learn(discs, tmp_path / "out", "--onnx")
    assert not list(tmp_path.rglob("*.keras"))


def test_killed_after_its_last_epoch_a_run_goes_on_there_and_blends_once(
    discs, trained, tuned, tmp_path, monkeypatch, capsys
):
    """The blend is the mean of what the run began with and its best epoch, judged anew."""

    def killed(*_):
        raise KeyboardInterrupt

    options = f"{TUNING} {trained}/model.keras --blend"
    monkeypatch.setattr(train, "export_model", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(discs, tmp_path, options)
    blended = (tmp_path / "model.keras").read_bytes()
    monkeypatch.undo()
    capsys.readouterr()
    learn(discs, tmp_path, options)
    assert "slices/s in training" not in capsys.readouterr().out
    assert (tmp_path / "model.keras").read_bytes() == blended, "no mean of the mean"
    for a, b, mean in weights_of(trained, tuned, tmp_path):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-5)
    card = read_card(tmp_path / "model.keras")
    assert card.blend and card.validation != read_card(tuned / "model.keras").validation
    assert (tmp_path / "model.xml").exists() and not (tmp_path / "training").exists()
    assert not list(tmp_path.glob("*previous*"))


# ---- when it does not learn


def test_a_loss_that_bursts_ends_in_one_line_and_leaves_no_backup(discs, tmp_path):
    with pytest.raises(InputError, match="lower --lr"):
        learn(discs, tmp_path, "--epochs 2 --steps 4 --lr 1e38")
    assert not (tmp_path / "training").exists()


def test_a_loss_that_bursts_in_the_last_step_is_told_as_well(discs, tmp_path):
    with pytest.raises(InputError, match=r"has burst \(no model was written\): .* lower --lr"):
        learn(discs, tmp_path, "--epochs 1 --steps 1 --lr 1e38")
    assert not (tmp_path / "training").exists()


def test_mixed_precision_keeps_the_output_and_the_weights_in_float32():
    card = Card()
    network = build_network(options_for(card, "--precision bfloat16"), 100, card)
    assert network.output.dtype == "float32"
    half = prepare_for_training(network, "bfloat16", 100)
    assert half.output.dtype == "float32" and half.layers[1].compute_dtype == "bfloat16"
    np.testing.assert_array_equal(half.get_weights()[0], network.get_weights()[0])
