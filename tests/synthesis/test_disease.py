"""Disease and vessels: where they lie, and how bright they are."""

import numpy as np
import pytest

from synthesis import disease
from synthesis.disease import BRAIN_CENTRE, DRAWN_ABOVE, add_vessels
from synthesis.space import Space, smooth_noise


@pytest.fixture(scope="module")
def ball():
    """A ball's Space, as `pose_head` gives it, voxels of 2 mm."""
    grid = np.stack(np.meshgrid(*[np.arange(-80.0, 80, 2)] * 3, indexing="ij")).astype(np.float32)
    offset = grid + BRAIN_CENTRE[:, None, None, None].astype(np.float32)
    inner = (np.linalg.norm(grid, axis=0) - 70).astype(np.float32)
    return Space(None, inner, None, -offset[2], offset, 2.0)


@pytest.mark.parametrize("kind", ["subdural", "epidural", "lobar", "pneumocephalus", "drain"])
def test_blood_air_and_drains_touch_the_skull(ball, kind):
    """All of them somewhere, each time elsewhere, and most of the brain stays as it was."""
    brain, seen = np.full(ball.inner.shape, 30, np.float32), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ripple = smooth_noise(brain.shape, rng, 7)
        hu = getattr(disease, kind)(brain, ball, ripple, rng)
        changed = (np.abs(hu - brain) > 8) & (ball.inner < 0)
        seen.append((hu, changed))
        assert changed.mean() < 0.5 * (ball.inner < 0).mean()
    touching = [(changed & (ball.inner > -3)).any() for _, changed in seen]
    assert np.mean(touching) > 0.7
    values = np.concatenate([hu[changed] for hu, changed in seen])
    low, high = {"pneumocephalus": (-1001, 0), "drain": (30, 1200)}.get(kind, (-5, 120))
    assert low < values.min() and values.max() < high


def test_no_drawn_vessel_follows_the_cut_at_the_foramen():
    shape = (60, 60, 60)
    inner = np.full(shape, -30.0, np.float32)
    inner[..., :32] = np.arange(-30.0, 2)[::-1]  # the cut: a floor like any other, but for `along`
    inner[:32] = np.maximum(inner[:32], np.arange(-30.0, 2)[::-1, None, None])
    along = np.broadcast_to(-np.arange(60.0), shape)
    rng = np.random.default_rng(0)
    space = Space(None, inner, None, along, None, 1.0)
    hu = add_vessels(np.zeros(shape, np.float32), space, (300, 300), rng)
    drawn = np.flatnonzero((hu > 50).any((0, 1)))
    assert len(drawn) and drawn[0] >= DRAWN_ABOVE - 5, "but for its own radius"
