"""test.py with a network that calls everything brighter than half brain, so scores are known."""

import json

import cv2
import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, jaccard_score

import test as scoring
from errors import InputError
from model import save_model


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A model file: sigmoid(200 (x - 0.5)) at every pixel x in 0..1."""
    inputs = keras.Input((None, None, 1))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid")
    network = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.full((1, 1, 1, 1), 200.0), np.array([-100.0])])
    path = tmp_path_factory.mktemp("model") / "bright.keras"
    save_model(network, path, {"window": [0, 1000], "spacing_mm": 2.0})
    return path


def disc(radius, centre=80, size=160):
    return cv2.circle(np.zeros((size, size), np.uint8), (centre, centre), radius, 255, -1)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


@pytest.fixture
def slices(tmp_path):
    """Test split of two cases: two slices half right, one right, two empty, one of them wrong."""
    folder = tmp_path / "set"
    for name, picture, mask in (
        ("a_axial_000", disc(40), disc(60)),
        ("a_axial_001", disc(60), disc(60)),
        ("a_coronal_000", disc(60), disc(40)),
        ("b_axial_000", disc(0) * 0, disc(0) * 0),
        ("b_axial_001", disc(20), disc(0) * 0),
    ):
        write(folder / f"Test/images/{name}.png", picture)
        write(folder / f"Test/masks/{name}.png", mask)
    write(folder / "Train/images/t_axial_000.png", disc(40))
    write(folder / "Train/masks/t_axial_000.png", disc(40))
    return folder


def score(folder, model, tmp_path, *more):
    code = scoring.main([str(folder), *map(str, more), "--model", str(model), "--out",
                         str(tmp_path / "results"), "--scores", str(tmp_path / "score.csv")])
    return code, pd.read_csv(tmp_path / "score.csv", dtype={"Image": str})


def test_slices_are_scored_and_written(slices, bright, tmp_path, capsys):
    code, table = score(slices, bright, tmp_path)
    assert code == 0
    assert list(table)[:6] == ["Image", "Accuracy", "F1", "Jaccard", "Recall", "Precision"]
    row = table.set_index("Image").loc["a_axial_000"]
    truth, prediction = disc(60).ravel() > 0, disc(40).ravel() > 0
    assert row.F1 == row.Dice == pytest.approx(f1_score(truth, prediction), abs=1e-5)
    assert row.Jaccard == pytest.approx(jaccard_score(truth, prediction), abs=1e-5)
    folder = tmp_path / "results/a_axial_000_prediction"
    for kind, expected in (
        ("original_image", disc(40)), ("mask", disc(60)), ("predicted_mask", disc(40))
    ):
        written = cv2.imread(str(folder / f"a_axial_000_{kind}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, expected)
    assert cv2.imread(str(tmp_path / "score.png")) is not None


def test_brain_slices_empty_slices_and_cases_are_told_apart(slices, bright, tmp_path, capsys):
    table = score(slices, bright, tmp_path)[1]
    shown = capsys.readouterr().out
    assert "slices with a brain: 3" in shown
    assert f"F1 {table.F1[table.Brain > 0].mean():.4f}" in shown
    assert "slices without a brain: 2, with false positives: 1 (50.0%)" in shown
    small, large = np.count_nonzero(disc(40)), np.count_nonzero(disc(60))
    pooled = 2 * (small + large) / (small + 3 * large)
    dice = scoring.pooled_dice(table)
    assert dice["a", "axial"] == pytest.approx(pooled)
    assert dice["b", "axial"] == 0, "what is painted on an empty volume counts"
    assert f"3, Dice mean {dice.mean():.4f}, worst 0.0000 (b axial)" in shown


def test_all_right_on_an_empty_case_is_one():
    rows = {"Case": ["x"], "View": ["axial"], "Brain": [0], "Predicted": [0], "Both": [0]}
    assert scoring.pooled_dice(pd.DataFrame(rows)).tolist() == [1.0]


def test_two_inputs_of_one_name_keep_their_results(bright, tmp_path):
    for part, radius in (("one", 40), ("two", 60)):
        write(tmp_path / part / "images/same.png", disc(radius))
        write(tmp_path / part / "masks/same.png", disc(radius))
    for part in ("one", "two", "one"):
        score(tmp_path / part, bright, tmp_path)
    for number, radius in (("", 40), ("_2", 60)):
        path = tmp_path / f"results/same_prediction{number}/same_predicted_mask.png"
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), disc(radius))
    assert len(list((tmp_path / "results").iterdir())) == 2


def sphere(radius, size=48):
    grid = np.indices((size,) * 3) - (size - 1) / 2
    return (grid**2).sum(axis=0) < radius**2


def test_scans_are_scored_in_mm(bright, tmp_path, capsys):
    affine = np.diag([2.0, 2.0, 2.0, 1])
    for name, seen, true in (("x", 18, 18), ("y", 16, 18), ("z", 0, 18)):
        hu = np.where(sphere(seen), 1000, -1000).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, affine), tmp_path / f"{name}.nii.gz")
        mask = sphere(true).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, affine), tmp_path / f"{name}_mask.nii.gz")
    code, table = score(tmp_path, bright, tmp_path)
    table = table.set_index("Image")
    assert code == 0 and table.Dice["x"] > 0.97
    assert table.HD95["y"] == pytest.approx(4, abs=1) and table.NSD["x"] > table.NSD["y"]
    assert np.isnan(table.HD95["z"]) and table.NSD["z"] == table.Dice["z"] == 0
    assert table.mL["x"] == pytest.approx(sphere(18).sum() * 8e-3, rel=0.05)
    assert "HD95 not a number: 1" in capsys.readouterr().out
    written = nib.load(tmp_path / "results/x_prediction/x_predicted_mask.nii.gz")
    assert written.shape == (48, 48, 48)
    assert json.loads((tmp_path / "results/z_prediction/z.json").read_text())["scores"]["NSD"] == 0


def test_a_bad_pair_does_not_stop_the_others_and_the_exit_code_tells(
    slices, bright, tmp_path, capsys
):
    (slices / "Test/images/a_axial_001.png").write_bytes(b"")
    write(slices / "Test/masks/b_axial_000.png", disc(4, size=99))
    code, table = score(slices, bright, tmp_path)
    assert code == 2 and len(table) == 3
    shown = capsys.readouterr().err
    assert "a_axial_001.png is empty" in shown and "b_axial_000.png" in shown


def test_nothing_to_score_is_said_in_one_line(slices, tmp_path):
    (tmp_path / "empty").mkdir()
    (slices / "Test").rename(tmp_path / "elsewhere")
    for folder, words in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "no mask"),
        (slices, "Test split of .* is empty"),
    ):
        with pytest.raises(InputError, match=words):
            scoring.main([str(folder)])
