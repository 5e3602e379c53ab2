"""Below and around a synthetic head: a real neck and chest, a head holder, table, tubes, metal."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.errors import InputError
from scan.hu import AIR
from scan.nib import nib
from synthesis.disease import draw_tube
from synthesis.head import Anatomy
from synthesis.space import Look, Space, smooth_noise

BRIGHTEST = 3071  # HU: the most that 12 bits hold


def add_body(hu: np.ndarray, space: Space, head: Anatomy, necks: str | Path, rng) -> np.ndarray:
    """Continue `hu` below the skull by a real neck, shoulders and chest; return the new HU.

    InputError when the folder `necks` holds no scan.
    """
    files = sorted(str(p) for p in Path(necks).glob("*_ct.nii*"))
    if not files:
        raise InputError(f"no *_ct.nii.gz in {necks}; name another --necks folder")
    ct, zoom, low = read_neck(files[rng.integers(len(files))])
    depth = -space.offset[2]
    join = min(rng.uniform(8, 60), head.base[2] - 6)
    if depth.max() < join:
        return hu
    rows = np.flatnonzero((depth > join - 6).any((0, 1)))
    part = slice(rows[0], rows[-1] + 1)
    points = space.offset[..., part] / zoom[:, None, None, None] + low[:, None, None, None]
    body = ndimage.map_coordinates(ct, points, order=1, cval=AIR)
    share = np.clip((depth[..., part] - join) / 6 + 0.5, 0, 1)
    hu = hu.copy()
    hu[..., part] += share * (body - hu[..., part])
    return hu


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


def add_surroundings(hu: np.ndarray, space: Space, look: Look, rng) -> np.ndarray:
    """Add a head holder, table, pillow, tubes and metal, each to some scans; return the new HU."""
    shape, step = hu.shape, look.spacing
    x, y, _ = np.ogrid[tuple(slice(0, n) for n in shape)]
    air = hu < -600
    rows = np.flatnonzero((~air).any((0, 2)))
    if len(rows) == 0:
        return hu
    back, middle = rows[0], shape[0] / 2 + rng.normal(0, 5)
    if rng.random() < 0.4:  # pillow or blanket
        soft = smooth_noise(shape, rng, 12 / step) > rng.uniform(-0.5, 1)
        where = air & soft & (y < back + rng.uniform(0, 60) / step)
        value = rng.uniform(-980, -700) + 25 * smooth_noise(shape, rng, 3 / step)
        hu = np.where(where, value, hu)
    if rng.random() < 0.5:  # head holder: a curved shell behind the head
        radius, wall = rng.uniform(90, 140) / step, rng.uniform(2, 6) / step
        away = np.sqrt((x - middle) ** 2 + (y - back - radius + rng.uniform(2, 12) / step) ** 2)
        shell = (np.abs(away - radius) < wall / 2) & (y < back + radius * rng.uniform(0.2, 0.9))
        hu = np.where(air & shell, rng.uniform(-400, 250), hu)
    if rng.random() < 0.4:  # table
        top = back - rng.uniform(5, 30) / step
        table = np.abs(y - top) < rng.uniform(8, 30) / step
        skin = table & ~(np.abs(y - top) < rng.uniform(5, 8) / step)
        hu = np.where(air & table, -rng.uniform(850, 960), hu)
        hu = np.where(air & skin, rng.uniform(-300, 300), hu)
    hu = hu.astype(np.float32)
    for _ in range(rng.integers(0, 4) if rng.random() < 0.4 else 0):  # tubes, wires
        at = rng.uniform(0, 1, 3) * shape
        way = rng.standard_normal((int(160 / step), 3)).cumsum(0) * 0.15 + rng.standard_normal(3)
        path = at + 0.5 * way.cumsum(0) * 0.2
        draw_tube(hu, path, rng.uniform(1, 4) / step, rng.uniform(50, 900))
    if not look.plain and rng.random() < 0.25:
        hu = add_metal(hu, space, rng)
    return hu


def add_metal(hu: np.ndarray, space: Space, rng) -> np.ndarray:
    """Add metal (teeth, a clip, a plate) and its streaks in the axial plane; return the new HU."""
    if rng.random() < 0.6:  # dental
        spot = np.array([rng.uniform(-30, 30), rng.uniform(55, 90), rng.uniform(-60, -25)])
    else:
        spot = np.array([rng.uniform(-60, 60), rng.uniform(-40, 60), rng.uniform(10, 100)])
    at = np.unravel_index(np.argmin(space.squared_distance(spot)), hu.shape)
    x, y, z = np.ogrid[tuple(slice(0, n) for n in hu.shape)]
    x, y, z = ((c - a) * space.spacing for c, a in zip((x, y, z), at, strict=True))
    far = np.sqrt(x**2 + y**2)
    rays = np.interp(np.arctan2(y, x), np.linspace(-np.pi, np.pi, 90), rng.standard_normal(90))
    fade = np.exp(-far / rng.uniform(20, 70)) * np.exp(-((z / rng.uniform(3, 9)) ** 2))
    hu = hu + rng.uniform(50, 600) * rays * fade
    return np.where(far**2 + z**2 < rng.uniform(1, 6) ** 2, BRIGHTEST, hu).astype(np.float32)
