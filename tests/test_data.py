"""Slicing, pairing, splitting, reading and augmenting; on toy scans of a few thousand voxels."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel import orientations

import cases
import data
import errors
import volume
from errors import InputError
from picture import TINTED, read_noted, read_picture, to_grey

SHAPE = (20, 26, 16)


def head(seed=0, shape=SHAPE):
    """A lopsided ball of 40 HU in a shell of 900 HU in air, and the ball as mask; (X, Y, Z)."""
    x, y, z = np.indices(shape) - (np.array(shape) / 2)[:, None, None, None]
    radius = np.sqrt((x / shape[0]) ** 2 + (y / shape[1]) ** 2 + ((z - 2) / shape[2]) ** 2)
    hu = np.select([radius < 0.3, radius < 0.4], [40, 900], -1000).astype(np.int16)
    hu += np.random.default_rng(seed).integers(-9, 10, shape, np.int16)
    hu[12:14, 18:20, 9:12] = 300  # unlike its mirror images
    return hu, radius < 0.3


def save(array, path, affine=None, coded=True):
    image = nib.Nifti1Image(array.astype(np.int16), np.eye(4) if affine is None else affine)
    if not coded:
        image.header["sform_code"] = image.header["qform_code"] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def save_scans(folder, count=4, affine=None):
    for i in range(count):
        hu, mask = head(i)
        save(hu, folder / f"case{i}.nii.gz", affine)
        save(mask, folder / f"case{i}_mask.nii.gz", affine)
    return folder


def make(scans, out, *more):
    size = [] if "--dimensions" in more else ["--size", "32"]
    return data.main([str(scans), "--out", str(out), *size, "--jobs", "1", *map(str, more)])


def contents(folder):
    """Every file of a folder and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def image_at(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# ---------------------------------------------------------------- one picture


def test_stack_shows_each_view_as_a_radiologist_sees_it():
    array = np.zeros((4, 5, 6))
    array[3, 4, 5] = 1  # the rightmost, frontmost, topmost voxel
    for view, (n, row, column) in {
        "axial": (5, 0, 0), "coronal": (4, 0, 0), "sagittal": (3, 0, 0)
    }.items():  # fmt: skip
        pictures = data.stack(array, view)
        assert np.argwhere(pictures).tolist() == [[n, row, column]], view
    assert data.stack(array, "axial").shape == (6, 5, 4)
    assert data.stack(array, "coronal").shape == (5, 6, 4)
    assert data.stack(array, "sagittal").shape == (4, 6, 5)


@pytest.mark.parametrize("view", data.VIEWS)
def test_unstack_is_the_inverse_of_stack(view):
    array = np.random.default_rng(0).random((4, 5, 6))
    there = data.stack(array, view)
    assert np.shares_memory(there, array)
    np.testing.assert_array_equal(data.unstack(there, view), array)


def test_stack_givenan_unknown_view():
    for function in (data.stack, data.unstack):
        with pytest.raises(InputError, match="oblique"):
            function(np.zeros((2, 2, 2)), "oblique")


def test_normalise():
    hu = np.array([-2000, -200, 300, 800, 3000], np.int16)
    np.testing.assert_allclose(data.normalise(hu), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(data.normalise(hu, (0, 600)), [0, 0, 0.5, 1, 1])
    assert data.normalise(hu).dtype == np.float32
    picture = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(data.normalise(picture, (0, 80)), [0, 0.2, 1])


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (64, 64)])
def test_unfit_is_the_inverse_of_fit(shape):
    picture = np.random.default_rng(0).random(shape, np.float32)
    square, place = data.fit(picture, 64)
    assert square.shape == (64, 64)
    np.testing.assert_array_equal(data.unfit(square, place), picture)  # no scaling: exact


def test_unfit_after_scaling_comes_close():
    y, x = np.mgrid[:90, :150] / 150
    picture = (np.sin(4 * x) + y).astype(np.float32)
    for size in (64, 256):
        square, place = data.fit(picture, size, spacing=(2.0, 0.9))
        back = data.unfit(square, place)
        assert back.shape == picture.shape
        assert np.abs(back - picture)[3:-3, 3:-3].max() < 0.03


def test_fit_makes_pixels_square_and_pads_with_what_is_told():
    square, place = data.fit(np.full((10, 40), 7, np.int16), 80, spacing=(5, 0.5), outside=-1024)
    assert (place.height, place.width) == (80, 32)
    assert square.dtype == np.float32
    assert (square[:, 24:56] == 7).all()
    assert (square[:, :24] == -1024).all() and (square[:, 56:] == -1024).all()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("size", [33, 50, 128])
def test_fitted_masks_are_strictly_0_or_255_and_keep_their_area(kind, size):
    y, x = np.mgrid[:60, :50]
    mask = np.hypot(y - 30, x - 25) < 20
    fitted, place = data.fit(mask.astype(kind) * kind(1), size, is_mask=True)
    assert fitted.dtype == np.uint8 and set(np.unique(fitted)) == {0, 255}
    scale = size / 60
    assert np.count_nonzero(fitted) == pytest.approx(mask.sum() * scale**2, rel=0.03)


def test_fitted_mask_is_thresholded_at_half_of_the_area():
    mask = np.zeros((4, 4))
    mask[0, 0] = 1  # a quarter of the first of four pixels
    mask[2:, :1] = 1  # half of the third
    fitted, _ = data.fit(mask, 2, is_mask=True)
    assert fitted.tolist() == [[0, 0], [255, 0]]


# ---------------------------------------------------------------- picture files


def test_read_picture_takes_grey_of_any_kind(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
    for name, stored in {
        "grey.png": grey, "rgb.png": np.dstack([grey] * 3), "rgba.png": np.dstack([grey] * 4),
    }.items():  # fmt: skip
        cv2.imwrite(str(tmp_path / name), stored)
        read = data.read_picture(tmp_path / name)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, grey)


def test_read_picture_knows_hu_by_its_twelve_bits(tmp_path):
    hu = np.array([[-1024, 0], [40, 3071]])
    data.write_picture(tmp_path / "hu.png", (hu + 1024).astype(np.uint16))
    read = data.read_picture(tmp_path / "hu.png")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, hu)
    data.write_picture(tmp_path / "other.png", np.array([[0, 257, 65535]], np.uint16))
    assert data.read_picture(tmp_path / "other.png").tolist() == [[0, 1, 255]]


def test_read_picture_allows_coloured_letters_but_no_photo(tmp_path):
    slice_ = np.full((100, 100, 3), 90, np.uint8)
    slice_[2:10, 2:20] = (0, 255, 255)
    cv2.imwrite(str(tmp_path / "letters.png"), slice_)
    assert data.read_picture(tmp_path / "letters.png")[50, 50] == 90
    slice_[:, :50], slice_[50:] = (200, 60, 20), (30, 160, 200)
    cv2.imwrite(str(tmp_path / "photo.png"), slice_)
    with pytest.raises(InputError, match="photo.png is a colour picture"):
        data.read_picture(tmp_path / "photo.png")


RAMP = np.arange(256)[:, None] * np.ones(3)
TINTS = {  # what a grey level becomes, (256, 3) blue, green, red
    "a cast": RAMP * (0.8, 0.9, 1),
    "sepia": np.minimum(255, RAMP * (0.937, 1.203, 1.351)),
    "a blue film": 60 * np.float64([1, 0.4, 0.2]) + RAMP * (0.7, 0.6, 0.5),
    "blue alone": RAMP * (1, 0, 0),
}
MAPS = {name: cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], code)[:, 0].astype(float)
        for name, code in {"jet": cv2.COLORMAP_JET, "heat": cv2.COLORMAP_HOT,
                           "viridis": cv2.COLORMAP_VIRIDIS}.items()}  # fmt: skip


@pytest.fixture
def grey_slice(cta):
    """An axial slice of the phantom in a brain window, (H, W) uint8."""
    picture = data.stack(cta.hu, "axial")[int(cta.mask.sum((0, 1)).argmax())]
    grey = np.rint(255 * data.normalise(picture, (-20, 120))).astype(np.uint8)
    return cv2.resize(grey, None, fx=3, fy=3)


def coloured(grey, levels, letter=False):
    """A grey picture whose levels become colours (256, 3); with a yellow letter, if wanted."""
    picture = np.rint(levels[grey]).astype(np.uint8)
    return cv2.putText(picture, "R", (9, 40), 0, 1, (0, 255, 255), 2) if letter else picture


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("letter", [False, True], ids=["", "letter"])
@pytest.mark.parametrize("tint", TINTS)
def test_a_tinted_picture_is_read_as_grey_with_a_note(tmp_path, grey_slice, tint, letter, ending):
    path = tmp_path / f"tinted{ending}"
    picture = coloured(grey_slice, TINTS[tint], letter)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 50])
    read, notes = read_noted(path)
    assert notes == (TINTED,) and read.dtype == np.uint8
    seen = read[50:].ravel(), grey_slice[50:].ravel()  # below the letter
    assert np.corrcoef(*seen)[0, 1] > 0.98 and read.max() > 200


@pytest.mark.parametrize("colours", MAPS)
def test_a_slice_in_a_colour_map_is_refused(tmp_path, grey_slice, colours):
    cv2.imwrite(str(tmp_path / "map.png"), coloured(grey_slice, MAPS[colours]))
    with pytest.raises(InputError, match="map.png is a colour picture"):
        data.read_picture(tmp_path / "map.png")


@pytest.mark.parametrize("quality", [50, 95])
def test_a_photo_of_several_hues_is_refused(tmp_path, quality):
    """Patches of sky, leaves, brick and skin, each lit unevenly."""
    hues = np.float32([[200, 150, 90], [50, 120, 60], [60, 70, 170], [140, 170, 220]])
    light = np.linspace(0.4, 1, 100)[:, None, None]
    photo = np.hstack([np.tile(light * hue, (1, 40, 1)) for hue in hues]).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
    with pytest.raises(InputError, match="photo.jpg is a colour picture"):
        data.read_picture(tmp_path / "photo.jpg")


def test_grey_stored_in_colour_gets_no_note(tmp_path, grey_slice):
    for name in ("grey.png", "grey.jpg"):
        cv2.imwrite(str(tmp_path / name), np.dstack([grey_slice] * 3))
        assert read_noted(tmp_path / name)[1] == ()


def test_colours_of_16_bits_and_of_any_size_are_read(tmp_path):
    for size in ((1, 1), (1, 3000), (2000, 2)):
        grey = np.linspace(0, 65535, size[0] * size[1]).reshape(*size, 1)
        data.write_picture(tmp_path / "x.png", np.rint(grey * (1, 0.9, 0.8) / 257).astype(np.uint8))
        assert read_picture(tmp_path / "x.png").shape == size
        tinted = np.rint(grey * (0.8, 0.9, 1)).astype(np.uint16)
        read, _ = to_grey(tinted, tmp_path / "x.png")
        assert read.dtype == np.uint16 and read.shape == size


def test_many_tinted_pictures_print_nothing(tmp_path, grey_slice, capfd):
    for name, values in {"image": coloured(grey_slice, TINTS["sepia"]), "mask": grey_slice}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
    pair = data.Pair(tmp_path / "image.png", tmp_path / "mask.png")
    assert data.read_pair(pair)[0].shape == grey_slice.shape
    assert capfd.readouterr() == ("", "")


def bad_pictures():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    jpg = cv2.imencode(".jpg", noise)[1].tobytes()
    return {
        "empty.png": (b"", "is empty"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.jpg": (jpg[: len(jpg) // 2], "truncated"),
        "text.png": (b"not a picture at all", "no picture"),
    }


@pytest.mark.parametrize("name", bad_pictures())
def test_bad_pictures_are_named_in_one_line(tmp_path, name):
    content, said = bad_pictures()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        data.read_picture(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_opencv_adds_no_lines_of_its_own(tmp_path, capfd):
    tiff = cv2.imencode(".tif", np.zeros((64, 64), np.uint8))[1].tobytes()
    (tmp_path / "half.tif").write_bytes(tiff[: len(tiff) // 2])
    with pytest.raises(InputError, match="no picture"):
        data.read_picture(tmp_path / "half.tif")
    assert capfd.readouterr().err == ""


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png"):
        data.read_picture(tmp_path / "nowhere.png")


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 0)])
def test_mask_pictures_of_any_white_are_read(tmp_path, values):
    stored = np.full((6, 6), values[0], np.uint8)
    stored[2:4, 2:4] = values[1]
    data.write_picture(tmp_path / "mask.png", stored)
    assert data.read_mask_picture(tmp_path / "mask.png").sum() == (4 if values[1] else 0)


# ---------------------------------------------------------------- pairing


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(pairs):
    return [(case, scan.name, mask.name) for case, scan, mask in pairs]


@pytest.mark.parametrize("ending", ["_ROI", "_mask", "_seg", "_Mask", "-seg", "_brain_mask"])
def test_pairs_in_one_folder(tmp_path, ending):
    touch(tmp_path / "b.nii.gz", tmp_path / f"b{ending}.nii.gz", tmp_path / f"a{ending}.nii")
    touch(tmp_path / "a.nii")
    pairs, left_over = data.find_pairs(tmp_path)
    assert names(pairs) == [
        ("a", "a.nii", f"a{ending}.nii"), ("b", "b.nii.gz", f"b{ending}.nii.gz"),
    ]  # fmt: skip
    assert left_over == []


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("CTA images", "brain masks"), ("Images", "MASKS")]
)
@pytest.mark.parametrize("given_together", [True, False])
def test_pairs_in_two_folders(tmp_path, folders, given_together):
    images, masks = (tmp_path / name for name in folders)
    touch(images / "P1.nii.gz", images / "p10.nii.gz", images / "p2.nii.gz")
    touch(masks / "p1.nii.gz", masks / "p10_ROI.nii.gz", masks / "p2.nii")
    pairs, left_over = data.find_pairs(*([tmp_path] if given_together else [images, masks]))
    assert sorted(names(pairs)) == [
        ("P1", "P1.nii.gz", "p1.nii.gz"), ("p10", "p10.nii.gz", "p10_ROI.nii.gz"),
        ("p2", "p2.nii.gz", "p2.nii"),
    ]  # fmt: skip
    assert left_over == []


def test_every_file_without_one_partner_is_named(tmp_path):
    given = ["good", "good_mask", "lonely", "orphan_mask", "twice", "twice_mask", "twice_seg"]
    for name in given:
        touch(tmp_path / f"{name}.nii.gz")
    touch(tmp_path / "notes.txt")
    pairs, left_over = data.find_pairs(tmp_path)
    assert names(pairs) == [("good", "good.nii.gz", "good_mask.nii.gz")]
    said = "\n".join(left_over)
    assert len(left_over) == 3
    for part in ("lonely.nii.gz: no mask", "orphan_mask.nii.gz: no scan", "several masks"):
        assert part in said


def test_two_scans_of_one_name_are_left_out(tmp_path):
    touch(*(tmp_path / n for n in ("x.nii", "x.nii.gz", "x_mask.nii", "y.nii", "y_seg.nii")))
    pairs, left_over = data.find_pairs(tmp_path)
    assert [case for case, *_ in pairs] == ["y"]
    assert len(left_over) == 2 and "same name" in left_over[0]


def test_pairs_never_by_position(tmp_path):
    touch(tmp_path / "images/a.nii", tmp_path / "images/b.nii")
    touch(tmp_path / "masks/b.nii", tmp_path / "masks/c.nii")
    pairs, left_over = data.find_pairs(tmp_path)
    assert names(pairs) == [("b", "b.nii", "b.nii")]
    assert len(left_over) == 2


def test_one_scan_finds_its_mask_beside_it_or_takes_the_one_given(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "a_mask.nii", tmp_path / "b.nii", tmp_path / "drawn.nii")
    assert names(data.find_pairs(tmp_path / "a.nii")[0]) == [("a", "a.nii", "a_mask.nii")]
    given = data.find_pairs(tmp_path / "b.nii", tmp_path / "drawn.nii")[0]
    assert names(given) == [("b", "b.nii", "drawn.nii")]
    with pytest.raises(InputError, match="found no mask"):
        data.find_pairs(tmp_path / "b.nii")


def test_dicom_folders_pair_with_nifti_masks(tmp_path):
    touch(tmp_path / "scans/p1/0001.dcm", tmp_path / "scans/p2/0001.dcm")
    touch(tmp_path / "masks/p1.nii.gz", tmp_path / "masks/p2_mask.nii.gz")
    pairs, left_over = data.find_pairs(tmp_path)
    assert names(pairs) == [("p1", "p1", "p1.nii.gz"), ("p2", "p2", "p2_mask.nii.gz")]
    assert left_over == []
    one = data.find_pairs(tmp_path / "scans/p1", tmp_path / "masks/p1.nii.gz")[0]
    assert names(one) == [("p1", "p1", "p1.nii.gz")]


# ---------------------------------------------------------------- splits and slices


def test_splits_are_by_case_whole_and_repeatable():
    shares = (80, 10, 10)
    for seed in range(40):
        count = seed + 1
        cases = [f"c{i}" for i in range(count)]
        splits = data.split_cases(cases, seed, shares)
        assert sorted(sum(splits.values(), [])) == sorted(cases)  # each once, none lost
        assert splits == data.split_cases(cases[::-1] * 2, seed, shares)
        sizes = [len(splits[s]) for s in data.SPLITS]
        if count >= 10:
            assert np.abs(np.array(sizes) - count * np.array(shares) / 100).max() < 1
        if count >= 3:
            assert min(sizes) >= 1
    assert data.split_cases(cases, 1) != data.split_cases(cases, 2)


def test_a_share_of_nothing_gets_nothing():
    splits = data.split_cases([f"c{i}" for i in range(20)], 0, (70, 10, 20))
    assert [len(splits[s]) for s in data.SPLITS] == [14, 2, 4]
    splits = data.split_cases(["a", "b", "c"], 0, (50, 50, 0))
    assert splits["Test"] == [] and splits["Val"]
    assert data.split_cases(["only"])["Train"] == ["only"]


def test_chosen_slices_keep_to_the_limit_and_the_share_of_empty_ones():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        has_brain = rng.random(rng.integers(1, 60)) < rng.uniform(0.05, 1)
        limit, empty = [None, 1, 7, 30][seed % 4], [0, 0.15, 0.5, 1][seed // 4 % 4]
        chosen = data.choose_slices(has_brain, limit, empty, rng)
        assert (np.diff(chosen) > 0).all()
        assert len(chosen) <= (limit or 60)
        if has_brain.any():
            assert np.count_nonzero(~has_brain[chosen]) <= empty * len(chosen) + 1e-9
            assert len(chosen) or empty == 1
        if empty == 1 and limit is None:
            assert len(chosen) == len(has_brain)


def test_all_slices_with_brain_are_kept_without_a_limit():
    has_brain = np.arange(100) > 30
    chosen = data.choose_slices(has_brain, None, 0.1, np.random.default_rng(0))
    assert np.count_nonzero(has_brain[chosen]) == has_brain.sum()
    assert len(chosen) > has_brain.sum()


# ---------------------------------------------------------------- making a dataset


def test_a_dataset_has_what_the_readme_says(tmp_path):
    make(save_scans(tmp_path / "scans", 10), tmp_path / "out", "--views", *data.VIEWS, "mip")
    card = json.loads((tmp_path / "out/dataset.json").read_text())
    assert card["views"] == [*data.VIEWS, "mip"] and card["size"] == 32
    assert card["window"] == [-200, 800] and card["channels"] == ["ct"]
    assert [len(card["splits"][s]) for s in data.SPLITS] == [8, 1, 1]
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert set(rows.view) == {*data.VIEWS, "mip"}
    assert rows.groupby("case").split.nunique().max() == 1
    assert (rows[rows.view == "mip"].groupby("case").size() == 1).all()
    files = {p for p in contents(tmp_path / "out") if p.endswith(".png")}
    assert files == {*rows.image, *rows["mask"]}
    for row in rows.itertuples():
        image, mask = image_at(tmp_path / "out" / row.image), image_at(tmp_path / "out" / row.mask)
        assert image.shape == mask.shape == (32, 32) and image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        assert np.count_nonzero(mask) == row.brain_pixels
    assert not (tmp_path / "out/.scans").exists()


def test_pictures_show_the_scan_in_its_window_and_square_pixels(tmp_path):
    hu, mask = head()
    save(hu, tmp_path / "a.nii", np.diag([2.0, 1.0, 4.0, 1.0]))
    save(mask, tmp_path / "a_mask.nii", np.diag([2.0, 1.0, 4.0, 1.0]))
    data.main([str(tmp_path), "--out", str(tmp_path / "out"), "--size", "40", "--jobs", "1",
               "--views", "axial", "--window", "0", "1000"])  # fmt: skip
    image = image_at(tmp_path / "out/Train/images/a_axial_0008.png")
    # 20 x 26 voxels of 2 x 1 mm are 40 x 26 mm: every voxel two pixels wide, one high
    columns = (np.arange(40) + 0.5) / 2 - 0.5
    rows = [np.interp(columns, np.arange(20), row) for row in data.stack(hu, "axial")[8]]
    np.testing.assert_allclose(image[7:33] / 255, np.clip(np.array(rows) / 1000, 0, 1), atol=0.01)
    assert not image[:7].any() and not image[33:].any()
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert (rows.spacing_mm == 1).all()


def test_hu_pictures_give_the_scan_back(tmp_path):
    hu, mask = head(shape=(32, 32, 12))
    save(hu, tmp_path / "a.nii")
    save(mask, tmp_path / "a_mask.nii")
    make(tmp_path, tmp_path / "out", "--window", "hu", "--views", "axial", "--empty", 1)
    for pair in data.read_dataset(tmp_path / "out")["Train"]:
        image, read_mask = data.read_pair(pair)
        index = int(pair.image.stem[-4:])
        np.testing.assert_array_equal(image, data.stack(hu, "axial")[index])
        np.testing.assert_array_equal(read_mask, data.stack(mask, "axial")[index])
        assert (pair.case, pair.view) == ("a", "axial")


def stored_as(array, codes):
    """The array with axes running to `codes`, and its affine."""
    to = orientations.axcodes2ornt(codes)
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), to)
    return (
        orientations.apply_orientation(array, turn),
        orientations.inv_ornt_aff(turn, array.shape),
    )


@pytest.mark.parametrize("coded", [True, False])
def test_a_head_stored_in_any_position_gives_the_same_pngs(tmp_path, coded):
    hu, mask = head()
    results = []
    for position, codes in volume.POSITIONS.items():
        folder = tmp_path / position
        for name, array in (("a", hu), ("a_mask", mask)):
            save(*stored_as(array, codes)[:1], folder / f"{name}.nii.gz",
                 stored_as(array, codes)[1], coded)  # fmt: skip
        make(folder, folder / "out", *([] if coded else ["--position", position]))
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
    save(np.where(ball, 40, -1000), tmp_path / "a.nii", tilted)
    save(ball, tmp_path / "a_mask.nii", tilted)
    make(tmp_path, tmp_path / "out", "--views", "sagittal", "--size", 64)
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    middle = rows.loc[rows.brain_pixels.idxmax()]
    mask = image_at(tmp_path / "out" / middle["mask"]) > 0
    y, x = np.nonzero(mask)
    covariance = np.cov(y, x)
    assert abs(covariance[0, 1]) < 0.05 * covariance[0, 0]  # round again, not slanted
    assert covariance[0, 0] == pytest.approx(covariance[1, 1], rel=0.15)


def test_fewer_than_ten_cases_are_said(tmp_path, capsys):
    make(save_scans(tmp_path / "scans", 4), tmp_path / "out", "--views", "axial")
    assert "fewer than 10 cases" in capsys.readouterr().err


def test_an_interrupted_run_continues_to_the_same_result(tmp_path, monkeypatch):
    scans = save_scans(tmp_path / "scans", 5)
    make(scans, tmp_path / "whole", "--slices", 5)
    write, seen = data.write_picture, []

    def die(path, picture):
        seen.append(path)
        if len(seen) == 70:  # amid the third scan
            path.write_bytes(b"half a pict")
            raise RuntimeError("killed")
        write(path, picture)

    monkeypatch.setattr(data, "write_picture", die)
    with pytest.raises(RuntimeError):
        make(scans, tmp_path / "broken", "--slices", 5)
    with pytest.raises(InputError, match="unfinished"):
        data.read_dataset(tmp_path / "broken")
    monkeypatch.setattr(data, "write_picture", lambda *args: (seen.append(args[0]), write(*args)))
    del seen[:]
    make(scans, tmp_path / "broken", "--slices", 5)
    assert not any("case0" in p.name for p in seen) and any("case4" in p.name for p in seen)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_two_processes_give_the_same_as_one(tmp_path):
    scans = save_scans(tmp_path / "scans", 3)
    make(scans, tmp_path / "one", "--slices", 3)
    make(scans, tmp_path / "two", "--slices", 3, "--jobs", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_workers_die_with_a_killed_parent(tmp_path):
    body = """
import os, time, data
def work(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(60)
if __name__ == "__main__":
    list(data.in_parallel(work, [(FOLDER,)] * 2, 2))
"""
    (tmp_path / "script.py").write_text(body.replace("FOLDER", repr(str(tmp_path))))
    environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parent)}
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment)
    wait_for(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2)
    workers = [int(path.name) for path in tmp_path.glob("[0-9]*")]
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(is_running, workers)))


def wait_for(what, seconds=30):
    for _ in range(seconds * 20):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def is_running(number):
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_kill_while_finishing_leaves_no_row_twice(tmp_path, monkeypatch):
    scans = save_scans(tmp_path / "scans", 3)
    make(scans, tmp_path / "whole", "--slices", 3)

    def die(*args, **kwargs):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(data.shutil, "rmtree", die)
        with pytest.raises(RuntimeError):
            make(scans, tmp_path / "broken", "--slices", 3)
    make(scans, tmp_path / "broken", "--slices", 3)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "changed, said",
    [
        (["--slices", 4], "--slices was 3, is now 4"),
        (["--window", "hu"], "--window was -200.0 800.0, is now hu"),
        (["--seed", 1], "--seed was 0, is now 1"),
        (["--size", 48], "--size was 32, is now 48"),
    ],
)
def test_a_changed_option_is_refused_and_named(tmp_path, changed, said):
    scans = save_scans(tmp_path / "scans", 2)
    make(scans, tmp_path / "out", "--slices", 3)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        make(scans, tmp_path / "out", "--slices", 3, *changed)
    assert said in str(caught.value) and "--overwrite" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_overwrite_starts_anew_and_touches_nothing_else(tmp_path):
    scans, out = save_scans(tmp_path / "scans", 2), tmp_path / "out"
    make(scans, out)
    (out / "notes.txt").write_text("mine")
    make(scans, out, "--views", "axial", "--overwrite")
    assert all("axial" in name for name in contents(out) if name.endswith(".png"))
    assert (out / "notes.txt").read_text() == "mine"


def test_another_set_of_scans_is_refused(tmp_path):
    make(save_scans(tmp_path / "scans", 2), tmp_path / "out")
    with pytest.raises(InputError, match="other scans: 2 then, 3 now"):
        make(save_scans(tmp_path / "scans", 3), tmp_path / "out")


def test_a_dataset_made_elsewhere_is_left_alone(tmp_path):
    touch(tmp_path / "out/Train/images/mine.png")
    with pytest.raises(InputError, match="choose another --out"):
        make(save_scans(tmp_path / "scans", 1), tmp_path / "out", "--overwrite")
    assert list(contents(tmp_path / "out")) == ["Train/images/mine.png"]


def test_a_bad_mask_stops_its_own_case_alone(tmp_path, capsys):
    scans = save_scans(tmp_path / "scans", 3)
    save(head(shape=(8, 8, 8))[1], scans / "case1_mask.nii.gz")
    with pytest.raises(InputError, match="1 of 3 scans"):
        make(scans, tmp_path / "out")
    assert "case1_mask.nii.gz" in capsys.readouterr().err
    pairs = sum(data.read_dataset(tmp_path / "out").values(), [])
    assert {pair.case for pair in pairs} == {"case0", "case2"}
    assert "case1" not in str(data.describe(tmp_path / "out")["splits"])
    save(head(1)[1], scans / "case1_mask.nii.gz")  # mended: the same command finishes it
    assert make(scans, tmp_path / "out") == 0
    make(scans, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_synthetic_scans_are_spread_evenly_over_the_maps(tmp_path):
    touch(*(tmp_path / f"seg_{i}.nii.gz" for i in range(4)))
    sources = data.synthetic_sources(10, tmp_path, 0)
    counts = pd.Series([s.case for s in sources]).value_counts()
    assert len(counts) == 4 and counts.max() - counts.min() <= 1
    assert len({s.scan for s in sources}) == len({s.seed for s in sources}) == 10
    assert all(s.scan.startswith(s.case + "_") and stem_of(s) == s.case for s in sources)
    assert sources == data.synthetic_sources(10, tmp_path, 0)
    assert sources[0].seed != data.synthetic_sources(10, tmp_path, 1)[0].seed


def stem_of(source):
    return data.stem(source.path)


def test_a_dataset_from_nothing(tmp_path):
    data.main(["--synthetic", "1", "--size", "64", "--slices", "3", "--window", "hu",
               "--jobs", "1", "--out", str(tmp_path)])  # fmt: skip
    pairs = data.read_dataset(tmp_path)["Train"]
    assert len(pairs) == 9 and {pair.case for pair in pairs} == {"phantom_0000"}
    for pair in pairs:
        assert image_at(pair.image).dtype == np.uint16
        assert set(np.unique(image_at(pair.mask))) <= {0, 1, 2}
    image, mask = data.read_pair(max(pairs, key=lambda p: image_at(p.mask).sum()))
    assert -20 < np.median(image[mask > 0]) < 100
    about = data.describe(tmp_path)
    assert about["labels"] == cases.HEAD and about["regions"] == {"brain": [1, 2]}


# ---------------------------------------------------------------- reading a dataset


def test_the_other_layout_is_read(tmp_path):
    for split, case in (("Train", "p1"), ("Val", "p2"), ("Test", "p3")):
        for name in (f"{case}_axial_0001.png", "free name.png"):
            for kind in ("images", f"mask_img_labels{split}"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                data.write_picture(tmp_path / split / kind / name, np.zeros((9, 9), np.uint8))
    splits = data.read_dataset(tmp_path)
    assert list(splits) == ["Train", "Val", "Test"]
    free, named = splits["Val"]
    assert (free.case, free.view) == ("", "")
    assert (named.case, named.view) == ("p2", "axial")
    assert named.mask.parent.name == "mask_img_labelsVal"
    image, mask = data.read_pair(named)
    assert image.shape == mask.shape == (9, 9) and mask.dtype == bool


def test_pictures_without_masks_are_named(tmp_path, capsys):
    touch(tmp_path / "train/images/a.png", tmp_path / "train/images/b.png")
    touch(tmp_path / "train/masks/a.png")
    assert [p.image.name for p in data.read_dataset(tmp_path)["Train"]] == ["a.png"]
    assert "b.png: no mask" in capsys.readouterr().err


def test_masks_of_another_size_are_refused(tmp_path):
    data.write_picture(tmp_path / "image.png", np.zeros((9, 8), np.uint8))
    data.write_picture(tmp_path / "mask.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match="9x9 but its picture 8x9"):
        data.read_pair(data.Pair(tmp_path / "image.png", tmp_path / "mask.png"))


@pytest.mark.parametrize("kind", ["missing", "empty", "junk manifest", "junk card"])
def test_what_is_no_dataset_is_refused_in_one_line(tmp_path, kind):
    folder = tmp_path / "data"
    if kind != "missing":
        folder.mkdir()
    if kind == "junk manifest":
        (folder / "manifest.csv").write_text("a,b\n1,2\n")
    if kind == "junk card":
        (folder / "dataset.json").write_text("{")
    with pytest.raises(InputError) as caught:
        data.read_dataset(folder)
        data.describe(folder)
    assert "\n" not in str(caught.value)


def test_cases_called_like_numbers_or_nothing_keep_their_names(tmp_path):
    hu, mask = head()
    for name in ("001", "NA"):
        save(hu, tmp_path / f"{name}.nii")
        save(mask, tmp_path / f"{name}_mask.nii")
    make(tmp_path, tmp_path / "out", "--views", "axial")
    pairs = sum(data.read_dataset(tmp_path / "out").values(), [])
    assert {pair.case for pair in pairs} == {"001", "NA"}


# ---------------------------------------------------------------- MRI of several channels, labels

BRAIN = (26, 30, 24)  # voxels of 1 mm


def mri(seed=0, outside=(0, 0), where=(0, 0, 0), values=(1, 2, 4)):
    """Two modalities (X, Y, Z, 2) of a ball of brain with a tumour of three parts, and its labels.

    `outside` is what the channels hold beyond the brain; `where` the tumour lies from its middle.
    """
    rng = np.random.default_rng(seed)
    at = np.indices(BRAIN) - (np.array(BRAIN) / 2)[:, None, None, None]
    brain = np.sqrt((at**2 / (np.array(BRAIN) ** 2)[:, None, None, None]).sum(0)) < 0.42
    away = np.sqrt(((at - np.array(where)[:, None, None, None]) ** 2).sum(0))
    core, enhancing, oedema = values[0], values[-1], values[1]
    labels = np.select([away < 2, away < 3.5, away < 6], [core, enhancing, oedema], 0)
    labels = (labels * brain).astype(np.uint8)
    flair = 300 + 200 * (labels > 0) + rng.normal(0, 9, BRAIN)
    t1ce = 900 + 500 * (labels == enhancing) + rng.normal(0, 30, BRAIN)
    image = np.where(brain[..., None], np.stack([flair, t1ce], -1), outside)
    return image.astype(np.float32), labels


def save_cases(folder, count=4, **how):
    for index in range(count):
        image, labels = mri(index, **how)
        for name, array in zip(("flair", "t1ce", "seg"), (*np.moveaxis(image, -1, 0), labels),
                               strict=True):  # fmt: skip
            path = folder / f"case{index}" / f"case{index}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1, -1, 1, 1])), path)
    return folder


def make_mri(folder, out, *more):
    words = [str(folder), "--channels", "flair", "t1ce", "--jobs", "1", "--out", str(out)]
    words += [] if "--dimensions" in more else ["--size", "30"]
    return data.main([*words, *map(str, more)])


def all_pairs(folder):
    return [pair for pairs in data.read_dataset(folder).values() for pair in pairs]


@pytest.mark.parametrize("kind", data.SCALES)
def test_mri_is_normalised_within_the_brain(kind):
    image, _ = mri()
    seen = data.normalise(image, kind)
    brain = image.any(axis=-1)
    assert seen.dtype == np.float32 and not seen[~brain].any()
    assert seen[brain].min() >= np.float32(1 / 255) and seen.max() <= 1
    shifted = image.copy()
    shifted[brain] = shifted[brain] * 7 + 500  # another scanner's units
    np.testing.assert_allclose(data.normalise(shifted, kind), seen, atol=1e-4)
    if kind == "zscore":
        values = (255 * seen[brain].astype(np.float64) - 1) / 254 * 8 - 4
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.05)
        assert ((values.std(axis=0) > 0.7) & (values.std(axis=0) < 1.05)).all()
    else:
        assert (seen[brain].max(axis=0) == 1).all()


def test_what_lies_outside_the_brain_need_not_be_nought():
    black, _ = mri()
    for outside in ((-3.6, -4.7), (-1, 0)):
        image, _ = mri(outside=outside)
        np.testing.assert_array_equal(data.brain_of(image), data.brain_of(black))
        np.testing.assert_array_equal(data.normalise(image, "zscore"),
                                      data.normalise(black, "zscore"))  # fmt: skip


def test_an_mri_that_shows_nothing_is_black():
    assert not data.normalise(np.full((4, 4, 4, 2), 7.0), "zscore").any()


@pytest.mark.parametrize("view", data.VIEWS)
def test_channels_are_stacked_and_fitted_each_alone(view):
    array = np.random.default_rng(0).random((4, 5, 6, 3), np.float32)
    there = data.stack(array, view)
    np.testing.assert_array_equal(there[..., 1], data.stack(array[..., 1], view))
    np.testing.assert_array_equal(data.unstack(there, view), array)
    for channels in (1, 2, 4):
        picture = np.random.default_rng(1).random((50, 30, channels), np.float32)
        fitted, place = data.fit(picture, 24, spacing=(1, 1.5))
        assert fitted.shape == (24, 24, channels)
        for channel in range(channels):
            alone, _ = data.fit(picture[..., channel], 24, spacing=(1, 1.5))
            np.testing.assert_allclose(fitted[..., channel], alone, atol=1e-6)
        assert data.unfit(fitted, place).shape == picture.shape


@pytest.mark.parametrize("size", [20, 48, 96])
def test_labels_are_fitted_by_the_nearest(size):
    labels = np.zeros((40, 48), np.uint8)
    labels[10:30, 12:36], labels[16:24, 20:28] = 1, 3
    fitted, place = data.fit_labels(labels, size)
    assert set(np.unique(fitted)) == {0, 1, 3}, "no 2 between 1 and 3"
    for label in (1, 3):
        assert (fitted == label).sum() == pytest.approx((labels == label).sum() * (size / 48) ** 2,
                                                        rel=0.15)  # fmt: skip
    assert place == data.fit(labels, size)[1]
    if size == 48:
        np.testing.assert_array_equal(fitted[place.top : place.top + 40], labels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_go_through_a_png(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, channels), np.uint8)
    data.write_picture(tmp_path / "a.png", image)
    np.testing.assert_array_equal(data.read_channels(tmp_path / "a.png", channels), image)
    stored = image_at(tmp_path / "a.png")
    assert stored.ndim == (2 if channels == 1 else 3)
    if channels == 2:
        assert stored.shape == (9, 8, 3) and not stored[..., 0].any(), "blue, the third, is empty"
    with pytest.raises(InputError, match="a.png has not the 4 channels"):
        data.write_picture(tmp_path / "a.png", image[..., :1])
        data.read_channels(tmp_path / "a.png", 4)


def test_a_dataset_of_mri_says_what_it_is(tmp_path):
    cases = save_cases(tmp_path / "cases", 5)
    make_mri(cases, tmp_path / "out", "--licence", "mine")
    about = data.describe(tmp_path / "out")
    assert about["channels"] == ["flair", "t1ce"] and about["dimensions"] == 2
    assert about["normalise"] == "zscore" and about["format"] == "png" and "window" not in about
    assert about["labels"] == {"1": "necrotic core", "2": "oedema", "3": "enhancing tumour"}
    assert about["label_values"] == {"1": 1, "2": 2, "3": 4}
    assert about["regions"]["tumour core"] == [1, 3]
    assert about["spacing_mm"] == 1 and about["size"] == 30
    files = about["cases"]["case3"]
    assert Path(files["files"]["t1ce"]).samefile(cases / "case3/case3_t1ce.nii.gz")
    assert Path(files["labels"]).samefile(cases / "case3/case3_seg.nii.gz")
    assert [len(about["splits"][split]) for split in data.SPLITS] == [3, 1, 1]


def test_slices_hold_the_scan_and_labels_that_come_back_as_they_were(tmp_path):
    make_mri(save_cases(tmp_path / "cases", 3), tmp_path / "out", "--empty", 1)
    from cases import original

    for pair in all_pairs(tmp_path / "out"):
        image, mask = data.read_pair(pair)
        assert image.shape == (30, 30, 2) and image.dtype == mask.dtype == np.uint8
        raw, labels = mri(int(pair.case[-1]))
        # stored from left to right and front to back: both are turned on the way in
        seen = data.normalise(raw[::-1, ::-1], "zscore")
        index = int(pair.image.stem[-4:])
        wanted, _ = data.fit(data.stack(seen, pair.view)[index], 30)
        np.testing.assert_array_equal(image, np.rint(wanted * 255))
        truth, _ = data.fit_labels(data.stack(labels[::-1, ::-1], pair.view)[index], 30)
        np.testing.assert_array_equal(original(mask, (1, 2, 4)), truth)
    rows = pd.read_csv(tmp_path / "out/manifest.csv").query("view == 'axial'")  # as large as they
    counts = rows.groupby("case").enhancing_tumour_pixels.sum()
    assert (counts == [(mri(index)[1] == 4).sum() for index in range(3)]).all()


def same_pairs(first, second):
    """Whether two datasets give the same pairs, bit for bit; returns how many."""
    count = 0
    for ours, theirs in zip(all_pairs(first), all_pairs(second), strict=True):
        assert (ours.case, ours.view) == (theirs.case, theirs.view)
        for a, b in zip(data.read_pair(ours), data.read_pair(theirs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        count += 1
    return count


def test_png_and_tfrecord_give_the_same_pairs_of_mri(tmp_path):
    cases = save_cases(tmp_path / "cases", 3)
    for form in ("png", "tfrecord"):
        make_mri(cases, tmp_path / form, "--slices", 5, "--format", form)
    assert same_pairs(tmp_path / "png", tmp_path / "tfrecord") == 45
    files = sorted(path.name for path in (tmp_path / "tfrecord").rglob("*.*"))
    assert files == [*(f"case{i}.tfrecord.gz" for i in range(3)), "dataset.json", "manifest.csv"]


@pytest.mark.parametrize("window", ["hu", None])
def test_png_and_tfrecord_give_the_same_pairs_of_ct(tmp_path, window):
    scans = save_scans(tmp_path / "scans", 3)
    more = ["--window", window] if window else []
    for form in ("png", "tfrecord"):
        make(scans, tmp_path / form, "--slices", 4, "--format", form, *more)
    assert same_pairs(tmp_path / "png", tmp_path / "tfrecord") == 36
    image, mask = data.read_pair(all_pairs(tmp_path / "tfrecord")[5])
    assert image.dtype == (np.float32 if window else np.uint8) and mask.dtype == bool


def test_records_are_finished_after_an_interruption_as_pictures_are(tmp_path, monkeypatch):
    cases = save_cases(tmp_path / "cases", 4)
    make_mri(cases, tmp_path / "whole", "--slices", 3, "--format", "tfrecord")
    write, seen = data.write_records, []

    def die(path, samples):
        seen.append(path)
        if len(seen) == 3:
            next(iter(samples))
            raise RuntimeError("killed")
        return write(path, samples)

    monkeypatch.setattr(data, "write_records", die)
    with pytest.raises(RuntimeError):
        make_mri(cases, tmp_path / "broken", "--slices", 3, "--format", "tfrecord")
    with pytest.raises(InputError, match="unfinished"):
        data.read_dataset(tmp_path / "broken")
    make_mri(cases, tmp_path / "broken", "--slices", 3, "--format", "tfrecord")
    assert len(seen) == 5, "the two finished cases were not done again"
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_dataset_of_before_there_were_these_options_is_gone_on_with(tmp_path):
    scans = save_scans(tmp_path / "scans", 3)
    make(scans, tmp_path / "out", "--slices", 3)
    path = tmp_path / "out/dataset.json"
    about = json.loads(path.read_text())
    for later in ("channels", "labels", "least", "range", "dimensions", "grid", "fit", "format"):
        del about["options"][later]
    path.write_text(json.dumps(about))
    assert make(scans, tmp_path / "out", "--slices", 3) == 0
    with pytest.raises(InputError, match="--format was png, is now tfrecord"):
        make(scans, tmp_path / "out", "--slices", 3, "--format", "tfrecord")


def test_slices_that_say_little_are_dropped(tmp_path):
    cases = save_cases(tmp_path / "cases", 3)
    make_mri(cases, tmp_path / "all", "--empty", 1, "--views", "axial")
    rows = pd.read_csv(tmp_path / "all/manifest.csv")
    labelled = rows.oedema_pixels + rows.enhancing_tumour_pixels + rows.necrotic_core_pixels
    pictures = [data.read_pair(pair)[0] for pair in all_pairs(tmp_path / "all")]
    shown = [np.count_nonzero(picture.any(axis=-1)) for picture in pictures]
    assert min(shown) >= 0.01 * BRAIN[0] * BRAIN[1] and (labelled == 0).any()
    make_mri(cases, tmp_path / "few", "--empty", 1, "--views", "axial", "--least", 0.1)
    few = pd.read_csv(tmp_path / "few/manifest.csv")
    enough = (labelled == 0) | (labelled >= 0.1 * BRAIN[0] * BRAIN[1])
    assert list(few.image) == list(rows.image[enough]) and len(few) < len(rows)
    make_mri(cases, tmp_path / "mid", "--empty", 1, "--views", "axial", "--range", 0.25, 0.5)
    middle = pd.read_csv(tmp_path / "mid/manifest.csv")["index"]
    assert (middle.min(), middle.max()) == (BRAIN[2] // 4, BRAIN[2] // 2 - 1)


def test_labels_that_were_not_asked_for_are_said(tmp_path, capsys):
    make_mri(save_cases(tmp_path / "cases", 3), tmp_path / "out", "--labels", 1, 4)
    said = capsys.readouterr().err
    assert "case0: case0_seg.nii.gz also holds 2, here taken as background" in said
    assert data.describe(tmp_path / "out")["label_values"] == {"1": 1, "2": 4}


def test_visits_of_a_patient_stay_together(tmp_path):
    cases = save_cases(tmp_path / "cases", 6)
    for index in range(6):
        name = f"BraTS-GLI-0000{index // 3}-00{index % 3}"
        (cases / f"case{index}").rename(cases / name)
    make_mri(cases, tmp_path / "out", "--slices", 2)
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert rows.scan.nunique() == 6 and rows.case.nunique() == 2
    assert (rows.groupby("case").split.nunique() == 1).all()


def test_modalities_of_two_grids_stop_their_own_case_alone(tmp_path, capsys):
    cases = save_cases(tmp_path / "cases", 4)
    nib.save(nib.Nifti1Image(mri()[0][:20, ..., 1], np.eye(4)), cases / "case1/case1_t1ce.nii.gz")
    with pytest.raises(InputError, match="1 of 4 scans"):
        make_mri(cases, tmp_path / "out")
    assert "case1_t1ce.nii.gz has shape (20, 30, 24)" in capsys.readouterr().err
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"case0", "case2", "case3"}


# ---------------------------------------------------------------- volumes


def the_volume(folder):
    (pair,) = data.read_dataset(folder)["Train"]
    return data.read_pair(pair)


def test_a_cropped_volume_holds_the_very_voxels(tmp_path):
    make_mri(save_cases(tmp_path / "cases", 1), tmp_path / "out", "--dimensions", 3, "--grid", 32)
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (32, 32, 32, 2) and mask.shape == (32, 32, 32)
    raw, labels = mri()
    raw, labels = raw[::-1, ::-1], labels[::-1, ::-1]
    seen = np.rint(data.normalise(raw, "zscore") * 255).astype(np.uint8)
    boxes = [tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(array.any(-1)))
             for array in (image, seen)]  # fmt: skip
    np.testing.assert_array_equal(image[boxes[0]], seen[boxes[1]])
    np.testing.assert_array_equal(mask[boxes[0]], np.array([0, 1, 2, 0, 3])[labels[boxes[1]]])
    middle = [(part.start + part.stop) / 2 for part in boxes[0]]
    assert np.abs(np.array(middle) - 16).max() <= 1, "the brain lies in the middle"
    about = data.describe(tmp_path / "out")
    assert about["grid"] == [32, 32, 32] and about["fit"] == "crop" and about["spacing_mm"] == 1
    assert about["format"] == "tfrecord" and about["views"] == ["volume"] and "size" not in about


@pytest.mark.parametrize("where", [(-5, 0, 0), (5, 6, -4)])
def test_a_brain_larger_than_the_grid_is_cropped_around_its_tumour(tmp_path, where):
    make_mri(save_cases(tmp_path / "cases", 1, where=where), tmp_path / "out",
             "--dimensions", 3, "--grid", 16)  # fmt: skip
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (16, 16, 16, 2)
    labels = mri(where=where)[1]
    assert np.count_nonzero(mask) == np.count_nonzero(labels)
    for axis in range(3):  # no slice of the grid is wasted on what lies beyond the brain
        assert image.any(-1).any(tuple(a for a in range(3) if a != axis)).all()


@pytest.mark.parametrize("grid", [16, 48])
def test_a_resized_volume_comes_back_to_the_scans_grid(tmp_path, grid):
    from cases import read_case
    from volume import straighten, unstraighten

    cases = save_cases(tmp_path / "cases", 1)
    make_mri(cases, tmp_path / "out", "--dimensions", 3, "--grid", grid, "--fit", "resize")
    image, mask = the_volume(tmp_path / "out")
    assert image.shape == (grid,) * 3 + (2,) and set(np.unique(mask)) == {0, 1, 2, 3}
    assert image.any(-1).any((0, 2)).all(), "the longest side fills the grid"
    (found,), _ = data.find_cases(cases, ["flair", "t1ce"])
    scan, raw = read_case(found)
    shown = data.brain_of(raw)
    options = data.Options(window="zscore", fit="resize", grid=(grid,) * 3)
    box, spacing = data.volume_box(shown, shown, scan, options)
    cubes, lattice = straighten(shown, scan, spacing, box, outside=0)
    assert cubes.shape == (grid,) * 3
    back = unstraighten(mask == 2, lattice, scan) > 0.5
    truth = mri()[1][::-1, ::-1] == 2
    overlap = 2 * (back & truth).sum() / (back.sum() + truth.sum())
    assert overlap > (0.75 if grid == 16 else 0.97)
    assert data.describe(tmp_path / "out")["spacing_mm"] is None


def test_thick_slices_become_cubes_and_labels_stay_labels(tmp_path):
    image, labels = mri()
    thick = np.diag([1.0, 1, 3, 1])
    for name, array in (("flair", image[..., 0]), ("t1ce", image[..., 1]), ("seg", labels)):
        path = tmp_path / "cases/a" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array[..., ::3], thick), path)
    make_mri(tmp_path / "cases", tmp_path / "out", "--dimensions", 3, "--grid", 32)
    volume_, mask = the_volume(tmp_path / "out")
    extents = [np.ptp(np.nonzero(volume_.any(-1))[axis]) for axis in range(3)]
    brain = [np.ptp(np.nonzero(image.any(-1))[axis]) for axis in range(3)]
    assert np.abs(np.subtract(extents, brain)).max() <= 3
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert np.count_nonzero(mask) == 3 * np.count_nonzero(labels[..., ::3]), "each slice thrice"


def test_volumes_with_too_little_labelled_are_left_out(tmp_path):
    cases = save_cases(tmp_path / "cases", 3)
    tiny = mri(1)[1] * 0
    tiny[12:14, 14, 12] = 4
    nib.save(nib.Nifti1Image(tiny, np.diag([-1, -1, 1, 1])), cases / "case1/case1_seg.nii.gz")
    make_mri(cases, tmp_path / "out", "--dimensions", 3, "--grid", 16, "--least", 0.01)
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"case0", "case2"}


def test_a_ct_can_be_stored_as_volumes_too(tmp_path):
    make(save_scans(tmp_path / "scans", 1), tmp_path / "out", "--dimensions", 3, "--grid", 32)
    image, mask = the_volume(tmp_path / "out")
    hu, truth = head()
    assert image.shape == (32, 32, 32, 1) and mask.dtype == bool
    assert np.count_nonzero(mask) == np.count_nonzero(truth)
    wanted = np.rint(data.normalise(hu[truth]) * 255)
    np.testing.assert_array_equal(np.sort(image[..., 0][mask]), np.sort(wanted))


# ---------------------------------------------------------------- slices of MRI in pictures


def save_slices(folder, cases=3, count=8):
    for case in range(cases):
        image, labels = mri(case)
        seen = np.uint8(255 * data.normalise(image, "minmax"))
        for index in range(count):
            place = BRAIN[2] // 2 - count // 2 + index
            name = folder / f"P{case}" / f"P{case}_{index + 1}"
            name.parent.mkdir(parents=True, exist_ok=True)
            picture = np.dstack([seen[:, :, place], seen[:, :, place, :1]])  # three channels
            cv2.imwrite(f"{name}.tif", picture[..., ::-1])
            cv2.imwrite(f"{name}_mask.tif", np.uint8(255) * (labels[:, :, place] > 0))
    return folder


@pytest.mark.parametrize("form", ["png", "tfrecord"])
def test_slices_in_pictures_become_a_dataset(tmp_path, form):
    folder = save_slices(tmp_path / "lgg")
    data.main([str(folder), "--channels", "t1", "flair", "t1ce", "--labels", "255", "--size", "32",
               "--jobs", "1", "--format", form, "--out", str(tmp_path / "out")])  # fmt: skip
    about = data.describe(tmp_path / "out")
    assert about["labels"] == {"1": "tumour"} and about["views"] == ["slice"]
    assert about["normalise"] == "minmax" and about["channels"] == ["t1", "flair", "t1ce"]
    pairs = all_pairs(tmp_path / "out")
    assert {pair.case for pair in pairs} == {"P0", "P1", "P2"} and len(pairs) == 24
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert sorted(rows["index"][rows.case == "P0"]) == list(range(1, 9))
    for pair, index in zip(pairs, rows["index"], strict=True):
        image, mask = data.read_pair(pair)
        assert image.shape == (32, 32, 3) and mask.dtype == bool
        name = folder / pair.case / f"{pair.case}_{index}"
        wanted, _ = data.fit(data.read_channels(f"{name}.tif", 3), 32)
        np.testing.assert_array_equal(image, wanted)
        truth, _ = data.fit_labels(image_at(f"{name}_mask.tif"), 32)
        np.testing.assert_array_equal(mask, truth > 0)


def test_slices_in_pictures_have_no_volumes_and_say_which_greys_are_labels(tmp_path, capsys):
    folder = save_slices(tmp_path / "lgg", cases=1)
    words = [str(folder), "--channels", "t1", "flair", "t1ce", "--jobs", "1"]
    with pytest.raises(InputError, match="no volumes"):
        data.main([*words, "--dimensions", "3", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="--window and --views would do nothing"):
        data.main([*words, "--views", "axial", "--window", "minmax"])
    data.main([*words, "--size", "32", "--out", str(tmp_path / "out")])
    assert "P0 also holds 255, here taken as background" in capsys.readouterr().err


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to slice"),
        (["nowhere"], "nowhere does not exist"),
        (["--synthetic", "0"], "--synthetic"),
        (["--labels", "maps"], "for --synthetic N"),
        (["scans", "--necks", "necks"], "for --synthetic N"),
        (["--synthetic", "2", "--labels", "nowhere"], "nowhere"),
        (["scans", "--size", "4"], "--size 4"),
        (["scans", "--window", "300", "100"], "--window"),
        (["scans", "--window", "bone"], "--window"),
        (["scans", "--split", "0", "1", "1"], "--split"),
        (["scans", "--empty", "15"], "--empty"),
        (["scans", "--slices", "0"], "--slices 0"),
        (["bare"], "found no mask"),
        (["bare", "--channels", "flair"], "found no case with flair"),
        (["nowhere", "--channels", "flair"], "no folder nowhere"),
        (["--channels", "flair"], "--channels takes one folder"),
        (["cases", "--channels", *"abcde"], "one to four"),
        (["cases", "--channels", "flair", "--labels", "0"], "--labels takes whole numbers"),
        (["cases", "--channels", "flair", "--window", "0", "80"], "--window needs one of zscore"),
        (["cases", "--channels", "flair", "--names", "flair"], "--names takes"),
        (["cases", "--channels", "flair", "--grid", "64", "64"], "--grid"),
        (["cases", "--channels", "flair", "--spacing", "0"], "--spacing"),
        (["cases", "--channels", "flair", "--dimensions", "3", "--format", "png"], "volumes are"),
        (["scans", "--dimensions", "3", "--size", "64"], "--size would do nothing to volumes"),
        (["scans", "--seed", "-1"], "--seed"),
        (["scans", "--split", "nan", "1", "1"], "--split"),
        (["scans", "--range", "1", "0"], "--range"),
        (["scans", "--least", "2"], "--least"),
        (["--synthetic", "1", "--labels", "1", "2"], "--synthetic"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_2(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    save_scans(tmp_path / "scans", 1)
    save_cases(tmp_path / "cases", 1)
    save(head()[0], tmp_path / "bare/a.nii")
    with pytest.raises(SystemExit) as caught:
        errors.run(lambda: data.main(words))
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and said in lines[0]
    assert not Path("files").exists()


def test_an_out_folder_that_cannot_be_written_is_said(tmp_path):
    scans = save_scans(tmp_path / "scans", 1)
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write"):
        make(scans, tmp_path / "file" / "out")


def test_data_never_loads_a_network_library():
    code = "import data, sys; sys.exit(any(m in sys.modules for m in ('keras', 'tensorflow')))"
    root = Path(data.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
