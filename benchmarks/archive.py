"""An archive of small scans masked by one process and by several: time, memory, equal masks.

    python benchmarks/archive.py                    # 200 scans, one process and two
    python benchmarks/archive.py --count 40 --workers 4

The scans are one phantom's head at 2 mm, a few times whole, then in pieces that differ in size and
place, each with its own noise. Four runs, start-up included: one process with the cores of the
workers, of which it uses several, since it reads, asks the network and writes at the same time; one
process on one core; the workers; and as many processes with --part, which have nothing to do with
each other: faster than these, the machine cannot be. A worker's memory is its peak (VmHWM of
Linux).
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
LARGEST = 10  # scans, the first, are whole: a peak that grows after them is none of a scan's


def make_archive(folder: Path, count: int) -> None:
    """Write `count` scans as NIfTI."""
    look = {"spacing": SPACING, "thickness": SPACING, "width": WIDTH, "length": LENGTH}
    made, rng = make_scan(0, plain=True, phase="arterial", **look), np.random.default_rng(0)
    most = np.array(made.hu.shape)
    for number in range(count):
        size = most if number < LARGEST else rng.integers(SMALLEST, most + 1)
        start = rng.integers(0, most - size + 1)
        part = made.hu[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        noisy = np.rint(part + rng.normal(0, 8, part.shape)).astype(np.int16)
        write_volume(noisy, made.affine, folder / f"scan_{number:04d}.nii.gz")


def time_run(folder: Path, out: Path, cores: int, *words: str) -> tuple[float, dict[int, float]]:
    """Run pred.py on a folder with so many cores and these options, once for each `--part` of them.

    Returns the seconds, and the largest peak MB of a worker by the count of scans that were done.
    """
    start, peaks, ours = time.perf_counter(), {}, sorted(os.sched_getaffinity(0))
    command = [sys.executable, ROOT / "pred.py", folder, "--out", out]
    parts = [["--part", word] for word in words if "/" in word] or [list(words)]

    def take_cores() -> None:
        os.sched_setaffinity(0, ours[:cores])

    with tempfile.TemporaryFile() as said:
        streams = {"stdout": said, "stderr": said}
        processes = [
            subprocess.Popen([*command, *part], preexec_fn=take_cores, **streams) for part in parts
        ]
        while any(process.poll() is None for process in processes):
            done = len(list(out.glob("*/*_overlay.png")))
            peak = max(measure_peak(process.pid) for process in processes)
            peaks[done] = max(peaks.get(done, 0.0), peak)
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        if any(process.returncode for process in processes):
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
    count, cores = args.count, args.workers
    parts = [f"{number}/{cores}" for number in range(1, cores + 1)]
    with tempfile.TemporaryDirectory(prefix="archive_") as scratch:
        scans, *outs = (Path(scratch) / name for name in ("scans", "all", "one", "more", "parts"))
        make_archive(scans, count)
        alone, _ = time_run(scans, outs[0], cores)
        on_one_core, _ = time_run(scans, outs[1], 1)
        together, peaks = time_run(scans, outs[2], cores, "--workers", str(cores))
        apart, _ = time_run(scans, outs[3], cores, *parts)
        masks = list(map(list_masks, outs))
        equal = all(found == masks[0] and len(found) == count for found in masks)
    settled = max((peak for done, peak in peaks.items() if done <= SETTLED), default=0.0)
    last = max(peaks.values())
    print(f"one process, {cores} cores: {alone:.1f} s")
    print(f"one process, one core: {on_one_core:.1f} s, ratio {on_one_core / alone:.2f}")
    print(f"{cores} workers: {together:.1f} s, ratio {together / alone:.2f}")
    print(f"{cores} processes, a part each: {apart:.1f} s, ratio {apart / alone:.2f}")
    print(f"a worker's peak after {SETTLED} scans: {settled:.0f} MB, ", end="")
    print(f"at the last: {last:.0f} MB, ratio {last / settled:.2f}")
    print(f"masks of all {args.count} scans equal: {'yes' if equal else 'NO'}")
    return 0 if equal else 1


if __name__ == "__main__":
    run(main)
