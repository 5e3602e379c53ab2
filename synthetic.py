"""Head CT and CTA scans made from label maps, or from nothing at all, with their brain masks.

    python synthetic.py --preview files/preview.png [--labels DIR] [--necks DIR]
    python synthetic.py --sample results/demo/sample_cta.nii.gz
    python synthetic.py --download labelmaps
    python synthetic.py --tumours files/cases --count 12         # brain MRI, see tumour.py

A label map says where each tissue lies (FreeSurfer numbers for the brain, 500 and above for the
rest of the head, as in SynthSeg's training maps). Every scan turns, scales and bends it anew,
gives each tissue a HU value from published ranges, adds vessels, disease, surgery and what lies
around a head, and images the result as a CT scanner would. The mask ends where people end it: at
the last voxel that shows no bone, thick slices included. Without a label map a procedural
phantom stands in.

HU ranges: Lev and Gonzalez, "CT angiography and CT perfusion imaging", in Brain Mapping: The
Methods (2002); Bushberg et al., The Essential Physics of Medical Imaging (2011); Buzug, Computed
Tomography (2008). The idea of training on nothing but such images: Billot et al., SynthSeg,
Medical Image Analysis 86 (2023).
"""

import argparse
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import erfinv

from errors import InputError, replacing, run
from volume import largest

AIR = -1000.0
SPACING = 1.25  # mm: finer than the network's 1.5 mm, near the label maps' 1 mm

# Tissues: index -> (label numbers, mean HU, spread of the mean between scans, texture).
TISSUES = {
    "air": ((0,), AIR, 5, 0),
    "grey": ((3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58), 38, 3, 2),
    "white": ((2, 7, 16, 28, 41, 46, 60, 77, 85, 136, 163, 192), 29, 3, 1.5),
    "csf": ((4, 5, 14, 15, 24, 25, 43, 44, 57), 8, 4, 2),
    "artery": ((502,), 45, 5, 2),
    "vein": ((514,), 48, 6, 2),
    "eye": ((506,), 10, 5, 2),
    "orbit": ((), -95, 12, 8),  # its fat
    "sinus": ((), AIR, 5, 0),
    "muscle": ((507, 508), 55, 8, 6),
    "fat": ((), -95, 12, 8),
    "mucosa": ((509,), 40, 15, 15),
    "skin": ((511,), 45, 20, 10),
    "cord": ((512, 530), 35, 4, 2),
    "cortical": ((515,), 1150, 250, 90),
    "cancellous": ((516,), 380, 130, 80),
}
INDEX = {name: i for i, name in enumerate(TISSUES)}
AFFINE_ONE = np.diag([0.0, 0.0, 0.0, 1.0])
BRAIN = [INDEX[name] for name in ("grey", "white", "csf", "artery", "vein", "cord")]
SIGMOID_ABOVE_FORAMEN = 12.0  # mm: lower veins are jugular and lie outside the skull
# A sinus lies flat on the brain; a vein in a foramen of the skull base (the jugular bulb, a
# condylar vein) stands out like a finger, of at most this radius in mm, and is outside too.
FORAMEN = 6.0
# A voxel that is more than this share bone, as the scanner shows it, is out of the mask: it looks
# like bone in a brain window. People who draw on real CT end there.
BONE_SHARE = 0.1
ORBIT = 16.0  # mm about an eye: what is soft there is the orbit's
HYPERDENSE = 80.0  # HU: brighter than grey matter by more than noise; contrast, blood, lime, metal
DRAWN_ABOVE = 8.0  # mm above the foramen where drawn vessels end: else they follow the cut
CUT_BELOW_BRAINSTEM = 2.0  # mm: the foramen magnum, seen from the brainstem's lowest voxel


@dataclass(frozen=True)
class Scan:
    """A synthetic scan: hu (X, Y, Z) float32 RAS+, its mask and the vessels in it (bool).

    `hyperdense` (bool) is what in the mask is bright without any bone; affine is (4, 4); about
    says how it was made.
    """

    hu: np.ndarray
    mask: np.ndarray
    vessels: np.ndarray
    hyperdense: np.ndarray
    affine: np.ndarray
    about: dict

    @property
    def labels(self) -> np.ndarray:
        """(X, Y, Z) uint8: 1 in the mask, 2 where that is hyperdense."""
        return self.mask + self.hyperdense.astype(np.uint8)


@dataclass(frozen=True)
class Anatomy:
    """A head at 1 mm, RAS+: tissue indices and two signed distances in mm, negative inside.

    `inner` is the distance to the inner table (the brain cavity), `outer` to the outer surface of
    the skull; both hold within some 6 mm of their surface and are flat beyond it. `base` is the
    foramen magnum's centre in voxels and `down` the unit vector of the canal through it.
    """

    tissue: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    centre: np.ndarray
    base: np.ndarray
    down: np.ndarray
    name: str


# ---------------------------------------------------------------- anatomy from labels


def label_files(folder: str | Path) -> list[Path]:
    """Return the label maps (NIfTI) of a folder, sorted; InputError when there are none."""
    files = sorted(p for p in Path(folder).glob("*.nii*") if p.name.endswith((".nii", ".nii.gz")))
    if not files:
        raise InputError(f"no label map (*.nii.gz) in {folder}; name another --labels folder")
    return files


@lru_cache(maxsize=2)
def load_anatomy(path: str) -> Anatomy:
    """Read a 1 mm label map; InputError when it is none."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj).astype(np.int16)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} is not a readable NIfTI label map: {error}") from error
    if labels.ndim != 3 or 16 not in labels:
        raise InputError(f"{path} has no brainstem (label 16); it is no FreeSurfer head label map")
    zoom = image.header.get_zooms()[:3]
    if not np.allclose(zoom, 1, atol=0.05):
        labels = ndimage.zoom(labels, zoom, order=0)
    return anatomy(labels, Path(path).name.split(".")[0])


def anatomy(labels: np.ndarray, name: str) -> Anatomy:
    """Turn a label volume (X, Y, Z) at 1 mm into an Anatomy, cropped to the head."""
    dense = ndimage.uniform_filter((labels > 0).astype(np.float32), 5) > 0.6
    box = ndimage.find_objects(dense.astype(np.uint8))
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box[0])
    labels = labels[box]
    base, down = foramen_magnum(labels)
    tissue = np.zeros(labels.shape, np.uint8)
    for index, (numbers, *_) in enumerate(TISSUES.values()):
        tissue[np.isin(labels, numbers)] = index
    cavity = brain_cavity(labels, tissue, base, down)
    soft = tissue == INDEX["muscle"]
    tissue[soft & (ndimage.distance_transform_edt(tissue != INDEX["eye"]) < ORBIT)] = INDEX["orbit"]
    air = tissue == INDEX["air"]
    filled = [ndimage.binary_fill_holes(~air[..., z]) for z in range(air.shape[2])]
    tissue[air & np.stack(filled, -1)] = INDEX["sinus"]
    bone = np.isin(tissue, (INDEX["cortical"], INDEX["cancellous"]))
    inner = signed_distance(cavity)
    outer = signed_distance(cavity | bone, sigma=1.5)
    centre = np.array(ndimage.center_of_mass(cavity))
    return Anatomy(tissue, inner, outer, centre, base, down, name)


def foramen_magnum(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the canal's centre at the skull base (voxels) and its unit direction downwards."""
    stem = np.argwhere(labels == 16)
    low = stem[stem[:, 2] < stem[:, 2].min() + 3].mean(0)
    canal = np.argwhere((labels == 16) | (labels == 512))
    near = canal[np.linalg.norm(canal - low, axis=1) < 22]
    down = np.linalg.svd(near - near.mean(0), full_matrices=False)[2][0]
    down *= -np.sign(down[2])
    return low + CUT_BELOW_BRAINSTEM * down, down


def brain_cavity(labels, tissue, base, down) -> np.ndarray:
    """Return what lies inside the skull (bool): brain, CSF and sinuses, cut at the foramen."""
    inside = np.isin(tissue, [INDEX[n] for n in ("grey", "white", "csf")])
    along, across = canal_coordinates(labels.shape, base, down)
    inside &= ~((along > 0) & (across < 26)) & ~(along > 30)
    inside = largest(ndimage.binary_opening(inside, iterations=2))
    small = ndimage.zoom(np.pad(inside, 16).astype(np.float32), 0.5, order=1) > 0.5
    grown = ndimage.distance_transform_edt(~small) <= 3
    closed = ndimage.distance_transform_edt(grown) > 3
    closed = ndimage.zoom(closed.astype(np.float32), np.divide(np.array(inside.shape) + 32,
                          closed.shape), order=1) > 0.5
    closed = closed[16:-16, 16:-16, 16:-16]
    fills = np.isin(tissue, BRAIN) & ~((along > 0) & (across < 26))
    inside |= closed & fills
    sinuses = (tissue == INDEX["vein"]) & (along < -SIGMOID_ABOVE_FORAMEN)
    with_veins = ndimage.binary_propagation(inside, mask=inside | sinuses)
    inside |= opened(with_veins, FORAMEN)
    return largest(ndimage.binary_fill_holes(inside))


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return what a ball of `radius` voxels covers that stays within the mask (bool)."""
    centres = ndimage.distance_transform_edt(mask) > radius
    return mask & (ndimage.distance_transform_edt(~centres) <= radius)


def canal_coordinates(shape, base, down) -> tuple[np.ndarray, np.ndarray]:
    """Return each voxel's distance along the canal (mm, down positive) and from its axis."""
    offsets = [np.arange(n, dtype=np.float32) - b for n, b in zip(shape, base, strict=True)]
    x, y, z = np.meshgrid(*offsets, indexing="ij", sparse=True)
    along = x * down[0] + y * down[1] + z * down[2]
    return along, np.sqrt(np.maximum(x**2 + y**2 + z**2 - along**2, 0))


def signed_distance(mask: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Return a smooth signed distance (voxels, float16, negative inside), good within 3 sigma.

    The blurred indicator of a flat edge is the error function of the distance, which is undone.
    """
    level = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    level = np.clip(2 * level - 1, -0.9973, 0.9973)
    return (-np.sqrt(2) * sigma * erfinv(level)).astype(np.float16)


# ---------------------------------------------------------------- anatomy from nothing


@lru_cache(maxsize=2)
def phantom(seed: int) -> Anatomy:
    """Return a procedural head."""
    return anatomy(phantom_labels(seed), f"phantom_{seed:04d}")


def phantom_labels(seed: int) -> np.ndarray:
    """Return a label map (X, Y, Z) at 1 mm: ellipsoids for brain, skull, face, neck, shoulders."""
    rng = np.random.default_rng([seed, 77])
    shape = np.array([220, 240, 290])
    x, y, z = (np.arange(n, dtype=np.float32) - c
               for n, c in zip(shape, (110, 112, 185), strict=True))
    x, y, z = np.meshgrid(x, y, z, indexing="ij", sparse=True)
    a, b, c = rng.uniform((64, 80, 68), (72, 92, 78))
    z_round = z * np.where(z > 0, 1, 1.25)

    def ball(centre, radii, power=2):
        return sum(np.abs((u - m) / r) ** power for u, m, r
                   in zip((x, y, z_round), centre, radii, strict=True)) < 1

    labels = np.zeros(shape, np.int16)
    neck = ((x / 58) ** 2 + ((y + 15) / 62) ** 2 < 1) & (z < -20)
    shoulders = (np.abs(x / 108) ** 3 + np.abs((y + 10) / 80) ** 3 < 1) & (z < -145)
    face = ball((0, 45, -50), (58, 62, 62))
    head = ball((0, 0, 0), (a + 13, b + 13, c + 13)) | neck | shoulders | face
    labels[head] = 511
    labels[ndimage.binary_erosion(head, iterations=3)] = 507
    for level in range(-165, -70, 17):  # vertebrae
        labels[(x**2 + (y + 22) ** 2 < 17**2) & (np.abs(z - level) < 7)] = 516
        labels[((x / 30) ** 2 + ((y + 48) / 14) ** 2 < 1) & (np.abs(z - level) < 4)] = 515
    labels[ball((0, 0, 0), (a + 7, b + 7, c + 7))] = 515
    labels[ball((0, 0, 0), (a + 5, b + 5, c + 5))] = 516
    labels[ball((0, 0, 0), (a + 2, b + 2, c + 2))] = 515
    labels[(np.abs(x) > 22) & ball((0, 5, -52), (62, 22, 14))] = 515  # petrous bones
    labels[ball((0, 55, -55), (20, 32, 22))] = 509
    for side in (-1, 1):
        labels[ball((side * 32, 86, -38), (13, 13, 13))] = 506
        labels[ball((side * 30, 62, -62), (15, 18, 15))] = 0
        labels[((x - side * 30) ** 2 + y**2 < 3.5**2) & (z < -20)] = 502  # carotids
        labels[((x - side * 44) ** 2 + (y + 5) ** 2 < 5**2) & (z < -20)] = 514  # jugulars
    labels[((x / 9) ** 2 + ((y - 28) / 8) ** 2 + 0 * z < 1) & (z < -75)] = 0  # airway
    labels[~head] = 0
    cavity = ball((0, 0, 0), (a, b, c))
    labels[cavity] = 24
    folds = ndimage.gaussian_filter(rng.standard_normal(shape // 2).astype(np.float32), 2.2)
    folds = np.repeat(np.repeat(np.repeat(folds, 2, 0), 2, 1), 2, 2)[:, :, : shape[2]]
    brain = ball((0, 0, 0), (a - 4, b - 4, c - 4)) & (np.abs(x) > 1.5)
    labels[brain & (folds < 0.02)] = 3
    labels[brain & ball((0, 0, 0), (a - 14, b - 14, c - 14))] = 2
    labels[ball((0, -45, -38), (45, 28, 22)) & cavity] = 8
    for side in (-1, 1):
        labels[ball((side * 12, 0, 12), (7, 34, 13))] = 4
    labels[cavity & (x**2 / 25 + (y + b - 2) ** 2 / 60 + 0 * z < 1)] = 514  # sagittal sinus
    stem_low = -c / 1.25 - 4
    canal = (x**2 + (y + 18) ** 2 < 15**2) & (z < -c / 1.25 + 12)
    labels[canal] = 24
    stem = (x**2 + (y + 18) ** 2 < 9**2) & (z < -15)
    labels[stem & (z >= stem_low)] = 16
    labels[stem & (z < stem_low)] = 512
    labels[~head] = 0
    return labels


# ---------------------------------------------------------------- one scan


def scan(
    seed: int,
    labels: str | Path | None = None,
    necks: str | Path | None = None,
    plain: bool = False,
    stored: bool = False,
    **wanted,
) -> Scan:
    """Return one synthetic scan, the same for the same arguments.

    `labels` is a label map (a phantom is used without one), `necks` a folder of real
    head-and-neck CTs with `_oar` labels (1 brainstem) to continue the body below the skull.
    `plain` leaves out disease, surgery, metal and odd poses. `stored` gives the slices as a scanner
    stores them, one per thickness, where else they are interpolated to cubes. `wanted` replaces
    what `draw_look` would draw: spacing=0.6, phase="arterial", thickness=5.0 and so on.
    InputError when the label map cannot be read.
    """
    rng = np.random.default_rng([seed, 2026])
    head = load_anatomy(str(labels)) if labels else phantom(seed)
    look = draw_look(rng, plain, necks is not None) | wanted
    points, shape = pose(head, look, rng)
    space = sample(head, points)
    painted = paint(space, look, rng)
    hu = painted.hu
    if necks:
        hu = add_body(hu, space, head, necks, rng)
    hu = add_surroundings(hu, space, look, rng)
    (hu, inside, content), heights = image((hu, painted.inside, painted.content), look, stored, rng)
    nearest = np.rint(heights).astype(int)
    mask = largest(inside > 1 - BONE_SHARE)
    vessels = painted.vessels[..., nearest] & mask
    about = {"source": head.name, "seed": seed} | look
    affine = np.diag(look["spacing"] * np.array([1, 1, heights[1] - heights[0], 0])) + AFFINE_ONE
    affine[2, 3] = look["spacing"] * heights[0]
    hu = with_noise(hu, look, rng)
    return Scan(hu, mask, vessels, mask & (content > HYPERDENSE), affine, about)


def draw_look(rng, plain, body) -> dict:
    """Draw what a scan looks like: field of view (mm), pose (degrees), contrast, scanner."""
    phase = rng.choice(["none", "arterial", "venous"], p=[0.25, 0.5, 0.25])
    reach = rng.choice(["head", "neck", "chest"], p=[0.45, 0.3, 0.25] if body else [0.6, 0.4, 0])
    width = {"head": rng.uniform(185, 270), "neck": rng.uniform(190, 320),
             "chest": rng.uniform(260, 450)}[reach]
    length = {"head": rng.uniform(100, 200), "neck": rng.uniform(200, 300),
              "chest": rng.uniform(280, 440)}[reach]
    tilt = rng.choice([8, 25, 180], p=[0.55, 0.3, 0.15])
    sharp = rng.uniform(0.35, 0.75) if plain or rng.random() < 0.85 else rng.uniform(0.75, 2.2)
    coarse = not plain and rng.random() < 0.15
    return {
        "spacing": float(max(SPACING, width / 200, length / 240)),
        "width": float(width), "length": float(length),
        "phase": str(phase),
        "tilt": 5.0 if plain else float(tilt), "plain": plain,
        "above": draw_above(rng, plain),
        "thickness": float(rng.choice([rng.uniform(0.5, 1.5), rng.uniform(1.5, 6)])),
        "sharpness": float(sharp), "noise": float(np.exp(rng.normal(1.6, 0.6))),
        "pixel": float(rng.uniform(1.5, 4.2)) if coarse else 0.0,  # mm; 0 is as fine as `spacing`
    }


def draw_above(rng, plain) -> float:
    """Draw how far above the vertex the scan begins (mm): below it in some, deep in the skull
    base in a few, as scans of a neck do."""
    if plain or (draw := rng.random()) < 0.7:
        return float(rng.uniform(4, 25))
    return float(rng.uniform(-45, 4) if draw < 0.9 else rng.uniform(-110, -45))


def pose(head: Anatomy, look: dict, rng) -> tuple[np.ndarray, tuple]:
    """Return where in the head (voxels, (3, X, Y, Z) float32) each voxel of the scan lies."""
    step = look["spacing"]
    shape = tuple(int(round(s / step)) for s in (look["width"], look["width"], look["length"]))
    if look["tilt"] > 90:
        turn = Rotation.random(random_state=int(rng.integers(2**31)))
    else:
        turn = Rotation.from_euler("xyz", rng.normal(0, look["tilt"], 3) * (1, 0.7, 1),
                                   degrees=True)
    scale = rng.uniform(0.84, 1.06) * rng.uniform(0.95, 1.05, 3)
    shear = np.eye(3)
    shear[1, 2] = np.tan(np.radians(rng.normal(0, 6)))
    matrix = turn.as_matrix() @ shear / scale
    top = np.abs(matrix.T @ np.array([0, 0, 80]))[2] + 12
    coarse = [np.linspace(0, n - 1, max(n // 9, 6)) for n in shape]
    grid = np.stack(np.meshgrid(*coarse, indexing="ij")).astype(np.float32)
    size = np.array(shape)[:, None, None, None]
    mm = (grid - (size - 1) / 2) * step
    mm[0] += rng.normal(0, 10)
    mm[1] += rng.normal(0, 10)
    mm[2] = (grid[2] - (size[2] - 1)) * step + top + look["above"]
    points = np.einsum("ij,jxyz->ixyz", matrix, mm)
    for sigma, strength in ((2.2, 4.0), (1.2, 1.2)):  # bends of some 40 and 20 mm
        bend = ndimage.gaussian_filter(rng.standard_normal(points.shape), (0, *[sigma] * 3))
        points += strength * rng.uniform(0.2, 1) * bend / bend.std()
    points += head.centre[:, None, None, None]
    zoom = np.divide(shape, points.shape[1:])
    fine = np.stack([ndimage.zoom(p.astype(np.float32), zoom, order=1) for p in points])
    return fine, shape


def sample(head: Anatomy, points: np.ndarray) -> dict:
    """Return the head's tissue, inner and outer distances (mm) at `points`, and the points."""
    tissue = ndimage.map_coordinates(head.tissue, points, order=0)
    inner, outer = (
        ndimage.map_coordinates(f.astype(np.float32), points, order=1, cval=float(f.max()))
        for f in (head.inner, head.outer)
    )
    offset = points - head.base[:, None, None, None].astype(np.float32)
    along = np.einsum("i,ixyz->xyz", head.down.astype(np.float32), offset)
    return {"tissue": tissue, "inner": inner, "outer": outer, "along": along, "offset": offset}


def smooth_noise(shape, rng, size: float) -> np.ndarray:
    """Return unit-variance noise (float32) whose grain is some `size` voxels."""
    coarse = [max(int(np.ceil(n / size)) + 3, 4) for n in shape]
    field = rng.standard_normal(coarse).astype(np.float32)
    starts = rng.uniform(0, 1, 3)
    axes = [np.arange(n, dtype=np.float32) / size + s for n, s in zip(shape, starts, strict=True)]
    for axis, at in enumerate(axes):
        low = at.astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        field = (field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight)
    return field / field.std()


@dataclass(frozen=True)
class Painted:
    """A scan before imaging, (X, Y, Z) each: hu; `inside`, the share of each voxel that lies in
    the skull (float32); `content`, the HU of that part; where vessels are (bool)."""

    hu: np.ndarray
    inside: np.ndarray
    content: np.ndarray
    vessels: np.ndarray


def paint(space: dict, look: dict, rng) -> Painted:
    """Give every voxel its tissue's HU, with disease, vessels and bone."""
    shape = space["tissue"].shape
    step = look["spacing"]
    level = {n: rng.normal(t[1], t[2]) for n, t in TISSUES.items()}
    contrast = {"none": (0, 0), "arterial": (rng.uniform(180, 480), rng.uniform(0, 220)),
                "venous": (rng.uniform(60, 200), rng.uniform(100, 260))}[look["phase"]]
    level["artery"] += contrast[0]
    level["vein"] += contrast[1]
    level["white"] = min(level["white"], level["grey"] - 4)
    tissue = space["tissue"].copy()
    soft = tissue == INDEX["muscle"]
    tissue[soft & (smooth_noise(shape, rng, 9 / step) > rng.normal(0.3, 0.5))] = INDEX["fat"]
    orbit = tissue == INDEX["orbit"]
    tissue[orbit & (smooth_noise(shape, rng, 4 / step) > rng.normal(1, 0.5))] = INDEX["muscle"]
    if not look["plain"] and rng.random() < 0.15:  # filled with fluid or blood
        level["sinus"] = rng.uniform(0, 60)
    table = np.array([level[n] for n in TISSUES], np.float32)
    texture = np.array([t[3] for t in TISSUES.values()], np.float32)
    grain = smooth_noise(shape, rng, 4 / step) + smooth_noise(shape, rng, max(2 / step, 1.01))
    hu = table[tissue] + texture[tissue] * grain
    inside = np.isin(tissue, BRAIN)
    within = np.where(inside, hu, rng.uniform(10, 40))
    within = add_disease(within, space, look, rng)
    bloodless = within
    within = add_vessels(within, space, contrast, look, rng)
    blood = np.isin(tissue, [INDEX["artery"], INDEX["vein"]])
    vessels = blood | (within > bloodless + 20)
    bone = skull(space, level, grain, look, rng)
    beyond = np.where(np.isnan(bone), hu, bone)
    # what the smooth cavity leaves out becomes dura; blood flows on, the cord and its CSF too
    dura = inside & ~blood & (space["inner"] > 0) & (space["along"] < 0) & np.isnan(bone)
    beyond = np.where(dura, level["muscle"], beyond)
    share = np.clip(0.5 - space["inner"] / step, 0, 1)  # of a voxel that lies in the cavity
    return Painted(share * within + (1 - share) * beyond, share, within, vessels)


def skull(space, level, grain, look, rng) -> np.ndarray:
    """Return the HU of bone, NaN where there is none: cortical tables around a diploe."""
    shape, step = grain.shape, look["spacing"]
    inner, tissue = space["inner"], space["tissue"]
    outer = space["outer"] + rng.uniform(-1.2, 1.0)
    shell = rng.uniform(0.8, 1.6) + 0.5 * smooth_noise(shape, rng, 20 / step)
    canal = (np.abs(space["along"]) < 14) & (np.sum(space["offset"] ** 2, 0) < 20**2)
    hollow = np.isin(tissue, [INDEX[n] for n in ("air", "sinus", "mucosa")])
    solid = np.isin(tissue, [INDEX[n] for n in ("cortical", "cancellous")])
    in_foramen = (tissue == INDEX["vein"]) & (inner > 1.5)  # mm: nearer, a vein is a sinus
    vault = (outer < 0) & ~hollow & ~in_foramen
    bone = (solid | vault | ((inner < shell) & ~canal)) & (inner > -step)
    if not look["plain"]:
        bone &= ~openings(space, rng)
    table = rng.uniform(0.9, 2.2)
    depth = np.minimum(inner, -outer)
    dense = np.clip((table - depth) / step + 0.5, 0, 1)
    hu = dense * (level["cortical"] + 90 * grain) + (1 - dense) * (level["cancellous"] + 80 * grain)
    hu = np.where(solid & (depth < -1), table_of(tissue, level), hu)
    if not look["plain"] and rng.random() < 0.5:  # air cells in the skull base
        cells = smooth_noise(shape, rng, rng.uniform(2, 6) / step) > rng.uniform(0.2, 1.2)
        hu = np.where(cells & (inner > rng.uniform(1, 3)) & (space["along"] > -55), AIR, hu)
    return np.where(bone, hu, np.nan).astype(np.float32)


def table_of(tissue, level) -> np.ndarray:
    """Return each voxel's drawn HU by its tissue."""
    return np.array([level[n] for n in TISSUES], np.float32)[tissue]


def openings(space, rng) -> np.ndarray:
    """Return where a craniectomy or burr holes take the bone away (bool)."""
    hole = np.zeros(space["inner"].shape, bool)
    draw = rng.random()
    if draw > 0.15:
        return hole
    sites = [(rng.uniform(28, 55), 1)] if draw < 0.07 else [(rng.uniform(5, 9), rng.integers(1, 4))]
    for radius, count in sites:
        for _ in range(count):
            way = rng.standard_normal(3) * (1, 1, 0.6) + (0, 0, 0.6)
            spot = np.array([0, 20, 75]) + 80 * way / np.linalg.norm(way)
            away = space["offset"] - spot[:, None, None, None].astype(np.float32)
            hole |= np.sum(away**2, 0) < radius**2
    return hole


# ---------------------------------------------------------------- disease, vessels, metal


def add_disease(hu, space, look, rng) -> np.ndarray:
    """Return `hu` with at most a few of: blood on and in the brain, infarct, tumour, lime, a coil,
    air, a drain."""
    if look["plain"] or rng.random() < 0.4:
        return hu
    ripple = smooth_noise(hu.shape, rng, 14 / look["spacing"])
    for kind in rng.choice(len(DISEASES), rng.integers(1, 4), p=[d[0] for d in DISEASES]):
        hu = DISEASES[kind][1](hu, space, ripple, look["spacing"], rng)
    return hu


def blood(rng) -> float:
    """Draw the HU of blood, mostly fresh."""
    return rng.uniform(50, 100) if rng.random() < 0.75 else rng.uniform(10, 50)


def subdural(hu, space, ripple, step, rng) -> np.ndarray:
    """Return `hu` with blood in a crescent along one side of the inner table."""
    depth = rng.uniform(2, 7) if rng.random() < 0.5 else rng.uniform(7, 20)
    beside = rng.choice([-1, 1]) * space["offset"][0] - rng.uniform(-5, 30)
    depth = depth * np.clip(beside / 25, 0, 1) * np.clip(1 + 0.5 * ripple, 0, 2)
    return np.where(space["inner"] > -depth, blood(rng) + 4 * ripple, hu)


def epidural(hu, space, ripple, step, rng, value=None, front=False) -> np.ndarray:
    """Return `hu` with a lens of blood, or of another `value`, between brain and skull."""
    spots = np.flatnonzero((space["inner"] < 0) & (space["inner"] > -2) & (space["along"] < -15))
    if len(spots) == 0:
        return hu
    spots = space["offset"].reshape(3, -1)[:, rng.choice(spots, 20)].T
    spot = spots[spots[:, 1].argmax()] if front else spots[0]
    out = spot - BRAIN_CENTRE
    depth, width = rng.uniform(4, 28), rng.uniform(12, 45)
    depth = min(depth, width)
    radius = (width**2 + depth**2) / (2 * depth)  # of the ball whose cap is the lens
    centre = spot + out / np.linalg.norm(out) * (radius - depth)
    lens = distance_to(space, centre) < radius + 1.5 * ripple
    return np.where(lens, blood(rng) + 4 * ripple if value is None else value, hu)


def lobar(hu, space, ripple, step, rng) -> np.ndarray:
    """Return `hu` with blood in the brain that reaches the skull or comes close."""
    return lesion(hu, space, ripple, rng, "blood", (-0.8, 0.2))


def pneumocephalus(hu, space, ripple, step, rng) -> np.ndarray:
    """Return `hu` with air beneath the skull, mostly in front."""
    return epidural(hu, space, ripple, step, rng, AIR, front=rng.random() < 0.7)


def drain(hu, space, ripple, step, rng) -> np.ndarray:
    """Return `hu` with a tube from the skull into the brain."""
    near, deep = (np.argwhere((space["inner"] > a) & (space["inner"] < b) & (space["along"] < -30))
                  for a, b in ((-2, 0), (-99, -4)))
    if len(near) and len(deep):
        ends = near[rng.integers(len(near))], deep[rng.integers(len(deep))]
        hu = hu.copy()
        splat(hu, np.linspace(*ends, 200), rng.uniform(0.8, 2) / step, rng.uniform(80, 1200))
    return hu


def spot(hu, space, ripple, step, rng) -> np.ndarray:
    """Return `hu` with one lesion deep in the brain."""
    kind = rng.choice(["blood", "infarct", "tumour", "calcium", "coil"], p=[.25, .3, .25, .1, .1])
    return lesion(hu, space, ripple, rng, kind, (-9, -0.2))


def lesion(hu, space, ripple, rng, kind, depths) -> np.ndarray:
    """Return `hu` with a ball of a `kind`, its centre within `depths` of the inner table, in
    multiples of its radius."""
    radius = rng.uniform(5, 30)
    low, high = np.multiply(depths, radius)
    centres = np.flatnonzero((space["inner"] < high) & (space["inner"] > low)
                             & (space["along"] < -10))
    if len(centres) == 0:
        return hu
    away = distance_to(space, space["offset"].reshape(3, -1)[:, rng.choice(centres)])
    inside = away + 3 * ripple < radius
    if kind == "infarct":
        return np.where(inside, 0.5 * hu + rng.uniform(5, 12), hu)
    if kind in ("blood", "tumour"):
        oedema = away + 5 * ripple < radius + rng.uniform(0, 15)
        hu = np.where(oedema, hu - rng.uniform(4, 12), hu)
        return np.where(inside, blood(rng) if kind == "blood" else rng.uniform(25, 110), hu)
    return np.where(away < min(radius, 6), rng.uniform(150, 600) if kind == "calcium" else 3000, hu)


def distance_to(space, point) -> np.ndarray:
    """Return each voxel's distance in mm from a point (3,) given as `offset`."""
    point = np.float32(point)[:, None, None, None]
    return np.sqrt(np.sum((space["offset"] - point) ** 2, 0))


BRAIN_CENTRE = np.array([0.0, 20.0, 75.0])  # mm from the foramen magnum
DISEASES = ((0.2, subdural), (0.2, epidural), (0.2, lobar), (0.25, spot), (0.08, pneumocephalus),
            (0.07, drain))


# Vessels beside bone: share, share of veins, radius in mm, gap to the inner table in mm.
VESSELS = (
    (0.20, 0.6, (2.0, 4.5), (0.0, 0.5)),  # dural sinuses
    (0.15, 0.5, (0.5, 0.9), (0.0, 0.5)),  # meningeal
    (0.30, 0.3, (1.0, 2.3), (0.0, 1.5)),  # carotid siphon, vertebral, basilar
    (0.35, 0.6, (0.5, 1.6), (1.0, 6.0)),  # cortical
)


def add_vessels(hu, space, contrast, look, rng) -> np.ndarray:
    """Return `hu` with procedural arteries and veins, many of them along the inner table."""
    hu = hu.copy()
    step = look["spacing"]
    inner = space["inner"]
    low = space["along"] > -DRAWN_ABOVE
    seeds = np.argwhere((inner < -1) & (inner > -4) & ~low)
    if len(seeds) == 0:
        return hu
    for kind in rng.choice(len(VESSELS), rng.integers(10, 36), p=[v[0] for v in VESSELS]):
        _, veins, radii, gaps = VESSELS[kind]
        value = rng.uniform(40, 60) + contrast[rng.random() < veins] * rng.uniform(0.8, 1.1)
        radius = rng.uniform(*radii)
        at = seeds[rng.integers(len(seeds))].astype(float)
        path = walk(inner, low, at, radius, -radius - rng.uniform(*gaps), step, rng)
        splat(hu, path, radius / step, value)
    return hu


def walk(inner, stop, at, radius, depth, step, rng, length=90) -> np.ndarray:
    """Return voxels of a winding path along the inner table, `depth` mm (negative) inside it,
    which ends where `stop` begins."""
    way = rng.standard_normal(3)
    limit = np.array(inner.shape) - 2
    path = []
    stride = max(0.6 * radius / step, 0.5)
    for _ in range(int(rng.uniform(0.3, 1) * length / (stride * step))):
        i, j, k = np.clip(at, 1, limit).astype(int)
        if stop[i, j, k]:
            break
        slope = np.array([inner[i + 1, j, k] - inner[i - 1, j, k],
                          inner[i, j + 1, k] - inner[i, j - 1, k],
                          inner[i, j, k + 1] - inner[i, j, k - 1]], np.float64)
        size = np.linalg.norm(slope)
        way = way + 0.25 * rng.standard_normal(3)
        if size > 0.1:
            slope /= size
            way -= slope * (way @ slope)
            at = at + slope * np.clip((depth - inner[i, j, k]) / step, -1, 1)
        way /= np.linalg.norm(way) + 1e-9
        at = at + stride * way
        path.append(at)
    return np.array(path)


def splat(hu, path, radius, value) -> None:
    """Draw balls of `radius` voxels with soft edges along `path` into `hu`, in place."""
    reach = int(np.ceil(radius + 0.5))
    ball = np.arange(-reach, reach + 1)
    for at in path:
        base = np.round(at).astype(int)
        if np.any(base < reach) or np.any(base + reach + 1 > hu.shape):
            continue
        d = [(ball + b - a) ** 2 for a, b in zip(at, base, strict=True)]
        away = np.sqrt(d[0][:, None, None] + d[1][:, None] + d[2])
        share = np.clip(radius + 0.5 - away, 0, 1)
        part = hu[tuple(slice(b - reach, b + reach + 1) for b in base)]
        part += share * np.maximum(value - part, 0)


# ---------------------------------------------------------------- below and around the head


@lru_cache(maxsize=64)
def load_neck(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a real scan's HU (RAS+), voxel size in mm and its brainstem's lowest voxel."""
    ct = nib.as_closest_canonical(nib.load(path))
    stem_path = path.replace("_ct.nii", "_oar.nii")
    stem = np.argwhere(np.asarray(nib.as_closest_canonical(nib.load(stem_path)).dataobj) == 1)
    if len(stem) == 0:
        raise InputError(f"{stem_path} has no brainstem (label 1); leave it out of --necks")
    low = stem[stem[:, 2] <= stem[:, 2].min() + 1].mean(0)
    return ct.get_fdata(dtype=np.float32), np.array(ct.header.get_zooms()[:3]), low


def add_body(hu, space, head: Anatomy, necks, rng) -> np.ndarray:
    """Return `hu` continued below the skull by a real neck, shoulders and chest."""
    files = sorted(str(p) for p in Path(necks).glob("*_ct.nii*"))
    if not files:
        raise InputError(f"no *_ct.nii.gz in {necks}; name another --necks folder")
    ct, zoom, low = load_neck(files[rng.integers(len(files))])
    depth = -space["offset"][2]
    bottom = head.base[2] - 6
    join = min(rng.uniform(8, 60), bottom)
    if depth.max() < join:
        return hu
    rows = np.flatnonzero((depth > join - 6).any((0, 1)))
    part = slice(rows[0], rows[-1] + 1)
    points = space["offset"][..., part] / zoom[:, None, None, None] + low[:, None, None, None]
    body = ndimage.map_coordinates(ct, points, order=1, cval=AIR - 24)
    share = np.clip((depth[..., part] - join) / 6 + 0.5, 0, 1)
    hu = hu.copy()
    hu[..., part] += share * (body - hu[..., part])
    return hu


def add_surroundings(hu, space, look, rng) -> np.ndarray:
    """Return `hu` with a head holder, table, pillow, tubes and metal, each in some scans."""
    shape, step = hu.shape, look["spacing"]
    x, y, z = np.ogrid[tuple(slice(0, n) for n in shape)]
    air = hu < -600
    body = ~air
    rows = np.flatnonzero(body.any((0, 2)))
    if len(rows) == 0:
        return hu
    back, middle = rows[0], shape[0] / 2 + rng.normal(0, 5)
    if rng.random() < 0.4:  # pillow or blanket
        soft = smooth_noise(shape, rng, 12 / step) > rng.uniform(-0.5, 1)
        hu = np.where(air & soft & (y < back + rng.uniform(0, 60) / step),
                      rng.uniform(-980, -700) + 25 * smooth_noise(shape, rng, 3 / step), hu)
    if rng.random() < 0.5:  # head holder: a curved shell behind the head
        radius, wall = rng.uniform(90, 140) / step, rng.uniform(2, 6) / step
        away = np.sqrt((x - middle) ** 2 + (y - back - radius + rng.uniform(2, 12) / step) ** 2)
        shell = (np.abs(away - radius) < wall / 2) & (y < back + radius * rng.uniform(0.2, 0.9))
        hu = np.where(air & shell, rng.uniform(-400, 250), hu)
    if rng.random() < 0.4:  # table
        top = back - rng.uniform(5, 30) / step
        inside = np.abs(y - top) < rng.uniform(8, 30) / step
        skin = inside & ~(np.abs(y - top) < rng.uniform(5, 8) / step)
        hu = np.where(air & inside, -rng.uniform(850, 960), hu)
        hu = np.where(air & skin, rng.uniform(-300, 300), hu)
    hu = hu.astype(np.float32)
    for _ in range(rng.integers(0, 4) if rng.random() < 0.4 else 0):  # tubes, wires
        at = rng.uniform(0, 1, 3) * shape
        way = rng.standard_normal((int(160 / step), 3)).cumsum(0) * 0.15 + rng.standard_normal(3)
        splat(hu, at + 0.5 * way.cumsum(0) * 0.2, rng.uniform(1, 4) / step, rng.uniform(50, 900))
    if not look["plain"] and rng.random() < 0.25:
        hu = add_metal(hu, space, look, rng)
    return hu


def add_metal(hu, space, look, rng) -> np.ndarray:
    """Return `hu` with metal (teeth, a clip, a plate) and its streaks in the axial plane."""
    step = look["spacing"]
    if rng.random() < 0.6:  # dental
        spot = np.array([rng.uniform(-30, 30), rng.uniform(55, 90), rng.uniform(-60, -25)])
    else:
        spot = np.array([rng.uniform(-60, 60), rng.uniform(-40, 60), rng.uniform(10, 100)])
    away = space["offset"] - spot[:, None, None, None].astype(np.float32)
    at = np.unravel_index(np.argmin(np.sum(away**2, 0)), hu.shape)
    x, y, z = np.ogrid[tuple(slice(0, n) for n in hu.shape)]
    x, y, z = ((c - a) * step for c, a in zip((x, y, z), at, strict=True))
    far = np.sqrt(x**2 + y**2)
    rays = np.interp(np.arctan2(y, x), np.linspace(-np.pi, np.pi, 90), rng.standard_normal(90))
    fade = np.exp(-far / rng.uniform(20, 70)) * np.exp(-((z / rng.uniform(3, 9)) ** 2))
    hu = hu + rng.uniform(50, 600) * rays * fade
    return np.where(far**2 + z**2 < rng.uniform(1, 6) ** 2, 3071, hu).astype(np.float32)


# ---------------------------------------------------------------- the scanner


def image(arrays, look, stored, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each of some (X, Y, Z) arrays as a scanner resolves it (its blur, pixels and slices),
    and the height of each slice in voxels of what came in."""
    step, own = look["spacing"], int(rng.integers(2**31))
    seen = []
    for array in arrays:
        array = ndimage.gaussian_filter(array, look["sharpness"] / step)
        if look["pixel"] > 1.2 * step:
            array = coarse_pixels(array, look["pixel"] / step)
        heights = np.arange(array.shape[2], dtype=float)
        slices = look["thickness"] / step
        if slices > 1.2:
            means, middles = thick_slices(array, slices, np.random.default_rng(own))
            if stored:
                array, heights = means, middles
            else:  # as a prediction does it
                array = at_heights(means, np.interp(heights, middles, np.arange(len(middles))))
        seen.append(array.astype(np.float32))
    return seen, heights


def with_noise(hu, look, rng) -> np.ndarray:
    """Return `hu` with a scanner's shading, noise, kernel and clipping."""
    if rng.random() < 0.3:  # beam hardening, cupping
        hu = hu + rng.uniform(1, 8) * smooth_noise(hu.shape, rng, 50 / look["spacing"])
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [rng.uniform(0.3, 1.1)] * 2 + [0.3])
    hu = hu + look["noise"] * grain / grain.std()
    if rng.random() < 0.3:  # a sharp kernel overshoots within a slice
        hu = hu + rng.uniform(0.2, 0.8) * (hu - ndimage.gaussian_filter(hu, (1, 1, 0)))
    if rng.random() < 0.3:  # round reconstruction field
        x, y = (np.arange(n) - (n - 1) / 2 for n in hu.shape[:2])
        hu[x[:, None] ** 2 + y**2 > (min(hu.shape[:2]) / 2) ** 2] = -1024
    return np.clip(hu, -1024, 3071).astype(np.float32)


def coarse_pixels(hu, size) -> np.ndarray:
    """Return `hu` as slices with pixels `size` voxels wide show it, interpolated back."""
    means = ndimage.uniform_filter(hu, (size, size, 0))
    low = ndimage.zoom(means, (1 / size, 1 / size, 1), order=1)
    zoom = np.divide(hu.shape, low.shape)
    return ndimage.zoom(low, zoom, order=1)


def thick_slices(hu, count, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return `hu` averaged over slices `count` voxels thick, and the slices' middles in voxels."""
    depth = hu.shape[2]
    edges = np.arange(rng.uniform(0, count), depth, count)
    if len(edges) < 4:
        return hu, np.arange(depth, dtype=float)
    total = np.concatenate([np.zeros_like(hu[..., :1]), hu.cumsum(2, dtype=np.float64)], 2)
    means = np.diff(at_heights(total, edges), axis=2) / count
    return means, (edges[1:] + edges[:-1]) / 2 - 0.5


def at_heights(array, heights) -> np.ndarray:
    """Return an (X, Y, Z) array's values at `heights` along z (voxels), linear in between."""
    heights = np.clip(heights, 0, array.shape[2] - 1)
    low = np.minimum(heights.astype(int), array.shape[2] - 2)
    share = (heights - low).astype(np.float32)
    return array[..., low] * (1 - share) + array[..., low + 1] * share


# ---------------------------------------------------------------- command line


def preview(path: str | Path, labels=None, necks=None, count: int = 12, seed: int = 0) -> None:
    """Draw a sheet of samples with their masks: three views in each of `count` scans."""
    from data import WINDOW, normalise, stack, write_picture
    from report import montage, overlay

    files = label_files(labels) if labels else [None]
    tiles = []
    for i in range(count):
        made = scan(seed + i, files[i % len(files)], necks)
        for view in ("axial", "coronal", "sagittal"):
            pictures, masks = stack(made.hu, view), stack(made.mask, view)
            best = int(masks.sum((1, 2)).argmax())
            grey = (normalise(np.asarray(pictures[best]), WINDOW) * 255).astype(np.uint8)
            tiles.append(overlay(grey, np.asarray(masks[best])))
    with replacing(path) as temporary:
        write_picture(temporary, montage(tiles, columns=6))


def write_sample(path: str | Path, seed: int = 3) -> Path:
    """Write a CTA of the phantom, its mask as `<name>_mask`; return the mask's path.

    InputError when `path` does not end as a NIfTI file does.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path} is no name of a NIfTI file; let it end in .nii.gz")
    mask_path = path.with_name(path.name.replace(".nii", "_mask.nii"))
    made = scan(seed, plain=True, spacing=0.9, phase="arterial", width=230.0, length=240.0,
                thickness=0.9)
    for array, target in ((np.rint(made.hu).astype(np.int16), path),
                          (made.mask.astype(np.uint8), mask_path)):
        image = nib.Nifti1Image(array, made.affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(made.affine, 1)
        with replacing(target) as temporary:
            nib.save(image, temporary)
    return mask_path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preview", metavar="PNG", help="draw a sheet of samples with their masks")
    add("--sample", metavar="NIFTI", help="write one CTA of the phantom, and its mask beside it")
    add("--download", metavar="DIR", help="fetch SynthSeg's 20 head label maps into DIR")
    add("--tumours", metavar="DIR", help="write MRI cases with brain tumours, as BraTS has them")
    add("--count", type=int, default=12, help="so many cases (default: %(default)s)")
    add("--labels", metavar="DIR", help="head label maps to make samples from; else phantoms")
    add("--necks", metavar="DIR", help="head-and-neck CTs to continue them below the skull")
    add("--seed", type=int, default=0, help="of the first sample (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (args.preview or args.sample or args.download or args.tumours):
        raise InputError("nothing to do; give --preview, --sample, --download or --tumours")
    if args.download:
        from download import fetch_label_maps

        print(f"{args.download}: {len(fetch_label_maps(args.download))} label maps")
    if args.preview:
        preview(args.preview, args.labels, args.necks, seed=args.seed)
        print(args.preview)
    if args.sample:
        print(args.sample, write_sample(args.sample), sep="\n")
    if args.tumours:
        from tumour import write_tumours

        print(*write_tumours(args.tumours, args.count, args.labels, args.seed), sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
