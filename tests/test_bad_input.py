"""What cannot be used: each gets one clear line and exit code 2, and leaves nothing half-written.

Through the scripts' own command lines, as the shell sees them.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import GEOMETRY, without, write_dicom

import data
import pred
import synthetic
import test
import train
from common.errors import run
from predict import picture as slices
from predict.network import MODEL
from scan.mask import dice
from synthesis.ct import make_scan
from synthetic import write_sample

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shell(capsys):
    """Runs a script's main() as its last line does; gives exit code, stderr's lines and stdout."""

    def call(main, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(lambda: main([str(word) for word in words]))
        said = capsys.readouterr()
        return ended.value.code, said.err.splitlines(), said.out

    return call


def one_error(outcome, *names):
    """Check that an outcome is exit code 2 and one line, which names what is wrong."""
    code, lines, _ = outcome
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for name in names:
        assert str(name) in lines[0]
    assert 20 < len(lines[0]) < 400


def files_in(folder):
    """Every file below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


# ---------------------------------------------------------------- one input of pred.py


def half(content):
    return content[: len(content) // 2]


def make_bad(folder, name, save_nifti_as):
    """Write the bad input `name` stands for; return its path."""
    path = folder / name
    good = np.random.default_rng(0).integers(-900, 900, (16, 16, 16)).astype(np.int16)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    kind = name.split(".")[0]
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("Dear colleague,\nplease find the scan attached.\n" * 20)
    elif kind == "truncated" and "nii" in name:
        path.write_bytes(half(save_nifti_as(path, good).read_bytes()))
    elif kind == "truncated":
        path.write_bytes(half(cv2.imencode(path.suffix, picture)[1].tobytes()))
    elif kind == "photo":
        photo = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(photo, (64, 64)))
    elif kind == "flat":
        save_nifti_as(path, good[0])
    elif kind == "several":
        save_nifti_as(path, np.stack([good, good], 3))
    elif kind == "complex":
        save_nifti_as(path, good.astype(np.complex64))
    elif kind == "noaxis":
        header = nib.Nifti1Header()
        header["dim"] = [3, 4, 0, 4, 1, 1, 1, 1]
        header["sform_code"], header["vox_offset"] = 1, 352
        header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
        path.write_bytes(header.binaryblock + b"\0" * 100)
    elif kind == "singular":
        image = nib.Nifti1Image(good, np.eye(4))
        image.header["srow_x"] = image.header["srow_y"] = [1, 0, 0, 0]
        image.header["sform_code"] = 1
        nib.save(nib.Nifti1Image(good, None, image.header), path)
    elif kind == "type":
        content = bytearray(save_nifti_as(path, good).read_bytes())
        content[70:72] = b"\x0f\x27"
        path.write_bytes(content)
    elif kind == "metres":
        save_nifti_as(path, good, np.diag([1000.0, 1000, 1000, 1]))
    return path


BAD = [
    "missing.nii.gz",
    "missing.png",
    "missing",
    "empty.nii.gz",
    "empty.nii",
    "empty.png",
    "empty.dcm",
    "truncated.nii.gz",
    "truncated.nii",
    "truncated.png",
    "truncated.jpg",
    "text.nii.gz",
    "text.nii",
    "text.png",
    "text.dcm",
    "text.txt",
    "folder",
    "photo.png",
    "photo.jpg",
    "flat.nii.gz",
    "several.nii.gz",
    "complex.nii.gz",
    "noaxis.nii",
    "singular.nii",
    "metres.nii",
    "type.nii",
]


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_scan_or_slice_gets_one_line(tmp_path, name, save_nifti_as, shell):
    path = make_bad(tmp_path, name, save_nifti_as)
    one_error(shell(pred.main, path, "--out", tmp_path / "out"), path)
    assert not (tmp_path / "out").exists() or not files_in(tmp_path / "out")


def test_bad_inputs_of_a_folder_get_a_line_each(tmp_path, save_nifti_as, shell):
    (tmp_path / "in").mkdir()
    names = ["empty.nii.gz", "photo.png", "singular.nii"]
    for name in names:
        make_bad(tmp_path / "in", name, save_nifti_as)
    code, lines, _ = shell(pred.main, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 2
    assert [line.split(" in")[0] for line in lines[:3]] and len(lines) == 4
    for name, line in zip(names, lines, strict=False):
        assert line.startswith("error: ") and name in line
    assert lines[3] == "3 of 3 inputs failed"
    assert [p for p in files_in(tmp_path / "out") if "prediction" in p] == []


@pytest.mark.parametrize(
    "tags",
    [{"Modality": "MR"}, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}],
    ids=["mr", "colour"],
)
def test_dicom_without_geometry_is_refused_if_it_is_no_grey_ct(tmp_path, tags, shell):
    hu = np.zeros((2, 8, 8))
    folder = without(write_dicom(tmp_path / "in", hu, np.zeros((2, 3)), **tags), *GEOMETRY)
    for path in (folder, folder / "im0"):
        one_error(shell(pred.main, path, "--out", tmp_path / "out"), path)
    assert not files_in(tmp_path / "out")


# ---------------------------------------------------------------- what can be used, with a word


def test_voxels_that_are_no_number_are_air_with_a_warning(tmp_path, cta, save_nifti_as, shell):
    hu = cta.hu[..., 40:44].copy()
    hu[:2, :2] = np.nan
    hu[-1, -1, 0], hu[-1, -1, 1] = np.inf, -np.inf
    path = save_nifti_as(tmp_path / "gaps.nii.gz", hu, cta.affine)
    code, lines, _ = shell(pred.main, path, "--out", tmp_path / "out")
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith("warning: ") and "18 voxels" in lines[0] and "air" in lines[0]
    mask = nib.load(tmp_path / "out/gaps_prediction/gaps_predicted_mask.nii.gz")
    assert mask.shape == hu.shape
    found, truth = np.asarray(mask.dataobj) > 0, cta.mask[..., 40:44]
    assert dice(found, truth) > 0.9


def test_a_scan_of_no_head_gives_an_empty_mask_and_a_warning(tmp_path, shared, shell):
    path = shared("trunk/example_ct.nii.gz")
    code, lines, _ = shell(pred.main, path, "--out", tmp_path)
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith("warning: ") and "is this a scan of a head?" in lines[0]
    mask = nib.load(tmp_path / "example_ct_prediction/example_ct_predicted_mask.nii.gz")
    assert mask.shape == nib.load(path).shape and not np.asarray(mask.dataobj).any()


# ---------------------------------------------------------------- models


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "slice.png"
    grey = np.random.default_rng(0).integers(0, 255, (6, 6)).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(grey, (300, 300)))
    return path


@pytest.mark.parametrize("backend", ["openvino", "keras"])
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "folder"])
def test_a_model_file_that_is_no_model(tmp_path, picture, shell, backend, kind):
    model = tmp_path / "m.keras"
    if kind == "folder":
        model.mkdir()
    elif kind != "missing":
        whole = MODEL.read_bytes()
        model.write_bytes({"empty": b"", "text": b"weights", "truncated": half(whole)}[kind])
        model.with_suffix(".json").write_text("{}")
    words = [picture, "--model", model, "--backend", backend, "--out", tmp_path / "out"]
    one_error(shell(pred.main, *words), "m.keras")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("m.xml")) and not list(tmp_path.glob(".unfinished*"))


def test_a_model_that_is_not_its_cards(tmp_path, picture, shell):
    for ending in (".keras", ".json", ".xml", ".bin"):
        shutil.copy(MODEL.with_suffix(ending), tmp_path / f"m{ending}")
    with (tmp_path / "m.keras").open("ab") as file:
        file.write(b"\0")
    one_error(
        shell(pred.main, picture, "--model", tmp_path / "m.keras", "--out", tmp_path),
        "m.keras",
        "checksums differ",
    )


# ---------------------------------------------------------------- scans and masks that do not fit


def make_pair(folder, save_nifti_as, hu=None, mask=None, mask_affine=None):
    """x.nii.gz and x_mask.nii.gz: a ball of brain, or what is given instead."""
    folder.mkdir(parents=True, exist_ok=True)
    ball = np.linalg.norm(np.indices((24,) * 3) - 11.5, axis=0) < 8
    affine = np.diag([4.0, 4, 4, 1])
    hu = np.where(ball, 40, -1000).astype(np.int16) if hu is None else hu
    save_nifti_as(folder / "x.nii.gz", hu, affine)
    save_nifti_as(
        folder / "x_mask.nii.gz",
        ball.astype(np.uint8) if mask is None else mask,
        affine if mask_affine is None else mask_affine,
    )


BAD_PAIRS = {
    "shape": {"mask": np.ones((24, 24, 20), np.uint8)},
    "affine": {"mask_affine": np.diag([4.0, 4, 4.4, 1])},
    "flat scan": {"hu": np.zeros((24, 24), np.int16)},
    "oblique": {
        "mask_affine": np.array([[4.0, -0.2, 0, 0], [0.2, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    },
}


@pytest.mark.parametrize("script", [data, test], ids=["data.py", "test.py"])
@pytest.mark.parametrize("kind", BAD_PAIRS)
def test_a_mask_that_is_not_its_scans(tmp_path, save_nifti_as, shell, script, kind):
    make_pair(tmp_path / "in", save_nifti_as, **BAD_PAIRS[kind])
    out = tmp_path / "out"
    more = ["--workers", 1] if script is data else ["--scores", out / "score.csv"]
    code, lines, _ = shell(script.main, tmp_path / "in", "--out", out, *more)
    assert code == 2
    named = [line for line in lines if "x_mask.nii.gz" in line or "x.nii.gz" in line]
    assert len(named) == 1 and not any("Traceback" in line for line in lines)
    assert not [p for p in files_in(out) if p.endswith((".png", ".csv", ".nii.gz"))]


def test_a_bad_pair_does_not_stop_the_good_one(tmp_path, save_nifti_as, shell):
    make_pair(tmp_path / "in", save_nifti_as, mask=np.ones((24, 24, 20), np.uint8))
    for ending in ("", "_mask"):
        make_pair(tmp_path / "good", save_nifti_as)
        shutil.copy(tmp_path / f"good/x{ending}.nii.gz", tmp_path / f"in/y{ending}.nii.gz")
    words = [tmp_path / "in", "--out", tmp_path / "out", "--workers", 1, "--size", 32]
    code, lines, _ = shell(data.main, *words)
    assert code == 2 and "1 of 2 scans" in lines[-1]
    assert set(pd.read_csv(tmp_path / "out/manifest.csv").case) == {"y"}


@pytest.mark.parametrize("name", ["missing", "empty.nii.gz", "text.nii.gz", "folder"])
@pytest.mark.parametrize("script", [data, test], ids=["data.py", "test.py"])
def test_data_and_test_name_what_they_cannot_use(tmp_path, save_nifti_as, shell, script, name):
    path = make_bad(tmp_path, name, save_nifti_as)
    more = ["--scores", tmp_path / "out/score.csv"] if script is test else []
    one_error(shell(script.main, path, "--out", tmp_path / "out", *more), path)
    assert not (tmp_path / "out").exists()


def test_test_refuses_a_photo_and_a_mask_of_another_size(tmp_path, shell):
    for name in ("photo", "size"):
        for kind in ("images", "masks"):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((64, 60 if name == "size" else 64), np.uint8)
        cv2.imwrite(str(tmp_path / f"in/masks/{name}.png"), mask)
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "in/images/photo.png"), colours)
    cv2.imwrite(str(tmp_path / "in/images/size.png"), colours[..., 0])
    words = ["--out", tmp_path / "out", "--scores", tmp_path / "out/score.csv"]
    code, lines, _ = shell(test.main, tmp_path / "in", *words)
    named = [line for line in lines if line.startswith("error: ")]
    assert code == 2 and "photo.png is a colour picture" in named[0]
    assert "size.png is 60x64" in named[1] and len(named) == 3
    assert not [p for p in files_in(tmp_path / "out") if p.endswith((".png", ".csv"))]


# ---------------------------------------------------------------- where nothing can be written


@pytest.fixture
def public_folder():
    """A folder that others may read, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_permission(folder):
    """Make `folder` read-only; root, whom no mode stops, acts as another user meanwhile."""
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


SCRIPTS = {
    "pred.py": (pred.main, lambda folder: [folder / "x.nii.gz", "--out", folder / "out/a"]),
    "data.py": (
        data.main,
        lambda folder: [folder / "x.nii.gz", "--out", folder / "out/a", "--workers", 1],
    ),
    "test.py": (
        test.main,
        lambda folder: [
            folder / "x.nii.gz",
            "--out",
            folder / "out/a",
            "--scores",
            folder / "out/score.csv",
        ],
    ),
    "synthetic.py": (synthetic.main, lambda folder: ["--sample", folder / "out/a/s.nii.gz"]),
}


@pytest.fixture
def quick(monkeypatch, coarse):
    """synthetic.py's samples are coarse, of a head that stands already."""
    fine = make_scan
    monkeypatch.setattr(synthetic, "make_scan", lambda *args, **more: fine(*args, **more | coarse))
    monkeypatch.setattr(write_sample, "__defaults__", (0,))


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_permission_to_write(name, public_folder, save_nifti_as, shell, quick):
    main, words = SCRIPTS[name]
    make_pair(public_folder, save_nifti_as)
    for ending in (".keras", ".json", ".xml", ".bin"):
        shutil.copy(MODEL.with_suffix(ending), public_folder / f"m{ending}")
    model = ["--model", public_folder / "m.keras"] if name in ("pred.py", "test.py") else []
    out = public_folder / "out"
    out.mkdir()
    with without_permission(out):
        code, lines, _ = shell(main, *words(public_folder), *model)
    complaints = [line for line in lines if "no permission" in line]
    assert code == 2 and complaints and str(out) in complaints[0], lines
    assert not any("Traceback" in line for line in lines)
    assert not files_in(out)


@contextmanager
def largest_file(count):
    """No file may grow beyond `count` bytes: a disk that is full, as far as a program can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_disk_that_takes_no_more(name, tmp_path, save_nifti_as, shell, quick):
    main, words = SCRIPTS[name]
    make_pair(tmp_path, save_nifti_as)
    (tmp_path / "out").mkdir()
    with largest_file(60):
        code, lines, _ = shell(main, *words(tmp_path))
    assert code == 2 and not any("Traceback" in line for line in lines)
    complaints = [line for line in lines if "cannot write" in line]
    assert complaints and str(tmp_path / "out") in complaints[0]
    assert not files_in(tmp_path / "out"), "nothing half-written"


def test_a_full_disk_is_called_so(tmp_path, picture, shell, monkeypatch):
    """A device that is full, in place of the file: what the system says then is ENOSPC."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    whole = slices.write_picture

    def write_picture(path, image):
        path.symlink_to("/dev/full")
        whole(path, image)

    monkeypatch.setattr(slices, "write_picture", write_picture)
    one_error(shell(pred.main, picture, "--out", tmp_path / "out"), "the disk is full")
    assert not files_in(tmp_path / "out")


def test_a_file_where_the_out_folder_should_be(tmp_path, picture, shell):
    (tmp_path / "out").write_text("mine")
    one_error(shell(pred.main, picture, "--out", tmp_path / "out"), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# ---------------------------------------------------------------- from the shell


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pred.py", "{folder}/none.nii.gz"], "none.nii.gz does not exist"),
        (["data.py", "{folder}/none", "--out", "{folder}/out"], "none does not exist"),
        (["test.py", "{folder}/none"], "none does not exist"),
        (["synthetic.py"], "nothing to do"),
        (["train.py", "--data", "{folder}/none", "--output", "{folder}/out"], "no dataset folder"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_the_scripts_end_with_one_line_and_2(tmp_path, words, said):
    words = [word.format(folder=tmp_path) for word in words]
    done = subprocess.run(
        [sys.executable, ROOT / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ") and said in lines[0]
    assert not list(tmp_path.iterdir())


def test_training_refuses_a_start_that_is_no_model_and_pictures_that_are_none(tmp_path, shell):

    for split in ("Train", "Val"):
        for kind in ("images", "masks"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
            grey = cv2.circle(np.zeros((32, 32), np.uint8), (16, 16), 9, 255, -1)
            cv2.imwrite(str(tmp_path / f"set/{split}/{kind}/a.png"), grey)
    (tmp_path / "start.keras").write_text("weights")
    words = ["--data", tmp_path / "set", "--output", tmp_path / "out", "--size", 32]
    code, lines, _ = shell(train.main, *words, "--start-from", tmp_path / "start.keras")
    assert code == 2 and lines[-1].startswith("error: ") and "start.keras" in lines[-1]
    assert not (tmp_path / "out/model.keras").exists()
    (tmp_path / "set/Train/images/a.png").write_bytes(b"")
    code, lines, _ = shell(train.main, *words, "--epochs", 1, "--batch", 1)
    assert code == 2 and lines[-1].startswith("error: ") and "a.png" in lines[-1]
    assert not (tmp_path / "out/model.keras").exists()
