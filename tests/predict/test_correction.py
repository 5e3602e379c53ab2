"""predict/correction.py: a corrected mask beside the predicted one, its versions, and what a new
prediction keeps of them."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import pred
from common.errors import InputError
from common.files import checksum, read_json, write_json
from predict.correction import Outdated, save_correction, undo_correction
from predict.result import Target, claimed, remove_unfinished
from scan.nifti import write_mask
from scan.read import read_volume

ROOT = Path(__file__).parents[2]
# Oblique and left-handed; the file's second axis leads across the slices, which are 3 mm apart
TURNS = ([1, 0, 0, 0.2], [0, 0, 1, -0.1])  # quaternions, not yet of length 1
AFFINE = np.eye(4)
for turn in TURNS:
    AFFINE[:3, :3] = AFFINE[:3, :3] @ nib.quaternions.quat2mat(turn)
AFFINE[:3, :3] *= [0.9, -3.0, 0.9]
AFFINE[:3, 3] = 80, -70, 40
SHAPE = (20, 9, 16)
LABELS = {"necrotic core": 1, "oedema": 2, "enhancing tumour": 4}


def make_result(tmp_path, save_nifti_as, values=(1,), **about):
    """The JSON of a result whose mask lies on an oblique grid, as pred.py writes it."""
    scan = read_volume(save_nifti_as(tmp_path / "x.nii.gz", np.zeros(SHAPE, np.int16), AFFINE))
    folder = tmp_path / "x_prediction"
    mask = np.zeros(scan.hu.shape, np.uint8)
    mask[4:9, 4:9, 2:6] = values[0]
    write_mask(mask, scan, folder / "x_predicted_mask.nii.gz")
    said = {"input": str(tmp_path / "x.nii.gz"), "input_version": "1 2"}
    said |= {"mask": "x_predicted_mask.nii.gz", "masks": ["x_predicted_mask.nii.gz"], "notes": []}
    write_json(folder / "x.json", said | about)
    return folder / "x.json"


@pytest.fixture
def result(tmp_path, save_nifti_as):
    return make_result(tmp_path, save_nifti_as)


def mask_of(path):
    return path.with_name("x_predicted_mask.nii.gz")


def drawn_on(path, *strokes, affine=None, kind=np.uint8):
    """A mask's NIfTI file with `strokes`, (place, value), drawn into its own voxels."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).astype(kind)
    for place, value in strokes:
        voxels[place] = value
    return nib.Nifti1Image(voxels, image.affine if affine is None else affine).to_bytes()


def voxels_of(path):
    return np.asarray(nib.load(path).dataobj)


STROKE = np.s_[1:3, 2, 4:7]


def test_what_is_written_differs_only_where_it_was_drawn(result):
    original, before = mask_of(result), mask_of(result).read_bytes()
    inside = tuple(np.argwhere(voxels_of(original))[0])
    content = drawn_on(original, (STROKE, 1), (inside, 0))
    entry = save_correction(result, gzip.compress(content), "Ann\nB")
    path = result.with_name(entry["file"])
    assert path.name == "x_corrected_mask.nii.gz" and checksum(path) == entry["sha256"]
    old, new = nib.load(original), nib.load(path)
    assert old.header == new.header and (old.affine == new.affine).all()
    expected = voxels_of(original).copy()
    expected[STROKE], expected[inside] = 1, 0
    assert (voxels_of(path) == expected).all() and original.read_bytes() == before
    voxel = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert entry["added_ml"] == pytest.approx(6 * voxel, abs=1e-3)
    assert entry["removed_ml"] == pytest.approx(voxel, abs=1e-3)
    assert entry["volume_ml"] == pytest.approx(expected.sum() * voxel, abs=1e-3)
    assert entry["slices"] == 2 and entry["who"] == r"Ann\nB"
    assert read_json(result)["corrections"] == [entry]


def test_an_independent_reader_sees_the_same_grid(result):
    itk = pytest.importorskip("SimpleITK")
    entry = save_correction(result, drawn_on(mask_of(result), (STROKE, 1)), "")
    old, new = (
        itk.ReadImage(str(result.with_name(n))) for n in (mask_of(result).name, entry["file"])
    )
    for ask in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection", "GetPixelIDValue"):
        assert getattr(old, ask)() == getattr(new, ask)()
    assert itk.GetArrayFromImage(old != new).sum() == 6


def test_versions_are_kept_and_taken_back_one_by_one(result):
    original = mask_of(result)
    first = save_correction(result, drawn_on(original, (STROKE, 1)), "A", seen="")
    second = save_correction(result, drawn_on(original, (np.s_[0], 1)), "B", first["sha256"])
    assert second["file"] == "x_corrected_2_mask.nii.gz"
    with pytest.raises(Outdated, match="somebody"):
        save_correction(result, drawn_on(original, (np.s_[1], 1)), "C", seen=first["sha256"])
    content = result.with_name(second["file"]).read_bytes()
    undone = undo_correction(result, seen=second["sha256"])
    assert undone["file"] == "x_undone_mask.nii.gz"
    assert result.with_name("x_undone_mask.nii.gz").read_bytes() == content
    assert read_json(result)["corrections"] == [first]
    again = save_correction(result, drawn_on(original, (np.s_[2], 1)), "B")
    assert again["file"] == "x_corrected_2_mask.nii.gz"
    undo_correction(result), undo_correction(result)
    assert "corrections" not in read_json(result)
    with pytest.raises(InputError, match="no correction"):
        undo_correction(result)
    names = {path.name for path in result.parent.iterdir()}
    assert {"x_undone_mask.nii.gz", "x_undone_2_mask.nii.gz", "x_undone_3_mask.nii.gz"} < names


def with_nan(content):
    """A NIfTI file whose first row of the affine begins with no number."""
    return content[:280] + np.float32(np.nan).tobytes() + content[284:]


def bomb(path):
    return gzip.compress(drawn_on(path) + bytes(1 << 25))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: drawn_on(path, (STROKE, 2)), "values other than 0, 1"),
        (lambda path: drawn_on(path, (STROKE, 1), affine=AFFINE + np.eye(4)[[3, 1, 2, 0]]), "grid"),
        (lambda path: with_nan(drawn_on(path, (STROKE, 1))), "grid"),
        (lambda path: nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE).to_bytes(), "grid"),
        (lambda path: drawn_on(path, (STROKE, 1), kind=np.int16), "uint8"),
        (lambda path: drawn_on(path), "the same as before"),
        (lambda path: drawn_on(path, (STROKE, 1))[:-1], "truncated"),
        (lambda path: gzip.compress(drawn_on(path, (STROKE, 1)))[:-20], "truncated"),
        (lambda path: b"", "no NIfTI"),
        (lambda path: b"\x5c\1\0\0" * 200, "NIfTI|uint8|truncated"),
        (bomb, "larger"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(result, make, words):
    before, said = set(result.parent.iterdir()), result.read_bytes()
    with pytest.raises(InputError, match=words):
        save_correction(result, make(mask_of(result)), "")
    assert set(result.parent.iterdir()) == before and result.read_bytes() == said


def test_labels_of_a_tumour_are_those_of_its_card(tmp_path, save_nifti_as):
    path = make_result(tmp_path, save_nifti_as, values=(2,), label_values=LABELS)
    inside = tuple(np.argwhere(voxels_of(mask_of(path)))[0])
    with pytest.raises(InputError, match="other than 0, 1, 2, 4"):
        save_correction(path, drawn_on(mask_of(path), (inside, 3)), "")
    entry = save_correction(path, drawn_on(mask_of(path), (inside, 4)), "")
    voxel = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert entry["relabelled_ml"] == pytest.approx(voxel, abs=1e-3)
    assert (entry["added_ml"], entry["removed_ml"]) == (0, 0)
    assert entry["volumes_ml"]["enhancing tumour"] == pytest.approx(voxel, abs=1e-3)


@pytest.mark.parametrize("name", ["../other.nii.gz", "x_predicted_mask.dcm", ""])
def test_a_mask_that_lies_elsewhere_is_not_touched(result, tmp_path, name):
    content = drawn_on(mask_of(result), (STROKE, 1))
    shutil.copy(mask_of(result), tmp_path / "other.nii.gz")
    write_json(result, read_json(result) | {"mask": name})
    with pytest.raises(InputError, match="lies elsewhere|no mask in NIfTI"):
        save_correction(result, content, "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "other.nii.gz",
        "x.nii.gz",
        "x_prediction",
    }


def test_a_mask_that_is_a_link_is_not_followed(result, tmp_path):
    content = drawn_on(mask_of(result), (STROKE, 1))
    mask_of(result).rename(tmp_path / "other.nii.gz")
    mask_of(result).symlink_to(tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match="cannot be corrected"):
        save_correction(result, content, "")


def test_a_mask_in_bids_lies_beside_its_folder(result, tmp_path):
    name = "sub-01_desc-brain_mask"
    mask_of(result).rename(tmp_path / f"{name}.nii.gz")
    write_json(tmp_path / f"{name}.json", {"Type": "Brain", "Sources": ["bids:raw:x"], "Notes": []})
    about = read_json(result) | {"mask": f"../{name}.nii.gz", "bids": "bids:raw:x"}
    write_json(result, about)
    for count, start in enumerate(("sub-01_desc-corrected", "sub-01_desc-corrected2"), 1):
        content = drawn_on(tmp_path / f"{name}.nii.gz", (np.s_[:count], 1))
        entry = save_correction(result, content, "")
        assert entry["file"] == f"{start}_mask.nii.gz" and (tmp_path / entry["file"]).exists()
        sidecar = read_json(tmp_path / f"{start}_mask.json")
        assert sidecar["Type"] == "Brain" and "Notes" not in sidecar
        assert sidecar["VolumeInMilliliters"] == entry["volume_ml"]
    assert undo_correction(result)["file"] == "sub-01_desc-undone_mask.nii.gz"
    assert (tmp_path / "sub-01_desc-undone_mask.json").exists()


# ---------------------------------------------------------------- a new prediction


def test_pred_keeps_what_people_have_drawn(cta, tmp_path, save_nifti_as, capsys):
    scan = save_nifti_as(tmp_path / "scan.nii.gz", cta.hu[..., 40:42], cta.affine)
    words, folder = [str(scan), "--out", str(tmp_path / "out")], tmp_path / "out/scan_prediction"
    assert pred.main(words) == 0
    content = drawn_on(folder / "scan_predicted_mask.nii.gz", (np.s_[:2], 1))
    entry = save_correction(folder / "scan.json", content, "A")
    drawn = (folder / entry["file"]).read_bytes()
    capsys.readouterr()
    assert pred.main(words) == 0 and "done before" in capsys.readouterr().out
    assert pred.main([*words, "--overwrite", "--border", "2"]) == 0
    assert "counts, not the new mask" in capsys.readouterr().err
    assert read_json(folder / "scan.json")["corrections"] == [entry]
    assert (folder / entry["file"]).read_bytes() == drawn
    save_nifti_as(scan, cta.hu[..., 42:44], cta.affine)
    assert pred.main(words) == 0
    assert "no longer count; kept: scan_corrected_mask.nii.gz" in capsys.readouterr().err
    assert "corrections" not in read_json(folder / "scan.json")
    assert (folder / entry["file"]).read_bytes() == drawn


def test_a_prediction_that_fails_or_dies_keeps_them_too(result, tmp_path):
    entry = save_correction(result, drawn_on(mask_of(result), (STROKE, 1)), "")
    target = Target(tmp_path / "x.nii.gz", "x", result.parent)
    with pytest.raises(KeyboardInterrupt), claimed(target):
        assert read_json(result) == target.owner | {"corrections": [entry]}
        raise KeyboardInterrupt
    assert {path.name for path in result.parent.iterdir()} == {"x.json", entry["file"]}
    mask_of(result).write_bytes(b"half")  # of a process that died within `claimed`
    remove_unfinished(target)
    assert {path.name for path in result.parent.iterdir()} == {"x.json", entry["file"]}
    assert read_json(result)["corrections"] == [entry]
    with pytest.raises(InputError, match="no mask"):
        save_correction(result, b"", "")


# ---------------------------------------------------------------- a process that dies

SAVING = """
import sys
from contextlib import suppress
from pathlib import Path
from common.errors import InputError
from predict.correction import save_correction, undo_correction
path, contents = Path(sys.argv[1]), [Path(name).read_bytes() for name in sys.argv[2:]]
for turn in range(10_000):
    with suppress(InputError):  # the same as before
        print(save_correction(path, contents[turn % 3], "A")["sha256"], flush=True)
    if turn % 3 == 2:
        undo_correction(path)
"""


def test_a_process_that_is_killed_leaves_no_half_mask(result, tmp_path):
    files = [tmp_path / f"{number}.nii.gz" for number in range(3)]
    rng = np.random.default_rng(0)
    for file in files:
        noise = rng.integers(0, 2, SHAPE).astype(np.uint8)
        file.write_bytes(gzip.compress(drawn_on(mask_of(result), (np.s_[:], noise))))
    before = mask_of(result).read_bytes()
    for wait in (0.0, 0.003, 0.007, 0.011, 0.017):
        command = [sys.executable, "-c", SAVING, result, *files]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            told = process.stdout.readline().decode().strip()
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
        entries = json.loads(result.read_text())["corrections"]
        assert told in [entry["sha256"] for entry in entries]
        for entry in entries:
            path = result.with_name(entry["file"])
            assert checksum(path) == entry["sha256"] and voxels_of(path).shape == SHAPE
    assert mask_of(result).read_bytes() == before
