"""Damaged files for pred.py: whether each is masked or refused in one line, and nothing else.

    python benchmarks/fuzz.py                         # 1,000 inputs, seed 0
    python benchmarks/fuzz.py --seed 3 --count 200
    python benchmarks/fuzz.py --seed 3 --only 17      # one of them again, kept, with all it prints

Prints a table of the kinds of input and every fault; exits 1 where there was one. A fault is a
traceback, a crash, a hang, a result that is half-written or lies on another grid than its scan, too
much memory, or a line on stderr that is neither an error, a warning nor a bar.

Every input is made from (seed, number) alone. With --data DIR, real files of at most MOST_REAL
bytes below DIR are damaged, too, and then from that folder's files as well.

Workers import pred.py's parts once. Each input is then predicted in a fork of its own, which runs
the script as Python does. So no input knows of another, and the peak memory that the system tells
of a fork is that of this input, with all that was imported.
"""

import argparse
import faulthandler
import json
import os
import re
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from damage import KINDS, SPACING, Case, make_case  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.errors import InputError, quietly, run  # noqa: E402
from scan.stored import BY_QFORM  # noqa: E402
from server.worker import die_with_parent  # noqa: E402

LIMIT = 30  # seconds
MOST_MB = 2048  # of memory
# Bytes of addresses that a fork may have. Where the command then runs out of memory, it would have
# gone on to fill the machine's
MOST_ADDRESSES = 8 << 30
MOST_REAL = 300_000  # bytes
FAULTS = ("traceback", "crash", "hang", "half-written", "other grid", "memory", "other words")
LINE = re.compile(r"error: |warning: |\d+ of \d+ inputs failed|.*\d+%\|")  # the last is a bar
SUMMARIES = {"summary.csv", "report.html", "runs"}


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: negative for a signal, as subprocess has it."""

    code: int
    stderr: str
    peak_mb: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of an input: the case, how it ended, and its faults as (one of FAULTS, a line)."""

    number: int
    case: Case
    ended: Ended
    faults: list[tuple[str, str]]


# ---------------------------------------------------------------- one input


def try_input(number: int, seed: int, hu_path: Path, real: list, command: Path, limit: int, keep):
    """The Outcome of an input; its files stay in the folder `keep`, unless that is None."""
    with tempfile.TemporaryDirectory(prefix="fuzz_") as scratch:
        folder = Path(keep or scratch)
        case = make_case(folder, seed, number, np.load(hu_path), real)
        before = list_files(folder)
        ended = run_forked(command, [str(case.path), "--out", str(folder / "out")], folder, limit)
        faults = find_faults(case, ended, folder / "out", limit)
        new = {path for path in list_files(folder) - before if "out" not in path.parts[:1]}
        if strange := new - {Path("stdout"), Path("stderr")}:
            faults.append(("half-written", f"outside --out: {min(strange)}"))
        return Outcome(number, case, ended, faults)


def list_files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def run_forked(command: Path, words: list[str], folder: Path, limit: int) -> Ended:
    """Run a script in a fork of this process; its stdout and stderr become files of the folder."""
    start = time.perf_counter()
    if (child := os.fork()) == 0:
        be_the_command(command, words, folder, limit)
    _, status, usage = os.wait4(child, 0)
    stderr = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    seconds = time.perf_counter() - start
    return Ended(os.waitstatus_to_exitcode(status), stderr, usage.ru_maxrss / 1024, seconds)


def be_the_command(command: Path, words: list[str], folder: Path, limit: int) -> None:
    """Run a script to its end, as Python does, and end this process with its exit code."""
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            setattr(sys, name, getattr(sys, f"__{name}__"))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable()
        faulthandler.dump_traceback_later(limit - 0.5)  # says where it hangs
        signal.alarm(limit)  # ends the process, whatever it does
        sys.argv = [str(command), *words]
        runpy.run_path(str(command), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # waits for threads, as Python does at its end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ---------------------------------------------------------------- faults


def find_faults(case: Case, ended: Ended, out: Path, limit: int) -> list[tuple[str, str]]:
    """(one of FAULTS, a line that says more) for all that is wrong."""
    faults = []
    if ended.code == -signal.SIGALRM:
        return [("hang", f"over {limit} s; {find_place(ended.stderr)}")]
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        faults.append(("crash", f"{name}; {find_place(ended.stderr)}"))
    elif ended.code not in (0, 2) or "Traceback (most" in ended.stderr:
        faults.append(("traceback", f"exit code {ended.code}; {find_place(ended.stderr)}"))
    elif odd := find_odd_line(ended):
        faults.append(("other words", f"exit code {ended.code}; {odd}"))
    if ended.peak_mb > MOST_MB or "needs more memory than there is" in ended.stderr:
        faults.append(("memory", f"{ended.peak_mb:.0f} MB; {ended.stderr.strip()[-200:]}"))
    return faults + check_out(case, ended.code, out)


def find_odd_line(ended: Ended) -> str:
    """What stderr says beside errors, warnings and a bar; "" if nothing."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if bool(errors) != (ended.code == 2):
        return f"{len(errors)} lines of error"
    return next((line for line in lines if not LINE.match(line)), "")


def find_place(stderr: str) -> str:
    """The last line of ours that a traceback names, and what it ends with."""
    ours = re.escape(str(ROOT)) + r"/(?!benchmarks/fuzz|\.venv)"
    places = re.findall(rf'File "{ours}([^"]+)", line (\d+)', stderr)
    if "(most recent call first)" in stderr:  # as faulthandler has it
        places = places[::-1]
    place = ":".join(places[-1]) if places else "in no file of ours"
    errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Stop\w+)\b.*", stderr, re.M)
    return f"{place} {errors[-1][:200] if errors else ''}".strip()


def check_out(case: Case, code: int, out: Path) -> list[tuple[str, str]]:
    """Faults of what lies in --out: a result is missing, incomplete, or on another grid."""
    entries = sorted(out.iterdir()) if out.is_dir() else []
    folders = [path for path in entries if path.name not in SUMMARIES]
    if code == 0 and not folders:
        return [("half-written", "exit code 0, and no result")]
    if code != 0 and len(folders) == len(entries) > 0:  # one input, which failed
        return [("half-written", f"exit code {code}, and {entries[0].name} is there")]
    faults = []
    for folder in folders:
        try:
            check_result(case, folder)
        except Off as error:
            faults.append(("other grid", str(error)))
        except Exception as error:  # whatever a half-written file makes its reader raise
            line = f"{folder.name}: {type(error).__name__}: {error}".splitlines()[0]
            faults.append(("half-written", line))
    return faults


class Off(Exception):
    """A mask does not lie on the grid of its scan."""


def check_result(case: Case, folder: Path) -> None:
    """Raise Off, or any other error where a result cannot be read back."""
    name = re.sub(r"_prediction(_\d+)?$", "", folder.name)
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if left := [path.name for path in folder.rglob(".unfinished_*")]:
        raise ValueError(f"{left[0]} was left there")
    mask, affine = read_any(folder / about["mask"])
    read_any(folder / f"{name}_overlay.png")
    if not set(np.unique(mask)) <= {0, 1, 255}:
        raise ValueError(f"the mask holds {np.unique(mask)[:5]}")
    if sorted(mask.shape) != sorted(about["shape"]):
        raise Off(f"mask {mask.shape}, JSON {about['shape']}")
    if case.kind.startswith(("DICOM", "zip")):
        return
    try:
        with quietly():  # libpng speaks of damage, too
            shape, there = read_grid(case.path)
    except Exception:  # damage that pred.py mended and a plain reader does not
        return
    if mask.shape != shape:
        raise Off(f"mask {mask.shape}, input {shape}")
    mended = BY_QFORM in about.get("notes", ())  # a plain reader takes the sform
    known = affine is not None and np.isfinite(there).all() and not mended
    if known and not np.allclose(affine, there, rtol=1e-4, atol=1e-3):
        raise Off(f"mask {affine[:3].round(3).tolist()}, input {there[:3].round(3).tolist()}")


def read_any(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a NIfTI or PNG file, and a NIfTI file's affine."""
    if path.suffix == ".png":
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise ValueError(f"{path.name} is no picture")
        return picture, None
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def read_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of an input, by its header alone where it is NIfTI."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.load(path)
        return image.shape[:3], image.affine
    return read_any(path)[0].shape[:2], np.eye(4)


# ---------------------------------------------------------------- all of them


def use_one_thread() -> None:
    """Use one thread, leave Ctrl-C to the parent process, and do not outlive it."""
    cv2.setNumThreads(1)
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def prepare_worker() -> None:
    """Import what pred.py uses, so that its forks need not."""
    use_one_thread()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.modules.setdefault("openvino_telemetry", None)  # as predict/network.py has it
    import openvino  # noqa: F401
    import pydicom.pixels  # noqa: F401

    import pred  # noqa: F401
    import predict.brain  # noqa: F401
    import scan.read  # noqa: F401


def try_all(numbers: range, jobs: int, keep: Path | None, **about) -> list[Outcome]:
    """The outcome of every input, in order; `about` is what try_input takes beside."""
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fuzz_") as scratch:
        hu_path = Path(scratch) / "head.npy"
        with ProcessPoolExecutor(1, spawn) as pool:  # a phantom's memory is not the workers'
            pool.submit(save_head, hu_path).result()
        work = partial(try_input, hu_path=hu_path, keep=keep, **about)
        with ProcessPoolExecutor(jobs, spawn, initializer=prepare_worker) as pool:
            found = pool.map(work, numbers)
            return list(tqdm(found, total=len(numbers), unit="input", disable=None))


def save_head(path: Path) -> None:
    """Write a CTA of a phantom's head as an array of int16 HU (X, Y, Z)."""
    from synthesis.ct import make_scan

    look = {"spacing": SPACING, "thickness": SPACING, "width": 224.0, "length": 200.0}
    made = make_scan(0, plain=True, phase="arterial", **look)
    np.save(path, np.rint(made.hu).astype(np.int16))


def find_real(folder: str | None) -> list[Path]:
    """Small files below a folder that a kind of input is made from, in order of their names."""
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise InputError(f"--data {folder} is no folder; check the path")
    endings = tuple(ending for ending in KINDS.values() if ending)
    files = (path for path in Path(folder).rglob("*") if path.name.lower().endswith(endings))
    return sorted(path.resolve() for path in files if 0 < path.stat().st_size <= MOST_REAL)


def make_table(outcomes: list[Outcome]) -> str:
    """Markdown: a row for each kind of input."""
    columns = ("input", "inputs", "masked", "refused", *FAULTS, "peak MB", "longest, s")
    rows = [columns, ["---"] * len(columns)]
    for kind in (*KINDS, "all"):
        ours = [o for o in outcomes if kind in (o.case.kind, "all")]
        codes = Counter(o.ended.code for o in ours if not o.faults)
        faults = Counter(fault for o in ours for fault, _ in o.faults)
        peak = max((o.ended.peak_mb for o in ours), default=0)
        longest = max((o.ended.seconds for o in ours), default=0)
        counts = (len(ours), codes[0], codes[2], *(faults[f] for f in FAULTS))
        rows.append((kind, *counts, f"{peak:.0f}", f"{longest:.1f}"))
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of all inputs (default: %(default)s)")
    add("--count", type=int, default=1000, help="number of inputs (default: %(default)s)")
    add("--only", type=int, metavar="N", help="input N alone; it is kept")
    add("--data", metavar="DIR", help="damage small real files below DIR, too")
    add("--jobs", type=int, choices=(1, 2), default=2, help="workers (default: %(default)s)")
    add("--limit", type=int, default=LIMIT, help="seconds that are no hang (default: %(default)s)")
    add("--command", default=ROOT / "pred.py", help="the script (default: pred.py)")
    args = parser.parse_args(argv)
    if args.count < 1 or args.limit < 1 or args.seed < 0 or (args.only or 0) < 0:
        raise InputError("--count and --limit begin at 1, --seed and --only at 0")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    about = {"seed": args.seed, "real": find_real(args.data), "limit": args.limit}
    about["command"] = Path(args.command).resolve()
    alone = args.only is not None
    numbers = range(args.only, args.only + 1) if alone else range(args.count)
    keep = Path(tempfile.mkdtemp(prefix=f"fuzz_{args.seed}_{args.only}_")) if alone else None
    outcomes = try_all(numbers, args.jobs, keep, **about)
    for outcome in outcomes:
        for fault, line in outcome.faults:
            again = f"--seed {args.seed} --only {outcome.number}"
            print(f"{fault}: {again}: {outcome.case.kind}, {outcome.case.done}: {line}")
        if alone:
            print(outcome.case, f"exit code {outcome.ended.code}", outcome.ended.stderr, sep="\n")
    print(make_table(outcomes))
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    run(main)
