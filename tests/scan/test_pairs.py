"""Which scan and which mask belong together."""

import pytest
from make import touch

from common.errors import InputError
from scan.cases import find_pairs


def names(pairs):
    return [(case, scan.name, mask.name) for case, scan, mask in pairs]


@pytest.mark.parametrize("ending", ["_ROI", "_mask", "_seg", "_Mask", "-seg", "_brain_mask"])
def test_pairs_in_one_folder(tmp_path, ending):
    touch(tmp_path / "b.nii.gz", tmp_path / f"b{ending}.nii.gz", tmp_path / f"a{ending}.nii")
    touch(tmp_path / "a.nii")
    pairs, left_over = find_pairs(tmp_path)
    assert names(pairs) == [
        ("a", "a.nii", f"a{ending}.nii"),
        ("b", "b.nii.gz", f"b{ending}.nii.gz"),
    ]
    assert left_over == []


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("CTA images", "brain masks"), ("Images", "MASKS")]
)
@pytest.mark.parametrize("given_together", [True, False])
def test_pairs_in_two_folders(tmp_path, folders, given_together):
    images, masks = (tmp_path / name for name in folders)
    touch(images / "P1.nii.gz", images / "p10.nii.gz", images / "p2.nii.gz")
    touch(masks / "p1.nii.gz", masks / "p10_ROI.nii.gz", masks / "p2.nii")
    pairs, left_over = find_pairs(*([tmp_path] if given_together else [images, masks]))
    assert sorted(names(pairs)) == [
        ("P1", "P1.nii.gz", "p1.nii.gz"),
        ("p10", "p10.nii.gz", "p10_ROI.nii.gz"),
        ("p2", "p2.nii.gz", "p2.nii"),
    ]
    assert left_over == []


def test_every_file_without_one_partner_is_named(tmp_path):
    given = ["good", "good_mask", "lonely", "orphan_mask", "twice", "twice_mask", "twice_seg"]
    for name in given:
        touch(tmp_path / f"{name}.nii.gz")
    touch(tmp_path / "notes.txt")
    pairs, left_over = find_pairs(tmp_path)
    assert names(pairs) == [("good", "good.nii.gz", "good_mask.nii.gz")]
    said = "\n".join(left_over)
    assert len(left_over) == 3
    for part in ("lonely.nii.gz: no mask", "orphan_mask.nii.gz: no scan", "several masks"):
        assert part in said


def test_two_scans_of_one_name_are_left_out(tmp_path):
    touch(*(tmp_path / n for n in ("x.nii", "x.nii.gz", "x_mask.nii", "y.nii", "y_seg.nii")))
    pairs, left_over = find_pairs(tmp_path)
    assert [case for case, *_ in pairs] == ["y"]
    assert len(left_over) == 2 and "same name" in left_over[0]


def test_pairs_never_by_position(tmp_path):
    touch(tmp_path / "images/a.nii", tmp_path / "images/b.nii")
    touch(tmp_path / "masks/b.nii", tmp_path / "masks/c.nii")
    pairs, left_over = find_pairs(tmp_path)
    assert names(pairs) == [("b", "b.nii", "b.nii")]
    assert len(left_over) == 2


def test_one_scan_finds_its_mask_beside_it_or_takes_the_one_given(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "a_mask.nii", tmp_path / "b.nii", tmp_path / "drawn.nii")
    assert names(find_pairs(tmp_path / "a.nii")[0]) == [("a", "a.nii", "a_mask.nii")]
    given = find_pairs(tmp_path / "b.nii", tmp_path / "drawn.nii")[0]
    assert names(given) == [("b", "b.nii", "drawn.nii")]
    with pytest.raises(InputError, match="found no mask"):
        find_pairs(tmp_path / "b.nii")


def test_dicom_folders_pair_with_nifti_masks(tmp_path):
    touch(tmp_path / "scans/p1/0001.dcm", tmp_path / "scans/p2/0001.dcm")
    touch(tmp_path / "masks/p1.nii.gz", tmp_path / "masks/p2_mask.nii.gz")
    pairs, left_over = find_pairs(tmp_path)
    assert names(pairs) == [("p1", "p1", "p1.nii.gz"), ("p2", "p2", "p2_mask.nii.gz")]
    assert left_over == []
    one = find_pairs(tmp_path / "scans/p1", tmp_path / "masks/p1.nii.gz")[0]
    assert names(one) == [("p1", "p1", "p1.nii.gz")]
