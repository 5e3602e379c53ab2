"""Two CPUs that TensorFlow or JAX make of one share every batch, and learn what one learns."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from make import make_discs

import train
from common.errors import InputError
from common.files import read_json
from model import load_model
from training.devices import choose_devices

pytestmark = pytest.mark.usefixtures("quick_export")
ROOT = Path(train.__file__).parent
# A case to validate has 5 slices: one device of two sees but what fills up its batch
OPTIONS = shlex.split(
    "--size 32 --width 4 --depth 1 --batch 16 --lr 1e-2 --loss batch_dice_cross_entropy "
    "--epochs 2 --steps 5 --precision float32"
)
# Ends after the first epoch as if killed, and goes on with the same command
CHILD = """
import os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
import model, train
model.in_eight_bits = lambda *_: None  # that takes seconds
kept = train.BackupAndRestore.on_epoch_end

def die(self, epoch, logs=None):
    kept(self, epoch, logs)
    raise KeyboardInterrupt

train.BackupAndRestore.on_epoch_end = die
try:
    train.main(sys.argv[1:])
except KeyboardInterrupt:
    pass
train.BackupAndRestore.on_epoch_end = kept
train.main(sys.argv[1:])
"""


def learn_apart(backend, folder, output, devices):
    """Train in another process, which sees two CPUs; return what it prints."""
    options = [*OPTIONS, "--data", folder, "--output", output, "--devices", devices]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, options)],
        **{"cwd": ROOT, "env": os.environ | flags, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_learn_what_one_learns(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    folder, one, two = (tmp_path / name for name in ("discs", "one", "two"))
    make_discs(folder)
    if backend == keras.backend.backend():
        train.main([*OPTIONS, "--data", str(folder), "--output", str(one)])
    else:
        learn_apart(backend, folder, one, 1)
    said = learn_apart(backend, folder, two, 2)
    assert "device: cpu:0, cpu:1; " in said and "going on after epoch 1" in said
    expected, found = (pd.read_csv(output / "data.csv") for output in (one, two))
    assert found.epoch.tolist() == [1, 2]
    for figure, near in (("loss", 1e-4), ("dice", 1e-4), ("val_loss", 0.005), ("val_dice", 0.005)):
        np.testing.assert_allclose(found[figure], expected[figure], atol=near)
    model, card = load_model(two / "model.keras")
    assert card.validation["dice"] == pytest.approx(found.val_dice.max(), abs=1e-5)
    assert not any(getattr(layer, "synchronized", False) for layer in model.layers)
    exports = [read_json(output / "model.json").get("export") for output in (one, two)]
    assert [bool(export) for export in exports] == [backend == "tensorflow"] * 2


def test_more_devices_than_there_are_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"^--devices 3: Keras finds 1 here \(cpu:0\): give 1"):
        choose_devices(3, 6)


def test_a_batch_that_devices_cannot_share_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0", "gpu:1"])
    assert choose_devices(2, 6) == ["gpu:0", "gpu:1"]
    with pytest.raises(InputError, match="--devices 2 cannot share batches of 7 .* --batch 8"):
        choose_devices(2, 7)
    with pytest.raises(InputError, match="batches of 1 evenly: give --batch 2"):
        choose_devices(2, 1)
