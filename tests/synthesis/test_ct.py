"""A synthetic scan: its mask, vessels, bone and surgery; what is random, and what is not."""

import numpy as np
import pytest
from scipy import ndimage

from scan.mask import dice
from synthesis import ct, surroundings
from synthesis.ct import draw_look, make_openings, make_scan, thick_slices
from synthesis.disease import add_disease
from synthesis.head import find_label_maps, make_phantom_labels
from synthesis.space import Look, Space

BONE = 250  # HU


# ---------------------------------------------------------------- what is random, and what is not


def depth_of(mask, spacing):
    """Distance in mm to the outside of a mask, positive within."""
    return ndimage.distance_transform_edt(mask) * spacing


def test_a_seed_gives_the_same_scan_again(cta, coarse):
    again = make_scan(0, plain=True, phase="arterial", **coarse)
    np.testing.assert_array_equal(again.hu, cta.hu)
    np.testing.assert_array_equal(again.mask, cta.mask)
    assert again.about == cta.about


@pytest.fixture(scope="module")
def labels():
    """The label volume behind the phantom, 1 mm."""
    return make_phantom_labels(0)


def test_scans_differ_by_seed(labels):
    looks = [draw_look(np.random.default_rng(seed), False, False) for seed in (1, 2)]
    assert looks[0] != looks[1]
    assert (labels != make_phantom_labels(1)).mean() > 0.01


def test_what_is_wanted_is_what_is_drawn(cta):
    assert cta.hu.shape == (80, 80, 72) and cta.hu.dtype == np.float32
    np.testing.assert_allclose(np.diag(cta.affine), [2.5, 2.5, 2.5, 1])
    assert cta.about["phase"] == "arterial" and cta.about["thickness"] == 2.5
    assert cta.hu.min() >= -1024 and cta.hu.max() <= 3071


# ---------------------------------------------------------------- the mask


def test_the_mask_is_one_piece_without_holes_and_as_large_as_a_brain(cta):
    assert ndimage.label(cta.mask)[1] == 1
    np.testing.assert_array_equal(ndimage.binary_fill_holes(cta.mask), cta.mask)
    assert 700 < cta.mask.sum() * 2.5**3 / 1000 < 2200  # mL; heads are scaled by 0.84 to 1.06


def test_the_mask_lies_inside_the_skull(plain_ct):
    depth = depth_of(plain_ct.mask, 2.5)
    assert (plain_ct.hu[depth > 3] < BONE).all(), "no bone deep inside"
    assert (plain_ct.hu[depth > 0] > BONE).mean() < 0.01
    beyond = depth_of(~plain_ct.mask, 2.5)
    assert (plain_ct.hu[(beyond > 0) & (beyond < 4)] > BONE).mean() > 0.7
    border = plain_ct.mask & ~ndimage.binary_erosion(plain_ct.mask)
    near_bone = ndimage.maximum_filter(plain_ct.hu, size=5) > BONE
    assert near_bone[border].mean() > 0.98, "bone all around it, but for the foramen magnum"


def test_what_is_inside_looks_like_brain(plain_ct):
    deep = plain_ct.hu[depth_of(plain_ct.mask, 2.5) > 8]
    assert 15 < np.median(deep) < 50
    assert (np.abs(deep) < 100).mean() > 0.99


def test_below_the_cut_soft_tissue_goes_on(plain_ct):
    """The mask ends in the canal without an edge in the picture: a network must learn the place."""
    lowest = np.flatnonzero(plain_ct.mask.any((0, 1)))[0]
    x, y = ndimage.center_of_mass(plain_ct.mask[..., lowest])
    below = plain_ct.hu[round(x), round(y), :lowest]
    assert len(below) > 1 and (below[-2:] > -50).all() and (below[-2:] < 150).all()


def test_what_is_bright_in_the_mask_without_any_bone_is_labelled(cta, plain_ct):
    assert not (cta.hyperdense & ~cta.mask).any()
    assert set(np.unique(cta.labels)) == {0, 1, 2}
    assert ((cta.labels > 0) == cta.mask).all()
    bright = ndimage.gaussian_filter(cta.hu, 0.5)[cta.hyperdense]
    assert np.quantile(bright, 0.1) > 60
    # the same head without contrast: bone alone makes nothing hyperdense
    assert plain_ct.hyperdense.sum() < 0.02 * cta.hyperdense.sum()


@pytest.mark.parametrize("thickness", [2.5, 5.0, 7.5])
def test_the_mask_ends_at_the_last_voxel_that_shows_no_bone(coarse, thickness):
    """In thick slices, too, whose voxels are half bone where the border crosses them aslant."""
    look = coarse | {"thickness": thickness, "phase": "none", "noise": 0.01, "sharpness": 0.5}
    made = make_scan(0, plain=True, stored=True, **look)
    shows_bone = made.hu > 200
    assert shows_bone[made.mask].mean() < 0.003
    rim = ndimage.binary_dilation(made.mask) & ~made.mask
    heights = np.flatnonzero(made.mask.any((0, 1)))
    vault = slice(heights[len(heights) // 2], heights[-1])
    assert (made.hu[..., vault][rim[..., vault]] > 100).mean() > 0.9, "and no earlier"


# ---------------------------------------------------------------- vessels


def test_contrast_changes_the_vessels_and_nothing_else(cta, plain_ct):
    np.testing.assert_array_equal(cta.mask, plain_ct.mask)
    change = cta.hu - plain_ct.hu
    assert change[cta.vessels].mean() > 60
    assert np.percentile(change[cta.vessels], 90) > 100
    far = ~ndimage.binary_dilation(cta.vessels, iterations=3) & cta.mask
    assert np.abs(change[far]).mean() < 1


def test_veins_shine_in_the_venous_phase(coarse, cta, plain_ct):
    venous = make_scan(0, plain=True, phase="venous", **coarse)
    np.testing.assert_array_equal(venous.mask, plain_ct.mask)
    assert (venous.hu - plain_ct.hu)[venous.vessels].mean() > 40
    assert np.abs(venous.hu - cta.hu)[venous.vessels].mean() > 20, "not as in the arterial phase"


def test_vessels_lie_in_the_mask_and_many_along_the_skull(cta):
    assert not (cta.vessels & ~cta.mask).any()
    assert 0.002 < cta.vessels.sum() / cta.mask.sum() < 0.2
    depth = depth_of(cta.mask, 2.5)[cta.vessels]
    assert (depth < 6).mean() > 0.3 and (depth > 6).any()


def test_vessels_of_the_neck_shine_as_those_of_the_brain(cta, plain_ct):
    lowest = np.flatnonzero(cta.mask.any((0, 1)))[0]
    change = (cta.hu - plain_ct.hu)[..., : lowest - 2]
    assert (change > 100).any(), "carotids and jugular veins"


# ---------------------------------------------------------------- surgery


def test_bone_is_taken_away_and_the_mask_stays(coarse, monkeypatch):
    """The same head whole, and with the bone gone above a plane through its vertex."""
    whole, opened = (
        open_head(coarse, monkeypatch, lambda space, *_, h=height: space.offset[2] > h)
        for height in (1e6, 90)
    )
    np.testing.assert_array_equal(whole.mask, opened.mask)
    gone = (whole.hu > 600) & (opened.hu < 200)
    assert gone.sum() > 200
    vertex = np.argwhere(whole.hu > 600)[:, 2].max()
    assert not (opened.hu[..., vertex - 5 :] > 600).any(), "no bone of the label map is left"
    assert np.argwhere(gone)[:, 2].min() > np.argwhere(whole.mask)[:, 2].mean()


def open_head(coarse, monkeypatch, hole):
    monkeypatch.setattr(ct, "make_openings", hole)
    return make_scan(0, phase="none", tilt=2.0, above=10.0, **coarse)


def test_some_heads_have_a_craniectomy_or_burr_holes_and_most_none():
    grid = np.stack(np.meshgrid(*[np.arange(-100.0, 160, 8)] * 3, indexing="ij"))
    space = Space(None, np.zeros(grid.shape[1:]), None, None, grid, 8.0)
    sizes = [make_openings(space, np.random.default_rng(s)).sum() * 0.512 for s in range(200)]
    share = np.mean(np.array(sizes) > 0)
    assert 0.05 < share < 0.25
    assert max(sizes) > 80, "a craniectomy takes mL of bone by the hundred"
    rngs = [np.random.default_rng(seed) for seed in range(8)]
    assert not any(make_openings(space, rng, "none").any() for rng in rngs)
    assert min(make_openings(space, rng, "large").sum() for rng in rngs) * 0.512 > 60


def test_plain_scans_have_no_surgery_disease_or_metal(cta, coarse, monkeypatch):
    def never(*_):
        raise AssertionError("not in a plain scan")

    monkeypatch.setattr(ct, "make_openings", never)
    monkeypatch.setattr(surroundings, "add_metal", never)
    assert make_scan(0, plain=True, phase="arterial", **coarse).about["plain"]
    hu = np.zeros((4, 4, 4))
    for seed in range(20):
        space = Space(None, hu, None, None, None, 1.0)
        look = Look(spacing=1.0, plain=True)
        assert add_disease(hu, space, look, np.random.default_rng(seed)) is hu


# ---------------------------------------------------------------- label maps


@pytest.fixture(scope="module")
def label_map(labels, tmp_path_factory, save_nifti_as):
    """The phantom's own labels at 2 mm, stored from right to left."""
    path = tmp_path_factory.mktemp("labels") / "head_01.nii.gz"
    return save_nifti_as(path, labels[::-2, ::2, ::2], np.diag([-2.0, 2, 2, 1]))


def test_a_label_map_becomes_a_scan(label_map, cta, coarse):
    made = make_scan(0, label_map, plain=True, phase="arterial", **coarse)
    assert made.about["source"] == "head_01"
    assert made.mask.sum() == pytest.approx(cta.mask.sum(), rel=0.05)
    assert dice(made.mask, cta.mask) > 0.9, "the same head, turned the same way"
    assert (made.hu[depth_of(made.mask, 2.5) > 5] > 800).mean() < 0.01


def test_a_real_label_map_becomes_a_scan(shared, coarse):
    made = make_scan(1, find_label_maps(shared("labelmaps"))[0], plain=True, phase="none", **coarse)
    assert ndimage.label(made.mask)[1] == 1
    assert 700 < made.mask.sum() * 2.5**3 / 1000 < 2500
    depth = depth_of(made.mask, 2.5)
    assert (made.hu[depth > 5] > BONE).mean() < 0.01
    beyond = depth_of(~made.mask, 2.5)
    assert (made.hu[(beyond > 0) & (beyond < 4)] > BONE).mean() > 0.4


# ---------------------------------------------------------------- the scanner


@pytest.mark.parametrize("count", [2, 2.5, 4.8])
def test_thick_slices_are_true_averages(count):
    """Of a step: what a slice holds of it is what lies in it, wherever its faces fall."""
    column = np.where(np.arange(40) < 21, 0, 100).astype(np.float32)
    block, rng = np.broadcast_to(column, (2, 3, 40)), np.random.default_rng(3)
    means, middles = thick_slices(block, count, rng)
    assert means.shape == (2, 3, len(middles))
    np.testing.assert_allclose(np.diff(middles), count)
    share = np.clip((middles + 0.5 + count / 2 - 21) / count, 0, 1)  # of the slice above the step
    np.testing.assert_allclose(means[1, 2], 100 * share, atol=0.01)


def test_thick_slices_of_few_voxels_stay_as_they_are():
    few = np.random.default_rng(0).random((2, 2, 6))
    means, middles = thick_slices(few, 4, np.random.default_rng(0))
    assert means is few and middles.tolist() == [0, 1, 2, 3, 4, 5]


def test_stored_slices_show_the_anatomy_at_the_same_mm_as_cubes(coarse):
    """At a slice's height in mm the cubes have the same mask; where nothing is said, they do not"""
    look = coarse | {"thickness": 6.0, "phase": "none"}
    stored, cubes = (make_scan(0, plain=True, stored=s, **look) for s in (True, False))
    assert stored.hu.shape[2] < cubes.hu.shape[2] / 2
    assert stored.affine[2, 2] == pytest.approx(6.0) and stored.affine[2, 3] > 0
    rows = np.arange(stored.hu.shape[2])
    there = np.rint((stored.affine[2, 3] + 6 * rows) / 2.5).astype(int)
    assert dice(stored.mask, cubes.mask[..., there]) > 0.97
    assert dice(stored.mask, cubes.mask[..., there - 3]) < 0.93
    bone = stored.hu > 400
    assert dice(bone, cubes.hu[..., there] > 400) > 0.8
