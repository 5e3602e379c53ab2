"""What does not fit memory: one line before hours are spent, or when it runs out.

with explained_memory():
    check_memory(model, batch, devices)
    model.fit(...)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import InputError, quietly
from dataset.plan import read_gpu_memory
from training.options import list_gpus

with quietly():
    import keras

SMALLER = "give a smaller --size or --patch, --batch or --width"
# What NumPy, TensorFlow, JAX, PyTorch and OpenCV say when there is no memory
WORDS = ("memoryerror", "unable to allocate", "resource_exhausted", "resourceexhausted")
WORDS += ("oom when", "out of memory", "insufficient memory")


def check_memory(model: keras.Model, batch: int, devices: int) -> None:
    """Raise InputError where the least that a step of training needs is more than there is.

    That is what the convolutions give for the samples of a device, which the way back reads again.
    Nothing is checked for networks of any size.
    """
    outputs = [layer.output for layer in model.layers if "Conv" in type(layer).__name__]
    if any(None in output.shape[1:] for output in outputs):
        return
    gpu = read_gpu_memory() if list_gpus() else 0
    share = batch // devices if gpu else batch
    each = (math.prod(o.shape[1:]) * (4 if o.dtype == "float32" else 2) for o in outputs)
    need = share * sum(each)
    memory = gpu or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory:
        raise InputError(
            f"a step of training needs {need / 2**30:,.0f} GiB of memory at least, and there are "
            f"{memory / 2**30:,.0f}: {SMALLER}"
        )


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn what is raised where memory runs out into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__} {error}".lower()
        if not any(word in said for word in WORDS):
            raise
        raise InputError(f"a step of training does not fit memory: {SMALLER}") from error
