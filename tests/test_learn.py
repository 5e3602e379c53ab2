"""The loop in small: a network learns from corrected masks what it had never seen.

Toy heads are balls of brain in a shell of bone. Of those in the results, the shell is open.
"""

import json
import shutil

import numpy as np
import pytest
from make import SHAPE, head, save_scan

import data
import test as scoring
import train
from common.card import read_card
from common.errors import InputError
from common.files import read_json
from dataset.read import read_dataset, read_description
from predict.result import Target, input_version
from training.tuning import FIXED

pytestmark = pytest.mark.usefixtures("quick_export")
TOY = ["--batch", "8", "--steps", "25", "--lr", "1e-2", "--precision", "float32"]


def opened_head(seed):
    """A toy head whose shell is open on one side: soft tissue lies there; and its mask."""
    hu, mask = head(seed)
    x = np.indices(SHAPE)[0]
    hu[(x > 11) & (hu > 500)] = 90
    return hu, mask


def make_results(folder, count):
    """Results of heads whose skull is open, and the true masks as their corrections."""
    for number in range(count):
        hu, mask = opened_head(number)
        scan = save_scan(hu, folder / f"in/p{number}.nii.gz")
        place = folder / f"out/p{number}_prediction"
        save_scan(mask, place / f"p{number}_corrected_mask.nii.gz")
        about = {
            "input": str(scan),
            "input_version": input_version(Target(scan, f"p{number}", place)),
            "mask": f"p{number}_mask.nii.gz",
            "corrections": [{"file": f"p{number}_corrected_mask.nii.gz", "when": "2026"}],
        }
        (place / f"p{number}.json").write_text(json.dumps(about))
    return folder / "out"


def make_synthetic(folder, first, card):
    """What the first network was trained on, and a toy head, where phantoms would be made."""
    shutil.copytree(first / "set", folder / f"38_{card.field_mm:.0f}mm_1")
    for number in range(FIXED):
        hu, mask = head(30 + number)
        save_scan(hu, folder / f"fixed/phantom_{number}.nii.gz")
        save_scan(mask, folder / f"fixed/phantom_{number}_mask.nii.gz")
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory, quick_export):
    """A network that has seen whole heads alone, and the dataset that it was trained on."""
    folder = tmp_path_factory.mktemp("first")
    for number in range(4):
        hu, mask = head(10 + number)
        save_scan(hu, folder / f"scans/h{number}.nii.gz")
        save_scan(mask, folder / f"scans/h{number}_mask.nii.gz")
    words = ["--window", "hu", "--size", "32", "--workers", "1", "--out", str(folder / "set")]
    data.main([str(folder / "scans"), *words, "--trust-masks"])
    shape = ["--size", "32", "--width", "4", "--depth", "1", "--epochs", "2", "--sure", "0.45"]
    train.main(["--data", str(folder / "set"), "--output", str(folder), *shape, *TOY])
    return folder


def test_from_results_to_a_network_that_is_better_on_them(first, tmp_path, capsys):
    mine, start = tmp_path / "mine", first / "model.keras"
    out = make_results(tmp_path, 5)
    words = ["--results", out, "--like", start, "--out", mine, "--workers", "1", "--trust-masks"]
    data.main([*map(str, words)])
    corrected = out / "p0_prediction/p0_corrected_mask.nii.gz"
    whole = corrected.read_bytes()
    save_scan(head()[1] * (np.indices(SHAPE)[2] < 10), corrected)
    with pytest.raises(InputError, match="masks have been corrected since"):
        data.main([*map(str, words)])
    corrected.write_bytes(whole)
    card, splits = read_description(mine), read_dataset(mine)
    assert card.like == read_card(start).sha256 and card.window == "hu" and card.size == 38
    assert {split: len(cases) for split, cases in card.splits.items()} == {
        "Train": 3,
        "Val": 1,
        "Test": 1,
    }
    assert all(splits.values())
    tuned = ["--start-from", start, "--output", tmp_path / "tuned"]
    tuned += ["--synthetic", make_synthetic(tmp_path / "synthetic", first, card)]
    train.main(["--data", str(mine), "--epochs", "4", *map(str, tuned), *TOY])
    said = read_json(tmp_path / "tuned/model.json")
    assert said["tuning"]["kept"] and said["start_from"] == read_card(start).sha256
    assert said["tuning"]["after"]["held out"] > said["tuning"]["before"]["held out"]
    assert (said["sure"], said["input_shape"]) == (0.45, [32, 32, 1])
    assert (tmp_path / "tuned/model.xml").exists() and start.exists()
    scores = ["--out", tmp_path / "scored", "--scores", tmp_path / "compare.csv"]
    compared = ["--compare", start, tmp_path / "tuned/model.keras"]
    assert scoring.main([*map(str, [mine, *compared, *scores])]) == 0
    told = capsys.readouterr().out
    assert "better on 1, worse on 0" in told and (tmp_path / "compare.png").exists()
