"""Head CT and CTA scans made from label maps, or from nothing at all, with their brain masks.

    made = make_scan(seed, "seg_01.nii.gz", necks="headneck")
    made.hu, made.mask, made.vessels, made.affine

Every scan turns, scales and bends a head anew, gives each tissue a HU value from published ranges,
adds vessels, disease, surgery and what lies around a head, and shows the result as a CT scanner
would. The mask ends where people end it: at the last voxel that shows no bone, thick slices
included. The idea of training on nothing but such images: Billot et al., SynthSeg, Medical Image
Analysis 86 (2023).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from scan.mask import keep_largest
from synthesis.disease import add_disease, add_vessels
from synthesis.head import AIR_HU, BRAIN_TISSUES, INDEX, TISSUES, is_any, load_anatomy, make_phantom
from synthesis.scanner import add_scanner_noise, scan_arrays
from synthesis.space import Look, Space, pose_head, smooth_noise
from synthesis.surroundings import add_body, add_surroundings

FINEST = 1.25  # mm: finer than the network's 1.5 mm, near the label maps' 1 mm
# A voxel that is more than this share bone, as the scanner shows it, is out of the mask: it looks
# like bone in a brain window. People who draw on real CT end there.
BONE_SHARE = 0.1
# HU: brighter than grey matter by more than noise; contrast, blood, lime, metal
HYPERDENSE_HU = 80.0


@dataclass(frozen=True)
class Scan:
    """A synthetic scan: hu (X, Y, Z) float32 RAS+, its mask and the vessels in it (bool).

    `hyperdense` (bool): the part of the mask that is bright without any bone; affine (4, 4); about
    says how the scan was made.
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
class Painted:
    """A scan before imaging, (X, Y, Z) each.

    inside: the share of each voxel that lies in the skull (float32); content: the HU of that part;
    vessels: where they are (bool).
    """

    hu: np.ndarray
    inside: np.ndarray
    content: np.ndarray
    vessels: np.ndarray


def make_scan(
    seed: int,
    labels: str | Path | None = None,
    necks: str | Path | None = None,
    plain: bool = False,
    stored: bool = False,
    **wanted,
) -> Scan:
    """Make one synthetic scan, the same for the same arguments.

    `labels` is a label map (a phantom is used without one), `necks` a folder of real
    head-and-neck CTs with `_oar` labels (1 brainstem) to continue the body below the skull.
    `plain` leaves out disease, surgery, metal and odd poses. `stored` gives the slices as a scanner
    stores them, one per thickness; otherwise they are interpolated to cubes. `wanted` replaces
    what `draw_look` would draw: spacing=0.6, phase="arterial", thickness=5.0 and so on.
    InputError when the label map cannot be read.
    """
    rng = np.random.default_rng([seed, 2026])
    head = load_anatomy(str(labels)) if labels else make_phantom(seed)
    look = replace(draw_look(rng, plain, necks is not None), **wanted)
    space = pose_head(head, look, rng)
    painted = paint_tissues(space, look, rng)
    hu = add_body(painted.hu, space, head, necks, rng) if necks else painted.hu
    arrays = add_surroundings(hu, space, look, rng), painted.inside, painted.content
    (hu, inside, content), heights = scan_arrays(arrays, look, stored, rng)
    mask = keep_largest(inside > 1 - BONE_SHARE)
    vessels = painted.vessels[..., np.rint(heights).astype(int)] & mask
    affine = np.diag([*look.spacing * np.array([1, 1, heights[1] - heights[0]]), 1])
    affine[2, 3] = look.spacing * heights[0]
    about = {"source": head.name, "seed": seed} | asdict(look)
    bright = mask & (content > HYPERDENSE_HU)
    return Scan(add_scanner_noise(hu, look, rng), mask, vessels, bright, affine, about)


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


def paint_tissues(space: Space, look: Look, rng) -> Painted:
    """Give every voxel its tissue's HU, with disease, vessels and bone."""
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
    bone = make_bone(space, level, grain, look.plain, rng)
    beyond = np.where(np.isnan(bone), hu, bone)
    # what the smooth cavity leaves out becomes dura; blood flows on, the cord and its CSF too
    dura = brain & ~blood & (space.inner > 0) & (space.along < 0) & np.isnan(bone)
    beyond = np.where(dura, level["muscle"], beyond)
    share = np.clip(0.5 - space.inner / step, 0, 1)  # of a voxel that lies in the cavity
    return Painted(share * within + (1 - share) * beyond, share, within, vessels)


def make_bone(space: Space, level: dict[str, float], grain, plain: bool, rng) -> np.ndarray:
    """HU (X, Y, Z) float32 of bone, NaN where there is none.

    `level` is this scan's HU of each tissue, `grain` a noise (X, Y, Z), `plain` without surgery.
    """
    shape, step, inner, tissue = grain.shape, space.spacing, space.inner, space.tissue
    outer = space.outer + rng.uniform(-1.2, 1.0)
    shell = rng.uniform(0.8, 1.6) + 0.5 * smooth_noise(shape, rng, 20 / step)
    canal = (np.abs(space.along) < 14) & (space.squared_distance((0, 0, 0)) < 20**2)
    solid = is_any(tissue, "cortical", "cancellous")
    in_foramen = (tissue == INDEX["vein"]) & (inner > 1.5)  # mm: nearer, a vein is a sinus
    vault = (outer < 0) & ~is_any(tissue, "air", "sinus", "mucosa") & ~in_foramen
    bone = (solid | vault | ((inner < shell) & ~canal)) & (inner > -step)
    if not plain:
        bone &= ~make_openings(space, rng)
    table = rng.uniform(0.9, 2.2)
    depth = np.minimum(inner, -outer)
    dense = np.clip((table - depth) / step + 0.5, 0, 1)
    hu = dense * (level["cortical"] + 90 * grain) + (1 - dense) * (level["cancellous"] + 80 * grain)
    hu = np.where(solid & (depth < -1), tissue_hu(tissue, level), hu)
    if not plain and rng.random() < 0.5:  # air cells in the skull base
        cells = smooth_noise(shape, rng, rng.uniform(2, 6) / step) > rng.uniform(0.2, 1.2)
        hu = np.where(cells & (inner > rng.uniform(1, 3)) & (space.along > -55), AIR_HU, hu)
    return np.where(bone, hu, np.nan).astype(np.float32)


def tissue_hu(tissue: np.ndarray, level: dict[str, float]) -> np.ndarray:
    """Each voxel's HU (float32) by its tissue (an index)."""
    return np.array([level[name] for name in TISSUES], np.float32)[tissue]


def make_openings(space: Space, rng) -> np.ndarray:
    """Where a craniectomy or burr holes take the bone away (X, Y, Z) bool; nowhere in most."""
    hole = np.zeros(space.inner.shape, bool)
    draw = rng.random()
    if draw > 0.15:
        return hole
    large = draw < 0.07
    radius = rng.uniform(28, 55) if large else rng.uniform(5, 9)  # mm
    for _ in range(1 if large else rng.integers(1, 4)):
        way = rng.standard_normal(3) * (1, 1, 0.6) + (0, 0, 0.6)
        spot = np.array([0, 20, 75]) + 80 * way / np.linalg.norm(way)
        hole |= space.squared_distance(spot) < radius**2
    return hole
