"""The mask's edge at the scan's own resolution: the network says roughly where, bone exactly where.

The scanner blurs the inner table over a millimetre or two, so that the voxels before it hold some
bone already. Brain ends where that begins: at EDGE of the step from brain to bone. A vessel full of
contrast is as bright as such a voxel; it is told apart by lying farther from the bone's own face
(half of the step) than the blur reaches. A thick one beside soft bone may be as bright as the face
itself: it is followed from inside the brain, where there is no bone.

A voxel that is long across the border, as in coarse pixels or where the border crosses a thick
slice aslant, holds some bone long before its middle is bone. The mask says what is in the middle:
there the edge is nearer to half of the step.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy import ndimage
from scipy.special import erfinv

if TYPE_CHECKING:
    from volume import Grid, Volume

FAR = 4.0  # mm: distances to the border are not told apart beyond
SHRINK, GROW = 1.5, 1.5  # mm by which bone may move the network's border in and out
NEAR = 1.25  # mm: standard deviation of the weights of what counts as the inside nearby
BONE = 250.0  # HU: bone enough to have a face
OUTSIDE = 0.7  # mm from the network's border: what is bright farther in may be a vessel
PEAK = 3  # cubes in which the brightest one stands for bone
EDGE = 0.12  # of the step from brain to bone, where voxels are short across the border
LEAST_STEP = 60.0  # HU above the brain: less is noise, or blood
FAT = 60.0  # HU below the brain: the mask does not grow into what is darker
# HU above the brain, and so many more for each mm that a strong blur widens the border by: beside
# fainter bone the mask does not grow, for some is unseen
FIRM, UNSEEN = 350.0, 300.0
NOISE = 0.4  # mm: standard deviation of the blur, in a slice, that takes a scan's noise off
CONTRAST = (120.0, 600.0)  # HU of vessels in a CTA: above fresh blood, below metal
# A thick vessel's HU, at most: so many times those of nine in ten vessels in their MIDDLE, or of
# nearly all cubes about which HU are EVEN, to a share of their own
BRIGHTER, MIDDLE, EVEN, NEARLY_ALL = 1.15, 0.9, 0.15, 0.97
FEW = 12  # of either: fewer may be specks of lime in a plain CT
TAKEN, SURE, SEEN, BEYOND = -2.0, -1.0, 0.5, 3.0  # mm from the network's border: thick_vessels
STEPS = 5  # cubes from where the network is SURE: beyond, it is bone rather
THIN, CRISP = 2.0, 0.9  # mm between slices and of blur, at most, where vessels are followed
UPRIGHT = 0.3  # cosine between slice axis and normal, at most, of faces that show the blur itself
PIXEL = 0.47  # of its width, a pixel adds to the measured blur; as found on scans of a known one
SHARP = 0.75  # mm: a scanner's blur is less, as measured
USUAL_BLUR = 0.5  # mm: taken where too little bone is seen to measure it
# mm of border for each mm of blur beyond: synthetic.BORDER, and more, for a strong one is measured
# as less than it is
WIDENS = 1.8


@dataclass(frozen=True)
class Border:
    """On a grid of cubes, (X, Y, Z) float32: mm from the network's border (negative inside), the
    HU inside nearby, the step from there to the bone nearby (0 where there is none), and at which
    share of it brain ends. `blur` is the standard deviation in mm of the scanner's blur in a slice.
    """

    grid: Grid
    distance: np.ndarray
    inside: np.ndarray
    step: np.ndarray
    edge: np.ndarray | None = None
    blur: float = USUAL_BLUR


def find_border(probability: np.ndarray, cubes: np.ndarray, grid: Grid, scan: Volume) -> Border:
    """What `refine` needs, from the brain's probability and the HU (X, Y, Z) on `grid`."""
    clear = decided(probability)
    border = beside_bone(signed_distance(clear, grid), cubes, grid)
    normals = cosines(border.distance)
    blur = measure_blur(border, scan, normals[scan.slice_axis])
    # an averaged template, blurred by more than its voxels: views disagree where its bone is faint
    if blur > max(SHARP, max(scan.spacing) / 2):
        clear = probability
        border = beside_bone(signed_distance(clear, grid), cubes, grid)
        normals = cosines(border.distance)
    # in thick slices and where the blur is strong, bone's face is as wide as a vessel
    if max(scan.spacing) <= THIN and blur <= CRISP:
        vessels = thick_vessels(cubes, border.distance)
        if vessels.any():
            distance = signed_distance(np.where(vessels, 1, clear), grid)
            distance[vessels] = np.minimum(distance[vessels], TAKEN)  # bone may not take them
            border = beside_bone(distance, cubes, grid)
    # where the blur is strong, as of an averaged template, the network's border stays too far out
    distance = np.minimum(border.distance + widened(blur), FAR).astype(np.float32)
    edge = edges(normals, scan.spacing, blur)
    return replace(border, distance=distance, edge=edge, blur=blur)


def beside_bone(distance: np.ndarray, cubes: np.ndarray, grid: Grid) -> Border:
    """The Border, but for blur and edge, for a `distance` (mm, negative inside) of cubes of HU."""
    with ThreadPoolExecutor(2) as pool:
        # from close by: beneath a sinus full of contrast, bone begins higher than beside brain
        near = pool.submit(local_mean, cubes, distance < -1.5, NEAR / grid.spacing)
        # the brightest cube nearby: the mean would hold the bone's blurred face
        peak = ndimage.maximum_filter(cubes, PEAK)
        bone, share = local_mean(peak, (distance > OUTSIDE) & (cubes > BONE), 2 / grid.spacing)
        inside, _ = near.result()
    step = np.where(share > 0.01, np.maximum(bone - inside, 0), 0)
    return Border(grid, *(x.astype(np.float32) for x in (distance, inside, step)))


def widened(blur: float) -> float:
    """By how many mm a `blur` (mm) that is stronger than a scanner's moves the border inwards."""
    return WIDENS * max(0.0, blur - SHARP)


def decided(probability: np.ndarray) -> np.ndarray:
    """A probability (X, Y, Z) that is 0 or 1 but where it crosses 0.5; float32.

    Where two views of three see brain and one sees none, as in heads that are cut low and about
    sinuses, it stays near two thirds, and `signed_distance` would take all of that for the border.
    """
    brain = probability > 0.5
    inside = ndimage.binary_erosion(brain, border_value=1)
    nearby = ndimage.binary_dilation(brain)
    return np.where(inside, 1, np.where(nearby, probability, 0)).astype(np.float32)


def signed_distance(probability: np.ndarray, grid: Grid) -> np.ndarray:
    """Distance in mm from where a probability (X, Y, Z) is 0.5, negative inside; within FAR."""
    sigma = 1.2
    level = np.clip(2 * ndimage.gaussian_filter(probability, sigma) - 1, -0.998, 0.998)
    # a blurred flat edge is the error function of the distance to it
    return np.clip(-(2**0.5) * sigma * grid.spacing * erfinv(level), -FAR, FAR)


def cosines(distance: np.ndarray) -> list[np.ndarray]:
    """Of the normals of a border at `distance` 0 (X, Y, Z) with each axis, 0 to 1; float32."""
    slopes = np.gradient(distance)
    steepest = np.maximum(np.sqrt(sum(slope**2 for slope in slopes)), 1e-3)
    return [(np.abs(slope) / steepest).astype(np.float32) for slope in slopes]


def edges(normals: list[np.ndarray], spacing, blur: float) -> np.ndarray:
    """At which share of the step from brain to bone the brain ends; float32.

    A border with these `normals` (see `cosines`) is spread by voxels of `spacing` mm, and by the
    `blur` (mm). The mask ends before the blur, but amid the voxel: between EDGE and half, by their
    shares in the variance (a uniform spread has width^2 / 12).
    """
    voxel = sum((normal * mm) ** 2 for normal, mm in zip(normals, spacing, strict=True)) / 12
    return EDGE + (0.5 - EDGE) * voxel / (voxel + blur**2)


def thick_vessels(cubes: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Where in a scan (X, Y, Z), HU on cubes, thick vessels full of contrast lie; bool.

    Such a vessel is at least two cubes thick (bone's blurred face, as bright, is thinner), no
    `brightest` of all, and joined to where the network is SURE; it is followed for STEPS from
    there, up to BEYOND the network's border, at `distance` 0 (mm, negative inside).
    """
    low, high = CONTRAST
    bright = (cubes > low) & (cubes < high) & (distance < BEYOND)
    usual = bright & (cubes < brightest(cubes, bright & (distance < SEEN), distance < SURE))
    thick = ndimage.binary_opening(usual, np.ones((2, 2, 2)))
    sure = thick & (distance < SURE)
    followed = ndimage.binary_dilation(sure, iterations=STEPS, mask=thick)
    return ndimage.binary_dilation(followed) & usual  # with the cubes that it fills in part


def brightest(cubes: np.ndarray, bright: np.ndarray, sure: np.ndarray) -> float:
    """How many HU a thick vessel has at most, by what is `bright` (bool) in a scan; 0 without any.

    Vessels are told from bone by where they are brighter than all about them or, if as thick as a
    sinus, even: bone's blurred face rises outwards.
    """
    at, hu, sure = np.argwhere(bright), cubes[bright], sure[bright]
    middle = hu == around(cubes, at, (-1, 0, 1)).max(0)
    if (middle & sure).sum() < FEW:  # no contrast, perhaps, but specks of bone at the border
        seen = hu[middle & sure]
        return BRIGHTER * np.quantile(seen, MIDDLE) if seen.size else 0.0
    even = hu[np.ptp(around(cubes, at, (-1, 0)), axis=0) < EVEN * hu]
    usual = np.quantile(hu[middle], MIDDLE)
    return BRIGHTER * max(usual, np.quantile(even, NEARLY_ALL) if even.size >= FEW else 0.0)


def around(cubes: np.ndarray, at: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """HU (len(steps)^3, N) of the cubes so many `steps` along each axis from those at (N, 3)."""
    last = np.array(cubes.shape) - 1
    places = (np.clip(at + step, 0, last).T for step in product(steps, repeat=3))
    return np.stack([cubes[tuple(place)] for place in places])


def local_mean(values: np.ndarray, where: np.ndarray, sigma: float):
    """Mean of `values` over `where` about each voxel (Gaussian weights), and the weight there."""
    weight = where.astype(np.float32)
    share = ndimage.gaussian_filter(weight, sigma)
    return ndimage.gaussian_filter(values * weight, sigma) / np.maximum(share, 1e-6), share


def measure_blur(border: Border, scan: Volume, normal: np.ndarray, slices: int = 12) -> float:
    """Standard deviation in mm of the scanner's blur in its slices, 0.3 to 3, from bone's face.

    The slope of a blurred step is steepest halfway: step / (sqrt(2 pi) sigma). Thick slices blur a
    face that is aslant, too: only those are looked at whose `normal` (X, Y, Z), the cosine with the
    slices' axis, is small. What pixels add is taken off: PIXEL.
    """
    from volume import regions

    across = [axis for axis in range(3) if axis != scan.slice_axis]
    whole = next(regions(border.grid, scan, depth=max(scan.hu.shape)), None)
    if whole is None:
        return USUAL_BLUR
    start, stop = whole[scan.slice_axis].start, whole[scan.slice_axis].stop
    every = slice(start, stop, max(1, (stop - start) // slices))
    region = tuple(every if axis == scan.slice_axis else whole[axis] for axis in range(3))
    hu = scan.hu[region].astype(np.float32)
    distance, inside, step, normal = on_scan(border, normal, scan, region)
    halfway = np.abs(hu - inside - step / 2) < 0.2 * step
    face = halfway & (np.abs(distance) < 2.5) & (step > BONE)
    upright = face & (normal < UPRIGHT)
    # where these are few, all: the usual blur let masks of coarse scans out of the skull
    face = np.nonzero(upright if upright.sum() > 100 else face)
    if len(face[0]) <= 100:
        return USUAL_BLUR
    slope = np.hypot(*(slopes(hu, face, axis) / scan.spacing[axis] for axis in across))
    widths = step[face] / (np.sqrt(2 * np.pi) * np.maximum(slope, 1))
    # where the face is not quite upright, its slope is less: the median would be too wide
    width = np.quantile(widths, 0.25)
    pixel = max(scan.spacing[axis] for axis in across)
    blur = float(np.sqrt(np.clip(width**2 - (PIXEL * pixel) ** 2, 0.3**2, 3**2)))
    # less than half a pixel is what is left of the pixel's own, and no strong blur
    return blur if blur > pixel / 2 else min(blur, SHARP)


def slopes(values: np.ndarray, at: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    """By how much `values` rise along an axis in a voxel, `at` those indices: half the difference
    of the two neighbours."""
    low, high = list(at), list(at)
    low[axis] = np.maximum(at[axis] - 1, 0)
    high[axis] = np.minimum(at[axis] + 1, values.shape[axis] - 1)
    return (values[tuple(high)] - values[tuple(low)]) / 2


def on_scan(border: Border, other: np.ndarray, scan: Volume, region) -> list[np.ndarray]:
    """Distance, inside, step and another field of the grid on the scan's own voxels of a region."""
    from volume import unstraighten

    # unstraighten gives 0 beyond the grid: there the distance is FAR, and no bone
    fields = (FAR - border.distance, border.inside, border.step, other)
    far, *others = (unstraighten(field, border.grid, scan, region) for field in fields)
    return [FAR - far, *others]


def refine(border: Border, scan: Volume, region: tuple[slice, ...]) -> np.ndarray:
    """The mask (bool) of a region of the scan: the network's, its edge moved to the inner table.

    Deeper than SHRINK and farther than GROW (beside faint bone: farther than its own border) the
    network decides, and wherever no bone is near; between them, the scan's own HU.
    """
    distance, inside, step, edge = on_scan(border, border.edge, scan, region)
    hu = scan.hu[region]
    pixel = [s for axis, s in enumerate(scan.spacing) if axis != scan.slice_axis]
    rows, columns = (NOISE / size for size in pixel)
    smooth = in_slices(lambda s: cv2.GaussianBlur(s, (5, 5), columns, sigmaY=rows), hu,
                       scan.slice_axis)  # fmt: skip
    face = smooth > inside + step / 2
    wider = widened(border.blur)
    # where pixels are coarse, the edge is in the next one
    reach = disc(max(border.blur + wider, max(pixel) / 2), pixel)
    near = in_slices(lambda s: cv2.dilate(s, reach), face, scan.slice_axis)
    hard = near.astype(bool) & (smooth > inside + np.maximum(edge * step, LEAST_STEP))
    by_bone = np.where(distance < 0, step > 0, step > FIRM + UNSEEN * wider)
    in_band = (distance > -SHRINK) & (distance < GROW) & by_bone
    # a sharp kernel makes the brain beside bone dark: only what is new must not be
    dark = (distance > 0) & (smooth < inside - FAT)
    return np.where(in_band, ~(hard | dark), distance < 0)


def in_slices(function, array: np.ndarray, axis: int) -> np.ndarray:
    """float32 of function(slice) for every slice (H, W) float32 across `axis`."""
    slices = np.moveaxis(array, axis, 0)
    done = np.stack([function(np.ascontiguousarray(s, np.float32)) for s in slices])
    return np.moveaxis(done, 0, axis)


def disc(radius: float, pixel) -> np.ndarray:
    """Pixels (uint8) whose centres lie within `radius` mm, and half a pixel, of the middle one."""
    reach = [int(np.ceil(radius / size)) for size in pixel]
    rows, columns = (np.arange(-n, n + 1) * size for n, size in zip(reach, pixel, strict=True))
    away = np.hypot(rows[:, None], columns)
    return (away <= radius + 0.5 * min(pixel)).astype(np.uint8)
