"""Cross-validation: the cases of Train and Val in N folds, each of which validates its own network.

    pairs = read_cases(options)
    runs = plan_folds(options, pairs)   # (options, training, validation pairs) of each to train
    ...                                 # train.py trains each, and calls finish_fold at its end
    report_folds(options)               # the table, once all are finished

The output folder holds folds.json (the command, and the validation cases of each fold), folds.csv
(the table) and fold_1, fold_2, …: each as a single run leaves its output, with finished.json.
"""

from __future__ import annotations

import shlex
import shutil
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.card import read_card
from common.errors import InputError
from common.files import read_json, write_json, write_text
from common.progress import track
from dataset.read import MANIFEST, Pair, name_folders, read_dataset, read_rows
from scan.cases import find_patient
from training.batches import label_shares
from training.callbacks import identify_run, list_changes

PLAN, FINISHED, TABLE = "folds.json", "finished.json", "folds.csv"
# A single run may change these on its way; networks that differ in them cannot be compared
ALIKE = ("epochs", "patience", "spacing_mm", "sure")


def plan_folds(
    options: Namespace, pairs: Sequence[Pair]
) -> list[tuple[Namespace, list[Pair], list[Pair]]]:
    """The folds to train: options (with `fold` and its own `output`), training, validation pairs.

    All that are not finished, or the one of --fold. The split is made once and read again from
    folds.json, so that a later version of scikit-learn cannot change it on the way.
    Raises InputError for cases that cannot be split, and where the output folder holds folds of
    another command.
    """
    output, command = Path(options.output), identify_folds(options, pairs)
    plan = read_json(output / PLAN)
    if plan.get("command") != command:
        drop_others(output, plan.get("command", {}), command, options.fresh)
        labels = find_labels(options.data, pairs)
        plan = {"command": command, "validation": split_cases(labels, options.folds, options.seed)}
        write_json(output / PLAN, plan)
    sizes, patients = map(len, plan["validation"]), {find_patient(pair.case) for pair in pairs}
    said = f"{options.folds} folds of {len(patients)} patients; cases that each validates: "
    print(said + " ".join(map(str, sizes)))
    runs = []
    for number, cases in enumerate(plan["validation"], 1):
        if options.fold not in (None, number):
            continue
        folder = name_folder(options, number)
        if is_finished(folder):
            print(f"fold {number} of {options.folds} is finished")
            shutil.rmtree(folder / "training", ignore_errors=True)  # killed just before its end
            continue
        own = Namespace(**vars(options) | {"fold": number, "output": str(folder)})
        held_out = set(cases)
        train_pairs = [pair for pair in pairs if pair.case not in held_out]
        runs.append((own, train_pairs, [pair for pair in pairs if pair.case in held_out]))
    return runs


def name_folder(options: Namespace, number: int) -> Path:
    """The folder of a fold."""
    return Path(options.output) / f"fold_{number}"


# ---------------------------------------------------------------- the split


def read_cases(options: Namespace) -> list[Pair]:
    """The pairs of Train and Val, of some views or all; InputError where a case is not known."""
    folder, splits = options.data, read_dataset(options.data)
    pairs = [
        pair
        for split in ("Train", "Val")
        for pair in splits.get(split, [])
        if not options.views or pair.view in options.views
    ]
    if not pairs:
        asked = f" of the views {' '.join(options.views)}" if options.views else ""
        said = f"{folder} has no Train or Val pairs{asked}; its folders are {name_folders(folder)}"
        raise InputError(f"{said}: make a folder Train, or a dataset with data.py")
    if unknown := [pair.image for pair in pairs if not pair.case]:
        raise InputError(
            f"--folds splits by patient, and the patient of {len(unknown)} of {len(pairs)} "
            f"pictures is not known, such as {unknown[0]}: call them CASE_axial_0001.png and so "
            "on, or make the dataset with data.py"
        )
    return pairs


def find_labels(folder: str | Path, pairs: Sequence[Pair]) -> dict[str, str]:
    """{case: the labels that its masks hold, in words}.

    The manifest of data.py has counted them. Other datasets have all their masks read.
    """
    found: dict[str, set] = {pair.case: set() for pair in pairs}
    manifest = Path(folder) / MANIFEST
    rows = read_rows(manifest) if manifest.exists() else []
    if any(name.endswith("_pixels") for row in rows[:1] for name in row):
        for row in (row for row in rows if row["case"] in found):
            held = {
                n for n, count in row.items() if n.endswith("_pixels") and count not in ("", "0")
            }
            found[row["case"]] |= held
    else:
        for pair in track(pairs, len(pairs), "mask"):
            found[pair.case] |= set(np.flatnonzero(label_shares(pair)))
    return {case: " ".join(sorted(map(str, held))) for case, held in found.items()}


def split_cases(labels: dict[str, str], count: int, seed: int) -> list[list[str]]:
    """The validation cases of each of `count` folds, drawn with `seed`.

    `labels` are those of each case. All cases of a patient lie in one fold. Each fold gets its
    share of the cases of each set of labels, as far as scikit-learn finds a way to do it.
    Raises InputError for fewer patients than folds, and for a fold without any label.
    """
    # late: a run without folds does not wait for it
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    cases = sorted(labels)
    patients = [find_patient(case) for case in cases]
    if len(set(patients)) < count:
        raise InputError(f"there are {len(set(patients))} patients: give as many --folds or fewer")

    def split(kind) -> list[list[str]]:
        folds = kind(count, shuffle=True, random_state=seed)
        parts = folds.split(cases, [labels[case] for case in cases], patients)
        return [[cases[index] for index in held_out] for _, held_out in parts]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a set of labels in few cases
            parts = split(StratifiedGroupKFold)
    except ValueError:  # no set of labels has as many cases as there are folds
        parts = []
    if not (parts and all(parts)):
        parts = split(GroupKFold)
    for number, held_out in enumerate(parts, 1):
        if not any(labels[case] for case in held_out):
            raise InputError(
                f"none of the cases that fold {number} would validate ({', '.join(held_out[:3])} "
                "…) has a label, so its Dice would say nothing: give fewer --folds"
            )
    return parts


# ---------------------------------------------------------------- going on after a kill


def identify_folds(options: Namespace, pairs: Sequence[Pair]) -> dict:
    """The options and the dataset in which all folds must agree."""
    command = identify_run(options, pairs) | {name: getattr(options, name) for name in ALIKE}
    del command["fold"]
    return command


def drop_others(output: Path, before: dict, now: dict, fresh: bool) -> None:
    """Drop the unfinished folds of another command, if `fresh`; else raise InputError for them.

    Raises InputError for finished ones in any case.
    """
    states = list(output.glob("fold_*/training/state.json"))
    finished = sorted(folder.name for folder in output.glob("fold_*") if is_finished(folder))
    if finished or (states and not fresh):
        kind, advice = (
            "unfinished",
            "give that command again to resume them, or add --fresh to drop them",
        )
        if finished:
            kind, advice = f"finished ({', '.join(finished)})", "choose another --output"
        changed = list_changes(before, now)
        raise InputError(f"{output} holds {kind} folds of another command ({changed}): {advice}")
    for state in states:
        state.unlink()  # first: without it nothing is resumed
        shutil.rmtree(state.parent)


def is_finished(folder: Path) -> bool:
    """Whether a fold's folder holds the network with which the fold was finished."""
    run = read_json(folder / FINISHED).get("run")
    return run is not None and run == read_card(folder / "model.keras").run


def finish_fold(options: Namespace, model: Path) -> None:
    """Note in one write that a fold is finished; nothing for a single run."""
    if options.fold:
        write_json(Path(options.output) / FINISHED, {"run": read_card(model).run})


# ---------------------------------------------------------------- what is told


def describe_fold(options: Namespace, train_pairs, val_pairs) -> dict:
    """What the card of a fold's network says of it; {} for a single run."""
    if not options.fold:
        return {}
    return {
        "fold": options.fold,
        "folds": options.folds,
        "training_cases": sorted({pair.case for pair in train_pairs}),
        "validation_cases": sorted({pair.case for pair in val_pairs}),
    }


def report_folds(options: Namespace) -> None:
    """Write and print the table of all folds, and how to use their networks; or say what lacks."""
    folders = [name_folder(options, number) for number in range(1, options.folds + 1)]
    missing = [n for n, folder in enumerate(folders, 1) if not is_finished(folder)]
    if missing:
        print(f"not finished yet: {', '.join(f'--fold {number}' for number in missing)}")
        return
    table = tabulate_folds([read_json(folder / "model.json") for folder in folders])
    path = Path(options.output) / TABLE
    write_text(path, table.to_csv(index=False, float_format="%.6f"))
    shown = table.astype(object).where(table.notna(), "")
    print(shown.to_string(index=False, float_format="{:.4f}".format))
    models = shlex.join(str(folder / "model.keras") for folder in folders)
    print(f"{path} has this table; all networks together: python pred.py SCAN --model {models}")


def tabulate_folds(cards: Sequence[dict]) -> pd.DataFrame:
    """A row a fold, by the card of its network: validation cases, best epoch, each Dice.

    Below them stand the mean over the folds and the standard deviation (of a sample, n - 1).
    """
    about = pd.DataFrame(
        {
            "fold": [str(said["fold"]) for said in cards],
            "cases": [len(said["validation_cases"]) for said in cards],
            "epochs": [said["epochs"] for said in cards],
        }
    )
    about = about.astype({"cases": "Int64", "epochs": "Int64"})  # which may be missing
    figures = pd.DataFrame([said["validation"] for said in cards]).filter(regex="^dice")
    figures = figures.astype(float)
    summary = figures.agg(["mean", "std"]).assign(fold=["mean", "standard deviation"])
    return pd.concat([about.join(figures), summary], ignore_index=True)
