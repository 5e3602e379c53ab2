"""A head's anatomy at 1 mm, from a label map or from nothing: tissues, the brain's cavity, bone.

A label map says where each tissue lies: FreeSurfer numbers for the brain, 500 and above for the
rest of the head, as in SynthSeg's training maps (Billot et al., Medical Image Analysis 86, 2023).

HU ranges: Lev and Gonzalez, "CT angiography and CT perfusion imaging", in Brain Mapping: The
Methods (2002); Bushberg et al., The Essential Physics of Medical Imaging (2011); Buzug, Computed
Tomography (2008).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import erfinv

from common.errors import InputError, replacing
from scan.mask import keep_largest
from scan.nib import nib
from scan.stored import UNREADABLE

AIR_HU = -1000.0  # HU of air, by definition


class Tissue(NamedTuple):
    """numbers in label maps; mean HU, its standard deviation between scans, texture within one."""

    numbers: tuple[int, ...]
    mean: float
    spread: float
    texture: float


BRAINSTEM = 16
GREY_MATTER = (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58)
WHITE_MATTER = (2, 7, BRAINSTEM, 28, 41, 46, 60, 77, 85, 136, 163, 192)
CORD = 512
TISSUES = {
    "air": Tissue((0,), AIR_HU, 5, 0),
    "grey": Tissue(GREY_MATTER, 38, 3, 2),
    "white": Tissue(WHITE_MATTER, 29, 3, 1.5),
    "csf": Tissue((4, 5, 14, 15, 24, 25, 43, 44, 57), 8, 4, 2),
    "artery": Tissue((502,), 45, 5, 2),
    "vein": Tissue((514,), 48, 6, 2),
    "eye": Tissue((506,), 10, 5, 2),
    "orbit": Tissue((), -95, 12, 8),  # its fat
    "sinus": Tissue((), AIR_HU, 5, 0),
    "muscle": Tissue((507, 508), 55, 8, 6),
    "fat": Tissue((), -95, 12, 8),
    "mucosa": Tissue((509,), 40, 15, 15),
    "skin": Tissue((511,), 45, 20, 10),
    "cord": Tissue((CORD, 530), 35, 4, 2),
    "cortical": Tissue((515,), 1150, 250, 90),
    "cancellous": Tissue((516,), 380, 130, 80),
}
INDEX = {name: i for i, name in enumerate(TISSUES)}
BRAIN_TISSUES = ("grey", "white", "csf", "artery", "vein", "cord")
# The next six were chosen by eye
SIGMOID_ABOVE_FORAMEN = 12.0  # mm: lower veins are jugular and lie outside the skull
# A sinus lies flat on the brain. A vein in a foramen of the skull base (the jugular bulb, a
# condylar vein) stands out like a finger of at most this radius in mm, and is outside too.
FORAMEN_VEIN = 6.0
ORBIT = 16.0  # mm around an eye: soft tissue there belongs to the orbit
CUT_BELOW_BRAINSTEM = 2.0  # mm: the foramen magnum, seen from the brainstem's lowest voxel
CANAL = 26.0  # mm around the canal's axis: what lies there below the foramen is outside
LOWEST = 30.0  # mm below the foramen: all that is lower is outside


@dataclass(frozen=True)
class Anatomy:
    """A head (X, Y, Z) at 1 mm, RAS+.

    Distances are signed (mm, negative inside), hold within some 6 mm of their surface, and are flat
    beyond it.
    """

    tissue: np.ndarray  # indices (INDEX)
    inner: np.ndarray  # distance to the inner table: the surface of the brain's cavity
    outer: np.ndarray  # distance to the outer surface of the skull
    centre: np.ndarray  # middle of the cavity (3,), voxels
    base: np.ndarray  # middle of the foramen magnum (3,), voxels
    down: np.ndarray  # unit vector (3,) of the canal through it
    name: str


def load_head(label_map: str | Path | None, seed: int) -> Anatomy:
    """The head of a label map's file, or a phantom; InputError when the file holds none."""
    return load_label_map(str(label_map)) if label_map else make_phantom(seed)


@lru_cache(maxsize=2)
def load_label_map(path: str) -> Anatomy:
    return make_anatomy(read_label_map(path), Path(path).name.split(".")[0])


@lru_cache(maxsize=2)
def make_phantom(seed: int) -> Anatomy:
    """A head made from nothing, the same for the same seed."""
    return make_anatomy(make_phantom_labels(seed), f"phantom_{seed:04d}")


def make_anatomy(labels: np.ndarray, name: str) -> Anatomy:
    """Turn a label volume (X, Y, Z) at 1 mm into an Anatomy, cropped to the head."""
    dense = ndimage.uniform_filter((labels > 0).astype(np.float32), 5) > 0.6
    box = ndimage.find_objects(dense.astype(np.uint8))[0]
    labels = labels[tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)]
    base, down = find_foramen(labels)
    tissue = np.zeros(labels.shape, np.uint8)
    for index, kind in enumerate(TISSUES.values()):
        tissue[np.isin(labels, kind.numbers)] = index
    cavity = find_cavity(tissue, base, down)
    soft = tissue == INDEX["muscle"]
    tissue[soft & (ndimage.distance_transform_edt(tissue != INDEX["eye"]) < ORBIT)] = INDEX["orbit"]
    air = tissue == INDEX["air"]
    filled = [ndimage.binary_fill_holes(~air[..., z]) for z in range(air.shape[2])]
    tissue[air & np.stack(filled, -1)] = INDEX["sinus"]
    inner = signed_distance(cavity)
    outer = signed_distance(cavity | is_any(tissue, "cortical", "cancellous"), sigma=1.5)
    centre = np.array(ndimage.center_of_mass(cavity))
    return Anatomy(tissue, inner, outer, centre, base, down, name)


def is_any(tissue: np.ndarray, *names: str) -> np.ndarray:
    """Where the tissue (indices, any shape) is one of these names (bool)."""
    return np.isin(tissue, [INDEX[name] for name in names])


def find_foramen(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The canal's centre at the skull base (3,) in voxels and its unit direction downwards (3,)."""
    stem = np.argwhere(labels == BRAINSTEM)
    low = stem[stem[:, 2] < stem[:, 2].min() + 3].mean(0)
    canal = np.argwhere((labels == BRAINSTEM) | (labels == CORD))
    near = canal[np.linalg.norm(canal - low, axis=1) < 22]
    down = np.linalg.svd(near - near.mean(0), full_matrices=False)[2][0]
    down *= -np.sign(down[2])
    return low + CUT_BELOW_BRAINSTEM * down, down


def find_cavity(tissue: np.ndarray, base: np.ndarray, down: np.ndarray) -> np.ndarray:
    """What lies in the skull (X, Y, Z) bool: brain, CSF and sinuses, cut at the foramen."""
    along, across = canal_coordinates(tissue.shape, base, down)
    in_canal = (along > 0) & (across < CANAL)
    cavity = is_any(tissue, "grey", "white", "csf") & ~in_canal & ~(along > LOWEST)
    cavity = keep_largest(ndimage.binary_opening(cavity, iterations=2))
    cavity |= close_gaps(cavity) & is_any(tissue, *BRAIN_TISSUES) & ~in_canal
    sinuses = (tissue == INDEX["vein"]) & (along < -SIGMOID_ABOVE_FORAMEN)
    with_veins = ndimage.binary_propagation(cavity, mask=cavity | sinuses)
    cavity |= open_mask(with_veins, FORAMEN_VEIN)
    return keep_largest(ndimage.binary_fill_holes(cavity))


def close_gaps(mask: np.ndarray) -> np.ndarray:
    """Close a mask (bool, 1 mm) with a ball of 6 mm, at half its resolution."""
    small = ndimage.zoom(np.pad(mask, 16).astype(np.float32), 0.5, order=1) > 0.5
    grown = ndimage.distance_transform_edt(~small) <= 3
    closed = (ndimage.distance_transform_edt(grown) > 3).astype(np.float32)
    zoom = np.divide(np.array(mask.shape) + 32, closed.shape)
    return (ndimage.zoom(closed, zoom, order=1) > 0.5)[16:-16, 16:-16, 16:-16]


def open_mask(mask: np.ndarray, radius: float) -> np.ndarray:
    """The part of a mask that a ball of `radius` voxels covers without leaving the mask (bool)."""
    centres = ndimage.distance_transform_edt(mask) > radius
    return mask & (ndimage.distance_transform_edt(~centres) <= radius)


def canal_coordinates(shape, base, down) -> tuple[np.ndarray, np.ndarray]:
    """Each voxel's distance along the canal (mm, positive below the foramen) and from its axis."""
    offsets = [np.arange(n, dtype=np.float32) - b for n, b in zip(shape, base, strict=True)]
    x, y, z = np.meshgrid(*offsets, indexing="ij", sparse=True)
    along = x * down[0] + y * down[1] + z * down[2]
    return along, np.sqrt(np.maximum(x**2 + y**2 + z**2 - along**2, 0))


def signed_distance(mask: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """A smooth signed distance (voxels, float16, negative inside) that holds within 3 sigma.

    The mask is blurred: at a flat edge that gives the error function of the distance, which is
    then inverted.
    """
    level = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    level = np.clip(2 * level - 1, -0.9973, 0.9973)
    return (-np.sqrt(2) * sigma * erfinv(level)).astype(np.float16)


# ---------------------------------------------------------------- a phantom

SHAPE = (220, 240, 290)  # voxels of 1 mm: a head with neck and shoulders
CENTRE = (110, 112, 185)  # voxel in the middle of the brain
FLATTER = 1.25  # by how much every ellipsoid's upper half is higher than its lower; by eye


class Axes(NamedTuple):
    """Coordinates in mm from the middle of the brain, float32, sparse: they broadcast."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def ball(self, centre, radii) -> np.ndarray:
        """Voxels (X, Y, Z) bool in an ellipsoid; centre (3,) and half axes (3,) in mm."""
        z = self.z * np.where(self.z > 0, 1, FLATTER)
        parts = zip((self.x, self.y, z), centre, radii, strict=True)
        return sum(np.abs((u - m) / r) ** 2 for u, m, r in parts) < 1


def make_phantom_labels(seed: int) -> np.ndarray:
    """Make a label map (X, Y, Z) int16 at 1 mm, the same for the same seed."""
    rng = np.random.default_rng([seed, 77])
    offsets = [np.arange(n, dtype=np.float32) - c for n, c in zip(SHAPE, CENTRE, strict=True)]
    axes = Axes(*np.meshgrid(*offsets, indexing="ij", sparse=True))
    size = rng.uniform((64, 80, 68), (72, 92, 78))  # half axes of the brain cavity, mm
    folds = rng.standard_normal(np.array(SHAPE) // 2).astype(np.float32)
    labels = np.zeros(SHAPE, np.int16)
    head = draw_head(labels, axes, size)
    draw_face(labels, axes)
    labels[~head] = 0
    draw_brain(labels, axes, size, ndimage.gaussian_filter(folds, 2.2))
    labels[~head] = 0
    return labels


def draw_head(labels: np.ndarray, axes: Axes, size: np.ndarray) -> np.ndarray:
    """Draw skin, muscle, spine and vault into `labels`; return where the head is (bool)."""
    x, y, z = axes
    neck = ((x / 58) ** 2 + ((y + 15) / 62) ** 2 < 1) & (z < -20)
    shoulders = (np.abs(x / 108) ** 3 + np.abs((y + 10) / 80) ** 3 < 1) & (z < -145)
    face = axes.ball((0, 45, -50), (58, 62, 62))
    head = axes.ball((0, 0, 0), size + 13) | neck | shoulders | face
    labels[head] = 511
    labels[ndimage.binary_erosion(head, iterations=3)] = 507
    for level in range(-165, -70, 17):  # vertebrae
        labels[(x**2 + (y + 22) ** 2 < 17**2) & (np.abs(z - level) < 7)] = 516
        labels[((x / 30) ** 2 + ((y + 48) / 14) ** 2 < 1) & (np.abs(z - level) < 4)] = 515
    for thickness, label in ((7, 515), (5, 516), (2, 515)):  # mm from the cavity
        labels[axes.ball((0, 0, 0), size + thickness)] = label
    return head


def draw_face(labels: np.ndarray, axes: Axes) -> None:
    """Draw petrous bones, nose, eyes, sinuses, airway and the neck's vessels into `labels`."""
    x, y, z = axes
    labels[(np.abs(x) > 22) & axes.ball((0, 5, -52), (62, 22, 14))] = 515  # petrous bones
    labels[axes.ball((0, 55, -55), (20, 32, 22))] = 509
    for side in (-1, 1):
        labels[axes.ball((side * 32, 86, -38), (13, 13, 13))] = 506
        labels[axes.ball((side * 30, 62, -62), (15, 18, 15))] = 0
        labels[((x - side * 30) ** 2 + y**2 < 3.5**2) & (z < -20)] = 502  # carotids
        labels[((x - side * 44) ** 2 + (y + 5) ** 2 < 5**2) & (z < -20)] = 514  # jugulars
    labels[((x / 9) ** 2 + ((y - 28) / 8) ** 2 + 0 * z < 1) & (z < -75)] = 0  # airway


def draw_brain(labels: np.ndarray, axes: Axes, size: np.ndarray, folds: np.ndarray) -> None:
    """Draw brain, ventricles, sagittal sinus, brainstem and cord into `labels`.

    Grey matter is where `folds`, smooth noise at 2 mm, is low.
    """
    x, y, z = axes
    cavity = axes.ball((0, 0, 0), size)
    labels[cavity] = 24
    folds = np.repeat(np.repeat(np.repeat(folds, 2, 0), 2, 1), 2, 2)[:, :, : SHAPE[2]]
    brain = axes.ball((0, 0, 0), size - 4) & (np.abs(x) > 1.5)
    labels[brain & (folds < 0.02)] = 3
    labels[brain & axes.ball((0, 0, 0), size - 14)] = 2
    labels[axes.ball((0, -45, -38), (45, 28, 22)) & cavity] = 8
    for side in (-1, 1):
        labels[axes.ball((side * 12, 0, 12), (7, 34, 13))] = 4
    labels[cavity & (x**2 / 25 + (y + size[1] - 2) ** 2 / 60 + 0 * z < 1)] = 514  # sagittal sinus
    bottom = -size[2] / FLATTER
    labels[(x**2 + (y + 18) ** 2 < 15**2) & (z < bottom + 12)] = 24  # the canal
    stem = (x**2 + (y + 18) ** 2 < 9**2) & (z < -15)
    labels[stem & (z >= bottom - 4)] = 16
    labels[stem & (z < bottom - 4)] = 512


# ---------------------------------------------------------------- files


def find_label_maps(folder: str | Path | None) -> list[Path | None]:
    """Label maps (NIfTI) of a folder, sorted; [None], the phantom, without a folder.

    InputError when the folder holds none.
    """
    if not folder:
        return [None]
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


def write_volume(array: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Write an array (X, Y, Z) as NIfTI in mm; InputError when `path` cannot be written."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    with replacing(path) as unfinished:
        nib.save(image, unfinished)
