"""The mask of one slice: any window, size and place of the head."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from predict import picture as slices
from predict.picture import SKULL, box_around, box_of_head, clean_slice, find_mask
from scan.mask import dice
from scan.views import normalise, stack


def test_any_window_and_aspect_of_a_slice_will_do(network, cta, head_slice):
    index = int(cta.mask.sum((0, 1)).argmax())
    hu = stack(cta.hu, "axial")[index]
    for low, high in ((0, 80), (-100, 500), (-1000, 2000)):
        picture = np.rint(255 * normalise(hu, (low, high))).astype(np.uint8)
        assert dice(find_mask(picture, network), head_slice[1]) > 0.9, (low, high)
    squashed = cv2.resize(head_slice[0], (101, 80))
    mask = cv2.resize(head_slice[1].astype(np.uint8), (101, 80)) > 0
    assert dice(find_mask(squashed, network), mask) > 0.9


def test_a_picture_in_hu_is_seen_as_one_in_the_networks_window(network, cta, head_slice):
    index = int(cta.mask.sum((0, 1)).argmax())
    hu = np.ascontiguousarray(stack(cta.hu, "axial")[index], np.float32)
    grey = np.rint(255 * normalise(hu, network.window)).astype(np.uint8)
    masks = [find_mask(picture, network) for picture in (hu, grey)]
    assert dice(*masks) > 0.97


def test_clean_slice_fills_holes_and_drops_specks():
    probability = np.zeros((100, 100), np.float32)
    probability[20:70, 20:70] = 0.9
    probability[40:45, 40:45] = 0.1  # a hole
    probability[80:90, 80:90] = 0.6  # a second part, large enough
    probability[5:7, 5:7] = 1.0  # a speck
    mask = clean_slice(probability > 0.5)
    assert mask.dtype == bool and mask.sum() == 2500 + 100
    assert not clean_slice(np.zeros((50, 50), bool)).any()


@pytest.mark.parametrize("pixels", [80, 110, 150])
def test_a_head_that_is_small_in_its_picture_is_looked_at_closer(network, cta, pixels):
    """As in a picture of 512 x 512 from shoulder to vertex, whose head is some 100 pixels wide."""
    hu, truth = (stack(array, "axial")[45] for array in (cta.hu, cta.mask))
    grey = np.uint8(255 * normalise(np.ascontiguousarray(hu), (-100, 300)))
    picture, drawn = np.zeros((2, 512, 512), np.uint8)
    place = np.s_[200 : 200 + pixels, 300 : 300 + pixels]
    picture[place] = cv2.resize(grey, (pixels, pixels), interpolation=cv2.INTER_AREA)
    drawn[place] = cv2.resize(np.uint8(truth), (pixels, pixels), interpolation=cv2.INTER_AREA)
    mask = find_mask(picture, network)
    assert dice(mask, drawn > 0) > 0.93


def test_the_closer_look_holds_the_head_and_is_not_taken_for_little():
    brain = np.zeros((512, 400), bool)
    brain[100:160, 20:60] = True
    brain[300:303, 200:203] = True  # a speck
    rows, columns = box_around(brain, SKULL)
    assert (rows.start, rows.stop) == (82, 178) and (columns.start, columns.stop) == (0, 88)
    brain[50:450, 50:350] = True
    assert box_around(brain, SKULL) is None
    assert box_around(np.zeros((9, 9), bool), SKULL) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_small_head_is_cut_out_and_a_large_one_is_not(dtype):
    picture = np.full((400, 512), 0 if dtype == np.uint8 else -1000, dtype)
    picture[100:200, 50:150] = 90
    picture[:4, -60:] = 90  # letters
    assert box_of_head(picture) == (slice(90, 210), slice(40, 160))
    picture[20:380, 30:500] = 90
    assert box_of_head(picture) == (slice(None), slice(None))


@pytest.mark.parametrize(
    ("shares", "seen"), [((0.7, 0.99), None), ((0.9, 0.95), 1), ((0.95, 0.9), 0)]
)
def test_the_surer_of_two_looks_counts_and_none_where_the_first_is_not_sure(
    network, monkeypatch, shares, seen
):
    looks = iter(range(2))

    def ask(picture, network):
        number = next(looks)
        share = np.zeros(picture.shape, np.float32)
        share[picture > 100 + number] = shares[number]
        return share, 0 * share

    monkeypatch.setattr(slices, "ask_network", ask)
    monkeypatch.setattr(slices, "find_spurs", lambda brain, picture: np.zeros_like(brain))
    picture = np.full((300, 300), 50, np.uint8)
    picture[100:150, 100:150], picture[100:150, 100:125] = 101, 200
    mask = find_mask(picture, network)
    assert mask.sum() == {None: 0, 0: 50 * 50, 1: 50 * 25}[seen]


@pytest.mark.parametrize(("kind", "turns"), [("window", 8), ("zscore", 2)])
def test_a_slice_is_turned_and_mirrored_that_of_an_mri_mirrored_alone(
    network, monkeypatch, kind, turns
):
    """A network that says how bright a pixel is gives back the picture, however it is turned."""
    asked = []

    def probabilities(pictures):
        asked.append(len(pictures))
        return pictures[..., 0] if pictures.ndim > 3 else pictures

    card = replace(network.card, normalise=kind)
    network = SimpleNamespace(card=card, probabilities=probabilities)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    seen = slices.average_turns(picture, network, 64, None)
    np.testing.assert_allclose(seen, picture / 255, atol=1e-6)
    assert asked == [turns]


def test_how_sure_a_network_must_be_of_a_slice_is_in_its_card(network, cta, monkeypatch):
    middle = stack(cta.hu, "axial")[40].astype(np.float32)
    assert find_mask(middle, network).any()
    monkeypatch.setattr(network, "card", replace(network.card, sure=1.0))
    assert not find_mask(middle, network).any()
