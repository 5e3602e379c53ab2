"""An archive of small scans masked by one process and by several: time, memory, equal masks.

    python benchmarks/archive.py                    # 200 scans, one process and two
    python benchmarks/archive.py --count 40 --workers 4

The scans are pieces of one phantom's head at 2 mm that differ in size, place and noise. Both runs
are whole processes, start-up included. A worker's memory is its peak (VmHWM of Linux).
"""

import argparse
import gzip
import hashlib
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


def time_run(folder: Path, out: Path, *more: str) -> tuple[float, dict[int, float]]:
    """Run pred.py on a folder; its seconds, and a worker's peak MB by the count of scans done."""
    words = [sys.executable, ROOT / "pred.py", folder, "--out", out, *more]
    start, peaks = time.perf_counter(), {}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            done = len(list(out.glob("*/*_overlay.png")))
            peaks[done] = max(peaks.get(done, 0.0), measure_peak(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise InputError(f"pred.py failed: {process.stderr.read().decode()[-500:]}")
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
        scans, one, more = (Path(scratch) / name for name in ("scans", "one", "more"))
        make_archive(scans, args.count)
        alone, _ = time_run(scans, one)
        together, peaks = time_run(scans, more, "--workers", str(args.workers))
        equal = list_masks(one) == list_masks(more) and len(list_masks(one)) == args.count
    settled = max((peak for done, peak in peaks.items() if done <= SETTLED), default=0.0)
    last = max(peaks.values())
    print(f"one process: {alone:.1f} s, {args.workers} workers: {together:.1f} s, ", end="")
    print(f"ratio {together / alone:.2f}")
    print(f"a worker's peak after {SETTLED} scans: {settled:.0f} MB, ", end="")
    print(f"at the last: {last:.0f} MB, ratio {last / settled:.2f}")
    print(f"masks of all {args.count} scans equal: {'yes' if equal else 'NO'}")
    return 0 if equal else 1


if __name__ == "__main__":
    run(main)
