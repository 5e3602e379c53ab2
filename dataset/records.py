"""TFRecords: many arrays in one compressed file, each of which can be read alone.

A file is TensorFlow's own format under gzip, so `tf.data.TFRecordDataset(path, "GZIP")` reads it.
Each record is a gzip member of its own (RFC 1952 allows several), as in BGZF: with its offset it is
read without those before it, so a shuffled epoch reads in any order. TensorFlow is imported when
it is first needed.
"""

from __future__ import annotations

import gzip
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.errors import InputError, quietly, replacing

ENDING = ".tfrecord.gz"
ONE_AT_A_TIME = threading.Lock()  # for threads that read records and import TensorFlow
FRAME = struct.Struct("<QI")  # a record's length and that length's checksum; 4 bytes follow it


def write_records(path: str | Path, samples: Iterable[dict]) -> list[tuple[int, int]]:
    """Write one record a sample, whole or not at all; returns (offset, bytes) of each.

    A sample has "image" and "mask", arrays of uint8 or uint16, and any texts and whole numbers.
    The same samples give the same bytes.
    """
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.tfrecord"
        with tensorflow().io.TFRecordWriter(str(plain)) as writer:
            for sample in samples:
                writer.write(to_example(sample).SerializeToString(deterministic=True))
        content, places = plain.read_bytes(), []
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        start = 0
        while start < len(content):
            end = start + FRAME.size + FRAME.unpack_from(content, start)[0] + 4
            member = gzip.compress(content[start:end], 6, mtime=0)
            places.append((file.tell(), len(member)))
            file.write(member)
            start = end
    return places


def to_example(sample: dict):
    """A tf.train.Example: arrays as raw bytes with their shape and type, the rest as it is."""
    feature = tensorflow().train.Feature
    features = {}
    for name, value in sample.items():
        if isinstance(value, np.ndarray):
            features[name] = feature(bytes_list={"value": [value.tobytes()]})
            features[f"{name}_shape"] = feature(int64_list={"value": value.shape})
            features[f"{name}_type"] = feature(bytes_list={"value": [str(value.dtype).encode()]})
        elif isinstance(value, str):
            features[name] = feature(bytes_list={"value": [value.encode()]})
        else:
            features[name] = feature(int64_list={"value": [int(value)]})
    return tensorflow().train.Example(features={"feature": features})


def read_record(path: str | Path, offset: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of one record, as they were written.

    Raises InputError when the file is missing, shorter, or holds something else there.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            framed = gzip.decompress(file.read(length))
        example = tensorflow().train.Example.FromString(framed[FRAME.size : -4])
        return to_arrays(example)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read {path}: {reason}; make the dataset again") from error
    except Exception as error:  # whatever gzip and protobuf raise for other bytes
        raise InputError(f"{path} is damaged at byte {offset}; make the dataset again") from error


def stream_records(paths: Sequence[str | Path], shuffle: int = 0, seed: int | None = None):
    """A tf.data.Dataset of (image, mask) of all records of files, for your own training.

    Several records are parsed at a time, ahead of their use. `shuffle` is the size of the buffer,
    filled from several files, from which they are drawn anew for every epoch; 0 keeps their order.
    """
    tf = tensorflow()
    auto, paths = tf.data.AUTOTUNE, list(map(str, paths))
    fields = {}
    for name in ("image", "mask"):
        fields[name] = tf.io.FixedLenFeature([], tf.string)
        fields[f"{name}_shape"] = tf.io.VarLenFeature(tf.int64)
    first = next(tf.data.TFRecordDataset(paths, "GZIP").take(1).as_numpy_iterator(), None)
    if first is None:
        raise InputError(f"there is no record in {', '.join(paths) or 'no file'}")
    kinds = [array.dtype for array in to_arrays(tf.train.Example.FromString(first))]

    def parse(example):
        found = tf.io.parse_single_example(example, fields)
        return tuple(
            tf.reshape(tf.io.decode_raw(found[name], kind), found[f"{name}_shape"].values)
            for name, kind in zip(("image", "mask"), kinds, strict=True)
        )

    files = tf.data.Dataset.from_tensor_slices(paths)
    if shuffle:
        files = files.shuffle(len(paths), seed)
        examples = tf.data.TFRecordDataset(files, "GZIP", num_parallel_reads=4)
        examples = examples.shuffle(shuffle, seed)
    else:
        examples = tf.data.TFRecordDataset(files, "GZIP")
    return examples.map(parse, num_parallel_calls=auto).prefetch(auto)


def to_arrays(example) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a tf.train.Example of ours."""
    features, arrays = example.features.feature, []
    for name in ("image", "mask"):
        kind = features[f"{name}_type"].bytes_list.value[0].decode()
        shape = features[f"{name}_shape"].int64_list.value
        arrays.append(np.frombuffer(features[name].bytes_list.value[0], kind).reshape(shape))
    return tuple(arrays)


def tensorflow():
    """TensorFlow, imported when it is first needed: it takes seconds."""
    with ONE_AT_A_TIME:
        if "tensorflow" not in sys.modules:
            with quietly():
                import tensorflow  # noqa: F401
    return sys.modules["tensorflow"]
