"""Scans to slices to pairs: makes and reads the datasets that train.py learns from.

    python data.py SCANS MASKS --out files/dataset     X.nii.gz with a mask of the same name
    python data.py FOLDER                              X.nii.gz beside X_mask.nii.gz
    python data.py --synthetic 40                      no scan at all: forty phantoms
    python data.py --synthetic 400 --labels DIR --window hu --size 192 --slices 12
    python data.py CASES --channels flair t1ce --labels 1 2 4 --out files/tumour      MRI, as BraTS'
    python data.py CASES --channels flair t1ce --labels 1 2 4 --dimensions 3 --grid 128

Writes Train|Val|Test/images|masks/<scan>_<view>_<index>.png, or Train|Val|Test/<scan>.tfrecord.gz,
manifest.csv (one row a pair) and dataset.json (what the dataset is). Cases are split, never slices.
Run the same command again after an interruption and it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cases import (
    HEAD,
    PICTURES,
    Case,
    contiguous,
    find_cases,
    find_pairs,
    find_picture_cases,
    image_and_mask_folders,
    label_names,
    read_case,
    regions,
    stem,
)
from errors import InputError, explained, replacing, run, warn
from picture import (
    AIR,
    decode,
    read_channels,
    read_mask_picture,
    read_picture,
    to_values,
    write_picture,
)
from records import ENDING, read_record, write_records

# Whatever only the making of datasets needs is imported there: pred.py must not wait for it
if TYPE_CHECKING:
    import pandas as pd

    from volume import Volume

CT = ("ct",)  # the channels of what is no MRI
WINDOW = (-200.0, 800.0)  # HU: from fat to dense contrast and the face of bone
VIEWS = ("axial", "coronal", "sagittal")
SPLITS = ("Train", "Val", "Test")

SLICE_NAME = re.compile(rf"(?P<case>.+)_(?P<view>{'|'.join(VIEWS)}|mip)_\d+")


# ---------------------------------------------------------------- one picture


def normalise(image: np.ndarray, window: tuple[float, float] | str | None = None) -> np.ndarray:
    """What a network sees: float32 in [0, 1], of HU within `window` (lo, hi) or of a uint8 picture.

    A uint8 picture was made so by whoever made it: it is divided by 255. Any other type is HU, seen
    through WINDOW where none is given; or a whole MRI (X, Y, Z, C) where `window` is one of SCALES:
    each channel by its voxels within the brain, which get 1/255 and more, all else 0.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if window in SCALES:
        seen, brain = np.zeros(image.shape, np.float32), brain_of(image)
        for channel in range(image.shape[-1]) if brain.any() else ():
            values = image[..., channel][brain].astype(np.float32)
            seen[..., channel][brain] = (1 + 254 * SCALES[window](values)) / 255
        return seen
    low, high = window or WINDOW
    scaled = (image.astype(np.float32) - low) / (high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def zscore(values: np.ndarray) -> np.ndarray:
    """0 .. 1 of -4 .. 4 standard deviations from the mean."""
    mean, spread = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return np.clip((values - mean) / max(spread, 1e-9) / 8 + 0.5, 0, 1)


def minmax(values: np.ndarray) -> np.ndarray:
    """0 .. 1 of the least to the greatest value, but for a thousandth of them at either end."""
    low, high = np.percentile(values, (0.1, 99.9))
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


SCALES = {"zscore": zscore, "minmax": minmax}


def brain_of(image: np.ndarray) -> np.ndarray:
    """Where a skull-stripped MRI (X, Y, Z, C) shows something in any channel: (X, Y, Z) bool.

    What is not brain has one value in a channel, not always 0: that of most voxels of its faces.
    """
    brain = np.zeros(image.shape[:3], bool)
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        faces = [values.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]
        found, counts = np.unique(np.concatenate(faces), return_counts=True)
        brain |= values != found[counts.argmax()]
    return brain


def stack(array: np.ndarray, view: str) -> np.ndarray:
    """Pictures (N, H, W) of an (X, Y, Z) RAS+ array as a radiologist sees them; no copy.

    axial: front up, the patient's right on the left, from the feet upwards; coronal: head up, right
    on the left, from the back forwards; sagittal: head up, front on the left, from the left to the
    right. A last axis of channels stays the last.
    """
    channels = range(3, array.ndim)
    if view == "axial":
        return array[::-1, ::-1, :].transpose(2, 1, 0, *channels)
    if view == "coronal":
        return array[::-1, :, ::-1].transpose(1, 2, 0, *channels)
    if view == "sagittal":
        return array[:, ::-1, ::-1].transpose(0, 2, 1, *channels)
    raise InputError(f"no view is called {view!r}; choose from {', '.join(VIEWS)}")


def unstack(pictures: np.ndarray, view: str) -> np.ndarray:
    """The (X, Y, Z) RAS+ array of pictures (N, H, W): the exact inverse of `stack`; no copy."""
    channels = range(3, pictures.ndim)
    if view == "axial":
        return pictures.transpose(2, 1, 0, *channels)[::-1, ::-1, :]
    if view == "coronal":
        return pictures.transpose(2, 0, 1, *channels)[::-1, :, ::-1]
    if view == "sagittal":
        return pictures.transpose(0, 2, 1, *channels)[:, ::-1, ::-1]
    raise InputError(f"no view is called {view!r}; choose from {', '.join(VIEWS)}")


def pixel_spacing(spacing: Sequence[float], view: str) -> tuple[float, float]:
    """(row, column) spacing in mm of a view's pictures, for voxels of `spacing` (x, y, z) mm."""
    x, y, z = (float(mm) for mm in spacing)
    return {"coronal": (z, x), "sagittal": (z, y)}.get(view, (y, x))


@dataclass(frozen=True)
class Placement:
    """Where `fit` put a picture of `shape` (H, W): its box in the square, in pixels."""

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def fit(
    picture: np.ndarray,
    size: int,
    is_mask: bool = False,
    spacing: tuple[float, float] = (1.0, 1.0),
    outside: float = 0,
) -> tuple[np.ndarray, Placement]:
    """A (size, size) picture that holds all of an (H, W[, C]) one, centred, and where it was put.

    Pixels of `spacing` (row, column; any unit) become square; what is left over is `outside`.
    uint8 stays uint8, anything else becomes float32; a mask (any type, true above 0) becomes
    uint8, strictly 0 or 255, by a threshold of 0.5 on the area.
    """
    place = placement(picture.shape[:2], size, spacing)
    if is_mask:
        picture = picture > 0
    square = put(resize(picture, place.height, place.width), size, place, outside)
    return (np.uint8(255) * (square >= 0.5) if is_mask else square), place


def fit_labels(
    labels: np.ndarray, size: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, Placement]:
    """As `fit`, of uint8 labels (H, W): each pixel gets that of the nearest one."""
    place = placement(labels.shape, size, spacing)
    small = cv2.resize(np.ascontiguousarray(labels), (place.width, place.height),
                       interpolation=cv2.INTER_NEAREST_EXACT)  # fmt: skip
    return put(small, size, place, 0), place


def placement(shape: tuple, size: int, spacing: tuple[float, float]) -> Placement:
    """Where a picture of `shape` (H, W) goes in the square."""
    extent = np.multiply(shape, spacing)
    height, width = np.maximum(1, np.rint(extent * size / extent.max())).astype(int).tolist()
    return Placement(tuple(shape), (size - height) // 2, (size - width) // 2, height, width)


def put(small: np.ndarray, size: int, place: Placement, outside: float) -> np.ndarray:
    """A square of `outside` with a picture at its place."""
    square = np.full((size, size, *small.shape[2:]), outside, small.dtype)
    square[place.top : place.top + place.height, place.left : place.left + place.width] = small
    return square


def outside(image: np.ndarray) -> int:
    """Air around the picture: black, or -1024 HU."""
    return 0 if image.dtype == np.uint8 else AIR


def unfit(picture: np.ndarray, place: Placement) -> np.ndarray:
    """The (H, W[, C]) picture that `fit` placed in `picture`, back at its own size; linear."""
    box = picture[place.top : place.top + place.height, place.left : place.left + place.width]
    return resize(box, *place.shape)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over areas along the axes that shrink, linear along those that grow."""
    picture = np.ascontiguousarray(picture, np.uint8 if picture.dtype == np.uint8 else np.float32)
    smaller, channels = np.minimum((width, height), picture.shape[1::-1]), picture.shape[2:]
    picture = cv2.resize(picture, smaller.tolist(), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture.reshape(height, width, *channels)  # OpenCV drops an axis of one channel


# ---------------------------------------------------------------- reading a dataset


@dataclass(frozen=True)
class Pair:
    """One picture or volume and its mask; case and view are "" where the files do not tell.

    channels: of an MRI, None for grey pictures of any origin; labels: how many the mask has;
    place: where the pair lies in a TFRecord file (offset, bytes), None for pictures; name: that of
    the picture that it would be, in a dataset of ours.
    """

    image: Path
    mask: Path
    case: str = ""
    view: str = ""
    channels: int | None = None
    labels: int = 1
    place: tuple[int, int] | None = None
    name: str = ""


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a pair, from pictures or a TFRecord alike.

    The image is (H, W) as `read_picture` gives it, (H, W, C) uint8 of an MRI's slice, (X, Y, Z, C)
    of a volume; the mask has the same shape but for the channels, bool for one label, uint8 for
    several. Raises InputError when their sizes differ.
    """
    if pair.place:
        image, mask = read_record(pair.image, *pair.place)
        return to_values(image), mask if pair.labels > 1 else mask > 0
    image = read_channels(pair.image, pair.channels) if pair.channels else read_picture(pair.image)
    mask = decode(pair.mask) if pair.labels > 1 else read_mask_picture(pair.mask)
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{pair.mask} is {mask.shape[1]}x{mask.shape[0]} but its picture "
            f"{image.shape[1]}x{image.shape[0]}; make them alike"
        )
    return image, mask


def describe(folder: str | Path) -> dict:
    """dataset.json of a dataset folder; {} where there is none (a layout made elsewhere)."""
    path = Path(folder) / "dataset.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); make the dataset again") from error


def read_dataset(folder: str | Path) -> dict[str, list[Pair]]:
    """The pairs of each split, {"Train": [...], "Val": [...], "Test": [...]}, of a dataset folder.

    Reads what data.py writes (by its manifest.csv) and Train/images with
    Train/mask_img_labelsTrain, and so on for Val and Test. Raises InputError for anything else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no dataset folder {folder}; make one: python data.py --synthetic 40")
    if (folder / "manifest.csv").exists():
        return read_manifest(folder)
    if (folder / "dataset.json").exists():
        raise InputError(f"{folder} is unfinished; run its data.py command again to finish it")
    found = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    if "train" not in found:
        raise InputError(f"{folder} has no manifest.csv and no Train/images; give a dataset folder")
    return {s: read_split(found[s.lower()]) if s.lower() in found else [] for s in SPLITS}


def read_manifest(folder: Path) -> dict[str, list[Pair]]:
    """The pairs of each split by the folder's manifest.csv and dataset.json."""
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    about = describe(folder)
    is_mri = about.get("normalise", "window") != "window"
    kind = (len(about["channels"]) if is_mri else None, len(about.get("labels", "1")))
    in_records = about.get("format") == "tfrecord"
    try:
        for row in read_rows(folder / "manifest.csv").itertuples():
            place = (row.offset, row.bytes) if in_records else None
            files = (folder / row.image, folder / row.mask)
            name = name_of(row.scan, row.view, row.index)
            splits[row.split].append(Pair(*files, row.case, row.view, *kind, place, name))
    except (AttributeError, KeyError, ValueError) as error:
        said = f"{folder / 'manifest.csv'} is no manifest ({error}); make the dataset again"
        raise InputError(said) from error
    return splits


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of a manifest; a case called 001 or NA keeps its name."""
    import pandas as pd

    return pd.read_csv(path, dtype={"case": str, "scan": str}, keep_default_na=False)


def read_split(folder: Path) -> list[Pair]:
    """Pairs of `folder`/images and `folder`/mask…, matched by name; warns of what is left over."""
    images, masks = image_and_mask_folders(folder)
    pairs, left_over = find_pairs(images, masks, PICTURES)
    for line in left_over:
        warn(line)
    return [Pair(image, mask, **case_and_view(name)) for name, image, mask in pairs]


def case_and_view(name: str) -> dict[str, str]:
    """{"case", "view"} out of <case>_<view>_<index>, empty where the name says nothing."""
    found = SLICE_NAME.fullmatch(name)
    return found.groupdict() if found else {}


# ---------------------------------------------------------------- making a dataset


@dataclass(frozen=True)
class Options:
    """What decides a dataset's pictures; stands in dataset.json."""

    size: int = 512
    views: tuple[str, ...] = VIEWS
    window: tuple[float, float] | str = WINDOW  # HU, "hu": HU + 1024 in 16 bits, or of SCALES
    slices: int | None = None  # at most so many a view and scan
    empty: float = 0.15  # at most this share of slices without brain, or without any label
    split: tuple[float, ...] = (80, 10, 10)
    seed: int = 0
    position: str | None = None
    necks: str | None = None  # folder of real scans that continue synthetic heads downwards
    licence: str | None = None  # of what the pictures were made from
    channels: tuple[str, ...] = CT
    labels: tuple[int, ...] = ()  # values of a label volume; none: what is true in a brain mask
    names: tuple[str, ...] = ()  # MODALITY=GLOB, of files that are not named as BraTS names them
    least: float = 0.0  # share of a slice or volume that is labelled, unless nothing is
    range: tuple[float, float] = (0.0, 1.0)  # shares of a view's axis between which slices lie
    dimensions: int = 2
    grid: tuple[int, int, int] = (128, 128, 128)  # voxels of a volume, and how it comes to them:
    fit: str = "crop"  # or "resize"
    spacing: float = 1.0  # mm: voxels of a cropped volume
    format: str = "png"  # or "tfrecord"

    @property
    def is_mri(self) -> bool:
        return self.window in SCALES

    @property
    def shown(self) -> tuple[float, float]:
        """HU from black to white."""
        return WINDOW if self.window == "hu" else self.window

    @property
    def outside(self) -> float:
        """Around the image, once `load` has read it."""
        return 0.0 if self.is_mri else AIR


@dataclass(frozen=True)
class Source:
    """Where one scan comes from: files, or a seed of synthetic.py (with a label map, or none).

    Scans of one `case` stay in one split. `modalities` are the files of an MRI, `pictures` the
    slices that there are of it instead: (index, image, mask).
    """

    scan: str
    case: str
    path: Path | None = None
    mask: Path | None = None
    seed: int | None = None
    modalities: Case | None = None
    pictures: tuple[tuple[int, Path, Path], ...] = ()


def synthetic_sources(count: int, labels: str | Path | None, seed: int) -> list[Source]:
    """`count` synthetic scans, spread evenly over the label maps of a folder; phantoms without."""
    import synthetic

    maps = synthetic.label_files(labels) if labels else []
    sources = []
    for index in range(count):
        # scans of one map stand together: a process then prepares each map once
        path = maps[index * len(maps) // count] if maps else None
        case = stem(path) if path else f"phantom_{index:04d}"
        scan = f"{case}_{index:04d}" if path else case
        drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        sources.append(Source(scan, case, path, seed=drawn))
    return sources


def split_cases(
    cases: Sequence[str], seed: int = 0, shares: Sequence[float] = (80, 10, 10)
) -> dict[str, list[str]]:
    """Cases of each split, drawn with `seed`; the order of `cases` does not matter.

    Shares are rounded by largest remainder; a split with a share gets at least one case as long as
    another has two (so of one case nothing is left for Val and Test).
    """
    cases = sorted(set(cases))
    exact = np.array(shares, float) / sum(shares) * len(cases)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: len(cases) - counts.sum()]] += 1
    for index in np.flatnonzero((counts == 0) & (exact > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[index] += 1
    order = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    ends = np.cumsum(counts)
    return {s: sorted(order[e - n : e]) for s, n, e in zip(SPLITS, counts, ends, strict=True)}


def choose_slices(
    has_brain: np.ndarray, limit: int | None, empty: float, rng: np.random.Generator
) -> np.ndarray:
    """Sorted indices of at most `limit` slices, those without brain at most a share of `empty`.

    A scan with no brain at all gives `empty` times the limit, as an example of nothing to find. Of
    the slices without brain, those next to it are drawn most often: they are the hard ones.
    """
    brain, bare = np.flatnonzero(has_brain), np.flatnonzero(~has_brain)
    limit = min(limit or len(has_brain), len(has_brain))
    if len(brain):
        by_brain = len(brain) * empty / (1 - empty) if empty < 1 else math.inf
        bares = int(min(limit * len(bare) / len(has_brain), limit * empty, by_brain))
    else:
        bares = math.ceil(limit * empty)
    brains = min(len(brain), limit - bares)
    gap = np.abs(bare[:, None] - brain).min(1, initial=len(has_brain))
    # the largest of u ** (1 / weight), u uniform: a draw by weight, without putting back
    order = np.argsort(rng.random(len(bare)) ** (3.0 + gap))
    drawn = [rng.choice(brain, brains, replace=False), bare[order[len(bare) - bares :]]]
    return np.sort(np.concatenate(drawn))


def load(source: Source, options: Options) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A source's grid, its image and its mask, both on canonical voxels.

    The image is (X, Y, Z) in HU, or an MRI (X, Y, Z, C) as normalised; the mask is (X, Y, Z), bool,
    or uint8 where `options.labels` names the values to tell apart. InputError as the readers'.
    """
    from volume import from_array, read_labels, read_mask, read_volume

    if source.seed is not None:
        import synthetic

        made = synthetic.scan(source.seed, source.path, options.necks)
        return from_array(made.hu, made.affine, source.scan), made.hu, made.labels
    if source.modalities:
        scan, image = read_case(source.modalities)
        image = normalise(image, options.window)
    else:
        scan = read_volume(source.path, options.position)
        image = scan.hu
    if not options.labels:
        return scan, image, read_mask(source.mask, scan)
    labels = read_labels(source.mask, scan)
    scan = replace(scan, notes=(*scan.notes, *other_labels(labels, source.mask, options)))
    return scan, image, contiguous(labels, options.labels)


def other_labels(labels: np.ndarray, path: Path, options: Options) -> list[str]:
    """A line on the labels that were not asked for, if there are any."""
    others = sorted(set(np.unique(labels).tolist()) - {0, *options.labels})
    told = " ".join(map(str, others[:5])) + " …" * (len(others) > 5)
    return [f"{path.name} also holds {told}, here taken as background"] if others else []


def upright(scan: Volume, image: np.ndarray, mask: np.ndarray, options: Options) -> tuple:
    """Image and mask on straight, even axes, and their spacing (3,) in mm."""
    if is_straight(scan):
        return image, mask, scan.spacing
    spacing = max(scan.spacing.min(), (scan.spacing * mask.shape).max() / options.size)
    return *on_cubes(scan, image, mask, options.outside, spacing, None), np.full(3, spacing)


def is_straight(scan: Volume) -> bool:
    """Whether a scan's slices stand evenly and upright (no gantry tilt, no uneven gaps)."""
    axes = scan.affine[:3, :3] / scan.spacing
    return scan.shifts is None and np.allclose(axes.T @ axes, np.eye(3), atol=1e-3)


def on_cubes(scan: Volume, image, mask, outside: float, spacing: float, box) -> tuple:
    """Image and mask on cubes of `spacing` mm in `box` (volume.straighten); labels by the nearest
    voxel, a bool mask by half of the volume."""
    from volume import nearest, straighten

    channels = np.moveaxis(image, -1, 0) if image.ndim == 4 else [image]
    cubes, grids = zip(*(straighten(part, scan, spacing, box, outside) for part in channels),
                       strict=True)  # fmt: skip
    if mask.dtype == bool:
        mask = straighten(mask, scan, spacing, box, 0)[0] >= 0.5
    else:
        mask = nearest(mask, scan, grids[0])
    return np.stack(cubes, -1) if image.ndim == 4 else cubes[0], mask


def volume_box(
    shown: np.ndarray, mask: np.ndarray, scan: Volume, options: Options
) -> tuple[np.ndarray, float]:
    """(2, 3) mm of the cubes to which a volume is brought, straight coordinates, and their spacing.

    `shown` (bool) is all that matters of the scan: the brain of an MRI. "resize" takes its whole
    box into the grid, as cubes; "crop" keeps the voxels' size, centred on the box, and where that
    is larger than the grid, as near to what the mask holds as the box allows.
    """
    from volume import box_of

    low, high = box_of(shown, scan)
    spacing, grid = options.spacing, np.array(options.grid)
    if options.fit == "resize":
        spacing = float(((high - low) / grid).max())
    extent = spacing * grid
    centre, larger = (low + high) / 2, high - low > extent
    if mask.any() and larger.any():
        wanted = box_of(mask > 0, scan).mean(axis=0)
        ends = low + extent / 2, np.maximum(high - extent / 2, low + extent / 2)
        centre = np.where(larger, np.clip(wanted, *ends), centre)
    # by whole voxels from the box: voxels that have this size already are not resampled
    start = low + np.rint((centre - extent / 2 - low) / spacing) * spacing
    return np.stack([start, start + extent]), spacing


def slice_scan(source: Source, split: str, options: Options, out: Path) -> tuple[list[str], bool]:
    """Write the pairs of one scan and, last, its rows in .scans.

    Returns what there is to say about the scan and whether it could be used.
    """
    import pandas as pd

    try:
        if source.pictures:
            images, masks, notes = load_pictures(source, options)
            samples = drawn_slices(images, masks, source, options)
        else:
            scan, image, mask = load(source, options)
            cut = volumes if options.dimensions == 3 else slices
            samples, notes = cut(scan, image, mask, source, options), scan.notes
    except InputError as error:
        return [str(error)], False
    write = write_records_of if options.format == "tfrecord" else write_pictures
    rows = write(samples, source, split, out)
    with replacing(rows_file(out, source)) as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    return [f"{source.path}: {note}" for note in notes], True


@dataclass(frozen=True)
class Sample:
    """A picture or volume and its mask as they are stored, and what its row says of it."""

    image: np.ndarray
    mask: np.ndarray
    row: dict


def slices(
    scan: Volume, image: np.ndarray, mask: np.ndarray, source: Source, options: Options
) -> Iterator[Sample]:
    """The slices of a scan that are kept, in every view."""
    image, mask, spacing = upright(scan, image, mask, options)
    rng = rng_of(source, options)
    for view in options.views:
        images, masks = pictures(image, view), pictures(mask, view)
        for index in kept_slices(images, masks, options, rng):
            row = {"view": view, "index": int(index)}
            pixel = pixel_spacing(spacing, view)
            yield slice_sample(images[index], masks[index], row, options, pixel)


def rng_of(source: Source, options: Options) -> np.random.Generator:
    """What draws the slices of a scan: the same whichever scans stand beside it."""
    return np.random.default_rng([options.seed, zlib.crc32(source.scan.encode())])


def load_pictures(source: Source, options: Options) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The slices (N, H, W, C) of a case of pictures, their labels (N, H, W), all uint8, and notes.

    Raises InputError for what cannot be read, and for pictures of different sizes.
    """
    images = [read_channels(image, len(options.channels)) for _, image, _ in source.pictures]
    masks = [decode(mask) for _, _, mask in source.pictures]
    if len({array.shape[:2] for array in images + masks}) > 1:
        raise InputError(f"{source.path}: pictures and masks of {source.scan} differ in size")
    labels = np.stack(masks)
    notes = other_labels(labels, source.pictures[0][2].parent, options)
    return np.stack(images), contiguous(labels, options.labels), notes


def drawn_slices(
    images: np.ndarray, masks: np.ndarray, source: Source, options: Options
) -> Iterator[Sample]:
    """The pictures of a case that are kept."""
    for place in kept_slices(images, masks, options, rng_of(source, options)):
        row = {"view": "slice", "index": source.pictures[place][0]}
        yield slice_sample(images[place], masks[place], row, options)


SHOWN = 0.01  # of a slice without label: less than this share of it shows nothing worth learning


def kept_slices(
    images: np.ndarray, masks: np.ndarray, options: Options, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the slices that are kept: `choose_slices` of those that say enough.

    These lie within `options.range` of the axis; at least a share of `options.least` of such a
    slice is labelled, or nothing is and at least a hundredth of it shows something.
    """
    low, high = options.range
    places = (np.arange(len(images)) + 0.5) / len(images)
    labelled = np.count_nonzero(masks, axis=(1, 2)) / masks[0].size
    enough = [share >= options.least if share else np.mean(image != options.outside) >= SHOWN
              for share, image in zip(labelled, images, strict=True)]  # fmt: skip
    worth = np.flatnonzero((low < places) & (places < high) & enough)
    return worth[choose_slices(labelled[worth] > 0, options.slices, options.empty, rng)]


def pictures(array: np.ndarray, view: str) -> np.ndarray:
    """`stack`, and for "mip" the one picture of the highest value along z."""
    return stack(array.max(axis=2, keepdims=True), "axial") if view == "mip" else stack(array, view)


def slice_sample(
    image: np.ndarray, mask: np.ndarray, row: dict, options: Options, spacing: tuple | None = None
) -> Sample:
    """One slice and its mask, fitted into the square; `spacing` in mm, None if it is not known."""
    pixel = spacing or (1.0, 1.0)
    # resampled as HU, then windowed, as a scanner's own export does it
    image, _ = fit(image, options.size, spacing=pixel, outside=options.outside)
    if options.labels:
        mask, place = fit_labels(mask, options.size, pixel)
    else:
        mask, place = fit(mask, options.size, is_mask=True, spacing=pixel)
    if spacing:
        extent = np.multiply(place.shape, spacing).max()
        row = row | {"spacing_mm": round(float(extent) / options.size, 4)}
    return Sample(to_stored(image, options), mask, row | counts(mask, options))


def volumes(
    scan: Volume, image: np.ndarray, mask: np.ndarray, source: Source, options: Options
) -> Iterator[Sample]:
    """The one volume of a scan, cropped to what it shows and brought to the grid."""
    shown = image.any(axis=-1) if options.is_mri else image > min(options.shown)
    if not shown.any() or np.count_nonzero(mask) < options.least * np.count_nonzero(shown):
        return
    box, spacing = volume_box(shown, mask, scan, options)
    image, mask = on_cubes(scan, image, mask, options.outside, spacing, box)
    image = image if image.ndim == 4 else image[..., None]
    mask = mask if options.labels else np.uint8(255) * mask
    row = {"view": "volume", "index": 0, "spacing_mm": round(spacing, 4)}
    yield Sample(to_stored(image, options), mask, row | counts(mask, options))


def to_stored(image: np.ndarray, options: Options) -> np.ndarray:
    """An image as it is stored: uint8 as a network sees it, or uint16 HU + 1024."""
    if image.dtype == np.uint8:
        return image
    if options.window == "hu":
        return np.clip(np.rint(image - AIR), 0, 4095).astype(np.uint16)
    seen = image if options.is_mri else normalise(image, options.shown)
    return np.rint(seen * 255).astype(np.uint8)


def counts(mask: np.ndarray, options: Options) -> dict[str, int]:
    """{"<label>_pixels": count} of each label, for a row."""
    found = np.bincount(mask.ravel(), minlength=256)
    values = range(1, len(options.labels) + 1) if options.labels else (255,)
    names = [name.replace(" ", "_") for name in named_labels(options).values()]
    return {f"{n}_pixels": int(found[value]) for n, value in zip(names, values, strict=True)}


def named_labels(options: Options) -> dict[str, str]:
    """{"1": name, …} of a dataset's labels."""
    if not options.labels:
        return {"1": "brain"}
    return label_names(options.labels) if options.is_mri else HEAD


def write_pictures(samples: Iterator[Sample], source: Source, split: str, out: Path) -> list[dict]:
    """Write each sample as a PNG and its mask; returns their rows."""
    rows = []
    for sample in samples:
        name = f"{name_of(source.scan, sample.row['view'], sample.row['index'])}.png"
        where = {"image": f"{split}/images/{name}", "mask": f"{split}/masks/{name}"}
        write_picture(out / where["image"], sample.image)
        write_picture(out / where["mask"], sample.mask)
        rows.append(row_of(sample, source, split, where))
    return rows


def name_of(scan: str, view: str, index: int) -> str:
    """What a sample is called."""
    return f"{scan}_{view}_{index:04d}"


def write_records_of(
    samples: Iterator[Sample], source: Source, split: str, out: Path
) -> list[dict]:
    """Write all samples of a scan into one TFRecord file; returns their rows."""
    path, rows = f"{split}/{source.scan}{ENDING}", []

    def features() -> Iterator[dict]:
        for sample in samples:
            rows.append(row_of(sample, source, split, {"image": path, "mask": path}))
            said = {key: rows[-1][key] for key in ("case", "view", "index")}
            yield {"image": sample.image, "mask": sample.mask} | said

    places = write_records(out / path, features())
    return [row | {"offset": offset, "bytes": length}
            for row, (offset, length) in zip(rows, places, strict=True)]  # fmt: skip


def row_of(sample: Sample, source: Source, split: str, where: dict) -> dict:
    """A row of the manifest."""
    row = {"split": split, "case": source.case, "scan": source.scan}
    row |= {key: sample.row[key] for key in ("view", "index")}
    return row | where | sample.row


def rows_file(out: Path, source: Source) -> Path:
    """The manifest rows of one finished scan; their existence says that it is finished."""
    return out / ".scans" / f"{source.scan}.csv"


def make_dataset(
    sources: list[Source], out: str | Path, options: Options, words: str, jobs: int = 1
) -> int:
    """Slice every source into a dataset folder; returns how many scans had to be left out.

    Goes on where an interrupted run of the same options stopped. Raises InputError when the folder
    was made with other options, or when nothing came out.
    """
    from tqdm import tqdm

    out = Path(out)
    splits = split_cases([s.case for s in sources], options.seed, options.split)
    split_of = {case: split for split, cases in splits.items() for case in cases}
    content = card(sources, options, words, splits)
    start(out, content)
    finished = set(finished_rows(out).scan)
    todo = [s for s in sources if s.scan not in finished]
    tasks = [(s, split_of[s.case], options, out) for s in todo]
    bar = tqdm(in_parallel(slice_scan, tasks, jobs), "slicing", len(sources), unit="scan",
               initial=len(sources) - len(todo))  # fmt: skip
    results = list(bar)
    for line in itertools.chain.from_iterable(lines for lines, _ in results):
        warn(line)
    finish(out, content)
    return sum(not used for _, used in results)


def in_parallel(function, tasks: list[tuple], jobs: int) -> Iterator:
    """Results of function(*task) in order, from `jobs` processes of one thread each."""
    if jobs <= 1:
        yield from (function(*task) for task in tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=be_a_worker) as pool:
        try:
            yield from pool.map(function, *zip(*tasks, strict=True)) if tasks else ()
        except BrokenProcessPool as error:
            advice = "a worker process died, likely for memory; run again with --jobs 1"
            raise InputError(advice) from error


def be_a_worker() -> None:
    """One thread a process; Ctrl-C is left to the parent, and no worker outlives it."""
    cv2.setNumThreads(1)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Wait for the parent process to end, then end this one: it may have been killed outright."""
    parent_process().join()
    os._exit(1)


def card(sources: list[Source], options: Options, words: str, splits: dict) -> dict:
    """dataset.json: what the dataset is, enough to train on it and to make it again."""
    names = named_labels(options)
    content = {
        "format": options.format,
        "channels": options.channels,
        "dimensions": options.dimensions,
        "normalise": options.window if options.is_mri else "window",
        "labels": names,
        "label_values": dict(zip(names, sorted(options.labels) or [1], strict=True)),
    }
    if found := regions(names):
        content["regions"] = found
    if options.is_mri:
        content["names"] = options.names
        content["cases"] = {s.scan: files_of(s) for s in sources if s.modalities}
    if options.dimensions == 3:
        is_crop = options.fit == "crop"
        content |= {"grid": options.grid, "fit": options.fit, "views": ["volume"]}
        content["spacing_mm"] = options.spacing if is_crop else None
    else:
        content |= {"views": options.views, "size": options.size}
    if not options.is_mri:
        content["window"] = options.window
    content |= {
        "splits": splits,
        "seed": options.seed,
        "source": words,
        "licence": options.licence,
        "options": asdict(options) | {"scans": [s.scan for s in sources]},
    }
    return json.loads(json.dumps(content))


def files_of(source: Source) -> dict:
    """The files that a case was read from, so that it can be scored on its own grid."""
    files = {kind: str(path.resolve()) for kind, path in source.modalities.files.items()}
    return {"files": files, "labels": str(source.mask.resolve())}


def start(out: Path, content: dict) -> None:
    """Make the folders and dataset.json, or check that the same options made those that stand."""
    if before := describe(out):
        defaults = json.loads(json.dumps(asdict(Options())))  # of options that came later
        then, now = defaults | before.get("options", {}), content["options"]
        changed = [key for key in now if then.get(key) != now[key]]
        if changed:
            what = "; ".join(difference(key, then.get(key), now[key]) for key in changed)
            raise InputError(
                f"{out} was made otherwise ({what}); choose another --out, or --overwrite"
            )
    elif any((out / name).exists() for name in (*SPLITS, "manifest.csv")):
        raise InputError(f"{out} holds a dataset made elsewhere; choose another --out")
    else:
        write_card(out, content)
    with explained(out):
        for split in SPLITS:
            for kind in ("images", "masks") if content["format"] == "png" else ("",):
                (out / split / kind).mkdir(parents=True, exist_ok=True)


def difference(key: str, then, now) -> str:
    """One changed option in words."""
    if key == "scans":
        return f"other scans: {len(then or [])} then, {len(now)} now"
    shown = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in (then, now)]
    return f"--{key} was {shown[0]}, is now {shown[1]}"


def finished_rows(out: Path) -> pd.DataFrame:
    """Rows of all finished scans: those of the manifest and those that wait to be added to it."""
    import pandas as pd

    files = [out / "manifest.csv", *sorted((out / ".scans").glob("*.csv"))]
    tables = [read_rows(file) for file in files if file.exists() and file.stat().st_size > 1]
    if not tables:
        return pd.DataFrame({"scan": []})
    return pd.concat(tables).drop_duplicates(["scan", "view", "index"])


def finish(out: Path, content: dict) -> None:
    """Gather all rows, in the order of the scans, into manifest.csv; name only cases it has."""
    rows = finished_rows(out)
    if rows.empty:
        raise InputError(f"not one slice could be written to {out}; see the lines above")
    order = {scan: place for place, scan in enumerate(content["options"]["scans"])}
    rows = rows.sort_values("scan", key=lambda scan: scan.map(order), kind="stable")
    write_text(out / "manifest.csv", rows.to_csv(index=False))
    there, splits = set(rows.case), content["splits"].items()
    found = {"splits": {split: [c for c in cases if c in there] for split, cases in splits}}
    if content.get("cases") and "size" in content:
        found["spacing_mm"] = float(rows.spacing_mm.median())
    write_card(out, content | found)
    shutil.rmtree(out / ".scans", ignore_errors=True)


def write_card(out: Path, content: dict) -> None:
    """Write dataset.json."""
    write_text(out / "dataset.json", json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def remove_dataset(out: Path) -> None:
    """Delete what make_dataset wrote in `out`, and nothing else."""
    if not describe(out):
        return
    # dataset.json last: stopped half-way, the folder is still known as one of ours
    (out / "manifest.csv").unlink(missing_ok=True)
    for name in (".scans", *SPLITS):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "dataset.json").unlink()


# ---------------------------------------------------------------- command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from volume import POSITIONS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scans", nargs="?", help="folder of NIfTI files or DICOM folders, or one of them")
    add("masks", nargs="?", help="folder of masks of the same names, unless SCANS holds them too")
    add("--synthetic", type=int, metavar="N", help="make N synthetic scans instead")
    add("--labels", nargs="+", metavar="LABEL", help="with --synthetic, the folder of head label "
        "maps to make scans from, else phantoms; with --channels, the values to tell apart in the "
        "label volumes, all else being background (1 2 4)")  # fmt: skip
    add("--channels", nargs="+", metavar="NAME", help="SCANS holds MRI cases, found by the names "
        "of these modalities: flair t1ce t1 t2, or others")  # fmt: skip
    add("--names", nargs="+", metavar="NAME=GLOB", default=[],
        help="how the files of a modality, or of seg, the labels, are called if not as in BraTS")
    add("--necks", metavar="DIR", help="head-and-neck CTs (X_ct.nii.gz with X_oar.nii.gz, 1 = "
        "brainstem) to continue them below the skull")  # fmt: skip
    add("--licence", metavar="TEXT", help="of the scans or label maps, for the model's card")
    add("--out", default="files/dataset", help="the dataset's folder (%(default)s)")
    add("--format", choices=("png", "tfrecord"), help="of the pairs (png; tfrecord of volumes)")
    add("--dimensions", type=int, choices=(2, 3), default=2, help="slices or volumes (%(default)s)")
    add("--size", type=int, help="pixels a side of a slice (512; of MRI 240)")
    add("--grid", nargs="+", type=int, default=[128], metavar="N",
        help="voxels of a volume, one number or three (%(default)s)")  # fmt: skip
    add("--fit", choices=("crop", "resize"), default="crop",
        help="how a volume, cropped to what it shows, comes to the grid (%(default)s)")  # fmt: skip
    add("--spacing", type=float, default=1.0, metavar="MM",
        help="voxel size of cropped volumes (%(default)s)")  # fmt: skip
    add("--views", nargs="+", choices=[*VIEWS, "mip"], metavar="VIEW",
        help="of axial, coronal, sagittal (these three), mip (highest value along z)")  # fmt: skip
    add("--window", nargs="+", metavar=("LO", "HI"),
        help="HU shown in 8 bits (-200 800), or the word hu: 16 bits of HU + 1024; of MRI zscore "
        "(the default) or minmax, within the brain")  # fmt: skip
    add("--slices", type=int, metavar="K", help="at most K slices a view and scan, drawn at random")
    add("--empty", type=float, default=0.15, metavar="SHARE",
        help="at most this share of slices without brain, or without any label; 1 keeps all "
        "(%(default)s)")  # fmt: skip
    add("--least", type=float, default=0.0, metavar="SHARE",
        help="drop slices and volumes of which less is labelled, but something (%(default)s)")
    add("--range", nargs=2, type=float, default=[0.0, 1.0], metavar=("FROM", "TO"),
        help="keep slices between these shares of a view's depth (0 1)")  # fmt: skip
    add("--split", nargs=3, type=float, default=[80, 10, 10], metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the cases (80 10 10)")  # fmt: skip
    add("--position", choices=POSITIONS, help="how the patient lay, for files that do not say")
    add("--seed", type=int, default=0, help="of split, slices and synthetic scans (%(default)s)")
    add("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes (%(default)s)")
    add("--overwrite", action="store_true", help="throw away the dataset in --out first")
    return parser.parse_args(argv)


def to_options(args: argparse.Namespace) -> Options:
    """The options of a command line; raises InputError for values that make no sense."""
    is_mri, is_drawn = bool(args.channels), is_of_pictures(args)
    labels = to_labels(args.labels) if is_mri else tuple(map(int, HEAD)) if args.synthetic else ()
    useless = {"volumes": ("size", "views", "slices")} if args.dimensions == 3 else {}
    useless |= {"slices in pictures": ("window", "views")} if is_drawn else {}
    for things, names in useless.items():
        if given := [f"--{name}" for name in names if getattr(args, name) is not None]:
            raise InputError(f"{' and '.join(given)} would do nothing to {things}: leave them out")
    size = args.size or (240 if is_mri else 512)
    if size < 16:
        raise InputError(f"--size {size} is too small; give at least 16 pixels")
    if args.slices is not None and args.slices < 1:
        raise InputError(f"--slices {args.slices} leaves nothing; give at least 1")
    for name in ("empty", "least"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} {getattr(args, name)} is no share; give one from 0 to 1")
    if not 0 <= args.range[0] < args.range[1] <= 1:
        raise InputError("--range needs two shares from 0 to 1, the lower first")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} is no seed: give 0 or more")
    if not (min(args.split) >= 0 < args.split[0] and math.isfinite(sum(args.split))):
        raise InputError("--split needs three shares, the first above 0, such as 80 10 10")
    return Options(
        size=size, views=("slice",) if is_drawn else tuple(dict.fromkeys(args.views or VIEWS)),
        window="minmax" if is_drawn else to_window(args.window, is_mri),
        slices=args.slices, empty=args.empty, split=tuple(args.split), seed=args.seed,
        position=args.position, necks=args.necks, licence=args.licence,
        channels=to_channels(args.channels), labels=labels,
        names=tuple(args.names), least=args.least, range=tuple(args.range),
        dimensions=args.dimensions, grid=to_grid(args.grid), fit=args.fit,
        spacing=to_spacing(args.spacing), format=to_format(args.format, args.dimensions),
    )  # fmt: skip


def to_channels(names: Sequence[str] | None) -> tuple[str, ...]:
    channels = tuple(name.lower() for name in names or CT)
    if len(set(channels)) < len(channels) or len(channels) > 4:
        raise InputError("--channels takes one to four modalities, each once")
    return channels


def to_labels(words: Sequence[str] | None) -> tuple[int, ...]:
    try:
        labels = tuple(sorted({int(word) for word in words or (1, 2, 4)}))
    except ValueError:
        labels = (0,)
    if labels[0] < 1 or labels[-1] > 255:
        raise InputError("with --channels, --labels takes whole numbers from 1 to 255")
    return labels


def to_grid(numbers: Sequence[int]) -> tuple[int, int, int]:
    if len(numbers) not in (1, 3) or min(numbers) < 16:
        raise InputError("--grid takes one or three numbers of voxels, each at least 16")
    return tuple(numbers * (3 // len(numbers)))


def to_spacing(spacing: float) -> float:
    if not spacing > 0:
        raise InputError(f"--spacing {spacing} is no length; give mm above 0")
    return spacing


def to_format(word: str | None, dimensions: int) -> str:
    if dimensions == 3 and word == "png":
        raise InputError("volumes are stored as --format tfrecord alone")
    return word or ("tfrecord" if dimensions == 3 else "png")


def to_window(words: Sequence | None, is_mri: bool) -> tuple[float, float] | str:
    """What `normalise` takes, or the word hu."""
    words = words or (["zscore"] if is_mri else WINDOW)
    if len(words) == 1 and words[0] in (SCALES if is_mri else ("hu",)):
        return words[0]
    try:
        low, high = (0.0, 0.0) if is_mri else (float(word) for word in words)
    except ValueError:
        low = high = 0.0
    if not low < high:
        needs = f"one of {', '.join(SCALES)} for MRI" if is_mri else (
            "two numbers in HU, the lower first, or the word hu")  # fmt: skip
        raise InputError(f"--window needs {needs}")
    return low, high


def to_sources(args: argparse.Namespace) -> tuple[list[Source], str]:
    """The scans that a command line asks for, and where they come from in words."""
    if args.channels:
        return case_sources(args)
    if args.synthetic is not None:
        maps = args.labels and args.labels[0]
        if args.scans or args.synthetic < 1 or len(args.labels or "1") > 1:
            raise InputError("--synthetic takes a count of at least 1, one --labels and no SCANS")
        sources = synthetic_sources(args.synthetic, maps, args.seed)
        used = sorted({source.case for source in sources})
        origin = f"label maps {used[0]} to {used[-1]}" if maps else "phantoms"
        if args.necks:
            origin += f", with necks and chests of {Path(args.necks).resolve().name}"
        return sources, f"{args.synthetic} synthetic head CT and CTA of {origin} (synthetic.py)"
    if args.labels or args.necks:
        raise InputError("--labels and --necks are for --synthetic N; say how many scans to make")
    if not args.scans:
        raise InputError("nothing to slice; give a folder of SCANS, or --synthetic N")
    pairs, left_over = find_pairs(args.scans, args.masks)
    for line in left_over:
        warn(line)
    words = f"{len(pairs)} scans of {Path(args.scans).resolve().name}"
    return [Source(case, case, scan, mask) for case, scan, mask in pairs], words


def case_sources(args: argparse.Namespace) -> tuple[list[Source], str]:
    """The MRI cases that a command line asks for, and where they come from in words."""
    if not args.scans or args.masks or args.synthetic or args.necks:
        raise InputError("--channels takes one folder of cases, and no scans to make")
    if is_of_pictures(args):
        if args.dimensions == 3:
            raise InputError(f"{args.scans} holds no NIfTI files, so no volumes can be made of it")
        return picture_sources(Path(args.scans))
    found, left_over = find_cases(args.scans, to_channels(args.channels), to_names(args.names))
    for line in left_over:
        warn(line)
    words = f"{len(found)} cases of {Path(args.scans).resolve().name}"
    return [Source(c.name, c.patient, Path(c.name), c.labels, None, c) for c in found], words


def is_of_pictures(args: argparse.Namespace) -> bool:
    """Whether the MRI are slices in pictures: there is no NIfTI file in or below their folder."""
    return bool(args.channels and args.scans) and not any(Path(args.scans).rglob("*.nii*"))


def picture_sources(folder: Path) -> tuple[list[Source], str]:
    """The cases of a folder of slices with masks, and where they come from in words."""
    found, left_over = find_picture_cases(folder)
    for line in left_over:
        warn(line)
    words = f"slices of {len(found)} cases of {folder.resolve().name}"
    return [Source(c, c, folder, pictures=tuple(pairs)) for c, pairs in found.items()], words


def to_names(words: Sequence[str]) -> dict[str, str]:
    """{modality: glob} of --names, as `cases.find_case` takes them."""
    if not all(0 < word.find("=") < len(word) - 1 for word in words):
        raise InputError("--names takes MODALITY=GLOB, such as flair=*_FL.nii.gz")
    return dict(word.split("=", 1) for word in words)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    options, (sources, words), out = to_options(args), to_sources(args), Path(args.out)
    if args.overwrite:
        remove_dataset(out)
    left_out = make_dataset(sources, out, options, words, args.jobs)
    splits = describe(out)["splits"]
    counts = ", ".join(f"{split} {len(cases)}" for split, cases in splits.items())
    if sum(map(len, splits.values())) < 10:
        warn(f"fewer than 10 cases: shares can only be met roughly; cases are {counts}")
    pairs = sum(map(len, read_dataset(out).values()))
    print(f"{out}: {pairs} pairs of {len(sources) - left_out} scans (cases: {counts})")
    if left_out:
        raise InputError(f"{left_out} of {len(sources)} scans could not be used; see above")
    return 0


if __name__ == "__main__":
    run(main)
