"""Pictures are checked by their pixels: where colour is, and where none may be."""

import cv2
import numpy as np
import pandas as pd
import pytest

import report
from errors import InputError


@pytest.fixture
def square():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def test_overlay_draws_the_outline_inside_and_leaves_the_rest(square):
    picture = np.full(square.shape, 100, np.uint8)
    drawn = report.overlay(picture, square)
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8
    assert (drawn[~square] == 100).all()
    border = square & ~cv2.erode(square.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert (drawn[border] == report.CYAN).all()
    inside = drawn[20, 35].astype(int)
    assert (inside != 100).any() and np.abs(inside - 100).max() < 30, "a light fill"
    assert (picture == 100).all(), "the picture given is left alone"


def test_overlay_outlines_holes_and_may_be_drawn_over_another(square):
    square[15:25, 30:40] = False
    first = report.overlay(np.zeros(square.shape, np.uint8), square, report.ORANGE, fill=0)
    assert (first[14, 35] == report.ORANGE).all()
    assert (first[20, 35] == 0).all() and (first[12, 24] == 0).all()
    second = report.overlay(first, np.zeros_like(square))
    np.testing.assert_array_equal(second, first)


def test_overlay_refuses_a_mask_of_another_size(square):
    with pytest.raises(InputError, match="cannot be drawn"):
        report.overlay(np.zeros((40, 61), np.uint8), square)


def test_montage_holds_every_picture_whole():
    pictures = [np.full((10 + n, 20 - n), 50 + n, np.uint8) for n in range(5)]
    pictures[2] = np.dstack([pictures[2]] * 3)
    sheet = report.montage(pictures, columns=2)
    assert sheet.shape == (3 * 18 + 4, 2 * 24 + 4, 3)
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        assert (sheet == 50 + number).all(axis=2).sum() == height * width
    assert (sheet[0] == report.NIGHT).all()


def test_montage_is_wider_than_high_and_refuses_nothing():
    sheet = report.montage([np.zeros((50, 50), np.uint8)] * 24)
    assert 1.2 < sheet.shape[1] / sheet.shape[0] < 2
    with pytest.raises(InputError, match="at least one"):
        report.montage([])


def log_of(epochs):
    rising = np.linspace(0.2, 0.9, epochs)
    return pd.DataFrame({
        "epoch": range(epochs), "dice": rising, "learning_rate": 1e-4, "loss": 1 - rising,
        "val_dice": rising - 0.05, "val_loss": 1.05 - rising,
    })  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_show_training_and_validation(tmp_path, epochs):
    log_of(epochs).to_csv(tmp_path / "data.csv", index=False)
    report.curves(tmp_path / "data.csv", tmp_path / "curves.png")
    drawn = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1]
    for colour in (report.CYAN, report.ORANGE):  # validation, and its best
        assert (np.abs(drawn.astype(int) - colour).max(axis=2) < 12).sum() > 20
    assert not list(tmp_path.glob(".unfinished*"))


def test_curves_of_figures_that_are_no_numbers_are_still_drawn(tmp_path):
    log = log_of(3)
    log.loc[1:, ["loss", "val_loss", "val_dice", "dice"]] = np.nan
    log.to_csv(tmp_path / "data.csv", index=False)
    report.curves(tmp_path / "data.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("content", ["", "epoch,dice,val_dice\n", "a,b\n1,2\n"])
def test_a_log_without_epochs_is_refused_and_leaves_no_picture(tmp_path, content):
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(InputError, match="data.csv"):
        report.curves(tmp_path / "data.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_ranking_draws_truth_and_prediction(tmp_path, square):
    picture = np.full(square.shape, 90, np.uint8)
    empty = np.zeros_like(square)
    examples = [("worst", picture, square, empty), ("best", picture, square, square)]
    report.ranking(examples, [0.0, 0.97, 0.98], tmp_path / "score.png")
    drawn = cv2.imread(str(tmp_path / "score.png"))[..., ::-1].astype(int)
    third = drawn.shape[1] // 3
    left, middle = drawn[:, :third], drawn[:, third : 2 * third]
    for part, colour in ((left, report.ORANGE), (middle, report.CYAN)):
        assert (np.abs(part - colour).max(axis=2) < 12).sum() > 200
    assert (np.abs(left - report.CYAN).max(axis=2) < 12).sum() < 20, "nothing was predicted there"
