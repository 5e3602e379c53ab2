"""The folder of a result: nothing lies in it that does not belong together."""

import json

import numpy as np
import pytest

import pred
from common.errors import InputError
from predict import spread, work
from predict.result import Target, claimed


@pytest.fixture
def scan(cta, tmp_path, save_nifti_as):
    return save_nifti_as(tmp_path / "scan.nii.gz", cta.hu[..., 40:42], cta.affine)


@pytest.mark.parametrize("out", ["/proc/nowhere", "/proc/nowhere/deep", "/proc/self/nowhere"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_that_cannot_be_made_is_one_line_before_any_work(
    scan, tmp_path, monkeypatch, out, count
):
    monkeypatch.setattr(spread, "predict_files", lambda *_: pytest.fail("it has begun"))
    words = [str(scan), str(scan.parent)][:count]
    with pytest.raises(InputError, match=f"{out} cannot be made; choose another --out"):
        pred.main([*words, "--out", out])


def test_a_disk_that_is_full_at_the_end_leaves_no_mask(scan, tmp_path, monkeypatch, capsys):
    """The mask fits on the disk, and the JSON does not: at first, and where an older result is."""
    folder = tmp_path / "out" / "scan_prediction"
    words = [str(scan), "--out", str(tmp_path / "out"), "--format", "nii", "png", "--brain"]

    def full(*_):
        assert (folder / "scan_predicted_mask.nii.gz").exists()
        raise InputError("the disk is full")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(work, "write_json", full)
            assert pred.main([*words, "--overwrite"]) == 2
        assert not folder.exists()
        assert pred.main(words) == 0 and len(list(folder.iterdir())) == 5
    assert "done before" not in capsys.readouterr().out


@pytest.mark.parametrize("strict, code", [((), 0), (("--strict",), 3)])
def test_a_verdict_of_failed_is_an_exit_code_only_if_asked(
    scan, tmp_path, save_nifti_as, strict, code
):
    air = save_nifti_as(tmp_path / "air.nii.gz", np.full((40, 40, 40), -1000, np.int16))
    words = ["--out", str(tmp_path / "out"), *strict]
    assert pred.main([str(scan), *words]) == 0, "a verdict of check is none of failed"
    assert pred.main([str(scan), str(air), *words]) == code
    assert pred.main([str(air), *words]) == code, "nor does it matter when it was found"
    (tmp_path / "bad.nii.gz").write_bytes(b"")
    assert pred.main([str(tmp_path / "bad.nii.gz"), str(air), *words]) == 2


def test_what_is_not_the_results_own_stays_when_it_fails(tmp_path):
    target = Target(tmp_path / "x.png", "x", tmp_path / "x_prediction")
    target.folder.mkdir()
    (target.folder / "note.txt").write_text("mine")
    old = {"input": target.input, "mask": "x.nii.gz", "masks": ["x.nii.gz", "x_png"]}
    target.json.write_text(json.dumps(old))
    (target.folder / "x_png").mkdir()
    (target.folder / "x.nii.gz").write_text("old")
    with pytest.raises(KeyboardInterrupt), claimed(target):
        (target.folder / "x_overlay.png").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in target.folder.iterdir()] == ["note.txt"]
