"""Cases of pictures: all their slices are scored, also where a dataset holds some of them."""

import pytest
from make import make_mri_set, save_mri_pictures

from common.card import Card
from common.errors import InputError
from common.files import read_json
from testing.find import find

DRAWN = Card(channels=("t1", "flair", "t1ce"), normalise="minmax", labels={1: "tumour"})


def test_all_slices_of_the_cases_in_a_folder_are_found(tmp_path):
    folder = save_mri_pictures(tmp_path / "lgg", cases=2, count=4)
    found = find(folder, card=DRAWN)
    assert [pair.case for pair in found] == ["P0"] * 4 + ["P1"] * 4
    assert {(pair.view, pair.channels, pair.labels) for pair in found} == {("slice", 3, 1)}


def test_of_a_dataset_all_slices_of_the_test_cases_are_found(tmp_path):
    folder = save_mri_pictures(tmp_path / "lgg", cases=3, count=20)
    made = tmp_path / "made"
    how = ["--channels", "t1", "flair", "t1ce", "--labels", 255, "--empty", 0]
    make_mri_set(folder, made, *how)
    (case,) = read_json(made / "dataset.json")["splits"]["Test"]
    found = find(made, card=DRAWN)
    assert {pair.case for pair in found} == {case} and len(found) == 20
    assert len(list((made / "Test/images").iterdir())) < 20
    folder.rename(tmp_path / "gone")  # then those that the dataset holds
    assert 0 < len(find(made, card=DRAWN)) < 20


def test_pictures_of_several_labels_need_their_dataset(tmp_path):
    folder = save_mri_pictures(tmp_path / "lgg", cases=1)
    card = Card(channels=DRAWN.channels, normalise="minmax", labels={1: "a", 2: "b"})
    with pytest.raises(InputError, match="tells 2 labels apart: give the dataset"):
        find(folder, card=card)
