"""Datasets of any layout are read, and what is none is refused."""

import numpy as np
import pytest
from make import head, make_ct_set, save_scan, touch

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
