"""Cross-validation: how cases are split, and a run of all folds that is killed again and again."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from make import make_discs, make_mri_set, save_mri

import train
from common.errors import InputError
from common.files import read_json, write_json
from dataset.read import read_dataset
from training import folds
from training.folds import find_labels, plan_folds, read_cases, split_cases, tabulate_folds
from training.options import parse

pytestmark = pytest.mark.usefixtures("quick_export")
ROOT = Path(train.__file__).parent


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Train: cases 0 to 5, Val: 0 to 2, Test: 0; of five pictures each."""
    return make_discs(tmp_path_factory.mktemp("discs"), (("Train", 30), ("Val", 15), ("Test", 5)))


def options_of(folder, output, *more):
    return parse(
        ["--data", str(folder), "--output", str(output), "--folds", "3", "--epochs", "2", *more]
    )


def plan(folder, output, *more):
    options = options_of(folder, output, *more)
    return plan_folds(options, read_cases(options))


def finish(output, number, run="x"):
    """Leave what a finished fold leaves, killed before its backup was removed."""
    folder = output / f"fold_{number}"
    write_json(folder / "model.json", {"run": run})
    write_json(folder / "finished.json", {"run": "x"})
    write_json(folder / "training/state.json", {"epoch": 1})


# ---- the split

VISITS = {f"BraTS-GLI-{n // 2:05d}-{n % 2:03d}": "core" if n < 12 else "" for n in range(40)}


def test_the_visits_of_a_patient_lie_in_one_fold_and_every_case_in_one():
    parts = split_cases(VISITS, 5, seed=0)
    assert sorted(case for part in parts for case in part) == sorted(VISITS)
    patients = [{case[:15] for case in part} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 20


def test_labels_are_spread_over_the_folds_and_the_seed_decides():
    labels = {f"case{n:02d}": ["", "core", "core oedema"][n % 3] for n in range(30)}
    parts = split_cases(labels, 5, seed=0)
    assert [Counter(labels[case] for case in part) for part in parts] == [
        {"": 2, "core": 2, "core oedema": 2}
    ] * 5
    assert split_cases(labels, 5, seed=0) == parts != split_cases(labels, 5, seed=1)


def test_cases_that_all_differ_are_split_by_patient_alone():
    labels = {f"P{n}_visit{visit}": f"label{n}{visit}" for n in range(7) for visit in range(2)}
    parts = split_cases(labels, 3, seed=0)
    assert sorted(map(len, parts)) == [4, 4, 6]
    assert all(set(Counter(case[:2] for case in part).values()) == {2} for part in parts)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(InputError, match="20 patients: give as many --folds or fewer"):
        split_cases(VISITS, 21, seed=0)
    labels = {f"case{n}": "brain" * (n < 2) for n in range(9)}
    with pytest.raises(InputError, match="has a label, .* fewer --folds"):
        split_cases(labels, 3, seed=0)


def test_the_manifest_tells_the_labels_that_the_masks_hold(tmp_path):
    cases = save_mri(tmp_path / "cases", 3)
    make_mri_set(cases, tmp_path / "set", "--labels", "1", "2", "4", "--split", "2", "1", "0")
    pairs = [pair for pairs in read_dataset(tmp_path / "set").values() for pair in pairs]
    told, seen = find_labels(tmp_path / "set", pairs), find_labels(tmp_path, pairs)
    assert set(told) == set(seen) == {"case0", "case1", "case2"}
    assert set(seen.values()) == {"0 1 2"} and {len(v.split("_pixels")) for v in told.values()} == {
        4
    }


# ---- the plan


def test_folds_are_of_train_and_val_and_leave_test_alone(discs, tmp_path):
    splits, seen = read_dataset(discs), []
    for options, train_pairs, val_pairs in plan(discs, tmp_path):
        assert options.output == str(tmp_path / f"fold_{options.fold}")
        cases = {pair.case for pair in train_pairs}, {pair.case for pair in val_pairs}
        assert not cases[0] & cases[1] and len(cases[0]) + len(cases[1]) == 9
        seen += val_pairs
    assert sorted(map(str, seen)) == sorted(map(str, [*splits["Train"], *splits["Val"]]))
    (alone,) = plan(discs, tmp_path, "--fold", "2")
    assert alone[0].fold == 2 and sorted(map(str, alone[2])) == sorted(map(str, seen[15:30]))


def test_pictures_of_no_known_case_are_refused(discs, tmp_path):
    make_discs(tmp_path, (("Train", 15),))
    for kind in ("images", "masks"):
        path = tmp_path / "Train" / kind / "caseTrain0_axial_003.png"
        path.rename(path.with_name("3.png"))
    with pytest.raises(InputError, match=r"1 of 15 pictures is not known, such as .*3\.png"):
        plan(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("more", [["--folds", "3", "--fold", "4"], ["--fold", "1"]])
def test_a_fold_that_is_none_of_them_is_refused(more):
    with pytest.raises(InputError, match="from 1 to N"):
        parse(more)


def test_a_split_that_was_made_is_made_no_second_time(discs, tmp_path, monkeypatch):
    first = plan(discs, tmp_path)
    monkeypatch.setattr(folds, "split_cases", None)  # as if by another scikit-learn
    again = plan(discs, tmp_path, "--threads", "1", "--fresh")
    assert [run[1:] for run in again] == [run[1:] for run in first]


def test_a_finished_fold_is_passed_over_and_what_it_left_is_removed(discs, tmp_path):
    plan(discs, tmp_path)
    finish(tmp_path, 1)
    finish(tmp_path, 2, run="another run that was sent there")
    assert [run[0].fold for run in plan(discs, tmp_path)] == [2, 3]
    assert not (tmp_path / "fold_1/training").exists()
    assert (tmp_path / "fold_2/training").exists()


@pytest.mark.parametrize("more", [["--seed", "1"], ["--epochs", "7"], ["--folds", "2"]])
def test_folds_of_another_command_are_refused(discs, tmp_path, more):
    plan(discs, tmp_path)
    write_json(tmp_path / "fold_2/training/state.json", {"epoch": 1})
    name, value = more[0].strip("-"), more[1]
    with pytest.raises(InputError, match=rf"unfinished .*{name} \d+ is now {value}.*--fresh"):
        plan(discs, tmp_path, *more)
    before = read_json(tmp_path / "folds.json")
    assert plan(discs, tmp_path, *more, "--fresh")
    assert not (tmp_path / "fold_2/training").exists()
    assert read_json(tmp_path / "folds.json") != before
    finish(tmp_path, 2)
    with pytest.raises(InputError, match=r"finished \(fold_2\) .*another --output"):
        plan(discs, tmp_path, "--fresh")


# ---- all folds, killed at the renaming of any file

RUNNER = """
import os, signal, sys
import keras
import train

def build_small(shape, classes, *_):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Conv2D(classes, 1, activation="sigmoid")(inputs))

train.build_unet = build_small
train.plot_curves = train.export_model = lambda *_: None
train.make_tensorboard = lambda _: []
rename = os.replace
folder, output = sys.argv[1:]
words = f"--data {folder} --folds 3 --size 32 --batch 4 --steps 2 --epochs 2 --lr 0.03 --threads 1"
words += " --precision float32"

def rename_or_die(*names):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    rename(*names)

def run(name, renamed):
    global left
    sys.stdout.flush()
    if child := os.fork():  # before TensorFlow has threads; its import takes longer than all else
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if keras.backend.backend() == "tensorflow":  # two steps take less time than their graph
        import tensorflow
        tensorflow.config.run_functions_eagerly(True)
    left, os.replace = renamed, rename_or_die
    train.main([*words.split(), "--output", f"{output}/{name}"])
    sys.stdout.flush()
    os._exit(0)

codes = [run("whole", -1)]
while len(codes) == 1 or codes[-1] == -signal.SIGKILL:
    codes.append(run("killed", 5 + len(codes)))
print(*codes)
"""


def test_killed_again_and_again_all_folds_end_with_the_same_figures(discs, tmp_path):
    """Each life may rename one file more than the one before, so that kills fall anywhere."""
    python = [sys.executable, "-c", RUNNER, str(discs), str(tmp_path)]
    done = subprocess.run(python, cwd=ROOT, capture_output=True, text=True)
    *_, codes = done.stdout.splitlines() or [""]
    whole, *kills, end = codes.split()
    assert (whole, set(kills), end) == ("0", {"-9"}, "0"), done.stdout + done.stderr
    assert len(kills) >= 3
    whole, killed = (pd.read_csv(tmp_path / name / "folds.csv") for name in ("whole", "killed"))
    assert whole.fold.tolist() == ["1", "2", "3", "mean", "standard deviation"]
    assert whole.cases[:3].tolist() == [3, 3, 3] and whole.epochs[:3].between(1, 2).all()
    assert whole.dice[3] == pytest.approx(whole.dice[:3].mean())
    np.testing.assert_allclose(killed.dice, whole.dice, atol=0.005)
    assert (
        read_json(tmp_path / "killed/folds.json")["validation"]
        == (read_json(tmp_path / "whole/folds.json")["validation"])
    )
    for number in (1, 2, 3):
        folder = tmp_path / f"killed/fold_{number}"
        log = pd.read_csv(folder / "data.csv")
        expected = pd.read_csv(tmp_path / f"whole/fold_{number}/data.csv")
        np.testing.assert_allclose(log.loss, expected.loss, atol=0.005)
        assert not (folder / "training").exists() and (folder / "model.keras").exists()
        card = json.loads((folder / "model.json").read_text())
        cases = set(card["training_cases"]), set(card["validation_cases"])
        assert (card["fold"], card["folds"]) == (number, 3)
        assert len(cases[0] | cases[1]) == len(cases[0]) + len(cases[1]) == 9
    last = f"python pred.py SCAN --model {tmp_path}/killed/fold_1/model.keras "
    assert last in done.stdout


def test_the_table_has_every_dice_and_leaves_out_what_no_case_has():
    def card(fold, dice, oedema):
        figures = {"loss": 0.3, "dice": dice, "dice_oedema": oedema, "recall": 0.1}
        return {"fold": fold, "epochs": 4, "validation_cases": ["a", "b"], "validation": figures}

    table = tabulate_folds([card(1, 0.5, 0.25), card(2, 0.75, None)])
    assert table.columns.tolist() == ["fold", "cases", "epochs", "dice", "dice_oedema"]
    assert table.dice.tolist() == pytest.approx([0.5, 0.75, 0.625, 0.125 * 2**0.5])
    assert table.dice_oedema[2] == 0.25 and table.dice_oedema[[1, 3]].isna().all()
    assert table.cases[:2].tolist() == [2, 2] and table.cases[2:].isna().all()
