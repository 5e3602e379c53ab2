"""Disease in a synthetic head, and the vessels that no label map has.

Each disease is a function of `hu` (X, Y, Z), its `space`, a `ripple` (smooth noise that makes
edges uneven) and a random generator. It returns the new HU.
"""

import numpy as np

from synthesis.head import AIR_HU
from synthesis.space import Look, Space, smooth_noise

BRAIN_CENTRE = np.array([0.0, 20.0, 75.0])  # mm from the foramen magnum, by eye


def add_disease(hu: np.ndarray, space: Space, look: Look, rng) -> np.ndarray:
    """Add up to three diseases to some scans, and none to plain ones; return the HU."""
    if look.plain or rng.random() < 0.4:
        return hu
    ripple = smooth_noise(hu.shape, rng, 14 / look.spacing)
    for kind in rng.choice(len(DISEASES), rng.integers(1, 4), p=[d[0] for d in DISEASES]):
        hu = DISEASES[kind][1](hu, space, ripple, rng)
    return hu


def draw_blood(rng) -> float:
    """Draw the HU of blood, mostly fresh."""
    return rng.uniform(50, 100) if rng.random() < 0.75 else rng.uniform(10, 50)


def subdural(hu, space: Space, ripple, rng) -> np.ndarray:
    """Blood in a crescent along one side of the inner table."""
    depth = rng.uniform(2, 7) if rng.random() < 0.5 else rng.uniform(7, 20)
    beside = rng.choice([-1, 1]) * space.offset[0] - rng.uniform(-5, 30)
    depth = depth * np.clip(beside / 25, 0, 1) * np.clip(1 + 0.5 * ripple, 0, 2)
    return np.where(space.inner > -depth, draw_blood(rng) + 4 * ripple, hu)


def epidural(hu, space: Space, ripple, rng, value=None, front=False) -> np.ndarray:
    """A lens of blood, or of another `value` in HU, between brain and skull."""
    spots = np.flatnonzero((space.inner < 0) & (space.inner > -2) & (space.along < -15))
    if len(spots) == 0:
        return hu
    spots = space.offset.reshape(3, -1)[:, rng.choice(spots, 20)].T
    at = spots[spots[:, 1].argmax()] if front else spots[0]
    out = at - BRAIN_CENTRE
    depth, width = rng.uniform(4, 28), rng.uniform(12, 45)
    depth = min(depth, width)
    radius = (width**2 + depth**2) / (2 * depth)  # of the ball whose cap is the lens
    centre = at + out / np.linalg.norm(out) * (radius - depth)
    lens = np.sqrt(space.squared_distance(centre)) < radius + 1.5 * ripple
    return np.where(lens, draw_blood(rng) + 4 * ripple if value is None else value, hu)


def lobar(hu, space: Space, ripple, rng) -> np.ndarray:
    """Blood in the brain that reaches the skull or comes close."""
    return add_lesion(hu, space, ripple, rng, "blood", (-0.8, 0.2))


def pneumocephalus(hu, space: Space, ripple, rng) -> np.ndarray:
    """Air beneath the skull, mostly in front."""
    return epidural(hu, space, ripple, rng, AIR_HU, front=rng.random() < 0.7)


def drain(hu, space: Space, ripple, rng) -> np.ndarray:
    """A tube from the skull into the brain."""
    inner, high = space.inner, space.along < -30
    near, deep = (np.argwhere((inner > a) & (inner < b) & high) for a, b in ((-2, 0), (-99, -4)))
    if len(near) and len(deep):
        ends = near[rng.integers(len(near))], deep[rng.integers(len(deep))]
        radius, hu = rng.uniform(0.8, 2) / space.spacing, hu.copy()
        draw_tube(hu, np.linspace(*ends, 200), radius, rng.uniform(80, 1200))
    return hu


def deep_lesion(hu, space: Space, ripple, rng) -> np.ndarray:
    """One lesion deep in the brain."""
    kinds = {"blood": 0.25, "infarct": 0.3, "tumour": 0.25, "calcium": 0.1, "coil": 0.1}
    kind = rng.choice(list(kinds), p=list(kinds.values()))
    return add_lesion(hu, space, ripple, rng, kind, (-9, -0.2))


def add_lesion(hu, space: Space, ripple, rng, kind: str, depths: tuple) -> np.ndarray:
    """Add a ball of a `kind`; return the new HU.

    Its centre lies within `depths` of the inner table, in multiples of its radius.
    """
    radius = rng.uniform(5, 30)
    low, high = np.multiply(depths, radius)
    centres = np.flatnonzero((space.inner < high) & (space.inner > low) & (space.along < -10))
    if len(centres) == 0:
        return hu
    centre = space.offset.reshape(3, -1)[:, rng.choice(centres)]
    away = np.sqrt(space.squared_distance(centre))
    lesion = away + 3 * ripple < radius
    if kind == "infarct":
        return np.where(lesion, 0.5 * hu + rng.uniform(5, 12), hu)
    if kind in ("blood", "tumour"):
        oedema = away + 5 * ripple < radius + rng.uniform(0, 15)
        hu = np.where(oedema, hu - rng.uniform(4, 12), hu)
        return np.where(lesion, draw_blood(rng) if kind == "blood" else rng.uniform(25, 110), hu)
    return np.where(away < min(radius, 6), rng.uniform(150, 600) if kind == "calcium" else 3000, hu)


DISEASES = (  # share (round numbers), and what adds it
    *((0.2, subdural), (0.2, epidural), (0.2, lobar)),
    *((0.25, deep_lesion), (0.08, pneumocephalus), (0.07, drain)),
)


# ---------------------------------------------------------------- vessels

DRAWN_ABOVE = 8.0  # mm above the foramen: drawn vessels end there, not to run along the cut
# Vessels beside bone, by eye: share, share of veins, radius and gap to the inner table in mm
VESSELS = (
    (0.20, 0.6, (2.0, 4.5), (0.0, 0.5)),  # dural sinuses
    (0.15, 0.5, (0.5, 0.9), (0.0, 0.5)),  # meningeal
    (0.30, 0.3, (1.0, 2.3), (0.0, 1.5)),  # carotid siphon, vertebral, basilar
    (0.35, 0.6, (0.5, 1.6), (1.0, 6.0)),  # cortical
)


def add_vessels(hu: np.ndarray, space: Space, contrast, rng) -> np.ndarray:
    """Add procedural arteries and veins, many of them along the inner table; return the new HU.

    `contrast` is by how many HU arteries and veins are brighter than without any.
    """
    hu = hu.copy()
    inner, low = space.inner, space.along > -DRAWN_ABOVE
    seeds = np.argwhere((inner < -1) & (inner > -4) & ~low)
    if len(seeds) == 0:
        return hu
    for kind in rng.choice(len(VESSELS), rng.integers(10, 36), p=[v[0] for v in VESSELS]):
        _, veins, radii, gaps = VESSELS[kind]
        value = rng.uniform(40, 60) + contrast[rng.random() < veins] * rng.uniform(0.8, 1.1)
        radius = rng.uniform(*radii)
        at = seeds[rng.integers(len(seeds))].astype(float)
        path = walk(space, low, at, radius, -radius - rng.uniform(*gaps), rng)
        draw_tube(hu, path, radius / space.spacing, value)
    return hu


def walk(space: Space, stop: np.ndarray, at: np.ndarray, radius, depth, rng) -> np.ndarray:
    """Voxels (N, 3) of a winding path of up to 90 mm along the inner table.

    It begins at the voxel `at`, keeps `depth` mm (negative) inside the table and ends where `stop`
    (X, Y, Z) is true.
    """
    inner, step, length = space.inner, space.spacing, 90
    way = rng.standard_normal(3)
    limit = np.array(inner.shape) - 2
    path = []
    stride = max(0.6 * radius / step, 0.5)
    for _ in range(int(rng.uniform(0.3, 1) * length / (stride * step))):
        i, j, k = np.clip(at, 1, limit).astype(int)
        if stop[i, j, k]:
            break
        ends = inner[i - 1 : i + 2, j, k], inner[i, j - 1 : j + 2, k], inner[i, j, k - 1 : k + 2]
        slope = np.array([line[2] - line[0] for line in ends], np.float64)
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


def draw_tube(hu: np.ndarray, path: np.ndarray, radius: float, value: float) -> None:
    """Draw balls of `radius` voxels with soft edges along `path` (N, 3) into `hu`, in place."""
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
