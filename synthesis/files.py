"""The files that synthesis reads and writes: label maps, real necks, and the images it makes.

labels = read_label_map("seg_01.nii.gz")      # (X, Y, Z) int16, RAS+, 1 mm
write_volume(scan.hu, scan.affine, "scan.nii.gz")
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.errors import InputError, replacing
from scan.nib import nib
from scan.nifti import UNREADABLE

BRAINSTEM = 16  # its number in FreeSurfer's label maps


def find_label_maps(folder: str | Path) -> list[Path]:
    """Label maps (NIfTI) of a folder, sorted; InputError when there are none."""
    files = sorted(p for p in Path(folder).glob("*.nii*") if p.name.endswith((".nii", ".nii.gz")))
    if not files:
        raise InputError(f"no label map (*.nii.gz) in {folder}; name another --labels folder")
    return files


def read_label_map(path: str | Path) -> np.ndarray:
    """Labels (X, Y, Z) int16 of a head, RAS+, at 1 mm; InputError when the file holds none."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj).astype(np.int16)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a readable NIfTI label map: {error}") from error
    if labels.ndim != 3 or BRAINSTEM not in labels:
        raise InputError(f"{path} has no brainstem (label 16): it is not a FreeSurfer label map")
    zoom = image.header.get_zooms()[:3]
    return labels if np.allclose(zoom, 1, atol=0.05) else ndimage.zoom(labels, zoom, order=0)


@lru_cache(maxsize=64)
def read_neck(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A real scan's HU (X, Y, Z) float32 RAS+, voxel size (3,) in mm, lowest brainstem voxel (3,).

    `path` is NAME_ct.nii.gz; in NAME_oar.nii.gz beside it, 1 is the brainstem, without which an
    InputError is raised.
    """
    ct = nib.as_closest_canonical(nib.load(path))
    stem_path = path.replace("_ct.nii", "_oar.nii")
    stem = np.argwhere(np.asarray(nib.as_closest_canonical(nib.load(stem_path)).dataobj) == 1)
    if len(stem) == 0:
        raise InputError(f"{stem_path} has no brainstem (label 1); leave it out of --necks")
    low = stem[stem[:, 2] <= stem[:, 2].min() + 1].mean(0)
    return ct.get_fdata(dtype=np.float32), np.array(ct.header.get_zooms()[:3]), low


def write_volume(array: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Write an array (X, Y, Z) as NIfTI in mm; InputError when `path` cannot be written."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    with replacing(path) as unfinished:
        nib.save(image, unfinished)
