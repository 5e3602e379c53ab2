"""Losses and metrics of training, and the scores of a finished mask.

A loss is computed on each sample (slice or volume) and then averaged, so that a small brain counts
as much as a large one; those called batch_ take all samples of a step as one. Metrics count the
voxels of all samples together: train.py asks for them by case. Scores are of one mask; mask and
prediction both empty score 1, only one of them empty 0.

Losses and metrics take targets (B, ..., 1) in 0..1 for one class. For several classes they take
integer labels (B, ...) or (B, ..., 1), or shares (B, ..., C); predictions are probabilities
(B, ..., C). With several classes, overlap is averaged over the labels, leaving class 0 (the
background) out. All is computed in float32.

Losses give (B,), a value for each sample. They take `weights`, one for each label (1 for the
background), and `background`: whether class 0 counts. By default it counts in cross-entropy and
focal loss, and not in Dice and IoU. With one class neither option changes anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import surface_distance
from numpy.typing import ArrayLike

from common.errors import InputError, quietly

with quietly():
    import keras
    from keras import ops

Tensor = Any  # of Keras' backend, or an array of NumPy
Weights = Sequence[float] | None

SMOOTH = 1.0  # voxels, as is usual: two empty masks cost 0, and no gradient divides by 0
GAMMA = 2.0  # of the focal loss: its authors' best
MISSED = 373.13  # mm: the diagonal of BraTS' scans, 240 x 240 x 155 voxels of 1 mm


# ---- losses


def dice_loss(target, prediction, weights: Weights = None, background: bool = False) -> Tensor:
    """1 - Dice, with the sum of min(target, prediction) as the intersection.

    For targets of 0 and 1 that is the product. For those between, only the minimum is best at
    prediction = target (Wang et al., Dice Semimetric Losses, MICCAI 2023).
    """
    both, in_target, in_prediction = _sums(*to_shares(target, prediction))
    dice = (2 * both + SMOOTH) / (in_target + in_prediction + SMOOTH)
    return 1 - _class_mean(dice, weights, background)


def batch_dice_loss(
    target, prediction, weights: Weights = None, background: bool = False
) -> Tensor:
    """`dice_loss` of all samples of the batch together, the same (B,) for each.

    A label that is missing in most slices is then not forgotten: its few voxels count in every
    step, and an empty slice alone does not ask for nothing (the batch Dice of nnU-Net, Isensee et
    al., Nature Methods 2021).
    """
    sums = _sums(*to_shares(target, prediction))
    both, in_target, in_prediction = (_sum_over_batch(part) for part in sums)
    dice = (2 * both + SMOOTH) / (in_target + in_prediction + SMOOTH)
    loss = 1 - _class_mean(dice, weights, background)
    return ops.repeat(loss, ops.shape(prediction)[0], axis=0)


def iou_loss(target, prediction, weights: Weights = None, background: bool = False) -> Tensor:
    """1 - Jaccard, with the intersection of `dice_loss`
    (Wang et al., Jaccard Metric Losses, NeurIPS 2023)."""
    both, in_target, in_prediction = _sums(*to_shares(target, prediction))
    iou = (both + SMOOTH) / (in_target + in_prediction - both + SMOOTH)
    return 1 - _class_mean(iou, weights, background)


def cross_entropy(target, prediction, weights: Weights = None, background: bool = True) -> Tensor:
    """Mean over the voxels of -log(probability of the true class), times that class's weight."""
    target, prediction = to_shares(target, prediction)
    return _voxel_mean(_surprise(target, prediction), target, weights, background)


def focal_loss(target, prediction, weights: Weights = None, background: bool = True) -> Tensor:
    """Cross-entropy weighted by (1 - probability of the true class)**GAMMA
    (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; `weights` are its alpha)."""
    target, prediction = to_shares(target, prediction)
    truth = ops.sum(target * prediction, axis=-1)
    if prediction.shape[-1] == 1:
        truth = truth + ops.sum((1 - target) * (1 - prediction), axis=-1)
    doubt = ops.clip(1 - truth, 0, 1)  # a softmax may add up to a little more than 1
    focal = doubt**GAMMA * _surprise(target, prediction)
    return _voxel_mean(focal, target, weights, background)


def dice_cross_entropy(target: Tensor, prediction: Tensor, **options) -> Tensor:
    """Sum of `dice_loss` and `cross_entropy`."""
    return dice_loss(target, prediction, **options) + cross_entropy(target, prediction, **options)


def batch_dice_cross_entropy(target: Tensor, prediction: Tensor, **options) -> Tensor:
    """Sum of `batch_dice_loss` and `cross_entropy`."""
    dice = batch_dice_loss(target, prediction, **options)
    return dice + cross_entropy(target, prediction, **options)


def dice_focal(target: Tensor, prediction: Tensor, **options) -> Tensor:
    """Sum of `dice_loss` and `focal_loss`."""
    return dice_loss(target, prediction, **options) + focal_loss(target, prediction, **options)


class SampleLoss(keras.losses.Loss):
    """One of the functions above with its options, for compile().

    Keras squeezes the class axis off the prediction when it is given a bare function and the target
    has no such axis. Its mean by weight is of each device's part of a batch, which may be filled up
    and weigh nothing; ours is of the whole batch.
    """

    def __init__(self, function: Callable[..., Tensor], **options):
        super().__init__(name=function.__name__, reduction="sum")
        self.function, self.options = function, options

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight=None) -> Tensor:
        if sample_weight is None:
            sample_weight = ops.ones(ops.shape(y_pred)[0])
        weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        share = weight / _sum_over_batch(weight)
        return super().__call__(y_true, y_pred, share[:, 0])

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.function(y_true, y_pred, **self.options)


LOSSES = {
    function.__name__.removesuffix("_loss"): SampleLoss(function)
    for function in (
        *(dice_loss, iou_loss, cross_entropy, focal_loss, dice_cross_entropy, dice_focal),
        *(batch_dice_loss, batch_dice_cross_entropy),
    )
}


def make_loss(name: str, weights: Weights = None, background: bool | None = None) -> SampleLoss:
    """The loss called `name` in LOSSES with these options; an option of None keeps its default.

    Raises InputError for a loss that would never see a voxel painted where there is nothing.
    """
    if background is False and name in ("cross_entropy", "focal"):
        raise InputError(
            f"without background, {name} never learns where nothing is: "
            f"take dice_{name}, or count the background"
        )
    given = {"weights": weights, "background": background}
    options = {key: value for key, value in given.items() if value is not None}
    return SampleLoss(LOSSES[name].function, **options)


def to_shares(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Target and prediction as float32 (B, ..., C)."""
    prediction = ops.cast(prediction, "float32")
    target = ops.convert_to_tensor(target)
    classes = prediction.shape[-1]
    if len(target.shape) == len(prediction.shape) - 1:
        target = ops.expand_dims(target, -1)
    if classes > 1 and target.shape[-1] == 1:
        target = ops.one_hot(ops.cast(target[..., 0], "int32"), classes)
    return ops.cast(target, "float32"), prediction


def _sums(target, prediction):
    """Number of voxels in both, in the target and in the prediction: (B, C) each."""
    axes = tuple(range(1, len(prediction.shape) - 1))
    parts = (ops.minimum(target, prediction), target, prediction)
    return [ops.sum(part, axis=axes) for part in parts]


def _sum_over_batch(values):
    """Sums (1, C) of values (B, C) over the whole batch.

    Where devices share a batch, TensorFlow shows each its own part alone; JAX shows all.
    """
    total = ops.sum(values, axis=0, keepdims=True)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica and replica.num_replicas_in_sync > 1:
            total = replica.all_reduce("SUM", total)
    return total


def _class_weights(classes, weights, background):
    """Weight of each class, (C,) float32, the background first; [1] for a single class."""
    if classes == 1:
        return np.ones(1, np.float32)
    weights = np.ones(classes - 1) if weights is None else weights
    if len(weights) != classes - 1:
        raise InputError(f"{len(weights)} weights for {classes - 1} labels: give one for each")
    return np.array([float(background), *weights], np.float32)


def _class_mean(values, weights, background):
    """The weighted mean (B,) over the classes of values (B, C)."""
    counted = _class_weights(values.shape[-1], weights, background)
    return ops.sum(values * (counted / counted.sum()), axis=-1)


def _surprise(target, prediction):
    """Cross-entropy of each voxel (B, ...).

    Keras takes the logits behind a network's own output, so that a voxel that is surely wrong still
    has a gradient. It clips any other prediction at 1e-7.
    """
    if prediction.shape[-1] == 1:
        return ops.binary_crossentropy(target, prediction)[..., 0]
    return ops.categorical_crossentropy(target, prediction)


def _voxel_mean(values, target, weights, background):
    """The mean (B,) over the voxels of values (B, ...), each times the weight of its true class."""
    counted = _class_weights(target.shape[-1], weights, background)
    if not (counted == 1).all():
        values = values * ops.sum(target * counted, axis=-1)
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


# ---- metrics for compile(), of the mask at probability 0.5 or of the likeliest class


class Confusion(keras.metrics.Metric):
    """The figures of all samples together, {name: value}: see `to_figures`.

    Voxels are counted over the samples before anything is divided, so that an empty slice that is
    left empty earns nothing. `areas` are {name: labels}, the first ones the labels themselves, from
    1 on. A sample's weight multiplies its counts; 0 leaves out what only fills up a batch.
    """

    def __init__(self, areas: dict[str, Sequence[int]], name: str = "confusion", **options):
        super().__init__(name=name, **options)
        self.areas = areas
        classes = 1 + max(max(labels) for labels in areas.values())
        self.counts = self.add_weight(
            shape=(classes, classes), initializer="zeros", name="counts", dtype="float32"
        )

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight=None) -> None:
        counts = confusion(*to_shares(y_true, y_pred))
        if sample_weight is not None:
            counts = counts * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1, 1))
        self.counts.assign_add(ops.sum(counts, axis=0))

    def result(self) -> dict[str, Tensor]:
        return to_figures(ops.convert_to_tensor(self.counts), self.areas)


def confusion(target: Tensor, prediction: Tensor) -> Tensor:
    """Voxels (B, C, C) of each class of the target (rows) that were taken for each (columns).

    Both arguments are shares (B, ..., C), and the largest decides. A single class becomes two
    (C is 2): outside, and inside where its share is over one half. Exact up to 2**24 voxels.
    """
    target, prediction = (_decided(shares) for shares in (target, prediction))
    return ops.matmul(ops.transpose(target, (0, 2, 1)), prediction)


def _decided(shares):
    """0 or 1 for each class, (B, voxels, C), of shares (B, ..., C); a single class becomes two."""
    classes = shares.shape[-1]
    if classes == 1:
        found = ops.cast(shares > 0.5, "float32")
        decided, classes = ops.concatenate([1 - found, found], axis=-1), 2
    else:
        decided = ops.one_hot(ops.argmax(shares, axis=-1), classes, dtype="float32")
    return ops.reshape(decided, (ops.shape(shares)[0], -1, classes))


def to_figures(counts: Tensor, areas: dict[str, Sequence[int]]) -> dict[str, Tensor]:
    """The figures of a confusion matrix (C, C), as scalars.

    dice, iou, precision and recall are means over the labels. With several areas there are also
    specificity, accuracy and each figure of each area, such as dice_whole_tumour; an area of
    several labels is taken as one. positive is the share of voxels that are predicted as a label.
    Where neither truth nor prediction has any of an area, its figures are NaN, and means leave it
    out.
    """
    ratios = RATIOS if len(areas) > 1 else {n: RATIOS[n] for n in RATIOS if n != "specificity"}
    found = {
        (name, area): ratio(*count_area(counts, labels))
        for name, ratio in ratios.items()
        for area, labels in areas.items()
    }
    of_labels = list(areas)[: counts.shape[0] - 1]
    figures = {n: _mean_of_known([found[n, area] for area in of_labels]) for n in ratios}
    total = ops.sum(counts)
    figures["positive"] = 1 - ops.sum(counts[:, 0]) / total
    if len(areas) == 1:
        return figures
    of_areas = {f"{n}_{area.replace(' ', '_')}": value for (n, area), value in found.items()}
    return figures | {"accuracy": ops.trace(counts) / total} | of_areas


def count_area(counts: Tensor, labels: Sequence[int]) -> tuple[Tensor, ...]:
    """Voxels of an area in both, in the target, in the prediction, and all, from (C, C) counts.

    NaN in both where neither target nor prediction has any.
    """
    member = np.zeros(counts.shape[0], np.float32)  # 1 for the classes of the area
    member[list(labels)] = 1
    in_target = ops.sum(ops.sum(counts, axis=1) * member)
    in_prediction = ops.sum(ops.sum(counts, axis=0) * member)
    both = ops.sum(counts * np.outer(member, member))
    both = ops.where(in_target + in_prediction == 0, np.nan, both)
    return both, in_target, in_prediction, ops.sum(counts)


RATIOS = {
    # 2 |A and B| / (|A| + |B|), also called F1
    "dice": lambda both, target, found, _: 2 * both / ops.maximum(target + found, 1),
    # |A and B| / |A or B|, the Jaccard index
    "iou": lambda both, target, found, _: both / ops.maximum(target + found - both, 1),
    # the share of the prediction that is right
    "precision": lambda both, _, found, __: both / ops.maximum(found, 1),
    # the share of the target that is found, the sensitivity
    "recall": lambda both, target, _, __: both / ops.maximum(target, 1),
    # the share of the outside that the prediction leaves out
    "specificity": lambda both, target, found, voxels: (
        (voxels - target - found + both) / ops.maximum(voxels - target, 1)
    ),
}


def _mean_of_known(values):
    """The mean of some scalars but those that are NaN; NaN where all are."""
    values = ops.stack(values)
    known = ops.cast(~ops.isnan(values), "float32")
    return ops.sum(ops.where(ops.isnan(values), 0.0, values)) / ops.where(
        ops.sum(known) == 0, np.nan, ops.sum(known)
    )


# ---- scores of a finished mask


def scores(mask: ArrayLike, prediction: ArrayLike) -> dict[str, float]:
    """Accuracy, F1 (the Dice), Jaccard, Recall and Precision of one mask, each in 0..1.

    `mask` is the truth; both are arrays of one shape, nonzero inside. Both empty: all 1. One
    empty: 0 for all but Accuracy. Raises InputError when the shapes differ.
    """
    mask, prediction = _masks(mask, prediction)
    # sklearn gives the same (see the tests), but takes a minute on a large scan
    both, in_mask, in_prediction = map(np.count_nonzero, (mask & prediction, mask, prediction))
    either = in_mask + in_prediction - both

    def ratio(part, whole):
        return 1.0 if either == 0 else part / max(whole, 1)

    return {
        "Accuracy": 1 - (either - both) / max(mask.size, 1),
        "F1": ratio(2 * both, in_mask + in_prediction),
        "Jaccard": ratio(both, either),
        "Recall": ratio(both, in_mask),
        "Precision": ratio(both, in_prediction),
    }


def surface_scores(
    mask: ArrayLike, prediction: ArrayLike, spacing: Sequence[float], tolerance: float = 1.0
) -> dict[str, float]:
    """HD95 in mm and NSD (surface Dice, 0..1, at `tolerance` mm) of one 2-D or 3-D mask.

    `spacing` is the size of a pixel or voxel in mm along each axis of the arrays. HD95 is the
    larger of the two directions' 95th percentiles of distance, NSD the share of both surfaces
    that lies within the tolerance of the other, both weighted by surface area
    (Nikolov et al., JMIR 2021, https://doi.org/10.2196/26151; their library computes it).
    HD95 is NaN when either mask is empty; NSD is then 1 for two empty masks, else 0. Raises
    InputError when the shapes differ, or when spacing is not one length above 0 for each axis.
    """
    mask, prediction = _masks(mask, prediction)
    spacing = tuple(float(step) for step in spacing)
    whole = len(spacing) == mask.ndim and all(step > 0 for step in spacing)
    if mask.ndim not in (2, 3) or not whole:
        raise InputError(f"a mask of shape {mask.shape} has no surface at spacing {spacing} mm")
    if not (mask.any() and prediction.any()):
        return {"HD95": float("nan"), "NSD": float(mask.any() == prediction.any())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library's old scipy names
        distances = surface_distance.compute_surface_distances(mask, prediction, spacing)
    return {
        "HD95": float(surface_distance.compute_robust_hausdorff(distances, 95)),
        "NSD": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)),
    }


def region_scores(mask: ArrayLike, prediction: ArrayLike, spacing) -> dict[str, float]:
    """`scores`, Specificity and HD95 in mm of a tumour's region, by BraTS' rule for empty ones.

    Both empty: Dice 1 and HD95 0; one empty: Dice 0 and HD95 MISSED (as in nnU-Net's evaluation for
    BraTS 2020, Isensee et al., BrainLes 2020, https://arxiv.org/abs/2011.00848, and its code,
    Task082_BraTS_2020.py). Else HD95 is that of `surface_scores`. Raises InputError as that does.
    """
    mask, prediction = _masks(mask, prediction)
    outside = np.count_nonzero(~mask)
    found = scores(mask, prediction)
    found["Specificity"] = np.count_nonzero(~mask & ~prediction) / outside if outside else 1.0
    if mask.any() and prediction.any():
        found["HD95"] = surface_scores(mask, prediction, spacing)["HD95"]
    else:
        found["HD95"] = MISSED if mask.any() != prediction.any() else 0.0
    return found


def _masks(mask: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as bool; InputError when their shapes differ."""
    mask, prediction = np.asarray(mask) != 0, np.asarray(prediction) != 0
    if mask.shape != prediction.shape:
        raise InputError(
            f"the mask's shape {mask.shape} is not the prediction's {prediction.shape}: "
            "score masks of one grid"
        )
    return mask, prediction
