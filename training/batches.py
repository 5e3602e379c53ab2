"""Batches of a dataset folder for Keras, read and augmented by threads while the network trains.

train_pairs, val_pairs = read_pairs("files/dataset")
check_masks(train_pairs, seed=0)                              # InputError if nothing is in them
batches = TrainingSlices(train_pairs, 160, 32, WINDOW)        # size, batch, window in HU
images, masks, weights = batches[0]
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError, quietly, warn
from dataset.read import Pair, name_folders, read_dataset, read_pair
from scan.mask_picture import read_noted_mask_picture
from scan.views import air_of, fit_labels, fit_square, normalise
from training.augment import augment_sample, cut_patch

with quietly():
    import keras

KEPT_VOLUMES = 64  # read last: of BraTS 1 GB
WHOLE = 0.95  # of a picture, a round number: what is to be found never fills one


class Slices(keras.utils.PyDataset):
    """Batches (image, mask, weight) of a list of pairs in order, float32 in [0, 1].

    Images are (batch, size, size, channels) for slices. Of volumes, whose `size` is (X, Y, Z), they
    are the patches (batch, X, Y, Z, channels) that tile each, black beyond it. Masks are as large
    and have one channel, which holds the label where there are several. Every batch is full, since
    each size of a batch would be compiled anew: copies of the last sample, whose weight is 0, fill
    up the last one; other weights are 1. `window` in HU is for pictures that hold HU. `workers`
    threads read.
    """

    def __init__(self, pairs: Sequence[Pair], size, batch: int, window, workers: int = 2):
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=2 * workers)
        self.pairs, self.size, self.batch, self.window = pairs, size, batch, window
        self.busy = 0.0  # seconds that the threads spent here
        self.error = None  # TensorFlow hides a thread's exception in one of its own

    @functools.cached_property
    def parts(self) -> list[tuple[Pair, tuple[int, ...] | None]]:
        """The samples in order: a pair, and where a patch begins in it."""
        return [(pair, start) for pair in self.pairs for start in place_tiles(pair, self.size)]

    def __len__(self) -> int:
        return math.ceil(len(self.parts) / self.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start = time.perf_counter()
        try:
            samples = [self.sample(number) for number in self.numbers(index)]
        except Exception as error:
            self.error = error
            raise
        weights = np.arange(self.batch) < len(samples)
        samples += [samples[-1]] * (self.batch - len(samples))
        self.busy += time.perf_counter() - start
        return *stack_samples(samples), weights.astype(np.float32)

    def spread(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch of at most `most` samples, spread evenly over the list."""
        chosen = np.linspace(0, len(self.parts) - 1, min(most, len(self.parts))).astype(int)
        return stack_samples([self.sample(number) for number in chosen])

    def numbers(self, index: int) -> range:
        """The numbers of the samples in a batch."""
        return range(index * self.batch, min((index + 1) * self.batch, len(self.parts)))

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask, fitted and normalised as for a prediction."""
        pair, start = self.parts[number]
        image, mask = read_kept(pair)
        if mask.ndim == 3:
            image, mask = (cut_patch(array, start, self.size) for array in (image, mask))
        else:
            image, _ = fit_square(image, self.size, outside=air_of(image))
            if pair.labels > 1:
                mask, _ = fit_labels(mask, self.size)
            else:
                mask, _ = fit_square(mask, self.size, is_mask=True)
        return normalise(image, self.window), mask if pair.labels > 1 else mask > 0


class TrainingSlices(Slices):
    """Shuffled and augmented batches, `steps` an epoch (default: once through the pairs).

    A sample depends on the seed and on its number since the run began, and on nothing else. The
    numbers run through the list again and again, shuffled anew each time, however long an epoch is:
    a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(self, *args, steps: int | None = None, seed: int = 0, **options):
        super().__init__(*args, **options)
        self.steps, self.seed = steps or max(1, len(self.pairs) // self.batch), seed
        self.epoch = 0  # set by Progress
        self.order = functools.lru_cache(2)(self.order)

    def __len__(self) -> int:
        return self.steps

    def numbers(self, index: int) -> range:
        first = (self.epoch * self.steps + index) * self.batch
        return range(first, first + self.batch)

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        turn, index = divmod(number, len(self.pairs))
        pair = self.pairs[self.order(turn)[index]]
        rng = np.random.default_rng((self.seed, number))
        return augment_sample(*read_kept(pair), rng, self.size, self.window, pair.labels)

    def order(self, turn: int) -> np.ndarray:
        """The order of the pairs in their `turn`-th shuffle."""
        return np.random.default_rng((self.seed, turn)).permutation(len(self.pairs))


def read_kept(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """As `dataset.read.read_pair`; the volumes read last are kept, for a patch is soon drawn."""
    return read_volume_pair(pair) if pair.view == "volume" else read_pair(pair)


read_volume_pair = functools.lru_cache(KEPT_VOLUMES)(read_pair)


def place_tiles(pair: Pair, size: int | Sequence[int]) -> list[tuple[int, ...] | None]:
    """First voxels of the patches of `size` that tile a pair's volume; [None] for a slice."""
    if isinstance(size, int):
        return [None]
    shape = read_kept(pair)[1].shape
    starts = [range(0, n, side) for n, side in zip(shape, size, strict=True)]
    return list(itertools.product(*starts))


def split_by_case(slices: Slices) -> list[Slices]:
    """The same pairs by case and view, in which a figure of a case is computed; those of no known
    case stay together."""
    groups: dict[tuple, list[Pair]] = {}
    for pair in slices.pairs:
        groups.setdefault((pair.case, pair.view), []).append(pair)
    options = {"size": slices.size, "window": slices.window, "workers": slices.workers}
    return [Slices(pairs, batch=slices.batch, **options) for pairs in groups.values()]


def stack_samples(samples: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of image and mask as one batch, float32, both with an axis of channels."""
    images, masks = (
        np.stack(part).astype(np.float32, copy=False) for part in zip(*samples, strict=True)
    )
    return images if images.ndim > masks.ndim else images[..., None], masks[..., None]


# ---------------------------------------------------------------- pairs and their masks


def read_pairs(
    folder: str | Path, views: Sequence[str] | None = None
) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs of a dataset folder, of some `views` or of all."""
    splits = read_dataset(folder)
    train_pairs, val_pairs = (
        [pair for pair in splits.get(split, []) if not views or pair.view in views]
        for split in ("Train", "Val")
    )
    for split, pairs in (("Train", train_pairs), ("Val", val_pairs)):
        if not pairs:
            asked = f" of the views {' '.join(views)}" if views else ""
            said = f"{folder} has no {split} pairs{asked}; its folders are {name_folders(folder)}"
            advice = f"make a folder {split}, or a dataset of two or more cases with data.py"
            raise InputError(f"{said}: {advice}")
    return train_pairs, val_pairs


def check_masks(
    pairs: Sequence[Pair], seed: int, names: Iterable[str] = ("brain",), count: int = 200
) -> None:
    """Look at some masks before hours are spent; raises InputError if they cannot be learned.

    `names` are the labels'. Pictures of a single label may hold any colour; those of several hold
    the labels themselves.
    """
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = [pairs[index] for index in order[:count]]
    masks = [pair.mask for pair in chosen if pair.labels == 1 and not pair.record]
    mended = [f"{mask}: {note}" for mask in masks for note in read_noted_mask_picture(mask)[1]]
    shares = np.array([label_shares(pair) for pair in chosen])
    if mended:
        said = f"{len(mended)} of {len(chosen)} masks looked at are not 0/1 ({mended[0]})"
        warn(f"{said}; store masks as PNG of 0 and 255")
    whole = [p.mask for p, share in zip(chosen, shares.sum(axis=1), strict=True) if share > WHOLE]
    if whole:
        warn(f"{len(whole)} of {len(chosen)} masks looked at label all of the picture ({whole[0]})")
    if not shares.any():
        raise InputError(
            f"all of the {len(chosen)} masks looked at are empty, so there is nothing to learn; "
            f"look at {chosen[0].mask}"
        )
    for name, share in zip(names, shares.T, strict=True):
        print(
            f"  {np.count_nonzero(share) / len(share):.0%} of {len(share)} masks looked at hold "
            f"{name}, on average {share.mean():.1%} of the picture"
        )


def label_shares(pair: Pair) -> np.ndarray:
    """The share of a pair's mask that each label has; InputError for a label that has no name."""
    mask = read_pair(pair)[1]
    shares = np.bincount(mask.ravel().astype(np.uint8), minlength=pair.labels + 1) / mask.size
    if len(shares) > pair.labels + 1:
        raise InputError(
            f"{pair.mask} holds the label {len(shares) - 1}, its dataset only up to "
            f"{pair.labels}; make the dataset again"
        )
    return shares[1:]
