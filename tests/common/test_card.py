"""What labels mean: stored values, names, regions."""

import numpy as np
import pytest

from common.card import find_regions, name_labels, to_contiguous, to_stored_values


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
