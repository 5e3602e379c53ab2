"""Head CT and CTA scans made from label maps, or from nothing at all, with their brain masks.

Every scan turns, scales and bends a head anew, gives each tissue a HU value from published ranges,
adds vessels, disease, surgery and what lies around a head, and shows the result as a CT scanner
would. The mask ends where people end it: at the last voxel that shows no bone, thick slices
included. The idea of training on nothing but such images: Billot et al., SynthSeg, Medical Image
Analysis 86 (2023).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from scan.hu import AIR
from scan.mask import keep_largest
from synthesis.disease import add_disease, add_vessels
from synthesis.head import AIR_HU, BRAIN_TISSUES, INDEX, TISSUES, is_any, load_head, write_volume
from synthesis.space import Look, Space, pose_head, smooth_noise
from synthesis.surroundings import BRIGHTEST, add_body, add_surroundings

FINEST = 1.25  # mm: finer than the network's 1.5 mm, near the label maps' 1 mm
# A voxel that is more than this share bone, as the scanner shows it, is out of the mask: it looks
# like bone in a brain window. People who draw on real CT end there.
BONE_SHARE = 0.1
HYPERDENSE_HU = 80.0  # a round number, twice grey matter's: contrast, blood, lime, metal are above


@dataclass(frozen=True)
class Scan:
    """A synthetic scan, (X, Y, Z) RAS+."""

    hu: np.ndarray  # float32
    mask: np.ndarray  # bool
    vessels: np.ndarray  # bool, within the mask
    hyperdense: np.ndarray  # bool: the part of the mask that is bright without any bone
    affine: np.ndarray  # (4, 4)
    about: dict  # how the scan was made

    @property
    def labels(self) -> np.ndarray:
        """(X, Y, Z) uint8: 1 in the mask, 2 where that is hyperdense."""
        return self.mask + self.hyperdense.astype(np.uint8)


def make_scan(seed: int, label_map=None, necks=None, plain=False, stored=False, **wanted) -> Scan:
    """Make one synthetic scan, the same for the same arguments.

    `label_map` is the file of a head's, None for a phantom; `necks` a folder of real head-and-neck
    CTs with `_oar` labels (1 brainstem) that continue the body below the skull, or None. `plain`
    leaves out disease, surgery, metal and odd poses. `stored` gives the slices as a scanner stores
    them, one per thickness; otherwise they are interpolated to cubes. `wanted` replaces what
    `draw_look` would draw: spacing=0.6, phase="arterial", thickness=5.0 and so on.
    InputError when the label map cannot be read.
    """
    rng = np.random.default_rng([seed, 2026])
    head = load_head(label_map, seed)
    look = replace(draw_look(rng, plain, necks is not None), **wanted)
    space = pose_head(head, look, rng)
    hu, share, content, vessels = paint_tissues(space, look, rng)
    if necks:
        hu = add_body(hu, space, head, necks, rng)
    hu = add_surroundings(hu, space, look, rng)
    (hu, share, content), heights = scan_arrays((hu, share, content), look, stored, rng)
    mask = keep_largest(share > 1 - BONE_SHARE)
    vessels = vessels[..., np.rint(heights).astype(int)] & mask
    affine = np.diag([*look.spacing * np.array([1, 1, heights[1] - heights[0]]), 1])
    affine[2, 3] = look.spacing * heights[0]
    about = {"source": head.name, "seed": seed} | asdict(look)
    bright = mask & (content > HYPERDENSE_HU)
    return Scan(add_scanner_noise(hu, look, rng), mask, vessels, bright, affine, about)


def write_pair(made: Scan, path: Path) -> Path:
    """Write a scan as NIfTI, HU in whole numbers, after its mask as `<name>_mask`, whose path is
    returned."""
    mask_path = path.with_name(path.name.replace(".nii", "_mask.nii"))
    write_volume(made.mask.astype(np.uint8), made.affine, mask_path)
    write_volume(np.rint(made.hu).astype(np.int16), made.affine, path)
    return mask_path


def draw_look(rng, plain: bool, body: bool) -> Look:
    """Draw what a scan looks like; `body` is whether a real neck and chest can go on below."""
    phase = rng.choice(["none", "arterial", "venous"], p=[0.25, 0.5, 0.25])
    reach = rng.choice(3, p=[0.45, 0.3, 0.25] if body else [0.6, 0.4, 0])  # head, neck, chest
    width = rng.uniform((185, 190, 260), (270, 320, 450))[reach]
    length = rng.uniform((100, 200, 280), (200, 300, 440))[reach]
    tilt = rng.choice([8, 25, 180], p=[0.55, 0.3, 0.15])
    sharp = rng.uniform(0.35, 0.75) if plain or rng.random() < 0.85 else rng.uniform(0.75, 2.2)
    coarse = not plain and rng.random() < 0.15
    draw = 0 if plain else rng.random()
    # mm above the vertex; some begin below it, and a few deep in the skull base, as of a neck
    above = rng.uniform(*((4, 25) if draw < 0.7 else (-45, 4) if draw < 0.9 else (-110, -45)))
    return Look(
        spacing=float(max(FINEST, width / 200, length / 240)),
        width=float(width),
        length=float(length),
        phase=str(phase),
        tilt=5.0 if plain else float(tilt),
        plain=plain,
        above=float(above),
        thickness=float(rng.choice([rng.uniform(0.5, 1.5), rng.uniform(1.5, 6)])),
        sharpness=float(sharp),
        noise=float(np.exp(rng.normal(1.6, 0.6))),
        pixel=float(rng.uniform(1.5, 4.2)) if coarse else 0.0,
    )


def paint_tissues(space: Space, look: Look, rng) -> tuple[np.ndarray, ...]:
    """Give every voxel its tissue's HU, with disease, vessels and bone.

    Returns four (X, Y, Z): the HU; the share of each voxel that lies in the skull (float32); the HU
    of that part; where vessels are (bool).
    """
    shape, step = space.tissue.shape, look.spacing
    level = {name: rng.normal(kind.mean, kind.spread) for name, kind in TISSUES.items()}
    drawn = rng.uniform((180, 0, 60, 100), (480, 220, 200, 260)).tolist()
    # HU that contrast adds to arteries and veins
    contrast = {"none": (0, 0), "arterial": drawn[:2], "venous": drawn[2:]}[look.phase]
    level["artery"] += contrast[0]
    level["vein"] += contrast[1]
    level["white"] = min(level["white"], level["grey"] - 4)
    tissue = space.tissue.copy()
    soft = tissue == INDEX["muscle"]
    tissue[soft & (smooth_noise(shape, rng, 9 / step) > rng.normal(0.3, 0.5))] = INDEX["fat"]
    orbit = tissue == INDEX["orbit"]
    tissue[orbit & (smooth_noise(shape, rng, 4 / step) > rng.normal(1, 0.5))] = INDEX["muscle"]
    if not look.plain and rng.random() < 0.15:  # filled with fluid or blood
        level["sinus"] = rng.uniform(0, 60)
    texture = np.array([kind.texture for kind in TISSUES.values()], np.float32)
    grain = smooth_noise(shape, rng, 4 / step) + smooth_noise(shape, rng, max(2 / step, 1.01))
    hu = tissue_hu(tissue, level) + texture[tissue] * grain
    brain = is_any(tissue, *BRAIN_TISSUES)
    bloodless = add_disease(np.where(brain, hu, rng.uniform(10, 40)), space, look, rng)
    within = add_vessels(bloodless, space, contrast, rng)
    blood = is_any(tissue, "artery", "vein")
    vessels = blood | (within > bloodless + 20)
    bone = make_bone(space, level, grain, look, rng)
    opened = np.isnan(bone) & is_any(tissue, "cortical", "cancellous")  # scalp takes its place
    beyond = np.where(opened, level["muscle"] + 6 * grain, np.where(np.isnan(bone), hu, bone))
    # what the smooth cavity leaves out becomes dura; blood flows on, the cord and its CSF too
    dura = brain & ~blood & (space.inner > 0) & (space.along < 0) & np.isnan(bone)
    beyond = np.where(dura, level["muscle"], beyond)
    share = np.clip(0.5 - space.inner / step, 0, 1)  # of a voxel that lies in the cavity
    return share * within + (1 - share) * beyond, share, within, vessels


def make_bone(space: Space, level: dict[str, float], grain, look: Look, rng) -> np.ndarray:
    """HU (X, Y, Z) float32 of bone, NaN where there is none.

    `level` is this scan's HU of each tissue, `grain` a noise (X, Y, Z).
    """
    shape, step, inner, tissue = grain.shape, space.spacing, space.inner, space.tissue
    outer = space.outer + rng.uniform(-1.2, 1.0)
    shell = rng.uniform(0.8, 1.6) + 0.5 * smooth_noise(shape, rng, 20 / step)
    canal = (np.abs(space.along) < 14) & (space.squared_distance((0, 0, 0)) < 20**2)
    solid = is_any(tissue, "cortical", "cancellous")
    in_foramen = (tissue == INDEX["vein"]) & (inner > 1.5)  # mm: nearer, a vein is a sinus
    vault = (outer < 0) & ~is_any(tissue, "air", "sinus", "mucosa") & ~in_foramen
    bone = (solid | vault | ((inner < shell) & ~canal)) & (inner > -step)
    if not look.plain:
        bone &= ~make_openings(space, rng, look.surgery)
    table = rng.uniform(0.9, 2.2)
    depth = np.minimum(inner, -outer)
    dense = np.clip((table - depth) / step + 0.5, 0, 1)
    hu = dense * (level["cortical"] + 90 * grain) + (1 - dense) * (level["cancellous"] + 80 * grain)
    hu = np.where(solid & (depth < -1), tissue_hu(tissue, level), hu)
    if not look.plain and rng.random() < 0.5:  # air cells in the skull base
        cells = smooth_noise(shape, rng, rng.uniform(2, 6) / step) > rng.uniform(0.2, 1.2)
        hu = np.where(cells & (inner > rng.uniform(1, 3)) & (space.along > -55), AIR_HU, hu)
    return np.where(bone, hu, np.nan).astype(np.float32)


def tissue_hu(tissue: np.ndarray, level: dict[str, float]) -> np.ndarray:
    """Each voxel's HU (float32) by its tissue (an index)."""
    return np.array([level[name] for name in TISSUES], np.float32)[tissue]


def make_openings(space: Space, rng, surgery: str = "some") -> np.ndarray:
    """Where a craniectomy or burr holes take the bone away (X, Y, Z) bool.

    They do in a few scans of "some" `surgery`, in none, or in all as "large" as a craniectomy.
    """
    hole = np.zeros(space.inner.shape, bool)
    draw = {"none": 1.0, "large": 0.0}.get(surgery, rng.random())
    if draw > 0.15:
        return hole
    large = draw < 0.07
    radius = rng.uniform(28, 55) if large else rng.uniform(5, 9)  # mm
    for _ in range(1 if large else rng.integers(1, 4)):
        way = rng.standard_normal(3) * (1, 1, 0.6) + (0, 0, 0.6)
        spot = np.array([0, 20, 75]) + 80 * way / np.linalg.norm(way)
        hole |= space.squared_distance(spot) < radius**2
    return hole


# ---------------------------------------------------------------- the scanner


def scan_arrays(arrays, look: Look, stored: bool, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """Show (X, Y, Z) arrays as a scanner resolves them: its blur, pixels and slices.

    Returns them as float32, and the height of each slice in voxels of what came in. `stored` is as
    in `ct.make_scan`.
    """
    step, own = look.spacing, int(rng.integers(2**31))
    seen = []
    for array in arrays:
        array = ndimage.gaussian_filter(array, look.sharpness / step)
        if look.pixel > 1.2 * step:
            array = coarse_pixels(array, look.pixel / step)
        heights = np.arange(array.shape[2], dtype=float)
        slices = look.thickness / step
        if slices > 1.2:
            means, middles = thick_slices(array, slices, np.random.default_rng(own))
            if stored:
                array, heights = means, middles
            else:  # as a prediction interpolates them
                array = at_heights(means, np.interp(heights, middles, np.arange(len(middles))))
        seen.append(array.astype(np.float32))
    return seen, heights


def add_scanner_noise(hu: np.ndarray, look: Look, rng) -> np.ndarray:
    """Add a scanner's shading, noise, kernel and clipping; return the new HU."""
    if rng.random() < 0.3:  # beam hardening, cupping
        hu = hu + rng.uniform(1, 8) * smooth_noise(hu.shape, rng, 50 / look.spacing)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [rng.uniform(0.3, 1.1)] * 2 + [0.3])
    hu = hu + look.noise * grain / grain.std()
    if rng.random() < 0.3:  # a sharp kernel overshoots within a slice
        hu = hu + rng.uniform(0.2, 0.8) * (hu - ndimage.gaussian_filter(hu, (1, 1, 0)))
    if rng.random() < 0.3:  # round reconstruction field
        x, y = (np.arange(n) - (n - 1) / 2 for n in hu.shape[:2])
        hu[x[:, None] ** 2 + y**2 > (min(hu.shape[:2]) / 2) ** 2] = AIR
    return np.clip(hu, AIR, BRIGHTEST).astype(np.float32)


def coarse_pixels(hu: np.ndarray, size: float) -> np.ndarray:
    """`hu` as slices with pixels `size` voxels wide show it, interpolated back."""
    means = ndimage.uniform_filter(hu, (size, size, 0))
    low = ndimage.zoom(means, (1 / size, 1 / size, 1), order=1)
    return ndimage.zoom(low, np.divide(hu.shape, low.shape), order=1)


def thick_slices(hu: np.ndarray, count: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """`hu` averaged over slices `count` voxels thick, and the slices' middles in voxels."""
    depth = hu.shape[2]
    edges = np.arange(rng.uniform(0, count), depth, count)
    if len(edges) < 4:
        return hu, np.arange(depth, dtype=float)
    total = np.concatenate([np.zeros_like(hu[..., :1]), hu.cumsum(2, dtype=np.float64)], 2)
    means = np.diff(at_heights(total, edges), axis=2) / count
    return means, (edges[1:] + edges[:-1]) / 2 - 0.5


def at_heights(array: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The values of an (X, Y, Z) array at `heights` along z (voxels), linear in between."""
    heights = np.clip(heights, 0, array.shape[2] - 1)
    low = np.minimum(heights.astype(int), array.shape[2] - 2)
    share = (heights - low).astype(np.float32)
    return array[..., low] * (1 - share) + array[..., low + 1] * share
