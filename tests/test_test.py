"""test.py with a network that calls middle greys brain, so that scores are known."""

import json
import shlex

import cv2
import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import run_test
from sklearn.metrics import f1_score, jaccard_score

import data
import test as scoring
from common.card import HEAD
from common.errors import InputError
from model import save_model
from testing.summary import pooled_dice

GREY = 133  # of a picture's 255: 0.52, as 40 HU in the toy network's window


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """A model file: over one half where a pixel x in 0..1 lies in 0.46..0.67, about."""
    inputs = keras.Input((None, None, 1))
    over = keras.layers.Conv2D(2, 1, activation="relu")
    decide = keras.layers.Conv2D(1, 1, activation="sigmoid")
    network = keras.Model(inputs, decide(over(inputs)))
    over.set_weights([np.ones((1, 1, 1, 2)), np.array([-0.4, -0.6])])
    decide.set_weights([np.array([200.0, -800.0]).reshape(1, 1, 2, 1), np.array([-12.0])])
    path = tmp_path_factory.mktemp("model") / "greys.keras"
    save_model(network, path, {"window": [-1000, 1000], "spacing_mm": 2.0})
    return path


def disc(radius, value=255, size=160):
    return cv2.circle(np.zeros((size, size), np.uint8), (80, 80), radius, value, -1)


EMPTY = np.zeros((160, 160), np.uint8)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def write_pair(folder, name, picture, mask):
    write(folder / f"images/{name}.png", picture)
    write(folder / f"masks/{name}.png", mask)


@pytest.fixture
def slices(tmp_path):
    """Test split of two cases: two slices half right, one right, two empty, one of them wrong."""
    folder = tmp_path / "set"
    for name, picture, mask in (
        ("a_axial_000", disc(40, GREY), disc(60)),
        ("a_axial_001", disc(60, GREY), disc(60)),
        ("a_coronal_000", disc(60, GREY), disc(40)),
        ("b_axial_000", EMPTY, EMPTY),
        ("b_axial_001", disc(20, GREY), EMPTY),
    ):
        write_pair(folder / "Test", name, picture, mask)
    write_pair(folder / "Train", "t_axial_000", disc(40), disc(40))
    return folder


def test_what_is_bright_inside_the_skull_counts_as_brain(slices, greys, tmp_path):
    """In the slices of synthetic.py, whose masks hold 1 and 2: as their brain alone is scored."""
    about = {"labels": HEAD, "channels": ["ct"], "window": [-200, 800]}
    (slices / "dataset.json").write_text(json.dumps(about))
    rows = []
    for path in sorted((slices / "Test/masks").glob("a_axial*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255
        mask[80:] *= 2
        cv2.imwrite(str(path), mask)
        kind = path.stem.split("_")
        where = f"Test/images/{path.name},Test/masks/{path.name}"
        rows.append(f"Test,a,a,{kind[1]},{int(kind[2])},{where}")
    header = "split,case,scan,view,index,image,mask"
    (slices / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    code, table = run_test(slices, greys, tmp_path)
    assert code == 0 and len(table) == 2
    truth, prediction = disc(60).ravel() > 0, disc(40).ravel() > 0
    assert table.F1.min() == pytest.approx(f1_score(truth, prediction), abs=1e-5)
    assert table.F1.max() > 0.99


def test_slices_are_scored_and_written(slices, greys, tmp_path, capsys):
    code, table = run_test(slices, greys, tmp_path)
    assert code == 0
    assert list(table)[:6] == ["Image", "Accuracy", "F1", "Jaccard", "Recall", "Precision"]
    row = table.set_index("Image").loc["a_axial_000"]
    truth, prediction = disc(60).ravel() > 0, disc(40).ravel() > 0
    assert row.F1 == row.Dice == pytest.approx(f1_score(truth, prediction), abs=1e-5)
    assert row.Jaccard == pytest.approx(jaccard_score(truth, prediction), abs=1e-5)
    folder = tmp_path / "results/a_axial_000_prediction"
    for kind, expected in (
        ("original_image", disc(40, GREY)),
        ("mask", disc(60)),
        ("predicted_mask", disc(40)),
    ):
        written = cv2.imread(str(folder / f"a_axial_000_{kind}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, expected)
    assert cv2.imread(str(tmp_path / "score.png")) is not None


def test_brain_slices_empty_slices_and_cases_are_told_apart(slices, greys, tmp_path, capsys):
    table = run_test(slices, greys, tmp_path)[1]
    shown = capsys.readouterr().out
    assert "slices with a brain: 3" in shown
    assert f"F1 {table.F1[table.Brain > 0].mean():.4f}" in shown
    assert "slices without a brain: 2, with false positives: 1 (50.0%)" in shown
    small, large = np.count_nonzero(disc(40)), np.count_nonzero(disc(60))
    pooled = 2 * (small + large) / (small + 3 * large)
    dice = pooled_dice(table)
    assert dice["a", "axial"] == pytest.approx(pooled)
    assert dice["b", "axial"] == 0, "what is painted on an empty volume counts"
    assert f"3, Dice mean {dice.mean():.4f}, worst 0.0000 (b axial)" in shown


def test_all_right_on_an_empty_case_is_one():
    rows = {"Case": ["x"], "View": ["axial"], "Brain": [0], "Predicted": [0], "Both": [0]}
    assert pooled_dice(pd.DataFrame(rows)).tolist() == [1.0]


def test_two_inputs_of_one_name_keep_their_results(greys, tmp_path):
    for part, radius in (("one", 40), ("two", 60)):
        write_pair(tmp_path / part, "same", disc(radius, GREY), disc(radius))
    for part in ("one", "two", "one"):
        run_test(tmp_path / part, greys, tmp_path)
    for number, radius in (("", 40), ("_2", 60)):
        path = tmp_path / f"results/same_prediction{number}/same_predicted_mask.png"
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), disc(radius))
    assert len(list((tmp_path / "results").iterdir())) == 2


MM_2 = np.diag([2.0, 2.0, 2.0, 1])


def ball(radius, size=56):
    """A boolean ball (size, size, size), radius in voxels."""
    return ((np.indices((size,) * 3) - (size - 1) / 2) ** 2).sum(axis=0) < radius**2


def write_scan(folder, name, radius, affine=MM_2, hu_zero=0):
    """A brain of some radius in a skull of 24 voxels, and the mask of a brain of 20."""
    hu = np.select([ball(radius), ball(24)], [40, 1000], -1000).astype(np.int16)
    folder.mkdir(exist_ok=True)
    for ending, array in (("", hu + np.int16(hu_zero)), ("_mask", ball(20).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}{ending}.nii.gz")


def test_scans_are_scored_in_mm(greys, tmp_path, capsys):
    """Brains in a skull of 24 voxels of 2 mm: as large as the mask, smaller, and none."""
    for name, radius in (("x", 20), ("y", 18), ("z", 0)):
        write_scan(tmp_path, name, radius)
    code, table = run_test(tmp_path, greys, tmp_path)
    table = table.set_index("Image")
    assert code == 0 and table.Dice["x"] > 0.9
    assert table.HD95["y"] == pytest.approx(4, abs=2) and table.NSD["x"] > table.NSD["y"]
    assert np.isnan(table.HD95["z"]) and table.NSD["z"] == table.Dice["z"] == 0
    assert table.mL["x"] == pytest.approx(ball(20).sum() * 8e-3, rel=0.15)
    assert "HD95 not a number: 1" in capsys.readouterr().out
    written = nib.load(tmp_path / "results/x_prediction/x_predicted_mask.nii.gz")
    assert written.shape == (56, 56, 56)
    assert json.loads((tmp_path / "results/z_prediction/z.json").read_text())["scores"]["NSD"] == 0


def test_a_scan_is_scored_as_pred_predicts_it(greys, tmp_path):
    """Tilted, so that a step from slice to slice is longer than a slice is thick; and stored
    without its intercept, which pred.py puts in its place."""
    affine = MM_2.copy()
    affine[1, 2] = 2 * np.tan(np.radians(18.5))
    write_scan(tmp_path, "x", 20, affine, hu_zero=1024)
    row = run_test(tmp_path, greys, tmp_path)[1].iloc[0]
    assert row.Dice > 0.9
    mask = np.asarray(nib.load(tmp_path / "results/x_prediction/x_predicted_mask.nii.gz").dataobj)
    assert row.mL == pytest.approx(mask.sum() * 8e-3, rel=1e-5)


def test_scans_with_pictures_beside_them_are_scored(greys, tmp_path):
    write_scan(tmp_path, "x", 20)
    write(tmp_path / "x_prediction/x_overlay.png", disc(40))
    assert run_test(tmp_path, greys, tmp_path)[1].Kind.tolist() == ["scan"]


def test_a_dataset_scores_alike_in_either_format(greys, tmp_path):
    for name, radius in (("x", 20), ("y", 18), ("z", 16)):
        write_scan(tmp_path, name, radius)
    tables = []
    for form in ("png", "tfrecord"):
        options = shlex.split(
            f"--size 64 --slices 3 --views axial --workers 1 --trust-masks --format {form}"
        )
        data.main([str(tmp_path), "--out", str(tmp_path / form), *options])
        tables.append(run_test(tmp_path / form, greys, tmp_path)[1].drop(columns="File"))
    assert len(tables[0]) == 3
    pd.testing.assert_frame_equal(*tables)


def test_a_bad_pair_does_not_stop_the_others_and_the_exit_code_tells(
    slices, greys, tmp_path, capsys
):
    (slices / "Test/images/a_axial_001.png").write_bytes(b"")
    write(slices / "Test/masks/b_axial_000.png", disc(40, size=99))
    code, table = run_test(slices, greys, tmp_path)
    assert code == 2 and len(table) == 3
    shown = capsys.readouterr().err
    assert "a_axial_001.png is empty" in shown and "b_axial_000.png" in shown


def test_a_mask_of_labels_is_refused(slices, greys, tmp_path, capsys):
    write(slices / "Test/masks/a_axial_000.png", disc(60, 2) - disc(20, 1))
    assert run_test(slices, greys, tmp_path)[0] == 2
    assert "holds the values 0 (55.9%), 1 (4.9%), 2 (39.2%)" in capsys.readouterr().err


def test_a_mended_or_doubtful_mask_is_said(slices, greys, tmp_path, capsys):
    soft = cv2.GaussianBlur(disc(60), (0, 0), 1.5)
    write(slices / "Test/masks/a_axial_000.png", soft)
    code, table = run_test(slices, greys, tmp_path)
    brain = table.set_index("Image").Brain["a_axial_000"]
    assert code == 0 and abs(brain - np.count_nonzero(disc(60))) < 20
    said = "a_axial_000.png: its edges are softened"
    assert said in capsys.readouterr().err
    about = json.loads((tmp_path / "results/a_axial_000_prediction/a_axial_000.json").read_text())
    assert said in about["notes"][0]
    write_scan(tmp_path / "scans", "x", 20)
    nib.save(nib.Nifti1Image(0 * ball(20).astype(np.uint8), MM_2), tmp_path / "scans/x_mask.nii.gz")
    assert run_test(tmp_path / "scans", greys, tmp_path)[1].Dice[0] == 0
    assert "x_mask.nii.gz is empty" in capsys.readouterr().err


def test_nothing_to_score_is_said_in_one_line(slices, tmp_path):
    (tmp_path / "empty").mkdir()
    (slices / "Test").rename(tmp_path / "elsewhere")
    for folder, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "no mask"),
        (slices, "Test split of .* is empty"),
    ):
        with pytest.raises(InputError, match=message):
            scoring.main([str(folder)])
