"""Which scan and which mask belong together."""

import pytest
from make import touch

from common.errors import InputError
from scan.cases import PICTURES, SCANS
from scan.names import name_file, split_words
from scan.pairs import find_masks, find_pairs


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


# ---------------------------------------------------------------- folders as people have them

LAYOUTS = {  # "scan > mask: case", and what has no partner
    "nnU-Net": (
        "imagesTr/X_01_0000.nii.gz > labelsTr/X_01.nii.gz: X_01",
        "imagesTr/X_02_0000.nii.gz > labelsTr/X_02.nii.gz: X_02",
        "imagesTs/X_03_0000.nii.gz",
        "imagesTr/Y_0000.nii.gz",  # two channels of one mask
        "imagesTr/Y_0001.nii.gz",
    ),
    "Decathlon": (
        "imagesTr/head_1.nii.gz > labelsTr/head_1.nii.gz: head_1",
        "imagesTr/head_10.nii.gz > labelsTr/head_10.nii.gz: head_10",
    ),
    "one folder a case": (
        "001/ct.nii.gz > 001/mask.nii.gz: 001_ct",
        "002/ct.nii.gz > 002/mask.nii.gz: 002_ct",
        "002/mr.nii.gz",
    ),
    "DICOM in a case's folder": (
        "p1/ct/1.dcm > p1/mask.nii.gz: p1_ct",
        "p2/ct/1.dcm > p2/mask.nii.gz: p2_ct",
    ),
    "our own results": (
        "sub-01_ct.nii.gz > sub-01_desc-brain_mask.nii.gz: sub-01_ct",
        "sub-02_ct.nii.gz > sub-02_desc-brain_mask.nii.gz: sub-02_ct",
    ),
    "BIDS": (
        "sub-01/ct/sub-01_ct.nii.gz > derivatives/sub-01/sub-01_desc-brain_mask.nii.gz: sub-01_ct",
        "sub-02/ct/sub-02_ct.nii.gz > derivatives/sub-02/sub-02_desc-brain_mask.nii.gz: sub-02_ct",
    ),
    "numbers": (
        "img_1.png > mask_1.png: img_1",
        "img_2.png > mask_2.png: img_2",
        "img_10.png > mask_10.png: img_10",
        "img_3.png",
        "mask_11.png",
    ),
    "numbers in brackets": (
        "image (1).png > mask (1).png: image (1)",
        "image (2).png > mask (2).png: image (2)",
    ),
    "CT-ICH": (
        "49/brain/1.jpg > 49/brain/1_HGE_Seg.jpg: 49_brain_1",
        "50/brain/1.jpg > 50/brain/1_HGE_Seg.jpg: 50_brain_1",
        "49/brain/2.jpg",
        "49/bone/1.jpg",
    ),
    "one folder a patient": (
        "1/001.png > 1/001_HGE_Seg.png: 1_001",
        "2/001.png > 2/001_HGE_Seg.png: 2_001",
    ),
    "zeros before a number": ("images/1.png > gt/001.png: 1", "images/2.png > gt/002.png: 2"),
    "annotations": ("images/1.jpg > annotations/1.png: 1", "images/a.jpg > annotations/a.png: a"),
    "labels": ("JPEGImages/1.jpg > labels/1_label.png: 1",),
    "ground truth": ("data/a.png > Ground Truths/a.png: a", "overlays/a.png"),
    "splits outside": (
        "train/images/1.png > train/masks/1.png: train_1",
        "valid/images/1.png > valid/masks/1.png: valid_1",
        "test/images/1.png",
    ),
    "splits inside": (
        "images/train/1.png > labels/train/1.png: train_1",
        "images/val/1.png > labels/val/1.png: val_1",
    ),
    "splits beside": (
        "train/1.png > trainannot/1.png: train_1",
        "val/1.png > valannot/1.png: val_1",
    ),
    "words together": (
        "001_Image.png > 001_BrainMask.png: 001_Image",
        "002.png > 002Mask.png: 002",
    ),
    "a set called seg": ("seg_1.png > seg_1_mask.png: seg_1", "seg_2.png > seg_2_mask.png: seg_2"),
    "folders called like files": ("a_ct.nii/1.nii > a_mask.nii/2.nii: a_ct",),
    "names that say image": ("images/img.png > masks/img.png: img",),
    "folders of one side": (
        "images/hospital A/smith.png > masks/smith.png: smith",
        "images/hospital B/jones.png > masks/jones.png: jones",
    ),
    "a session's folder": (
        "sub-01/ses-1/sub-01_ses-1_ct.nii > masks/sub-01_ses-1.nii: sub-01_ses-1_ct",
        "sub-01/ses-2/sub-01_ses-2_ct.nii > masks/sub-01_ses-2.nii: sub-01_ses-2_ct",
    ),
    "a word more in the scan's name": (
        "P0/CT-P0.png > P0/P0_mask.png: CT-P0",
        "P3/CT-P3.png > P3/P3_mask.png: CT-P3",
    ),
    "another letter": ("scans/p_b.nii > masks/p_b.nii: p_b", "scans/p_a.nii", "masks/p_c.nii"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_pairs_by_what_the_names_have_in_common(tmp_path, layout):
    wanted, lonely = set(), []
    for line in LAYOUTS[layout]:
        files, _, case = line.partition(": ")
        scan, _, mask = files.partition(" > ")
        touch(*(tmp_path / name for name in (scan, mask) if name))
        scan = scan.removesuffix("/1.dcm")
        wanted |= {(case, scan, mask)} if mask else set()
        lonely += [] if mask else [scan]
    endings = SCANS if ".nii" in LAYOUTS[layout][0] else PICTURES
    pairs, left_over = find_pairs(tmp_path, endings=endings)
    there = [tuple(p.relative_to(tmp_path).as_posix() for p in pair[1:]) for pair in pairs]
    assert {(pair[0], *files) for pair, files in zip(pairs, there, strict=True)} == wanted
    said = [line for line in left_over if "check that they belong together" not in line]
    assert sorted(line.partition(": ")[0] for line in said) == sorted(
        str(tmp_path / name) for name in lonely
    )


@pytest.mark.parametrize(
    "files, said",
    [
        (["A/1.png", "B/1.png"], "no name says mask; there are 1 in .*A, 1 in .*B"),
        (["images/a.png", "masks/b.png"], "a.png: no mask of that name"),
        (["images/p_a.png", "masks/p_b.png"], "p_a.png: no mask of that name"),
        (["Train/images/1.png", "Val/masks/1.png"], "1.png: no mask of that name"),
        (["p1_left.png", "p1_right.png", "p1_mask.png"], "goes with the same mask"),
        (["a/1.png", "gt/1.png", "masks/1.png"], "several masks"),
        (["1.png", "2_mask.png"], "no mask of that name"),
        (["p1.png", "p1_2_mask.png"], "no mask of that name"),
    ],
)
def test_what_cannot_be_told_is_asked(tmp_path, files, said):
    touch(*(tmp_path / file for file in files))
    with pytest.raises(InputError, match=f"found no mask.*{said}.*images and masks"):
        find_pairs(tmp_path, endings=PICTURES)


def test_pairs_of_unlike_names_are_told(tmp_path):
    touch(tmp_path / "scans/CT_1.nii", tmp_path / "masks/final_1.nii")
    assert "CT_1.nii with" in find_pairs(tmp_path)[1][0]
    touch(tmp_path / "more/1.nii", tmp_path / "more/1_mask.nii")
    assert find_pairs(tmp_path / "more")[1] == []


def test_many_files_without_a_partner_take_one_screen(tmp_path):
    touch(*(tmp_path / f"{number}.nii" for number in range(90)), tmp_path / "1_mask.nii")
    left_over = find_pairs(tmp_path)[1]
    assert len(left_over) == 21 and left_over[-1].startswith("69 more files")


def test_a_scan_takes_no_other_scan_as_its_mask(tmp_path):
    touch(tmp_path / "p1_ct.nii", tmp_path / "p1_mr.nii", tmp_path / "below/p1_mask.nii")
    with pytest.raises(InputError, match="found no mask"):
        find_pairs(tmp_path / "p1_ct.nii")


def test_the_folder_of_the_masks_may_lie_in_that_of_the_scans(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "drawn/a.nii")
    pairs, left_over = find_pairs(tmp_path, tmp_path / "drawn")
    assert [pair[0] for pair in pairs] == ["a"] and not left_over


def test_masks_of_other_files_are_known(tmp_path):
    files = [
        tmp_path / name for name in ("a.png", "mask_b.png", "img_b.png", "a-seg.png", "gt.png")
    ]
    assert {file.name for file in find_masks(files)} == {"mask_b.png", "a-seg.png"}


def test_words_of_a_name(tmp_path):
    assert split_words("Image (12)-brainMask_v2") == ("image", "12", "brain", "mask", "v", "2")
    assert split_words("Größe影像7") == ("größe影像", "7")
    assert name_file(tmp_path / "images/Validation/a.png", tmp_path).split == "Val"
