"""benchmarks/tools.py: the same scans for all tools, and a table that says what was scored."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import run as benchmark
import tools
import ways

from common.errors import InputError
from metrics import scores
from scan.nifti import read_mask
from scan.read import read_volume


@pytest.fixture
def quick(monkeypatch, coarse, cta):
    """Scans as coarse as those of the other tests, of the phantom that is there already."""
    monkeypatch.setattr(tools, "LOOK", tools.LOOK | coarse)
    monkeypatch.setattr(tools, "SEED", 0)


def test_ours_and_the_thresholds_are_scored_on_the_same_phantom(tmp_path, quick, capsys):
    words = ["--heads", "1", "--folder", str(tmp_path), "--tools"]
    assert tools.main([*words, "thresholds"]) == 0
    made = {path: path.stat().st_mtime for path in (tmp_path / "tools").glob("phantom*.nii.gz")}
    assert tools.main([*words, "ours"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][-2:]
    assert all(path.stat().st_mtime == time for path, time in made.items()) and len(made) == 6
    assert [line.split(" | ")[0] for line in lines] == ["| ours", "| thresholds and morphology"]
    for line in lines:
        plain, cta, kept = line.split(" | ")[1:4]
        assert 0.9 < float(plain) < 1 and 0.85 < float(cta) < 1 and kept.endswith(" %")
    rows = pd.read_csv(tmp_path / "tools" / "scores.csv")
    assert sorted(rows.kind) == ["arterial", "arterial", "none", "none"]
    assert (rows["CPU s"] > 0).all()
    assert rows["HD95"].between(0, 5).all(), "two voxels at most, and a number"


def test_a_template_is_not_scored(tmp_path, save_nifti_as):
    for name in ("a", "b"):
        save_nifti_as(tmp_path / f"{name}.nii.gz", np.zeros((4, 4, 4), np.int16))
    words = ["--labels", str(tmp_path), "--folder", str(tmp_path / "out")]
    with pytest.raises(InputError, match="a.nii.gz is scored, too"):
        tools.main([*words, "--template", str(tmp_path / "a.nii.gz")])


def test_real_scans_are_scored_with_the_masks_beside_them(tmp_path, save_nifti_as, cta):
    for suffix, array in (("", cta.hu), ("_mask", cta.mask.astype(np.uint8))):
        save_nifti_as(tmp_path / f"mine{suffix}.nii.gz", array, cta.affine)
    (tmp_path / "out").mkdir()
    (case,) = tools.real(tmp_path, tmp_path / "out")
    assert case == (tmp_path / "out/mine.nii.gz", "mine") and case.path.exists()
    assert tools.score("thresholds", case, tmp_path / "out")["Dice"] > 0.85
    with pytest.raises(InputError, match="no X.nii.gz with X_mask"):
        tools.real(tmp_path / "out" / "nothing", tmp_path)


def test_the_table_gives_means_in_their_columns():
    rows = [
        {
            "tool": tool,
            "kind": kind,
            "Dice": dice,
            "HD95": 2 * number,
            "CPU s": number,
            "vessels": 0.5 if kind == "arterial" else None,
            "scan": f"{number}",
        }
        for tool, worse in (("deepbet", 0.1), ("ours", 0))
        for number, (kind, dice) in enumerate(
            [("none", 0.99 - worse), ("none", 0.97 - worse), ("arterial", 0.95 - worse)]
        )
    ]
    lines = tools.table(pd.DataFrame(rows)).splitlines()
    assert lines[2] == "| ours | 0.980 | 0.950 | 50 % | 2.0 | 1 |"
    assert lines[3] == "| deepbet 1.0.2, made for MRI | 0.880 | 0.850 | 50 % | 2.0 | 1 |"
    real = {
        "tool": "ours",
        "kind": "tilted",
        "Dice": 0.91,
        "HD95": 99,
        "CPU s": 99,
        "scan": "r",
        "vessels": 0.87,
    }
    failed = {"tool": "robex", "kind": "none", "failed": "too slow", "scan": "0"}
    lines = tools.table(pd.DataFrame([*rows, real, failed])).splitlines()
    assert lines[0].endswith("| CPU s | tilted: Dice, vessels kept |")
    assert lines[2] == "| ours | 0.980 | 0.950 | 50 % | 2.0 | 1 | 0.910, 87 % |"
    assert lines[3].endswith("| 1 | - |") and lines[4].endswith("| failed: too slow |")


def test_a_tool_that_fails_is_named_and_the_others_go_on(tmp_path, cta_file, monkeypatch):
    monkeypatch.setattr(tools, "command", lambda *words: [sys.executable, "-c", "1 / 0"])
    row = tools.score("robex", tools.Case(cta_file, "none"), tmp_path)
    assert row["failed"] == "ZeroDivisionError: division by zero" and "Dice" not in row


def test_every_tool_has_a_way_and_recipes_share_an_environment(tmp_path):
    assert set(tools.TOOLS) - {"ours"} <= set(ways.WAYS)
    assert set(map(benchmark.package, tools.TOOLS)) >= set(benchmark.PEERS)
    shared = benchmark.home("brainextractor_cta", tmp_path)
    assert shared == benchmark.home("brainextractor", tmp_path) == tmp_path / "venv_brainextractor"
    own = benchmark.command("thresholds", Path("a.nii.gz"), Path("b"), tmp_path, None)
    assert own[0] == sys.executable and own[-1] == Path("b.nii.gz")
    assert str(benchmark.command("hdbet", Path("a.nii"), Path("b"), tmp_path, None)[0]).startswith(
        str(tmp_path / "venv_hdbet")
    )


def test_what_is_not_soft_tissue_is_blank():
    hu = np.float32([-1000, 0, 40, 100, 300, 900]).reshape(1, 1, 6)
    scan = nib.Nifti1Image(hu, np.eye(4))
    assert ways.soft_tissue(scan).get_fdata().ravel().tolist() == [0, 0, 40, 100, 0, 0]
    cta = ways.soft_tissue(scan, contrast=500)
    assert cta.get_fdata().ravel().tolist() == [0, 0, 40, 100, 100, 0]
    raised = ways.soft_tissue(scan, low=-100)
    assert raised.get_fdata().ravel().tolist() == [0, 100, 140, 200, 0, 0]


def test_thresholds_lose_what_contrast_there_is(tmp_path, cta, cta_file):
    ways.thresholds(str(cta_file), str(tmp_path / "mask.nii.gz"))
    mask = read_mask(tmp_path / "mask.nii.gz", read_volume(cta_file))
    assert scores(cta.mask, mask)["F1"] > 0.9
    assert (mask & cta.vessels).sum() / cta.vessels.sum() < mask[cta.mask].mean()
