"""Whether a network learns from corrections: the whole loop, on scans that it has never seen alike.

    nice python benchmarks/learn.py          # some half an hour on two cores; figures at the end

A network is trained for a few minutes on phantoms whose skulls are whole. Twelve scans after a
craniectomy are masked by it. Of eight the mask is corrected, as a person would who draws the truth.
data.py, train.py and test.py do the rest, by their defaults. What is made once is kept in --cache.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import run  # noqa: E402
from synthesis.ct import make_scan  # noqa: E402
from synthesis.head import make_phantom_labels, write_volume  # noqa: E402

HEADS, OF_EACH = 8, 3  # heads of the first network, and scans of each
WHOLE = {"surgery": "none"}
OPENED = {"surgery": "large", "plain": False, "tilt": 15.0, "above": 12.0, "length": 190.0}
OPENED |= {"width": 220.0, "spacing": 1.25}
CORRECTED, OTHERS = 8, 4
FIRST, SECOND = 500, 900  # seeds of whole heads, of opened ones


def make_pair(path: Path, seed: int, labels: Path | None, look: dict) -> None:
    """Write a scan, and its true mask beside it."""
    if path.exists():
        return
    made = make_scan(seed, labels, **look)
    mask = path.with_name(path.name.replace(".nii", "_mask.nii"))
    write_volume(made.mask.astype(np.uint8), made.affine, mask)
    write_volume(np.rint(made.hu).astype(np.int16), made.affine, path)


def make_whole(folder: Path, head: int) -> None:
    """The scans of one whole head."""
    labels = folder / "heads" / f"head_{head}.nii.gz"
    if not labels.exists():
        labels.parent.mkdir(parents=True, exist_ok=True)
        write_volume(make_phantom_labels(FIRST + head), np.eye(4), labels)
    for number in range(OF_EACH):
        path = folder / "whole" / f"head_{head}_{number}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_pair(path, FIRST + 10 * head + number, labels, WHOLE)


def make_opened(folder: Path, number: int) -> None:
    """One scan after a craniectomy."""
    (folder / "opened").mkdir(parents=True, exist_ok=True)
    make_pair(folder / "opened" / f"opened_{number:02d}.nii.gz", SECOND + number, None, OPENED)


def make_scans(folder: Path) -> None:
    """All scans, by two processes."""
    with ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(make_opened, folder, n) for n in range(CORRECTED + OTHERS)]
        jobs += [pool.submit(make_whole, folder, head) for head in range(HEADS)]
        for job in jobs:
            job.result()


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", default="files/benchmarks/learn", type=Path)
    args = parser.parse_args(argv)
    start = time.perf_counter()
    make_scans(args.cache)
    print(f"scans: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    run(main)
