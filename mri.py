"""An MRI of several modalities on its way to labels: read, brought to a network's cubes, and back.

    source = read_mri("BraTS2021_00000", card)             # z-scored within the brain
    cubes, grid = to_cubes(source, card)                   # (X, Y, Z, C), as in training
    shares = in_patches(predict, cubes, (128, 128, 128))   # (X, Y, Z, classes)
    labels = to_labels(shares, grid, source)               # on the case's own voxels

`card` is the model's: channels, normalisation and labels are those that it was trained on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import data
from cases import (
    MASK_NAME,
    PICTURES,
    SCANS,
    Case,
    channels,
    find_case,
    kind_of,
    read_case,
    stem,
)
from errors import InputError

if TYPE_CHECKING:  # as in pred.py
    from volume import Grid, Volume

OVERLAP = 0.5  # of neighbouring patches
BELL = 1 / 8  # of a patch's width: the spread of the weights with which patches are blended


@dataclass(frozen=True, eq=False)
class MRI:
    """A case as a network sees it.

    scan: its grid (the first modality); seen: (X, Y, Z, C) float32 in [0, 1] on the scan's
    canonical voxels, 0 outside the brain.
    """

    scan: Volume
    seen: np.ndarray

    @property
    def shown(self) -> Volume:
        """The first modality in grey, uint8, for who looks at it."""
        return replace(self.scan, hu=np.rint(255 * self.seen[..., 0]).astype(np.uint8))


def channel_of(name: str, card: dict) -> str:
    """Which of the card's modalities a file is by its name; "" for none of them."""
    wanted = channels(card)
    kind = kind_of(name, wanted, data.to_names(card.get("names", ())))[0]
    return kind if kind in wanted else ""


def case_inputs(folder: Path, card: dict) -> list[Path]:
    """The folder, if it holds a file of one of the card's modalities; else the pictures in it, and
    the same of all folders below. Raises InputError for a folder that holds none."""
    found = _case_inputs(folder, card)
    if not found:
        raise InputError(f"{folder} holds no file of {' or '.join(channels(card))}, and no picture")
    return found


def _case_inputs(folder: Path, card: dict) -> list[Path]:
    inside = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    scans = [p for p in inside if p.name.lower().endswith(SCANS)]
    if any(channel_of(p.name, card) for p in scans):
        return [folder]
    pictures = [p for p in inside if p.name.lower().endswith(PICTURES)
                and not MASK_NAME.search(stem(p).lower())]  # fmt: skip
    below = [q for p in inside if p.is_dir() for q in _case_inputs(p, card)]
    return pictures + below


def read_mri(case: Case | str | Path, card: dict) -> MRI:
    """A case, or the one in a folder, with the modalities that the card names.

    Raises InputError when one is missing or cannot be used.
    """
    if not isinstance(case, Case):
        case = find_case(case, channels(card), data.to_names(card.get("names", ())))
    scan, image = read_case(case)
    return MRI(scan, data.normalise(image, card["normalise"]))


def to_cubes(source: MRI, card: dict) -> tuple[np.ndarray, Grid]:
    """An MRI on the cubes that the network was trained on, (X, Y, Z, C), and their grid.

    Slices are of the whole scan, volumes of the brain's box, and at least of the network's own
    shape. Where the card names no spacing, it is that at which the whole fits this shape.
    """
    from volume import box_of, straighten, whole_box

    *shape, _ = card["input_shape"]
    is_volume = len(shape) == 3
    shape = np.array([n or 0 for n in (shape if is_volume else shape[:1] * 3)])
    brain = source.seen.any(axis=-1)
    low, high = box_of(brain, source.scan) if is_volume else whole_box(source.scan)
    spacing = card.get("spacing_mm")
    if not spacing:
        spacing = ((high - low) / shape).max() if shape.all() else source.scan.spacing.min()
    count = np.ceil((high - low) / spacing - 1e-3)
    count = np.maximum(count, shape) if is_volume else count
    # by whole voxels from the box, so that voxels of this very size are not resampled
    start = low - np.floor((spacing * count - (high - low)) / 2 / spacing + 1e-3) * spacing
    box = np.stack([start, start + spacing * count])
    parts = [straighten(part, source.scan, float(spacing), box, outside=0)
             for part in np.moveaxis(source.seen, -1, 0)]  # fmt: skip
    return np.stack([cubes for cubes, _ in parts], axis=-1), parts[0][1]


def in_patches(predict: Callable, cubes: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """predict(part) of patches of the cubes (X, Y, Z, C), blended to one answer (X, Y, Z, ...).

    Patches overlap by half, and their weights fall off from the middle like a Gaussian (Isensee et
    al., nnU-Net, Nature Methods 2021). Cubes no larger than `patch` (3,) are one of them.
    """
    patch = np.minimum(patch, cubes.shape[:3])
    weight, total = bell(patch), 0.0
    weights = np.zeros(cubes.shape[:3], np.float32)
    for place in places(cubes.shape[:3], patch):
        found = predict(cubes[place])
        if not np.ndim(total):
            total = np.zeros((*cubes.shape[:3], *found.shape[3:]), np.float32)
        shown = weight.reshape(*weight.shape, *[1] * (found.ndim - 3))
        total[place] += shown * found
        weights[place] += weight
    total /= weights.reshape(*weights.shape, *[1] * (total.ndim - 3))  # no second copy of it all
    return total


def places(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[slice, ...]]:
    """Where patches lie in a volume: evenly, from face to face, overlapping by OVERLAP or more."""
    lines = []
    for size, width in zip(shape, patch, strict=True):
        count = 1 + math.ceil((size - width) / (width * (1 - OVERLAP)))
        starts = np.rint(np.linspace(0, size - width, count)).astype(int).tolist()
        lines.append([slice(start, start + width) for start in starts])
    return list(itertools.product(*lines))


def bell(patch: Sequence[int]) -> np.ndarray:
    """Weights (X, Y, Z) float32 of a patch: 1 in the middle, next to nothing in the corners."""
    lines = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (BELL * n)) ** 2) / 2) for n in patch]
    x, y, z = (np.maximum(line, 1e-3).astype(np.float32) for line in lines)
    return x[:, None, None] * y[:, None] * z


def to_labels(shares: np.ndarray, grid: Grid, source: MRI) -> np.ndarray:
    """The labels (X, Y, Z), uint8 from 1, on the MRI's own voxels; none lies outside the brain.

    `shares` are the probabilities of the classes, (X, Y, Z, classes), or of the only label.
    """
    from volume import regions, unstraighten

    labels = np.zeros_like(source.scan.hu, np.uint8)
    parts = np.moveaxis(shares, -1, 0) if shares.ndim == 4 else [shares]
    for region in regions(grid, source.scan):
        labels[region] = likeliest([unstraighten(p, grid, source.scan, region) for p in parts])
    return labels * source.seen.any(axis=-1)


def likeliest(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Labels, uint8, from the probabilities of all classes, or of the only label."""
    return (parts[0] > 0.5 if len(parts) == 1 else np.argmax(parts, axis=0)).astype(np.uint8)
