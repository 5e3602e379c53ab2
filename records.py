"""TFRecords: many arrays in one compressed file, each of which can be read alone.

    lines = write_records("Train/case.tfrecord.gz", samples)   # offset and length of each
    image, mask = read_record("Train/case.tfrecord.gz", *lines[0])
    for image, mask in stream(places): ...                     # tf.data: many, read ahead

A file is TensorFlow's own format under gzip, so `tf.data.TFRecordDataset(path, "GZIP")` reads it.
Each record is a gzip member of its own (RFC 1952 allows several), as in BGZF: who knows its offset
need not unpack those before it, and a shuffled epoch reads in any order. TensorFlow is imported by
what needs it, not before.
"""

import gzip
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from errors import InputError, quietly, replacing

ENDING = ".tfrecord.gz"
FRAME = struct.Struct("<QI")  # a record's length and that length's checksum; 4 bytes follow it


def write_records(path: str | Path, samples: Iterable[dict]) -> list[tuple[int, int]]:
    """Write one record a sample, whole or not at all; returns (offset, bytes) of each.

    A sample has "image" and "mask", arrays of uint8 or uint16, and any texts and whole numbers.
    Same samples, same bytes.
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
    except Exception as error:  # whatever gzip and protobuf raise for what is none of ours
        raise InputError(f"{path} is damaged at byte {offset}; make the dataset again") from error


def stream(places: Sequence[tuple[str, int, int]], workers: int = 4):
    """A tf.data.Dataset of (image, mask) of records, each (path, offset, bytes), in their order.

    `workers` records at a time are read and parsed, ahead of their use; an epoch is shuffled by the
    order of its places. Raises InputError as `read_record` does, of the first one.
    """
    tf = tensorflow()
    kinds = [array.dtype for array in read_record(*places[0])]
    paths, offsets, lengths = map(list, zip(*places, strict=True))

    def read(*place):
        return tf.numpy_function(lambda p, o, n: read_record(p.decode(), o, n), place, kinds)

    order = tf.data.Dataset.from_tensor_slices((list(map(str, paths)), offsets, lengths))
    return order.map(read, num_parallel_calls=workers).prefetch(workers)


def to_arrays(example) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a tf.train.Example of ours."""
    features, arrays = example.features.feature, []
    for name in ("image", "mask"):
        kind = features[f"{name}_type"].bytes_list.value[0].decode()
        shape = features[f"{name}_shape"].int64_list.value
        arrays.append(np.frombuffer(features[name].bytes_list.value[0], kind).reshape(shape))
    return tuple(arrays)


def tensorflow():
    """TensorFlow, imported when first it is needed: it takes seconds."""
    with quietly():
        import tensorflow

    return tensorflow
