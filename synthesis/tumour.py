"""Brain tumours in MRI made from label maps, or from nothing at all, with their label volumes.

A glioma starts in the white matter. It grows faster there than in grey matter, and not at all into
CSF. The oldest part is the necrotic core, its rim enhances, and oedema spreads around it along the
white matter. T1, T1ce, T2 and FLAIR are rendered as BraTS has them: skull-stripped, on one grid of
1 mm voxels, each with its own bias field, noise and contrast.

Growth as a front of such speeds: Swanson et al., Cell Proliferation 33 (2000); Konukoglu et al.,
IEEE TMI 29 (2010). How the parts look in each contrast: Menze et al., IEEE TMI 34 (2015).
"""

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from scan.mask import keep_largest
from synthesis.head import INDEX, find_label_maps, is_any, load_head, write_volume
from synthesis.space import Look, Space, pose_head, smooth_noise

CORE_VALUE, OEDEMA_VALUE, RIM_VALUE = 1, 2, 4  # label values, as in BraTS of 2017 to 2021
# Brightness on each contrast, relative to white matter on T1: (white, grey, csf, core, oedema, rim)
BRIGHTNESS = {
    "t1": (1.0, 0.75, 0.3, 0.45, 0.7, 0.7),
    "t1ce": (1.0, 0.75, 0.3, 0.5, 0.7, 1.5),
    "t2": (0.5, 0.65, 1.5, 1.2, 1.05, 0.85),
    "flair": (0.6, 0.75, 0.2, 0.65, 1.3, 1.05),
}
# Speed of the front; its square is the ratio of diffusion, in white matter some 5 or more
SPEED = {"white": 1.0, "grey": 0.4}
BRATS_FRAME = (240.0, 155.0)  # mm across and from top to bottom, as BraTS' grid


@dataclass(frozen=True)
class TumourSize:
    """How far the parts of a tumour reach, mm."""

    core: float  # radius of the core with its rim
    oedema: float  # reach beyond that
    rim: float  # thickness


@dataclass(frozen=True)
class Tumour:
    """A synthetic case, (X, Y, Z) RAS+."""

    images: dict[str, np.ndarray]  # int16 of each contrast, 0 outside the brain
    labels: np.ndarray  # uint8: 0, CORE_VALUE, OEDEMA_VALUE, RIM_VALUE
    brain: np.ndarray  # bool
    affine: np.ndarray  # (4, 4)
    about: dict  # how the case was made


def make_tumour(seed: int, label_map: str | Path | None = None, spacing: float = 1.0) -> Tumour:
    """Make one synthetic case, the same for the same arguments.

    `label_map` is a head's (a phantom is used without one), `spacing` the voxels' size in mm.
    InputError when the label map cannot be read.
    """
    rng = np.random.default_rng([seed, 1987])
    head = load_head(label_map, seed)
    width, height = BRATS_FRAME
    space = pose_head(head, Look(spacing, width, height + 45, tilt=5.0, above=-20.0), rng)
    space, brain = crop_to_frame(space, strip_skull(space), round(height / spacing))
    size = TumourSize(*rng.uniform((12, 8, 2.5), (22, 22, 5)).tolist())
    found = grow_tumour(space, brain, size, rng)
    images = {name: render(name, space, found, brain, rng) for name in BRIGHTNESS}
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(brain.shape) - 1) / 2
    return Tumour(images, found, brain, affine, {"source": head.name, "seed": seed} | asdict(size))


def crop_to_frame(space: Space, brain: np.ndarray, count: int) -> tuple[Space, np.ndarray]:
    """The `count` slices that have the brain in their middle."""
    rows = np.flatnonzero(brain.any((0, 1)))
    low = np.clip((rows[0] + rows[-1] + 1 - count) // 2, 0, brain.shape[2] - count)
    part = slice(low, low + count)
    return space.slab(part), brain[..., part]


def strip_skull(space: Space) -> np.ndarray:
    """What a skull-stripping tool would leave (bool): the brain, its ventricles and sulci."""
    cavity = space.inner < 0
    solid = is_any(space.tissue, "grey", "white") & cavity
    level = ndimage.gaussian_filter(solid.astype(np.float32), 3 / space.spacing)
    return keep_largest(ndimage.binary_fill_holes((level > 0.3) & cavity))


# ---------------------------------------------------------------- growth


def grow_tumour(space: Space, brain: np.ndarray, size: TumourSize, rng) -> np.ndarray:
    """Grow a tumour somewhere in the cerebral white matter; return its labels (uint8).

    The core is wrapped in its rim, and both in the brain.
    """
    spacing, speed = space.spacing, front_speed(space.tissue, brain)
    fluid = ndimage.gaussian_filter((brain & (speed == 0)).astype(np.float32), 1.5 / spacing)
    start = draw_start(space, brain, rng)
    ragged = smooth_noise(brain.shape, rng, max(12 / spacing, 1.01))
    ragged += 0.5 * smooth_noise(brain.shape, rng, max(5 / spacing, 1.01))
    ragged -= ragged[tuple(start)]
    axes = [np.arange(n) - at for n, at in zip(brain.shape, start, strict=True)]
    stretch = rng.uniform(0.8, 1.25, 3) / spacing
    x, y, z = (a.astype(np.float32) / s for a, s in zip(axes, stretch, strict=True))
    away = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    # the bulk fills furrows, but no ventricle, and is rounder than what creeps along the fibres
    bulk = away + 1.5 * ragged
    mass = part_at(brain & (fluid < 0.6) & (bulk < size.core), start)
    necrotic = ndimage.binary_erosion(mass) & (bulk + ragged < size.core - size.rim)
    crept = arrival_time(speed, mass, size.oedema, spacing)
    spread = (speed > 0) & (crept + 2 * ragged < size.oedema)
    labels = np.zeros(brain.shape, np.uint8)
    labels[part_at(spread | mass, start)] = OEDEMA_VALUE
    labels[mass] = RIM_VALUE
    labels[necrotic] = CORE_VALUE
    return labels


def front_speed(tissue: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The front's speed in each voxel (float32), 1 in white matter, 0 outside the brain."""
    table = np.array([SPEED.get(name, 0) for name in INDEX], np.float32)
    return np.where(brain, table[tissue], 0)


def draw_start(space: Space, brain: np.ndarray, rng) -> np.ndarray:
    """Draw a voxel (3,) in the cerebral white matter, some way from the brain's surface."""
    step = max(1, round(3 / space.spacing))
    coarse = (slice(None, None, step),) * 3
    depth = ndimage.distance_transform_edt(np.pad(brain[coarse], 1))[1:-1, 1:-1, 1:-1]
    depth_mm, along = depth * step * space.spacing, space.along[coarse]
    white = brain[coarse] & (space.tissue[coarse] == INDEX["white"])
    for mm, above in ((15, 55), (8, 40), (0, -np.inf)):  # a small head may have no better place
        places = white & (depth_mm >= mm) & (along < -above)
        if places.any():
            break
    found = np.argwhere(places)
    return found[rng.integers(len(found))] * step


def arrival_time(speed: np.ndarray, mass: np.ndarray, reach: float, spacing: float) -> np.ndarray:
    """When a front that leaves `mass` (bool) arrives (float32; mm of white matter crossed).

    Beyond `reach` it is only known to be more. The front takes the shortest ways over the 26
    neighbours of voxels of some 2 mm.
    """
    step, margin = max(1, round(2 / spacing)), int(np.ceil(reach / spacing)) + 2
    ends = ndimage.find_objects(mass.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in ends)
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
    zoom = np.divide(full[box].shape, time[inner].shape)
    full[box] = np.where(mass[box], 0, ndimage.zoom(time[inner], zoom, order=1))
    return full


def part_at(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The component of a mask that holds the voxel `at`, its holes filled."""
    parts, _ = ndimage.label(mask)
    return ndimage.binary_fill_holes(parts == parts[tuple(at)])


# ---------------------------------------------------------------- the scanner


def render(name: str, space: Space, labels: np.ndarray, brain: np.ndarray, rng) -> np.ndarray:
    """One contrast (X, Y, Z) int16, 0 outside the brain and at least 1 within."""
    shape, spacing = brain.shape, space.spacing
    level = [value * np.exp(rng.normal(0, 0.06)) for value in BRIGHTNESS[name]]
    white, grey, csf, core, oedema, rim = level
    known = {"white": white, "grey": grey}  # all else, vessels and membranes too, is as CSF
    table = np.array([known.get(name, csf) for name in INDEX], np.float32)
    image = table[np.where(brain, space.tissue, INDEX["csf"])]
    texture = smooth_noise(shape, rng, max(4 / spacing, 1.01))
    parts = ((OEDEMA_VALUE, oedema, 0.8), (RIM_VALUE, rim, 1.0), (CORE_VALUE, core, 1.0))
    for label, value, share in parts:
        lesion = value * (1 + 0.1 * texture)
        image = np.where(labels == label, share * lesion + (1 - share) * image, image)
    image = ndimage.gaussian_filter(image, 0.7)
    image *= np.exp(rng.uniform(0.05, 0.15) * smooth_noise(shape, rng, 80 / spacing))
    spread = rng.uniform(0.02, 0.05)
    real, imaginary = (spread * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    image = rng.uniform(200, 900) * np.hypot(image + real, imaginary)
    return np.where(brain, np.maximum(np.rint(image), 1), 0).astype(np.int16)


# ---------------------------------------------------------------- files


class Layout(NamedTuple):
    """How a year of BraTS names its files.

    cases: patterns of the folders by number, in turn; joint: between a case's name and a modality's
    in `names` (flair, t1, t1ce, t2, seg in a file's name); rim: the label value of the rim.
    """

    cases: tuple[str, ...]
    ending: str = ".nii.gz"
    joint: str = "_"
    names: dict[str, str] = {}
    rim: int = RIM_VALUE


LAYOUTS = {
    "plain": Layout(("tumour_{:04d}",)),
    "2018": Layout(("HGG/Brats18_TCIA08_{:03d}_1", "LGG/Brats18_TCIA09_{:03d}_1")),
    "2020": Layout(("BraTS20_Training_{:03d}",), ".nii"),
    "2021": Layout(("BraTS2021_{:05d}",)),
    "2023": Layout(
        ("BraTS-GLI-{:05d}-000",),
        joint="-",
        names={"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"},
        rim=3,
    ),
}
# The label volume of this case of 2020 has a name of its own; the last case stands for it
ODD_NUMBER, ODD_NAME = 355, "W39_1998.09.19_Segm"


def write_tumours(
    folder: str | Path,
    count: int,
    label_maps: str | Path | None = None,
    seed=0,
    layout: str = "plain",
    spacing=1.0,
) -> list[Path]:
    """Write `count` cases as a year of BraTS has them (see LAYOUTS); return their folders.

    The tumours grow in the head label maps of the folder `label_maps`, in turn.
    InputError when that holds none, or when a case cannot be written.
    """
    files, named = find_label_maps(label_maps), LAYOUTS[layout]
    numbers = [seed + index for index in range(count)]
    if layout == "2020":  # from 1; the odd one comes last
        numbers = [n + 1 + (n + 1 >= ODD_NUMBER) for n in numbers[:-1]] + [ODD_NUMBER]
    patterns = itertools.cycle(named.cases)
    made = [Path(folder) / next(patterns).format(number) for number in numbers]
    for index, case in enumerate(made):
        # cases of one map stand together: it is prepared once
        tumour = make_tumour(seed + index, files[index * len(files) // count], spacing)
        write_case(tumour, case, named)
    return made


def write_case(case: Tumour, folder: Path, layout: Layout) -> None:
    """Write a case's modalities and labels, voxels from left to right, front to back."""
    turned = case.affine @ np.diag([-1.0, -1, 1, 1])
    turned[:3, 3] = (case.affine @ [*np.subtract(case.labels.shape[:2], 1), 0, 1])[:3]
    labels = np.where(case.labels == RIM_VALUE, np.uint8(layout.rim), case.labels)
    for kind, array in {**case.images, "seg": labels}.items():
        name = f"{folder.name}{layout.joint}{layout.names.get(kind, kind)}"
        if kind == "seg" and folder.name == LAYOUTS["2020"].cases[0].format(ODD_NUMBER):
            name = ODD_NAME
        write_volume(array[::-1, ::-1], turned, folder / f"{name}{layout.ending}")
