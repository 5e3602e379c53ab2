"""pred.py with the shipped network: names and folders, grids, masks, and where the border lies."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel import orientations
from pydicom.data import get_testdata_file
from scipy import ndimage

import data
import pred
from errors import InputError
from model import export_model, save_model
from pred import dice
from volume import read_volume

ROOT = Path(pred.__file__).parent


@pytest.fixture(scope="session")
def predictor():
    return pred.Predictor()


@pytest.fixture(scope="session")
def found(predictor, cta_file):
    """The mask of the phantom's CTA, as the scan lies in memory."""
    return predictor.volume(read_volume(cta_file))


@pytest.fixture(scope="session")
def head_slice(cta):
    """An axial slice of the phantom in a CTA's window (H, W) uint8, and its mask."""
    index = int(cta.mask.sum((0, 1)).argmax())
    pictures, masks = data.stack(cta.hu, "axial"), data.stack(cta.mask, "axial")
    return np.rint(255 * data.normalise(pictures[index])).astype(np.uint8), masks[index]


@pytest.fixture
def slice_file(head_slice, tmp_path):
    """Writes the slice under a name, wider than high."""

    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.pad(head_slice[0], ((0, 0), (10, 13))))
        return path

    return write


def run(*words, out):
    return pred.main([*map(str, words), "--out", str(out)])


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def about(out, name, number=""):
    return json.loads((out / f"{name}_prediction{number}" / f"{name}.json").read_text())


# ---------------------------------------------------------------- names, folders, what is done


def test_a_slice_gets_mask_overlay_and_json(slice_file, tmp_path, head_slice, capsys):
    path, out = slice_file("head.v2.png"), tmp_path / "out"
    assert run(path, out=out) == 0
    folder = out / "head.v2_prediction"
    assert files_in(folder) == ["head.v2.json", "head.v2_overlay.png", "head.v2_predicted_mask.png"]
    mask = cv2.imread(str(folder / "head.v2_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    assert dice(mask[:, 10:-13] > 0, head_slice[1]) > 0.9
    assert not mask[:, :5].any() and not mask[:, -5:].any()
    said = about(out, "head.v2")
    assert said["input"] == str(path) and said["brain_pixels"] == (mask > 0).sum()
    assert said["model"] == pred.sha256(pred.MODEL) and said["seconds"] > 0
    overlay = cv2.imread(str(folder / "head.v2_overlay.png"))
    assert (np.ptp(overlay.astype(int), axis=2) > 30).any(), "drawn in colour"
    assert str(folder / "head.v2_predicted_mask.png") in capsys.readouterr().out


def test_a_tinted_slice_gets_the_mask_of_the_grey_one_and_a_note(slice_file, tmp_path, capsys):
    grey, tinted, out = slice_file("grey.png"), tmp_path / "tinted.jpg", tmp_path / "out"
    colours = cv2.imread(str(grey))[..., :3] * np.float32([0.8, 0.9, 1])
    cv2.imwrite(str(tinted), np.rint(colours).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert run(grey, tinted, out=out) == 0
    masks = [cv2.imread(str(out / f"{name}_prediction/{name}_predicted_mask.png"), 0) > 0
             for name in ("grey", "tinted")]  # fmt: skip
    assert dice(*masks) > 0.97
    note = f"{tinted}: the picture is coloured in part or as a whole"
    assert not about(out, "grey")["notes"] and note in capsys.readouterr().err
    assert [n for n in about(out, "tinted")["notes"] if "taken as grey" in n]


def test_two_inputs_of_one_name_keep_their_results(slice_file, tmp_path, capsys):
    first, second, out = slice_file("a/same.png"), slice_file("b/same.png"), tmp_path / "out"
    assert run(first, second, out=out) == 0
    folders = sorted(p.name for p in out.iterdir() if p.is_dir())
    assert folders == ["same_prediction", "same_prediction_2"]
    owners = [about(out, "same")["input"], about(out, "same", "_2")["input"]]
    assert owners == [str(first), str(second)]
    capsys.readouterr()
    assert run(second, first, out=out) == 0, "in whatever order they come"
    assert [about(out, "same")["input"], about(out, "same", "_2")["input"]] == owners
    assert capsys.readouterr().out.count("done before") == 2
    third = slice_file("c/same.png")
    assert run(third, out=out) == 0
    assert about(out, "same", "_3")["input"] == str(third)


def test_the_same_path_twice_is_one_input(slice_file, tmp_path):
    path = slice_file("x.png")
    assert pred.find_inputs([path, path, path.parent]) == [path]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("head.nii.gz", "head"),
        ("head.NII", "head"),
        ("sub-1.5_ct.nii", "sub-1.5_ct"),
        ("IM0001.dcm", "IM0001"),
        ("IM0001", "IM0001"),
        ("dicom.v2/series 3", "series 3"),
        ("slice.jpeg", "slice"),
    ],
)
def test_a_result_is_named_as_its_input_without_ending(tmp_path, path, name):
    job = pred.plan([tmp_path / path], tmp_path / "out")[0]
    assert (job.name, job.folder) == (name, tmp_path / "out" / f"{name}_prediction")


def stamp(out, name):
    """The moment at which a result was written."""
    return (out / f"{name}_prediction" / f"{name}.json").stat().st_mtime_ns


def test_work_that_is_done_is_not_done_again(slice_file, tmp_path, capsys):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)
    before = stamp(out, "x")
    assert run(path, out=out) == 0 and stamp(out, "x") == before
    assert "done before" in capsys.readouterr().out
    assert run(path, "--overwrite", out=out) == 0 and stamp(out, "x") > before


def test_another_networks_result_is_made_anew(slice_file, tmp_path):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)
    said = out / "x_prediction" / "x.json"
    said.write_text(json.dumps(about(out, "x") | {"model": "0" * 64}))
    run(path, out=out)
    assert about(out, "x")["model"] == pred.sha256(pred.MODEL)


def test_a_result_whose_mask_is_gone_is_made_anew(slice_file, tmp_path):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)
    mask = out / "x_prediction" / "x_predicted_mask.png"
    mask.unlink()
    run(path, out=out)
    assert mask.exists()


def test_an_input_that_was_changed_is_predicted_anew(slice_file, tmp_path, capsys):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)
    cv2.imwrite(str(path), np.zeros((50, 60), np.uint8))
    run(path, out=out)
    assert about(out, "x")["shape"] == [50, 60] and about(out, "x")["brain_pixels"] == 0
    run(path, out=out)
    assert "done before" in capsys.readouterr().out.splitlines()[-1]


def test_of_one_input_there_is_no_summary(slice_file, tmp_path):
    run(slice_file("a/x.png"), slice_file("b/y.png"), out=tmp_path / "out")
    before = (tmp_path / "out" / "summary.csv").read_bytes()
    run(slice_file("z.png"), out=tmp_path / "out")
    assert (tmp_path / "out" / "summary.csv").read_bytes() == before


def test_results_are_claimed_before_they_are_written(slice_file, tmp_path):
    """Two processes began at once, and planned the same folder for inputs of one name."""
    out, paths = tmp_path / "out", [slice_file("a/x.png"), slice_file("b/x.png")]
    jobs = [pred.plan([path], out)[0] for path in paths]
    assert jobs[0].folder == jobs[1].folder
    with pred.claimed(jobs[0]) as first, pred.claimed(jobs[1]) as second:
        assert (first.folder.name, second.folder.name) == ("x_prediction", "x_prediction_2")
    run(*paths, out=out)
    assert [about(out, "x", n)["input"] for n in ("", "_2")] == [*map(str, paths)]


def test_a_result_that_was_half_replaced_is_made_anew(slice_file, tmp_path, monkeypatch, capsys):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)

    def full(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr(pred, "outlined", full)  # after the mask was written
    assert run(path, "--overwrite", out=out) == 2
    monkeypatch.undo()
    assert run(path, out=out) == 0
    assert "done before" not in capsys.readouterr().out


def test_files_of_another_mask_do_not_stay_beside_a_new_one(cta_file, tmp_path, capsys):
    folder = tmp_path / "out" / "cta_prediction"

    def made(*words):
        assert run(cta_file, *words, out=tmp_path / "out") == 0
        return {p.name for p in folder.iterdir()}

    brain, pictures = "cta_brain.nii.gz", "cta_predicted_mask_png"
    assert {brain, pictures} <= made("--brain", "--border", 2, "--format", "nii", "png")
    shown = capsys.readouterr().out
    assert " mL  ok " in shown, "the verdict is told where a person looks"
    assert not {brain, pictures} & made(), "they show a mask that was grown"
    assert brain in made("--brain")
    assert {brain, pictures} <= made("--format", "nii", "png"), "of the same mask, they stay"


def test_of_stale_files_only_those_in_the_folder_itself_are_removed(tmp_path):
    folder = tmp_path / "x_prediction"
    (folder / "x_png").mkdir(parents=True)
    for path in (tmp_path / "other.nii.gz", folder / "x.nii.gz", folder / "x_png" / "a.png"):
        path.touch()
    before = {"masks": ["../other.nii.gz", "x_png", "x.nii.gz"], "wanted": {"series": 1}}
    pred.remove_stale(folder, before, {"masks": ["new.nii.gz"], "wanted": {"series": 1}})
    assert (folder / "x.nii.gz").exists(), "the same mask, in another format"
    pred.remove_stale(folder, before, {"masks": ["x.nii.gz"], "wanted": {"series": 2}})
    assert files_in(tmp_path) == ["other.nii.gz", "x_prediction/x.nii.gz"]


def test_a_slice_says_what_is_for_scans(slice_file, tmp_path, capsys):
    run(slice_file("x.png"), "--border", 2, "--brain", out=tmp_path / "out")
    assert about(tmp_path / "out", "x")["notes"] == [pred.FOR_SCANS]
    assert pred.FOR_SCANS in capsys.readouterr().err


def test_a_verdict_that_is_not_ok_is_told_with_its_reason(tmp_path, save_nifti_as, capsys):
    air = save_nifti_as(tmp_path / "x.nii.gz", np.full((40, 40, 40), -1000, np.int16))
    run(air, out=tmp_path / "out")
    first, second = capsys.readouterr().out.splitlines()
    assert " mL  failed " in first and second.strip().startswith("no brain was found")


def test_results_and_links_up_the_tree_are_no_inputs(tmp_path, slice_file):
    series = tmp_path / "in" / "patient" / "series"
    series.mkdir(parents=True)
    shutil.copy(get_testdata_file("CT_small.dcm"), series)
    (series.parent / "up").symlink_to("..")
    result = tmp_path / "in" / "patient_prediction"
    result.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), result / "patient_predicted_mask.dcm")
    both = tmp_path / "in"  # of one study; so may a folder of somebody's be called
    assert pred.find_inputs([both]) == [both]
    (result / "patient.json").write_text('{"input": "x"}')
    assert pred.find_inputs([both]) == [series]


def test_a_link_gives_the_result_its_name(slice_file, tmp_path):
    path = slice_file("store/d41d8c.png")
    (tmp_path / "sub-01_ct.png").symlink_to(path)
    run(tmp_path / "sub-01_ct.png", out=tmp_path / "out")
    assert about(tmp_path / "out", "sub-01_ct")["brain_pixels"] > 0


@pytest.mark.parametrize("border", ["nan", "inf", "-51", "300"])
def test_a_border_has_bounds(slice_file, tmp_path, border):
    with pytest.raises(InputError, match="--border"):
        run(slice_file("x.png"), "--border", border, out=tmp_path / "out")


def test_masks_beside_their_scans_are_no_inputs(tmp_path, capsys):
    names = ("x.nii.gz", "x_mask.nii.gz", "y.png", "Y_ROI.png", "lonely_seg.nii.gz")
    for name in names:
        (tmp_path / name).touch()
    found = [path.name for path in pred.find_inputs([tmp_path])]
    assert sorted(found) == ["lonely_seg.nii.gz", "x.nii.gz", "y.png"]
    assert "2 masks" in capsys.readouterr().err


def test_a_json_of_someone_else_does_not_stop_the_work(slice_file, tmp_path):
    """test.py writes its JSON into the same folders; a killed run may leave a broken one."""
    path, out = slice_file("x.png"), tmp_path / "out"
    for content in (json.dumps({"input": str(path), "scores": {}}), "{", "[1]"):
        (out / "x_prediction").mkdir(parents=True, exist_ok=True)
        (out / "x_prediction" / "x.json").write_text(content)
        assert run(path, out=out) == 0
        assert about(out, "x")["brain_pixels"] > 0


def test_a_folder_is_searched_for_scans_and_pictures(slice_file, tmp_path):
    wanted = [slice_file("in/b.png"), slice_file("in/a.JPG")]
    series = tmp_path / "in" / "c"
    series.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), series)
    for name in ("notes.txt", ".hidden.png", "d"):
        (tmp_path / "in" / name).touch()
    assert sorted(pred.find_inputs([tmp_path / "in"])) == sorted([*wanted, series])


def test_a_broken_scan_does_not_stop_the_good_one(slice_file, tmp_path, capsys):
    slice_file("in/good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG no")
    (tmp_path / "in" / "worse.nii.gz").write_bytes(b"")
    assert run(tmp_path / "in", out=tmp_path / "out") == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "bad.png" in errors[0] and "worse.nii.gz" in errors[1]
    assert "2 of 3 inputs failed" in said.err and "good_predicted_mask.png" in said.out
    rows = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("scan")
    assert list(rows) == ["mL", "verdict", "seconds", "warnings", "mask"] and len(rows) == 3
    assert (tmp_path / "out" / rows["mask"]["good.png"]).exists()
    assert rows.verdict["bad.png"] == "failed"
    assert rows.seconds["good.png"] > 0 and "bad.png" in rows.warnings["bad.png"]
    assert (tmp_path / "out" / "report.html").exists()
    assert [p for p in files_in(tmp_path / "out") if "prediction/" in p] == [
        f"good_prediction/good{end}" for end in (".json", "_overlay.png", "_predicted_mask.png")
    ]


# ---------------------------------------------------------------- slices


def test_any_window_and_aspect_of_a_slice_will_do(predictor, cta, head_slice):
    index = int(cta.mask.sum((0, 1)).argmax())
    hu = data.stack(cta.hu, "axial")[index]
    for low, high in ((0, 80), (-100, 500), (-1000, 2000)):
        picture = np.rint(255 * data.normalise(hu, (low, high))).astype(np.uint8)
        assert dice(predictor.predict_slices([picture])[0], head_slice[1]) > 0.9, (low, high)
    squashed = cv2.resize(head_slice[0], (101, 80))
    mask = cv2.resize(head_slice[1].astype(np.uint8), (101, 80)) > 0
    assert dice(predictor.predict_slices([squashed])[0], mask) > 0.9


def test_a_picture_in_hu_is_seen_as_one_in_the_networks_window(predictor, cta, head_slice):
    index = int(cta.mask.sum((0, 1)).argmax())
    hu = np.ascontiguousarray(data.stack(cta.hu, "axial")[index], np.float32)
    grey = np.rint(255 * data.normalise(hu, predictor.window)).astype(np.uint8)
    masks = predictor.predict_slices([hu, grey])
    assert dice(*masks) > 0.97


def test_probabilities_of_any_size_are_those_of_the_padded_picture(predictor):
    pictures = np.random.default_rng(0).random((3, 37, 50), np.float32)
    padded = np.pad(pictures, ((0, 0), (0, 11), (0, 14)))
    whole = predictor.probabilities(pictures, batch=2)
    assert whole.shape[:3] == (3, 37, 50) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, predictor.probabilities(padded)[:, :37, :50], atol=1e-3)


def test_a_real_slice_in_dicom(tmp_path):
    """A lossless axial slice through a skull base, from the files that pydicom installs."""
    source = tmp_path / "J2K_pixelrep_mismatch.dcm"
    shutil.copy(get_testdata_file(source.name, download=False), source)
    assert run(source, out=tmp_path / "out") == 0
    said = about(tmp_path / "out", "J2K_pixelrep_mismatch")
    folder = tmp_path / "out" / "J2K_pixelrep_mismatch_prediction"
    mask = np.asarray(nib.load(folder / said["mask"]).dataobj)
    scan = read_volume(source)
    assert sorted(mask.shape) == sorted(scan.hu.shape) and min(mask.shape) == 1
    assert 0.04 < mask.mean() < 0.4, "some of the picture is brain"
    canonical = np.asarray(nib.as_closest_canonical(nib.load(folder / said["mask"])).dataobj) > 0
    inside = scan.hu[canonical]
    assert 0 < np.median(inside) < 80 and (inside > 400).mean() < 0.1


def test_clean_slice_fills_holes_and_drops_specks():
    probability = np.zeros((100, 100), np.float32)
    probability[20:70, 20:70] = 0.9
    probability[40:45, 40:45] = 0.1  # a hole
    probability[80:90, 80:90] = 0.6  # a second part, large enough
    probability[5:7, 5:7] = 1.0  # a speck
    mask = pred.clean_slice(probability)
    assert mask.dtype == bool and mask.sum() == 2500 + 100
    assert not pred.clean_slice(np.full((50, 50), 0.4)).any()


@pytest.mark.parametrize("pixels", [80, 110, 150])
def test_a_head_that_is_small_in_its_picture_is_looked_at_closer(predictor, cta, pixels):
    """As in a picture of 512 x 512 from shoulder to vertex, whose head is some 100 pixels wide."""
    hu, truth = (data.stack(array, "axial")[45] for array in (cta.hu, cta.mask))
    grey = np.uint8(255 * data.normalise(np.ascontiguousarray(hu), (-100, 300)))
    picture, drawn = np.zeros((2, 512, 512), np.uint8)
    place = np.s_[200 : 200 + pixels, 300 : 300 + pixels]
    picture[place] = cv2.resize(grey, (pixels, pixels), interpolation=cv2.INTER_AREA)
    drawn[place] = cv2.resize(np.uint8(truth), (pixels, pixels), interpolation=cv2.INTER_AREA)
    (mask,) = predictor.predict_slices([picture])
    assert dice(mask, drawn > 0) > 0.93


def test_the_closer_look_holds_the_head_and_is_not_taken_for_little():
    brain = np.zeros((512, 400), bool)
    brain[100:160, 20:60] = True
    brain[300:303, 200:203] = True  # a speck
    rows, columns = pred.closer(brain)
    assert (rows.start, rows.stop) == (82, 178) and (columns.start, columns.stop) == (0, 88)
    brain[50:450, 50:350] = True
    assert pred.closer(brain) is None and pred.closer(np.zeros((9, 9), bool)) is None


def test_a_slice_of_which_the_network_is_not_sure_has_no_brain():
    probability = np.zeros((100, 100), np.float32)
    probability[20:70, 20:70] = 0.7
    assert pred.clean_slice(probability).sum() == pred.clean_slice(probability, 0.6).sum() == 2500
    assert not pred.clean_slice(probability, 0.8).any()


def test_how_sure_a_network_must_be_of_a_slice_is_in_its_card(predictor, cta, monkeypatch):
    middle = data.stack(cta.hu, "axial")[40].astype(np.float32)
    assert predictor.predict_slices([middle])[0].any()
    monkeypatch.setattr(predictor, "sure", 1.0)
    assert not predictor.predict_slices([middle])[0].any()


# ---------------------------------------------------------------- scans


def test_the_phantoms_mask_is_found(found, cta):
    assert dice(found.mask, cta.mask) > 0.95
    assert (found.mask & cta.vessels).sum() / cta.vessels.sum() > 0.7
    assert ndimage.label(found.mask)[1] == 1
    np.testing.assert_array_equal(ndimage.binary_fill_holes(found.mask), found.mask)
    assert min(found.agreement.values()) > 0.8 and not found.notes


ORDERS = {
    "PIR": [[1, -1], [2, -1], [0, 1]],
    "RSA": [[0, 1], [2, 1], [1, 1]],
    "LPI": [[0, -1], [1, -1], [2, -1]],
}


def test_a_scan_in_any_axis_order_gets_its_mask_on_its_own_grid(cta_file, found, tmp_path):
    """The same head stored in three ways, oblique in space: one mask, each on its scan's grid."""
    image = nib.load(cta_file)
    turned = image.affine.copy()
    turned[:3, :3] = [[2.4, -0.7, 0.1], [0.7, 2.4, 0.0], [-0.1, 0.05, 2.5]]
    turned[:3, 3] = 30, -12, 400
    (tmp_path / "in").mkdir()
    for name, order in ORDERS.items():
        there = orientations.inv_ornt_aff(np.array(order), image.shape)
        array = nib.apply_orientation(np.asarray(image.dataobj), order)
        stored = nib.Nifti1Image(array, turned @ there)
        stored.header.set_sform(stored.affine, 2)
        stored.header.set_qform(None, 0)
        nib.save(stored, tmp_path / "in" / f"{name}.nii.gz")
    assert run(tmp_path / "in", out=tmp_path / "out") == 0
    for name in ORDERS:
        scan = nib.load(tmp_path / "in" / f"{name}.nii.gz")
        said = about(tmp_path / "out", name)
        mask = nib.load(tmp_path / "out" / f"{name}_prediction" / f"{name}_predicted_mask.nii.gz")
        assert mask.shape == scan.shape and mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(mask.affine, scan.affine)
        assert (mask.header["sform_code"], mask.header["qform_code"]) == (2, 0)
        array = np.asarray(mask.dataobj)
        assert set(np.unique(array)) == {0, 1}
        voxel = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        assert said["volume_ml"] == pytest.approx(array.sum() * voxel, abs=0.1)
        canonical = np.asarray(nib.as_closest_canonical(mask).dataobj) > 0
        assert dice(canonical, found.mask) > 0.985, name
        overlay = cv2.imread(str(tmp_path / "out" / f"{name}_prediction" / f"{name}_overlay.png"))
        assert overlay.shape[0] > 256 and (np.ptp(overlay.astype(int), axis=2) > 30).any()


@pytest.mark.parametrize("flips", [(1, 1, -1), (-1, -1, 1)])
def test_a_head_upside_down_gets_nearly_the_same_mask(
    predictor, cta, found, flips, tmp_path, save_nifti_as
):
    order = np.column_stack([range(3), flips])
    path = save_nifti_as(tmp_path / "x.nii.gz", nib.apply_orientation(cta.hu, order), cta.affine)
    mask = nib.apply_orientation(predictor.volume(read_volume(path)).mask, order)
    assert dice(mask, found.mask) > 0.97
    assert dice(mask, cta.mask) > 0.94


def test_masks_as_pictures_and_the_brain_alone(cta, tmp_path, save_nifti_as, capsys):
    path = save_nifti_as(tmp_path / "slab.nii.gz", cta.hu[..., 40:44], cta.affine)
    words = [path, "--format", "png", "--brain"]
    assert run(*words, out=tmp_path / "out") == 0
    folder = tmp_path / "out" / "slab_prediction"
    pictures = sorted((folder / "slab_predicted_mask_png").iterdir())
    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) > 0 for p in pictures]
    assert len(masks) == 4
    assert dice(np.stack(masks), data.stack(cta.mask[..., 40:44], "axial")) > 0.9
    brain = nib.load(folder / "slab_brain.nii.gz")
    hu, mask = np.asarray(brain.dataobj), data.unstack(np.stack(masks), "axial")
    np.testing.assert_array_equal(hu[mask], np.rint(cta.hu[..., 40:44])[mask])
    assert (hu[~mask] <= -1000).all()
    capsys.readouterr()
    assert run(*words, out=tmp_path / "out") == 0
    assert "done before" in capsys.readouterr().out
    assert run(path, out=tmp_path / "out") == 0, "in another format it is not done"
    assert (folder / "slab_predicted_mask.nii.gz").exists()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 4])
def test_a_few_slices_are_enough(predictor, cta, axis, count, tmp_path, save_nifti_as):
    middle = range(40 - count // 2, 40 - count // 2 + count)
    path = save_nifti_as(tmp_path / "slab.nii.gz", cta.hu.take(middle, axis), cta.affine)
    scan = read_volume(path)
    result = predictor.volume(scan)
    assert result.mask.shape == scan.hu.shape and not result.notes
    assert dice(result.mask, cta.mask.take(middle, axis)) > 0.9
    assert result.verdict.grade == "check" and result.verdict.reasons == (pred.TOO_THIN,)


@pytest.mark.parametrize("axis", range(3))
def test_of_a_thin_scan_only_its_own_slices_are_drawn(axis):
    shape = np.insert([64, 64], axis, 2)
    scan = SimpleNamespace(hu=np.zeros(shape, np.float32), spacing=np.ones(3))
    height, width = pred.draw_scan(scan, scan.hu > 0, height=64).shape[:2]
    assert 64 < height < 2 * 64 and 2 * 64 < width < 3 * 64  # two pictures, no stripe


def test_a_brain_is_drawn_with_its_surroundings_not_with_the_shoulders():
    """Of a scan 400 mm wide the sheet shows the brain and AROUND mm on every side, to the edge."""
    hu, brain = np.full((100, 100, 50), -1000.0, np.float32), np.zeros((100, 100, 50), bool)
    brain[40:60, 30:60, 30:50] = True
    box = pred.around(brain, 10)
    assert box == (slice(30, 70), slice(20, 70), slice(20, 50))
    hu[box] = np.random.default_rng(0).normal(40, 90, (40, 50, 30))
    scan = SimpleNamespace(hu=hu, spacing=np.full(3, 4.0))
    sheet = pred.draw_scan(scan, brain, height=64)
    ours = pred.draw_scan(SimpleNamespace(hu=hu[box], spacing=scan.spacing), brain[box], height=64)
    np.testing.assert_array_equal(sheet, ours)


def test_a_real_head_ct(predictor, shared):
    scan = read_volume(shared("ct/scct.nii.gz"))
    mask = np.asarray(nib.as_closest_canonical(nib.load(shared("ct/scct_mask.nii.gz"))).dataobj)
    assert dice(predictor.volume(scan).mask, mask > 0.5) > 0.93


def test_no_head_gives_an_empty_mask_and_a_warning(tmp_path, shared, save_nifti_as, capsys):
    air = np.random.default_rng(0).normal(-1000, 20, (40, 40, 40)).astype(np.float32)
    save_nifti_as(tmp_path / "air.nii.gz", air, np.diag([4.0, 4, 4, 1]))
    save_nifti_as(tmp_path / "void.nii.gz", np.zeros((40, 40, 40), np.int16), np.diag([4.0] * 4))
    for name in ("air", "void"):
        assert run(tmp_path / f"{name}.nii.gz", out=tmp_path / "out") == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("warning: ") and "no brain" in lines[0]
        said = about(tmp_path / "out", name)
        mask = nib.load(tmp_path / "out" / f"{name}_prediction" / said["mask"])
        assert mask.shape == (40, 40, 40) and not np.asarray(mask.dataobj).any()
        assert said["volume_ml"] == 0 and "no brain" in said["notes"][-1]


def blind(seen):
    """The probabilities (…, classes) of a view that sees nothing but background."""
    return np.eye(seen.shape[-1], dtype=np.float32)[np.zeros(seen.shape[:-1], int)]


def test_what_no_two_views_see_alike_is_no_brain(predictor, cta_file, monkeypatch):
    """As the tongue in scans of a neck; one view that fails does not stop the other two."""
    scan, views, look = read_volume(cta_file), predictor.views, predictor.look
    thirds = dict(zip(data.VIEWS, (0.9, 0.6, 0.0), strict=True))

    def apart(*args, **words):
        answer = look(*args, **words)
        heights = np.linspace(0, 1, answer.inside.shape[2])
        seen = {v: s * (heights >= thirds[v]) * (heights < thirds[v] + 0.4)
                for v, s in answer.views.items()}  # fmt: skip
        return replace(answer, views=seen)

    monkeypatch.setattr(predictor, "look", apart)
    result = predictor.volume(scan)
    assert not result.mask.any() and result.notes == (pred.NO_HEAD,)
    monkeypatch.setattr(predictor, "look", look)

    def two_views(*args, **words):
        seen = views(*args, **words)
        return seen | {"sagittal": blind(seen["sagittal"])}

    monkeypatch.setattr(predictor, "views", two_views)
    assert predictor.volume(scan).mask.any()


def test_a_trunk_has_no_brain(predictor, shared):
    result = predictor.volume(read_volume(shared("trunk/example_ct.nii.gz")))
    assert not result.mask.any() and result.notes == (pred.NO_HEAD,)


@pytest.mark.parametrize("spacing, slice_axis, seen", [
    ((0.5, 0.5, 0.7), 2, (2, 2, 2)), ((0.8, 0.8, 3.5), 2, (2, 2, 2)),
    ((0.4, 0.4, 5.0), 2, (3, 5, 5)), ((0.4, 0.4, 6.5), 2, (4, 5, 5)),
    ((7.5, 0.6, 0.6), 0, (5, 5, 5)), ((4.7, 4.7, 2.5), 2, (2, 3, 3)),
])  # fmt: skip
def test_of_views_finer_than_the_scan_fewer_slices_are_seen(spacing, slice_axis, seen):
    scan = SimpleNamespace(spacing=np.array(spacing), slice_axis=slice_axis)
    every = pred.slices_seen(scan, 1.5)
    assert every == dict(zip(("axial", "coronal", "sagittal"), seen, strict=True))


def test_between_slices_lie_their_mixtures_and_beyond_the_last_itself():
    shown = pred.between(np.array([0.0, 3.0, 9.0])[:, None, None], every=3, count=8)
    np.testing.assert_allclose(shown.ravel(), [0, 1, 2, 3, 5, 7, 9, 9])


def test_clean_volume_keeps_the_largest_part_and_fills_it():
    probability = np.zeros((30, 30, 30), np.float32)
    probability[5:20, 5:20, 5:20] = 0.9
    probability[10:13, 10:13, 10:13] = 0.2
    probability[24:28, 24:28, 24:28] = 1.0
    probability[20:22, 5:20, 5:20] = 0.4  # the soft border of the large part
    clean = pred.clean_volume(probability)
    assert clean.dtype == np.float32 and (clean[10:13, 10:13, 10:13] == 1).all()
    assert not clean[24:].any()
    np.testing.assert_allclose(clean[20, 7:18, 7:18], 0.4, atol=1e-6)
    assert (clean[6:19, 6:19, 6:19] > 0.5).all()
    assert not pred.clean_volume(np.zeros((4, 4, 4), np.float32)).any()


def test_clean_volume_cuts_off_what_hangs_by_a_thread():
    """An orbit painted through the optic canal, two cubes wide."""
    probability = np.zeros((40, 30, 30), np.float32)
    probability[3:18, 5:25, 5:25] = 0.9
    probability[18:26, 12:14, 12:14] = 0.9
    probability[26:36, 8:18, 8:18] = 0.9
    clean = pred.clean_volume(probability) > 0.5
    assert clean[4:17, 6:24, 6:24].all() and not clean[22:].any()


def test_tidy_keeps_one_part_and_fills_it():
    mask = np.zeros((12, 12, 12), bool)
    mask[2:9, 2:9, 2:9] = True
    mask[5, 5, 5] = False
    mask[10, 10, 10] = True
    tidied = pred.tidy(mask.copy())
    assert tidied.sum() == 7**3 and tidied[5, 5, 5] and not tidied[10, 10, 10]
    assert not pred.tidy(np.zeros((3, 3, 3), bool)).any()


def test_a_mask_grows_and_shrinks_by_mm_whatever_the_voxels():
    mask = np.zeros((41, 41, 21), bool)
    mask[10:31, 10:31, 8:13] = True
    spacing = np.array([1.0, 1, 2])
    for mm, counts in ((2, (25, 25, 7)), (-2, (17, 17, 3)), (0, (21, 21, 5))):
        grown = pred.grow(mask, spacing, mm)
        lines = (grown[:, 20, 10], grown[20, :, 10], grown[20, 20])
        assert tuple(line.sum() for line in lines) == counts, mm
    whole = np.ones((6, 6, 6), bool)
    assert pred.grow(whole, spacing, -2).all(), "a face of the scan is no border"


def test_agreement_is_the_dice_of_each_pair_of_views():
    seen = {"axial": [1.0, 1, 0, 0], "coronal": [1.0, 0, 0, 0], "sagittal": [0.0, 0, 0, 1]}
    views = {view: np.reshape(row, (4, 1, 1)) for view, row in seen.items()}
    assert pred.agreement(views, dict.fromkeys(views, 1)) == {
        "axial-coronal": pytest.approx(2 / 3, abs=1e-4), "axial-sagittal": 0, "coronal-sagittal": 0
    }  # fmt: skip
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1


def test_chosen_slices_are_spread_over_the_brain_from_the_top():
    masks = np.zeros((100, 2, 2), bool)
    masks[20:60, 0, 0] = True
    masks[30] = False  # a gap is shown, too
    assert pred.chosen_slices(masks, 100).tolist() == list(range(59, 19, -1))
    few = pred.chosen_slices(masks, 4)
    assert few.tolist() == [55, 45, 35, 25]
    assert len(pred.chosen_slices(np.zeros((50, 2, 2), bool), 5)) == 5, "no brain: over the scan"
    assert pred.chosen_slices(masks[20:21], 4).tolist() == [0]


# ---------------------------------------------------------------- what runs the network


def test_openvino_and_keras_find_the_same(predictor, cta):
    pictures = np.ascontiguousarray(data.stack(cta.hu, "axial")[10:60:5], np.float32)
    masks = np.stack(predictor.predict_slices(pictures))
    by_keras = np.stack(pred.Predictor(backend="keras").predict_slices(pictures))
    assert masks.any() and dice(masks, by_keras) >= 0.999


def make_model(path, over):
    """A network that calls brain what is brighter than `over` in 0..1, saved but not exported."""
    inputs = keras.Input((None, None, 1))
    decide = keras.layers.Conv2D(1, 1, activation="sigmoid")
    network = keras.Model(inputs, decide(inputs))
    decide.set_weights([np.full((1, 1, 1, 1), 200.0), np.array([-200.0 * over])])
    save_model(network, path, {"window": [-200, 800]})
    return path


def brighter_than(path, grey):
    """Whether a model calls a grey of 0..1 brain."""
    picture = np.full((1, 32, 32), grey, np.float32)
    return bool((pred.Predictor(path).probabilities(picture) > 0.5).all())


def test_an_export_that_is_stale_or_gone_is_made_anew(tmp_path, capsys):
    path = make_model(tmp_path / "m.keras", 0.3)
    export_model(path)
    capsys.readouterr()
    assert brighter_than(path, 0.5) and not capsys.readouterr().err
    make_model(path, 0.7)
    assert not brighter_than(path, 0.5), "the network of the new file"
    assert "m.xml was missing or not made of" in capsys.readouterr().err
    assert not brighter_than(path, 0.5) and not capsys.readouterr().err
    path.with_suffix(".xml").unlink()
    assert not brighter_than(path, 0.5) and capsys.readouterr().err.startswith("warning: ")
    path.with_suffix(".bin").write_bytes(b"\0" * 8)
    assert not brighter_than(path, 0.5) and capsys.readouterr().err.startswith("warning: ")


def test_an_unreadable_export_is_named(tmp_path):
    path = make_model(tmp_path / "m.keras", 0.3)
    export_model(path)
    path.with_suffix(".xml").write_text("<net>")
    with pytest.raises(InputError, match=r"m\.xml") as caught:
        pred.Predictor(path)
    assert len(str(caught.value).splitlines()[0]) > 20


def test_predicting_loads_no_training_library(slice_file, tmp_path):
    """With openvino, a newcomer's first mask does not wait for TensorFlow."""
    script = """
import sys, pred
assert pred.main(sys.argv[1:]) == 0
heavy = {"keras", "tensorflow", "torch", "jax", "openvino_telemetry", "sklearn", "matplotlib"}
print("loaded:", *(name for name in heavy if sys.modules.get(name)))
"""
    words = [str(slice_file("x.png")), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "loaded:" and not done.stderr
    assert (tmp_path / "out" / "x_prediction" / "x_predicted_mask.png").exists()


def test_help_needs_no_model(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, ROOT / "pred.py", "--help"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "--overwrite" in done.stdout and not done.stderr


def test_what_runs_down_the_canal_is_cut_and_a_round_end_is_not():
    x, y, z = np.ogrid[-50:51, -50:51, -80:51]
    ball = x**2 + y**2 + z**2 < 45**2
    canal = (x**2 + y**2 < 8**2) & (z < 0)
    cut = pred.cut_canal((ball | canal).astype(np.float32), 1.5) > 0.5
    lowest = np.flatnonzero(cut.any(axis=(0, 1)))[0] - 80
    assert -45 - 3 / 1.5 <= lowest < -40, "the funnel above the foramen stays, the canal does not"
    np.testing.assert_array_equal(cut[..., 80:], (ball | canal)[..., 80:])
    whole = pred.cut_canal(ball.astype(np.float32), 1.5) > 0.5
    np.testing.assert_array_equal(whole, ball)
    assert not pred.cut_canal(np.zeros((4, 4, 4), np.float32), 1.5).any()


def test_brain_close_to_a_face_of_the_box_is_looked_at_in_a_larger_one(
    predictor, found, cta_file, monkeypatch
):
    coarse = predictor.find_head

    def half(scan):
        head = coarse(scan)
        head.box[0, 0] = head.box[:, 0].mean() - 10
        return head

    monkeypatch.setattr(predictor, "find_head", half)
    again = predictor.volume(read_volume(cta_file))
    assert dice(again.mask, found.mask) > 0.99


@pytest.mark.parametrize("mm", [30, 36, 60])
def test_a_head_that_the_scan_cuts_is_found_whole(mm, predictor, cta, tmp_path, save_nifti_as):
    """So many mm above its base; without the mirror image, much less of the first two."""
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    part = np.s_[..., : base + round(mm / cta.affine[2, 2])]
    scan = read_volume(save_nifti_as(tmp_path / "cut.nii.gz", cta.hu[part], cta.affine))
    assert predictor.find_head(scan).cut.tolist() == [[False] * 3, [False, False, True]]
    assert dice(predictor.volume(scan).mask, cta.mask[part]) > 0.95


@pytest.mark.parametrize("axes", ["RAS", "ALI"])
@pytest.mark.parametrize("left", ["nothing", "a cylinder", "the brain"])
def test_where_a_head_was_blanked_out_its_scan_ends(
    left, axes, predictor, cta, tmp_path, save_nifti_as
):
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    stop = base + round(50 / cta.affine[2, 2])
    x, y = np.ogrid[: cta.hu.shape[0], : cta.hu.shape[1]]
    middle = np.argwhere(cta.mask).mean(0)
    cylinder = np.hypot(x - middle[0], y - middle[1])[..., None] < 8
    kept = {"nothing": False, "a cylinder": cylinder, "the brain": cta.mask}[left]
    hu = np.where(kept | (np.arange(cta.hu.shape[2]) < stop), cta.hu, -1024)
    path = save_nifti_as(tmp_path / "blanked.nii.gz", hu, cta.affine)
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axes)
    )
    nib.save(nib.load(path).as_reoriented(turn), path)
    result = predictor.volume(read_volume(path))
    assert result.mask.shape == cta.mask.shape and not result.mask[..., stop:].any()
    assert dice(result.mask[..., :stop], cta.mask[..., :stop]) > 0.985
    assert result.notes == (pred.BLANKED.format(hu.shape[2] - stop, "top"),)
    assert any("top face" in reason for reason in result.verdict.reasons)


def test_what_is_seen_only_once_the_scan_ends_where_it_was_blanked_out(
    predictor, cta, tmp_path, save_nifti_as, monkeypatch
):
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    stop = base + round(50 / cta.affine[2, 2])
    hu = np.where(np.arange(cta.hu.shape[2]) < stop, cta.hu, -1024)
    scan = read_volume(save_nifti_as(tmp_path / "x.nii.gz", hu, cta.affine))
    find = predictor.find_head
    monkeypatch.setattr(predictor, "find_head",
                        lambda part: None if part.hu.shape == hu.shape else find(part))
    assert dice(predictor.volume(scan).mask[..., :stop], cta.mask[..., :stop]) > 0.985
    monkeypatch.setattr(predictor, "find_head", lambda part: None)
    result = predictor.volume(scan)
    assert not result.mask.any() and result.notes == (pred.NO_HEAD,)


def test_slices_go_on_as_their_mirror_image_where_a_head_is_cut():
    cubes = np.random.default_rng(0).random((60, 50, 48))
    cut = np.array([[True, False, False], [False, False, True]])
    n = pred.MIRRORED
    axial, inside = pred.mirrored(cubes, cut, "axial")
    np.testing.assert_array_equal(axial, np.concatenate([cubes[n:0:-1], cubes]))
    np.testing.assert_array_equal(axial[inside], cubes)
    sagittal, inside = pred.mirrored(cubes, cut, "sagittal")
    np.testing.assert_array_equal(sagittal[..., 48:], cubes[..., -2 : -2 - n : -1])
    np.testing.assert_array_equal(sagittal[inside], cubes)
    uncut, inside = pred.mirrored(cubes, pred.UNCUT, "coronal")
    np.testing.assert_array_equal(uncut[inside], cubes)
    assert uncut.shape == cubes.shape


def test_a_head_that_one_view_alone_sees_is_found(predictor, cta_file, monkeypatch):
    scan, views = read_volume(cta_file), predictor.views
    head = predictor.find_head(scan)

    def axial(*args):
        return {view: seen if view == "axial" else blind(seen)
                for view, seen in views(*args).items()}  # fmt: skip

    monkeypatch.setattr(predictor, "views", axial)
    again = predictor.find_head(scan)
    np.testing.assert_allclose(again.box, head.box, atol=3 * 3.0)  # mm: three of the coarse cubes
    np.testing.assert_array_equal(again.whole, head.whole)
    monkeypatch.setattr(predictor, "views", lambda *args: {"axial": blind(views(*args)["axial"])})
    assert predictor.find_head(scan) is None
