"""Predict masks: of one slice, of one scan, of a folder of either; or of MRI cases.

    python pred.py path/to/slice.png           # results/slice_prediction/slice_predicted_mask.png
    python pred.py scan.nii.gz dicom_folder/   # results/scan_prediction/scan_predicted_mask.nii.gz
    python pred.py folder_of_scans --out masks
    python pred.py CASE_FOLDER --model files/tumour_net/model.keras   # the files of one MRI case

Beside each mask stand `<name>_overlay.png`, to be looked at, and `<name>.json` with the volume in
mL (of every label and region, where there are several), a verdict on a brain mask (ok, check,
failed) and its reasons, the grid, the model's checksum and what was noticed. Several inputs get a
page, `report.html`. What is already done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import fill_voids
import numpy as np
import scipy  # scipy.ndimage takes 0.3 s to load, at its first use: a picture needs none of it

import cases
import data
import quality
import report
from cases import card_of, read_json
from errors import InputError, explained, replacing, run, warn
from picture import read_noted
from quality import dice, where_saw

if TYPE_CHECKING:  # volume.py brings nibabel and SciPy, which a picture need not wait for
    from mri import MRI
    from volume import Grid, Volume

MODEL = Path(__file__).parent / "files" / "model.keras"
SIZE = 160  # pixels a side to which a slice is brought when the network takes any size
SPACING = 1.5  # mm: the cubes that a scan is brought to when the model's card names no other
# A head is looked at closer where its box is less than this share of its picture; it reaches so
# many times the brain's larger side from the brain's middle
SMALL, SKULL = 0.75, 0.8
FINER = 1.2  # a slice is brought to so many times the pixels a side that the network was trained on
BRAIN_WINDOW = (0.0, 100.0)  # HU
# As bright as bone in a picture, a share of its brightest; a clot that touches the skull, at least
# a share of the brain. Chosen, with FINER, on 25 real slices (benchmarks/README.md)
WHITE, CLOT = 0.95, 0.015
COARSE, FEW = 2, 4  # the head is looked for on cubes so many times larger, one slice in so many
MARGIN = 15.0  # mm kept around the brain that the coarse look found: skull and scalp
MIRRORED = 40  # cubes that a head goes on for where the scan cuts it
UNCUT = np.zeros((2, 3), bool)  # low and high face of each axis
ROOM = 6.0  # mm between brain and the box's face, at least: half of what is mostly left of MARGIN
THICK = 4.0  # mm along a voxel: between two there is nothing new
THIN = 30.0  # mm: in less than this the other two views see nothing but a stripe
# Of a view one slice in so many is looked at, for 0.0001 of Dice (benchmarks/README.md); across
# thick slices one in so many
EVERY, EVERY_THICK = 2, 5
FORAMEN = 900.0  # mm2: of the foramen magnum, with the mask's error
FUNNEL = 3.0  # mm
# Dice of the two views most alike, at least, where there is a brain: of tongues taken for one it
# was 0.2 to 0.4, of heads 0.8 and more
ALIKE = 0.5
LEAST_BRAIN = 10.0  # mL: less than this in a whole scan is taken for a false alarm
LEAST_AREA = 0.0008  # of a picture's area: the same for a slice


@dataclass(frozen=True)
class Result:
    """A scan's mask and what was noticed on the way.

    The mask lies on the volume's canonical voxels: bool of a brain, uint8 of an MRI's labels, from
    1. `agreement` holds the Dice of each pair of views, nothing where the scan is a thin one;
    `verdict` says whether to trust a brain mask, None for a single picture.
    """

    mask: np.ndarray
    agreement: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: quality.Verdict | None = None


@dataclass(frozen=True)
class Answer:
    """What the network says of a head, on cubes of `grid`, (X, Y, Z) float32 each.

    `views`: by view, the probability that a cube lies inside the skull; `inside`: their mean,
    cleaned; `hyperdense`: the probability that it is bright and inside; `cubes`: HU.
    """

    views: dict[str, np.ndarray]
    inside: np.ndarray
    hyperdense: np.ndarray
    cubes: np.ndarray
    grid: Grid


@dataclass(frozen=True)
class Head:
    """Where a head lies in a scan: boxes (2, 3) in mm, straight coordinates (see `Grid.box`).

    `box`: of its brain, with some room; `whole`: of the scan; `cut`: at which faces of it, bool
    (2, 3), the scan ends in the brain.
    """

    box: np.ndarray
    whole: np.ndarray
    cut: np.ndarray


# ---------------------------------------------------------------- the network


def openvino_network(path: Path):
    """A function from pictures (N, H, W, C) to probabilities, run by OpenVINO, and its card.

    A missing or stale export is made anew, for which Keras must be installed.
    Raises InputError when the model cannot be read or exported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # else every run is reported to a server
    import openvino

    if not path.is_file():
        raise InputError(f"there is no model {path}; give one of train.py's, or leave --model out")
    card = card_of(path)
    if not (found := checksums(path)) or not found.items() <= card.get("export", {}).items():
        from model import export_model  # needs the training stack

        export_model(path)
        warn(f"{path.with_suffix('.xml')} was missing or not made of {path}: exported it again")
        card = card_of(path)
    try:
        network = openvino.Core().compile_model(path.with_suffix(".xml"), "CPU")
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot read {path.with_suffix('.xml')}: {error}") from error
    return lambda pictures: network(pictures)[0], card


def checksums(path: Path) -> dict | None:
    """A card's `export` as it should be for a .keras file and its export, None without one."""
    try:
        path.with_suffix(".xml").stat()
        files = {"made_from": path, "sha256": path.with_suffix(".bin")}
        return {key: sha256(file) for key, file in files.items()}
    except OSError:
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keras_network(path: Path):
    """The same function run by Keras itself (GPU included), and the model's card."""
    from model import any_size, load_model

    network, card = load_model(path)
    network = any_size(network)
    return network.predict_on_batch, card


BACKENDS = {"openvino": openvino_network, "keras": keras_network}


def say_nothing(stage: str, share: float) -> None:
    """What a Predictor tells of its progress when nobody asks."""


class Predictor:
    """A trained network and the one way from a picture or a scan to its mask.

    `tell` is called with the stage (finding the head, segmenting, refining) and its share done.
    Raises InputError when `model` is no network that train.py could have written.
    """

    def __init__(self, model: str | Path = MODEL, backend: str = "openvino", tell=say_nothing):
        self.network, self.card = BACKENDS[backend](Path(model))
        self.tell = tell
        *shape, self.channels = self.card["input_shape"]
        self.dimensions, self.size = len(shape), shape[0] or SIZE
        self.multiple = self.card["multiple"]
        self.slice_size = round(FINER * self.size / self.multiple) * self.multiple
        self.window = tuple(self.card.get("window") or data.WINDOW)
        self.spacing = float(self.card.get("spacing_mm") or SPACING)
        self.sure = float(self.card.get("sure") or 0.5)
        self.classes = len(self.card.get("classes", self.card["labels"]))

    def probabilities(self, pictures: np.ndarray, batch: int = 16) -> np.ndarray:
        """Probabilities, float32, of normalised pictures (N, H, W[, C]) in [0, 1].

        They are (N, H, W) of one label, (N, H, W, classes) of several, the background first. A
        3-D network takes volumes (N, X, Y, Z, C) likewise. At most `batch` go through it at a time,
        always as many: OpenVINO prepares anew for every shape.
        """
        count, *shape = pictures.shape[: 1 + self.dimensions]
        if pictures.ndim == 1 + self.dimensions:
            pictures = pictures[..., None]
        batch = math.ceil(count / math.ceil(count / batch))
        multiples = (batch, *[self.multiple] * self.dimensions)
        pad = [(0, -n % m) for n, m in zip(pictures.shape, multiples, strict=False)]
        pictures = np.pad(pictures, [*pad, (0, 0)])
        parts = []
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            part = np.repeat(part, self.channels // part.shape[-1], axis=-1)  # grey as red is
            parts.append(self.network(part))
        found = np.concatenate(parts)[tuple(map(slice, (count, *shape)))]
        return found[..., 0] if found.shape[-1] == 1 else found

    def inside(self, probability: np.ndarray) -> np.ndarray:
        """The probability (…) of being inside the skull, of one (…) or of each class (…, C)."""
        return probability if self.classes == 1 else 1 - probability[..., 0]

    def hyperdense(self, probability: np.ndarray) -> np.ndarray:
        """The probability (…) of being bright and inside the skull; 0 of a network that has not
        learned what is."""
        return np.zeros_like(probability) if self.classes == 1 else probability[..., 2]

    # ------------------------------------------------------------ one slice

    def slice_brain(self, picture: np.ndarray) -> np.ndarray:
        """The brain mask (H, W) bool of a slice of a head CT, as `slice_probability` takes it.

        A head that is small in its picture is looked at once more, closer. What shows bone is left
        out: of HU as in a scan, of grey values what `spurs` finds.
        """
        share, bright = self.slice_inside(picture)
        if not (share > 0.5).any():  # perhaps the head is too small to be seen so coarsely
            share, bright = self.slice_inside(picture, times=2)
        if (box := closer(share > 0.5)) is not None:
            near = self.slice_inside(np.ascontiguousarray(picture[box]))
            share, bright = np.zeros_like(share), np.zeros_like(bright)
            share[box], bright[box] = near
        brain = share > 0.5
        if picture.dtype == np.uint8:
            brain &= ~spurs(brain, picture)
        elif brain.any():
            from border import decide

            brain = decide(picture, share, bright, np.median(picture[brain]))
        return clean_slice(share, self.sure, brain)

    def slice_inside(self, picture: np.ndarray, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities (H, W) of being inside the skull, and of being bright there; looked at
        with so many `times` the usual pixels a side.

        HU are seen in a brain window, too, which shows the base of the brain better; but nothing of
        what is white in it.
        """
        seen = self.slice_probability(picture, times=times)
        share, bright = self.inside(seen), self.hyperdense(seen)
        if picture.dtype != np.uint8:
            too = self.inside(self.slice_probability(picture, BRAIN_WINDOW, times))
            share = np.where(picture < BRAIN_WINDOW[1], (share + too) / 2, share)
        return share, bright

    def slice_probability(
        self, picture: np.ndarray, window: tuple | None = None, times: int = 1
    ) -> np.ndarray:
        """Probability (H, W[, classes]) float32 of a picture: uint8 as it is, or float32 HU, in the
        network's own window or in another.

        The mean over its four quarter turns and their mirror images, so that none gives another.
        """
        window = None if picture.dtype == np.uint8 else window or self.window
        finer = not cases.is_mri(self.card) and max(picture.shape) > self.size
        size = times * (self.slice_size if finer else self.size)
        square, place = data.fit(picture, size, outside=data.outside(picture))
        square = data.normalise(square, window)
        seen = [np.rot90(x, turn) for x in (square, square[:, ::-1]) for turn in range(4)]
        seen = self.probabilities(np.stack(seen))
        plain, mirrored = (
            np.mean([np.rot90(x, -turn) for turn, x in enumerate(part)], axis=0)
            for part in (seen[:4], seen[4:])
        )
        return data.unfit((plain + mirrored[:, ::-1]) / 2, place)

    def predict_slices(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """Masks, each of its picture's own size, of pictures as `slice_probability` takes.

        They are bool and cleaned of a brain; of an MRI uint8 labels, which may be many and small.
        """
        look, found = self.slice_labels if cases.is_mri(self.card) else self.slice_brain, []
        for picture in pictures:
            self.tell("segmenting", len(found) / len(pictures))
            found.append(look(picture))
        return found

    def slice_labels(self, picture: np.ndarray) -> np.ndarray:
        """The labels (H, W) uint8 of a slice of an MRI."""
        from mri import likeliest

        seen = self.slice_probability(picture)
        return likeliest([seen] if seen.ndim == 2 else np.moveaxis(seen, -1, 0))

    # ------------------------------------------------------------ one scan

    def volume(self, scan: Volume) -> Result:
        """The mask of a scan: found coarsely, segmented in three views, put on the scan's grid."""
        if thin_axis(scan) is not None:
            return self.thin_scan(scan)
        from volume import not_blanked, whole_box

        head, everything = self.find_head(scan), slice(0, scan.hu.shape[scan.slice_axis])
        if head is not None:
            if (sound := not_blanked(scan, head.box)) != everything:
                return self.part(scan, sound)
            if (result := self.segment(scan, head)).mask.any():
                return result
        # where most of a head was blanked out, it may only be seen once the scan ends there
        sound = not_blanked(scan, whole_box(scan))
        return no_head(scan) if sound == everything else self.part(scan, sound)

    def part(self, scan: Volume, sound: slice) -> Result:
        """The mask of a scan of which only some slices are `sound`: of these, as of a scan."""
        from volume import cropped

        axis = scan.slice_axis
        result = self.volume(cropped(scan, sound))
        if not result.mask.any():
            return no_head(scan)
        mask = np.zeros_like(scan.hu, bool)
        np.moveaxis(mask, axis, 0)[sound] = np.moveaxis(result.mask, axis, 0)
        left_out = zip((sound.start, scan.hu.shape[axis] - sound.stop), quality.FACES[axis],
                       strict=True)  # fmt: skip
        notes = [BLANKED.format(count, face) for count, face in left_out if count]
        return replace(result, mask=mask, notes=(*notes, *result.notes))

    def segment(self, scan: Volume, head: Head) -> Result:
        """The mask of the head that was found in a scan."""
        from border import find_inside, refine
        from volume import millilitres, regions

        seen = self.look(scan, head)
        every = slices_seen(scan, seen.grid.spacing)
        brain, alike = seen.inside > 0.5, agreement(seen.views, every)
        if not brain.any() or max(alike.values()) < ALIKE:
            return no_head(scan)
        mask = np.zeros_like(scan.hu, bool)

        def fill(region):
            mask[region] = refine(inside, scan, region)

        slabs = list(regions(close_to(brain, seen.grid), scan, depth=16))
        with ThreadPoolExecutor(2) as pool:
            signs = pool.submit(quality.signs_of_cubes, seen.views, every, brain, seen.cubes,
                                seen.grid.spacing)  # fmt: skip
            inside = find_inside(seen.inside, seen.hyperdense, seen.cubes, seen.grid, scan)
            for done, _ in enumerate(pool.map(fill, slabs)):
                self.tell("refining", done / len(slabs))
        mask = tidy(mask)
        if millilitres(mask, scan) < LEAST_BRAIN:
            return no_head(scan)
        return Result(mask, alike, verdict=judge(mask, scan, signs.result()))

    def thin_scan(self, scan: Volume) -> Result:
        """The mask of a scan of one slice or few, each taken as a picture in HU."""
        axis = thin_axis(scan)
        pictures = np.moveaxis(scan.hu, axis, 0).astype(np.float32)
        mask = np.stack(self.predict_slices(pictures), axis)
        if not mask.any():
            return no_head(scan)
        return Result(mask, verdict=quality.judge({}, (TOO_THIN, *quality.strange_hu(scan.hu))))

    def find_head(self, scan: Volume) -> Head | None:
        """Where the head lies in a scan; None if nothing looks like brain."""
        from volume import straighten, thinned, whole_box

        few = thinned(scan, COARSE * self.spacing / 2)  # far quicker than all of a large scan
        cubes, grid = straighten(few.hu, few, COARSE * self.spacing)
        box, whole = self.find_brain(cubes, grid), grid.box((0, 0, 0), grid.shape)
        if box is None:
            return None
        cut = np.abs(box - whole) < ROOM  # scalp and skull alone are thicker
        whole = np.where(cut, whole_box(scan), whole)  # coarse cubes reach beyond: air, mirrored
        if cut.any() and (again := self.find_brain(cubes, grid, cut)) is not None:
            box = again
        return Head(enlarged(box, MARGIN, whole), whole, cut)

    def find_brain(self, cubes: np.ndarray, grid: Grid, cut=UNCUT) -> np.ndarray | None:
        """The box (2, 3) in mm of what looks like brain in HU on coarse cubes, in which the head
        may be `cut` (see `Head`); None if nothing does."""
        from volume import largest

        views = self.views(cubes, dict.fromkeys(data.VIEWS, FEW), "finding the head", cut)
        answer = self.inside(sum(views.values()) / len(views))
        # of a head that is cut low, one view may see brain where the others see a neck
        for sure in (0.5, 0.3):
            found = largest(answer > sure)
            if found.sum() * grid.spacing**3 / 1000 >= LEAST_BRAIN:
                return grid.box(*ends(found))
        return None

    def look(self, scan: Volume, head: Head) -> Answer:
        """The network's answer in the box of a scan's head.

        Brain closer than ROOM to a face of the box was seen only in part, here and coarsely: the
        box is made larger there, within the whole scan, and looked at again.
        """
        from volume import straighten

        cubes, grid = straighten(scan.hu, scan, self.spacing, head.box)
        views = self.views(cubes, slices_seen(scan, grid.spacing), cut=head.cut)
        mean = sum(views.values()) / len(views)
        inside = cut_canal(clean_volume(self.inside(mean)), grid.spacing)
        brain = inside > 0.5
        if brain.any():
            close = np.abs(grid.box(*ends(brain)) - head.box) < ROOM
            wider = enlarged(head.box, 2 * MARGIN * close, head.whole)
            if (wider != head.box).any():
                return self.look(scan, replace(head, box=wider))
        views = {view: self.inside(seen) for view, seen in views.items()}
        return Answer(views, inside, self.hyperdense(mean), cubes, grid)

    def views(
        self, cubes: np.ndarray, every: dict[str, int], stage: str = "segmenting", cut=UNCUT
    ) -> dict[str, np.ndarray]:
        """Probabilities (X, Y, Z[, C]) of a scan in HU on cubes, seen in each view of `every`."""
        return self.in_views(data.normalise(cubes, self.window), every, stage, cut)

    def in_views(
        self, seen: np.ndarray, every: dict[str, int], stage: str = "segmenting", cut=UNCUT
    ) -> dict[str, np.ndarray]:
        """Probabilities (X, Y, Z[, classes]) of normalised cubes (X, Y, Z[, C]) in each view.

        Of each view, one slice in so many as `every` says is looked at; those between are
        interpolated. Where the head is `cut` (see `Head`), slices go on beyond: see `mirrored`.
        """
        found = {}
        for view, step in every.items():
            self.tell(stage, len(found) / len(every))
            whole, inside = mirrored(seen, cut, view)
            slices = data.stack(whole, view)
            some = self.probabilities(slices[::step])
            found[view] = data.unstack(between(some, step, len(slices)), view)[inside]
        return found

    # ------------------------------------------------------------ one MRI case

    def mri(self, source: MRI) -> Result:
        """The labels of an MRI: by slices whose views are averaged, or by volumes in patches."""
        from mri import in_patches, to_cubes, to_labels

        cubes, grid = to_cubes(source, self.card)
        if self.dimensions == 3:
            self.tell("segmenting", 0)
            patch = [n or m for n, m in zip(self.card["input_shape"], cubes.shape, strict=True)][:3]
            shares = in_patches(lambda part: self.probabilities(part[None])[0], cubes, patch)
        else:
            trained = [view for view in self.card.get("views") or () if view in data.VIEWS]
            views = self.in_views(cubes, dict.fromkeys(trained or data.VIEWS, 1))
            shares = sum(views.values()) / len(views)
        labels = to_labels(shares, grid, source)
        names = ", ".join(self.card["labels"].values())
        return Result(labels, notes=() if labels.any() else (f"nothing was found of {names}",))


def spurs(brain: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Small patches (H, W) of what was taken for brain (bool) in a picture (uint8) that are as
    white as bone; bool.

    In a brain window blood is as white, but clots that touch the skull are larger than its spurs.
    What is enclosed, such as lime, is filled again as a hole of the mask.
    """
    white = brain & (picture >= WHITE * picture.max())
    _, parts, about, _ = cv2.connectedComponentsWithStats(white.astype(np.uint8), connectivity=4)
    small = about[:, cv2.CC_STAT_AREA] < CLOT * np.count_nonzero(brain)
    small[0] = False  # what is not white
    return small[parts]


def closer(brain: np.ndarray) -> tuple[slice, slice] | None:
    """The box (rows, columns) of a head in its picture (H, W) where `brain` (bool) was seen; None
    where that is not much smaller than the picture, or there is no brain."""
    _, _, about, _ = cv2.connectedComponentsWithStats(brain.astype(np.uint8), connectivity=4)
    if len(about) == 1:
        return None
    left, top, width, height = about[1 + about[1:, cv2.CC_STAT_AREA].argmax(), :4]
    reach = SKULL * max(width, height)
    centres, sizes = (top + height / 2, left + width / 2), brain.shape
    box = [(max(0, int(c - reach)), min(n, math.ceil(c + reach)))
           for c, n in zip(centres, sizes, strict=True)]  # fmt: skip
    if max(high - low for low, high in box) > SMALL * max(sizes):
        return None
    return tuple(slice(low, high) for low, high in box)


def mirrored(cubes: np.ndarray, cut: np.ndarray, view: str) -> tuple[np.ndarray, tuple]:
    """Cubes (X, Y, Z[, C]) with MIRRORED more, their mirror image, beyond each face where a head is
    `cut` (see `Head`) that a view's slices reach; and the slices in which they lie themselves.

    A head that ends in a straight line looks like none that the network knows, or like a neck.
    """
    across = 2 - data.VIEWS.index(view)
    widths = [tuple(MIRRORED * cut[:, axis] * (axis != across)) for axis in range(3)]
    sizes = zip(widths, cubes.shape[:3], strict=True)
    inside = tuple(slice(low, low + size) for (low, _), size in sizes)
    if not cut.any():
        return cubes, inside
    return np.pad(cubes, widths + [(0, 0)] * (cubes.ndim - 3), "reflect"), inside


def enlarged(box: np.ndarray, mm, whole: np.ndarray) -> np.ndarray:
    """A box (2, 3) in mm, larger by so many at all faces or at each (2, 3); within the `whole`."""
    low, high = box + np.array([[-1], [1]]) * mm
    return np.stack([np.maximum(low, whole[0]), np.minimum(high, whole[1])])


def slices_seen(scan: Volume, spacing: float) -> dict[str, int]:
    """Of each view of a scan on cubes, one slice in how many is looked at.

    One in EVERY; where voxels are over THICK long, what is new along them and no more. Slices so
    thick, seen from the side, are stripes: there it is one in EVERY_THICK.
    """
    every = EVERY_THICK if scan.spacing[scan.slice_axis] > THICK else EVERY
    apart = zip(data.VIEWS, reversed(scan.spacing), strict=True)  # axial is across z
    return {view: max(EVERY, int(mm / spacing)) if mm > THICK else every for view, mm in apart}


def thin_axis(scan: Volume) -> int | None:
    """The axis along which a scan is one slice or few, less than THIN; None of any other scan."""
    axis = int(np.argmin(scan.hu.shape * scan.spacing))
    return axis if scan.hu.shape[axis] * scan.spacing[axis] < THIN else None


TOO_THIN = f"less than {THIN:.0f} mm of a head: neither its volume nor its views can be checked"
BLANKED = "the scan was blanked out in {} slices at the {}: the mask ends before them"
FOR_SCANS = "--border, --brain and --format are for scans: a slice's mask is a PNG as it was found"
NOTHING_LEFT = "--border has left nothing of the mask"
NO_HEAD = "no brain was found, so the mask is empty: is this a scan of a head?"


def no_head(scan: Volume) -> Result:
    """The result for a scan in which there is no brain."""
    mask = np.zeros_like(scan.hu, bool)
    return Result(mask, notes=(NO_HEAD,), verdict=judge(mask, scan, {}))


def judge(mask: np.ndarray, scan: Volume, signs: dict[str, float]) -> quality.Verdict:
    """The verdict on a scan's mask, from `signs` of the network's answer and from the scan."""
    from volume import millilitres

    size = millilitres(mask, scan)
    signs = signs | quality.signs_of_scan(scan.hu, mask, scan.spacing, size)
    return quality.judge(signs, quality.strange_hu(scan.hu))


def between(slices: np.ndarray, every: int, count: int) -> np.ndarray:
    """`count` slices of which each `every`-th is given, (N, H, W[, C]): linear in between, and
    beyond the last one as it is."""
    if every == 1:
        return slices
    low, step = np.divmod(np.arange(count), every)
    share = (step / every).astype(np.float32).reshape(-1, *[1] * (slices.ndim - 1))
    high = np.minimum(low + 1, len(slices) - 1)
    return slices[low] * (1 - share) + slices[high] * share


def clean_slice(
    probability: np.ndarray, sure: float = 0.5, brain: np.ndarray | None = None
) -> np.ndarray:
    """The mask (bool) of a slice, from the probability (H, W) and what of it is `brain` (bool; what
    is over 0.5): no holes, no specks, and nothing at all of which the network is not `sure`: the
    least mean probability of a mask."""
    mask = fill_voids.fill(probability > 0.5 if brain is None else brain)
    if not mask.any() or probability[mask].mean() < sure:
        return np.zeros_like(mask)
    _, parts, about, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    sizes = about[:, cv2.CC_STAT_AREA]
    sizes[0] = 0  # what is not the mask
    kept = sizes >= max(LEAST_AREA * mask.size, 0.02 * sizes.max())
    return kept[parts]


def clean_volume(probability: np.ndarray) -> np.ndarray:
    """A volume's probability (X, Y, Z) with only its largest component above 0.5, and no holes.

    What hangs on it by less than three cubes is no part of it: it has leaked through a foramen.
    """
    from volume import largest

    core = largest(scipy.ndimage.binary_erosion(probability > 0.5, border_value=1))
    near = scipy.ndimage.binary_dilation(core, iterations=2)
    probability = np.where(near, probability, 0)
    mask = probability > 0.5
    return np.where(fill_voids.fill(mask) & ~mask, 1, probability).astype(np.float32)


def cut_canal(probability: np.ndarray, spacing: float) -> np.ndarray:
    """A volume's probability (X, Y, Z) on cubes without what runs down the spinal canal.

    From the foramen magnum down, a cut across is no larger than the foramen, some 8 cm2 (Gruber et
    al., Int J Legal Med 2009); of so narrow a lower end, FUNNEL is left for the skull's funnel
    above it.
    """
    areas = np.count_nonzero(probability > 0.5, axis=(0, 1)) * spacing**2
    if not areas.any():
        return probability
    bottom, wide = np.flatnonzero(areas)[0], np.flatnonzero(areas > FORAMEN)
    top = wide[0] if len(wide) else bottom  # nothing wide: a mask that is all canal, or no brain
    probability = probability.copy()
    probability[..., : max(0, top - round(FUNNEL / spacing))] = 0
    return probability


def tidy(mask: np.ndarray) -> np.ndarray:
    """A mask (X, Y, Z) with only its largest component, and no holes; changed in place."""
    from volume import largest

    if mask.any():
        box = around(mask, 0)  # far quicker than all of a large scan
        mask[box] = fill_voids.fill(largest(np.array(mask[box], order="K")))
    return mask


def grow(mask: np.ndarray, spacing, mm: float) -> np.ndarray:
    """A mask (X, Y, Z) grown by `mm` in all directions, or shrunk where negative.

    Distances are Euclidean, between the centres of voxels of `spacing` (3,) mm. A face of the scan
    is no border: where the mask is cut, it does not shrink.
    """
    if mm == 0 or not mask.any():
        return mask
    reach = np.ceil(abs(mm) / np.asarray(spacing)).astype(int) + 1
    low, high = ends(mask)
    box = tuple(map(slice, np.maximum(low - reach, 0), high + reach))
    part = mask[box]
    if part.all() and mm < 0:
        return mask
    away = scipy.ndimage.distance_transform_edt(~part if mm > 0 else part, sampling=spacing)
    grown = np.zeros_like(mask)
    # a hair's breadth more, for distances that are not exact in binary
    grown[box] = away <= mm + 1e-6 if mm > 0 else away > 1e-6 - mm
    return grown


def ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first voxel (3,) of a mask (X, Y, Z) along each axis, and the one after its last."""
    lines = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([line[0] for line in lines]), np.array([line[-1] + 1 for line in lines])


def around(mask: np.ndarray, margin) -> tuple[slice, ...]:
    """The box of a mask (X, Y, Z) and `margin` voxels, one number or three, on every side."""
    low, high = ends(mask)
    low = np.maximum(low - np.ceil(margin), 0).astype(int)
    high = np.minimum(high + np.ceil(margin), mask.shape).astype(int)
    return tuple(map(slice, low.tolist(), high.tolist()))


def close_to(mask: np.ndarray, grid: Grid, margin: int = 3) -> Grid:
    """The part of a grid that holds a mask on it, and `margin` cubes around: the border's band."""
    box = around(mask, margin)
    start = grid.start + grid.spacing * np.array([side.start for side in box])
    return replace(grid, start=start, shape=tuple(side.stop - side.start for side in box))


def agreement(views: dict[str, np.ndarray], every: dict[str, int]) -> dict[str, float]:
    """Dice between the masks of each pair of views, where both of them looked."""
    found = {}
    for pair in itertools.combinations(views, 2):
        masks = (views[view][where_saw(pair, every)] > 0.5 for view in pair)
        found["-".join(pair)] = round(float(dice(*masks)), 4)
    return found


# ---------------------------------------------------------------- what to predict, and where to


@dataclass(frozen=True)
class Job:
    """One input and the folder of its results."""

    path: Path
    name: str
    folder: Path


def find_inputs(paths: list[str | Path], card: dict | None = None) -> list[Path]:
    """The slices and scans that `paths` name: files, DICOM folders, or folders of either.

    Where the model's card names the modalities of an MRI, case folders take the place of scans.
    Raises InputError for a path that does not exist and for a folder that holds none.
    """
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        inside = [path] if path.is_file() else inputs_inside(path, card or {})
        if not inside:
            raise InputError(f"{path} holds no scan and no picture (NIfTI, DICOM, PNG, JPEG)")
        found += [p for p in inside if p not in found]
    return found


def inputs_inside(folder: Path, card: dict) -> list[Path]:
    """The files of a folder that are scans or pictures, or the DICOM series and studies in it; or
    the case folders of an MRI, and pictures, where the card asks for one. Masks that lie beside
    their scans are left out."""
    if cases.is_mri(card):
        from mri import case_inputs

        return case_inputs(folder, card)
    files = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")
             and p.name.lower().endswith((*cases.SCANS, *cases.PICTURES, ".zip"))]  # fmt: skip
    masks = cases.masks_among(files)
    if masks:
        few = "1 mask" if len(masks) == 1 else f"{len(masks)} masks"
        warn(f"{folder}: {few} of other files there left out, such as {masks[0].name}")
    scans = [path for found in dicom_inputs(folder) for path in as_slices(found)]
    return [file for file in files if file not in masks] + scans


def dicom_inputs(folder: Path) -> list[Path]:
    """The folders below that each hold one DICOM study: series of one study are one input."""
    if not os.access(folder, os.R_OK | os.X_OK):
        warn(f"{folder}: no permission to look into it; left out")
        return []
    if cases.is_dicom_folder(folder):
        return [folder]
    # no results of an earlier run, nor links back up the tree
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")
               and not is_result(p) and not folder.resolve().is_relative_to(p.resolve())]
    below = [q for p in folders for q in dicom_inputs(p)]
    if len(below) > 1:
        from dicom import study

        studies = set(map(study, below))
        return [folder] if len(studies) == 1 and "" not in studies else below
    return below


def as_slices(folder: Path) -> list[Path]:
    """A DICOM folder; or the images in it, each a slice, where none has a place in space."""
    from dicom import list_slices

    return list_slices(folder) or [folder]


def is_result(folder: Path) -> bool:
    """Whether a folder is one of a prediction's results."""
    name = re.fullmatch(r"(.+)_prediction(_\d+)?", folder.name)
    return bool(name) and "input" in read_json(folder / f"{name[1]}.json")


def plan(paths: list[Path], out: Path) -> list[Job]:
    """A job for each path; inputs of one name get folders of their own, always the same ones.

    The folder of an earlier result belongs to the input that its JSON names.
    """
    jobs, taken = [], set()
    for path in paths:
        name = cases.stem(absolute(path))
        name = name.removesuffix(".dcm").removesuffix(".zip")
        folder = next(f for f in folders_of(name, out) if f not in taken and owner(f, name) in
                      (None, str(absolute(path))))  # fmt: skip
        taken.add(folder)
        jobs.append(Job(path, name, folder))
    return jobs


def absolute(path: Path) -> Path:
    """A path from the root; a link stays one, for its own name is the scan's."""
    return Path(os.path.abspath(path))


def folders_of(name: str, out: Path) -> Iterator[Path]:
    """The folders in which results of inputs of a name may be, in order."""
    yield out / f"{name}_prediction"
    yield from (out / f"{name}_prediction_{number}" for number in itertools.count(2))


def owner(folder: Path, name: str) -> str | None:
    """The input to which a folder of results belongs, None if to none."""
    return read_json(folder / f"{name}.json").get("input")


@contextmanager
def claimed(job: Job) -> Iterator[Job]:
    """The job, in a folder of its own: in another one if another process has that.

    The JSON there says no more than whose it is until the result is complete: an earlier one does
    not stand for files that are about to be replaced. It goes again if the block fails.
    """
    folders = itertools.chain([job.folder], folders_of(job.name, job.folder.parent))
    with explained(job.folder):
        job = next(j for j in (replace(job, folder=f) for f in folders) if take(j))
    about = job.folder / f"{job.name}.json"
    try:
        with replacing(about) as path:
            path.write_text(json.dumps({"input": str(absolute(job.path))}), encoding="utf-8")
        yield job
    except InputError:
        about.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            job.folder.rmdir()
        raise


def take(job: Job) -> bool:
    """Whether a job's folder is its own, or nobody's yet; then there is a JSON in it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        (job.folder / f"{job.name}.json").touch(exist_ok=False)
    except FileExistsError:
        return owner(job.folder, job.name) in (None, str(absolute(job.path)))
    return True


# ---------------------------------------------------------------- one input to its files


@dataclass
class Work:
    """An input on its way through `read`, `predict` and `write`.

    `about` is what its JSON says in the end; `error` why there is none; `version` is the input's
    when it was read, `notes` are of its reading.
    """

    job: Job
    version: str = ""
    notes: tuple[str, ...] = ()
    source: np.ndarray | Volume | MRI | None = None
    result: Result | None = None
    about: dict = field(default_factory=dict)
    error: InputError | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for beside the mask itself: the DICOM series, the masks' formats,
    the brain cut out of the scan, the mm by which the mask is grown."""

    series: int | None = None
    formats: tuple[str, ...] = ("nii",)
    brain: bool = False
    border: float = 0.0


def predict_files(
    jobs: list[Job],
    load: Callable[[], Predictor],
    wanted: Wanted = Wanted(),
    card: dict | None = None,
) -> Iterator[Work]:
    """Predict the inputs and write their results, in order; `load` gives the network.

    While one is predicted, the next is read and the one before written, each in a thread: no more
    than three are in memory. Reading begins before the network is loaded, hence its `card`.
    """
    waiting = in_background(step(lambda work: read(work, wanted, card or {})), map(Work, jobs))
    predictor = load()
    predicted = map(step(lambda work: predict(work, predictor)), waiting)
    return in_background(step(lambda work: write(work, predictor, wanted)), predicted)


def in_background(function: Callable, items: Iterable) -> Iterator:
    """function(item) for each item, in order: begun in a thread before the last one is given."""
    thread, items = ThreadPoolExecutor(1), iter(items)

    def begin():
        return next((thread.submit(function, item) for item in items), None)

    def results(under_way):
        while under_way:
            following = begin()
            yield under_way.result()
            under_way = following

    return results(begin())


def step(function: Callable[[Work], None]) -> Callable[[Work], Work]:
    """`function` timed, its InputError kept; work that failed before is passed on."""

    def run_step(work: Work) -> Work:
        start = time.perf_counter()
        if work.error is None:
            try:
                function(work)
            except InputError as error:
                work.error = error
            except MemoryError:
                work.error = InputError(f"{work.job.path} needs more memory than there is")
            if work.error:
                work.source = work.result = None
        work.seconds += time.perf_counter() - start
        return work

    return run_step


def version(job: Job) -> str:
    """What is another when an input was changed: its bytes, and when it was last written, in ns.

    Of a folder those of its tree, but for results that are written into it.
    """
    files = [job.path] if job.path.is_file() else job.path.rglob("*")
    about = [f.stat() for f in files if f.is_file() and job.folder not in f.parents]
    return f"{sum(a.st_size for a in about)} {max((a.st_mtime_ns for a in about), default=0)}"


def is_slice(work: Work) -> bool:
    """Whether what was read is one slice, of whatever kind of file."""
    return isinstance(work.source, np.ndarray)


def is_picture(job: Job) -> bool:
    return job.path.name.lower().endswith(cases.PICTURES)


def read(work: Work, wanted: Wanted, card: dict) -> None:
    """Read a slice, a NIfTI or DICOM scan, or the MRI case that the card asks for."""
    work.version = version(work.job)
    if is_picture(work.job):
        work.source, work.notes = read_slice(work.job.path, card)
    elif cases.is_mri(card):
        work.source = read_case(work.job.path, wanted, card)
    elif found := read_dicom_slice(work.job.path):
        work.source, work.notes = found
    else:
        work.source = read_scan(work.job.path, wanted.series)
        if "dicom-seg" in wanted.formats and work.source.slices is None:
            raise InputError(f"{work.job.path} is no DICOM scan: leave --format dicom-seg out")
    if is_slice(work) and (wanted.brain or wanted.border or wanted.formats != ("nii",)):
        work.notes = (*work.notes, FOR_SCANS)


def read_slice(path: Path, card: dict) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture of as many channels as the model's card names, and notes on it."""
    if card.get("dimensions") == 3:
        raise InputError(f"{path} is a slice, and this model looks at volumes: give a scan")
    if cases.is_mri(card):
        return data.read_channels(path, len(cases.channels(card))), ()
    return read_noted(path)


def read_dicom_slice(path: Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A DICOM image that has no place in space, (H, W) float32 HU, and notes; None of all else."""
    if not cases.is_dicom(path):
        return None
    from volume import read_slice

    if (found := read_slice(path)) is None:
        return None
    hu, mended = quality.to_hu(found[0])
    return hu, (*found[1], *mended, *quality.strange_hu(hu))


def read_case(path: Path, wanted: Wanted, card: dict) -> MRI:
    """The MRI of a case folder; raises InputError for what is made of brain masks alone."""
    from mri import read_mri

    if path.is_file():
        needed = ", ".join(cases.channels(card))
        raise InputError(f"{path} is one file, and this model looks at {needed}: give their folder")
    if wanted.brain or wanted.border or "dicom-seg" in wanted.formats:
        raise InputError("--brain, --border and --format dicom-seg are for brain masks of CT: "
                         f"leave them out for {path}")  # fmt: skip
    return read_mri(path, card)


def read_scan(path: str | Path, series: int | None = None) -> Volume:
    """A scan whose values are HU, as far as that could be seen to be mended."""
    from volume import read_volume

    scan = read_volume(path, series=series)
    import border  # noqa: F401  it takes 0.3 s, while the network is still being loaded

    hu, notes = quality.to_hu(scan.hu)
    return replace(scan, hu=hu, notes=(*scan.notes, *notes))


def predict(work: Work, predictor: Predictor) -> None:
    """Find the mask."""
    if is_slice(work):
        mask = predictor.predict_slices([work.source])[0]
        what = "nothing" if cases.is_mri(predictor.card) else "no brain"
        notes = () if mask.any() else (f"{what} was found in this slice",)
        work.result = Result(mask, notes=(*work.notes, *notes))
    else:
        find = predictor.mri if cases.is_mri(predictor.card) else predictor.volume
        work.result = find(work.source)


def write(work: Work, predictor: Predictor, wanted: Wanted) -> None:
    """Write mask, overlay and, last, the JSON; let go of the scan."""
    start = time.perf_counter()
    before = read_json(work.job.folder / f"{work.job.name}.json")
    with claimed(work.job) as job:
        if job.folder != work.job.folder:
            before = {}
        work.job = job
        if is_slice(work):
            about = write_picture(job, work.source, work.result, predictor.card)
        else:
            save = write_mri if cases.is_mri(predictor.card) else write_scan
            about = save(job, work.source, work.result, wanted, predictor.card)
        seconds = work.seconds + time.perf_counter() - start
        about = {"input": str(absolute(job.path)), "input_version": work.version} | about | {
            "model": predictor.card.get("sha256"),
            "wanted": asdict(wanted),
            "seconds": round(seconds, 2),
        }
        with replacing(job.folder / f"{job.name}.json") as path:
            path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    remove_stale(job.folder, before, about)
    work.about, work.source, work.result = about, None, None


def write_picture(job: Job, picture: np.ndarray, result: Result, card: dict) -> dict:
    """Write the mask and overlay of a slice; return what its JSON says."""
    mask = result.mask
    target = job.folder / f"{job.name}_predicted_mask.png"
    write_image(target, stored(mask, card))
    write_image(job.folder / f"{job.name}_overlay.png", outlined(grey(picture), mask))
    kind = "brain" if mask.dtype == bool else "labelled"
    return {"mask": target.name, f"{kind}_pixels": int(np.count_nonzero(mask)),
            "shape": list(mask.shape), "notes": list(result.notes)}  # fmt: skip


def stored(mask: np.ndarray, card: dict) -> np.ndarray:
    """A mask as a picture holds it: 0 and 255, or the card's own values of the labels."""
    if mask.dtype == bool:
        return np.uint8(255) * mask
    return cases.original(mask, card["label_values"].values())


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A grey picture with the outline of its mask, or in colours of its labels."""
    return (report.overlay if mask.dtype == bool else report.overlay_labels)(picture, mask)


def write_scan(job: Job, scan: Volume, result: Result, wanted: Wanted, card: dict) -> dict:
    """Write the masks and the overlay of a scan, at one time; return what its JSON says."""
    from volume import millilitres

    mask, verdict = grow(result.mask, scan.spacing, wanted.border), result.verdict
    lost = [NOTHING_LEFT] if result.mask.any() and not mask.any() else []
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(write_masks, job, scan, mask, wanted, card)
        sheet = report.captioned(draw_scan(scan, mask), verdict.grade, verdict.reasons)
        write_image(job.folder / f"{job.name}_overlay.png", sheet)
        files = written.result()
    return {
        **files,
        "volume_ml": round(millilitres(mask, scan), 1),
        **grid_of(scan),
        "verdict": verdict.grade,
        "reasons": list(verdict.reasons),
        "signs": verdict.signs,
        "left_right": quality.LEFT_RIGHT,
        "view_agreement": result.agreement,
        "notes": [*scan.notes, *result.notes, *lost],
    }


def grid_of(scan: Volume) -> dict:
    """What a JSON says of a scan's voxels."""
    return {
        "shape": list(scan.hu.shape),
        "spacing_mm": [round(float(s), 4) for s in scan.spacing],
        "affine": np.round(scan.affine, 6).tolist(),
    }


def write_mri(job: Job, source: MRI, result: Result, wanted: Wanted, card: dict) -> dict:
    """As `write_scan`, of an MRI: with the mL of every label and region."""
    from volume import millilitres

    labels, scan = result.mask, source.scan
    files = write_masks(job, scan, labels, wanted, card)
    ml = {name: round(millilitres(np.isin(labels, area), scan), 2)
          for name, area in cases.areas(card).items()}  # fmt: skip
    names = {int(label): f"{name}: {ml[name]:.1f} mL" for label, name in card["labels"].items()}
    sheet = report.legend(draw_scan(source.shown, labels), names)
    write_image(job.folder / f"{job.name}_overlay.png", sheet)
    return {
        **files,
        "volume_ml": round(millilitres(labels > 0, scan), 1),
        "volumes_ml": ml,
        "label_values": {card["labels"][n]: value for n, value in card["label_values"].items()},
        **grid_of(scan),
        "left_right": quality.LEFT_RIGHT,
        "notes": [*scan.notes, *result.notes],
    }


def write_masks(job: Job, scan: Volume, mask: np.ndarray, wanted: Wanted, card: dict) -> dict:
    """Write a scan's mask in each format wanted, and the brain alone, by BIDS' names for a BIDS
    scan; return the names: `mask` (the first), `masks` and, if wanted, `brain`."""
    from volume import bids_mask_name, write_brain, write_dicom_seg, write_mask

    bids = bids_mask_name(job.name)
    target = job.folder / (bids or f"{job.name}_predicted_mask")
    names = []
    if "nii" in wanted.formats:
        names.append(f"{target.name}.nii.gz")
        write_mask(mask if mask.dtype == bool else stored(mask, card), scan, job.folder / names[-1])
    if "dicom-seg" in wanted.formats:
        names.append(f"{target.name}.dcm")
        write_dicom_seg(mask, scan, job.folder / names[-1], version=card["sha256"])
    if "png" in wanted.formats:
        names.append(f"{target.name}_png")
        for index, slice_mask in enumerate(data.stack(mask, "axial")):
            picture = stored(slice_mask, card)
            write_image(job.folder / names[-1] / f"axial_{index:04d}.png", picture)
    files = {"mask": names[0], "masks": names}
    if wanted.brain:
        brain = bids.removesuffix("mask") + job.name.split("_")[-1] if bids else f"{job.name}_brain"
        files["brain"] = f"{brain}.nii.gz"
        write_brain(mask, scan, job.folder / files["brain"])
    if bids:
        with replacing(target.with_suffix(".json")) as path:
            kind = "Brain" if mask.dtype == bool else "Lesion"
            content = {"Type": kind, "Sources": [job.path.name]}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files


def remove_stale(folder: Path, before: dict, about: dict) -> None:
    """Remove what an earlier result wrote and this one has not replaced, if its mask was another.

    `before` and `about` are what the JSON said and says.
    """



    def made_of(said):
        wanted = said.get("wanted", {})
        options = wanted.get("series"), wanted.get("border")
        return said.get("model"), said.get("input_version"), *options

    def files(said):  # in the folder itself, whatever the JSON names
        return {Path(name).name for name in (*said.get("masks", ()), said.get("brain")) if name}

    if made_of(before) == made_of(about):
        return
    for name in files(before) - files(about):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture as uint8 (H, W): of an MRI its first channel, HU in the window of a CTA."""
    if picture.dtype == np.uint8:
        return picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., 0])
    return np.rint(255 * data.normalise(picture, OVERLAY_WINDOW)).astype(np.uint8)


MOST_BORDER = 50  # mm by which a mask may be grown
OVERLAY_WINDOW = (-100.0, 300.0)  # HU: the inner table is white, the brain grey
AROUND = 40.0  # mm about a brain: face and neck, in which a mask may have leaked, but no shoulders


def draw_scan(scan: Volume, mask: np.ndarray, most: int = 40, height: int = 256):
    """An RGB sheet of the scan with its mask's outline, or its labels in colours: axial slices, two
    coronal, two sagittal; of a thin scan its own slices. `scan` is in HU, or grey (uint8); what is
    drawn ends AROUND a brain."""
    tiles = []
    axis = thin_axis(scan)
    views = data.VIEWS if axis is None else data.VIEWS[2 - axis :][:1]  # z is axial's, x sagittal's
    hu = scan.hu
    if mask.dtype == bool and mask.any():
        box = around(mask, np.divide(AROUND, scan.spacing))
        hu, mask = hu[box], mask[box]
    for view in views:
        pictures, masks = data.stack(hu, view), data.stack(mask, view)
        rows, columns = data.pixel_spacing(scan.spacing, view)
        size = np.multiply(pictures.shape[1:], (rows, columns))
        width, tall = (max(1, round(s * height / size.max())) for s in (size[1], size[0]))
        for index in chosen_slices(masks, most if view == views[0] else 2):
            picture = cv2.resize(grey(np.ascontiguousarray(pictures[index])), (width, tall),
                                 interpolation=cv2.INTER_AREA)
            tiles.append(outlined(picture, resized(masks[index], width, tall)))
    return report.montage(tiles)


def resized(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask (H, W) of another size: by half of each pixel's area, labels by the nearest pixel."""
    if mask.dtype != bool:
        mask = np.ascontiguousarray(mask)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    area = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return area > 0.5


def chosen_slices(masks: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` evenly spaced slices, top first, with a brain in them if any."""
    hit = np.flatnonzero(masks.any(axis=(1, 2)))
    span = np.arange(hit[0], hit[-1] + 1) if len(hit) else np.arange(len(masks))
    if most < len(span):
        edges = np.linspace(0, len(span), most + 1)
        span = span[((edges[1:] + edges[:-1]) / 2).astype(int)]
    return span[::-1]


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) uint8 picture, whole or not at all."""
    with replacing(path) as temporary:
        data.write_picture(temporary, image)


# ---------------------------------------------------------------- command line


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paths", nargs="+", help="PNG or JPEG slices, NIfTI files, DICOM folders, or their folder; "
        "for a network of MRI, folders with a file of each modality")  # fmt: skip
    add("--out", default="results", help="where the result folders go (default: %(default)s)")
    add("--model", default=MODEL, help="a network of train.py (default: the shipped one)")
    add("--backend", default="openvino", choices=list(BACKENDS),
        help="what runs the network; keras takes a GPU if there is one (default: %(default)s)")
    add("--series", type=int, metavar="N", help="the DICOM series to take, if not the head CT")
    add("--format", nargs="+", default=["nii"], choices=["nii", "dicom-seg", "png"],
        help="of a scan's mask; a DICOM SEG names the patient as its source does (default: nii)")
    add("--brain", action="store_true", help="write the scan, too, with all but the brain as air")
    add("--border", type=float, default=0.0, metavar="MM",
        help="grow a scan's mask by MM, or shrink it where negative (default: 0)")
    add("--overwrite", action="store_true", help="predict again what is already done")
    args = parser.parse_args(argv)
    if not abs(args.border) <= MOST_BORDER:
        raise InputError(f"--border {args.border:g}: give mm from -{MOST_BORDER} to {MOST_BORDER}")
    return args


def is_done(job: Job, model: str | Path, wanted: Wanted) -> bool:
    """Whether the job's result stands there already: of this input as it is now, made by the same
    network and as wanted."""
    about = read_json(job.folder / f"{job.name}.json")
    return (
        (job.folder / about.get("mask", "no mask")).exists()
        and about.get("wanted") == json.loads(json.dumps(asdict(wanted)))
        and about.get("model") == card_of(model).get("sha256")
        and about.get("input_version") == version(job)
    )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    out = Path(args.out)
    card = card_of(args.model)
    jobs = plan(find_inputs(args.paths, card), out)
    wanted = Wanted(args.series, tuple(args.format), args.brain, args.border)
    todo = [job for job in jobs if args.overwrite or not is_done(job, args.model, wanted)]
    done = {job.path: Work(job, about=read_json(job.folder / f"{job.name}.json"))
            for job in jobs if job not in todo}  # fmt: skip
    load = functools.partial(Predictor, args.model, args.backend)
    works = predict_files(todo, load, wanted, card) if todo else iter(())
    for work in progress(works, len(todo)):
        done[work.job.path] = work
        for note in work.about.get("notes", ()):
            warn(f"{work.job.path}: {note}")
        if work.error:
            print(f"error: {work.error}", file=sys.stderr)
    works = [done[job.path] for job in jobs]
    failed = sum(work.error is not None for work in works)
    if failed < len(works) > 1:
        write_summary(works, out / "summary.csv")
        write_page(works, out / "report.html")
    show(work for work in works if not work.error)
    if failed and len(jobs) > 1:
        print(f"{failed} of {len(jobs)} inputs failed", file=sys.stderr)
    return 2 if failed else 0


def progress(works: Iterator[Work], count: int) -> Iterator[Work]:
    """The works, with a progress bar on a terminal if there are several."""
    if count < 2:
        return works
    from tqdm import tqdm

    return tqdm(works, total=count, unit="input", disable=None)


def write_summary(works: list[Work], path: Path) -> None:
    """Write a row for every input: scan, mL and verdict (none of a slice), seconds, warnings, and
    the mask's path from there."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["scan", "mL", "verdict", "seconds", "warnings", "mask"])
        for work in works:
            about = work.about
            if work.error:
                rows.writerow([work.job.path.name, "", "failed", "", f"error: {work.error}", ""])
                continue
            mask = os.path.relpath(work.job.folder / about["mask"], path.parent)
            rows.writerow([work.job.path.name, about.get("volume_ml", ""), about.get("verdict", ""),
                           about.get("seconds", ""), "; ".join(told(about)), mask])  # fmt: skip


def told(about: dict) -> list[str]:
    """What a JSON says of a result in words: reasons of the verdict, and what was noticed."""
    return about.get("reasons", []) + about.get("notes", [])


def write_page(works: list[Work], path: Path) -> None:
    """Write report.html: a row for every input, with its overlay, verdict and reasons."""
    rows = []
    for work in works:
        about = work.about
        said = [str(work.error)] if work.error else told(about)
        picture = None if work.error else work.job.folder / f"{work.job.name}_overlay.png"
        rows.append({"name": work.job.path.name, "picture": picture, "reasons": said,
                     "verdict": "failed" if work.error else about.get("verdict", ""),
                     "ml": about.get("volume_ml", ""), "seconds": about.get("seconds", "")})
    report.page(rows, path)


def show(works: Iterable[Work]) -> None:
    """Print where the masks are, and the verdicts on them."""
    for work in works:
        about = work.about
        size = (f"{about['volume_ml']:.0f} mL" if "volume_ml" in about
                else f"{about.get('brain_pixels', about.get('labelled_pixels'))} px")  # fmt: skip
        took = f"{about['seconds']} s" if work.seconds else "done before"
        verdict = about.get("verdict", "")
        print(f"{size:>9}  {verdict:<6}  {took:>11}  {work.job.folder / about['mask']}")
        if reasons := about.get("reasons"):
            more = f" (and {len(reasons) - 1} more: {work.job.name}.json)" if reasons[1:] else ""
            print(f"{'':>9}  {reasons[0]}{more}")


if __name__ == "__main__":
    run(main)
