"""TFRecords that TensorFlow reads whole and read_record reads one by one."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make import all_pairs, make_ct_set, make_mri_set, save_mri, save_scans

from common.errors import InputError
from dataset.records import read_record, stream_records, write_records
from scan.views import WINDOW
from training.batches import Slices, TrainingSlices

ROOT = Path(__file__).parents[2]


def samples(count=5, kind=np.uint8):
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 4000 if kind == np.uint16 else 256, (6, 5, 2)).astype(kind),
            "mask": rng.integers(0, 4, (6, 5), np.uint8),
            "case": "a",
            "index": index,
        }
        for index in range(count)
    ]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_records_come_back_one_by_one_and_in_any_order(tmp_path, kind):
    path, made = tmp_path / "a.tfrecord.gz", samples(kind=kind)
    places = write_records(path, iter(made))
    for index in (3, 0, 4):
        image, mask = read_record(path, *places[index])
        assert image.dtype == kind and mask.dtype == np.uint8
        np.testing.assert_array_equal(image, made[index]["image"])
        np.testing.assert_array_equal(mask, made[index]["mask"])


def test_tensorflow_reads_the_same_file_as_one_stream(tmp_path):
    import tensorflow as tf

    path, made = tmp_path / "a.tfrecord.gz", samples()
    write_records(path, made)
    found = [
        tf.train.Example.FromString(raw.numpy())
        for raw in tf.data.TFRecordDataset(str(path), "GZIP")
    ]
    assert [e.features.feature["index"].int64_list.value[0] for e in found] == list(range(5))
    assert found[0].features.feature["case"].bytes_list.value[0] == b"a"
    read = stream_records([path])
    for (image, mask), sample in zip(read.as_numpy_iterator(), made, strict=True):
        np.testing.assert_array_equal(image, sample["image"])
        np.testing.assert_array_equal(mask, sample["mask"])


def test_a_stream_of_files_of_which_the_first_is_empty(tmp_path):
    made, paths = samples(2), [tmp_path / "a.tfrecord.gz", tmp_path / "b.tfrecord.gz"]
    for path, part in zip(paths, ([], made), strict=True):
        write_records(path, part)
    assert len(list(stream_records(paths).as_numpy_iterator())) == 2
    with pytest.raises(InputError, match="no record"):
        stream_records(paths[:1])


def test_threads_that_read_records_leave_stderr_as_it_was(tmp_path):
    path = tmp_path / "a.tfrecord.gz"
    places = write_records(path, samples())
    code = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from dataset.records import read_record
places = eval(sys.argv[3])
def read():
    for place in places * 20:
        read_record(sys.argv[2], *place)
before = os.fstat(2).st_ino
threads = [threading.Thread(target=read) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(os.fstat(2).st_ino != before)
"""
    words = [sys.executable, "-c", code, ROOT, path, repr(places)]
    assert subprocess.run(words, stderr=subprocess.PIPE).returncode == 0


def test_a_shuffled_stream_gives_each_record_once(tmp_path):
    made, paths = samples(12, np.uint16), []
    for start in range(0, 12, 4):
        paths.append(tmp_path / f"{start}.tfrecord.gz")
        write_records(paths[-1], made[start : start + 4])
    read = stream_records(paths, shuffle=12, seed=1)
    epochs = [[image.tobytes() for image, _ in read.as_numpy_iterator()] for _ in range(2)]
    wanted = [sample["image"].tobytes() for sample in made]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(wanted)
    assert epochs[0] != wanted and epochs[0] != epochs[1]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_records(tmp_path / name, samples())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    whole = sum(sample["image"].nbytes for sample in samples())
    assert len(gzip.decompress((tmp_path / "a").read_bytes())) > whole


def test_a_damaged_or_missing_file_is_named_in_one_line(tmp_path):
    path = tmp_path / "a.tfrecord.gz"
    places = write_records(path, samples())
    content = path.read_bytes()
    for broken in (content[: places[4][0] + 20], content[:-9] + b"\xff" * 9, b""):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="a.tfrecord.gz") as caught:
            read_record(path, *places[4])
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="nowhere"):
        read_record(tmp_path / "nowhere", *places[0])


def test_what_fails_half_way_leaves_no_file(tmp_path):
    def broken():
        yield samples()[0]
        raise InputError("no more")

    with pytest.raises(InputError):
        write_records(tmp_path / "a.tfrecord.gz", broken())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["slices of MRI", "volumes", "CT"])
def test_a_training_gets_the_same_batches_from_either_format(tmp_path, what):

    make_it, source = (make_ct_set, save_scans) if what == "CT" else (make_mri_set, save_mri)
    folder, batches = source(tmp_path / "source", 4), {}
    for form in ("png", "tfrecord"):
        out = tmp_path / form
        if what == "volumes":  # in which there is no PNG: two datasets of records
            make_it(folder, out, "--dimensions", 3, "--grid", 16)
        else:
            make_it(folder, out, "--slices", 4, "--format", form)
        shape = ((16, 16, 16) if what == "volumes" else 24, 3, WINDOW)
        training = TrainingSlices(all_pairs(out), *shape, seed=3)
        batches[form] = [training[index] for index in range(len(training))]
        training.epoch = 1
        batches[form] += [training[0], *map(Slices(all_pairs(out), *shape).__getitem__, (0, 1))]
    for ours, theirs in zip(*batches.values(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batches["png"][0][0], batches["png"][-3][0]), "epochs differ"
