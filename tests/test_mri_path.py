"""The tumour task at toy size, from nothing to scores, by the scripts as they are called."""

import json

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import run_test

import data
import pred
import synthetic
import train
from common.card import read_card
from scan.mask import dice
from synthesis import tumour
from synthesis.head import load_head
from synthesis.tumour import write_tumours

pytestmark = pytest.mark.usefixtures("quick_export")
SPACING = 4.0  # mm: soon made
CHANNELS = ("flair", "t1ce", "t1", "t2")
NETWORK = "--width 8 --depth 2 --loss dice_cross_entropy --lr 5e-3 --schedule cosine"
KINDS = {  # modalities, options of data.py, options of train.py
    "slices in TFRecords": (
        2,
        "--size 40 --format tfrecord --views axial --window minmax",
        "--size 40 --batch 4 --epochs 6 --loss dice_focal --label-weights 1 1 2 --dropout 0.1",
    ),
    # predicted in patches: a brain has some 36 x 45 x 35 voxels
    "volumes": (
        4,
        f"--dimensions 3 --grid 32 --spacing {SPACING}",
        "--epochs 5 --steps 24 --batch 1 --loss batch_dice_cross_entropy",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five coarse cases, as `synthetic.py --tumours` writes them, but of one head: it is slow to
    make. Its pose, the tumours and the contrasts differ."""
    folder, fine = tmp_path_factory.mktemp("tumours"), write_tumours
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tumour, "load_head", lambda label_map, seed: load_head(label_map, 0))
        patch.setattr(synthetic, "write_tumours", lambda *given: fine(*given, spacing=SPACING))
        synthetic.main(["--tumours", str(folder), "--count", "5"])
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_tumours_are_learned_scored_and_predicted(folder, tmp_path, kind):
    count, of_data, of_training = KINDS[kind]
    made, net, results = tmp_path / "set", tmp_path / "net", tmp_path / "results"
    cut = f"--labels 1 2 4 --split 60 20 20 --workers 1 {of_data} --channels".split()
    data.main([str(folder), "--out", str(made), *cut, *CHANNELS[:count]])
    learning = f"{NETWORK} {of_training}".split()
    train.main(["--data", str(made), "--output", str(net), *learning])
    model = ["--model", str(net / "model.keras")]
    assert run_test(made, net / "model.keras", net)[0] == 0
    (case,) = json.loads((made / "dataset.json").read_text())["splits"]["Test"]
    assert pred.main([str(folder / case), *model, "--out", str(results)]) == 0
    check_scores(net, case, folder / case)
    check_mask(results, net / "results", case, folder / case)
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
    assert rows.Dice["whole tumour"] > 2 * dice(truth, brain)
    assert rows["True mL"]["whole tumour"] == pytest.approx(truth.sum() * SPACING**3 / 1000)
    assert cv2.imread(str(net / "score.png")) is not None


def check_mask(results, scored, case, source):
    """The values and the grid that the case came with, and the very mask that was scored."""
    name = f"{case}_prediction/{case}_predicted_mask.nii.gz"
    found, scored = nib.load(results / name), nib.load(scored / name)
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
