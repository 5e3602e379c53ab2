"""Which slices and volumes of a scan are stored, and that they are the scan's."""

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import (
    all_pairs,
    contents,
    head,
    image_at,
    make_ct_set,
    make_mri_set,
    mri,
    save_mri,
    save_mri_pictures,
    save_scan,
    save_scans,
)
from nibabel import orientations

import data
from common.card import to_stored_values
from common.files import read_json
from dataset.options import Options
from dataset.read import read_dataset, read_description, read_pair
from dataset.slices import COARSER, choose_box, choose_slices, find_hyperdense, widen
from scan.cases import find_cases
from scan.picture import read_channels
from scan.read import read_case
from scan.resample import straighten, unstraighten
from scan.views import brain_of, fit_labels, fit_square, normalise, stack
from scan.volume import POSITIONS
from testing.find import list_originals


def test_chosen_slices_keep_to_the_limit_and_the_share_of_empty_ones():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        has_brain = rng.random(rng.integers(1, 60)) < rng.uniform(0.05, 1)
        limit, empty = [None, 1, 7, 30][seed % 4], [0, 0.15, 0.5, 1][seed // 4 % 4]
        chosen = choose_slices(has_brain, limit, empty, rng)
        assert (np.diff(chosen) > 0).all()
        assert len(chosen) <= (limit or 60)
        if has_brain.any():
            assert np.count_nonzero(~has_brain[chosen]) <= empty * len(chosen) + 1e-9
            assert len(chosen) or empty == 1
        if empty == 1 and limit is None:
            assert len(chosen) == len(has_brain)


def test_all_slices_with_brain_are_kept_without_a_limit():
    has_brain = np.arange(100) > 30
    chosen = choose_slices(has_brain, None, 0.1, np.random.default_rng(0))
    assert np.count_nonzero(has_brain[chosen]) == has_brain.sum()
    assert len(chosen) > has_brain.sum()


# ---------------------------------------------------------------- slices of CT


def test_what_is_bright_in_a_mask_is_found_as_a_synthetic_scan_tells_it(cta, plain_ct):
    """Vessels full of contrast are; bone that shines into the mask's edge is not."""
    found = find_hyperdense(cta.mask, cta.hu, np.diag(cta.affine)[:3])
    assert not (found & ~cta.mask).any()
    both = np.count_nonzero(found & cta.hyperdense)
    assert 2 * both / (np.count_nonzero(found) + np.count_nonzero(cta.hyperdense)) > 0.5
    found = find_hyperdense(plain_ct.mask, plain_ct.hu, np.diag(plain_ct.affine)[:3])
    assert np.count_nonzero(found) < 0.005 * np.count_nonzero(plain_ct.mask)


def test_pictures_show_the_scan_in_its_window_and_square_pixels(tmp_path):
    hu, mask = head()
    save_scan(hu, tmp_path / "a.nii", np.diag([2.0, 1.0, 4.0, 1.0]))
    save_scan(mask, tmp_path / "a_mask.nii", np.diag([2.0, 1.0, 4.0, 1.0]))
    seen = ["--size", 40, "--views", "axial", "--window", 0, 1000]
    make_ct_set(tmp_path, tmp_path / "out", *seen)
    image = image_at(tmp_path / "out/Train/images/a_axial_0008.png")
    # 20 x 26 voxels of 2 x 1 mm are 40 x 26 mm: every voxel two pixels wide, one high
    columns = (np.arange(40) + 0.5) / 2 - 0.5
    rows = [np.interp(columns, np.arange(20), row) for row in stack(hu, "axial")[8]]
    np.testing.assert_allclose(image[7:33] / 255, np.clip(np.array(rows) / 1000, 0, 1), atol=0.01)
    assert not image[:7].any() and not image[33:].any()
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert (rows.spacing_mm == 1).all()


def test_hu_pictures_give_the_scan_back(tmp_path):
    hu, mask = head(shape=(32, 32, 12))
    save_scan(hu, tmp_path / "a.nii")
    save_scan(mask, tmp_path / "a_mask.nii")
    make_ct_set(tmp_path, tmp_path / "out", "--window", "hu", "--views", "axial", "--empty", 1)
    for pair in read_dataset(tmp_path / "out")["Train"]:
        image, read_mask = read_pair(pair)
        index = int(pair.image.stem[-4:])
        np.testing.assert_array_equal(image, stack(hu, "axial")[index])
        np.testing.assert_array_equal(read_mask, stack(mask, "axial")[index])
        assert (pair.case, pair.view) == ("a", "axial")


def test_a_small_picture_stands_in_air_and_a_wide_one_stays():
    picture = np.ones((4, 6), np.float32)
    wide = widen(picture, (1.0, 0.5), 7.0, -1024)  # 4 x 3 mm
    np.testing.assert_array_equal(wide[1:5], picture)
    assert wide.shape == (7, 6) and (wide[[0, 5, 6]] == -1024).all()
    assert widen(picture, (1.0, 0.5), 3.0, -1024).shape == (4, 6)


def test_slices_to_fine_tune_on_have_the_pixels_of_a_prediction(tmp_path, start):
    """Those of the network, a fifth smaller, and now and then as coarse as where a head is looked
    for."""
    hu, mask = head()
    save_scan(hu, tmp_path / "a.nii")
    save_scan(mask, tmp_path / "a_mask.nii")
    options = ["--like", start, "--workers", 1, "--trust-masks", "--slices", 100]
    data.main([*map(str, [tmp_path, "--out", tmp_path / "out", *options])])
    about = read_description(tmp_path / "out")
    pixels = pd.read_csv(tmp_path / "out/manifest.csv").spacing_mm
    fine = about.field_mm / about.size
    assert about.field_mm == 32 * 2.5
    np.testing.assert_allclose(np.unique(pixels), [fine, COARSER * fine], rtol=1e-3)
    assert 0.1 < (pixels > 1.5 * fine).mean() < 0.5
    (pair,) = list_originals(about, about.splits["Train"])
    assert pair.image == tmp_path / "a.nii" and pair.mask == tmp_path / "a_mask.nii"
    assert list_originals(about, about.splits["Val"]) == []


def stored_as(array, codes):
    """The array with axes running to `codes`, and its affine."""
    ends = map(orientations.axcodes2ornt, ("RAS", codes))
    turn = orientations.ornt_transform(*ends)
    affine = orientations.inv_ornt_aff(turn, array.shape)
    return orientations.apply_orientation(array, turn), affine


@pytest.mark.parametrize("coded", [True, False])
def test_a_head_stored_in_any_position_gives_the_same_pngs(tmp_path, coded):
    hu, mask = head()
    results = []
    for position, codes in POSITIONS.items():
        folder = tmp_path / position
        for name, array in (("a", hu), ("a_mask", mask)):
            stored, affine = stored_as(array, codes)
            save_scan(stored, folder / f"{name}.nii.gz", affine, coded)
        make_ct_set(folder, folder / "out", *([] if coded else ["--position", position]))
        written = contents(folder / "out")
        results.append({name: b for name, b in written.items() if name != "dataset.json"})
    assert len(results) == 8 and len(results[0]) > 60
    assert all(result == results[0] for result in results)


def test_tilted_scans_are_straightened(tmp_path):
    shape = (30, 30, 24)
    tilted = np.diag([1.0, 1.0, 2.0, 1.0])
    tilted[1, 2] = 0.6  # each slice 0.6 mm further to the front
    world = nib.affines.apply_affine(tilted, np.moveaxis(np.indices(shape), 0, -1))
    ball = np.linalg.norm(world - world.mean((0, 1, 2)), axis=-1) < 11
    save_scan(np.where(ball, 40, -1000), tmp_path / "a.nii", tilted)
    save_scan(ball, tmp_path / "a_mask.nii", tilted)
    make_ct_set(tmp_path, tmp_path / "out", "--views", "sagittal", "--size", 64)
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    middle = rows.loc[rows.brain_pixels.idxmax()]
    mask = image_at(tmp_path / "out" / middle["mask"]) > 0
    y, x = np.nonzero(mask)
    covariance = np.cov(y, x)
    assert abs(covariance[0, 1]) < 0.05 * covariance[0, 0]  # round again, not slanted
    assert covariance[0, 0] == pytest.approx(covariance[1, 1], rel=0.15)


# ---------------------------------------------------------------- slices of MRI


def in_cube(image, labels, size):
    """An MRI and its labels in a cube around the brain, by whole voxels."""
    brain = np.argwhere(image.any(-1))
    low, high = brain.min(0), brain.max(0) + 1
    start = np.rint((size - (high - low)) / 2 - 1e-6).astype(int)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    place = tuple(slice(a, a + n) for a, n in zip(start, high - low, strict=True))
    cubes = (
        np.zeros((size,) * 3 + image.shape[3:], image.dtype),
        np.zeros((size,) * 3, labels.dtype),
    )
    for cube, array in zip(cubes, (image, labels), strict=True):
        cube[place] = array[inside]
    return cubes


def test_slices_hold_the_scan_and_labels_that_come_back_as_they_were(tmp_path):
    make_mri_set(save_mri(tmp_path / "cases", 3), tmp_path / "out", "--empty", 1)

    for pair in all_pairs(tmp_path / "out"):
        image, mask = read_pair(pair)
        assert image.shape == (30, 30, 2) and image.dtype == mask.dtype == np.uint8
        raw, labels = mri(int(pair.case[-1]))
        # stored from left to right and front to back: both are turned on the way in
        seen, truth = in_cube(normalise(raw[::-1, ::-1], "zscore"), labels[::-1, ::-1], 30)
        index = int(pair.image.stem[-4:])
        np.testing.assert_array_equal(image, np.rint(stack(seen, pair.view)[index] * 255))
        wanted = stack(truth, pair.view)[index]
        np.testing.assert_array_equal(to_stored_values(mask, (1, 2, 4)), wanted)
    rows = pd.read_csv(tmp_path / "out/manifest.csv").query("view == 'axial'")  # as large as they
    counts = rows.groupby("case").enhancing_tumour_pixels.sum()
    assert (counts == [(mri(index)[1] == 4).sum() for index in range(3)]).all()


def test_slices_that_say_little_are_dropped(tmp_path):
    cases = save_mri(tmp_path / "cases", 3)
    make_mri_set(cases, tmp_path / "all", "--empty", 1, "--views", "axial")
    rows = pd.read_csv(tmp_path / "all/manifest.csv")
    labelled = rows.oedema_pixels + rows.enhancing_tumour_pixels + rows.necrotic_core_pixels
    pictures = [read_pair(pair)[0] for pair in all_pairs(tmp_path / "all")]
    shown = [np.count_nonzero(picture.any(axis=-1)) for picture in pictures]
    assert min(shown) >= 0.01 * 30 * 30 and (labelled == 0).any()
    make_mri_set(cases, tmp_path / "few", "--empty", 1, "--views", "axial", "--least", 0.1)
    few = pd.read_csv(tmp_path / "few/manifest.csv")
    enough = (labelled == 0) | (labelled >= 0.1 * 30 * 30)
    assert list(few.image) == list(rows.image[enough]) and len(few) < len(rows)
    make_mri_set(cases, tmp_path / "mid", "--empty", 1, "--views", "axial", "--range", 0.25, 0.5)
    middle = pd.read_csv(tmp_path / "mid/manifest.csv")["index"]
    brain = np.flatnonzero(in_cube(*mri(), 30)[0].any((0, 1, 3)))
    depths = (middle - brain[0] + 0.5) / len(brain)
    assert len(brain) == 21 and sorted(set(np.rint(depths * 21 - 0.5))) == [5, 6, 7, 8, 9]


def test_labels_that_were_not_asked_for_are_said(tmp_path, capsys):
    make_mri_set(save_mri(tmp_path / "cases", 3), tmp_path / "out", "--labels", 1, 4)
    said = capsys.readouterr().err
    assert "case0: case0_seg.nii.gz also holds 2, here taken as background" in said
    assert read_description(tmp_path / "out").label_values == {1: 1, 2: 4}


def test_a_case_of_black_pictures_gives_its_labelled_slices_where_masks_are_trusted(tmp_path):
    folder = save_mri_pictures(tmp_path / "lgg", cases=2)
    for path in folder.glob("P0/P0_?.tif"):
        cv2.imwrite(str(path), image_at(path) * 0)
    what = ["--channels", "t1", "flair", "t1ce", "--size", 32, "--trust-masks"]
    make_mri_set(folder, tmp_path / "out", *what)
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"P0", "P1"}


@pytest.mark.parametrize("form", ["png", "tfrecord"])
def test_slices_in_pictures_become_a_dataset(tmp_path, form):
    folder = save_mri_pictures(tmp_path / "lgg")
    what = ["--channels", "t1", "flair", "t1ce", "--labels", 255, "--size", 32, "--format", form]
    make_mri_set(folder, tmp_path / "out", *what)
    about = read_json(tmp_path / "out/dataset.json")
    assert about["labels"] == {"1": "tumour"} and about["views"] == ["slice"]
    assert about["normalise"] == "minmax" and about["channels"] == ["t1", "flair", "t1ce"]
    pairs = all_pairs(tmp_path / "out")
    assert {pair.case for pair in pairs} == {"P0", "P1", "P2"} and len(pairs) == 24
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert sorted(rows["index"][rows.case == "P0"]) == list(range(1, 9))
    for pair, index in zip(pairs, rows["index"], strict=True):
        image, mask = read_pair(pair)
        assert image.shape == (32, 32, 3) and mask.dtype == bool
        name = folder / pair.case / f"{pair.case}_{index}"
        wanted, _ = fit_square(read_channels(f"{name}.tif", 3), 32)
        np.testing.assert_array_equal(image, wanted)
        truth, _ = fit_labels(image_at(f"{name}_mask.tif"), 32)
        np.testing.assert_array_equal(mask, truth > 0)


# ---------------------------------------------------------------- volumes


def the_volume(folder):
    (pair,) = read_dataset(folder)["Train"]
    return read_pair(pair)


def test_a_cropped_volume_holds_the_very_voxels(tmp_path):
    make_mri_set(save_mri(tmp_path / "cases", 1), tmp_path / "out", "--dimensions", 3, "--grid", 32)
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (32, 32, 32, 2) and mask.shape == (32, 32, 32)
    raw, labels = mri()
    raw, labels = raw[::-1, ::-1], labels[::-1, ::-1]
    seen = np.rint(normalise(raw, "zscore") * 255).astype(np.uint8)
    boxes = [
        tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(array.any(-1)))
        for array in (image, seen)
    ]
    np.testing.assert_array_equal(image[boxes[0]], seen[boxes[1]])
    np.testing.assert_array_equal(mask[boxes[0]], np.array([0, 1, 2, 0, 3])[labels[boxes[1]]])
    middle = [(part.start + part.stop) / 2 for part in boxes[0]]
    assert np.abs(np.array(middle) - 16).max() <= 1, "the brain lies in the middle"
    about = read_json(tmp_path / "out/dataset.json")
    assert about["grid"] == [32, 32, 32] and about["fit"] == "crop" and about["spacing_mm"] == 1
    assert about["format"] == "tfrecord" and about["views"] == ["volume"] and "size" not in about


@pytest.mark.parametrize("where", [(-5, 0, 0), (5, 6, -4)])
def test_a_brain_larger_than_the_grid_is_cropped_around_its_tumour(tmp_path, where):
    cases = save_mri(tmp_path / "cases", 1, where=where)
    make_mri_set(cases, tmp_path / "out", "--dimensions", 3, "--grid", 16)
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (16, 16, 16, 2)
    labels = mri(where=where)[1]
    assert np.count_nonzero(mask) == np.count_nonzero(labels)
    for axis in range(3):  # no slice of the grid is wasted on what lies beyond the brain
        assert image.any(-1).any(tuple(a for a in range(3) if a != axis)).all()


@pytest.mark.parametrize("grid", [16, 48])
def test_a_resized_volume_comes_back_to_the_scans_grid(tmp_path, grid):
    cases = save_mri(tmp_path / "cases", 1)
    make_mri_set(cases, tmp_path / "out", "--dimensions", 3, "--grid", grid, "--fit", "resize")
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (grid,) * 3 + (2,) and set(np.unique(mask)) == {0, 1, 2, 3}
    assert image.any(-1).any((0, 2)).all(), "the longest side fills the grid"
    (found,), _ = find_cases(cases, ["flair", "t1ce"])
    scan, raw = read_case(found)
    shown = brain_of(raw)
    options = Options(window="zscore", fit="resize", grid=(grid,) * 3)
    box, spacing = choose_box(shown, shown, scan, options)
    cubes, lattice = straighten(shown, scan, spacing, box, outside=0)
    assert cubes.shape == (grid,) * 3
    back = unstraighten(mask == 2, lattice, scan) > 0.5
    truth = mri()[1][::-1, ::-1] == 2
    overlap = 2 * (back & truth).sum() / (back.sum() + truth.sum())
    assert overlap > (0.75 if grid == 16 else 0.97)
    assert read_json(tmp_path / "out/dataset.json")["spacing_mm"] is None


def test_thick_slices_become_cubes_and_labels_stay_labels(tmp_path):
    image, labels = mri()
    thick = np.diag([1.0, 1, 3, 1])
    for name, array in (("flair", image[..., 0]), ("t1ce", image[..., 1]), ("seg", labels)):
        path = tmp_path / "cases/a" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array[..., ::3], thick), path)
    make_mri_set(tmp_path / "cases", tmp_path / "out", "--dimensions", 3, "--grid", 32)
    volume_, mask = the_volume(tmp_path / "out")
    extents = [np.ptp(np.nonzero(volume_.any(-1))[axis]) for axis in range(3)]
    brain = [np.ptp(np.nonzero(image.any(-1))[axis]) for axis in range(3)]
    assert np.abs(np.subtract(extents, brain)).max() <= 3
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert np.count_nonzero(mask) == 3 * np.count_nonzero(labels[..., ::3]), "each slice thrice"


def test_volumes_with_too_little_labelled_are_left_out(tmp_path):
    cases = save_mri(tmp_path / "cases", 3)
    tiny = mri(1)[1] * 0
    tiny[12:14, 14, 12] = 4
    nib.save(nib.Nifti1Image(tiny, np.diag([-1, -1, 1, 1])), cases / "case1/case1_seg.nii.gz")
    make_mri_set(cases, tmp_path / "out", "--dimensions", 3, "--grid", 16, "--least", 0.01)
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"case0", "case2"}


def test_a_ct_can_be_stored_as_volumes_too(tmp_path):
    scans = save_scans(tmp_path / "scans", 1)
    make_ct_set(scans, tmp_path / "out", "--dimensions", 3, "--grid", 32)
    image, mask = the_volume(tmp_path / "out")
    hu, truth = head()
    assert image.shape == (32, 32, 32, 1) and mask.dtype == bool
    assert np.count_nonzero(mask) == np.count_nonzero(truth)
    wanted = np.rint(normalise(hu[truth]) * 255)
    np.testing.assert_array_equal(np.sort(image[..., 0][mask]), np.sort(wanted))
