"""An archive of small scans masked by one process and by several: time, memory, equal masks.

    python benchmarks/archive.py                    # 200 scans, one process and two
    python benchmarks/archive.py --count 40 --workers 4

The scans are pieces of one phantom's head at 2 mm that differ in size, place and noise. One process
is timed on one core, as a worker has it, and on as many cores as there are workers: it reads, asks
the network and writes at the same time, so it uses two cores nearly as well as two workers do. All
are whole processes, start-up included. A worker's memory is its peak (VmHWM of Linux).
"""

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.errors import InputError, run  # noqa: E402
from synthesis.ct import make_scan  # noqa: E402
from synthesis.head import write_volume  # noqa: E402

SPACING, WIDTH, LENGTH = 2.0, 208.0, 140.0  # mm
SMALLEST = (88, 88, 56)  # voxels
SETTLED = 20  # scans, after which a worker's memory should not grow


def make_archive(folder: Path, count: int) -> None:
    """Write `count` scans as NIfTI."""
    look = {"spacing": SPACING, "thickness": SPACING, "width": WIDTH, "length": LENGTH}
    made, rng = make_scan(0, plain=True, phase="arterial", **look), np.random.default_rng(0)
    most = np.array(made.hu.shape)
    for number in range(count):
        size = rng.integers(SMALLEST, most + 1)
        start = rng.integers(0, most - size + 1)
        part = made.hu[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        noisy = np.rint(part + rng.normal(0, 8, part.shape)).astype(np.int16)
        write_volume(noisy, made.affine, folder / f"scan_{number:04d}.nii.gz")


def time_run(
    folder: Path, out: Path, cores: int, workers: int = 1
) -> tuple[float, dict[int, float]]:
    """Run pred.py on a folder with so many cores and workers.

    Returns its seconds, and a worker's peak MB by the count of scans that were done.
    """
    words = [sys.executable, ROOT / "pred.py", folder, "--out", out, "--workers", str(workers)]
    start, peaks, ours = time.perf_counter(), {}, sorted(os.sched_getaffinity(0))

    def take_cores() -> None:
        os.sched_setaffinity(0, ours[:cores])

    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(words, preexec_fn=take_cores, stdout=said, stderr=said) as process,
    ):
        while process.poll() is None:
            done = len(list(out.glob("*/*_overlay.png")))
            peaks[done] = max(peaks.get(done, 0.0), measure_peak(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise InputError(f"pred.py failed: {said.read().decode()[-500:]}")
    return seconds, peaks


def measure_peak(number: int) -> float:
    """The largest peak, in MB, of a process' children; its own where it has none."""
    try:
        process = psutil.Process(number)
        family = process.children(recursive=True) or [process]
    except psutil.NoSuchProcess:
        return 0.0
    return max(map(read_peak, family))


def read_peak(process: psutil.Process) -> float:
    """A process' peak memory in MB; 0 for one that is gone."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1000 if lines else 0.0


def list_masks(out: Path) -> dict[str, str]:
    """{name: checksum of its content} of every mask."""
    masks = sorted(out.glob("*/*_mask.nii.gz"))
    return {p.name: hashlib.sha256(gzip.decompress(p.read_bytes())).hexdigest() for p in masks}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="scans (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="archive_") as scratch:
        scans, *outs = (Path(scratch) / name for name in ("scans", "one", "all", "more"))
        make_archive(scans, args.count)
        one_core, _ = time_run(scans, outs[0], cores=1)
        all_cores, _ = time_run(scans, outs[1], cores=args.workers)
        together, peaks = time_run(scans, outs[2], cores=args.workers, workers=args.workers)
        masks = list(map(list_masks, outs))
        equal = all(found == masks[0] and len(found) == args.count for found in masks)
    settled = max((peak for done, peak in peaks.items() if done <= SETTLED), default=0.0)
    last = max(peaks.values())
    print(f"{args.workers} workers, a core each: {together:.1f} s")
    print(f"one process, one core: {one_core:.1f} s, ratio {together / one_core:.2f}")
    print(f"one process, the same cores: {all_cores:.1f} s, ratio {together / all_cores:.2f}")
    print(f"a worker's peak after {SETTLED} scans: {settled:.0f} MB, ", end="")
    print(f"at the last: {last:.0f} MB, ratio {last / settled:.2f}")
    print(f"masks of all {args.count} scans equal: {'yes' if equal else 'NO'}")
    return 0 if equal else 1


if __name__ == "__main__":
    run(main)
