"""Where a head was blanked out: planning systems fill with air what lies outside an outline.

slices = find_sound_slices(scan, box)
"""

from __future__ import annotations

import numpy as np

from scan.hu import BLANK, BODY, BONE
from scan.volume import Volume, cut_slabs, find_layout, make_grid

# A head was blanked out if more than these shares of a slice's bone and of its tissue lie against
# blank voxels in the next slice; round numbers
BARE, GONE = 0.5, 0.25
# mm: a head's top is rounder than a ball of this radius, so the area of its last slice is at most 2
# pi times this times the gap
CURVED = 200.0
FINE = 3.0  # mm: bone is wider, so pixels this far apart show it; a round number


def find_sound_slices(volume: Volume, box: np.ndarray) -> slice:
    """The slices (along `volume.slice_axis`) of a scan in HU where the head was not blanked out.

    Whole slices may be blank, or all but the bare brain or a cylinder of it. Only the `box` (2, 3)
    mm (see `Grid.box`) about the brain is searched, upwards first; the rest is taken as sound.
    """
    lie = find_layout(volume)
    region = next(cut_slabs(make_grid(lie, 1.0, box), volume, depth=len(lie.heights)), None)
    if region is None:
        return slice(0, len(lie.heights))
    every = max(1, round(FINE / max(lie.pitch[1:])))
    slices = volume.hu[region].transpose(lie.order)[:, ::every, ::every]
    pixel, first = lie.pitch[1] * lie.pitch[2] * every**2, region[lie.order[0]].start
    stop = find_blank(slices, pixel, lie.pitch[0])
    start = stop - find_blank(slices[:stop][::-1], pixel, lie.pitch[0])
    stop = first + stop if stop < len(slices) else len(lie.heights)
    return slice(first + start if start else 0, stop)


def find_blank(slices: np.ndarray, pixel: float, gap: float) -> int:
    """The first of some slices (N, H, W) in HU from which a head was blanked out; N for none.

    Pixels have `pixel` mm2, and slices lie `gap` mm apart. Skin covers all bone, so bone against
    air means that something was removed. A head that ends between two slices is the exception.
    After a blanked slice there is no skull.
    """
    bone, tissue, blank = slices > BONE, slices > BODY, slices < BLANK
    bones, tissues, bare, gone = (
        np.count_nonzero(part, axis=(1, 2)) * pixel
        for part in (bone, tissue, bone[:-1] & blank[1:], tissue[:-1] & blank[1:])
    )
    bones_after = np.maximum.accumulate(bones[::-1])[::-1][1:]
    bones, tissues = bones[:-1], tissues[:-1]
    cap = 2 * np.pi * CURVED * gap
    ends = (bare > BARE * bones) & (bones_after < BARE * bones) & (gone > GONE * tissues)
    ends &= tissues > cap
    return int(ends.argmax()) + 1 if ends.any() else len(slices)
