"""Whether a network learns from corrections: the whole loop, on scans that it has never seen alike.

    nice python benchmarks/learn.py          # some half an hour on two cores; figures at the end

A network is trained for a few minutes on phantoms whose skulls are whole. Twelve scans after a
craniectomy are masked by it. Of eight the mask is corrected, as a person would who draws the truth.
data.py, train.py and test.py do the rest, by their defaults. What is made once is kept in --cache.
"""

import argparse
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.errors import run  # noqa: E402
from common.files import checksum, read_json, write_json  # noqa: E402
from predict.manifest import tell_time  # noqa: E402
from predict.network import MODEL  # noqa: E402
from synthesis.ct import make_scan  # noqa: E402
from synthesis.head import make_phantom_labels, write_volume  # noqa: E402

HEADS, OF_EACH = 6, 3  # heads of the first network, and scans of each
WHOLE = {"surgery": "none"}
OPENED = {"surgery": "large", "plain": False, "tilt": 15.0, "above": 12.0, "length": 190.0}
OPENED |= {"width": 220.0, "spacing": 1.25}
CORRECTED, OTHERS = 8, 4
# of the first network: small, and some minutes of training
FIRST_RUN = shlex.split("--size 80 --width 8 --epochs 6 --steps 70 --lr 1e-3 --schedule cosine")
FIRST_RUN += shlex.split("--spacing-mm 3 --sure 0.8")
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


def correct(out: Path, scans: list[Path]) -> None:
    """Correct the masks of some scans to their truth, as the page saves a correction."""
    for scan in scans:
        name = scan.name.removesuffix(".nii.gz")
        path = out / f"{name}_prediction" / f"{name}.json"
        truth = scan.with_name(f"{name}_mask.nii.gz").read_bytes()
        said = read_json(path)
        if not said.get("corrections"):
            mask = path.with_name(f"{name}_corrected_mask.nii.gz")
            mask.write_bytes(truth)
            done = {"file": mask.name, "sha256": checksum(mask), "when": tell_time(), "who": "B"}
            write_json(path, said | {"corrections": [done]})


def call(*words: str | Path) -> float:
    """Run one of the commands as a person would; return its seconds."""
    print(f"$ python {' '.join(map(str, words))}", flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)
    return time.perf_counter() - start


def train_first(cache: Path) -> Path:
    """The network that has seen no opened skull."""
    data, out = cache / "first_data", cache / "first"
    if not (out / "model.keras").exists():
        call("data.py", cache / "whole", "--out", data, "--like", MODEL, "--split", 9, 1, 0)
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
    add("--synthetic", help="dataset to mix in (that of the first network)")
    add("--tune", nargs=argparse.REMAINDER, default=[], help="options of train.py, the last here")
    args = parser.parse_args(argv)
    cache = args.cache.resolve()
    make_scans(cache)
    first = args.model.resolve() if args.model else train_first(cache)
    work = cache / f"from_{first.parent.name}"
    scans = sorted((cache / "opened").glob("opened_??.nii.gz"))
    call("pred.py", *scans, "--model", first, "--out", work / "results")
    correct(work / "results", scans[:CORRECTED])
    sliced = call("data.py", "--results", work / "results", "--like", first, "--out", work / "mine")
    out = work / "tuned"
    tuned = ("--output", out, "--synthetic", args.synthetic or cache / "first_data")
    learned = call("train.py", "--data", work / "mine", "--start-from", first, *tuned, *args.tune)
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
