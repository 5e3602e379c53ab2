"""What labels mean: stored values, names, regions; what a card says of its network."""

import numpy as np
import pytest

from common.card import find_regions, name_labels, to_card, to_contiguous, to_stored_values


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 2, 3), (1, 2, 3, 4), (255,), (7, 3)])
def test_labels_go_and_come_back(values):
    given = np.random.default_rng(0).choice([0, *values], (5, 6, 7)).astype(np.uint8)
    stored = to_contiguous(given, values)
    assert set(np.unique(stored)) == set(range(len(values) + 1))
    assert (stored[given == max(values)] == len(values)).all()
    np.testing.assert_array_equal(to_stored_values(stored, values), given)


def test_other_values_are_background():
    stored = to_contiguous(np.array([0, 1, 2, 3, 4, 9], np.uint8), (1, 2, 4))
    assert stored.tolist() == [0, 1, 2, 0, 3, 0]


def test_regions_are_those_of_brats_whatever_the_year():
    for values, core, enhancing in (
        ((1, 2, 4), [1, 3], [3]),
        ((1, 2, 3), [1, 3], [3]),
        ((1, 2, 3, 4), [1, 3, 4], [4]),
    ):
        found = find_regions(name_labels(values))
        assert list(found) == ["whole tumour", "tumour core", "enhancing tumour"]
        assert found["whole tumour"] == list(range(1, len(values) + 1))
        assert (found["tumour core"], found["enhancing tumour"]) == (core, enhancing)
    assert find_regions(name_labels((3, 7))) == {}
    assert name_labels((255,)) == {1: "tumour"}


@pytest.mark.parametrize(
    ("validation", "is_weak"),
    [
        ({}, False),
        ({"loss": 0.9}, False),
        ({"loss": 0.9, "dice": 0.02}, True),
        ({"dice": 0.6, "dice_oedema": 0.3, "recall": 0.99}, True),
        ({"dice": 0.6, "dice_whole tumour": 0.9}, False),
        ({"dice": None}, True),
    ],
)
def test_a_network_that_has_learned_too_little_says_so(validation, is_weak):
    said = to_card({"validation": validation}).weakness
    assert bool(said) == is_weak and ("has learned too little" in said) == is_weak
    if validation.get("dice") == 0.02:
        assert "best Dice was 0.02" in said
