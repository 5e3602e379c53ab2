"""synthetic.py, the command: a sample with its mask, a sheet, and what is refused."""

import cv2
import nibabel as nib
import numpy as np
import pytest

import synthetic
from common.errors import InputError
from scan.nifti import read_mask
from scan.read import read_volume
from synthesis.ct import make_scan
from synthetic import main, write_preview


@pytest.fixture
def quick(monkeypatch, coarse):
    """Scans of the command line are as coarse as those of the tests."""
    fine = make_scan
    monkeypatch.setattr(
        synthetic, "make_scan", lambda *args, **wanted: fine(*args, **wanted | coarse)
    )


def test_a_sample_is_a_cta_with_its_mask_beside_it(tmp_path, quick, cta):
    path = tmp_path / "new" / "head.nii.gz"
    mask_path = tmp_path / "new" / "head_mask.nii.gz"
    assert main(["--sample", str(path), "--seed", "0"]) == 0
    scan = read_volume(path)
    mask = read_mask(mask_path, scan)
    assert scan.hu.dtype == np.int16 and not scan.notes
    np.testing.assert_allclose(scan.hu, cta.hu, atol=0.51)
    np.testing.assert_array_equal(mask, cta.mask)
    assert nib.load(mask_path).get_data_dtype() == np.uint8
    assert sorted(p.name for p in path.parent.iterdir()) == ["head.nii.gz", "head_mask.nii.gz"]


def test_preview_draws_three_views_of_each_scan(tmp_path, quick):
    write_preview(tmp_path / "sheet.png", count=1)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] >= 72 and sheet.shape[1] >= 3 * 80
    assert (np.ptp(sheet.astype(int), axis=2) > 30).any(), "the masks are drawn in colour"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to do"),
        (["--sample", "head.nii", "--seed", "-1"], "--seed 0 or more"),
        (["--tumours", "cases", "--count", "0"], "--count is 1 or more"),
        (["--sample", "head.png"], r"head.png.*\.nii"),
        (["--preview", "x.png", "--labels", "nowhere"], "no label map"),
    ],
)
def test_a_wrong_command_is_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        main(words)
    assert not list(tmp_path.iterdir())
