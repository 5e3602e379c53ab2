"""Several devices of one machine, each of which takes an equal part of every batch.

    devices = choose_devices(options.devices, options.batch)
    with share_batches(devices):
        model = ...                             # built, compiled and saved as on one device
        model.fit(feed(slices, model))

The batch stays whole: gradients, batch normalisation and batch Dice are those of all its samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.errors import InputError, quietly
from training.batches import Slices
from training.options import list_gpus

with quietly():
    import keras


def choose_devices(count: int, batch: int) -> list[str]:
    """Names of the first `count` devices, of GPUs where there are any, else of CPUs.

    Raises InputError where there are fewer, or where they cannot share a batch.
    """
    backend = keras.backend.backend()
    if count > 1 and backend not in ("tensorflow", "jax"):
        raise InputError(
            f"--devices {count} is for TensorFlow and JAX, not for {backend}: leave it"
        )
    names = list_gpus() or (["cpu"] if backend == "torch" else keras.distribution.list_devices())
    if count > len(names):
        raise InputError(
            f"--devices {count}: Keras finds {len(names)} here ({', '.join(names)}): "
            f"give {len(names)} or fewer"
        )
    if batch % count:
        raise InputError(
            f"--devices {count} cannot share batches of {batch} evenly: "
            f"give --batch {max(1, round(batch / count)) * count}"
        )
    return names[:count]


@contextmanager
def share_batches(devices: Sequence[str]) -> Iterator[None]:
    """What is built in this block is trained on all `devices`; one of them needs nothing."""
    if len(devices) == 1:
        yield
    elif keras.backend.backend() == "jax":
        # Keras shares no PyDataset among hosts; on one host there is nothing to share
        spread = keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)
        with spread.scope():
            yield
    else:
        with make_strategy(tuple(devices)).scope():
            yield


@functools.cache  # TensorFlow mixes up what two of one process send between devices
def make_strategy(devices: tuple[str, ...]):
    import tensorflow as tf

    with quietly():
        return tf.distribute.MirroredStrategy([device.upper() for device in devices])


def feed(slices: Slices, model: keras.Model):
    """What Keras is given to read `slices`: themselves, or their tf.data.Dataset.

    Keras reads a PyDataset through one queue. TensorFlow's iterators for several devices read ahead
    from it, and Keras makes more of them than it uses, so that batches would be lost.
    """
    if keras.backend.backend() != "tensorflow":
        return slices
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return slices
    shape = (slices.batch, *model.input_shape[1:])
    shapes = (shape, (*shape[:-1], 1), shape[:1])  # of image, mask, weight

    def read(index):
        batch = tf.numpy_function(lambda i: slices[int(i)], [index], len(shapes) * [tf.float32])
        return tuple(
            tf.ensure_shape(part, known) for part, known in zip(batch, shapes, strict=True)
        )

    batches = tf.data.Dataset.range(len(slices))
    return batches.map(read, slices.workers, deterministic=True).prefetch(slices.workers)
