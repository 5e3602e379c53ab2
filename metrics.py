"""Losses and metrics of training, and the scores of a finished mask.

Everything is computed on each sample (slice or volume) and then averaged, so that a small brain
counts as much as a large one. One rule for empty masks: mask and prediction both empty score 1,
only one of them empty scores 0.

Losses and metrics take targets (B, ..., 1) in 0..1 for one class. For several classes they take
integer labels (B, ...) or (B, ..., 1), or shares (B, ..., C); predictions are probabilities
(B, ..., C). With several classes, overlap is averaged over the labels, leaving class 0 (the
background) out. All is computed in float32.
"""

import warnings

import numpy as np
import surface_distance

from errors import InputError, quietly

with quietly():
    import keras
    from keras import ops

SMOOTH = 1.0  # voxels; two empty masks cost 0, and no gradient divides by 0


# ---- losses, (B,) a sample each


def dice_loss(target, prediction):
    """1 - Dice. The intersection is the sum of min(target, prediction): the product for targets of
    0 and 1, and the only one of the two that is best at prediction = target for those between
    (Wang et al., Dice Semimetric Losses, MICCAI 2023)."""
    both, in_target, in_prediction = _sums(*_pair(target, prediction))
    return 1 - ops.mean((2 * both + SMOOTH) / (in_target + in_prediction + SMOOTH), axis=-1)


def iou_loss(target, prediction):
    """1 - Jaccard, with the intersection of `dice_loss`
    (Wang et al., Jaccard Metric Losses, NeurIPS 2023)."""
    both, in_target, in_prediction = _sums(*_pair(target, prediction))
    return 1 - ops.mean((both + SMOOTH) / (in_target + in_prediction - both + SMOOTH), axis=-1)


def cross_entropy(target, prediction):
    """Mean over the voxels of -log(probability of the true class), background included."""
    return _voxel_mean(_surprise(*_pair(target, prediction)))


def focal_loss(target, prediction, gamma=2.0):
    """Cross-entropy weighted by (1 - probability of the true class)**gamma
    (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, without its alpha)."""
    target, prediction = _pair(target, prediction)
    truth = ops.sum(target * prediction, axis=-1)
    if prediction.shape[-1] == 1:
        truth = truth + ops.sum((1 - target) * (1 - prediction), axis=-1)
    doubt = ops.clip(1 - truth, 0, 1)  # a softmax may add up to a little more than 1
    return _voxel_mean(doubt**gamma * _surprise(target, prediction))


def dice_cross_entropy(target, prediction):
    """Sum of `dice_loss` and `cross_entropy`."""
    return dice_loss(target, prediction) + cross_entropy(target, prediction)


def dice_focal(target, prediction):
    """Sum of `dice_loss` and `focal_loss`."""
    return dice_loss(target, prediction) + focal_loss(target, prediction)


class SampleLoss(keras.losses.Loss):
    """One of the functions above for compile(). (Given a bare function, Keras squeezes the class
    axis off the prediction when the target has none.)"""

    def __init__(self, function):
        super().__init__(name=function.__name__)
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


LOSSES = {
    "dice": SampleLoss(dice_loss),
    "iou": SampleLoss(iou_loss),
    "cross_entropy": SampleLoss(cross_entropy),
    "focal": SampleLoss(focal_loss),
    "dice_cross_entropy": SampleLoss(dice_cross_entropy),
    "dice_focal": SampleLoss(dice_focal),
}


def _pair(target, prediction):
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
    """Voxels in both, in the target, in the prediction: (B, labels) each."""
    axes = tuple(range(1, len(prediction.shape) - 1))
    first = 1 if prediction.shape[-1] > 1 else 0
    parts = (ops.minimum(target, prediction), target, prediction)
    return [ops.sum(part, axis=axes)[:, first:] for part in parts]


def _surprise(target, prediction):
    """Cross-entropy of each voxel (B, ...). Given a network's own output, Keras goes back to the
    logits, so that a voxel surely wrong still has a gradient; else it clips at 1e-7."""
    if prediction.shape[-1] == 1:
        return ops.binary_crossentropy(target, prediction)[..., 0]
    return ops.categorical_crossentropy(target, prediction)


def _voxel_mean(values):
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


# ---- metrics for compile(), of the mask at probability 0.5 or of the likeliest class


class _SampleMean(keras.metrics.Mean):
    def __init__(self, name=None, **options):
        super().__init__(name=name or type(self).__name__.lower(), **options)

    def update_state(self, y_true, y_pred, sample_weight=None):
        target, prediction = (_decided(x) for x in _pair(y_true, y_pred))
        both, in_target, in_prediction = _sums(target, prediction)
        ratio = self.ratio(both, in_target, in_prediction)
        scores = ops.where(in_target + in_prediction == 0, 1.0, ratio)
        return super().update_state(ops.mean(scores, axis=-1), sample_weight)


def _decided(shares):
    """0 or 1 for every class of (B, ..., C)."""
    classes = shares.shape[-1]
    if classes == 1:
        return ops.cast(shares > 0.5, "float32")
    return ops.one_hot(ops.argmax(shares, axis=-1), classes, dtype="float32")


class Dice(_SampleMean):
    """Mean over the samples of 2 |A and B| / (|A| + |B|)."""

    @staticmethod
    def ratio(both, in_target, in_prediction):
        return 2 * both / ops.maximum(in_target + in_prediction, 1)


class IoU(_SampleMean):
    """Mean over the samples of |A and B| / |A or B|, the Jaccard index."""

    @staticmethod
    def ratio(both, in_target, in_prediction):
        return both / ops.maximum(in_target + in_prediction - both, 1)


class Precision(_SampleMean):
    """Mean over the samples of the share of the prediction that is right."""

    @staticmethod
    def ratio(both, in_target, in_prediction):
        return both / ops.maximum(in_prediction, 1)


class Recall(_SampleMean):
    """Mean over the samples of the share of the target that is found."""

    @staticmethod
    def ratio(both, in_target, in_prediction):
        return both / ops.maximum(in_target, 1)


# ---- scores of a finished mask


def scores(mask, prediction) -> dict[str, float]:
    """Accuracy, F1 (the Dice), Jaccard, Recall and Precision of one mask, each in 0..1.

    `mask` is the truth; both are arrays of one shape, nonzero inside. Both empty: all 1. One
    empty: 0 for all but Accuracy. Raises InputError when the shapes differ.
    """
    mask, prediction = _masks(mask, prediction)
    # counted here: sklearn gives the same (see the tests), but takes a minute on a large scan
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


def surface_scores(mask, prediction, spacing, tolerance: float = 1.0) -> dict[str, float]:
    """HD95 in mm and NSD (surface Dice, 0..1, at `tolerance` mm) of one 2-D or 3-D mask.

    `spacing` is the size of a pixel or voxel in mm along each axis of the arrays. HD95 is the
    larger of the two directions' 95th percentiles of distance, NSD the share of both surfaces
    that lies within the tolerance of the other, both weighted by surface area
    (Nikolov et al., JMIR 2021, https://doi.org/10.2196/26151; their library computes it).
    HD95 is not a number when either mask is empty; NSD is then 1 for two empty masks, else 0.
    Raises InputError when the shapes differ, or spacing has not one length above 0 for each axis.
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


def volume_ml(mask, spacing) -> float:
    """Volume of a 3-D mask in mL, of voxels of `spacing` mm."""
    return float(np.count_nonzero(mask) * np.prod(spacing) / 1000)


def _masks(mask, prediction):
    mask, prediction = np.asarray(mask) != 0, np.asarray(prediction) != 0
    if mask.shape != prediction.shape:
        raise InputError(
            f"the mask's shape {mask.shape} is not the prediction's {prediction.shape}: "
            "score masks of one grid"
        )
    return mask, prediction
