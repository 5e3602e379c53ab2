"""Synthetic brain tumours: nested, within the brain, seen as they should be, written as BraTS."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import data
import synthetic
from dataset.read import read_dataset, read_description, read_pair
from scan.cases import find_cases
from scan.read import read_case
from synthesis import tumour
from synthesis.head import find_label_maps, make_phantom
from synthesis.space import Look, pose_head
from synthesis.tumour import (
    CORE_VALUE,
    OEDEMA_VALUE,
    RIM_VALUE,
    SPEED,
    Tumour,
    TumourSize,
    arrival_time,
    grow_tumour,
    make_tumour,
    strip_skull,
    write_tumours,
)

SPACING = 3.0  # mm: soon made


@pytest.fixture(scope="module")
def made():
    """One case of the phantom."""
    return make_tumour(0, spacing=SPACING)


def test_a_case_is_like_one_of_brats(made):
    assert set(made.images) == {"t1", "t1ce", "t2", "flair"}
    assert made.labels.shape == (80, 80, 52), "240 x 240 x 155 mm"
    assert set(np.unique(made.labels)) == {0, 1, 2, 4}
    for image in made.images.values():
        assert image.dtype == np.int16 and image.shape == made.labels.shape
        np.testing.assert_array_equal(image > 0, made.brain)
    assert 400 < made.brain.sum() * SPACING**3 / 1000 < 2000  # mL
    faces = [made.brain.take(end, axis).any() for axis in range(3) for end in (0, -1)]
    assert not any(faces), "the whole brain is in the frame"


def test_regions_are_nested_and_within_the_brain(made):
    necrotic, enhancing = made.labels == CORE_VALUE, made.labels == RIM_VALUE
    whole = made.labels > 0
    core = necrotic | enhancing
    assert not (whole & ~made.brain).any()
    assert ndimage.label(core)[1] == ndimage.label(whole)[1] == 1, "each is of one piece"
    assert (core | ~ndimage.binary_dilation(necrotic)).all(), "a rim encloses all necrosis"
    # oedema or the brain's surface lies around the core
    around = ndimage.binary_dilation(core) & ~core & made.brain
    assert (made.labels[around] == OEDEMA_VALUE).mean() > 0.5
    volumes = [mask.sum() * SPACING**3 / 1000 for mask in (necrotic, enhancing, whole)]
    assert 0.2 < volumes[0] < 40 and 0.5 < volumes[1] < 60 and 5 < volumes[2] < 300  # mL


def test_each_part_is_seen_as_a_radiologist_knows_it(made):
    def level(name, mask):
        return float(np.median(made.images[name][mask]))

    necrotic, oedema, enhancing = (made.labels == label for label in (1, 2, 4))
    normal = made.brain & ~ndimage.binary_dilation(made.labels > 0, iterations=2)
    assert level("flair", oedema) > 1.3 * level("flair", normal), "oedema is bright on FLAIR"
    assert level("t2", oedema) > 1.2 * level("t2", normal)
    assert level("t1", oedema) < level("t1", normal)
    ratio = level("t1ce", enhancing) / level("t1ce", normal)
    assert ratio > 1.2 * level("t1", enhancing) / level("t1", normal), "the rim takes up contrast"
    assert level("t1ce", necrotic) < 0.7 * level("t1ce", enhancing)


def test_a_seed_gives_the_same_case_again_and_another_one_another():
    first, again = (make_tumour(0, spacing=6.0) for _ in range(2))
    for name in first.images:
        np.testing.assert_array_equal(first.images[name], again.images[name])
    np.testing.assert_array_equal(first.labels, again.labels)
    places, look = [], Look(6.0, width=240.0, length=200.0, tilt=5.0, above=-20.0)
    space = pose_head(make_phantom(0), look, np.random.default_rng(0))
    brain = strip_skull(space)
    for seed in range(6):
        size = TumourSize(core=14.0, oedema=12.0, rim=3.0)
        labels = grow_tumour(space, brain, size, np.random.default_rng(seed))
        places.append(ndimage.center_of_mass(labels > 0))
    assert np.ptp(places, axis=0).max() * 6 > 20, "tumours lie in many places (mm)"


def test_the_front_is_slower_in_grey_matter_and_stops_at_fluid():
    speed = np.ones((41, 21, 21), np.float32)
    speed[21:] = SPEED["grey"]
    speed[10:12] = 0  # fluid from wall to wall
    mass = np.zeros(speed.shape, bool)
    mass[16, 10, 10] = True
    time = arrival_time(speed, mass, reach=12.0, spacing=2.0)
    assert time[16, 10, 10] == 0
    assert time[18, 10, 10] == pytest.approx(4, abs=0.1)
    assert time[23, 10, 10] == pytest.approx(9 + 5 / SPEED["grey"], abs=2)
    assert (time[:10] > 12).all(), "beyond the fluid it does not come"
    assert time[16, 13, 13] == pytest.approx(6 * np.sqrt(2), rel=0.05)


def test_cases_are_written_as_brats_has_them(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tumour, "make_tumour", lambda seed, labels, spacing: made)
    folders = write_tumours(tmp_path, 2, seed=5, spacing=SPACING)
    assert [folder.name for folder in folders] == ["tumour_0005", "tumour_0006"]
    found, left_over = find_cases(tmp_path, ("flair", "t1ce", "t1", "t2"))
    assert len(found) == 2 and not left_over
    scan, image = read_case(found[0])
    assert image.shape[-1] == 4 and nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    np.testing.assert_allclose(scan.affine, made.affine)
    np.testing.assert_array_equal(image[..., 0], made.images["flair"])
    stored = nib.load(found[0].labels)
    assert nib.aff2axcodes(stored.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(nib.as_closest_canonical(stored).get_fdata(), made.labels)


WRITTEN = {  # a file of each case
    "2018": (
        "HGG/Brats18_TCIA08_000_1/Brats18_TCIA08_000_1_flair.nii.gz",
        "LGG/Brats18_TCIA09_001_1/Brats18_TCIA09_001_1_t1ce.nii.gz",
        "HGG/Brats18_TCIA08_002_1/Brats18_TCIA08_002_1_seg.nii.gz",
    ),
    "2020": (
        "BraTS20_Training_001/BraTS20_Training_001_flair.nii",
        "BraTS20_Training_002/BraTS20_Training_002_seg.nii",
        "BraTS20_Training_355/W39_1998.09.19_Segm.nii",
    ),
    "2021": tuple(f"BraTS2021_0000{n}/BraTS2021_0000{n}_flair.nii.gz" for n in range(3)),
    "2023": (
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
        "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz",
        "BraTS-GLI-00002-000/BraTS-GLI-00002-000-seg.nii.gz",
    ),
}


@pytest.mark.parametrize("layout", WRITTEN)
def test_one_command_slices_the_layout_of_each_year(made, layout, tmp_path, monkeypatch):
    monkeypatch.setattr(tumour, "make_tumour", lambda seed, labels, spacing: made)
    cases = tmp_path / "cases"
    synthetic.main(["--tumours", str(cases), "--count", "3", "--layout", layout])
    for name in WRITTEN[layout]:
        assert (cases / name).is_file()
    assert len(list(cases.rglob("*.nii*"))) == 15
    words = "--views axial --slices 4 --size 40"  # modalities and labels are found
    assert (
        data.main([str(cases), *words.split(), "--workers", "1", "--out", str(tmp_path / "o")]) == 0
    )
    pairs = [pair for split in read_dataset(tmp_path / "o").values() for pair in split]
    assert len({pair.case for pair in pairs}) == 3 and len(pairs) == 12
    values = read_description(tmp_path / "o").label_values
    assert sorted(values.values()) == [1, 2, 3 if layout == "2023" else 4]
    values = set(np.concatenate([np.unique(read_pair(pair)[1]) for pair in pairs]))
    assert {0, 2, 3} <= values, "oedema and rim, by their number in order"


def test_tumours_grow_in_label_maps_in_turn(tmp_path, monkeypatch):
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    asked, nothing = [], Tumour({}, np.zeros((1, 1, 1)), None, np.eye(4), {})
    monkeypatch.setattr(tumour, "make_tumour", lambda *given: asked.append(given) or nothing)
    write_tumours(tmp_path / "out", 4, tmp_path, seed=7)
    assert [(seed, path.name) for seed, path, _ in asked] == [
        (7, "a.nii.gz"),
        (8, "a.nii.gz"),
        (9, "b.nii.gz"),
        (10, "b.nii.gz"),
    ]


def test_a_real_label_map_grows_a_tumour(shared):
    path = find_label_maps(shared("labelmaps"))[0]
    made = make_tumour(1, path, spacing=3.0)
    assert made.about["source"] == path.name.split(".")[0]
    assert 800 < made.brain.sum() * 27 / 1000 < 2000  # mL
    assert set(np.unique(made.labels)) == {0, 1, 2, 4}
    assert not (made.labels.astype(bool) & ~made.brain).any()


def test_the_command_writes_cases(tmp_path, monkeypatch, capsys):
    fine = write_tumours
    monkeypatch.setattr(synthetic, "write_tumours", lambda *given: fine(*given, spacing=6.0))
    synthetic.main(["--tumours", str(tmp_path / "cases"), "--count", "1"])
    assert capsys.readouterr().out.split() == [str(tmp_path / "cases/tumour_0000")]
    names = sorted(path.name for path in (tmp_path / "cases/tumour_0000").iterdir())
    assert names == [f"tumour_0000_{kind}.nii.gz" for kind in ("flair", "seg", "t1", "t1ce", "t2")]
