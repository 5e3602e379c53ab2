"""train.py on a toy dataset of bright discs: learning, killing, going on, and plain words."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

import cases
import data
import records
import train
from errors import InputError
from model import build_unet, load_model, save_model

ROOT = Path(train.__file__).parent
TOY = shlex.split("--size 32 --width 4 --depth 2 --batch 8 --lr 1e-2 --loss dice_cross_entropy")


def make_discs(folder, counts=(("Train", 40), ("Val", 10)), size=40):
    """PNG pairs of noisy discs, every fifth without one; names as data.py gives them."""
    rng = np.random.default_rng(0)
    for split, count in counts:
        for number in range(count):
            mask = np.zeros((size, size), np.uint8)
            if number % 5:
                centre = [int(place) for place in rng.integers(14, 26, 2)]
                cv2.circle(mask, centre, int(rng.integers(7, 12)), 255, -1)
            picture = (mask * 0.6 + rng.normal(50, 20, mask.shape)).clip(0, 255)
            name = f"case{split}{number // 5}_axial_{number:03d}.png"
            for kind, array in (("images", picture), ("masks", mask)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / split / kind / name), array.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory):
    """One short run; its output folder."""
    output = tmp_path_factory.mktemp("trained")
    train.main([*TOY, "--data", str(discs), "--output", str(output), "--epochs", "3",
                "--steps", "25", "--schedule", "cosine"])
    return output


def args_for(discs, output, *more):
    args = train.options([*TOY, "--data", str(discs), "--output", str(output), *more])
    args.precision = "float32"
    return args


# ---- what a run leaves behind


def test_validation_dice_rises_and_the_log_has_a_row_an_epoch(trained):
    rows = pd.read_csv(trained / "data.csv")
    assert rows.epoch.tolist() == [0, 1, 2]
    assert rows.val_dice.max() > max(0.6, rows.val_dice[0])
    assert (trained / "curves.png").stat().st_size > 1000
    assert not (trained / "training").exists(), "a finished run must not be gone on with"


def test_saved_weights_are_those_that_were_validated(trained, discs):
    """The saved model scores what its card says."""
    model, card = load_model(trained / "model.keras")
    pairs = data.read_dataset(discs)["Val"]
    images, masks = train.Slices(pairs, 32, len(pairs), None)[0]
    model.compile(metrics=[train.metrics.Dice(name="dice")], loss="mse")
    dice = model.evaluate(images, masks, verbose=0, return_dict=True)["dice"]
    assert dice == pytest.approx(card["validation"]["dice"], abs=1e-3)
    assert card["validation"]["dice"] == pytest.approx(
        pd.read_csv(trained / "data.csv").val_dice.max(), abs=1e-5
    )
    assert "--steps 25" in card["command"] and card["window"] == list(data.WINDOW)


def test_a_blend_is_the_mean_of_both_ends_and_judged_anew(trained, discs, tmp_path):
    words = [*TOY, "--data", str(discs), "--epochs", "1", "--steps", "2", "--lr", "1e-2",
             "--start-from", str(trained / "model.keras")]
    for name, more in (("tuned", []), ("blend", ["--blend"])):
        train.main([*words, "--output", str(tmp_path / name), *more])
    folders = trained, tmp_path / "tuned", tmp_path / "blend"
    (start, _), (tuned, _), (blend, card) = (load_model(f / "model.keras") for f in folders)
    for a, b, mean in zip(*(m.get_weights() for m in (start, tuned, blend)), strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-5)
    assert card["blend"]
    assert card["validation"] != train.card_of(tmp_path / "tuned/model.keras")["validation"]


def test_a_blend_may_be_with_another_network_of_the_same_size(trained, discs, tmp_path):
    words = [*TOY, "--data", str(discs), "--epochs", "1", "--steps", "2", "--lr", "1e-2",
             "--start-from", str(trained / "model.keras")]
    folders = [tmp_path / name for name in ("first", "tuned", "blend")]
    others = [], ["--seed", "1"], ["--seed", "1", "--blend", str(folders[0] / "model.keras")]
    for folder, more in zip(folders, others, strict=True):
        train.main([*words, "--output", str(folder), *more])
    first, tuned, blend = (load_model(f / "model.keras")[0].get_weights() for f in folders)
    for a, b, mean in zip(first, tuned, blend, strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-5)
    wider = build_unet((None, None, 1), 1, width=5)
    save_model(wider, tmp_path / "wider.keras", {"window": [0, 1]})
    with pytest.raises(InputError, match="wider.keras is no network of the size"):
        train.main([*words, "--output", str(tmp_path), "--blend", str(tmp_path / "wider.keras")])
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("start", [[], ["--start-from", "files/model.keras"]])
def test_a_blend_needs_another_model_to_begin_with(start):
    with pytest.raises(InputError, match="--blend"):
        train.options(["--blend", *start])


def test_finetuning_starts_from_given_weights_and_keeps_the_model_in_the_way(
    trained, discs, tmp_path
):
    before = (trained / "model.keras").read_bytes()
    for name in ("model.keras", "model.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train.main([*TOY, "--data", str(discs), "--output", str(tmp_path), "--epochs", "1",
                "--steps", "1", "--lr", "1e-7", "--start-from", str(tmp_path / "model.keras")])
    old, new = train.card_of(trained / "model.keras"), train.card_of(tmp_path / "model.keras")
    assert new["validation"]["dice"] == pytest.approx(old["validation"]["dice"], abs=0.05)
    assert new["start_from"] == old["sha256"]
    assert (tmp_path / "model.previous.keras").read_bytes() == before
    load_model(tmp_path / "model.previous.keras")  # with a card that fits


@pytest.mark.parametrize("options, words", [
    ("--epochs 0", "1 or more"), ("--size 33", "multiple of 4"),
])  # fmt: skip
def test_options_that_make_no_run_are_refused(discs, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        train.main([*TOY, "--data", str(discs), "--output", str(tmp_path), *options.split()])


def test_an_output_that_is_a_file_is_refused(discs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another"):
        train.main([*TOY, "--data", str(discs), "--output", str(tmp_path / "file")])


# ---- input


def test_each_turn_takes_every_pair_once_whatever_the_epochs_length(discs):
    pairs = data.read_dataset(discs)["Train"]
    slices = train.TrainingSlices(pairs, 32, 8, None, steps=3, seed=1)
    seen = []
    for slices.epoch in range(5):  # 5 epochs of 3 batches of 8 are 3 turns of 40
        for index in range(len(slices)):
            for number in slices.numbers(index):
                turn, place = divmod(number, 40)
                seen.append(slices.order(turn)[place])
    assert [sorted(seen[i : i + 40]) for i in (0, 40, 80)] == [list(range(40))] * 3
    assert seen[:40] != seen[40:80]


def test_a_sample_depends_on_seed_and_number_alone(discs):
    pairs = data.read_dataset(discs)["Train"]
    first = train.TrainingSlices(pairs, 32, 8, None, seed=1)
    other = train.TrainingSlices(pairs, 32, 8, None, seed=1)
    first.epoch = other.epoch = 3
    other[0]
    for a, b in zip(first[2], other[2], strict=True):
        np.testing.assert_array_equal(a, b)
    first.epoch = 4
    assert not np.array_equal(first[2][0], other[2][0])


def test_batches_are_normalised_pictures_and_zero_one_masks(discs):
    pairs = data.read_dataset(discs)["Val"]
    for slices in (train.Slices(pairs, 32, 4, None), train.TrainingSlices(pairs, 32, 4, None)):
        images, masks = slices[0]
        assert images.shape == masks.shape == (4, 32, 32, 1)
        assert images.dtype == masks.dtype == np.float32
        assert images.min() >= 0 and 0.3 < images.max() <= 1
        assert set(np.unique(masks)) == {0, 1}
    assert len(train.Slices(pairs, 32, 4, None)[2][0]) == 2, "validation leaves no pair out"


@pytest.mark.parametrize(
    "values, words", [((0, 1, 2, 4), "labels 0 1 2 4"), ((0, 0, 0, 0), "empty")]
)
def test_masks_that_cannot_be_learned_are_refused(tmp_path, values, words):
    make_discs(tmp_path)
    for path in (tmp_path / "Train/masks").iterdir():
        cv2.imwrite(str(path), np.repeat(np.array(values, np.uint8), 400).reshape(40, 40))
    with pytest.raises(InputError, match=words):
        train.main([*TOY, "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_masks_with_soft_edges_are_named(discs, tmp_path, capsys):
    make_discs(tmp_path)
    path = next((tmp_path / "Train/masks").glob("*_001.png"))
    cv2.imwrite(str(path), cv2.blur(cv2.imread(str(path), 0), (3, 3)))
    train.check_masks(data.read_dataset(tmp_path)["Train"], seed=0)
    shown = capsys.readouterr().err
    assert "1 of 40 masks looked at are not 0/1" in shown and path.name in shown


def test_an_unreadable_picture_is_named_in_one_line(tmp_path):
    make_discs(tmp_path)
    path = tmp_path / "Train/images/caseTrain0_axial_003.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=path.name):
        train.main([*TOY, "--data", str(tmp_path), "--output", str(tmp_path / "out"),
                    "--epochs", "1"])


# ---- several channels, labels, dimensions: as the dataset says

TUMOUR = {
    "channels": ["flair", "t1ce"], "normalise": "zscore", "label_values": {"1": 1, "2": 2, "3": 4},
    "labels": {"1": "necrotic core", "2": "oedema", "3": "enhancing tumour"},
    "regions": {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]},
}  # fmt: skip
VOLUMES = TUMOUR | {"dimensions": 3, "grid": [16, 8, 24], "spacing_mm": 1.0}


def pairs_of(folder, shape, **kind):
    """Three pairs in TFRecords, of which the last has no label 3."""
    rng = np.random.default_rng(0)
    samples = [{"image": rng.integers(0, 255, (*shape, 2), np.uint8),
                "mask": rng.integers(0, 4 - (number == 2), shape, np.uint8), "case": "c"}
               for number in range(3)]  # fmt: skip
    path = folder / "x.tfrecord.gz"
    places = records.write_records(path, samples)
    return [data.Pair(path, path, "c", "v", 2, 3, place) for place in places], samples


@pytest.mark.parametrize(("shape", "size"), [((16, 8, 24), [16, 8, 24]), ((32, 32), 32)])
def test_batches_hold_channels_and_labels(tmp_path, shape, size):
    pairs, samples = pairs_of(tmp_path, shape)
    images, masks = train.Slices(pairs, size, 2, None)[0]
    assert images.shape == (2, *shape, 2) and masks.shape == (2, *shape, 1)
    assert images.dtype == masks.dtype == np.float32
    np.testing.assert_allclose(images[1] * 255, samples[1]["image"], atol=1e-4)
    np.testing.assert_array_equal(masks[1, ..., 0], samples[1]["mask"])
    images, masks = train.TrainingSlices(pairs, size, 2, None)[0]
    assert images.shape == (2, *shape, 2) and masks.shape == (2, *shape, 1)
    assert images.min() >= 0 and images.max() <= 1 and set(np.unique(masks)) <= {0, 1, 2, 3}


def test_labels_are_looked_at_one_by_one(tmp_path, capsys):
    pairs, _ = pairs_of(tmp_path, (32, 32))
    train.check_masks(pairs, 0, ["a", "b", "c"])
    lines = capsys.readouterr().out.splitlines()
    assert "100% of 3 masks looked at hold a," in lines[0] and "67% of 3" in lines[2]
    fewer = [replace(pair, labels=2) for pair in pairs]
    with pytest.raises(InputError, match="holds the label 3"):
        train.check_masks(fewer, 0, ["a", "b"])


def test_the_network_is_as_the_dataset_says(tmp_path):
    args = args_for("d", tmp_path)
    assert train.build(args, 10, TUMOUR).input_shape == (None, 32, 32, 2)
    network = train.build(args, 10, VOLUMES)
    assert network.input_shape == (None, 16, 8, 24, 2)
    assert network.output_shape == (None, 16, 8, 24, 4)
    train.compile_model(network, args, 10, VOLUMES)
    batch = np.zeros((1, 16, 8, 24, 2)), np.zeros((1, 16, 8, 24, 1))
    row = network.test_on_batch(*batch, return_dict=True)
    areas = ("necrotic_core", "oedema", "enhancing_tumour", "whole_tumour", "tumour_core")
    kinds = ("dice", "iou", "precision", "recall", "specificity")
    expected = {f"{kind}_{area}" for kind in kinds for area in areas}
    assert set(row) == expected | {*kinds, "accuracy", "loss", "positive"}


def test_a_network_of_two_labels_inside_the_skull_says_that_it_finds_the_brain(tmp_path):
    """tissue and what is bright are learned apart; the mask, and so the card, knows one label."""
    about = {"labels": cases.HEAD, "regions": cases.regions(cases.HEAD), "window": "hu"}
    args = args_for("d", tmp_path)
    assert train.build(args, 10, about).output_shape == (None, 32, 32, 3)
    card = train.card(args, about, data.WINDOW, "run")
    assert card["labels"] == {"1": "brain"} and card["classes"] == ["tissue", "hyperdense"]
    assert cases.areas(card) == {"brain": [1]}


@pytest.mark.parametrize(("words", "about", "said"), [
    ("--label-weights 1 2", TUMOUR, "one for each of necrotic core, oedema, enhancing"),
    ("--label-weights 1", {}, "are for several labels"),
    ("--background", {}, "are for several labels"),
    ("--size 32", VOLUMES, "of 16 x 8 x 24 voxels: leave --size out"),
])  # fmt: skip
def test_options_that_a_dataset_has_no_use_for_are_refused(words, about, said):
    with pytest.raises(InputError, match=said):
        train.settle(train.options(words.split()), about)


def test_weights_that_weigh_nothing_are_refused():
    with pytest.raises(InputError, match="not all 0"):
        train.options(["--label-weights", "0", "0"])


def test_a_dataset_settles_size_and_batch():
    args = train.options([])
    train.settle(args, {})
    assert (args.size, args.batch) == (160, 32)
    args = train.options([])
    train.settle(args, VOLUMES)
    assert (args.size, args.batch) == (None, 1)


def test_the_card_says_all_that_a_prediction_needs():
    args = train.options(["--size", "120"])
    args.precision = "float32"
    card = train.card(args, TUMOUR | {"size": 240, "spacing_mm": 1.0}, None, "run")
    assert card.items() >= TUMOUR.items() and card["window"] is None and card["spacing_mm"] == 2
    assert train.card(args, VOLUMES, None, "run")["spacing_mm"] == 1
    card = train.card(args, {}, data.WINDOW, "run")
    assert card["channels"] == ["ct"] and card["spacing_mm"] is None


# ---- going on after a kill


def test_killed_with_sigkill_a_run_goes_on_from_the_last_finished_epoch(discs, tmp_path, capsys):
    output, state = tmp_path / "out", tmp_path / "out/training/state.json"
    options = [*TOY, "--data", str(discs), "--epochs", "5", "--steps", "12", "--output"]
    process = subprocess.Popen([sys.executable, "train.py", *options, str(output)], cwd=ROOT)
    while process.poll() is None:
        if state.exists() and json.loads(state.read_text())["epoch"] >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, "the toy run ended before it could be killed"
    done = json.loads(state.read_text())["epoch"]
    with open(output / "data.csv", "a") as csv:  # killed while it wrote a row
        csv.write("4,0.1")
    train.main([*options, str(output)])
    assert f"going on after epoch {done}" in capsys.readouterr().out
    train.main([*options, str(tmp_path / "whole")])  # never killed
    rows, expected = pd.read_csv(output / "data.csv"), pd.read_csv(tmp_path / "whole/data.csv")
    assert rows.epoch.tolist() == [0, 1, 2, 3, 4]
    assert not rows.isna().any(axis=None)
    np.testing.assert_allclose(rows.val_dice, expected.val_dice, atol=0.005)
    np.testing.assert_allclose(rows.loss, expected.loss, atol=0.005)
    card = train.card_of(output / "model.keras")
    assert card["validation"]["dice"] == pytest.approx(rows.val_dice.max(), abs=1e-5)
    assert card["epochs"] == rows.val_dice.argmax() + 1
    assert not state.exists() and not list(output.glob("*previous*"))


def test_killed_after_its_last_epoch_a_run_goes_on_there(
    discs, trained, tmp_path, monkeypatch, capsys
):
    def killed(*_):
        raise KeyboardInterrupt

    words = [*TOY, "--data", str(discs), "--output", str(tmp_path), "--epochs", "2", "--steps", "4",
             "--start-from", str(trained / "model.keras"), "--blend"]  # fmt: skip
    monkeypatch.setattr(train, "export_model", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main(words)
    blended = (tmp_path / "model.keras").read_bytes()
    assert train.card_of(tmp_path / "model.keras")["blend"]
    monkeypatch.undo()
    train.main(words)
    assert "epoch 3" not in capsys.readouterr().out
    assert (tmp_path / "model.keras").read_bytes() == blended, "no mean of the mean"
    assert (tmp_path / "model.xml").exists() and not (tmp_path / "training").exists()
    assert not list(tmp_path.glob("*previous*"))


def toy_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.5), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def backup_of(folder, model, command=None, fresh=False):
    counted = [keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau()]
    backup = train.BackupAndRestore(folder, command or {"width": 4}, counted, fresh)
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


def test_a_resumed_run_leaves_a_better_model_of_its_own_in_place(trained):
    card = train.card_of(trained / "model.keras")
    before = (trained / "model.keras").read_bytes()
    best = train.BestModel(trained / "model.keras", {"run": card["run"]})
    best.on_epoch_begin(7)
    best.on_test_end({"dice": card["validation"]["dice"] - 0.01, "loss": 0.5})
    best.on_test_end({"dice": float("nan"), "loss": 0.5})
    assert (trained / "model.keras").read_bytes() == before


# ---- when it does not learn


@pytest.mark.parametrize("share, colour", [(0.0, "black"), (1.0, "white")])
def test_all_black_or_white_predictions_are_explained(capsys, share, colour):
    warning = train.StandstillWarning("somewhere")
    warning.on_epoch_end(0, {"loss": 0.9, "positive": 0.2, "val_positive": 0.2})
    assert capsys.readouterr().err == ""
    warning.on_epoch_end(1, {"loss": 0.8, "positive": share, "val_positive": share})
    shown = capsys.readouterr().err
    assert f"all {colour}" in shown and "--lr" in shown and "somewhere" in shown


def test_a_flat_loss_is_explained(capsys):
    warning = train.StandstillWarning("somewhere")
    for epoch in range(4):
        warning.on_epoch_end(epoch, {"loss": 0.7, "positive": 0.2, "val_positive": 0.2})
    assert "stood still" in capsys.readouterr().err


def test_a_loss_that_bursts_ends_in_one_line_and_leaves_no_backup(discs, tmp_path):
    with pytest.raises(InputError, match="lower --lr"):
        train.main([*TOY, "--data", str(discs), "--output", str(tmp_path), "--epochs", "3",
                    "--steps", "4", "--lr", "1e38"])
    assert not (tmp_path / "training").exists()


def test_a_burst_network_is_not_kept_though_empty_slices_look_right(trained, tmp_path):
    best = train.BestModel(tmp_path / "model.keras", {"run": "x"})
    best.set_model(load_model(trained / "model.keras")[0])
    best.on_epoch_begin(0)
    best.on_test_end({"dice": 0.13, "loss": float("nan")})
    assert not (tmp_path / "model.keras").exists()
    best.on_test_end({"dice": 0.13, "loss": 0.8})
    assert (tmp_path / "model.keras").exists()


def test_mixed_precision_keeps_the_output_and_the_weights_in_float32():
    network = train.build(args_for("d", "o", "--precision", "bfloat16"), 100)
    assert network.output.dtype == "float32"
    half = train.for_training(network, "bfloat16", 100)
    assert half.output.dtype == "float32" and half.layers[1].compute_dtype == "bfloat16"
    np.testing.assert_array_equal(half.get_weights()[0], network.get_weights()[0])


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_only_options_that_change_the_run_bind_a_resumed_one(schedule):
    def command(*more):
        args = train.options(["--schedule", schedule, *more])
        return train.command_of(args, [], [], {})

    assert command("--output", "x") == command()
    assert command("--width", "8") != command()
    assert (command("--epochs", "9") == command()) == (schedule == "plateau")
