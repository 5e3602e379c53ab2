"""synthetic.py: a head that is one, its mask inside the skull, and the scanner that shows it."""

import cv2
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import synthetic
from errors import InputError
from metrics import scores
from volume import read_mask, read_volume

BONE = 250  # HU


def dice(a, b):
    return scores(a, b)["F1"]


def depth_of(mask, spacing):
    """Distance in mm to the outside of a mask, positive within."""
    return ndimage.distance_transform_edt(mask) * spacing


# ---------------------------------------------------------------- what is random, and what is not


def test_a_seed_gives_the_same_scan_again(cta, coarse):
    again = synthetic.scan(0, plain=True, phase="arterial", **coarse)
    np.testing.assert_array_equal(again.hu, cta.hu)
    np.testing.assert_array_equal(again.mask, cta.mask)
    assert again.about == cta.about


@pytest.fixture(scope="module")
def labels():
    """The label volume behind the phantom, 1 mm."""
    return synthetic.phantom_labels(0)


def test_scans_differ_by_seed(labels):
    looks = [synthetic.draw_look(np.random.default_rng(seed), False, False) for seed in (1, 2)]
    assert looks[0] != looks[1]
    assert (labels != synthetic.phantom_labels(1)).mean() > 0.01


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


def test_no_vessel_of_the_neck_makes_the_mask_pierce_the_skull():
    head = synthetic.phantom(0)
    bone = head.tissue == synthetic.INDEX["cancellous"]
    vault = np.flatnonzero((head.inner < 0).any((0, 1)))[-1]
    vein = head.tissue == synthetic.INDEX["vein"]
    assert bone[..., vault - 5].any() and not vein[..., vault - 5].any()
    assert vein[..., : round(head.base[2])].sum() > 1000, "but in the neck they are"


@pytest.mark.parametrize("shape, counts", [("sinus", True), ("jugular bulb", False)])
def test_a_sinus_counts_as_brain_and_a_vein_in_its_foramen_does_not(shape, counts):
    """Both touch the brain: one lies flat on it, the other stands out like a finger."""
    head = synthetic.phantom(0)
    y, z = round(head.base[1]), round(head.base[2]) + 30
    side = np.flatnonzero(head.inner[:, y, z] < 0)[-1]
    tissue = head.tissue.copy()
    if shape == "sinus":
        at = np.s_[side - 4 : side + 5, y - 20 : y + 20, z - 5 : z + 30]
    else:
        at = np.s_[side - 4 : side + 13, y - 4 : y + 5, z - 4 : z + 5]
    tissue[at][head.inner[at] > -2] = synthetic.INDEX["vein"]
    cavity = synthetic.brain_cavity(tissue, tissue, head.base, head.down)
    assert cavity[side + 3, y, z + 5 if counts else z] == counts
    if not counts:
        assert not cavity[side + 5 : side + 13, y, z].any()


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


def test_the_cavity_is_cut_at_the_foramen_magnum():
    head = synthetic.phantom(0)
    along, across = synthetic.canal_coordinates(head.tissue.shape, head.base, head.down)
    inside = head.inner < 0
    assert inside[(along > -6) & (along < -3) & (across < 5)].all(), "it reaches down to the cut"
    assert not inside[(along > 3) & (across < 20)].any(), "and ends there"
    cord = head.tissue == synthetic.INDEX["cord"]
    assert (cord & (along > 3)).sum() > 1000 and not inside[cord & (along > 3)].any()


def test_below_the_cut_soft_tissue_goes_on(plain_ct):
    """The mask ends in the canal without an edge in the picture: a network must learn the place."""
    lowest = np.flatnonzero(plain_ct.mask.any((0, 1)))[0]
    x, y = ndimage.center_of_mass(plain_ct.mask[..., lowest])
    below = plain_ct.hu[round(x), round(y), :lowest]
    assert len(below) > 1 and (below[-2:] > -50).all() and (below[-2:] < 150).all()


# ---------------------------------------------------------------- vessels


def test_contrast_changes_the_vessels_and_nothing_else(cta, plain_ct):
    np.testing.assert_array_equal(cta.mask, plain_ct.mask)
    change = cta.hu - plain_ct.hu
    assert change[cta.vessels].mean() > 60
    assert np.percentile(change[cta.vessels], 90) > 100
    far = ~ndimage.binary_dilation(cta.vessels, iterations=3) & cta.mask
    assert np.abs(change[far]).mean() < 1


def test_veins_shine_in_the_venous_phase(coarse, cta, plain_ct):
    venous = synthetic.scan(0, plain=True, phase="venous", **coarse)
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


def test_no_drawn_vessel_follows_the_cut_at_the_foramen():
    shape = (60, 60, 60)
    inner = np.full(shape, -30.0, np.float32)
    inner[..., :32] = np.arange(-30.0, 2)[::-1]  # the cut: a floor like any other, but for `along`
    inner[:32] = np.maximum(inner[:32], np.arange(-30.0, 2)[::-1, None, None])
    along = np.broadcast_to(-np.arange(60.0), shape)
    rng = np.random.default_rng(0)
    hu = synthetic.add_vessels(np.zeros(shape, np.float32), {"inner": inner, "along": along},
                               (300, 300), {"spacing": 1.0}, rng)  # fmt: skip
    drawn = np.flatnonzero((hu > 50).any((0, 1)))
    assert len(drawn) and drawn[0] >= synthetic.DRAWN_ABOVE - 5, "but for its own radius"


# ---------------------------------------------------------------- surgery


def test_bone_is_taken_away_and_the_mask_stays(coarse, monkeypatch):
    """The same head whole, and with the bone gone above a plane through its vertex."""
    whole, opened = (
        open_head(coarse, monkeypatch, lambda space, rng, h=height: space["offset"][2] > h)
        for height in (1e6, 90)
    )
    np.testing.assert_array_equal(whole.mask, opened.mask)
    gone = (whole.hu > 600) & (opened.hu < 200)
    assert gone.sum() > 200
    assert np.argwhere(gone)[:, 2].min() > np.argwhere(whole.mask)[:, 2].mean()


def open_head(coarse, monkeypatch, hole):
    monkeypatch.setattr(synthetic, "openings", hole)
    return synthetic.scan(0, phase="none", tilt=2.0, above=10.0, **coarse)


def test_some_heads_have_a_craniectomy_or_burr_holes_and_most_none():
    grid = np.stack(np.meshgrid(*[np.arange(-100.0, 160, 8)] * 3, indexing="ij"))
    space = {"inner": np.zeros(grid.shape[1:]), "offset": grid}
    sizes = [synthetic.openings(space, np.random.default_rng(s)).sum() * 0.512 for s in range(200)]
    share = np.mean(np.array(sizes) > 0)
    assert 0.05 < share < 0.25
    assert max(sizes) > 80, "a craniectomy takes mL of bone by the hundred"


def test_plain_scans_have_no_surgery_disease_or_metal(cta, coarse, monkeypatch):
    def never(*_):
        raise AssertionError("not in a plain scan")

    monkeypatch.setattr(synthetic, "openings", never)
    monkeypatch.setattr(synthetic, "add_metal", never)
    assert synthetic.scan(0, plain=True, phase="arterial", **coarse).about["plain"]
    hu = np.zeros((4, 4, 4))
    for seed in range(20):
        assert synthetic.add_disease(hu, {"inner": hu}, {"spacing": 1, "plain": True},
                                     np.random.default_rng(seed)) is hu  # fmt: skip


# ---------------------------------------------------------------- the scanner


@pytest.mark.parametrize("count", [2, 2.5, 4.8])
def test_thick_slices_are_true_averages(count):
    """Of a step: what a slice holds of it is what lies in it, wherever its faces fall."""
    column = np.where(np.arange(40) < 21, 0, 100).astype(np.float32)
    means, middles = synthetic.thick_slices(
        np.broadcast_to(column, (2, 3, 40)), count, np.random.default_rng(3)
    )
    assert means.shape == (2, 3, len(middles))
    np.testing.assert_allclose(np.diff(middles), count)
    share = np.clip((middles + 0.5 + count / 2 - 21) / count, 0, 1)  # of the slice above the step
    np.testing.assert_allclose(means[1, 2], 100 * share, atol=0.01)


def test_thick_slices_of_few_voxels_stay_as_they_are():
    few = np.random.default_rng(0).random((2, 2, 6))
    means, middles = synthetic.thick_slices(few, 4, np.random.default_rng(0))
    assert means is few and middles.tolist() == [0, 1, 2, 3, 4, 5]


def test_stored_slices_show_the_anatomy_at_the_same_mm_as_cubes(coarse):
    """At a slice's height in mm the cubes have the same mask; where nothing is said, they do not"""
    look = coarse | {"thickness": 6.0, "phase": "none"}
    stored, cubes = (synthetic.scan(0, plain=True, stored=s, **look) for s in (True, False))
    assert stored.hu.shape[2] < cubes.hu.shape[2] / 2
    assert stored.affine[2, 2] == pytest.approx(6.0) and stored.affine[2, 3] > 0
    rows = np.arange(stored.hu.shape[2])
    there = np.rint((stored.affine[2, 3] + 6 * rows) / 2.5).astype(int)
    assert dice(stored.mask, cubes.mask[..., there]) > 0.97
    assert dice(stored.mask, cubes.mask[..., there - 3]) < 0.93
    bone = stored.hu > 400
    assert dice(bone, cubes.hu[..., there] > 400) > 0.8


@pytest.mark.parametrize("thickness", [2.5, 5.0, 7.5])
def test_the_mask_ends_at_the_last_voxel_that_shows_no_bone(coarse, thickness):
    """In thick slices, too, whose voxels are half bone where the border crosses them aslant."""
    look = coarse | {"thickness": thickness, "phase": "none", "noise": 0.01, "sharpness": 0.5}
    made = synthetic.scan(0, plain=True, stored=True, **look)
    shows_bone = made.hu > 200
    assert shows_bone[made.mask].mean() < 0.003
    rim = ndimage.binary_dilation(made.mask) & ~made.mask
    heights = np.flatnonzero(made.mask.any((0, 1)))
    vault = slice(heights[len(heights) // 2], heights[-1])
    assert (made.hu[..., vault][rim[..., vault]] > 100).mean() > 0.9, "and no earlier"


# ---------------------------------------------------------------- disease


@pytest.fixture(scope="module")
def inside():
    """A ball's distance to its surface and places in it, as `sample` gives them, voxels of 2 mm."""
    grid = np.stack(np.meshgrid(*[np.arange(-80.0, 80, 2)] * 3, indexing="ij")).astype(np.float32)
    offset = grid + synthetic.BRAIN_CENTRE[:, None, None, None].astype(np.float32)
    inner = (np.linalg.norm(grid, axis=0) - 70).astype(np.float32)
    return {"inner": inner, "offset": offset, "along": -offset[2]}


@pytest.mark.parametrize("kind", ["subdural", "epidural", "lobar", "pneumocephalus", "drain"])
def test_blood_air_and_drains_touch_the_skull(inside, kind):
    """All of them somewhere, each time elsewhere, and most of the brain stays as it was."""
    brain, seen = np.full(inside["inner"].shape, 30, np.float32), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ripple = synthetic.smooth_noise(brain.shape, rng, 7)
        hu = getattr(synthetic, kind)(brain, inside, ripple, 2.0, rng)
        changed = (np.abs(hu - brain) > 8) & (inside["inner"] < 0)
        seen.append((hu, changed))
        assert changed.mean() < 0.5 * (inside["inner"] < 0).mean()
    touching = [(changed & (inside["inner"] > -3)).any() for _, changed in seen]
    assert np.mean(touching) > 0.7
    values = np.concatenate([hu[changed] for hu, changed in seen])
    low, high = {"pneumocephalus": (-1001, 0), "drain": (30, 1200)}.get(kind, (-5, 120))
    assert low < values.min() and values.max() < high


def test_what_is_bright_in_the_mask_without_any_bone_is_labelled(cta, plain_ct):
    assert not (cta.hyperdense & ~cta.mask).any()
    assert set(np.unique(cta.labels)) == {0, 1, 2}
    assert ((cta.labels > 0) == cta.mask).all()
    bright = ndimage.gaussian_filter(cta.hu, 0.5)[cta.hyperdense]
    assert np.quantile(bright, 0.1) > 60
    # the same head without contrast: bone alone makes nothing hyperdense
    assert plain_ct.hyperdense.sum() < 0.02 * cta.hyperdense.sum()


def test_orbits_are_mostly_fat_and_sinuses_mostly_air(coarse):
    head = synthetic.phantom(0)
    for tissue, level in (("orbit", -95), ("sinus", -1000)):
        assert (head.tissue == synthetic.INDEX[tissue]).sum() > 500, tissue
        assert synthetic.TISSUES[tissue][1] == level


# ---------------------------------------------------------------- label maps


@pytest.fixture(scope="module")
def label_map(labels, tmp_path_factory, save_nifti_as):
    """The phantom's own labels at 2 mm, stored from right to left."""
    path = tmp_path_factory.mktemp("labels") / "head_01.nii.gz"
    return save_nifti_as(path, labels[::-2, ::2, ::2], np.diag([-2.0, 2, 2, 1]))


def test_a_label_map_becomes_a_scan(label_map, cta, coarse):
    made = synthetic.scan(0, labels=label_map, plain=True, phase="arterial", **coarse)
    assert made.about["source"] == "head_01"
    assert made.mask.sum() == pytest.approx(cta.mask.sum(), rel=0.05)
    assert dice(made.mask, cta.mask) > 0.9, "the same head, turned the same way"
    assert (made.hu[depth_of(made.mask, 2.5) > 5] > 800).mean() < 0.01


def test_label_files_are_found_in_order(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.txt", "d.nii.gz.part"):
        (tmp_path / name).touch()
    assert [p.name for p in synthetic.label_files(tmp_path)] == ["a.nii", "b.nii.gz"]


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="no label map"):
        synthetic.label_files(tmp_path)
    with pytest.raises(InputError, match="no label map"):
        synthetic.label_files(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "damaged", "no brain",
                                  "flat", "several"])  # fmt: skip
def test_what_is_no_label_map_is_refused_in_one_line(tmp_path, save_nifti_as, kind):
    path = tmp_path / f"{kind}.nii.gz"
    labels = np.random.default_rng(0).integers(0, 60, (20, 20, 20)).astype(np.int16)
    shapes = {"no brain": np.ones((8, 8, 8), np.int16), "flat": labels[0],
              "several": np.stack([labels] * 2, 3)}  # fmt: skip
    if kind != "missing":
        save_nifti_as(path, shapes.get(kind, labels))
    content = path.read_bytes() if path.exists() else b""
    if kind in ("empty", "text", "truncated", "damaged"):
        half = len(content) // 2
        path.write_bytes({"empty": b"", "text": b"no labels\n", "truncated": content[:half],
                          "damaged": content[:half] + b"\xff" * 64 + content[half + 64 :]}[kind])
    with pytest.raises(InputError) as caught:
        synthetic.scan(0, labels=path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_real_label_map_becomes_a_scan(shared, coarse):
    made = synthetic.scan(1, labels=synthetic.label_files(shared("labelmaps"))[0], plain=True,
                          phase="none", **coarse)  # fmt: skip
    assert ndimage.label(made.mask)[1] == 1
    assert 700 < made.mask.sum() * 2.5**3 / 1000 < 2500
    depth = depth_of(made.mask, 2.5)
    assert (made.hu[depth > 5] > BONE).mean() < 0.01
    beyond = depth_of(~made.mask, 2.5)
    assert (made.hu[(beyond > 0) & (beyond < 4)] > BONE).mean() > 0.4


# ---------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch, coarse):
    """Scans of the command line are as coarse as those of the tests."""
    fine = synthetic.scan
    monkeypatch.setattr(
        synthetic, "scan", lambda *args, **wanted: fine(*args, **wanted | coarse)
    )


def test_a_sample_is_a_cta_with_its_mask_beside_it(tmp_path, quick, cta):
    path = tmp_path / "new" / "head.nii.gz"
    mask_path = synthetic.write_sample(path, seed=0)
    assert mask_path == tmp_path / "new" / "head_mask.nii.gz"
    scan = read_volume(path)
    mask = read_mask(mask_path, scan)
    assert scan.hu.dtype == np.int16 and not scan.notes
    np.testing.assert_allclose(scan.hu, cta.hu, atol=0.51)
    np.testing.assert_array_equal(mask, cta.mask)
    assert nib.load(mask_path).get_data_dtype() == np.uint8
    assert sorted(p.name for p in path.parent.iterdir()) == ["head.nii.gz", "head_mask.nii.gz"]


def test_preview_draws_three_views_of_each_scan(tmp_path, quick):
    synthetic.preview(tmp_path / "sheet.png", count=1)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] >= 72 and sheet.shape[1] >= 3 * 80
    assert (np.ptp(sheet.astype(int), axis=2) > 30).any(), "the masks are drawn in colour"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to do"),
        (["--sample", "head.png"], r"head.png.*\.nii"),
        (["--preview", "x.png", "--labels", "nowhere"], "no label map"),
    ],
)
def test_a_wrong_command_is_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        synthetic.main(words)
    assert not list(tmp_path.iterdir())
