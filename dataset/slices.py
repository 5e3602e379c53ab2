"""A scan's slices, or its volume, as they go into a dataset: read, chosen, cut, at their size.

Images are in HU, or normalised if they are MRI; `dataset.make` stores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.card import to_contiguous
from common.errors import InputError
from dataset.options import Options, Source
from scan.hu import to_hu
from scan.mask import doubt_mask
from scan.mask_picture import read_asked_labels
from scan.nifti import read_labels, read_noted_mask
from scan.picture import read_channels
from scan.read import read_case, read_volume
from scan.resample import straighten, straighten_labels
from scan.views import fit_labels, fit_square, normalise, pixel_spacing, stack
from scan.volume import Volume, make_volume, measure_box
from synthesis.ct import HYPERDENSE_HU, make_scan

# mm: noise is blurred by a voxel or so, and this far from a mask's edge no bone shines in. By eye
BLUR, EDGE = 0.7, 2.0
IN_BLACK = 0.5  # of an MRI's labels, a round number: with more, they were drawn on another scan
# Of the slices for fine-tuning, a round share is so many times coarser: as a prediction sees them
# when it looks for the head (COARSE in predict/brain.py)
SEARCHED, COARSER = 0.25, 2
SHOWN = 0.01  # a slice without label is kept if this share of it, a round number, shows something


@dataclass(frozen=True)
class Sample:
    """A slice (H, W[, C]) or volume (X, Y, Z, C) at its final size, and its mask."""

    image: np.ndarray  # HU, or as normalised
    mask: np.ndarray
    view: str
    index: int
    spacing_mm: float | None  # of a pixel or voxel; None if not known


# ---------------------------------------------------------------- reading a scan


def load_source(source: Source, options: Options) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A source's grid, its image and its mask, both on canonical voxels.

    The image is (X, Y, Z) in HU, or a normalised MRI (X, Y, Z, C). The mask is (X, Y, Z): bool, or
    uint8 labels 1, 2, … where `options.labels` names their values. Raises InputError for files that
    cannot be read.
    """
    if source.seed is not None:
        made = make_scan(source.seed, source.path, options.necks)
        mask = made.labels if options.labels else made.mask
        return make_volume(made.hu, made.affine, source.scan), made.hu, mask
    if source.modalities:
        scan, image = read_case(source.modalities)
        image = normalise(image, options.window)
    else:
        chosen = {"series": source.series, "number": source.volume}
        scan = read_volume(source.path, options.position, **chosen)
        image, mended = to_hu(scan.hu)  # as a prediction sees it
        scan = replace(scan, notes=(*scan.notes, *mended))
    if not options.is_mri:
        mask, said = read_noted_mask(source.mask, scan)
        doubt, notes = doubt_mask(mask, image), [f"{source.mask.name}: {note}" for note in said]
        if options.labels:
            mask = mask + find_hyperdense(mask, image, scan.spacing).astype(np.uint8)
    else:
        labels = read_labels(source.mask, scan)
        notes = note_other_labels(labels, source.mask, options)
        mask = to_contiguous(labels, options.labels)
        doubt = doubt_labels(labels, image)
    ask_about(source.mask, doubt, options)
    return replace(scan, notes=(*scan.notes, *notes)), image, mask


def find_hyperdense(mask: np.ndarray, hu: np.ndarray, spacing) -> np.ndarray:
    """Where a brain mask (X, Y, Z), bool, is bright without any bone, as `make_scan` tells it.

    Noise is blurred away. At the mask's edge bone shines in, so that counts as bright only which
    goes on inwards.
    """
    blurred = ndimage.gaussian_filter(hu.astype(np.float32), BLUR / np.asarray(spacing))
    bright = mask & (blurred > HYPERDENSE_HU)
    depth = ndimage.distance_transform_edt(mask, sampling=spacing)
    deep = bright & (depth > max(EDGE, 1.01 * min(spacing))) & ndimage.binary_erosion(mask)
    return bright & (ndimage.distance_transform_edt(~deep, sampling=spacing) <= EDGE)


def load_pictures(source: Source, options: Options) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The slices (N, H, W, C) of a case of pictures, their labels (N, H, W), all uint8, and notes.

    Raises InputError for files that cannot be read, for pictures of different sizes, and for a case
    in which nothing is labelled.
    """
    images = [read_channels(image, len(options.channels)) for _, image, _ in source.pictures]
    read = [(path, *read_asked_labels(path, options.labels)) for _, _, path in source.pictures]
    masks = [mask for _, mask, _ in read]
    if len({array.shape[:2] for array in images + masks}) > 1:
        raise InputError(f"{source.path}: pictures and masks of {source.scan} differ in size")
    labels, images = np.stack(masks), np.stack(images)
    ask_about(source.pictures[0][2].parent, doubt_labels(labels, images), options)
    notes = [f"{path.name}: {note}" for path, _, said in read for note in said]
    notes += note_other_labels(labels, source.pictures[0][2].parent, options)
    return images, to_contiguous(labels, options.labels), notes


def doubt_labels(labels: np.ndarray, image: np.ndarray) -> str:
    """Why labels (X, Y, Z) cannot be an MRI's (X, Y, Z, C), black outside the brain; else ""."""
    if not labels.any():
        return "holds no label"
    outside = 1 - image[labels > 0].any(axis=-1).mean()
    beside = f"has {outside:.0%} of its labels outside the brain (drawn on another scan?)"
    return beside if outside > IN_BLACK else ""


def ask_about(path: Path, doubt: str, options: Options) -> None:
    """Raise InputError for a doubt about a mask, unless masks are trusted."""
    if doubt and not options.trust_masks:
        raise InputError(f"{path} {doubt}; left out; if it is right, give --trust-masks")


def note_other_labels(labels: np.ndarray, path: Path, options: Options) -> list[str]:
    """A line on the labels that were not asked for, if there are any."""
    others = sorted(set(np.unique(labels).tolist()) - {0, *options.labels})
    told = " ".join(map(str, others[:5])) + " …" * (len(others) > 5)
    return [f"{path.name} also holds {told}, here taken as background"] if others else []


# ---------------------------------------------------------------- which slices


def choose_slices(has_brain, limit: int | None, empty: float, rng) -> np.ndarray:
    """Sorted indices of at most `limit` slices; at most a share of `empty` is without brain.

    `has_brain` (N,) bool says which slices have some. A scan with no brain at all gives `empty`
    times the limit, as an example of nothing to find. Slices without brain are drawn most often
    where they lie next to the brain: these are hard.
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


def keep_slices(images, masks, options: Options, rng) -> np.ndarray:
    """Indices of the slices to keep: `choose_slices` among those that are worth it.

    Such a slice lies within `options.range` of the axis, of an MRI's brain. Its labelled share is
    at least `options.least`. One without any label differs from the background in a share of SHOWN
    or more.
    """
    low, high = options.range
    first, end = 0, len(images)
    if options.is_mri and len(brain := np.flatnonzero([image.any() for image in images])):
        first, end = brain[0], brain[-1] + 1
    depths = (np.arange(len(images)) - first + 0.5) / (end - first)
    labelled = np.count_nonzero(masks, axis=(1, 2)) / masks[0].size
    enough = [
        share >= options.least if share else np.mean(image != options.outside) >= SHOWN
        for share, image in zip(labelled, images, strict=True)
    ]
    worth = np.flatnonzero((low < depths) & (depths < high) & enough)
    return worth[choose_slices(labelled[worth] > 0, options.slices, options.empty, rng)]


# ---------------------------------------------------------------- slices


def cut_scan(scan: Volume, image, mask, rng, options: Options) -> Iterator[Sample]:
    """The slices to keep of a scan in every view, or its one volume."""
    if options.dimensions == 3:
        yield from cut_volume(scan, image, mask, options)
        return
    cut = cut_brain if options.is_mri else stand_upright
    image, mask, spacing = cut(scan, image, mask, options)
    for view in options.views:
        plane, arrays = view, (image, mask)
        if view == "mip":  # one picture: the highest values along z
            plane, arrays = "axial", [array.max(axis=2, keepdims=True) for array in arrays]
        images, masks = (stack(array, plane) for array in arrays)
        pixel = pixel_spacing(spacing, plane)
        for index in keep_slices(images, masks, options, rng):
            shown = options
            if options.field_mm and rng.random() < SEARCHED:
                shown = replace(options, field_mm=COARSER * options.field_mm)
            yield fit_sample(images[index], masks[index], view, int(index), shown, pixel)


def cut_brain(scan: Volume, image, mask, options: Options) -> tuple[np.ndarray, ...]:
    """Image and mask of an MRI in a cube of `options.size` pixels around the brain, and the spacing
    (3,) in mm."""
    low, high = measure_box(image.any(axis=-1), scan)
    extent = options.spacing * options.size
    # by whole voxels from the box: voxels that have this size already are not resampled
    start = low + np.rint(((high - low) - extent) / 2 / options.spacing) * options.spacing
    box = np.stack([start, start + extent])
    cubes = cut_cubes(scan, image, mask, options.outside, options.spacing, box)
    return *cubes, np.full(3, options.spacing)


def fit_sample(image, mask, view: str, index: int, options: Options, spacing=None) -> Sample:
    """One slice and its mask, fitted into the square; spacing (row, column) in mm, if known."""
    pixel = spacing or (1.0, 1.0)
    if options.field_mm and spacing:
        image = widen(image, pixel, options.field_mm, options.outside)
        mask = widen(mask, pixel, options.field_mm, 0)
    # resampled as HU, then windowed, as a scanner's own export does it
    image, _ = fit_square(image, options.size, spacing=pixel, outside=options.outside)
    if options.labels:
        mask, place = fit_labels(mask, options.size, pixel)
    else:
        mask, place = fit_square(mask, options.size, is_mask=True, spacing=pixel)
    extent = np.multiply(place.shape, pixel).max()
    spacing_mm = round(float(extent) / options.size, 4) if spacing else None
    return Sample(image, mask, view, index, spacing_mm)


def widen(picture: np.ndarray, pixel, field_mm: float, outside: float) -> np.ndarray:
    """A picture (H, W[, C]) amid `outside` along its longer side, so that this has `field_mm`.

    `pixel` is its spacing (row, column) in mm. One that is wider stays as it is.
    """
    axis = int(np.multiply(picture.shape[:2], pixel).argmax())
    missing = max(0, round(field_mm / pixel[axis]) - picture.shape[axis])
    room = np.zeros((picture.ndim, 2), int)
    room[axis] = missing // 2, missing - missing // 2
    return np.pad(picture, room, constant_values=outside)


def stand_upright(scan: Volume, image, mask, options: Options) -> tuple[np.ndarray, ...]:
    """Image and mask without gantry tilt and uneven gaps, and their spacing (3,) in mm."""
    axes = scan.affine[:3, :3] / scan.spacing
    if scan.shifts is None and np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        return image, mask, scan.spacing
    spacing = max(scan.spacing.min(), (scan.spacing * mask.shape).max() / options.size)
    return *cut_cubes(scan, image, mask, options.outside, spacing), np.full(3, spacing)


# ---------------------------------------------------------------- volumes


def cut_volume(scan: Volume, image, mask, options: Options) -> Iterator[Sample]:
    """The one volume of a scan, cropped to what it shows and brought to the grid."""
    shown = image.any(axis=-1) if options.is_mri else image > min(options.shown)
    if not shown.any() or np.count_nonzero(mask) < options.least * np.count_nonzero(shown):
        return
    box, spacing = choose_box(shown, mask, scan, options)
    image, mask = cut_cubes(scan, image, mask, options.outside, spacing, box)
    image = image if image.ndim == 4 else image[..., None]
    mask = mask if options.labels else np.uint8(255) * mask
    yield Sample(image, mask, "volume", 0, round(spacing, 4))


def choose_box(shown, mask, scan: Volume, options: Options) -> tuple[np.ndarray, float]:
    """The box (2, 3) of a volume's cubes, mm in straight coordinates, and their spacing in mm.

    `shown` (bool) is the part of the scan that matters: the brain of an MRI. "resize" brings its
    whole box into the grid. "crop" keeps the voxels' size and centres the grid on that box; where
    the box is larger than the grid, it moves as near to the mask as the box allows. Without a grid
    it is that box.
    """
    low, high = measure_box(shown, scan)
    spacing = options.spacing
    grid = np.array(options.grid or np.ceil((high - low) / spacing - 1e-3))
    if options.fit == "resize":
        spacing = float(((high - low) / grid).max())
    extent = spacing * grid
    centre, larger = (low + high) / 2, high - low > extent
    if mask.any() and larger.any():
        wanted = measure_box(mask > 0, scan).mean(axis=0)
        ends = low + extent / 2, np.maximum(high - extent / 2, low + extent / 2)
        centre = np.where(larger, np.clip(wanted, *ends), centre)
    # by whole voxels from the box: voxels that have this size already are not resampled
    start = low + np.rint((centre - extent / 2 - low) / spacing) * spacing
    return np.stack([start, start + extent]), spacing


def cut_cubes(
    scan: Volume, image, mask, outside: float, spacing: float, box: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask on cubes of `spacing` mm in `box` (see `scan.resample.straighten`).

    A bool mask is true where at least half of a cube is; labels come from the nearest voxel.
    """
    channels = np.moveaxis(image, -1, 0) if image.ndim == 4 else [image]
    made = [straighten(part, scan, spacing, box, outside) for part in channels]
    cubes, grids = zip(*made, strict=True)
    if mask.dtype == bool:
        mask = straighten(mask, scan, spacing, box, 0)[0] >= 0.5
    else:
        mask = straighten_labels(mask, scan, grids[0])
    return np.stack(cubes, -1) if image.ndim == 4 else cubes[0], mask
