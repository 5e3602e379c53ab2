"""Losses, metrics and scores against sklearn, Keras and cases worked out by hand."""

import warnings

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from keras import ops
from sklearn import metrics as sk

from common.errors import InputError
from metrics import (
    LOSSES,
    MISSED,
    Confusion,
    confusion,
    dice_loss,
    make_loss,
    region_scores,
    scores,
    surface_scores,
    to_shares,
)
from model import build_unet

RNG = np.random.default_rng(3)
OVERLAP = ["dice", "iou"]


def random_mask(*shape, share=0.4):
    return (RNG.random(shape) < share).astype(np.float32)


def value(loss, target, prediction):
    return float(LOSSES[loss](target, prediction))


def one_voxel(*numbers):
    """A 4 x 4 sample whose voxels of these numbers, row by row, are 1."""
    return np.isin(np.arange(16), numbers).astype(np.float32).reshape(1, 4, 4, 1)


def three_classes(*shape):
    """Labels (B, ...) of 0 to 2, and random shares (B, ..., 3) of the classes."""
    labels = RNG.integers(0, 3, shape)
    shares = RNG.random((*shape, 3), dtype=np.float32)
    return labels, shares / shares.sum(-1, keepdims=True)


EMPTY, FULL = one_voxel(), one_voxel(*range(16))


# ---- losses


def test_dice_and_iou_loss_by_hand():
    target, prediction = one_voxel(0, 1, 2), one_voxel(1, 2, 3, 4)  # two voxels in both
    assert value("dice", target, prediction) == pytest.approx(1 - (4 + 1) / (7 + 1))
    assert value("iou", target, prediction) == pytest.approx(1 - (2 + 1) / (5 + 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_right_prediction_costs_nothing_also_of_an_empty_slice(loss):
    for sample in (EMPTY, FULL, one_voxel(3)):
        assert value(loss, sample, sample) == pytest.approx(0, abs=1e-6)
        assert value(loss, sample, 1 - sample) > 0.3


@pytest.mark.parametrize("loss", [name for name in LOSSES if not name.startswith("batch")])
def test_losses_are_of_each_sample_then_averaged(loss):
    targets = np.concatenate([EMPTY, FULL, one_voxel(5)])
    predictions = RNG.random(targets.shape, dtype=np.float32)
    each = [value(loss, targets[i : i + 1], predictions[i : i + 1]) for i in range(3)]
    assert np.ptp(each) > 0.001
    assert value(loss, targets, predictions) == pytest.approx(np.mean(each), rel=1e-5)


def test_batch_dice_is_that_of_all_samples_as_one():
    targets = np.concatenate([EMPTY, FULL, one_voxel(5)])
    predictions = RNG.random(targets.shape, dtype=np.float32)
    whole = value("dice", *(array.reshape(1, 12, 4, 1) for array in (targets, predictions)))
    assert value("batch_dice", targets, predictions) == pytest.approx(whole, rel=1e-5)
    entropy = value("cross_entropy", targets, predictions)
    both = value("batch_dice_cross_entropy", targets, predictions)
    assert both == pytest.approx(whole + entropy, rel=1e-5)


@pytest.mark.parametrize("loss", OVERLAP)
def test_overlap_losses_see_the_small_mask_beside_the_large_one(loss):
    targets = np.concatenate([FULL, one_voxel(5)])
    missed = np.concatenate([FULL, EMPTY])  # over the batch as one this would cost 1 / 17 or less
    assert value(loss, targets, missed) == pytest.approx(0.5 * (1 - 1 / 2))


@pytest.mark.parametrize("loss", OVERLAP)
def test_overlap_losses_are_least_at_the_soft_target(loss):
    target = np.full((1, 8, 8, 1), 0.3, np.float32)
    assert value(loss, target, target) == pytest.approx(0, abs=1e-6)
    assert value(loss, target, target * 0 + 1) > 0.1  # where the product would have its least


def test_cross_entropy_and_focal_loss_are_those_of_keras():
    target, prediction = random_mask(2, 8, 8, 1), RNG.random((2, 8, 8, 1), dtype=np.float32)
    entropy = ops.mean(keras.losses.binary_crossentropy(target, prediction))
    focal = ops.mean(keras.losses.binary_focal_crossentropy(target, prediction, gamma=2.0))
    assert value("cross_entropy", target, prediction) == pytest.approx(float(entropy), rel=1e-5)
    assert value("focal", target, prediction) == pytest.approx(float(focal), rel=1e-4)
    labels, shares = three_classes(2, 8, 8)
    entropy = ops.mean(keras.losses.sparse_categorical_crossentropy(labels, shares))
    focal = ops.mean(
        keras.losses.categorical_focal_crossentropy(np.eye(3)[labels], shares, alpha=1.0)
    )
    assert value("cross_entropy", labels, shares) == pytest.approx(float(entropy), rel=1e-5)
    assert value("focal", labels, shares) == pytest.approx(float(focal), rel=1e-4)


def test_compound_losses_are_sums():
    target, prediction = random_mask(2, 8, 8, 1), RNG.random((2, 8, 8, 1), dtype=np.float32)
    for other in ("cross_entropy", "focal"):
        parts = value("dice", target, prediction) + value(other, target, prediction)
        both = value(f"dice_{other}", target, prediction)
        assert both == pytest.approx(parts, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_integer_labels_and_one_hot_targets_are_the_same(loss):
    labels, shares = three_classes(2, 8, 8)
    want = value(loss, np.eye(3)[labels], shares)
    assert value(loss, labels, shares) == pytest.approx(want)
    assert value(loss, labels[..., None].astype(np.uint8), shares) == pytest.approx(want)


def test_a_target_without_its_class_axis_is_the_same():
    target, prediction = random_mask(2, 8, 8, 1), RNG.random((2, 8, 8, 1), dtype=np.float32)
    for loss in LOSSES:
        want = value(loss, target, prediction)
        assert value(loss, target[..., 0], prediction) == pytest.approx(want)


def test_several_labels_are_averaged_without_the_background():
    labels = np.array([[0, 0, 0, 0, 1, 1, 2, 2]])
    predicted = np.eye(3, dtype=np.float32)[[[0, 0, 0, 1, 1, 1, 0, 0]]]
    want = 1 - np.mean([(2 * 2 + 1) / (2 + 3 + 1), 1 / (2 + 0 + 1)])
    assert value("dice", labels, predicted) == pytest.approx(want)


@pytest.mark.parametrize("loss", OVERLAP)
def test_weights_and_background_in_overlap_losses(loss):
    labels, shares = three_classes(2, 6, 6)
    truth = np.eye(3, dtype=np.float32)[labels]
    each = [value(loss, truth[..., [c]], shares[..., [c]]) for c in range(3)]

    def cost(**options):
        return float(make_loss(loss, **options)(labels, shares))

    assert cost() == pytest.approx((each[1] + each[2]) / 2, rel=1e-5)
    assert cost(background=True) == pytest.approx(np.mean(each), rel=1e-5)
    assert cost(weights=[1, 3]) == pytest.approx((each[1] + 3 * each[2]) / 4, rel=1e-5)
    weighed = (each[0] + 2 * each[1] + 5 * each[2]) / 8
    assert cost(weights=[2, 5], background=True) == pytest.approx(weighed, rel=1e-5)
    assert cost(weights=[0, 1]) == pytest.approx(each[2], rel=1e-5)


@pytest.mark.parametrize(("loss", "power"), [("cross_entropy", 0), ("focal", 2)])
def test_weights_and_background_in_voxel_losses(loss, power):
    labels, shares = three_classes(2, 6, 6)
    truth = np.take_along_axis(shares, labels[..., None], -1)[..., 0]
    surprise = -np.log(truth) * (1 - truth) ** power
    weighed = (surprise * np.array([1, 2, 5])[labels]).mean()
    found = float(make_loss(loss, weights=[2, 5])(labels, shares))
    assert found == pytest.approx(weighed, rel=1e-4)
    with pytest.raises(InputError, match=f"dice_{loss}"):
        make_loss(loss, background=False)
    both = float(make_loss(f"dice_{loss}", background=False)(labels, shares))
    labelled = (surprise * (labels > 0)).mean()
    assert both == pytest.approx(value("dice", labels, shares) + labelled, rel=1e-4)


def test_a_weight_for_each_label_is_asked_for():
    labels, shares = three_classes(1, 4, 4)
    with pytest.raises(InputError, match="3 weights for 2 labels"):
        make_loss("dice", weights=[1, 1, 1])(labels, shares)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_lets_a_network_of_several_labels_learn(loss):
    scans = RNG.random((2, 8, 8, 8, 2), dtype=np.float32)
    labels = (scans > 0.6).argmax(-1) + (scans > 0.6).all(-1)
    assert learn(make_loss(loss, [1, 2]), scans, labels[..., None], classes=3) < 0.9


@pytest.mark.parametrize("shape", [(16, 16, 1), (6, 6, 6, 1)])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_lets_a_network_learn(loss, shape):
    pictures = RNG.random((4, *shape), dtype=np.float32)
    assert learn(LOSSES[loss], pictures, pictures > 0.5, classes=1) < 0.8


def learn(loss, images, target, classes):
    """The loss of a small network after 15 steps, as a share of that of the first."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(images.shape[1:])
    kind = keras.layers.Conv3D if images.ndim == 5 else keras.layers.Conv2D
    hidden = kind(8, 1, activation="relu")(inputs)
    outputs = kind(classes, 1, activation="sigmoid" if classes == 1 else "softmax")(hidden)
    network = keras.Model(inputs, outputs)
    network.compile(keras.optimizers.Adam(0.1), loss, jit_compile=False)
    steps = [network.train_on_batch(images, target) for _ in range(15)]
    return steps[-1] / steps[0]


def gradients(loss, target, network, pictures):
    """The gradients of one optimiser step, as changes of the weights."""
    network.compile(keras.optimizers.SGD(1.0), LOSSES[loss], jit_compile=False)
    before = network.get_weights()
    network.train_on_batch(pictures, target)
    return [now - then for now, then in zip(network.get_weights(), before, strict=True)]


def single_weight(logit):
    """A network whose every voxel has this logit."""
    image = keras.Input((4, 4, 1))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid")
    network = keras.Model(image, layer(image))
    network.set_weights([np.full((1, 1, 1, 1), logit, np.float32), np.zeros(1, np.float32)])
    return network


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_gradients_are_finite_at_the_ends(loss, logit):
    for target in (EMPTY, FULL):
        for change in gradients(loss, target, single_weight(logit), FULL):
            assert np.isfinite(change).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "dice_cross_entropy", "dice_focal"])
def test_a_voxel_surely_wrong_still_learns(loss):
    assert gradients(loss, EMPTY, single_weight(60.0), FULL)[1] < -0.9
    assert gradients(loss, FULL, single_weight(-60.0), FULL)[1] > 0.9


# ---- metrics


SKLEARNS = {
    "dice": sk.f1_score,
    "iou": sk.jaccard_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
}
ONE = {"brain": [1]}
SEVERAL = {"one": [1], "two": [2], "three": [3], "one and three": [1, 3], "all": [1, 2, 3]}


def measured(areas, *batches):
    metric = Confusion(areas)
    for batch in batches:
        metric.update_state(*batch)
    return {name: float(value) for name, value in metric.result().items()}


@pytest.mark.parametrize("figure", SKLEARNS)
def test_figures_are_sklearns_of_all_samples_together(figure):
    targets, predictions = random_mask(3, 8, 8, 1, share=0.3), RNG.random((3, 8, 8, 1))
    expected = SKLEARNS[figure](targets.ravel(), predictions.ravel() > 0.5)
    batches = (targets[:1], predictions[:1]), (targets[1:], predictions[1:])
    assert measured(ONE, *batches)[figure] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("figure", SKLEARNS)
def test_an_empty_mask_that_is_left_empty_earns_nothing(figure):
    assert np.isnan(measured(ONE, (EMPTY, EMPTY))[figure])
    assert measured(ONE, (EMPTY, FULL))[figure] == 0
    assert measured(ONE, (FULL, EMPTY))[figure] == 0
    empty_and_full = np.concatenate([EMPTY, FULL])
    assert measured(ONE, (empty_and_full, empty_and_full))[figure] == 1
    assert measured(ONE, (empty_and_full, np.zeros_like(empty_and_full)))[figure] == 0


def test_a_sample_without_weight_does_not_count():
    targets, predictions = np.concatenate([EMPTY, FULL]), np.concatenate([FULL, FULL])
    assert measured(ONE, (targets, predictions, np.array([0, 1.0])))["dice"] == 1
    assert measured(ONE, (targets, predictions, np.array([1.0, 1])))["dice"] < 1


@pytest.mark.parametrize("figure", SKLEARNS)
def test_figures_of_several_labels_take_the_likeliest(figure):
    labels, shares = RNG.integers(0, 4, (2, 6, 6)), RNG.random((2, 6, 6, 4), dtype=np.float32)
    found, guess = measured(SEVERAL, (labels, shares)), shares.argmax(-1)
    for area, members in SEVERAL.items():
        truth, seen = (np.isin(array, members).ravel() for array in (labels, guess))
        value = found[f"{figure}_{area.replace(' ', '_')}"]
        assert value == pytest.approx(SKLEARNS[figure](truth, seen), rel=1e-5)
        outside = sk.recall_score(~truth, ~seen, zero_division=1 - (~seen).any())
        assert found[f"specificity_{area.replace(' ', '_')}"] == pytest.approx(outside, rel=1e-5)
    each = [found[f"{figure}_{area}"] for area in ("one", "two", "three")]
    assert found[figure] == pytest.approx(np.mean(each))
    assert found["accuracy"] == pytest.approx((labels == guess).mean())
    assert found["positive"] == pytest.approx((guess > 0).mean(), rel=1e-5)


def test_a_label_that_is_nowhere_does_not_count_in_the_mean():
    labels, shares = np.array([[0, 1, 1, 3]]), np.eye(4, dtype=np.float32)[[[0, 1, 0, 3]]]
    found = measured(SEVERAL, (labels, shares))
    assert np.isnan(found["dice_two"])
    assert found["dice"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_region_does_not_ask_which_of_its_labels_it_was():
    labels, shares = np.array([[1, 1, 3, 0]]), np.eye(4, dtype=np.float32)[[[3, 3, 1, 0]]]
    found = measured(SEVERAL, (labels, shares))
    assert (found["dice_one"], found["dice_three"], found["dice_one_and_three"]) == (0, 0, 1)


def test_the_confusion_matrix_has_the_truth_in_its_rows():
    labels, shares = np.array([[0, 1, 2, 2]]), np.eye(3, dtype=np.float32)[[[0, 2, 2, 0]]]
    counts = confusion(*to_shares(labels, shares))
    np.testing.assert_array_equal(counts[0], [[1, 0, 0], [0, 0, 1], [1, 0, 1]])


def test_training_reports_the_figures_by_name_in_float32():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        network = build_unet((8, 8, 1), width=2, depth=1)
        metric = Confusion(ONE)
        network.compile(None, LOSSES["dice"], metrics=[metric], jit_compile=False)
        batch = RNG.random((2, 8, 8, 1)), random_mask(2, 8, 8, 1)
        row = network.test_on_batch(*batch, return_dict=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert set(row) == {"loss", *SKLEARNS, "positive"}
    assert metric.counts.dtype == "float32"


def test_a_loss_of_a_batch_that_was_filled_up_is_that_of_its_samples():
    targets, predictions = np.concatenate([FULL, EMPTY]), np.concatenate([FULL, FULL])
    loss = LOSSES["dice"](targets, predictions, sample_weight=np.array([1, 0.0]))
    assert float(loss) == pytest.approx(0, abs=1e-6)


# ---- scores of a finished mask


@pytest.mark.parametrize("shape", [(30, 20), (9, 10, 11)])
def test_scores_are_sklearns(shape):
    mask, prediction = random_mask(*shape), random_mask(*shape)
    true, guess = mask.ravel(), prediction.ravel()
    assert scores(mask, prediction * 255) == pytest.approx(
        {
            "Accuracy": sk.accuracy_score(true, guess),
            "F1": sk.f1_score(true, guess),
            "Jaccard": sk.jaccard_score(true, guess),
            "Recall": sk.recall_score(true, guess),
            "Precision": sk.precision_score(true, guess),
        }
    )


def test_scores_of_empty_masks():
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert set(scores(empty, empty).values()) == {1}
    assert set(scores(empty, full).values()) == {0}
    assert set(scores(full, empty).values()) == {0}
    assert list(scores(full, full)) == ["Accuracy", "F1", "Jaccard", "Recall", "Precision"]


def test_scores_of_two_grids_are_refused():
    with pytest.raises(InputError, match=r"\(3, 4\).*\(4, 3\)"):
        scores(np.ones((3, 4)), np.ones((4, 3)))


def cube(start, size=20, grid=40):
    mask = np.zeros((grid,) * len(start), bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


@pytest.mark.parametrize("axis", range(3))
def test_a_cube_moved_along_one_axis(axis):
    # Two of the six faces now lie 6 voxels away. They are more than 5 % of the surface, so HD95 is
    # that distance. The four others coincide over 54 of their 60 voxels; at this spacing nothing
    # else comes within 1 mm. The library rounds the edges off, hence the tolerance.
    spacing, moved = (2.0, 3.0, 4.0), [10, 10, 10]
    moved[axis] += 6
    a, b = (cube(start, size=60, grid=80) for start in ([10, 10, 10], moved))
    found = surface_scores(a, b, spacing)
    assert found["HD95"] == pytest.approx(6 * spacing[axis])
    far, *others = spacing[axis], *np.delete(spacing, axis)
    across, along = np.prod(others), far * np.sum(others)
    assert found["NSD"] == pytest.approx(0.9 * along / (across + along), abs=0.015)


def test_a_square_moved_along_one_axis():
    found = surface_scores(cube((10, 10)), cube((10, 13)), (5.0, 0.5))
    assert found["HD95"] == pytest.approx(1.5)
    assert surface_scores(cube((10, 10)), cube((10, 13)), (5.0, 0.5), 1.5)["NSD"] == 1


def test_tolerance_is_in_mm():
    a, b = cube((10, 10, 10)), cube((12, 10, 10))
    assert surface_scores(a, b, (1.5, 1, 1), tolerance=2.9)["NSD"] < 0.85
    assert surface_scores(a, b, (1.5, 1, 1), tolerance=3.0)["NSD"] == 1


def test_equal_masks_touch_everywhere_also_at_the_border():
    for mask in (cube((0, 0, 0)), cube((20, 20, 20)), np.ones((5, 6, 7), bool)):
        assert surface_scores(mask, mask, (0.7, 0.7, 3.0)) == {"HD95": 0.0, "NSD": 1.0}


def test_the_distance_is_that_of_simpleitk():
    a, b = cube((10, 10, 10)), cube((10, 10, 10)) | cube((9, 9, 9), size=27)
    spacing = (0.5, 1.0, 2.5)
    images = [sitk.GetImageFromArray(m.astype(np.uint8).transpose()) for m in (a, b)]
    for image in images:
        image.SetSpacing(spacing)
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    found = surface_scores(a, b, spacing)["HD95"]  # most of two faces lies 6 x 2.5 mm away
    assert 0.95 * hausdorff.GetHausdorffDistance() > found >= 6 * 2.5
    assert surface_scores(b, a, spacing)["HD95"] == found


def test_surface_scores_of_empty_masks():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    for mask, prediction, share in ((empty, empty, 1), (empty, full, 0), (full, empty, 0)):
        found = surface_scores(mask, prediction, (1, 1, 1))
        assert np.isnan(found["HD95"]) and found["NSD"] == share


def test_region_scores_are_scores_and_the_distance():
    a, b = cube((10, 10, 10)), cube((12, 10, 10))
    found = region_scores(a, b, (1.5, 1, 1))
    assert found.items() >= scores(a, b).items()
    assert found["HD95"] == surface_scores(a, b, (1.5, 1, 1))["HD95"] == pytest.approx(3)
    negative, predicted = ~a.ravel(), ~b.ravel()
    assert found["Specificity"] == pytest.approx(sk.recall_score(negative, predicted))


def test_regions_that_are_empty_are_scored_as_in_brats():
    empty, small = np.zeros((40, 40, 40), bool), cube((10, 10, 10), size=1)
    assert set(region_scores(empty, empty, (1, 1, 1)).items()) >= {("F1", 1), ("HD95", 0)}
    for pair in ((empty, small), (small, empty)):
        assert set(region_scores(*pair, (1, 1, 1)).items()) >= {("F1", 0), ("HD95", MISSED)}
    assert pytest.approx(np.linalg.norm([240, 240, 155]), abs=0.005) == MISSED


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, float("nan"))])
def test_spacing_must_fit_the_mask(spacing):
    with pytest.raises(InputError, match="spacing"):
        surface_scores(np.ones((4, 4, 4)), np.ones((4, 4, 4)), spacing)


def test_the_library_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surface_scores(cube((1, 1)), cube((2, 2)), (1, 1))


def test_every_loss_function_is_within_reach_of_the_command_line():
    functions = {loss.function for loss in LOSSES.values()}
    assert dice_loss in functions and len(functions) == len(LOSSES)
