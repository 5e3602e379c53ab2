"""The scanner: slices are true averages, and lie where they say."""

import numpy as np
import pytest

from scan.mask import dice
from synthesis.ct import make_scan, thick_slices


@pytest.mark.parametrize("count", [2, 2.5, 4.8])
def test_thick_slices_are_true_averages(count):
    """Of a step: what a slice holds of it is what lies in it, wherever its faces fall."""
    column = np.where(np.arange(40) < 21, 0, 100).astype(np.float32)
    means, middles = thick_slices(
        np.broadcast_to(column, (2, 3, 40)), count, np.random.default_rng(3)
    )
    assert means.shape == (2, 3, len(middles))
    np.testing.assert_allclose(np.diff(middles), count)
    share = np.clip((middles + 0.5 + count / 2 - 21) / count, 0, 1)  # of the slice above the step
    np.testing.assert_allclose(means[1, 2], 100 * share, atol=0.01)


def test_thick_slices_of_few_voxels_stay_as_they_are():
    few = np.random.default_rng(0).random((2, 2, 6))
    means, middles = thick_slices(few, 4, np.random.default_rng(0))
    assert means is few and middles.tolist() == [0, 1, 2, 3, 4, 5]


def test_stored_slices_show_the_anatomy_at_the_same_mm_as_cubes(coarse):
    """At a slice's height in mm the cubes have the same mask; where nothing is said, they do not"""
    look = coarse | {"thickness": 6.0, "phase": "none"}
    stored, cubes = (make_scan(0, plain=True, stored=s, **look) for s in (True, False))
    assert stored.hu.shape[2] < cubes.hu.shape[2] / 2
    assert stored.affine[2, 2] == pytest.approx(6.0) and stored.affine[2, 3] > 0
    rows = np.arange(stored.hu.shape[2])
    there = np.rint((stored.affine[2, 3] + 6 * rows) / 2.5).astype(int)
    assert dice(stored.mask, cubes.mask[..., there]) > 0.97
    assert dice(stored.mask, cubes.mask[..., there - 3]) < 0.93
    bone = stored.hu > 400
    assert dice(bone, cubes.hu[..., there] > 400) > 0.8
