"""Whether a network learns from corrections: the whole loop, on scans that it has never seen alike.

    nice python benchmarks/learn.py          # some half an hour on two cores; figures at the end

A network is trained for a few minutes on phantoms of adults. Twelve infants are masked by it. Of
eight the mask is corrected, as a person would who draws the truth. data.py, train.py and test.py do
the rest, by their defaults. What is made once is kept in --cache.
"""

import argparse
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.errors import run  # noqa: E402
from common.files import read_json  # noqa: E402
from predict.correction import save_correction  # noqa: E402
from synthesis.ct import make_scan, write_pair  # noqa: E402

CORRECTED, OTHERS, SEED = 8, 4, 900  # infants, and the seed of the first
# of all infants, but for their disease and contrast
LOOK = {"surgery": "none", "tilt": 15.0, "above": 12.0, "length": 190.0, "width": 220.0}
LOOK |= {"spacing": 1.25}
# An infant's head is that of an adult, smaller and with soft bone; by eye
SMALLER = 0.7
BONE_HU, SOFTER = 100.0, 0.3  # HU above the first are brought nearer to it
# of the first network: small, and some minutes of training
FIRST_DATA = shlex.split("--synthetic 24 --seed 500 --split 21 3 0")
FIRST_DATA += shlex.split("--window hu --size 96 --slices 28")
FIRST_RUN = shlex.split("--size 80 --width 8 --epochs 12 --steps 150 --lr 1e-3 --schedule cosine")
FIRST_RUN += shlex.split("--spacing-mm 3 --sure 0.8")


def make_infant(path: Path, seed: int) -> None:
    """Write the scan of an infant, and its true mask beside it."""
    if path.exists():
        return
    made = make_scan(seed, **LOOK)
    hu = np.where(made.hu > BONE_HU, BONE_HU + SOFTER * (made.hu - BONE_HU), made.hu)
    affine = np.diag([SMALLER, SMALLER, SMALLER, 1]) @ made.affine
    write_pair(replace(made, hu=hu, affine=affine), path)


def make_infants(folder: Path) -> list[Path]:
    """The scans, made by two processes."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = [folder / f"infant_{number:02d}.nii.gz" for number in range(CORRECTED + OTHERS)]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(make_infant, scans, range(SEED, SEED + len(scans))))
    return scans


def correct(out: Path, scans: list[Path]) -> None:
    """Correct the masks of some scans to their truth, as the page does."""
    for scan in scans:
        name = scan.name.removesuffix(".nii.gz")
        path = out / f"{name}_prediction" / f"{name}.json"
        if not read_json(path).get("corrections"):
            save_correction(path, scan.with_name(f"{name}_mask.nii.gz").read_bytes(), "truth")


def call(*words: str | Path) -> float:
    """Run one of the commands as a person would; return its seconds."""
    print(f"$ python {' '.join(map(str, words))}", flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)
    return time.perf_counter() - start


def train_first(cache: Path) -> Path:
    """The network that has seen no infant."""
    data, out = cache / "first_data", cache / "first"
    if not (out / "model.keras").exists():
        call("data.py", *FIRST_DATA, "--out", data)
        took = call("train.py", "--data", data, "--output", out, *FIRST_RUN)
        print(f"first network: {took:.0f} s")
    return out / "model.keras"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cache", default="files/benchmarks/learn", type=Path, help="(%(default)s)")
    add("--model", type=Path, help="begin with this network in place of one trained here")
    add("--tune", nargs=argparse.REMAINDER, default=[], help="options of train.py, the last here")
    args = parser.parse_args(argv)
    cache = args.cache.resolve()
    scans = make_infants(cache / "infants")
    first = args.model.resolve() if args.model else train_first(cache)
    work = cache / f"from_{first.parent.name}"
    call("pred.py", *scans, "--model", first, "--out", work / "results")
    correct(work / "results", scans[:CORRECTED])
    sliced = call("data.py", "--results", work / "results", "--like", first, "--out", work / "mine")
    out = work / "tuned"
    told = ("--start-from", first, "--output", out, "--synthetic", cache / "synthetic")
    learned = call("train.py", "--data", work / "mine", *told, *args.tune)
    print(f"data.py {sliced:.0f} s, train.py {learned:.0f} s")
    others = work / "others"
    others.mkdir(exist_ok=True)
    for scan in scans[CORRECTED:]:
        for path in (scan, scan.with_name(scan.name.replace(".nii", "_mask.nii"))):
            if not (others / path.name).exists():
                (others / path.name).symlink_to(path)
    new = next(p for p in (out / "model.keras", out / "tuned.keras") if p.exists())
    scores = ("--out", work / "scored", "--scores", work / "compare.csv")
    call("test.py", others, "--compare", first, new, *scores)
    return 0


if __name__ == "__main__":
    run(main)
