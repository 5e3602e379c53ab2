"""A plan of training on four kinds of data, as an expert would choose."""

import math
import subprocess

import pytest

from common.card import Card
from dataset import plan
from dataset.plan import Machine, count_operations, describe_plan, make_plan
from model import build_unet

LAPTOP, GPU = Machine(16 << 30, 1e11), Machine(24 << 30, None)
THREE = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
FOUR = ("flair", "t1ce", "t1", "t2")
KINDS = {
    "CTA slices": (Card(), 10_000),
    "LGG": (Card(channels=FOUR[:3], normalise="minmax", size=256, labels={1: "tumour"}), 200),
    "BraTS in slices": (Card(channels=FOUR[:2], normalise="zscore", size=192, labels=THREE), 1800),
    "BraTS in volumes": (
        Card(channels=FOUR, normalise="zscore", dimensions=3, shape=(140, 172, 141), labels=THREE),
        7,
    ),
}


@pytest.mark.parametrize(
    ("kind", "on_laptop", "on_gpu"),
    [
        ("CTA slices", {"size": 160, "batch": 16, "width": 16, "steps": 250}, {"width": 32}),
        ("LGG", {"size": 256, "batch": 16, "width": 16, "steps": 50}, {"width": 32}),
        ("BraTS in slices", {"size": 192, "batch": 16, "steps": 112}, {"size": 192}),
        ("BraTS in volumes", {"patch": [80] * 3, "batch": 2, "width": 12}, {"patch": [128] * 3}),
    ],
)
def test_a_plan_fits_the_data_and_the_machine(kind, on_laptop, on_gpu):
    card, count = KINDS[kind]
    small, large = make_plan(card, count, LAPTOP), make_plan(card, count, GPU)
    assert small | on_laptop == small and large | on_gpu == large
    assert small["loss"] == ("batch_dice_cross_entropy" if card.is_mri else "dice_cross_entropy")
    samples = [p["epochs"] * p["steps"] * p["batch"] for p in (small, large)]
    assert samples[1] > 5 * samples[0] and small["minutes"] > 0 and large["minutes"] is None
    assert ("patch" in small) == card.is_3d and ("size" in small) != card.is_3d


def test_less_memory_means_a_smaller_batch():
    card, count = KINDS["LGG"]
    tight = make_plan(card, count, Machine(1 << 30, 1e11))
    assert 1 <= tight["batch"] < make_plan(card, count, LAPTOP)["batch"]


def test_a_patch_is_no_larger_than_the_volumes_need():
    card = Card(dimensions=3, shape=(35, 50, 200))
    assert make_plan(card, 100, LAPTOP)["patch"] == [48, 64, 80]


@pytest.mark.parametrize(("shape", "channels", "classes"), [((32, 32), 3, 1), ((16, 16, 16), 2, 4)])
def test_operations_are_those_of_the_network(shape, channels, classes):
    """Two for each weight of a kernel and each voxel that it gives."""
    model, total = build_unet((*shape, channels), classes, width=4, depth=2), 0
    for layer in model.layers:
        if "Conv" in type(layer).__name__:
            operations = 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            # of an upwards convolution, each voxel gets one tap of the kernel
            total += operations / (2 ** len(shape) if "Transpose" in type(layer).__name__ else 1)
    assert count_operations(shape, channels, classes, 4, 2) == pytest.approx(total)


def test_a_plan_is_told_in_words():
    said = describe_plan(make_plan(*KINDS["BraTS in volumes"], LAPTOP))
    assert "patches of 80 x 80 x 80 voxels, batches of 2" in said and "minutes on this" in said
    assert "minutes" not in describe_plan(make_plan(*KINDS["LGG"], GPU))


def test_a_gpu_is_asked_for_its_memory(monkeypatch):
    monkeypatch.setattr(plan.shutil, "which", lambda name: f"/usr/bin/{name}")
    answer = subprocess.CompletedProcess([], 0, stdout="24564\n24564\n")
    monkeypatch.setattr(plan.subprocess, "run", lambda *words, **options: answer)
    assert Machine.here() == Machine(24564 << 20, None)
    monkeypatch.setattr(plan.shutil, "which", lambda name: None)
    assert Machine.here().speed == 1e11 * (plan.USED_AMX if plan.has_amx() else plan.USED)
