"""Fine-tuning on few scans: how, with what mixed in, and whether the new network is kept.

    options = settle(given, card, count, plan_tuning(given, card))
    tuning = Tuning(options, card)              # makes the synthetic scans, once
    pairs = tuning.mix(train_pairs)             # and validate on tuning.find_new(val_pairs)
    path = tuning.choose_network(path)          # says Dice before and after

It is for datasets that data.py makes for a network: with --results or --like. What was learned
before is forgotten where training no longer sees it; synthetic scans that are mixed in keep it
(Robins, Connection Science 7 (1995): rehearsal). A network is judged by its masks of whole scans:
a Dice of slices may rise where a head is no longer found.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from common import CORES
from common.card import BRAIN, HEAD, Card, read_card
from common.cluster import open_cluster, spread
from common.errors import InputError
from common.files import read_json, write_json
from common.progress import track
from dataset.make import make_dataset
from dataset.options import LIKE_SLICES, Options, list_synthetic
from dataset.read import Pair, read_dataset
from predict.network import Network
from scan.cases import Case
from scan.views import WINDOW
from synthesis.ct import make_scan, write_pair
from testing.compare import pool
from testing.find import find, list_originals
from testing.score import score_all
from training.callbacks import BestModel, keep_aside, rename_model

# Chosen on phantoms (benchmarks/README.md): of the samples of an epoch, about half are new
PLAN = {"lr": 1e-4, "epochs": 6, "steps": 60, "schedule": "cosine"}
PHANTOMS, SEED = 8, 4242  # to learn from, and the seed of the first
FIXED, FIXED_SEED = 4, 5353  # phantoms to be judged by, likewise
WORSE = 0.002  # of Dice, that the masks of these may lose
HELD_OUT, SYNTHETIC = "held out", "synthetic"


def is_tuning(options: Namespace, card: Card) -> bool:
    """Whether a run begins with a network, on a dataset that data.py made for one.

    Networks of whole CTs mask none (predict/brain.py asks for slices), so nothing could judge them.
    """
    return bool(options.start_from and card.like and (card.is_mri or not card.is_3d))


def plan_tuning(options: Namespace, card: Card) -> dict:
    """What a run that fine-tunes has in place of the plan of training; else {}."""
    if not is_tuning(options, card):
        return {}
    start = read_card(options.start_from)
    plan = PLAN | {"sure": start.sure, "spacing_mm": start.spacing_mm}
    shape = start.input_shape[:-1]
    if not shape or None in shape:
        return plan
    return plan | ({"patch": list(shape)} if card.is_3d else {"size": shape[0]})


def adopt_window(card: Card, start: str | None) -> Card:
    """The card of a dataset in HU with the window of the network that a run begins with."""
    if start is None or card.window != "hu":
        return card
    return replace(card, window=read_card(start).window or WINDOW)


class Tuning:
    """A run that fine-tunes: what is mixed in, and the scans by whose masks it is judged.

    Makes the synthetic scans where they are not there yet; an MRI has none. Raises InputError for a
    scan held out that is gone.
    """

    def __init__(self, options: Namespace, card: Card):
        self.options, self.corrected = options, set(card.corrected)
        self.figure = f"dice_{BRAIN}" if card.labels == HEAD else "dice"
        self.judges = {HELD_OUT: find_held_out(Path(options.data), card)}
        self.synthetic = []
        if not card.is_mri:
            folder = Path(options.synthetic)
            made = read_dataset(make_phantoms(folder, card))["Train"]
            self.synthetic = [p for p in made if p.view in (options.views or [p.view])]
            self.judges[SYNTHETIC] = find(make_fixed(folder / "fixed"))

    def find_new(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those of `pairs` that people corrected; all of them, where they corrected none."""
        return [pair for pair in pairs if pair.case in self.corrected] or list(pairs)

    def mix(self, pairs: Sequence[Pair]) -> list[Pair]:
        """What is new in `pairs`, and what is not, about as many; the fewer come several times.

        Not new are the masks that people passed, and the synthetic scans.
        """
        new, known = self.find_new(pairs), list(self.synthetic)
        if len(new) < len(pairs):
            known += [pair for pair in pairs if pair.case not in self.corrected]
        if not known:
            return new
        few, many = sorted((new, known), key=len)
        return few * round(len(many) / len(few)) + many

    def watch(self, said: dict) -> BestModel:
        """The callback that keeps the best epoch, beside what will be the network."""
        path = Path(self.options.output) / "model.keras"
        if read_card(path).run != said["run"]:  # else it was kept, and then the run was killed
            path = path.with_name("tuned.keras")
        return BestModel(path, said, self.figure)

    def choose_network(self, path: Path) -> Path | None:
        """Where the new network lies if it is kept: in model.keras. None if it is not."""
        chosen = path.with_name("model.keras")
        if path == chosen:
            return path
        if not self.keeps(path):
            print(
                f"not kept: {self.options.start_from} remains the network to use; what was learned "
                f"is in {path}"
            )
            return None
        keep_aside(chosen)
        rename_model(path, chosen)
        return chosen

    def keeps(self, path: Path) -> bool:
        """Whether the new network in a file masks the scans held out better than that which the run
        began with, in the mean and most of them, and the synthetic ones no worse. Says so; its card
        tells the figures."""
        before, after = (self.judge(Path(name)) for name in (self.options.start_from, path))
        gain = {name: after[name] - before[name] for name in before}
        for name, change in gain.items():
            print(
                f"Dice, {name} ({len(change)} scans): {before[name].mean():.4f} before, "
                f"{after[name].mean():.4f} now; better {(change > 0).sum()}, "
                f"worse {(change < 0).sum()}"
            )
        is_better = gain[HELD_OUT].mean() > 0 and (gain[HELD_OUT] > 0).mean() > 0.5
        has_forgotten = SYNTHETIC in gain and gain[SYNTHETIC].mean() < -WORSE
        is_kept = bool(is_better and not has_forgotten)
        figures = {"before": to_means(before), "after": to_means(after), "kept": is_kept}
        said = read_json(path.with_suffix(".json"))
        write_json(path.with_suffix(".json"), said | {"tuning": figures})
        return is_kept

    def judge(self, path: Path) -> dict[str, pd.Series]:
        """The Dice of a network's masks, as test.py gives them, for each set of scans; of an MRI
        the mean over its labels and regions.

        InputError for a scan that can no longer be scored.
        """
        network = Network([path])
        found = {}
        for name, items in self.judges.items():
            with tempfile.TemporaryDirectory() as folder:
                table, failed = score_all(items, Path(folder), network)
            if failed:
                raise InputError(f"{failed[0]}; the same command then judges {path} again")
            found[name] = pool(table).groupby("Name").mean()
        return found


def to_means(found: dict[str, pd.Series]) -> dict[str, float]:
    """The mean Dice of each set of scans."""
    return {name: round(float(dice.mean()), 6) for name, dice in found.items()}


def find_held_out(folder: Path, card: Card) -> list[Pair | Case]:
    """What a dataset does not train on, as whole scans or cases; pictures where it was made of
    them.

    Only that which people corrected, where they did: a mask that they passed is the first network's
    own, which no other can better. Raises InputError for a file that is gone.
    """
    splits = read_dataset(folder)
    pairs = [*splits["Val"], *splits["Test"]]
    held_out = {pair.case for pair in pairs}
    judging = held_out & set(card.corrected) or held_out
    found = list_originals(card, judging) or [pair for pair in pairs if pair.case in judging]
    for item in found:
        is_pair = isinstance(item, Pair)
        files = (item.image, item.mask) if is_pair else (*item.files.values(), item.labels)
        for file in files:
            if not file.exists():
                raise InputError(f"{file}, of which {folder} was made, is gone: put it back")
    return found


def make_phantoms(folder: Path, card: Card) -> Path:
    """The dataset of synthetic scans that suits another dataset; made in `folder` if it is not
    there."""
    folder /= f"{card.size}_{card.field_mm:.0f}mm_{len(card.labels)}"
    if not (folder / "manifest.csv").exists():
        print(f"makes {PHANTOMS} synthetic scans in {folder}, once for all")
        kind = {"size": card.size, "window": "hu", "slices": LIKE_SLICES}
        kind |= {"labels": tuple(HEAD) if card.labels == HEAD else (), "field_mm": card.field_mm}
        asked = Namespace(synthetic=PHANTOMS, labels=None, scans=None, necks=None)
        sources, origin = list_synthetic(asked, SEED)
        options = Options(seed=SEED, split=(100, 0, 0), **kind)
        with open_cluster(CORES, None) as client:
            make_dataset(sources, folder, options, origin, client)
    return folder


def make_fixed(folder: Path) -> Path:
    """The folder of synthetic scans with masks to be judged by; those that lack are made."""
    paths = [folder / f"phantom_{number}.nii.gz" for number in range(FIXED)]
    tasks = [(path, FIXED_SEED + n) for n, path in enumerate(paths) if not path.exists()]
    if tasks:
        print(f"makes {len(tasks)} synthetic scans in {folder}, once for all")
        with open_cluster(min(CORES, len(tasks)), None) as client:
            list(track(spread(client, write_phantom, tasks), len(tasks), "scan"))
    return folder


def write_phantom(path: Path, seed: int) -> None:
    """Write a synthetic scan, and its mask beside it."""
    write_pair(make_scan(seed), path)
