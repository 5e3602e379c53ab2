"""The files of a scan's result: its masks in each format, the brain alone, what the JSON says."""

from __future__ import annotations

import re

import numpy as np

from common.card import Card
from common.files import write_json
from predict.drawing import to_stored, write_image
from predict.folder import Target
from predict.result import Wanted
from scan.dicom_seg import write_dicom_seg
from scan.nifti import write_brain, write_mask
from scan.views import stack
from scan.volume import Volume

LEFT_RIGHT = "left and right are the header's: no picture of a head can confirm them"


def write_masks(target: Target, scan: Volume, mask: np.ndarray, wanted: Wanted, card: Card) -> dict:
    """Write a scan's mask in each format wanted, and the brain alone; return their names.

    The names are `mask` (the first), `masks` and, if wanted, `brain`. They follow BIDS for a scan
    that is named as BIDS asks.
    """
    bids = name_bids_mask(target.name)
    path = target.folder / (bids or f"{target.name}_predicted_mask")
    names = []
    if "nii" in wanted.formats:
        names.append(f"{path.name}.nii.gz")
        stored = mask if mask.dtype == bool else to_stored(mask, card)
        write_mask(stored, scan, target.folder / names[-1])
    if "dicom-seg" in wanted.formats:
        names.append(f"{path.name}.dcm")
        write_dicom_seg(mask, scan, target.folder / names[-1], version=card.sha256)
    if "png" in wanted.formats:
        names.append(f"{path.name}_png")
        for index, slice_mask in enumerate(stack(mask, "axial")):
            picture = to_stored(slice_mask, card)
            write_image(target.folder / names[-1] / f"axial_{index:04d}.png", picture)
    files = {"mask": names[0], "masks": names}
    if wanted.brain:
        suffix = target.name.split("_")[-1]
        brain = bids.removesuffix("mask") + suffix if bids else f"{target.name}_brain"
        files["brain"] = f"{brain}.nii.gz"
        write_brain(mask, scan, target.folder / files["brain"])
    if bids:
        kind = "Brain" if mask.dtype == bool else "Lesion"
        write_json(path.with_suffix(".json"), {"Type": kind, "Sources": [target.path.name]})
    return files


def describe_grid(scan: Volume) -> dict:
    """What a JSON says of a scan's voxels."""
    return {
        "shape": list(scan.hu.shape),
        "spacing_mm": [round(float(s), 4) for s in scan.spacing],
        "affine": np.round(scan.affine, 6).tolist(),
    }


def name_bids_mask(name: str) -> str | None:
    """`sub-01_ses-02_desc-brain_mask` for a scan named `sub-01_ses-02_ct`; None if not BIDS.

    BIDS 1.10, file name structure and "Imaging data type" of derivatives: key-value pairs, of
    which `desc` is the last, and a suffix.
    """
    if not re.fullmatch(r"sub-[a-zA-Z0-9]+(_[a-z]+-[a-zA-Z0-9]+)*_[a-zA-Z0-9]+", name):
        return None
    pairs = [pair for pair in name.split("_")[:-1] if not pair.startswith("desc-")]
    return "_".join([*pairs, "desc-brain", "mask"])
