"""Datasets of any layout are read, and what is none is refused."""

import numpy as np
import pytest
from make import head, make_ct_set, save_mri_pictures, save_scan, touch

import data
from common.errors import InputError
from dataset.read import Pair, read_dataset, read_description, read_pair
from scan.picture import write_picture


def test_the_other_layout_is_read(tmp_path):
    for split, case in (("Train", "p1"), ("Val", "p2"), ("Test", "p3")):
        for name in (f"{case}_axial_0001.png", "free name.png"):
            for kind in ("images", f"mask_img_labels{split}"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                write_picture(tmp_path / split / kind / name, np.zeros((9, 9), np.uint8))
    splits = read_dataset(tmp_path)
    assert list(splits) == ["Train", "Val", "Test"]
    free, named = splits["Val"]
    assert (free.case, free.view) == ("", "")
    assert (named.case, named.view) == ("p2", "axial")
    assert named.mask.parent.name == "mask_img_labelsVal"
    image, mask = read_pair(named)
    assert image.shape == mask.shape == (9, 9) and mask.dtype == bool


def test_pictures_without_masks_are_named(tmp_path, capsys):
    touch(tmp_path / "train/images/a.png", tmp_path / "train/images/b.png")
    touch(tmp_path / "train/masks/a.png")
    assert [p.image.name for p in read_dataset(tmp_path)["Train"]] == ["a.png"]
    assert "b.png: no mask" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    [
        ("train/images", "train/masks", "valid/images", "valid/masks"),
        ("images/training", "labels/training", "images/validation", "labels/validation"),
        ("Train", "Train_Masks", "Val", "Val_Masks"),
    ],
)
def test_splits_are_told_by_the_names_of_folders(tmp_path, names):
    train, train_masks, val, val_masks = (tmp_path / name for name in names)
    touch(train / "1.png", train_masks / "1.png", train / "2.png", train_masks / "2.png")
    touch(val / "1.png", val_masks / "1.png")
    splits = read_dataset(tmp_path)
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "Train": 2,
        "Val": 1,
        "Test": 0,
    }
    assert splits["Val"][0].mask == val_masks / "1.png"


def test_pairs_in_no_split_are_refused_or_named(tmp_path, capsys):
    touch(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    with pytest.raises(InputError, match="1 pairs lie in no folder .* there are images, masks"):
        read_dataset(tmp_path)
    touch(tmp_path / "images/train/a.png", tmp_path / "masks/train/a.png")
    assert len(read_dataset(tmp_path)["Train"]) == 1
    assert "1 pairs lie in no folder called Train" in capsys.readouterr().err


def test_slices_of_an_mri_in_colours_are_sent_to_data_py(tmp_path):
    folder = save_mri_pictures(tmp_path / "kaggle_3m", cases=3)
    with pytest.raises(InputError, match="python data.py .*kaggle_3m --channels NAME"):
        read_dataset(folder)
    words = [str(folder), "--channels", "pre", "flair", "post", "--out", str(tmp_path / "out")]
    assert data.main([*words, "--size", "30", "--workers", "1"]) == 0
    splits = read_dataset(tmp_path / "out")
    assert [len({pair.case for pair in pairs}) for pairs in splits.values()] == [1, 1, 1]


def test_scans_are_sent_to_data_py(tmp_path):
    touch(tmp_path / "a.nii", tmp_path / "a_mask.nii")
    with pytest.raises(InputError, match="python data.py"):
        read_dataset(tmp_path)


def test_the_dataset_json_of_others_is_no_card_of_ours(tmp_path):
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "numTraining": 2}')
    assert read_description(tmp_path) is None


def test_masks_of_another_size_are_refused(tmp_path):
    write_picture(tmp_path / "image.png", np.zeros((9, 8), np.uint8))
    write_picture(tmp_path / "mask.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match="9x9 but its picture 8x9"):
        read_pair(Pair(tmp_path / "image.png", tmp_path / "mask.png"))


@pytest.mark.parametrize("kind", ["missing", "empty", "junk manifest", "junk card"])
def test_what_is_no_dataset_is_refused_in_one_line(tmp_path, kind):
    folder = tmp_path / "data"
    if kind != "missing":
        folder.mkdir()
    if kind == "junk manifest":
        (folder / "manifest.csv").write_text("a,b\n1,2\n")
    if kind == "junk card":
        (folder / "dataset.json").write_text("{")
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
        read_description(folder)
    assert "\n" not in str(caught.value)


def test_a_description_is_a_card_or_none_or_refused(tmp_path):
    assert read_description(tmp_path) is None
    (tmp_path / "dataset.json").write_text('{"channels": ["t1"], "labels": {"1": "tumour"}}')
    card = read_description(tmp_path)
    assert card.channels == ("t1",) and card.labels == {1: "tumour"} and not card.is_3d
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="dataset.json cannot be read"):
        read_description(tmp_path)


def test_cases_called_like_numbers_or_nothing_keep_their_names(tmp_path):
    hu, mask = head()
    for name in ("001", "NA"):
        save_scan(hu, tmp_path / f"{name}.nii")
        save_scan(mask, tmp_path / f"{name}_mask.nii")
    make_ct_set(tmp_path, tmp_path / "out", "--views", "axial")
    pairs = sum(read_dataset(tmp_path / "out").values(), [])
    assert {pair.case for pair in pairs} == {"001", "NA"}
