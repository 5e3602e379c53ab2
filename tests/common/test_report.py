"""Pictures are checked by their pixels: where colour is, and where none may be."""

import cv2
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.report import (
    CYAN,
    LABEL_COLOURS,
    LEAST,
    NIGHT,
    ORANGE,
    PALE,
    add_legend,
    draw_labels,
    draw_mask,
    group_figures,
    label_colour,
    make_sheet,
    mark_slice,
    paint_labels,
    plot_boxes,
    plot_curves,
    plot_ranking,
)


@pytest.fixture
def square():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def test_overlay_draws_the_outline_inside_and_leaves_the_rest(square):
    picture = np.full(square.shape, 100, np.uint8)
    drawn = draw_mask(picture, square)
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8
    assert (drawn[~square] == 100).all()
    border = square & ~cv2.erode(square.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert (drawn[border] == CYAN).all()
    inside = drawn[20, 35].astype(int)
    assert (inside != 100).any() and np.abs(inside - 100).max() < 30, "a light fill"
    assert (picture == 100).all(), "the picture given is left alone"


def test_overlay_outlines_holes_and_may_be_drawn_over_another(square):
    square[15:25, 30:40] = False
    first = draw_mask(np.zeros(square.shape, np.uint8), square, ORANGE, fill=0)
    assert (first[14, 35] == ORANGE).all()
    assert (first[20, 35] == 0).all() and (first[12, 24] == 0).all()
    second = draw_mask(first, np.zeros_like(square))
    np.testing.assert_array_equal(second, first)


def test_overlay_refuses_a_mask_of_another_size(square):
    with pytest.raises(InputError, match="cannot be drawn"):
        draw_mask(np.zeros((40, 61), np.uint8), square)


def test_labels_have_colours_of_their_own():
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 10:50], labels[15:25, 20:30] = 2, 1
    drawn = draw_labels(np.full(labels.shape, 100, np.uint8), labels)
    assert (drawn[labels == 0] == 100).all()
    assert (drawn[5, 30] == label_colour(2)).all()
    assert (drawn[15, 25] == label_colour(1)).all()
    assert len({label_colour(label) for label in range(1, 7)}) == 6
    assert label_colour(7) == label_colour(1)
    painted = paint_labels(labels)
    for label, colour in ((0, (0, 0, 0)), (1, LABEL_COLOURS[0]), (2, LABEL_COLOURS[1])):
        assert (painted[labels == label] == colour).all()
    empty = draw_labels(np.full((4, 4), 9, np.uint8), np.zeros((4, 4), np.uint8))
    assert empty.shape == (4, 4, 3) and (empty == 9).all()


def test_a_legend_names_labels_in_their_colours():
    sheet = np.zeros((30, 300, 3), np.uint8)
    named = add_legend(sheet, {1: "necrotic core: 3.2 mL", 2: "oedema: 40.0 mL"})
    assert named.shape == (30 + 50, 300, 3)
    for label in (1, 2):
        near = np.abs(named.astype(int) - label_colour(label)).max(axis=2) < 12
        assert near.sum() > 20, label


def changed(marked, other):
    return np.argwhere((marked != other).any(axis=2))


def test_a_slice_has_its_number_in_the_corner_and_its_sides_where_they_are():
    for grey in (0, 128, 255):  # legible on air, brain and bone
        picture = np.full((200, 120, 3), grey, np.uint8)
        marked = mark_slice(picture, 139, "RL")
        assert marked.shape == picture.shape and (picture == grey).all()
        light, dark = (np.abs(marked.astype(int) - c).max(axis=2) < 9 for c in (PALE, NIGHT))
        assert light.sum() > 20 and dark.sum() > 20, grey
    drawn = changed(marked, picture)
    assert (drawn[drawn[:, 0] < 50].max(axis=0) < (16, 40)).all(), "the number, in the corner"
    right = changed(marked, mark_slice(picture, 139, ["R", ""]))
    assert len(right) and right[:, 1].min() > 100 and np.ptp(right[:, 0]) < 16
    left = changed(marked, mark_slice(picture, 139, ["", "L"]))
    assert len(left) and left[:, 1].max() < 20 and 80 < left[:, 0].min() < 110


def test_a_slice_too_thin_for_its_marks_is_put_on_a_ground_that_holds_them():
    marked = mark_slice(np.full((5, 200, 3), 99, np.uint8), 7, "RL")
    assert marked.shape == (LEAST[0], 200, 3) and (marked == 99).all(axis=2).sum() > 700


def test_montage_holds_every_picture_whole():
    pictures = [np.full((10 + n, 20 - n), 50 + n, np.uint8) for n in range(5)]
    pictures[2] = np.dstack([pictures[2]] * 3)
    sheet = make_sheet(pictures, columns=2)
    assert sheet.shape == (3 * 18 + 4, 2 * 24 + 4, 3)
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        assert (sheet == 50 + number).all(axis=2).sum() == height * width
    assert (sheet[0] == NIGHT).all()


def test_montage_is_wider_than_high_and_refuses_nothing():
    sheet = make_sheet([np.zeros((50, 50), np.uint8)] * 24)
    assert 1.2 < sheet.shape[1] / sheet.shape[0] < 2
    with pytest.raises(InputError, match="at least one"):
        make_sheet([])


def log_of(epochs):
    rising = np.linspace(0.2, 0.9, epochs)
    return pd.DataFrame(
        {
            "epoch": range(epochs),
            "dice": rising,
            "learning_rate": 1e-4,
            "loss": 1 - rising,
            "val_dice": rising - 0.05,
            "val_loss": 1.05 - rising,
        }
    )


@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_show_training_and_validation(tmp_path, epochs):
    log_of(epochs).to_csv(tmp_path / "data.csv", index=False)
    plot_curves(tmp_path / "data.csv", tmp_path / "curves.png")
    drawn = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1]
    for colour in (CYAN, ORANGE):  # validation, and its best
        assert (np.abs(drawn.astype(int) - colour).max(axis=2) < 12).sum() > 20
    assert not list(tmp_path.glob(".unfinished*"))


def test_single_labels_are_lines_in_the_panel_of_their_figure(tmp_path):
    names = ["loss", "dice", "dice_oedema", "dice_whole_tumour", "iou", "iou_oedema"]
    assert group_figures(names) == {
        "loss": [],
        "dice": ["dice_oedema", "dice_whole_tumour"],
        "iou": ["iou_oedema"],
    }
    log = log_of(4)
    for label, worse in (("oedema", 0.1), ("whole_tumour", 0.2)):
        for split in ("", "val_"):
            log[f"{split}dice_{label}"] = log[f"{split}dice"] - worse
    log.to_csv(tmp_path / "data.csv", index=False)
    plot_curves(tmp_path / "data.csv", tmp_path / "curves.png")
    drawn = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1].astype(int)
    for colour in (label_colour(1), label_colour(2), CYAN):
        assert (np.abs(drawn - colour).max(axis=2) < 40).sum() > 20


def test_boxes_draw_every_case_and_leave_out_what_is_no_number(tmp_path):
    panels = {
        "Dice": {"whole tumour": [0.9, 0.8, 0.95], "core": [0.4, np.nan]},
        "HD95 in mm": {"whole tumour": [4.0, 3, 373.13], "core": [np.nan, np.nan]},
    }
    plot_boxes(panels, tmp_path / "box.png")
    drawn = cv2.imread(str(tmp_path / "box.png"))[..., ::-1].astype(int)
    for colour in (CYAN, ORANGE):
        assert (np.abs(drawn - colour).max(axis=2) < 60).sum() > 20


def test_curves_of_figures_that_are_no_numbers_are_still_drawn(tmp_path):
    log = log_of(3)
    log.loc[1:, ["loss", "val_loss", "val_dice", "dice"]] = np.nan
    log.to_csv(tmp_path / "data.csv", index=False)
    plot_curves(tmp_path / "data.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("content", ["", "epoch,dice,val_dice\n", "a,b\n1,2\n"])
def test_a_log_without_epochs_is_refused_and_leaves_no_picture(tmp_path, content):
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(InputError, match="data.csv"):
        plot_curves(tmp_path / "data.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_ranking_draws_truth_and_prediction(tmp_path, square):
    picture = np.full(square.shape, 90, np.uint8)
    empty = np.zeros_like(square)
    examples = [("worst", picture, square, empty), ("best", picture, square, square)]
    plot_ranking(examples, [0.0, 0.97, 0.98], tmp_path / "score.png")
    drawn = cv2.imread(str(tmp_path / "score.png"))[..., ::-1].astype(int)
    third = drawn.shape[1] // 3
    left, middle = drawn[:, :third], drawn[:, third : 2 * third]
    for part, colour in ((left, ORANGE), (middle, CYAN)):
        assert (np.abs(part - colour).max(axis=2) < 12).sum() > 200
    assert (np.abs(left - CYAN).max(axis=2) < 12).sum() < 20, "nothing was predicted there"
