"""The tumour task at toy size, from nothing to scores, by the scripts as they are called."""

import json

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import data
import pred
import synthetic
import test as scoring
import train
from common.card import read_card
from scan.mask import dice
from synthesis import tumour
from synthesis.head import make_phantom
from synthesis.tumour import write_tumours

SPACING = 4.0  # mm: soon made
CHANNELS = ("flair", "t1ce", "t1", "t2")
NETWORK = (
    "--depth",
    "2",
    "--width",
    "8",
    "--loss",
    "dice_cross_entropy",
    "--lr",
    "5e-3",
    "--schedule",
    "cosine",
    "--precision",
    "float32",
)
KINDS = {
    "slices in PNG": (2, ("--size", "40"), ("--size", "40", "--batch", "4", "--epochs", "6")),
    "slices in TFRecords": (
        2,
        ("--size", "40", "--format", "tfrecord", "--views", "axial", "--window", "minmax"),
        (
            "--size",
            "40",
            "--batch",
            "4",
            "--epochs",
            "6",
            "--loss",
            "dice_focal",
            "--label-weights",
            "1",
            "1",
            "2",
            "--dropout",
            "0.1",
        ),
    ),
    # predicted in patches: a brain has some 36 x 45 x 35 voxels
    "volumes": (
        4,
        ("--dimensions", "3", "--grid", "32", "--spacing", str(SPACING)),
        ("--epochs", "5", "--steps", "24"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five coarse cases, as `synthetic.py --tumours` writes them, but of one head: it is slow to
    make. Its pose, the tumours and the contrasts differ."""
    folder, fine = tmp_path_factory.mktemp("tumours"), write_tumours
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tumour, "make_phantom", lambda seed: make_phantom(0))
        patch.setattr(synthetic, "write_tumours", lambda *given: fine(*given, spacing=SPACING))
        synthetic.main(["--tumours", str(folder), "--count", "5"])
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_tumours_are_learned_scored_and_predicted(folder, tmp_path, kind):
    count, of_data, of_training = KINDS[kind]
    made, net, results = tmp_path / "set", tmp_path / "net", tmp_path / "results"
    data.main(
        [
            str(folder),
            "--channels",
            *CHANNELS[:count],
            "--labels",
            "1",
            "2",
            "4",
            "--split",
            "60",
            "20",
            "20",
            "--jobs",
            "1",
            "--out",
            str(made),
            *of_data,
        ]
    )
    train.main(["--data", str(made), "--output", str(net), *NETWORK, *of_training])
    model = ["--model", str(net / "model.keras")]
    assert (
        scoring.main(
            [
                str(made),
                *model,
                "--out",
                str(results / "scored"),
                "--scores",
                str(net / "score.csv"),
            ]
        )
        == 0
    )
    (case,) = json.loads((made / "dataset.json").read_text())["splits"]["Test"]
    assert pred.main([str(folder / case), *model, "--out", str(results)]) == 0
    check_scores(net, case, folder / case)
    check_mask(results, case, folder / case)
    check_log(net)


def check_scores(net, case, source):
    """A row a region, and a tumour found far better than by painting all of the brain."""
    rows = pd.read_csv(net / "score.csv").set_index("Region")
    areas = read_card(net / "model.keras").areas
    assert rows.index.tolist() == list(areas) and (rows.Image == case).all()
    truth, brain = (
        np.asarray(nib.load(source / f"{case}_{name}.nii.gz").dataobj) > 0
        for name in ("seg", "flair")
    )
    assert rows.Dice["whole tumour"] > 3 * dice(truth, brain)
    assert rows["True mL"]["whole tumour"] == pytest.approx(truth.sum() * SPACING**3 / 1000)
    assert cv2.imread(str(net / "score.png")) is not None


def check_mask(results, case, source):
    """The values and the grid that the case came with, and the very mask that was scored."""
    name = f"{case}_prediction/{case}_predicted_mask.nii.gz"
    found, scored = nib.load(results / name), nib.load(results / "scored" / name)
    given = nib.load(source / f"{case}_seg.nii.gz")
    values = np.unique(found.dataobj)
    assert {0, 2} <= set(values) <= {0, 1, 2, 4}
    assert found.shape == given.shape and found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, given.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(scored.dataobj))


def check_log(net):
    """A row an epoch with each label's and region's own figures, drawn."""
    log = pd.read_csv(net / "data.csv")
    for name in ("oedema", "enhancing_tumour", "whole_tumour"):
        assert log[f"val_dice_{name}"].between(0, 1).all()
    assert log.val_dice_whole_tumour.max() > 0.4
    assert cv2.imread(str(net / "curves.png")) is not None
