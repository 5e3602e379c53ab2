"""benchmarks/accuracy.py real: slices and scans with drawn masks, of any folder."""

from types import SimpleNamespace

import accuracy
import cv2
import numpy as np
import pytest

from common.errors import InputError


@pytest.fixture(autouse=True)
def bright(monkeypatch):
    """Whatever is brighter than a half, or than 20 HU, is brain."""
    monkeypatch.setattr(accuracy, "find_mask", lambda picture, network: picture > 127)
    found = lambda scan, network: SimpleNamespace(mask=scan.hu > 20)  # noqa: E731
    monkeypatch.setattr(accuracy, "predict", found)


def picture(path, columns, value=255):
    """A picture of 40 x 40 whose columns `columns` are bright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((40, 40), np.uint8)
    image[:, columns] = value
    cv2.imwrite(str(path), image)


def scored(folder):
    return accuracy.on_real(None, SimpleNamespace(data=str(folder))).set_index("name")


def test_slices_are_scored_by_view_above_the_row_that_is_named(tmp_path):
    for name in ("a_ax", "a_cor", "b_sagittal_0012", "c"):
        picture(tmp_path / "x/images" / f"{name}.png", slice(0, 20))
        picture(tmp_path / "x/masks" / f"{name}.png", slice(0, 10))
    mask = np.zeros((40, 40), np.uint8)
    mask[:30, :20] = 255  # below row 30 nothing is drawn, nor judged
    cv2.imwrite(str(tmp_path / "x/masks/a_cor.png"), mask)
    (tmp_path / "x/rows.csv").write_text("slice,first_row_not_judged\na_cor,30\n")
    rows = scored(tmp_path)
    assert rows.kind.to_dict() == {
        "a_ax": "axial",
        "a_cor": "coronal",
        "c": "slice",
        "b_sagittal_0012": "sagittal",
    }
    assert rows.Dice["a_cor"] == 1
    assert rows.Dice["a_ax"] == pytest.approx(2 / 3)
    assert rows.over["a_ax"] == 1 and rows.under["a_ax"] == 0


def test_of_blood_the_share_is_scored_that_the_mask_keeps(tmp_path):
    picture(tmp_path / "images/x.png", slice(0, 20))
    picture(tmp_path / "inside/x.png", slice(10, 30))
    rows = scored(tmp_path)
    assert rows.kind["x"] == "blood" and rows["blood kept"]["x"] == 0.5
    assert accuracy.in_one_line(rows) == "blood (1) blood kept 0.5000 (worst 0.5000)"


def test_scans_are_scored_with_their_bone_and_vessels(tmp_path, save_nifti_as):
    hu = np.zeros((20, 20, 20), np.float32)
    hu[4:12], hu[12:16] = 40, 700
    truth, vessels = (np.zeros(hu.shape, np.uint8) for _ in range(2))
    truth[4:12], vessels[2:6] = 1, 1
    for suffix, array in (("", hu), ("_mask", truth), ("_vessels", vessels)):
        save_nifti_as(tmp_path / f"head{suffix}.nii.gz", array)
    save_nifti_as(tmp_path / "other_mask.nii.gz", truth)  # of no scan there
    row = scored(tmp_path).loc["head"]
    assert row.Dice == pytest.approx(2 * 8 / 20) and row.over == 0.5
    assert row.bone == pytest.approx(1 / 3), "4 of 12 layers"
    assert row["vessels kept"] == 1, "of those in the drawn mask"
    assert row.HD95 > 0 and 0 < row.NSD < 1


def test_a_folder_without_masks_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images/ and masks/"):
        scored(tmp_path)
