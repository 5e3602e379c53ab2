"""The kind of input "brain": a head CT or CTA, as NIfTI or DICOM.

The head is looked for coarsely. In its box the network sees the scan in three views on cubes; their
mean is cleaned, cut at the foramen magnum and brought to the scan's own voxels (predict/edge.py).
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import fill_voids
import numpy as np
from scipy import ndimage

from common.card import Card
from common.report import add_verdict
from predict import picture
from predict.edge import THIN_SLICES, decide, find_vessels, measure_brain, smooth_slices
from predict.files import (
    describe_scan,
    draw_scan,
    refuse_formats,
    write_maps,
    write_masks,
    write_report,
)
from predict.maps import Maps, make_blank, make_maps, stack_maps
from predict.network import UNCUT, Network
from predict.result import NOTHING_MORE, Result, Target, Wanted
from predict.signs import FACES
from predict.verdict import Verdict, judge, measure_answer, measure_scan, seen_voxels
from scan.blanked import find_sound_slices
from scan.hu import FORAMEN_AREA, doubt_hu, to_hu
from scan.mask import dice, find_box, find_ends, grow_mask, keep_largest, tidy_mask
from scan.nifti import write_scan
from scan.read import read_volume
from scan.resample import straighten, unstraighten
from scan.views import VIEWS, normalise
from scan.volume import (
    THIN_SCAN,
    Grid,
    Volume,
    crop_slices,
    cut_slabs,
    find_thin_axis,
    measure_ml,
    measure_whole_box,
    note_volume,
    thin_out,
)

# The head is looked for on cubes COARSE times larger, in every COARSE_EVERY-th slice
COARSE, COARSE_EVERY = 2, 4
# Probabilities of brain. Where none is over SURE, DOUBTFUL counts: in a head that is cut low, one
# view may see brain where the others see a neck
SURE, DOUBTFUL = 0.5, 0.3
# mm kept around the brain that the coarse look found: skull and scalp. A round number
MARGIN = 15.0
# mm between the brain and the box's face, at least: half of what is mostly left of MARGIN
ROOM = 6.0
THICK = 4.0  # mm along a voxel: between two there is nothing new. A round number
# Every EVERY-th slice of a view is looked at, for 0.0001 of Dice (benchmarks/README.md); across
# thick slices every EVERY_THICK-th
EVERY, EVERY_THICK = 2, 5
# mm of a narrow lower end that are left for the skull's funnel above the foramen. By eye
FUNNEL = 3.0
# Dice of the two views most alike, at least, where there is a brain: for tongues taken for one it
# was 0.2 to 0.4, for heads 0.8 and more
ALIKE = 0.5
LEAST_BRAIN = 10.0  # mL: less than this in a whole scan is a false alarm. A round number
BAND = 3  # cubes: farther from the network's border no voxel is in the mask
LEAKED = 2  # cubes around the eroded brain: a part farther off hangs by less than three cubes
TOO_THIN = (
    f"less than {THIN_SCAN:.0f} mm of a head: neither its volume nor its views can be checked"
)
BLANKED = "the scan was blanked out in {} slices at the {}: the mask ends before them"
NOTHING_LEFT = "--border has left nothing of the mask"
NO_HEAD = "no brain was found, so the mask is empty: is this a scan of a head?"


@dataclass(frozen=True)
class Answer:
    """What the network says about a head, on cubes of `grid`, (X, Y, Z) float32 each.

    views: by view, the probability that a cube lies inside the skull; inside: their mean, cleaned;
    hyperdense: the probability that a cube is bright and inside; hu: of the cubes.
    """

    views: dict[str, np.ndarray]
    inside: np.ndarray
    hyperdense: np.ndarray
    hu: np.ndarray
    grid: Grid


@dataclass(frozen=True)
class Head:
    """Where a head lies in a scan: boxes (2, 3) in mm, straight coordinates (see `Grid.box`).

    box: around its brain, with some room; whole: around the scan; cut: at which faces of the scan
    the brain goes on, bool (2, 3).
    """

    box: np.ndarray
    whole: np.ndarray
    cut: np.ndarray


# ---------------------------------------------------------------- what predict/work.py asks for


def read(path: Path, wanted: Wanted | None = None, card: Card | None = None) -> Volume:
    """A scan in HU, also where the file's values are plainly shifted.

    Raises InputError for what is no scan, or has no DICOM for the formats wanted.
    """
    wanted = wanted or Wanted()
    scan = read_volume(path, series=wanted.series, number=wanted.volume)
    refuse_formats(scan, wanted)
    hu, notes = to_hu(scan.hu)
    return replace(scan, hu=hu, notes=(*scan.notes, *notes))


def predict(scan: Volume, network: Network, wanted: Wanted = NOTHING_MORE) -> Result:
    """The brain mask of a scan."""
    if find_thin_axis(scan) is not None:
        return predict_thin(scan, network, wanted)
    head, everything = find_head(scan, network), slice(0, scan.hu.shape[scan.slice_axis])
    if head is not None:
        if (sound := find_sound_slices(scan, head.box)) != everything:
            return predict_part(scan, sound, network, wanted)
        if (result := segment(scan, head, network, wanted)).mask.any():
            return result
    # where most of a head was blanked out, it may only be seen once the scan ends there
    sound = find_sound_slices(scan, measure_whole_box(scan))
    if sound != everything:
        return predict_part(scan, sound, network, wanted)
    return no_head(scan, make_blank(scan.hu.shape, wanted)) if head is None else result


def write(target: Target, scan: Volume, result: Result, wanted: Wanted, card: Card) -> dict:
    """Write the masks and the overlay of a scan at one time; return what its JSON says."""
    mask, verdict = grow_mask(result.mask, scan.spacing, wanted.border), result.verdict
    lost = [NOTHING_LEFT] if result.mask.any() and not mask.any() else []
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(write_masks, target, scan, mask, wanted, card)
        sheet = add_verdict(draw_scan(scan, mask), verdict.grade, verdict.reasons)
        thumbnail = picture.write_overlay(target, sheet)
        files = written.result() | thumbnail
    about = {
        **files,
        "volume_ml": round(measure_ml(mask, scan), 1),
        **describe_scan(scan),
        "verdict": verdict.grade,
        "reasons": list(verdict.reasons),
        "signs": verdict.signs,
        "view_agreement": result.agreement,
        **write_maps(target, scan, result.mask, result.maps, card),
        "notes": [*scan.notes, *note_volume(scan), *result.notes, *lost],
    }
    return about | write_report(target, scan, about, wanted)


def show(scan: Volume, folder: Path, card: Card) -> None:
    """Write what a viewer shows below the mask: the scan."""
    write_scan(scan, folder / "scan.nii.gz")


# ---------------------------------------------------------------- from scan to mask


def predict_part(scan: Volume, sound: slice, network: Network, wanted: Wanted) -> Result:
    """The mask of a scan where only some slices are `sound`, found in these alone."""
    axis = scan.slice_axis
    result = predict(crop_slices(scan, sound), network, wanted)
    maps = result.maps
    if maps and maps.grid is None:  # a grid lies in mm, as good for the whole scan
        maps = maps.change(lambda part: put_slices(part, scan, sound))
    if not result.mask.any():
        return no_head(scan, maps)
    mask = np.zeros_like(scan.hu, bool)
    np.moveaxis(mask, axis, 0)[sound] = np.moveaxis(result.mask, axis, 0)
    counts = sound.start, scan.hu.shape[axis] - sound.stop
    left_out = zip(counts, FACES[axis], strict=True)
    notes = [BLANKED.format(count, face) for count, face in left_out if count]
    return replace(result, mask=mask, notes=(*notes, *result.notes), maps=maps)


def put_slices(part: np.ndarray, scan: Volume, sound: slice) -> np.ndarray:
    """A map (…, X, Y, Z) of a scan's `sound` slices as one of the whole scan, 0 beyond them."""
    whole, axis = np.zeros((*part.shape[:-3], *scan.hu.shape), part.dtype), scan.slice_axis - 3
    np.moveaxis(whole, axis, 0)[sound] = np.moveaxis(part, axis, 0)
    return whole


def predict_thin(scan: Volume, network: Network, wanted: Wanted) -> Result:
    """The mask of a scan of one slice or few, each taken as a picture in HU."""
    axis = find_thin_axis(scan)
    masks, maps = [], []
    for index, hu in enumerate(slices := np.moveaxis(scan.hu, axis, 0)):
        network.tell("segmenting", index / len(slices))
        hu = hu.astype(np.float32)
        mask, boxes = picture.search(hu, network)
        masks.append(mask)
        if wanted.maps:
            maps.append(picture.map_boxes(hu, boxes, network, wanted))
    mask, maps = np.stack(masks, axis), stack_maps(maps, axis)
    if not mask.any():
        return no_head(scan, maps)
    verdict = judge({}, (TOO_THIN, *scan.doubts, *doubt_hu(scan.hu)))
    return Result(mask, verdict=verdict, maps=maps)


def segment(scan: Volume, head: Head, network: Network, wanted: Wanted) -> Result:
    """The mask of the head that was found in a scan."""
    answer = ask_views(scan, head, network)
    every = choose_every(scan, answer.grid.spacing)
    maps = map_answer(answer, every, head.cut, network, wanted) if wanted.maps else None
    brain, alike = answer.inside > 0.5, compare_views(answer.views, every)
    if not brain.any() or max(alike.values()) < ALIKE:
        return no_head(scan, maps)
    mask = np.zeros_like(scan.hu, bool)
    parts = list(cut_slabs(crop_grid(answer.grid, brain), scan, depth=16))
    with ThreadPoolExecutor(2) as pool:
        measured = pool.submit(
            measure_answer, answer.views, every, brain, answer.hu, answer.grid.spacing
        )
        answer = follow_vessels(answer) if max(scan.spacing) <= THIN_SLICES else answer
        brain_hu = measure_brain(answer.inside, answer.hu)

        def fill(region):
            mask[region] = refine(answer, brain_hu, scan, region)

        for done, _ in enumerate(pool.map(fill, parts)):
            network.tell("refining", done / len(parts))
    mask = tidy_mask(mask)
    if measure_ml(mask, scan) < LEAST_BRAIN:
        return no_head(scan, maps)
    return Result(mask, alike, verdict=judge_scan(mask, scan, measured.result()), maps=maps)


def map_answer(
    answer: Answer, every: dict[str, int], cut: np.ndarray, network: Network, wanted: Wanted
) -> Maps:
    """The maps that are wanted of an answer; `every` and `cut` are those that it was asked with."""
    mean = sum(answer.views.values()) / len(answer.views)
    seen = normalise(answer.hu, network.window)
    return make_maps(wanted, mean[None], network.each_view(seen, every, cut), answer.grid)


def follow_vessels(answer: Answer) -> Answer:
    """The answer with vessels full of contrast as surely inside, and bright there."""
    vessels = find_vessels(answer.inside, answer.hyperdense, answer.hu)
    inside, bright = (
        np.where(vessels, np.float32(1), p) for p in (answer.inside, answer.hyperdense)
    )
    return replace(answer, inside=inside, hyperdense=bright)


def refine(answer: Answer, brain_hu: float, scan: Volume, region: tuple[slice, ...]) -> np.ndarray:
    """The mask, bool, of a region of the scan, from the answer on cubes and the brain's HU."""
    inside, hyperdense = (
        unstraighten(cubes, answer.grid, scan, region)
        for cubes in (answer.inside, answer.hyperdense)
    )
    hu = smooth_slices(scan.hu[region], scan.spacing, scan.slice_axis)
    return decide(hu, inside, hyperdense, brain_hu)


def no_head(scan: Volume, maps: Maps | None) -> Result:
    """The result for a scan in which there is no brain."""
    mask = np.zeros_like(scan.hu, bool)
    return Result(mask, notes=(NO_HEAD,), verdict=judge_scan(mask, scan, {}), maps=maps)


def judge_scan(mask: np.ndarray, scan: Volume, signs: dict[str, float]) -> Verdict:
    """The verdict on a scan's mask, from `signs` of the network's answer and from the scan."""
    size = measure_ml(mask, scan)
    signs = signs | measure_scan(scan.hu, mask, scan.spacing, size)
    return judge(signs, (*scan.doubts, *doubt_hu(scan.hu)))


# ---------------------------------------------------------------- the network on a head


def find_head(scan: Volume, network: Network) -> Head | None:
    """Where the head lies in a scan; None if nothing looks like brain."""
    few = thin_out(scan, COARSE * network.spacing / 2)  # far quicker than all of a large scan
    cubes, grid = straighten(few.hu, few, COARSE * network.spacing)
    box, whole = find_brain(cubes, grid, network), grid.box((0, 0, 0), grid.shape)
    if box is None:
        return None
    cut = np.abs(box - whole) < ROOM  # scalp and skull alone are thicker
    # coarse cubes reach beyond the scan: air, mirrored
    whole = np.where(cut, measure_whole_box(scan), whole)
    if cut.any() and (again := find_brain(cubes, grid, network, cut)) is not None:
        box = again
    return Head(enlarge(box, MARGIN, whole), whole, cut)


def find_brain(cubes: np.ndarray, grid: Grid, network: Network, cut=UNCUT) -> np.ndarray | None:
    """The box (2, 3) in mm around what looks like brain in HU on coarse cubes; None if nothing
    does. `cut` is as in `Head`."""
    seen = normalise(cubes, network.window)
    every = dict.fromkeys(VIEWS, COARSE_EVERY)
    views = network.in_views(seen, every, "finding the head", cut)
    inside = network.to_inside(sum(views.values()) / len(views))
    for least in (SURE, DOUBTFUL):
        found = keep_largest(inside > least)
        if found.sum() * grid.spacing**3 / 1000 >= LEAST_BRAIN:
            return grid.box(*find_ends(found))
    return None


def ask_views(scan: Volume, head: Head, network: Network) -> Answer:
    """The network's answer in the box of a scan's head.

    Brain closer than ROOM to a face of the box was seen only in part, here and coarsely: the box is
    made larger there, within the whole scan, and looked at again.
    """
    cubes, grid = straighten(scan.hu, scan, network.spacing, head.box)
    every = choose_every(scan, grid.spacing)
    views = network.in_views(normalise(cubes, network.window), every, cut=head.cut)
    mean = sum(views.values()) / len(views)
    inside = cut_canal(clean_volume(network.to_inside(mean)), grid.spacing)
    brain = inside > 0.5
    if brain.any():
        close = np.abs(grid.box(*find_ends(brain)) - head.box) < ROOM
        wider = enlarge(head.box, 2 * MARGIN * close, head.whole)
        if (wider != head.box).any():
            return ask_views(scan, replace(head, box=wider), network)
    views = {view: network.to_inside(seen) for view, seen in views.items()}
    return Answer(views, inside, network.to_hyperdense(mean), cubes, grid)


def enlarge(box: np.ndarray, mm, whole: np.ndarray) -> np.ndarray:
    """A box (2, 3) in mm, larger by `mm` at all faces (a number) or at each (2, 3), within the
    `whole`."""
    low, high = box + np.array([[-1], [1]]) * mm
    return np.stack([np.maximum(low, whole[0]), np.minimum(high, whole[1])])


def choose_every(scan: Volume, spacing: float) -> dict[str, int]:
    """By view, which n-th slice of a scan on cubes of `spacing` mm goes through the network.

    It is every EVERY-th. Across voxels that are over THICK long, it is one slice a voxel. The other
    views of such a scan show stripes: there it is every EVERY_THICK-th.
    """
    every = EVERY_THICK if scan.spacing[scan.slice_axis] > THICK else EVERY
    apart = zip(VIEWS, reversed(scan.spacing), strict=True)  # axial is across z
    return {view: max(EVERY, int(mm / spacing)) if mm > THICK else every for view, mm in apart}


def compare_views(views: dict[str, np.ndarray], every: dict[str, int]) -> dict[str, float]:
    """Dice between the masks of each pair of views, where both of them looked."""
    found = {}
    for pair in itertools.combinations(views, 2):
        masks = (views[view][seen_voxels(pair, every)] > 0.5 for view in pair)
        found["-".join(pair)] = round(float(dice(*masks)), 4)
    return found


# ---------------------------------------------------------------- cleaning


def clean_volume(probability: np.ndarray) -> np.ndarray:
    """A volume's probability (X, Y, Z) with only its largest component above 0.5, and no holes.

    A part that hangs on it by less than three cubes is removed: it has leaked through a foramen.
    """
    core = keep_largest(ndimage.binary_erosion(probability > 0.5, border_value=1))
    near = ndimage.binary_dilation(core, iterations=LEAKED)
    probability = np.where(near, probability, 0)
    mask = probability > 0.5
    return np.where(fill_voids.fill(mask) & ~mask, 1, probability).astype(np.float32)


def cut_canal(probability: np.ndarray, spacing: float) -> np.ndarray:
    """A volume's probability (X, Y, Z) on cubes without what runs down the spinal canal.

    From the foramen magnum down, a cut across is no larger than the foramen (FORAMEN_AREA). FUNNEL
    is left of so narrow a lower end.
    """
    areas = np.count_nonzero(probability > 0.5, axis=(0, 1)) * spacing**2
    if not areas.any():
        return probability
    bottom, wide = np.flatnonzero(areas)[0], np.flatnonzero(areas > FORAMEN_AREA)
    top = wide[0] if len(wide) else bottom  # nothing wide: a mask that is all canal, or no brain
    probability = probability.copy()
    probability[..., : max(0, top - round(FUNNEL / spacing))] = 0
    return probability


def crop_grid(grid: Grid, mask: np.ndarray) -> Grid:
    """The part of a grid that holds a mask on it, and BAND cubes more: there the edge lies."""
    box = find_box(mask, BAND)
    start = grid.start + grid.spacing * np.array([side.start for side in box])
    return replace(grid, start=start, shape=tuple(side.stop - side.start for side in box))
