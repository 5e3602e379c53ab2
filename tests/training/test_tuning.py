"""Fine-tuning: its defaults, what is mixed in, and which network is kept."""

import shlex
from argparse import Namespace

import keras
import pytest

from common.card import Card
from common.files import read_json
from dataset.read import Pair
from model import build_unet, save_model
from train import build_network
from training.options import parse, settle
from training.tuning import HELD_OUT, SYNTHETIC, Tuning, adopt_window, is_tuning, plan_tuning

LIKE = Card(like="a network's checksum", window="hu", size=38)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A network of another window, spacing and size than usual."""
    path = tmp_path_factory.mktemp("start") / "model.keras"
    said = {"window": [-100, 300], "spacing_mm": 2.5, "sure": 0.8}
    save_model(build_unet((32, 32, 1), 1, 4, 1), path, said)
    return path


def settled(start, card=LIKE, more=""):
    given = parse(["--start-from", str(start), *shlex.split(more)])
    return settle(given, card, 100, plan_tuning(given, card))


def test_all_that_the_new_network_shares_with_the_first_comes_from_its_card(start):
    options = settled(start)
    assert (options.size, options.spacing_mm, options.sure) == (32, 2.5, 0.8)
    assert options.lr < 1e-3 and options.output == "files/tuned"
    assert adopt_window(LIKE, start).window == (-100, 300)
    assert settled(start, more="--lr 1e-5 --sure 0.6 --output x").lr == 1e-5


def test_another_dataset_is_trained_on_as_ever(start):
    plain = Card(window="hu")
    options = settled(start, plain)
    assert not is_tuning(options, plain) and options.output == "files" and options.sure == 0.5


def test_batch_normalisation_keeps_its_statistics_and_the_saved_network_may_be_trained_again(
    start, tmp_path
):
    network = build_network(settled(start), 10, LIKE)
    normalising = [layer for layer in network.layers if hasattr(layer, "momentum")]
    assert normalising and not any(layer.trainable for layer in normalising)
    save_model(network, tmp_path / "tuned.keras", {})
    saved = keras.saving.load_model(tmp_path / "tuned.keras", compile=False)
    assert all(layer.trainable for layer in saved.layers)


def make_tuning(tmp_path, before, after):
    """A Tuning that judges two networks as told: {set of scans: Dice}."""
    tuning = Tuning.__new__(Tuning)
    tuning.options = Namespace(start_from="before.keras", output=str(tmp_path))
    tuning.judges = {name: [Namespace(pairs=[Pair("i", "m", "case")])] for name in before}
    tuning.judge = lambda path: before if path.name == "before.keras" else after
    return tuning


@pytest.mark.parametrize(
    "held_out, synthetic, is_kept",
    [(0.95, 0.90, True), (0.95, 0.8985, True), (0.95, 0.897, False), (0.9, 0.95, False)],
)
def test_a_network_is_kept_where_it_is_better_and_has_forgotten_nothing(
    tmp_path, capsys, held_out, synthetic, is_kept
):
    """0.002 of Dice may be lost on the synthetic scans."""
    before = {HELD_OUT: 0.9, SYNTHETIC: 0.9}
    tuning = make_tuning(tmp_path, before, {HELD_OUT: held_out, SYNTHETIC: synthetic})
    for name in ("tuned.keras", "model.keras"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).with_suffix(".json").write_text("{}")
    path = tuning.choose_network(tmp_path / "tuned.keras")
    out = capsys.readouterr().out
    assert f"0.9000 before, {held_out:.4f} now" in out
    if is_kept:
        assert path.read_text() == "tuned.keras" and path.name == "model.keras"
        assert (tmp_path / "model.previous.keras").read_text() == "model.keras"
        said = read_json(tmp_path / "model.json")
    else:
        assert path is None and "not kept: before.keras remains" in out
        assert (tmp_path / "model.keras").read_text() == "model.keras"
        said = read_json(tmp_path / "tuned.json")
    assert said["tuning"]["after"][HELD_OUT] == held_out and said["tuning"]["kept"] == is_kept


def test_about_half_of_what_is_learned_from_is_synthetic():
    tuning = Tuning.__new__(Tuning)
    tuning.synthetic = ["s"] * 30
    for count in (3, 10, 29, 40, 300):
        mixed = tuning.mix(["r"] * count)
        assert 0.4 < mixed.count("s") / len(mixed) < 0.6 and set(mixed) == {"r", "s"}
    tuning.synthetic = []
    assert tuning.mix(["r"]) == ["r"]
