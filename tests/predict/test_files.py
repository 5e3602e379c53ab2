"""Pictures of a result."""

from types import SimpleNamespace

import numpy as np
import pytest

from predict.files import choose_shown, draw_scan
from scan.mask import find_box


@pytest.mark.parametrize("axis", range(3))
def test_of_a_thin_scan_only_its_own_slices_are_drawn(axis):
    shape = np.insert([64, 64], axis, 2)
    scan = SimpleNamespace(hu=np.zeros(shape, np.float32), spacing=np.ones(3))
    height, width = draw_scan(scan, scan.hu > 0, height=64).shape[:2]
    assert 64 < height < 2 * 64 and 2 * 64 < width < 3 * 64  # two pictures, no stripe


def test_a_brain_is_drawn_with_its_surroundings_not_with_the_shoulders():
    """Of a scan 400 mm wide the sheet shows the brain and AROUND mm on every side, to the edge."""
    hu, brain = np.full((100, 100, 50), -1000.0, np.float32), np.zeros((100, 100, 50), bool)
    brain[40:60, 30:60, 30:50] = True
    box = find_box(brain, 10)
    assert box == (slice(30, 70), slice(20, 70), slice(20, 50))
    hu[box] = np.random.default_rng(0).normal(40, 90, (40, 50, 30))
    scan = SimpleNamespace(hu=hu, spacing=np.full(3, 4.0))
    sheet = draw_scan(scan, brain, height=64)
    ours = draw_scan(SimpleNamespace(hu=hu[box], spacing=scan.spacing), brain[box], height=64)
    np.testing.assert_array_equal(sheet, ours)


def test_chosen_slices_are_spread_over_the_brain_from_the_top():
    masks = np.zeros((100, 2, 2), bool)
    masks[20:60, 0, 0] = True
    masks[30] = False  # a gap is shown, too
    assert choose_shown(masks, 100).tolist() == list(range(59, 19, -1))
    few = choose_shown(masks, 4)
    assert few.tolist() == [55, 45, 35, 25]
    assert len(choose_shown(np.zeros((50, 2, 2), bool), 5)) == 5, "no brain: over the scan"
    assert choose_shown(masks[20:21], 4).tolist() == [0]
