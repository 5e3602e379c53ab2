"""How long a training step waits for its pictures.

    python benchmarks/training.py                    # on a small dataset of phantoms, made once
    python benchmarks/training.py --data files/dataset --threads 4

Steps are timed on batches that threads read and augment meanwhile, as in train.py, and on one batch
that is at hand. The time by which the former take longer is the time spent waiting. On a CPU the
threads also slow the step itself.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402

import data  # noqa: E402
from common.card import Card  # noqa: E402
from common.errors import run  # noqa: E402
from dataset.read import read_description  # noqa: E402
from train import build_network, choose_window, compile_model, prepare_device  # noqa: E402
from training.batches import TrainingSlices, read_pairs  # noqa: E402
from training.options import parse, settle  # noqa: E402


class Timer(keras.callbacks.Callback):
    """Seconds of each step, fetching the batch included; the first steps are left out."""

    def on_train_begin(self, logs=None):
        self.times, self.last = [], time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now

    def total(self, first=3):
        return sum(self.times[first:])

    def median(self, first=3):
        return statistics.median(self.times[first:])


class AtHand(keras.utils.PyDataset):
    """One batch, again and again."""

    def __init__(self, batch, count):
        super().__init__()
        self.kept, self.count = batch, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.kept


def step_times(args) -> tuple[Timer, Timer, TrainingSlices]:
    """Timers of steps that read their pictures and of steps that need not, and the reader."""
    words = ["--data", args.data, "--size", str(args.size), "--batch", str(args.batch)]
    card = read_description(args.data) or Card()
    options = settle(parse([*words, "--width", str(args.width)]), card)
    prepare_device(options)
    pairs, _ = read_pairs(args.data)
    kind = (args.size, args.batch, choose_window(card))
    slices = TrainingSlices(pairs, *kind, steps=args.steps, workers=args.threads)
    model = build_network(options, args.steps, card)
    compile_model(model, options, args.steps, card)
    timers = []
    for source in (AtHand(slices[0], args.steps), slices):
        timers.append(Timer())
        slices.busy = 0.0
        model.fit(source, callbacks=[timers[-1]], verbose=0, shuffle=False)
    return timers[1], timers[0], slices


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="files/benchmarks/dataset", help="made if it is missing (%(default)s)")
    add("--size", type=int, default=160, help="pixels a side (%(default)s)")
    add("--width", type=int, default=16, help="of the network (%(default)s)")
    add("--batch", type=int, default=16, help="pictures in a step (%(default)s)")
    add("--steps", type=int, default=40, help="timed (%(default)s)")
    add("--threads", type=int, default=2, help="that read (%(default)s)")
    args = parser.parse_args(argv)
    if not Path(args.data).exists():
        words = "--synthetic 10 --window hu --size 192 --slices 30 --out"
        data.main([*words.split(), args.data])
    reading, ready, slices = step_times(args)
    wait = max(0.0, 1 - ready.total() / reading.total())
    busy = slices.busy / slices.workers / sum(reading.times)
    print("| step, batch at hand | read meanwhile | slices/s | waiting | threads busy |")
    print("|---|---|---|---|---|")
    print(
        f"| {ready.median():.3f} s | {reading.median():.3f} s | "
        f"{args.batch / reading.median():.0f} | {wait:.0%} | {busy:.0%} |"
    )
    return 0


if __name__ == "__main__":
    run(main)
