"""The files of a scan's result: its masks in each format, the brain alone, an overlay, maps, its
JSON."""

from __future__ import annotations

import cv2
import numpy as np

from common.card import BRAIN, Card
from common.errors import InputError
from common.files import write_json
from common.report import PALE, add_lines, draw_heat, make_sheet, mark_slice
from predict.maps import MOST_SPREAD, Maps, name_maps
from predict.picture import as_grey, outline, to_stored, write_image
from predict.result import Target, Wanted, name_bids_mask
from scan.dicom_seg import write_dicom_seg
from scan.dicom_sr import write_dicom_sr
from scan.mask import find_box
from scan.nifti import write_brain, write_map, write_mask
from scan.resample import unstraighten
from scan.stored import AS_HFS, AS_LAS
from scan.views import SIDES, VIEWS, pixel_spacing, stack
from scan.volume import Grid, Volume, cut_slabs, find_thin_axis, measure_ml

# mm around a brain: face and neck, in which a mask may have leaked, but no shoulders. By eye
AROUND = 40.0
MOST_AXIAL, MOST_OTHERS = 40, 2  # slices of a view on a sheet. Round numbers
TILE = 256  # pixels: height of a slice there
IN_DICOM = ("dicom-seg", "dicom-sr")  # formats that must name the patient as their source does
LEFT_RIGHT = "left and right are the header's: no picture of a head can confirm them"


def refuse_formats(scan: Volume, wanted: Wanted) -> None:
    """Raise InputError where DICOM is wanted of a scan that is none."""
    asked = [name for name in wanted.formats if name in IN_DICOM]
    if asked and scan.slices is None:
        raise InputError(f"{scan.path} is no DICOM scan: leave --format {' '.join(asked)} out")


def write_masks(target: Target, scan: Volume, mask: np.ndarray, wanted: Wanted, card: Card) -> dict:
    """Write a scan's mask in each format wanted, and the brain alone; return their names.

    The names are `mask` (the first), `masks` and, if wanted, `brain`. They follow BIDS for a scan
    that is named as BIDS asks. A report in DICOM refers to a DICOM SEG, so it brings one.
    """
    bids = name_bids_mask(target.name, mask.dtype == bool)
    path = target.folder / (bids or f"{target.name}_predicted_mask")
    names = []
    if "nii" in wanted.formats:
        names.append(f"{path.name}.nii.gz")
        stored = mask if mask.dtype == bool else to_stored(mask, card)
        write_mask(stored, scan, target.folder / names[-1])
    if set(IN_DICOM) & set(wanted.formats):
        names.append(f"{path.name}.dcm")
        options = f"border {wanted.border:g}" if wanted.border else ""
        labels = None if mask.dtype == bool else card.labels
        write_dicom_seg(mask, scan, target.folder / names[-1], name_version(card), options, labels)
    if "png" in wanted.formats:
        names.append(f"{path.name}_png")
        for index, slice_mask in enumerate(stack(mask, "axial")):
            picture = to_stored(slice_mask, card)
            write_image(target.folder / names[-1] / f"axial_{index:04d}.png", picture)
    files = {"mask": names[0], "masks": names}
    if wanted.brain:
        suffix = target.name.split("_")[-1]
        brain = f"{target.name}_brain"
        if bids:
            brain = name_bids_mask(target.name).removesuffix("mask") + suffix
        files["brain"] = f"{brain}.nii.gz"
        write_brain(mask, scan, target.folder / files["brain"])
    if bids and not target.bids:  # else it is written once the mask lies in its dataset
        kind = {"Type": "Brain"} if mask.dtype == bool else {}
        write_json(path.with_suffix(".json"), kind | {"Sources": [target.path.name]})
    return files


def write_report(target: Target, scan: Volume, about: dict, wanted: Wanted) -> dict:
    """Write what the JSON says `about` a mask as DICOM SR, if wanted; return its name for the JSON.

    The DICOM SEG that it refers to is among the masks.
    """
    if "dicom-sr" not in wanted.formats:
        return {}
    seg = next(name for name in about["masks"] if name.endswith(".dcm"))
    report = f"{target.name}_report.dcm"
    ml = about.get("volumes_ml") or {BRAIN: about["volume_ml"]}
    said = dict.fromkeys([*about.get("reasons", ()), *about["notes"]])
    folder, verdict = target.folder, about.get("verdict", "")
    write_dicom_sr(scan, folder / seg, folder / report, ml, verdict, said)
    return {"dicom_sr": report}


def name_version(card: Card) -> str:
    """The checksum of a network, or the start of each one's, in the 64 characters of DICOM's LO."""
    if not isinstance(card.sha256, tuple):
        return card.sha256
    width = 65 // len(card.sha256) - 1
    return "+".join(checksum[:width] for checksum in card.sha256)


def write_maps(
    target: Target,
    scan: Volume,
    mask: np.ndarray,
    maps: Maps | None,
    card: Card,
    within: np.ndarray | None = None,
) -> dict:
    """Write a scan's maps, and a sheet of the uncertainty; return what the JSON says.

    Nothing lies outside `within` (X, Y, Z), bool. Where no map is wanted, {} is returned.
    """
    if maps is None:
        return {}

    def bring(part: np.ndarray) -> np.ndarray:
        values = part if maps.grid is None else to_voxels(part, maps.grid, scan)
        return values if within is None else values * within

    about, name = {}, target.name
    if maps.probability is not None:
        about["probability"] = [f"{name}_probability.nii.gz"]
        about["probability_of"] = list(name_maps(card).values())
        parts = list(map(bring, maps.probability))
        write_map(parts, scan, target.folder / about["probability"][0], 1)
    if maps.uncertainty is not None:
        values = bring(maps.uncertainty)
        about["uncertainty"] = f"{name}_uncertainty.nii.gz"
        about["uncertainty_picture"] = f"{name}_uncertainty.png"
        about["uncertainty_ml"] = round(measure_ml(values, scan), 2)
        write_map([values], scan, target.folder / about["uncertainty"], MOST_SPREAD)
        told = f"views, networks and mirror images differ: {about['uncertainty_ml']:.1f} mL"
        sheet = add_lines(draw_scan(scan, mask, values=values), [(told, PALE)])
        write_image(target.folder / about["uncertainty_picture"], sheet)
    return about


def to_voxels(part: np.ndarray, grid: Grid, scan: Volume) -> np.ndarray:
    """A map on the cubes of a grid, brought to the scan's canonical voxels: (X, Y, Z) float32; 0
    beyond the grid."""
    values = np.zeros_like(scan.hu, np.float32)
    for region in cut_slabs(grid, scan):
        values[region] = unstraighten(part, grid, scan, region)
    return values


def describe_scan(scan: Volume) -> dict:
    """What a JSON says of a scan's voxels and sides."""
    return {
        "shape": list(scan.hu.shape),
        "spacing_mm": [round(float(s), 4) for s in scan.spacing],
        "affine": np.round(scan.affine, 6).tolist(),
        "left_right": LEFT_RIGHT,
    }


# ---------------------------------------------------------------- the overlay


def draw_scan(
    scan: Volume, mask: np.ndarray, height: int = TILE, values: np.ndarray | None = None
) -> np.ndarray:
    """An RGB sheet of a scan's slices with its mask's outline, or with its labels in colours.

    Of `values` (X, Y, Z), an uncertainty, these are drawn instead. The sheet shows axial, coronal
    and sagittal slices, `height` pixels high; of a thin scan its own slices alone. The scan is in
    HU, or grey (uint8). What is drawn ends AROUND a brain. Each slice is marked with its number,
    from 1 at the patient's feet, back or left, and with its sides, the patient's right on the left.
    """
    tiles, axis = [], find_thin_axis(scan)
    views = VIEWS if axis is None else VIEWS[2 - axis :][:1]  # axial lies across z, sagittal x
    hu, starts = scan.hu, (0, 0, 0)
    if mask.dtype == bool and mask.any():
        box = find_box(mask, np.divide(AROUND, scan.spacing))
        hu, mask, starts = hu[box], mask[box], [side.start for side in box]
        values = None if values is None else values[box]
    for view in views:
        pictures, masks = stack(hu, view), stack(mask, view)
        heat = None if values is None else stack(values, view)
        size = np.multiply(pictures.shape[1:], pixel_spacing(scan.spacing, view))
        size = [max(1, round(s * height / size.max())) for s in (size[1], size[0])]
        first = 1 + starts[2 - VIEWS.index(view)]
        for index in choose_shown(masks, MOST_AXIAL if view == views[0] else MOST_OTHERS):
            shown = None if heat is None else heat[index]
            tile = draw_slice(pictures[index], masks[index], size, shown)
            tiles.append(mark_slice(tile, first + index, name_sides(scan, view)))
    return make_sheet(tiles)


def draw_slice(
    picture: np.ndarray, mask: np.ndarray, size: list[int], values: np.ndarray | None
) -> np.ndarray:
    """A slice (H, W) with its mask, or with `values` if any: RGB, `size` (wide, high) pixels."""
    picture = as_grey(np.ascontiguousarray(picture))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if values is None:
        return outline(picture, resize_mask(mask, *size))
    heat = cv2.resize(np.ascontiguousarray(values), size, interpolation=cv2.INTER_AREA)
    return draw_heat(picture, heat, MOST_SPREAD)


def name_sides(scan: Volume, view: str) -> list[str]:
    """The sides at the left and the right of a view's pictures, with ? where no header says so."""
    is_known = not {AS_HFS, AS_LAS} & set(scan.notes)
    return [side if is_known else f"{side}?" for side in SIDES[view]]


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask (H, W) in another size: by half of each pixel's area, labels by the nearest pixel."""
    if mask.dtype != bool:
        mask = np.ascontiguousarray(mask)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    area = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return area > 0.5


def choose_shown(masks: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` evenly spaced slices, top first, with a brain in them if any."""
    hit = np.flatnonzero(masks.any(axis=(1, 2)))
    span = np.arange(hit[0], hit[-1] + 1) if len(hit) else np.arange(len(masks))
    if most < len(span):
        edges = np.linspace(0, len(span), most + 1)
        span = span[((edges[1:] + edges[:-1]) / 2).astype(int)]
    return span[::-1]
