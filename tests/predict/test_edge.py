"""edge.py on a ball of brain in a skull, whose edges are known to a fraction of a voxel."""

import numpy as np
import pytest

from predict.brain import Answer, follow_vessels, refine
from predict.edge import THIN_SLICES, decide, measure_brain
from scan.read import read_volume
from scan.resample import straighten
from scan.volume import cut_slabs

SIZE = 72  # voxels of 1 mm
FROM_CENTRE = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
RADIUS = np.linalg.norm(FROM_CENTRE, axis=0)
EDGE = 23.3  # mm: of the brain


def share(distance):
    """Of a voxel that lies inside a surface, by the distance of its middle to it."""
    return np.clip(0.5 - distance, 0, 1)


def skull(radius=EDGE, bone=1200):
    """HU of a ball of brain in 5 mm of bone, edges as voxels average them."""
    brain, head = share(RADIUS - radius), share(RADIUS - radius - 5)
    return -1000 + head * (1000 + brain * 35 + (1 - brain) * bone)


def in_slices(array, thickness):
    """An array of cubes of 1 mm as slices `thickness` mm thick show it."""
    return array.reshape(SIZE, SIZE, -1, thickness).mean(-1)


def refined(hu, distance, path, save_nifti_as, thickness=1, hyperdense=None, noise=5.0):
    """The mask of HU where the network's border lies at `distance` 0 (mm); in one that knows no
    bright things, or with the share of each voxel that is one."""
    hu, distance = in_slices(hu, thickness), in_slices(distance, thickness)
    hu = hu + noise * np.random.default_rng(0).standard_normal(hu.shape)
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    scan = read_volume(save_nifti_as(path / "ball.nii.gz", hu.astype(np.float32), affine))
    cubes, grid = straighten(scan.hu, scan, 1.5)
    coarse, _ = straighten(distance.astype(np.float32), scan, 1.5, outside=50)
    inside = 1 / (1 + np.exp(coarse / 0.7))
    bright = 0 * inside
    if hyperdense is not None:
        bright, _ = straighten(in_slices(hyperdense, thickness), scan, 1.5, outside=0)
        bright = np.minimum(bright, inside)
    answer = Answer({}, inside, bright, cubes, grid)
    if thickness <= THIN_SLICES:
        answer = follow_vessels(answer)
    brain_hu = measure_brain(answer.inside, answer.hu)
    mask = np.zeros(scan.hu.shape, bool)
    for region in cut_slabs(grid, scan):
        mask[region] = refine(answer, brain_hu, scan, region)
    return mask


NOTHING = np.zeros((SIZE,) * 3)


@pytest.mark.parametrize("thickness", [1, 3])
def test_no_voxel_that_shows_bone_is_in_the_mask(thickness, tmp_path, save_nifti_as):
    """Though the network's border lies too far out, and however thick the slices are."""
    bone = in_slices(1 - share(RADIUS - EDGE), thickness)
    masks = [
        refined(skull(), RADIUS - EDGE - off, tmp_path, save_nifti_as, thickness, NOTHING)
        for off in (-0.4, 0.1)
    ]
    for mask in masks:
        assert (bone[mask] > 0.15).mean() < 0.01
        assert mask[bone < 0.02].mean() > 0.96, "and nearly all that shows none is"
    assert (masks[0] != masks[1]).mean() < 0.005


def test_a_bright_voxel_is_in_where_the_network_is_sure_or_knows_it():
    hu, share, bright = np.array(
        [
            (40, 0.45, 0),
            (40, 0.35, 0),  # shows no bone
            (200, 0.65, 0),
            (200, 0.75, 0),
            (200, 0.3, 0.35),
            (200, 0.65, 0.25),
        ]
    ).T
    found = decide(hu, share, bright, 35)
    assert found.tolist() == [True, False, False, True, True, False]


def test_the_network_decides_where_no_bone_is_seen(tmp_path, save_nifti_as):
    """As at the foramen magnum, or where a piece of the skull was taken out."""
    soft = np.where(RADIUS < 30, 35.0, -1000.0)
    mask = refined(soft, RADIUS - EDGE, tmp_path, save_nifti_as, hyperdense=NOTHING)
    assert (mask == (RADIUS < EDGE)).mean() > 0.99


@pytest.mark.parametrize("radius", [3, 6])
def test_contrast_beside_bone_stays_where_the_network_knows_it(radius, tmp_path, save_nifti_as):
    """A vessel full of contrast against the inner table, as an artery or a sinus lies there."""
    away = np.hypot(FROM_CENTRE[0] - (EDGE - radius), FROM_CENTRE[1]) - radius
    inside = EDGE > RADIUS
    hu = np.where(inside, skull() + share(away) * (500 - skull()), skull())
    vessel = (away < -0.5) & (EDGE - 1 > RADIUS)
    wavers = np.where((away < 1.5) & inside, -0.3, RADIUS - EDGE)  # no more sure than 0.6
    known, unknown = (
        refined(hu, wavers, tmp_path, save_nifti_as, hyperdense=bright)
        for bright in (share(away) * inside, NOTHING)
    )
    assert known[vessel].mean() > 0.98
    assert unknown[vessel].mean() < 0.05
    assert RADIUS[known].max() < EDGE + 1


def test_a_network_without_that_label_keeps_what_it_is_sure_of(tmp_path, save_nifti_as):
    """Fresh blood that touches the skull, but for the last voxels before the border."""
    blood = (FROM_CENTRE[0] > 14) & (EDGE > RADIUS)
    hu = np.where(blood, 120.0, skull())
    mask = refined(hu, RADIUS - EDGE, tmp_path, save_nifti_as)
    assert mask[blood & (EDGE - 1.5 > RADIUS)].mean() > 0.99


@pytest.mark.parametrize(("thickness", "followed"), [(1, True), (3, False)])
def test_a_vessel_is_followed_along_bone_in_thin_slices(
    thickness, followed, tmp_path, save_nifti_as
):
    """The network knows its beginning alone, and takes the rest for bone."""
    x, y, z = FROM_CENTRE
    along = np.maximum(np.hypot(x - 18, z) - 4, np.abs(y) - 12)
    vessel = np.minimum(along, np.maximum(np.hypot(y, z) - 4, np.maximum(-x, x - 18)))
    hu = np.where(RADIUS < EDGE, skull() + share(vessel) * (400 - skull()), skull())
    network = np.where((along < 2) & (x > 15), 1.0, RADIUS - EDGE)
    known = share(vessel) * (x < 14)
    mask = refined(hu, network, tmp_path, save_nifti_as, thickness, known)
    lost = in_slices(((along < -1) & (RADIUS < EDGE - 1.5)).astype(float), thickness) == 1
    assert (mask[lost].mean() > 0.95) == followed
    assert in_slices(RADIUS, thickness)[mask].max() < EDGE + 1


def test_noise_makes_no_holes_at_the_border(tmp_path, save_nifti_as):
    mask = refined(skull(), RADIUS - EDGE, tmp_path, save_nifti_as, hyperdense=NOTHING, noise=25)
    assert mask[RADIUS < EDGE - 1].mean() > 0.99


def test_the_brain_s_own_hu_count(tmp_path, save_nifti_as):
    """A scan that is brighter by 30 HU, as with contrast or by a scanner's drift: the same mask."""
    masks = [
        refined(skull() + shift, RADIUS - EDGE - 1, tmp_path, save_nifti_as, hyperdense=NOTHING)
        for shift in (0, 30)
    ]
    assert (masks[0] == masks[1]).all()
