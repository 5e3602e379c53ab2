"""pred.py with the shipped network: names and folders, grids, masks, and where the border lies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel import orientations
from pydicom.data import get_testdata_file
from scipy import ndimage

import pred
from common.errors import InputError
from common.files import checksum
from pred import main
from predict import picture
from predict.inputs import find_inputs
from predict.network import MODEL
from predict.result import FOR_SCANS, claimed, plan, remove_stale
from scan.mask import dice
from scan.read import read_volume
from scan.views import stack, unstack

ROOT = Path(pred.__file__).parent


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
    return main([*map(str, words), "--out", str(out)])


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def about(out, name, number=""):
    return json.loads((out / f"{name}_prediction{number}" / f"{name}.json").read_text())


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
    assert said["model"] == checksum(MODEL) and said["seconds"] > 0
    overlay = cv2.imread(str(folder / "head.v2_overlay.png"))
    assert (np.ptp(overlay.astype(int), axis=2) > 30).any(), "drawn in colour"
    assert str(folder / "head.v2_predicted_mask.png") in capsys.readouterr().out


def test_a_tinted_slice_gets_the_mask_of_the_grey_one_and_a_note(slice_file, tmp_path, capsys):
    grey, tinted, out = slice_file("grey.png"), tmp_path / "tinted.jpg", tmp_path / "out"
    colours = cv2.imread(str(grey))[..., :3] * np.float32([0.8, 0.9, 1])
    cv2.imwrite(str(tinted), np.rint(colours).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert run(grey, tinted, out=out) == 0
    masks = [
        cv2.imread(str(out / f"{name}_prediction/{name}_predicted_mask.png"), 0) > 0
        for name in ("grey", "tinted")
    ]
    assert dice(*masks) > 0.97
    note = f"{tinted}: the picture is coloured in part or as a whole"
    assert not about(out, "grey")["notes"] and note in capsys.readouterr().err
    assert [n for n in about(out, "tinted")["notes"] if "taken as grey" in n]


def test_two_inputs_of_one_name_keep_their_results(slice_file, tmp_path, capsys):
    first, second, out = slice_file("a/same.png"), slice_file("b/same.png"), tmp_path / "out"
    assert run(first, second, out=out) == 0
    folders = sorted(p.name for p in out.glob("*_prediction*"))
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
    assert list(find_inputs([path, path, path.parent])) == [path]


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
    job = plan([tmp_path / path], tmp_path / "out")[0]
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
    assert about(out, "x")["model"] == checksum(MODEL)


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


def test_results_are_claimed_before_they_are_written(slice_file, tmp_path):
    """Two processes began at once, and planned the same folder for inputs of one name."""
    out, paths = tmp_path / "out", [slice_file("a/x.png"), slice_file("b/x.png")]
    jobs = [plan([path], out)[0] for path in paths]
    assert jobs[0].folder == jobs[1].folder
    with claimed(jobs[0]) as first, claimed(jobs[1]) as second:
        assert (first.folder.name, second.folder.name) == ("x_prediction", "x_prediction_2")
    run(*paths, out=out)
    assert [about(out, "x", n)["input"] for n in ("", "_2")] == [*map(str, paths)]


def test_a_result_that_was_half_replaced_is_made_anew(slice_file, tmp_path, monkeypatch, capsys):
    path, out = slice_file("x.png"), tmp_path / "out"
    run(path, out=out)

    def full(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr(picture, "outline", full)  # after the mask was written
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
    remove_stale(folder, before, {"masks": ["new.nii.gz"], "wanted": {"series": 1}})
    assert (folder / "x.nii.gz").exists(), "the same mask, in another format"
    remove_stale(folder, before, {"masks": ["x.nii.gz"], "wanted": {"series": 2}})
    assert files_in(tmp_path) == ["other.nii.gz", "x_prediction/x.nii.gz"]


def test_a_slice_says_what_is_for_scans(slice_file, tmp_path, capsys):
    run(slice_file("x.png"), "--border", 2, "--brain", out=tmp_path / "out")
    assert about(tmp_path / "out", "x")["notes"] == [FOR_SCANS]
    assert FOR_SCANS in capsys.readouterr().err


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
    assert list(find_inputs([both])) == [both]
    (result / "patient.json").write_text('{"input": "x"}')
    assert list(find_inputs([both])) == [series]


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
    found = [path.name for path in find_inputs([tmp_path])]
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
    assert sorted(find_inputs([tmp_path / "in"])) == sorted([*wanted, series])


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
    assert list(rows)[:5] == ["mL", "verdict", "seconds", "warnings", "mask"] and len(rows) == 3
    assert (tmp_path / "out" / rows["mask"]["good.png"]).exists()
    assert rows.verdict["bad.png"] == "failed"
    assert rows.seconds["good.png"] > 0 and "bad.png" in rows.warnings["bad.png"]
    assert (tmp_path / "out" / "report.html").exists()
    assert [p for p in files_in(tmp_path / "out") if "prediction/" in p] == [
        f"good_prediction/good{end}" for end in (".json", "_overlay.png", "_predicted_mask.png")
    ]


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


def test_masks_as_pictures_and_the_brain_alone(cta, tmp_path, save_nifti_as, capsys):
    path = save_nifti_as(tmp_path / "slab.nii.gz", cta.hu[..., 40:44], cta.affine)
    words = [path, "--format", "png", "--brain"]
    assert run(*words, out=tmp_path / "out") == 0
    folder = tmp_path / "out" / "slab_prediction"
    pictures = sorted((folder / "slab_predicted_mask_png").iterdir())
    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) > 0 for p in pictures]
    assert len(masks) == 4
    assert dice(np.stack(masks), stack(cta.mask[..., 40:44], "axial")) > 0.9
    brain = nib.load(folder / "slab_brain.nii.gz")
    hu, mask = np.asarray(brain.dataobj), unstack(np.stack(masks), "axial")
    np.testing.assert_array_equal(hu[mask], np.rint(cta.hu[..., 40:44])[mask])
    assert (hu[~mask] <= -1000).all()
    capsys.readouterr()
    assert run(*words, out=tmp_path / "out") == 0
    assert "done before" in capsys.readouterr().out
    assert run(path, out=tmp_path / "out") == 0, "in another format it is not done"
    assert (folder / "slab_predicted_mask.nii.gz").exists()


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
    done = subprocess.run(
        [sys.executable, ROOT / "pred.py", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--overwrite" in done.stdout and not done.stderr
