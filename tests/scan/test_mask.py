"""The geometry of a mask."""

import numpy as np

from scan.mask import grow_mask, tidy_mask


def test_tidy_keeps_one_part_and_fills_it():
    mask = np.zeros((12, 12, 12), bool)
    mask[2:9, 2:9, 2:9] = True
    mask[5, 5, 5] = False
    mask[10, 10, 10] = True
    tidied = tidy_mask(mask.copy())
    assert tidied.sum() == 7**3 and tidied[5, 5, 5] and not tidied[10, 10, 10]
    assert not tidy_mask(np.zeros((3, 3, 3), bool)).any()


def test_a_mask_grows_and_shrinks_by_mm_whatever_the_voxels():
    mask = np.zeros((41, 41, 21), bool)
    mask[10:31, 10:31, 8:13] = True
    spacing = np.array([1.0, 1, 2])
    for mm, counts in ((2, (25, 25, 7)), (-2, (17, 17, 3)), (0, (21, 21, 5))):
        grown = grow_mask(mask, spacing, mm)
        lines = (grown[:, 20, 10], grown[20, :, 10], grown[20, 20])
        assert tuple(line.sum() for line in lines) == counts, mm
    whole = np.ones((6, 6, 6), bool)
    assert grow_mask(whole, spacing, -2).all(), "a face of the scan is no border"
