"""Batches: each pair in turn, samples by their number, and masks that cannot be learned."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from make import make_discs, touch

from common.errors import InputError
from dataset.read import Pair, read_dataset
from dataset.records import write_records
from training import batches
from training.batches import Slices, TrainingSlices, check_masks, read_pairs, split_by_case


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_discs(tmp_path_factory.mktemp("discs"))


def test_each_turn_takes_every_pair_once_whatever_the_epochs_length(discs):
    pairs = read_dataset(discs)["Train"]
    slices = TrainingSlices(pairs, 32, 8, None, steps=3, seed=1)
    seen = []
    for slices.epoch in range(5):  # 5 epochs of 3 batches of 8 are 3 turns of 40
        for index in range(len(slices)):
            for number in slices.numbers(index):
                turn, place = divmod(number, 40)
                seen.append(slices.order(turn)[place])
    assert [sorted(seen[i : i + 40]) for i in (0, 40, 80)] == [list(range(40))] * 3
    assert seen[:40] != seen[40:80]


def test_a_sample_depends_on_seed_and_number_alone(discs):
    pairs = read_dataset(discs)["Train"]
    first = TrainingSlices(pairs, 32, 8, None, seed=1)
    other = TrainingSlices(pairs, 32, 8, None, seed=1)
    first.epoch = other.epoch = 3
    other[0]
    for a, b in zip(first[2], other[2], strict=True):
        np.testing.assert_array_equal(a, b)
    first.epoch = 4
    assert not np.array_equal(first[2][0], other[2][0])


def test_batches_are_normalised_pictures_and_zero_one_masks(discs):
    pairs = read_dataset(discs)["Val"]
    for slices in (Slices(pairs, 32, 4, None), TrainingSlices(pairs, 32, 4, None)):
        images, masks, _ = slices[0]
        assert images.shape == masks.shape == (4, 32, 32, 1)
        assert images.dtype == masks.dtype == np.float32
        assert images.min() >= 0 and 0.3 < images.max() <= 1
        assert set(np.unique(masks)) == {0, 1}


def test_a_last_batch_is_filled_up_with_pairs_that_do_not_count(discs):
    pairs = read_dataset(discs)["Val"]
    images, masks, weights = Slices(pairs, 32, 4, None)[2]
    assert len(images) == len(masks) == 4 and len(pairs) == 10
    assert weights.tolist() == [1, 1, 0, 0]


def test_validation_is_split_by_case_and_view(tmp_path):
    pairs = [Pair(tmp_path, tmp_path, case, view) for case in "ba" for view in ("axial", "mip")]
    parts = split_by_case(Slices([*pairs, pairs[0]], 32, 4, None, workers=3))
    assert [part.pairs for part in parts] == [[pairs[0]] * 2, *([pair] for pair in pairs[1:])]
    assert {(part.size, part.batch, part.workers) for part in parts} == {(32, 4, 3)}


def test_masks_with_soft_edges_are_named(discs, tmp_path, capsys):
    make_discs(tmp_path)
    path = next((tmp_path / "Train/masks").glob("*_001.png"))
    cv2.imwrite(str(path), cv2.blur(cv2.imread(str(path), 0), (3, 3)))
    check_masks(read_dataset(tmp_path)["Train"], seed=0)
    shown = capsys.readouterr().err
    assert "1 of 40 masks looked at are not 0/1" in shown and path.name in shown


def test_masks_that_label_the_whole_picture_are_named(tmp_path, capsys):
    make_discs(tmp_path)
    path = next((tmp_path / "Train/masks").glob("*_001.png"))
    cv2.imwrite(str(path), np.full((40, 40), 255, np.uint8))
    check_masks(read_dataset(tmp_path)["Train"], seed=0)
    shown = capsys.readouterr().err
    assert "1 of 40 masks looked at label all of the picture" in shown and path.name in shown


def pairs_of(folder, shape, **kind):
    """Three pairs in TFRecords, of which the last has no label 3."""
    rng = np.random.default_rng(0)
    samples = [
        {
            "image": rng.integers(0, 255, (*shape, 2), np.uint8),
            "mask": rng.integers(0, 4 - (number == 2), shape, np.uint8),
            "case": "c",
        }
        for number in range(3)
    ]
    path = folder / "x.tfrecord.gz"
    places = write_records(path, samples)
    return [Pair(path, path, "c", "v", 2, 3, place) for place in places], samples


@pytest.mark.parametrize(("shape", "size"), [((16, 8, 24), [16, 8, 24]), ((32, 32), 32)])
def test_batches_hold_channels_and_labels(tmp_path, shape, size):
    pairs, samples = pairs_of(tmp_path, shape)
    images, masks, _ = Slices(pairs, size, 2, None)[0]
    assert images.shape == (2, *shape, 2) and masks.shape == (2, *shape, 1)
    assert images.dtype == masks.dtype == np.float32
    np.testing.assert_allclose(images[1] * 255, samples[1]["image"], atol=1e-4)
    np.testing.assert_array_equal(masks[1, ..., 0], samples[1]["mask"])
    images, masks, _ = TrainingSlices(pairs, size, 2, None)[0]
    assert images.shape == (2, *shape, 2) and masks.shape == (2, *shape, 1)
    assert images.min() >= 0 and images.max() <= 1 and set(np.unique(masks)) <= {0, 1, 2, 3}


def test_training_reads_no_volume_before_it_is_drawn(tmp_path, monkeypatch):
    pairs, _ = pairs_of(tmp_path, (16, 16, 16))
    monkeypatch.setattr(batches, "read_kept", None)
    assert len(TrainingSlices(pairs, (16, 16, 16), 2, None, steps=3)) == 3


def test_labels_are_looked_at_one_by_one(tmp_path, capsys):
    pairs, _ = pairs_of(tmp_path, (32, 32))
    check_masks(pairs, 0, ["a", "b", "c"])
    lines = capsys.readouterr().out.splitlines()
    assert "100% of 3 masks looked at hold a," in lines[0] and "67% of 3" in lines[2]
    fewer = [replace(pair, labels=2) for pair in pairs]
    with pytest.raises(InputError, match="holds the label 3"):
        check_masks(fewer, 0, ["a", "b"])


def test_a_split_that_is_not_found_is_said_with_the_folders_that_were_seen(tmp_path):
    for kind in ("images", "masks"):
        touch(tmp_path / "training" / kind / "1.png", tmp_path / "dev" / kind / "1.png")
    with pytest.raises(InputError, match="no Val pairs; its folders are dev, training: make a"):
        read_pairs(tmp_path)
