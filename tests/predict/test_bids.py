"""BIDS in, BIDS derivatives out."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from make import CARD, touch

import pred
from common import NAME
from common.card import Card
from common.errors import InputError
from predict import bids, brain, tumour, work
from predict.bids import plan_dataset
from predict.network import Network, read_cards
from predict.result import Result, Target, remove_unfinished
from predict.verdict import Verdict

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
ROOT = Path(pred.__file__).parent


def save_raw(folder, names):
    """A raw dataset with a block of brain in each scan; mm and seconds are its units, as of CT."""
    hu = np.full((9, 9, 9), -1000, np.int16)
    hu[2:7, 2:7, 2:7] = 40
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(hu, np.diag([2.0, 2, 2, 1]))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / name)
    about = {"Name": "Heads", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.5072/x"}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    return folder


def name_scan(subject, session):
    name = f"sub-{subject}_ses-{session}"
    return f"sub-{subject}/ses-{session}/ct/{name}_ct.nii.gz"


SCANS = [name_scan(subject, session) for subject in ("01", "02", "03") for session in "ab"]


@pytest.fixture
def raw(tmp_path):
    return save_raw(tmp_path / "raw", SCANS)


def load(network, model, *_, **__):
    """A network that only has its card."""
    network.card = read_cards(model)


@pytest.fixture
def network(monkeypatch):
    """A stand-in for the network, which finds what is brighter than air; the scans masked."""
    seen = []

    def predict(scan, *_):
        seen.append(scan.path)
        return Result(scan.hu > 0, verdict=Verdict("ok", ()))

    monkeypatch.setattr(brain, "predict", predict)
    monkeypatch.setattr(Network, "__init__", load)
    return seen


def mask(raw, *more):
    return pred.main([str(raw), "--bids", "--out", str(out_of(raw)), *more])


def out_of(raw):
    return raw / "derivatives" / "brainmask"


def masks_in(raw):
    return sorted(path.name for path in out_of(raw).rglob("*mask.nii.gz"))


def test_a_derivatives_dataset_is_written(raw, network):
    assert mask(raw, "--brain") == 0
    out, folder = out_of(raw), out_of(raw) / "sub-01/ses-a/ct"
    assert len(masks_in(raw)) == len(SCANS) == len(network)
    found = np.asarray(nib.load(folder / "sub-01_ses-a_desc-brain_mask.nii.gz").dataobj)
    assert found.sum() == 125
    alone = np.asarray(nib.load(folder / "sub-01_ses-a_desc-brain_ct.nii.gz").dataobj)
    assert ((alone == 40) == found).all()
    said = json.loads((folder / "sub-01_ses-a_desc-brain_mask.json").read_text())
    uri = f"bids:raw:{SCANS[0]}"
    assert said["Type"] == "Brain" and said["Sources"] == [uri] and said["Verdict"] == "ok"
    assert said["VolumeInMilliliters"] == 1.0
    result = folder / "sub-01_ses-a_ct_prediction"
    about = json.loads((result / "sub-01_ses-a_ct.json").read_text())
    assert about["label"] == SCANS[0] and about["mask"].startswith("../")
    assert (result / about["mask"]).exists() and not list(result.glob("*mask*"))
    whole = json.loads((out / "dataset_description.json").read_text())
    assert whole["DatasetType"] == "derivative" and whole["GeneratedBy"][0]["Name"] == NAME
    assert whole["DatasetLinks"] == {"raw": "../.."}
    assert whole["SourceDatasets"] == [{"URL": "../..", "DOI": "doi:10.5072/x"}]


def test_what_is_done_is_not_done_again_even_where_the_dataset_was_moved(raw, network, capsys):
    assert mask(raw, "--subjects", "01", "sub-03") == 0
    assert len(network) == 4
    whole = out_of(raw) / "dataset_description.json"
    whole.write_text(json.dumps(json.loads(whole.read_text()) | {"Authors": ["Me"]}))
    moved = raw.rename(raw.with_name("moved"))
    assert mask(moved) == 0
    assert len(network) == 6 and len(masks_in(moved)) == 6
    assert capsys.readouterr().out.count("done before") == 4
    assert json.loads((out_of(moved) / whole.name).read_text())["Authors"] == ["Me"]
    assert not list(out_of(moved).rglob("*_prediction_2"))


def test_a_result_of_a_tree_is_none_of_a_dataset(raw, network):
    assert pred.main([str(raw), "--out", str(out_of(raw))]) == 0
    assert mask(raw) == 0
    assert len(network) == 12 and len(list(out_of(raw).glob("sub-*/ses-*/ct/*mask.nii.gz"))) == 6


def test_a_result_that_fails_leaves_no_mask(raw, network, monkeypatch):
    assert mask(raw, "--subjects", "01") == 0
    with monkeypatch.context() as patch:

        def full(*_):
            assert list(out_of(raw).rglob("*mask.json")), "the result's JSON comes last"
            raise InputError("the disk is full")

        patch.setattr(work, "write_json", full)
        assert mask(raw, "--subjects", "01", "--overwrite") == 2
    assert not masks_in(raw) and not list(out_of(raw).rglob("*mask.json"))
    assert mask(raw, "--subjects", "01") == 0 and len(masks_in(raw)) == 2


KILLED = """
import os, signal, sys
import pred
from predict import bids, brain
from predict.network import Network, read_cards
from predict.result import Result
from predict.verdict import Verdict

brain.predict = lambda scan, *_: Result(scan.hu > 0, verdict=Verdict("ok", ()))
Network.__init__ = lambda self, model, *_, **__: setattr(self, "card", read_cards(model))
left, function = int(sys.argv[1]), bids.{step}

def step(*words):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*words)

bids.{step} = step
pred.main(sys.argv[2:])
"""


@pytest.mark.parametrize("step", ["write_json", "remove"])
def test_a_killed_run_leaves_no_mask_that_looks_whole(raw, network, step):
    """Killed before a sidecar is written, and before an old one is removed."""
    assert mask(raw, "--subjects", "02") == 0
    folder = out_of(raw) / "sub-02/ses-a/ct"
    sidecar, whole = (folder / f"sub-02_ses-a_desc-brain_mask{e}" for e in (".json", ".nii.gz"))
    words = ["1" if step == "write_json" else "0", raw, "--bids", "--out", out_of(raw)]
    words += ["--subjects", "02", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(step=step), *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sidecar.exists() == (step == "remove"), "a new mask has no old sidecar"
    nib.load(whole).get_fdata()
    assert json.loads((folder / "sub-02_ses-a_ct_prediction/sub-02_ses-a_ct.json").read_text()) == {
        "input": str(raw / name_scan("02", "a")),
        "bids": f"bids:raw:{name_scan('02', 'a')}",
    }
    assert mask(raw, "--subjects", "02") == 0
    assert sidecar.exists() and len(masks_in(raw)) == 2


def test_what_a_dead_worker_has_left_is_removed_and_no_whole_result(tmp_path):
    folder = tmp_path / "sub-1_ct_prediction"
    target = Target(tmp_path / "sub-1_ct.nii", "sub-1_ct", folder, bids="bids:raw:sub-1_ct.nii")
    whole = {"mask": "../sub-1_desc-brain_mask.nii.gz"}
    for said, left in ((target.owner | whole, 2), (target.owner, 0)):
        touch(folder / "sub-1_ct_overlay.png", tmp_path / "sub-1_desc-brain_mask.nii.gz")
        target.json.write_text(json.dumps(said))
        remove_unfinished(target)
        assert len(list(tmp_path.iterdir())) == left


def test_what_is_no_dataset_is_one_line(raw, tmp_path):
    with pytest.raises(InputError, match="has no sub-04, sub-7; it has sub-01, sub-02"):
        mask(raw, "--subjects", "01", "04", "sub-7")
    with pytest.raises(InputError, match=f"{raw} is a BIDS dataset that .* has not made"):
        pred.main([str(raw), "--bids", "--out", str(raw)])
    shutil.rmtree(raw / "sub-01")
    with pytest.raises(InputError, match="has no dataset_description.json"):
        pred.main([str(raw / "sub-02"), "--bids", "--out", str(tmp_path / "out")])
    for folder in raw.glob("sub-*"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"has no \*_ct.nii\[.gz\] in sub-\*/"):
        mask(raw)
    assert not out_of(raw).exists()


def test_names_that_are_not_bids_or_share_a_mask_are_left_out(tmp_path, capsys):
    names = ["sub-1_ct.nii", "sub-1_ct.nii.gz", "sub-1_run-2_ct.nii.gz", "x_ct.nii.gz"]
    names += ["sub-1_T1w.nii.gz", "sub-1_desc-x_ct.nii.gz"]
    touch(*(tmp_path / "sub-1/ct" / name for name in names), tmp_path / "dataset_description.json")
    found = plan_dataset(tmp_path, tmp_path / "out", Card())
    assert [t.path.name for t in found] == ["sub-1_ct.nii", "sub-1_run-2_ct.nii.gz"]
    told = capsys.readouterr().err
    assert "sub-1_ct.nii.gz: its mask would be called as that of sub-1_ct.nii" in told
    assert "sub-1_desc-x_ct" in told and "x_ct.nii.gz is not named as BIDS asks" in told


def test_cases_of_mri_lie_in_anat(tmp_path, network, monkeypatch):
    names = [f"sub-1/anat/sub-1_{kind}.nii.gz" for kind in ("FLAIR", "ce-gadolinium_T1w")]
    raw, model = save_raw(tmp_path / "raw", names), tmp_path / "net.keras"
    touch(raw / "sub-2/anat/x.nii.gz", raw / "sub-2/ct/sub-2_ct.nii.gz", model)
    model.with_suffix(".json").write_text(json.dumps(CARD))
    labels = np.uint8(3) * (nib.load(raw / names[0]).get_fdata() > 0)
    monkeypatch.setattr(tumour, "predict", lambda *_: Result(labels))
    assert mask(raw, "--model", str(model)) == 0
    folder = out_of(raw) / "sub-1/anat"
    found = np.asarray(nib.load(folder / "sub-1_desc-tumour_dseg.nii.gz").dataobj)
    assert set(np.unique(found)) == {0, 4} and [p.name for p in out_of(raw).glob("sub-*")] == [
        "sub-1"
    ]
    said = json.loads((folder / "sub-1_desc-tumour_dseg.json").read_text())
    assert said["Sources"] == [f"bids:raw:{name}" for name in names]
    assert said["VolumesInMilliliters"]["enhancing tumour"] == 1.0 and "Type" not in said
    about = json.loads((folder / "sub-1_anat_prediction/sub-1_anat.json").read_text())
    assert about["label"] == "sub-1/anat"


@pytest.mark.parametrize(
    ("variable", "image", "container"),
    [
        ("APPTAINER_CONTAINER", "/images/brain.sif", {"Type": "singularity", "Tag": "brain.sif"}),
        ("CONTAINER_IMAGE", "hub/brain:1", {"Type": "docker", "Tag": "hub/brain:1"}),
    ],
)
def test_the_container_is_named(raw, monkeypatch, variable, image, container):
    monkeypatch.setenv(variable, image)
    bids.write_dataset(out_of(raw), raw, Card())
    whole = json.loads((out_of(raw) / "dataset_description.json").read_text())
    assert whole["GeneratedBy"][0]["Container"] == container


def validate(folder):
    """(exit code, [(code, location) of each error]) of the BIDS validator; it asks no server."""
    done = subprocess.run(
        [VALIDATOR, "--format", "json", "--ignoreWarnings", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    return done.returncode, sorted((issue["code"], issue["location"]) for issue in errors)


@pytest.mark.skipif(not VALIDATOR.exists(), reason="the BIDS validator is not installed")
def test_the_bids_validator_has_no_complaint(raw, network):
    assert mask(raw) == 0
    assert validate(out_of(raw)) == (0, [])
    # BIDS 1.11 knows no ct, so that all in it was ignored: as anat, each mask is looked at
    for folder in list(out_of(raw).rglob("ct")):
        folder.rename(folder.with_name("anat"))
    assert validate(out_of(raw)) == (0, [])
    wrong = out_of(raw) / "sub-01/ses-a/anat/sub-01_ses-a_brain.nii.gz"
    wrong.with_name("sub-01_ses-a_desc-brain_mask.nii.gz").rename(wrong)
    code, errors = validate(out_of(raw))
    assert code != 0 and any("sub-01_ses-a_brain.nii.gz" in place for _, place in errors)
