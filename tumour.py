"""Brain tumours in MRI made from label maps, or from nothing at all, with their label volumes.

    python synthetic.py --tumours DIR --count 12 [--labels DIR]

A glioma starts in the white matter and grows faster there than in grey matter, and not at all into
CSF. What has been reached first is the necrotic core, its rim enhances, and oedema spreads around
it along the white matter. T1, T1ce, T2 and FLAIR are rendered as BraTS has them: skull-stripped, on
one grid of 1 mm voxels, each with its own bias field, noise and contrast. Heads come from
synthetic.py.

Growth as a front of such speeds: Swanson et al., Cell Proliferation 33 (2000); Konukoglu et al.,
IEEE TMI 29 (2010). How the parts look in each contrast: Menze et al., IEEE TMI 34 (2015).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from errors import replacing
from synthetic import (
    INDEX,
    label_files,
    load_anatomy,
    phantom,
    pose,
    sample,
    smooth_noise,
)
from volume import largest

CORE, OEDEMA, ENHANCING = 1, 2, 4  # label values, as in BraTS of 2017 to 2021
# Brightness of each tissue, that of white matter on T1 being 1
BRIGHTNESS = {
    "t1": {"white": 1.0, "grey": 0.75, "csf": 0.3, CORE: 0.45, OEDEMA: 0.7, ENHANCING: 0.7},
    "t1ce": {"white": 1.0, "grey": 0.75, "csf": 0.3, CORE: 0.5, OEDEMA: 0.7, ENHANCING: 1.5},
    "t2": {"white": 0.5, "grey": 0.65, "csf": 1.5, CORE: 1.2, OEDEMA: 1.05, ENHANCING: 0.85},
    "flair": {"white": 0.6, "grey": 0.75, "csf": 0.2, CORE: 0.65, OEDEMA: 1.3, ENHANCING: 1.05},
}
SPEED = {"white": 1.0, "grey": 0.4}  # of the front; sqrt of the ratio of diffusion, some 5 or more
FRAME = (240.0, 155.0)  # mm across and from top to bottom, as BraTS' grid


@dataclass(frozen=True)
class Tumour:
    """A synthetic case: contrast -> int16 (X, Y, Z) RAS+, 0 outside the brain, and its labels.

    labels is uint8: 0, and CORE, OEDEMA, ENHANCING; brain bool; affine (4, 4); about says how it
    was made.
    """

    images: dict[str, np.ndarray]
    labels: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    about: dict


def tumour(seed: int, labels: str | Path | None = None, spacing: float = 1.0) -> Tumour:
    """Return one synthetic case, the same for the same arguments.

    `labels` is a head label map (a phantom is used without one), `spacing` the voxels' size in mm.
    InputError when the label map cannot be read.
    """
    rng = np.random.default_rng([seed, 1987])
    head = load_anatomy(str(labels)) if labels else phantom(seed)
    look = {"spacing": spacing, "width": FRAME[0], "length": FRAME[1] + 45, "tilt": 5.0,
            "above": -20.0}  # fmt: skip
    space = sample(head, pose(head, look, rng)[0])
    space, brain = framed(space, skull_strip(space, spacing), round(FRAME[1] / spacing))
    size = {"core": float(rng.uniform(12, 22)), "oedema": float(rng.uniform(8, 22)),
            "rim": float(rng.uniform(2.5, 5))}  # fmt: skip
    found = grow(space, brain, spacing, size, rng)
    tissue = np.where(brain, space["tissue"], INDEX["air"])
    images = {name: render(name, tissue, found, brain, spacing, rng) for name in BRIGHTNESS}
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(brain.shape) - 1) / 2
    return Tumour(images, found, brain, affine, {"source": head.name, "seed": seed} | size)


def framed(space: dict, brain: np.ndarray, count: int) -> tuple[dict, np.ndarray]:
    """Return the `count` slices with the brain in their middle."""
    rows = np.flatnonzero(brain.any((0, 1)))
    low = np.clip((rows[0] + rows[-1] + 1 - count) // 2, 0, brain.shape[2] - count)
    part = slice(low, low + count)
    return {name: array[..., part] for name, array in space.items()}, brain[..., part]


def skull_strip(space: dict, spacing: float) -> np.ndarray:
    """Return what a skull-stripping tool would leave (bool): brain, its ventricles and sulci."""
    solid = np.isin(space["tissue"], [INDEX["grey"], INDEX["white"]]) & (space["inner"] < 0)
    level = ndimage.gaussian_filter(solid.astype(np.float32), 3 / spacing)
    return largest(ndimage.binary_fill_holes((level > 0.3) & (space["inner"] < 0)))


# ---------------------------------------------------------------- growth


def grow(space: dict, brain: np.ndarray, spacing: float, size: dict, rng) -> np.ndarray:
    """Return the label volume (uint8) of a tumour somewhere in the cerebral white matter.

    `size` in mm: the radius of the core with its rim, the rim's thickness, and how far the oedema
    reaches beyond it. The core is wrapped in its rim, and both in the brain.
    """
    speed = speeds(space["tissue"], brain)
    fluid = ndimage.gaussian_filter((brain & (speed == 0)).astype(np.float32), 1.5 / spacing)
    start = seed_voxel(space, brain, spacing, rng)
    ragged = smooth_noise(brain.shape, rng, max(12 / spacing, 1.01))
    ragged += 0.5 * smooth_noise(brain.shape, rng, max(5 / spacing, 1.01))
    ragged -= ragged[tuple(start)]
    axes = [np.arange(n) - at for n, at in zip(brain.shape, start, strict=True)]
    stretch = rng.uniform(0.8, 1.25, 3) / spacing
    x, y, z = (a.astype(np.float32) / s for a, s in zip(axes, stretch, strict=True))
    away = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    # the bulk fills furrows, but no ventricle, and is rounder than what creeps along the fibres
    bulk = away + 1.5 * ragged
    mass = part_at(brain & (fluid < 0.6) & (bulk < size["core"]), start)
    inside = ndimage.binary_erosion(mass)
    necrotic = inside & (bulk + ragged < size["core"] - size["rim"])
    crept = arrival(speed, mass, size["oedema"], spacing)
    spread = (speed > 0) & (crept + 2 * ragged < size["oedema"])
    labels = np.zeros(brain.shape, np.uint8)
    labels[part_at(spread | mass, start)] = OEDEMA
    labels[mass] = ENHANCING
    labels[necrotic] = CORE
    return labels


def speeds(tissue: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return the front's speed in each voxel (float32), 1 in white matter, 0 outside the brain."""
    table = np.zeros(len(INDEX), np.float32)
    for name, value in SPEED.items():
        table[INDEX[name]] = value
    return np.where(brain, table[tissue], 0)


def seed_voxel(space: dict, brain: np.ndarray, spacing: float, rng) -> np.ndarray:
    """Return a voxel (3,) in the cerebral white matter, some way from the brain's surface."""
    step = max(1, round(3 / spacing))
    coarse = (slice(None, None, step),) * 3
    depth = ndimage.distance_transform_edt(np.pad(brain[coarse], 1))[1:-1, 1:-1, 1:-1]
    white = brain[coarse] & (space["tissue"][coarse] == INDEX["white"])
    for mm, above in ((15, 55), (8, 40), (0, -np.inf)):  # a small head may have no better place
        places = white & (depth * step * spacing >= mm) & (space["along"][coarse] < -above)
        if places.any():
            break
    found = np.argwhere(places)
    return found[rng.integers(len(found))] * step


def arrival(speed: np.ndarray, mass: np.ndarray, reach: float, spacing: float) -> np.ndarray:
    """Return when a front that leaves `mass` comes by (float32; mm of white matter crossed).

    Beyond `reach` it is only known to be more. Shortest ways over the 26 neighbours of voxels of
    some 2 mm.
    """
    step, margin = max(1, round(2 / spacing)), int(np.ceil(reach / spacing)) + 2
    box = tuple(slice(max(0, s.start - margin), s.stop + margin)
                for s in ndimage.find_objects(mass.astype(np.uint8))[0])  # fmt: skip
    coarse = (slice(None, None, step),) * 3
    slow = np.pad(1 / np.maximum(speed[box][coarse], 1e-3), 1, constant_values=1e3)
    time = np.pad(np.where(mass[box][coarse], 0, 2 * reach), 1, constant_values=2 * reach)
    inner = (slice(1, -1),) * 3
    for _ in range(int(np.ceil(reach / (step * spacing))) + 1):
        before = time.copy()
        for way in itertools.product((-1, 0, 1), repeat=3):
            there = tuple(slice(1 + w, n - 1 + w) for w, n in zip(way, time.shape, strict=True))
            length = np.linalg.norm(way) * step * spacing
            came = before[there] + length * (slow[there] + slow[inner]) / 2
            np.minimum(time[inner], came, out=time[inner])
    full = np.full(mass.shape, 2 * reach, np.float32)
    shape = full[box].shape
    fine = ndimage.zoom(time[inner], np.divide(shape, time[inner].shape), order=1)
    full[box] = np.where(mass[box], 0, fine)
    return full


def part_at(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the component of a mask that holds the voxel `at`, its holes filled."""
    parts, _ = ndimage.label(mask)
    return ndimage.binary_fill_holes(parts == parts[tuple(at)])


# ---------------------------------------------------------------- the scanner


def render(
    name: str, tissue: np.ndarray, labels: np.ndarray, brain: np.ndarray, spacing: float, rng
) -> np.ndarray:
    """Return one contrast (int16), 0 outside the brain and at least 1 within."""
    level = {part: value * np.exp(rng.normal(0, 0.06)) for part, value in BRIGHTNESS[name].items()}
    table = np.full(len(INDEX), level["csf"], np.float32)  # vessels and membranes, too
    for part in ("white", "grey"):
        table[INDEX[part]] = level[part]
    image = table[np.where(brain, tissue, INDEX["csf"])]
    texture = smooth_noise(brain.shape, rng, max(4 / spacing, 1.01))
    for label, share in ((OEDEMA, 0.8), (ENHANCING, 1.0), (CORE, 1.0)):
        lesion = level[label] * (1 + 0.1 * texture)
        image = np.where(labels == label, share * lesion + (1 - share) * image, image)
    image = ndimage.gaussian_filter(image, 0.7)
    shape = brain.shape
    image *= np.exp(rng.uniform(0.05, 0.15) * smooth_noise(shape, rng, 80 / spacing))
    spread = rng.uniform(0.02, 0.05)
    real, imaginary = (spread * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    image = rng.uniform(200, 900) * np.hypot(image + real, imaginary)
    return np.where(brain, np.maximum(np.rint(image), 1), 0).astype(np.int16)


# ---------------------------------------------------------------- files


def write_tumours(
    folder: str | Path, count: int, labels: str | Path | None = None, seed: int = 0,
    spacing: float = 1.0,
) -> list[Path]:
    """Write `count` cases as BraTS has them, each in a folder; return these.

    tumour_0000/tumour_0000_{t1,t1ce,t2,flair,seg}.nii.gz, voxels stored from left to right and
    front to back. `labels`: a folder of head label maps to grow them in, in turn.
    """
    files = label_files(labels) if labels else [None]
    made = []
    for index in range(count):
        # cases of one map stand together: it is prepared once
        case = tumour(seed + index, files[index * len(files) // count], spacing)
        made.append(Path(folder) / f"tumour_{seed + index:04d}")
        for name, array in {**case.images, "seg": case.labels}.items():
            write(array, case.affine, made[-1] / f"{made[-1].name}_{name}.nii.gz")
    return made


def write(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a RAS+ array as a NIfTI file whose first two axes run to the left and to the back."""
    turned = affine @ np.diag([-1.0, -1, 1, 1])
    turned[:3, 3] = (affine @ [*np.subtract(array.shape[:2], 1), 0, 1])[:3]
    image = nib.Nifti1Image(array[::-1, ::-1], turned)
    image.header.set_xyzt_units("mm")
    image.set_qform(turned, 1)
    with replacing(path) as unfinished:
        nib.save(image, unfinished)
