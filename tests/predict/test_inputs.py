"""Inputs that a network is not made for, and networks that are made for no input yet."""

import json
import shutil

import pytest

import pred
from common.errors import InputError
from predict.inputs import find_inputs
from predict.network import MODEL
from predict.result import Result, plan
from predict.verdict import Verdict


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


BRATS = [f"BraTS_1_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2", "seg")]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (BRATS, "flair, t1, t1ce, t2"),
        (["T1.nii", "T2.nii", "FLAIR.nii", "OT.nii"], "flair, seg, t1, t2"),
        (["BraTS-GLI-1-000-t1n.nii.gz", "BraTS-GLI-1-000-t1c.nii.gz"], "t1, t1ce"),
        (["x_T1GD.nii.gz"], "t1ce"),
    ],
)
def test_an_mri_is_no_head_ct_and_the_command_that_fits_is_told(tmp_path, names, told, capsys):
    case = touch(tmp_path / "in" / "a case", *names)
    fits = f"python pred.py '{case}' --model files/tumour_net/model.keras"
    for given in ([case], [case / name for name in names]):
        with pytest.raises(InputError) as error:
            find_inputs(given)
        assert fits in str(error.value) and "this network masks head CT" in str(error.value)
        assert f"{case} holds files of an MRI ({told}" in str(error.value) or given != [case]
    with pytest.raises(InputError, match=f"pred.py {case.parent} --model"):
        find_inputs([case.parent])


def test_nothing_of_a_case_is_masked(tumour_case, tmp_path):
    with pytest.raises(InputError, match="holds files of an MRI"):
        pred.main([str(tumour_case), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_ct_beside_an_mri_is_masked(tmp_path, capsys):
    case = touch(tmp_path / "case", *BRATS, "head_ct.nii.gz")
    assert list(find_inputs([case])) == [case / "head_ct.nii.gz"]
    assert "holds files of an MRI (flair, t1, t1ce, t2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [["p_t1.nii.gz", "p_t2.nii.gz"], ["ct1.nii.gz", "t2000.nii"], ["a_seg.nii.gz"]]
)
def test_two_times_of_a_ct_are_no_mri(tmp_path, names):
    folder = touch(tmp_path / "scans", *names)
    assert list(find_inputs([folder])) == sorted(folder / name for name in names)


def test_both_files_of_an_analyze_scan_are_one_input(tmp_path):
    folder = touch(tmp_path / "in", "X.img", "X.HDR", "Y.img")
    assert list(find_inputs([folder / "X.img", folder / "X.HDR"])) == [folder / "X.HDR"]
    assert list(find_inputs([folder / "Y.img"])) == [
        folder / "Y.img"
    ]  # reading says what is missing
    assert [target.name for target in plan([folder / "X.HDR", folder / "Y.img"], tmp_path)] == [
        "X",
        "Y",
    ]


# ---------------------------------------------------------------- weak networks


def test_a_weak_network_is_named_as_one(cta, tmp_path, save_nifti_as, capsys):
    """The shipped network, with a card that tells of a training that has hardly begun."""
    model = tmp_path / "net" / "model.keras"
    model.parent.mkdir()
    for path in MODEL.parent.glob("model.*"):
        shutil.copy(path, model.parent)
    card = json.loads(model.with_suffix(".json").read_text())
    card["validation"] = {"dice": 0.31, "dice_brain": 0.04, "precision": 0.9}
    model.with_suffix(".json").write_text(json.dumps(card))
    scan = save_nifti_as(tmp_path / "scan.nii.gz", cta.hu[..., 40:42], cta.affine)
    words = [str(scan), "--out", str(tmp_path / "out")]
    assert pred.main([*words, "--model", str(model)]) == 0
    weak = "the network has learned too little: in validation its best Dice was 0.31"
    said = json.loads((tmp_path / "out/scan_prediction/scan.json").read_text())
    assert said["notes"][0].startswith(weak) and said["reasons"][0].startswith(weak)
    told = capsys.readouterr()
    assert weak in told.err and weak in told.out
    assert pred.main([*words, "--overwrite"]) == 0
    assert "learned" not in "".join(capsys.readouterr()), "the shipped network has learned enough"


@pytest.mark.parametrize(
    ("before", "after"), [("ok", "check"), ("check", "check"), ("failed", "failed")]
)
def test_no_mask_of_a_weak_network_is_ok(before, after):
    result = Result(None, notes=("a",), verdict=Verdict(before, ("b",))).doubt("weak")
    assert result.notes == ("weak", "a")
    assert (result.verdict.grade, result.verdict.reasons) == (after, ("weak", "b"))
    assert Result(None).doubt("weak").verdict is None, "a slice has none"
