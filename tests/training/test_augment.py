"""Augmentation: the same for image and mask, in pictures, slices of MRI and volumes."""

import numpy as np
import pytest
from make import head
from scipy import ndimage

from scan.views import normalise, stack
from training import augment
from training.augment import (
    augment_sample,
    bleed,
    cut_patch,
    draw_patch,
    draw_upright,
    lengthen,
    warp,
)

# ---------------------------------------------------------------- pictures of a CT


def sample_picture(kind):
    hu, mask = head(shape=(96, 96, 8))
    hu, mask = stack(hu, "axial")[5], stack(mask, "axial")[5]
    return (hu.astype(np.float32) if kind == "hu" else np.uint8(255 * normalise(hu))), mask


@pytest.mark.parametrize("kind", ["hu", "8 bits"])
def test_augmentation_is_deterministic_and_in_range(kind):
    image, mask = sample_picture(kind)
    seen = []
    for seed in range(150):
        first = augment_sample(image, mask, np.random.default_rng(seed), 64)
        again = augment_sample(image, mask.astype(np.uint8) * 255, np.random.default_rng(seed), 64)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.shape == (64, 64) and a.dtype == np.float32
        picture, truth = first
        assert picture.min() >= 0 and picture.max() <= 1
        assert set(np.unique(truth)) <= {0, 1}
        seen.append(truth.mean())
    assert np.std(seen) > 0.02  # they differ
    assert 0.7 < np.mean(seen) / mask.mean() < 1.4


def test_augmentation_moves_picture_and_mask_alike(monkeypatch):
    monkeypatch.setattr(augment, "EFFECTS", ())
    monkeypatch.setattr(augment, "bleed", lambda image, mask, rng, label_count: (image, mask))
    monkeypatch.setattr(augment, "lengthen", lambda image, mask, rng: (image, mask))
    mask = np.zeros((80, 80), bool)
    mask[15:60, 30:55] = True
    for seed in range(30):
        picture, truth = augment_sample(np.uint8(255) * mask, mask, np.random.default_rng(seed), 64)
        assert ((picture > 0.5 * picture.max()) != (truth > 0)).mean() < 0.01


def test_augmentation_leaves_its_input_alone():
    image, mask = sample_picture("hu")
    before = image.copy(), mask.copy()
    for seed in range(30):
        augment_sample(image, mask, np.random.default_rng(seed), 96)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_large_pictures_are_averaged_not_sampled():
    board = np.indices((512, 512)).sum(0) % 2 * np.uint8(255)
    values, _ = warp(board, np.zeros((512, 512)), np.random.default_rng(0), 64)
    assert 100 < values[24:40, 24:40].mean() < 155 and values[24:40, 24:40].std() < 30


@pytest.mark.parametrize("seed", range(8))
def test_long_pixels_are_in_the_mask_where_all_of_them_is(seed):
    """As in coronal slices of thick ones: means of the picture, and no pixel that shows bone."""
    image, mask = sample_picture("hu")
    labels = mask.astype(np.uint8)
    labels[40:50, 40:50] *= 2
    longer, found = lengthen(image, labels, np.random.default_rng(seed))
    assert longer.shape == image.shape and longer.dtype == image.dtype
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1, 2}
    assert not (found[labels == 0]).any()
    assert 0.8 * mask.sum() < (found > 0).sum() < mask.sum()
    assert longer.mean() == pytest.approx(image.mean(), rel=1e-3)
    same = [np.mean(np.diff(longer, axis=axis) == 0) for axis in (0, 1)]
    assert max(same) > 0.45


def test_blood_is_painted_inside_the_skull_where_it_touches_it():
    image, mask = sample_picture("hu")
    inside, touching, bright = mask > 0, 0, 0
    rim = inside & ~ndimage.binary_erosion(inside, iterations=2)
    for seed in range(40):
        hu, labels = bleed(image, mask.astype(np.uint8), np.random.default_rng(seed), 2)
        changed = np.abs(hu - image) > 8
        assert hu.dtype == image.dtype and not (changed & ~inside).any()
        assert 20 < np.median(hu[changed]) < 130
        assert ((labels > 0) == inside).all() and not (labels == 2)[inside & ~changed].sum() > 99
        touching += (changed & rim).any()
        bright += (labels == 2).any()
    assert touching > 35 and 5 < bright < 35
    alone = bleed(image, mask, np.random.default_rng(0))[1]
    assert alone is mask, "of one label, blood is brain as all else"
    nothing = np.zeros_like(mask)
    assert bleed(image, nothing, np.random.default_rng(0))[0] is image


# ---------------------------------------------------------------- slices and volumes of MRI

SHAPES = {"slice": (48, 40), "volume": (24, 28, 20)}


def blob(shape, labels=3):
    """An MRI with channels that show the labels themselves, and the labels: nested balls."""
    centre = np.indices(shape) - (np.array(shape) / 2 + 2).reshape(-1, *[1] * len(shape))
    away = np.sqrt((centre**2).sum(0)) / min(shape)
    mask = np.select([away < 0.12, away < 0.22, away < 0.32], [3, 2, 1], 0).astype(np.uint8)
    mask = np.minimum(mask, labels)
    brain = np.uint8(60) * (away < 0.45)
    return np.stack([brain + 60 * mask, brain + 30 * mask], -1).astype(np.uint8), mask


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("labels", [1, 3])
def test_channels_and_labels_are_moved_alike(monkeypatch, kind, labels):
    monkeypatch.setattr(augment, "change_channels", lambda image, rng: image)
    monkeypatch.setattr(augment, "TURNED", 1)
    image, mask = blob(SHAPES[kind], labels)
    size = 48 if kind == "slice" else (24, 24, 24)
    turned = set()
    for seed in range(8):
        moved, truth = augment_sample(
            image, mask, np.random.default_rng(seed), size, label_count=labels
        )
        shape = (size, size) if kind == "slice" else size
        assert moved.shape == (*shape, 2) and truth.shape == shape
        assert moved.dtype == np.float32 and truth.dtype == (np.float32 if labels == 1 else "u1")
        assert set(np.unique(truth)) <= set(range(labels + 1))
        shown = np.rint((moved[..., 0] * 255 - 60) / 60)
        assert ((shown >= 1) != (truth > 0)).mean() < 0.02
        assert (shown[truth == labels] >= labels - 1).all()
        brain = moved[..., 1] * 2 - moved[..., 0]  # if both channels were moved alike
        np.testing.assert_allclose(brain[truth > 0], 60 / 255, atol=0.02)
        turned.add(truth.tobytes())
    assert len(turned) == 8


def test_patches_lie_about_every_label_or_anywhere(monkeypatch):
    """One label is a single voxel, which a patch that lies anywhere would hardly ever hold."""
    mask = np.zeros((40, 50, 30), np.uint8)
    mask[5:15, 5:15, 5:15], mask[33, 44, 3] = 1, 2
    image = np.stack([mask * 100, np.indices(mask.shape).sum(0)], -1).astype(np.uint8)
    held = []
    for seed in range(300):
        patch, truth = draw_patch(image, mask, np.random.default_rng(seed), (16, 16, 16))
        assert patch.shape == (16, 16, 16, 2) and truth.shape == (16, 16, 16)
        held.append([(truth == label).any() for label in (1, 2)])
    shares = np.mean(held, axis=0)
    assert shares[1] > 0.1 and 0.2 < shares[0] < 0.8
    monkeypatch.setattr(augment, "TURNED", 0)
    patch, truth = draw_patch(image, mask, np.random.default_rng(0), (16, 16, 16))
    np.testing.assert_array_equal(patch[..., 0], truth * 100)
    steps = np.diff(patch[..., 1].astype(int), axis=0)
    assert (steps == steps[0, 0, 0]).all() and abs(steps[0, 0, 0]) == 1, "the very voxels"


def test_a_volume_that_is_labelled_all_over_has_its_labels_too():
    mask = np.ones((20, 20, 20), np.uint8)
    mask[2, 3, 4] = 2
    seen = [
        draw_patch(mask[..., None], mask, np.random.default_rng(seed), (8, 8, 8))[1].max()
        for seed in range(60)
    ]
    assert 0.1 < np.mean(np.array(seen) == 2) < 0.5


def test_a_patch_beyond_the_volume_is_black():
    array = np.arange(1, 28).reshape(3, 3, 3)
    patch = cut_patch(array, (-1, 0, 2), (4, 2, 2))
    assert not patch[0].any() and not patch[..., 1].any()
    np.testing.assert_array_equal(patch[1:, :, 0], array[:, :2, 2])


@pytest.mark.parametrize("kind", SHAPES)
def test_an_mri_sample_is_its_seeds_and_keeps_the_outside_black(kind):
    image, mask = blob(SHAPES[kind])
    before = image.copy(), mask.copy()
    size = 40 if kind == "slice" else SHAPES[kind]
    levels = []
    for seed in range(12):
        first, again = (
            augment_sample(image, mask, np.random.default_rng(seed), size, label_count=3)
            for _ in range(2)
        )
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
        assert first[0].min() >= 0 and first[0].max() <= 1
        rng = np.random.default_rng(seed)
        if kind == "slice":
            plain = warp(image, mask, rng, size, 3)[0]
        else:
            plain = draw_patch(image, mask, rng, size)[0]
        assert not first[0][~plain.any(axis=-1)].any()
        levels.append(first[0][first[1] == 2].mean(axis=0))
    assert (np.std(levels, axis=0) > 0.02).all(), "brightness differs from sample to sample"
    assert np.corrcoef(np.array(levels).T)[0, 1] < 0.9, "and from channel to channel"
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_a_volume_is_turned_and_mirrored_about_every_axis_a_little():
    maps = [draw_upright((30, 30, 30), np.random.default_rng(s), (30, 30, 30)) for s in range(60)]
    linear = np.array(maps)[:, :, :3]
    mirrored = np.sign(np.linalg.det(linear))
    assert 15 < (mirrored < 0).sum() < 45
    assert (np.sign(linear[:, 0, 0]) == mirrored).all(), "left and right, nothing else"
    scales = np.cbrt(np.abs(np.linalg.det(linear)))
    assert 0.75 < scales.min() < 0.95 < 1.05 < scales.max() < 1.3
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert 0.02 < np.abs(linear[:, first, second]).mean() < 0.4
