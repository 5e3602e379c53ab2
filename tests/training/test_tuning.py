"""Fine-tuning: its defaults, what is mixed in, and which network is kept."""

import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from make import make_ct_set, save_scans

from common.card import Card
from common.errors import InputError
from common.files import read_json
from dataset.read import Pair, read_description
from training.options import parse, settle
from training.tuning import (
    HELD_OUT,
    SYNTHETIC,
    Tuning,
    adopt_window,
    find_held_out,
    is_tuning,
    plan_tuning,
)

LIKE = Card(like="a network's checksum", window="hu", size=38)


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


def make_tuning(tmp_path, before, after):
    """A Tuning that judges two networks as told: {set of scans: Dice of each}."""
    tuning = Tuning.__new__(Tuning)
    tuning.options = Namespace(start_from="before.keras", output=str(tmp_path))
    tuning.judge = lambda path: {
        name: pd.Series(dice)
        for name, dice in (before if path.name == "before.keras" else after).items()
    }
    return tuning


@pytest.mark.parametrize(
    "held_out, synthetic, is_kept",
    [
        ([0.95, 0.95], 0.90, True),
        ([0.95, 0.95], 0.8985, True),  # no worse
        ([0.95, 0.95], 0.897, False),  # something forgotten
        ([0.89, 0.89], 0.95, False),
        ([0.99, 0.899], 0.90, False),  # one scan is no more than half
    ],
)
def test_a_network_is_kept_where_it_is_better_and_has_forgotten_nothing(
    tmp_path, capsys, held_out, synthetic, is_kept
):
    """0.002 of Dice may be lost on the synthetic scans."""
    before = {HELD_OUT: [0.9, 0.9], SYNTHETIC: [0.9]}
    tuning = make_tuning(tmp_path, before, {HELD_OUT: held_out, SYNTHETIC: [synthetic]})
    for name in ("tuned.keras", "model.keras"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).with_suffix(".json").write_text("{}")
    path = tuning.choose_network(tmp_path / "tuned.keras")
    out, mean = capsys.readouterr().out, sum(held_out) / 2
    assert f"0.9000 before, {mean:.4f} now" in out
    if is_kept:
        assert path.read_text() == "tuned.keras" and path.name == "model.keras"
        assert (tmp_path / "model.previous.keras").read_text() == "model.keras"
        said = read_json(tmp_path / "model.json")["tuning"]
    else:
        assert path is None and "not kept: before.keras remains" in out
        assert (tmp_path / "model.keras").read_text() == "model.keras"
        said = read_json(tmp_path / "tuned.json")["tuning"]
    assert said["after"][HELD_OUT] == pytest.approx(mean) and said["kept"] == is_kept


def test_a_scan_held_out_that_is_gone_is_named_before_anything_is_learned(tmp_path):
    save_scans(tmp_path / "scans", 3)
    make_ct_set(tmp_path / "scans", tmp_path / "out", "--trust-masks")
    card = read_description(tmp_path / "out")
    held_out = find_held_out(tmp_path / "out", card)
    assert [pair.case for pair in held_out] == card.splits["Val"] + card.splits["Test"]
    passed = replace(card, corrected=tuple(card.splits["Test"]))
    assert [pair.case for pair in find_held_out(tmp_path / "out", passed)] == card.splits["Test"]
    held_out[0].image.unlink()
    with pytest.raises(InputError, match=f"{held_out[0].image}, of which .* is gone"):
        find_held_out(tmp_path / "out", card)


def test_about_half_of_what_is_learned_from_is_new():
    tuning = Tuning.__new__(Tuning)
    new, passed, synthetic = (Pair(Path(name), Path(name), name) for name in "nps")
    tuning.corrected, tuning.synthetic = set(), [synthetic] * 30
    for count in (3, 10, 29, 40, 300):
        mixed = tuning.mix([new] * count)
        assert 0.4 < mixed.count(synthetic) / len(mixed) < 0.6 and set(mixed) == {new, synthetic}
    tuning.corrected = {"n"}
    mixed = tuning.mix([new] * 4 + [passed] * 100)
    assert 0.4 < mixed.count(new) / len(mixed) < 0.6 and set(mixed) == {new, passed, synthetic}
    assert tuning.find_new([passed, new]) == [new] and tuning.find_new([passed]) == [passed]
    tuning.synthetic = []
    assert tuning.mix([new]) == [new]
