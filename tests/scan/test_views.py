"""Pictures of a volume and back, the window, the square."""

import numpy as np
import pytest
from make import mri

from scan.views import (
    SCALES,
    VIEWS,
    brain_of,
    fit_labels,
    fit_square,
    normalise,
    stack,
    unfit_square,
    unstack,
)


def test_stack_shows_each_view_as_a_radiologist_sees_it():
    array = np.zeros((4, 5, 6))
    array[3, 4, 5] = 1  # the rightmost, frontmost, topmost voxel
    for view, (n, row, column) in {
        "axial": (5, 0, 0),
        "coronal": (4, 0, 0),
        "sagittal": (3, 0, 0),
    }.items():
        pictures = stack(array, view)
        assert np.argwhere(pictures).tolist() == [[n, row, column]], view
    assert stack(array, "axial").shape == (6, 5, 4)
    assert stack(array, "coronal").shape == (5, 6, 4)
    assert stack(array, "sagittal").shape == (4, 6, 5)


@pytest.mark.parametrize("view", VIEWS)
def test_unstack_is_the_inverse_of_stack(view):
    array = np.random.default_rng(0).random((4, 5, 6))
    there = stack(array, view)
    assert np.shares_memory(there, array)
    np.testing.assert_array_equal(unstack(there, view), array)


def test_normalise():
    hu = np.array([-2000, -200, 300, 800, 3000], np.int16)
    np.testing.assert_allclose(normalise(hu), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(normalise(hu, (0, 600)), [0, 0, 0.5, 1, 1])
    assert normalise(hu).dtype == np.float32
    picture = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(normalise(picture, (0, 80)), [0, 0.2, 1])


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (64, 64)])
def test_unfit_is_the_inverse_of_fit(shape):
    picture = np.random.default_rng(0).random(shape, np.float32)
    square, place = fit_square(picture, 64)
    assert square.shape == (64, 64)
    np.testing.assert_array_equal(unfit_square(square, place), picture)  # no scaling: exact


def test_unfit_after_scaling_comes_close():
    y, x = np.mgrid[:90, :150] / 150
    picture = (np.sin(4 * x) + y).astype(np.float32)
    for size in (64, 256):
        square, place = fit_square(picture, size, spacing=(2.0, 0.9))
        back = unfit_square(square, place)
        assert back.shape == picture.shape
        assert np.abs(back - picture)[3:-3, 3:-3].max() < 0.03


def test_fit_makes_pixels_square_and_pads_with_what_is_told():
    square, place = fit_square(np.full((10, 40), 7, np.int16), 80, spacing=(5, 0.5), outside=-1024)
    assert (place.height, place.width) == (80, 32)
    assert square.dtype == np.float32
    assert (square[:, 24:56] == 7).all()
    assert (square[:, :24] == -1024).all() and (square[:, 56:] == -1024).all()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("size", [33, 50, 128])
def test_fitted_masks_are_strictly_0_or_255_and_keep_their_area(kind, size):
    y, x = np.mgrid[:60, :50]
    mask = np.hypot(y - 30, x - 25) < 20
    fitted, place = fit_square(mask.astype(kind) * kind(1), size, is_mask=True)
    assert fitted.dtype == np.uint8 and set(np.unique(fitted)) == {0, 255}
    scale = size / 60
    assert np.count_nonzero(fitted) == pytest.approx(mask.sum() * scale**2, rel=0.03)


def test_fitted_mask_is_thresholded_at_half_of_the_area():
    mask = np.zeros((4, 4))
    mask[0, 0] = 1  # a quarter of the first of four pixels
    mask[2:, :1] = 1  # half of the third
    fitted, _ = fit_square(mask, 2, is_mask=True)
    assert fitted.tolist() == [[0, 0], [255, 0]]


# ---------------------------------------------------------------- MRI


@pytest.mark.parametrize("kind", SCALES)
def test_mri_is_normalised_within_the_brain(kind):
    image, _ = mri()
    seen = normalise(image, kind)
    brain = image.any(axis=-1)
    assert seen.dtype == np.float32 and not seen[~brain].any()
    assert seen[brain].min() >= np.float32(1 / 255) and seen.max() <= 1
    shifted = image.copy()
    shifted[brain] = shifted[brain] * 7 + 500  # another scanner's units
    np.testing.assert_allclose(normalise(shifted, kind), seen, atol=1e-4)
    if kind == "zscore":
        values = (255 * seen[brain].astype(np.float64) - 1) / 254 * 8 - 4
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.05)
        assert ((values.std(axis=0) > 0.7) & (values.std(axis=0) < 1.05)).all()
    else:
        assert (seen[brain].max(axis=0) == 1).all()


def test_what_lies_outside_the_brain_need_not_be_nought():
    black, _ = mri()
    for outside in ((-3.6, -4.7), (-1, 0)):
        image, _ = mri(outside=outside)
        np.testing.assert_array_equal(brain_of(image), brain_of(black))
        np.testing.assert_array_equal(normalise(image, "zscore"), normalise(black, "zscore"))


def test_an_mri_that_shows_nothing_is_black():
    assert not normalise(np.full((4, 4, 4, 2), 7.0), "zscore").any()


@pytest.mark.parametrize("view", VIEWS)
def test_channels_are_stacked_and_fitted_each_alone(view):
    array = np.random.default_rng(0).random((4, 5, 6, 3), np.float32)
    there = stack(array, view)
    np.testing.assert_array_equal(there[..., 1], stack(array[..., 1], view))
    np.testing.assert_array_equal(unstack(there, view), array)
    for channels in (1, 2, 4):
        picture = np.random.default_rng(1).random((50, 30, channels), np.float32)
        fitted, place = fit_square(picture, 24, spacing=(1, 1.5))
        assert fitted.shape == (24, 24, channels)
        for channel in range(channels):
            alone, _ = fit_square(picture[..., channel], 24, spacing=(1, 1.5))
            np.testing.assert_allclose(fitted[..., channel], alone, atol=1e-6)
        assert unfit_square(fitted, place).shape == picture.shape


@pytest.mark.parametrize("size", [20, 48, 96])
def test_labels_are_fitted_by_the_nearest(size):
    labels = np.zeros((40, 48), np.uint8)
    labels[10:30, 12:36], labels[16:24, 20:28] = 1, 3
    fitted, place = fit_labels(labels, size)
    assert set(np.unique(fitted)) == {0, 1, 3}, "no 2 between 1 and 3"
    for label in (1, 3):
        assert (fitted == label).sum() == pytest.approx(
            (labels == label).sum() * (size / 48) ** 2, rel=0.15
        )
    assert place == fit_square(labels, size)[1]
    if size == 48:
        np.testing.assert_array_equal(fitted[place.top : place.top + 40], labels)
