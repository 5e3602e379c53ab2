"""How long a summary and a report of many results take, and how the report does in a browser.

    python benchmarks/report.py                             # 10,000 results of made-up numbers
    python benchmarks/report.py --count 50000 --pictures /tmp/shots
    python benchmarks/report.py --result results/scan_prediction    # copied, so nothing is masked

One synthetic scan is masked. Its result is copied, with other numbers: some are far off, some ask
for a look, some failed. `pred.py --collect` reads them all. Debian's Chromium opens the page from
the file system, as a person does. Nothing else should run meanwhile.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import browser  # noqa: E402

from app import SAMPLE  # noqa: E402
from common.errors import run  # noqa: E402
from predict.manifest import RUNS, tell_time  # noqa: E402
from synthetic import write_sample  # noqa: E402

NOTES = (
    "gantry tilt of {:.1f} degrees",
    "slice gaps are uneven (1.1 to {:.1f} mm); files written have the mean, 5.34 mm",
    "padding taken as air",
)
COLLECT = """import sys, pred
pred.main(["--collect", sys.argv[1]])
status = open("/proc/self/status").read()
print("peak", int(status.split("VmHWM:")[1].split()[0]) // 1024, "MB")"""
SEEN = (
    "return [...document.querySelectorAll('article img')].some((i) => i.complete && i.naturalWidth)"
)
# A control is changed; when two frames are drawn, the milliseconds come back
TIMED = """const [id, value, done] = arguments, start = performance.now();
    const field = document.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));"""


# ---------------------------------------------------------------- results


def mask_sample(out: Path) -> Path:
    """Mask the synthetic scan of `make demo`; return the folder of its result."""
    if not SAMPLE.exists():
        write_sample(SAMPLE)
    subprocess.run([sys.executable, ROOT / "pred.py", SAMPLE, "--out", out], check=True)
    return next(out.iterdir())


def make_results(first: Path, out: Path, count: int) -> None:
    """Copy a result `count` times, each with numbers of its own."""
    path = next(first.glob("*.json"))
    about, chance = json.loads(path.read_text()), random.Random(0)
    for number in range(count):
        copy_result(path, vary(about, chance, number), out, number)


def vary(about: dict, chance: random.Random, number: int) -> dict:
    """What a JSON says, with other numbers: one in 20 is worth a look, one in 100 is far off."""
    off = 4 if number % 100 == 7 else 1
    signs = {
        name: round(value * chance.gauss(1, 0.03 * off) + 0.001 * abs(chance.gauss(0, off)), 4)
        for name, value in about["signs"].items()
    }
    ml = signs["volume_ml"] = round(chance.gauss(1350, 110 * off), 1)
    reasons = [f"{ml:.0f} mL is less than the skull of all but infants holds"]
    notes = [note.format(chance.uniform(1, 20)) for note in NOTES if chance.random() < 0.3]
    found = {"verdict": "ok", "reasons": []}
    if number % 20 == 7:
        found = {"verdict": "check" if number % 100 != 7 else "failed", "reasons": reasons}
    numbers = {"volume_ml": ml, "signs": signs, "seconds": round(chance.uniform(2, 6), 2)}
    return about | numbers | found | {"notes": notes}


def copy_result(first: Path, about: dict, out: Path, number: int) -> None:
    """Write the result of an input of a tree: its files are links to those beside the JSON `first`,
    which all bear its name."""
    name = f"sub-{number:05d}_ses-{number % 3:02d}_ct"
    folder = out / f"site-{number % 40:02d}" / f"{name}_prediction"
    folder.mkdir(parents=True)
    for path in set(first.parent.iterdir()) - {first}:
        os.link(path, folder / path.name.replace(first.stem, name))
    said = about | {"input": f"/archive/{folder.parent.name}/{name}.nii.gz"}
    said |= {key: about[key].replace(first.stem, name) for key in ("mask", "thumbnail")}
    (folder / f"{name}.json").write_text(json.dumps(said, indent=2))


def make_failures(out: Path, count: int) -> None:
    """Write the manifest of a run in which some inputs failed."""
    names = [f"sub-{200 * number:05d}_ses-09_ct.nii.gz" for number in range(count)]
    failed = [
        {
            "input": f"/archive/{name}",
            "name": name,
            "error": f"/archive/{name} is empty; copy or export it again",
            "time": tell_time(),
        }
        for name in names
    ]
    (out / RUNS).mkdir()
    (out / RUNS / "run.json").write_text(json.dumps({"failed": failed}))


# ---------------------------------------------------------------- what is measured


def measure_collect(out: Path) -> None:
    """Print how long `pred.py --collect` takes, what it writes, and how much memory it needs."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", COLLECT, out], check=True, cwd=ROOT)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"collected in {seconds:.1f} s, of which the processor worked {used:.1f} s")
    for name in ("summary.csv", "report.html"):
        print(f"{name}: {(out / name).stat().st_size:,} bytes")


def measure_page(page: browser.Page) -> None:
    """Print how long a person waits for the page, for a filter, for a sort and while scrolling."""
    start = time.perf_counter()
    page.window.get(page.address)
    page.until(lambda: page.js(SEEN))
    print(f"first picture after {1000 * (time.perf_counter() - start):.0f} ms")
    ask = page.window.execute_async_script
    print(f"filter by a word: {ask(TIMED, 'words', 'sub-0012'):.0f} ms, {page.text('#count')}")
    print(f"back to all: {ask(TIMED, 'words', ''):.0f} ms, {page.text('#count')}")
    print(f"sort by a sign: {ask(TIMED, 'measure', '3'):.0f} ms")
    print(f"filter by a sign: {ask(TIMED, 'low', '0.99'):.0f} ms, {page.text('#count')}")
    ask(TIMED, "low", "")
    page.js("scrollTo(0, document.body.scrollHeight / 2)")
    start = time.perf_counter()
    page.until(lambda: page.js(SEEN))
    print(f"picture in the middle of the list after {1000 * (time.perf_counter() - start):.0f} ms")
    heap = page.js("return performance.memory.usedJSHeapSize") / 2**20
    print(f"the page's script holds {heap:.0f} MB, the browser {measure_browser(page):.0f} MB")
    problems = [e for e in page.window.get_log("browser") if e["level"] == "SEVERE"]
    print(f"errors on the console: {len(problems)}", *problems[:3])


def measure_browser(page: browser.Page) -> float:
    """MB that all processes of the browser hold, what they share counted once (PSS)."""
    driver = psutil.Process(page.window.service.process.pid)
    total = 0
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20


def take_pictures(page: browser.Page, folder: Path) -> None:
    """Write report_wide.png and report_narrow.png."""
    for name, (width, height) in browser.SIZES.items():
        page.resize(width, height)
        page.window.get(page.address)
        page.until(lambda: page.js(SEEN))
        time.sleep(browser.PAUSE)
        (folder / f"report_{name}.png").write_bytes(page.window.get_screenshot_as_png())


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="results (default: %(default)s)")
    parser.add_argument("--result", type=Path, metavar="DIR", help="the result to copy")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write screenshots there, too")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        make_results(args.result or mask_sample(Path(folder) / "first"), out, args.count)
        make_failures(out, args.count // 200)
        measure_collect(out)
        with browser.chromium(Path(folder)) as window:
            page = browser.Page(window, (out / "report.html").as_uri())
            page.resize(*browser.SIZES["wide"])
            measure_page(page)
            if args.pictures:
                take_pictures(page, args.pictures)


if __name__ == "__main__":
    run(main)
