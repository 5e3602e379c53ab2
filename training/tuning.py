"""Fine-tuning on few scans: how, with what mixed in, and whether the new network is kept.

    options = settle(given, card, count, plan_tuning(given, card))
    tuning = Tuning(options, card, ready)       # makes the synthetic scans, once
    pairs = tuning.mix(train_pairs)
    path = tuning.choose_network(path)          # says Dice before and after

It is for datasets that data.py makes for a network: with --results or --like. What was learned
before is forgotten where training no longer sees it; synthetic scans that are mixed in keep it
(Robins, Connection Science 7 (1995): rehearsal). The batches of few scans have statistics of a few
heads, so batch normalisation keeps those that the network has.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common import CORES
from common.card import BRAIN, HEAD, Card, read_card
from common.cluster import open_cluster
from common.errors import quietly
from common.files import read_json, write_json
from dataset.make import make_dataset
from dataset.options import LIKE_SLICES, Options, list_synthetic
from dataset.read import Pair, read_dataset, read_description
from scan.views import WINDOW
from training.batches import Slices, split_by_case
from training.callbacks import BestModel, keep_aside, rename_model, round_figures, validate

with quietly():
    import keras

# Chosen on phantoms (benchmarks/README.md): of the samples of an epoch, about half are synthetic
PLAN = {"lr": 1e-4, "epochs": 6, "steps": 60, "schedule": "cosine"}
PHANTOMS, FIXED, SEED = 8, 4, 4242  # to learn from, to be judged by; the seed of both
WORSE = 0.002  # of Dice, that the synthetic scans may lose
HELD_OUT, SYNTHETIC = "held out", "synthetic"


def is_tuning(options: Namespace, card: Card) -> bool:
    """Whether a run begins with a network, on a dataset that data.py made for one."""
    return bool(options.start_from and card.like)


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
    """A run that fine-tunes: what is mixed in, and the scans by which it is judged.

    `ready` gives the network of a file, compiled. Makes the synthetic scans where they are not
    there yet; an MRI has none.
    """

    def __init__(self, options: Namespace, card: Card, ready: Callable[[Path], keras.Model]):
        self.options, self.ready = options, ready
        self.figure = f"dice_{BRAIN}" if card.labels == HEAD else "dice"
        self.synthetic, self.judges = [], {}
        splits = read_dataset(options.data)
        for split in ("Val", "Test"):
            self.add_judge(split, splits[split], card)
        self.add_judge(HELD_OUT, splits["Val"] + splits["Test"], card)
        if not card.is_mri:
            made = read_dataset(make_phantoms(Path(options.synthetic), card))
            self.synthetic = self.choose(made["Train"])
            self.add_judge(SYNTHETIC, made["Val"], card)

    def choose(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs of the views that are learned from."""
        return [pair for pair in pairs if pair.view in (self.options.views or [pair.view])]

    def add_judge(self, name: str, pairs: Sequence[Pair], card: Card) -> None:
        """Add scans to judge by, if there are any."""
        options, pairs = self.options, self.choose(pairs)
        if pairs:
            size = options.patch if card.is_3d else options.size
            slices = Slices(pairs, size, options.batch, card.window, options.threads)
            self.judges[name] = split_by_case(slices)

    def mix(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Pairs to learn from and synthetic ones, about as many; the fewer come several times."""
        if not self.synthetic:
            return list(pairs)
        few, many = sorted((list(pairs), self.synthetic), key=len)
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
        """Whether the new network in a file is better than that which the run began with, on the
        scans held out, and no worse on the synthetic ones. Says so; its card tells the figures."""
        before, after = (self.judge(Path(name)) for name in (self.options.start_from, path))
        for name in before:
            count = len({pair.case for slices in self.judges[name] for pair in slices.pairs})
            print(f"Dice, {name} ({count} scans): {before[name]:.4f} before, {after[name]:.4f} now")
        lost = before.get(SYNTHETIC, 0) - after.get(SYNTHETIC, 0)
        is_kept = after[HELD_OUT] > before[HELD_OUT] and lost <= WORSE
        figures = {"before": round_figures(before), "after": round_figures(after)}
        said = read_json(path.with_suffix(".json"))
        write_json(path.with_suffix(".json"), said | {"tuning": figures | {"kept": is_kept}})
        return is_kept

    def judge(self, path: Path) -> dict[str, float]:
        """Mean Dice over the cases and views of each set of scans."""
        model = self.ready(path)
        return {n: validate(model, cases)[self.figure] for n, cases in self.judges.items()}


def make_phantoms(folder: Path, card: Card) -> Path:
    """The dataset of synthetic scans that suits another dataset; made if it is not there.

    `folder` is such a dataset, whoever made it, or holds one for each kind of dataset.
    """
    if read_description(folder):
        return folder
    folder /= f"{card.size}_{len(card.labels)}"
    if not (folder / "manifest.csv").exists():
        print(f"makes {PHANTOMS + FIXED} synthetic scans in {folder}, once for all")
        labels = tuple(HEAD) if card.labels == HEAD else ()
        split = (PHANTOMS, FIXED, 0)
        kind = {"size": card.size, "window": "hu", "labels": labels, "slices": LIKE_SLICES}
        asked = Namespace(synthetic=PHANTOMS + FIXED, labels=None, scans=None, necks=None)
        sources, origin = list_synthetic(asked, SEED)
        with open_cluster(CORES, None) as client:
            make_dataset(sources, folder, Options(seed=SEED, split=split, **kind), origin, client)
    return folder
