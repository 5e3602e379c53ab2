"""The kind of input "tumour": an MRI of several modalities, and its labels.

    source = read_mri("BraTS2021_00000", card)             # z-scored within the brain
    cubes, grid = to_cubes(source, card)                   # (X, Y, Z, C), as in training
    shares = in_patches(predict, cubes, (128, 128, 128))   # (X, Y, Z, classes)
    labels = to_labels(shares, grid, source)               # on the case's own voxels

Channels, normalisation and labels are those of the model's card.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.card import Card
from common.errors import InputError
from common.report import add_legend
from predict.files import (
    describe_scan,
    draw_scan,
    refuse_formats,
    write_maps,
    write_masks,
    write_report,
)
from predict.maps import make_maps
from predict.network import Network
from predict.picture import choose_labels, write_overlay
from predict.result import NOTHING_MORE, Result, Target, Wanted
from scan.cases import Case, find_case, parse_names
from scan.nifti import write_scan
from scan.read import read_case
from scan.resample import straighten, unstraighten
from scan.views import VIEWS, normalise
from scan.volume import (
    Grid,
    Volume,
    cut_slabs,
    measure_box,
    measure_ml,
    measure_whole_box,
    note_volume,
)

OVERLAP = 0.5  # of neighbouring patches
# Of a patch's width: the spread of the weights with which patches are blended, as in nnU-Net
BELL = 1 / 8


@dataclass(frozen=True, eq=False)
class MRI:
    """A case as a network sees it.

    scan: its grid (the first modality); seen: (X, Y, Z, C) float32 in [0, 1] on the scan's
    canonical voxels, 0 outside the brain; channel: the one that people look at.
    """

    scan: Volume
    seen: np.ndarray
    channel: int = 0

    @property
    def shown(self) -> Volume:
        """One modality in grey, uint8, for people to look at."""
        return self.show(self.channel)

    def show(self, channel: int) -> Volume:
        """The modality of that number, as `shown`."""
        return replace(self.scan, hu=np.rint(255 * self.seen[..., channel]).astype(np.uint8))


# ---------------------------------------------------------------- what predict/work.py asks for


def read(path: Path, wanted: Wanted, card: Card) -> MRI:
    """The MRI in a case folder.

    Raises InputError for options that are for brain masks alone, and where DICOM is wanted of a
    case whose first modality, on whose grid the labels lie, is none.
    """
    if path.is_file():
        needed = ", ".join(card.channels)
        raise InputError(f"{path} is one file, and this model looks at {needed}: give their folder")
    if wanted.brain or wanted.border:
        raise InputError(
            f"--brain and --border are for brain masks of CT: leave them out for {path}"
        )
    source = read_mri(path, card)
    refuse_formats(source.scan, wanted)
    return source


def predict(source: MRI, network: Network, wanted: Wanted = NOTHING_MORE) -> Result:
    """The labels of an MRI: by slices whose views are averaged, or by volumes in patches."""
    card = network.card
    cubes, grid = to_cubes(source, card)
    if card.is_3d:
        network.tell("segmenting", 0)
        shares, answers = ask_patches(cubes, network), ask_each_volume(cubes, network)
    else:
        trained = [view for view in card.views or () if view in VIEWS]
        every = dict.fromkeys(trained or VIEWS, 1)
        views = network.in_views(cubes, every)
        shares, answers = sum(views.values()) / len(views), network.each_view(cubes, every)
    labels = to_labels(shares, grid, source)
    maps = None
    if wanted.maps:
        maps = make_maps(wanted, list_parts(shares)[-len(card.labels) :], answers, grid)
    names = ", ".join(card.labels.values())
    notes = () if labels.any() else (f"nothing was found of {names}",)
    return Result(labels, notes=notes, maps=maps)


def write(target: Target, source: MRI, result: Result, wanted: Wanted, card: Card) -> dict:
    """Write the labels and the overlay; return what the JSON says, with the mL of every area."""
    labels, scan = result.mask, source.scan
    files = write_masks(target, scan, labels, wanted, card)
    ml = {
        name: round(measure_ml(np.isin(labels, area), scan), 2) for name, area in card.areas.items()
    }
    names = {label: f"{name}: {ml[name]:.1f} mL" for label, name in card.labels.items()}
    sheet = add_legend(draw_scan(source.shown, labels), names)
    about = {
        **files,
        **write_overlay(target, sheet),
        "volume_ml": round(measure_ml(labels > 0, scan), 1),
        "volumes_ml": ml,
        "label_values": {card.labels[label]: value for label, value in card.label_values.items()},
        **describe_scan(scan),
        **write_maps(target, source.shown, labels, result.maps, card, source.seen.any(axis=-1)),
        "notes": [*scan.notes, *note_volume(scan), *result.notes],
    }
    return about | write_report(target, scan, about, wanted)


def show(source: MRI, folder: Path, card: Card) -> None:
    """Write what a viewer shows below the labels: each modality, by the names that follow."""
    files = enumerate(name_shown(card).values())
    for channel, name in sorted(files, key=lambda file: file[0] != card.shown_channel):
        write_scan(source.show(channel), folder / name)  # the first of them is waited for


def name_shown(card: Card) -> dict[str, str]:
    """{modality: its file in grey}; that which people look at first is `scan.nii.gz`.

    A modality whose name is no word goes by its number.
    """
    words = {
        name: name if re.fullmatch(r"\w+", name, re.ASCII) else str(number)
        for number, name in enumerate(card.channels, 1)
    }
    files = {name: f"channel_{word}.nii.gz" for name, word in words.items()}
    return files | {card.channels[card.shown_channel]: "scan.nii.gz"}


# ---------------------------------------------------------------- from case to labels


def read_mri(case: Case | str | Path, card: Card) -> MRI:
    """A case, or the one in a folder, with the modalities that the card names.

    Raises InputError when one is missing or cannot be used.
    """
    if not isinstance(case, Case):
        case = find_case(case, card.channels, parse_names(card.names))
    scan, image = read_case(case)
    return MRI(scan, normalise(image, card.normalise), card.shown_channel)


def to_cubes(source: MRI, card: Card) -> tuple[np.ndarray, Grid]:
    """An MRI on the cubes that the network was trained on, (X, Y, Z, C), and their grid.

    It is the brain's box, at least as large as the network's own shape. Where the card names no
    spacing, the whole fits this shape: the brain, or for slices the scan, as pictures show it.
    """
    *shape, _ = card.input_shape
    shape = np.array([n or 0 for n in (shape if card.is_3d else shape[:1] * 3)])
    spacing, brain = card.spacing_mm, source.seen.any(axis=-1)
    is_whole = not (card.is_3d or spacing)
    low, high = measure_whole_box(source.scan) if is_whole else measure_box(brain, source.scan)
    if not spacing:
        spacing = ((high - low) / shape).max() if shape.all() else source.scan.spacing.min()
    count = np.ceil((high - low) / spacing - 1e-3)
    count = count if is_whole else np.maximum(count, shape)
    # by whole voxels from the box, so that voxels of this very size are not resampled
    start = low - np.floor((spacing * count - (high - low)) / 2 / spacing + 1e-3) * spacing
    box = np.stack([start, start + spacing * count])
    parts = [
        straighten(part, source.scan, float(spacing), box, outside=0)
        for part in np.moveaxis(source.seen, -1, 0)
    ]
    return np.stack([cubes for cubes, _ in parts], axis=-1), parts[0][1]


def ask_patches(cubes: np.ndarray, network: Network) -> np.ndarray:
    """The probabilities (X, Y, Z[, classes]) of cubes (X, Y, Z, C), in patches of the network's
    own shape."""
    shape = network.card.input_shape
    patch = [n or m for n, m in zip(shape, cubes.shape, strict=True)][:3]
    return in_patches(lambda part: network.probabilities(part[None])[0], cubes, patch)


def ask_each_volume(cubes: np.ndarray, network: Network) -> Iterator[np.ndarray]:
    """The probabilities (X, Y, Z) of any label, one by one: by every network, of the cubes as they
    are and mirrored left to right."""
    for member in network.members:
        for step in (1, -1):
            yield member.to_inside(ask_patches(cubes[::step], member))[::step]


def in_patches(predict: Callable, cubes: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """predict(part) for patches of the cubes (X, Y, Z, C), blended to one answer (X, Y, Z, ...).

    Patches overlap by half, and their weights fall off from the middle like a Gaussian (Isensee et
    al., nnU-Net, Nature Methods 2021). Cubes no larger than `patch` (3,) are one patch.
    """
    patch = np.minimum(patch, cubes.shape[:3])
    weight, total = make_bell(patch), 0.0
    weights = np.zeros(cubes.shape[:3], np.float32)
    for place in place_patches(cubes.shape[:3], patch):
        found = predict(cubes[place])
        if not np.ndim(total):
            total = np.zeros((*cubes.shape[:3], *found.shape[3:]), np.float32)
        total[place] += weight.reshape(*weight.shape, *[1] * (found.ndim - 3)) * found
        weights[place] += weight
    total /= weights.reshape(*weights.shape, *[1] * (total.ndim - 3))  # no second copy of it all
    return total


def place_patches(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[slice, ...]]:
    """Where patches lie in a volume: evenly, from face to face, overlapping by OVERLAP or more."""
    lines = []
    for size, width in zip(shape, patch, strict=True):
        count = 1 + math.ceil((size - width) / (width * (1 - OVERLAP)))
        starts = np.rint(np.linspace(0, size - width, count)).astype(int).tolist()
        lines.append([slice(start, start + width) for start in starts])
    return list(itertools.product(*lines))


def make_bell(patch: Sequence[int]) -> np.ndarray:
    """Weights (X, Y, Z), float32, in a patch: 1 in the middle, next to nothing in the corners."""
    lines = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (BELL * n)) ** 2) / 2) for n in patch]
    x, y, z = (np.maximum(line, 1e-3).astype(np.float32) for line in lines)
    return x[:, None, None] * y[:, None] * z


def list_parts(shares: np.ndarray) -> np.ndarray:
    """The probabilities (classes, X, Y, Z) of the classes, or (1, X, Y, Z) of the only label."""
    return np.moveaxis(shares, -1, 0) if shares.ndim == 4 else shares[None]


def to_labels(shares: np.ndarray, grid: Grid, source: MRI) -> np.ndarray:
    """The labels (X, Y, Z), uint8 from 1, on the MRI's own voxels; none lies outside the brain.

    `shares` are the probabilities of the classes, (X, Y, Z, classes), or of the only label.
    """
    labels = np.zeros_like(source.scan.hu, np.uint8)
    parts = list_parts(shares)
    for region in cut_slabs(grid, source.scan):
        seen = [unstraighten(part, grid, source.scan, region) for part in parts]
        labels[region] = choose_labels(seen)
    return labels * source.seen.any(axis=-1)
