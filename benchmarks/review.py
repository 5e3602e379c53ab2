"""How long a person waits while reviewing many results.

    python benchmarks/review.py                     # 500 results of 512x512x35, one of 600 slices
    python benchmarks/review.py --pictures /tmp/shots

The scans are made from a phantom and masked by pred.py, all but the first two are copies. Debian's
Chromium is driven without a GPU, so WebGL runs on the CPU. Beside each time stand the seconds that
processors worked for it, in the browser and in the server: a machine that does other things, too,
takes longer, but works no longer.
"""

import argparse
import contextlib
import json
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

import browser  # noqa: E402
import inputs  # noqa: E402

from common.errors import InputError, run  # noqa: E402
from synthesis.ct import make_scan  # noqa: E402

COUNT = 500
FRAMES = 5.0  # s that a person looks at a scan before going on
READY = """return document.querySelector('#result-name').textContent === arguments[0]
    && !document.querySelector('#curtain').textContent
    && !document.querySelector('#stage').hasAttribute('aria-busy')"""


# ---------------------------------------------------------------- results


def make_results(folder: Path, count: int) -> Path:
    """Mask two scans with pred.py; copy the small one's result until there are `count`."""
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    phantom = make_scan(3, phase="arterial", length=inputs.LENGTH, **inputs.LOOK)
    for name, kind in (("head", "head"), ("neck", "neck")):
        slices, thickness = inputs.SCANS[kind]
        hu = inputs.enlarge(phantom.hu, slices, thickness, 0)
        inputs.write(scans / f"{name}.nii.gz", hu, thickness)
    command = [sys.executable, ROOT / "pred.py", scans, "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    first = out / "head_prediction"
    about = json.loads((first / "head.json").read_text())
    for number in range(count - 2):
        copy_result(first, about, number)
    return out


def copy_result(first: Path, about: dict, number: int) -> None:
    """A result of a link to the same scan, whose files are links, too."""
    name = f"head_{number:03}"
    folder = first.parent / f"site-{number % 10}" / f"{name}_prediction"
    folder.mkdir(parents=True)
    for path in set(first.iterdir()) - {first / "head.json"}:
        os.link(path, folder / path.name.replace("head", name, 1))
    scan = Path(about["input"]).with_name(f"{name}.nii.gz")
    os.link(about["input"], scan)
    grade = "check" if number % 9 == 4 else "ok"
    said = {"input": str(scan), "label": scan.name, "verdict": grade}
    said |= {key: about[key].replace("head", name, 1) for key in ("mask", "thumbnail")}
    (folder / f"{name}.json").write_text(json.dumps(about | said))


# ---------------------------------------------------------------- what is measured


@contextlib.contextmanager
def served(out: Path):
    """The process of app.py --review, and the address that it prints."""
    command = [sys.executable, ROOT / "app.py", "--review", out, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process, process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.wait()


class Watch:
    """A page and its server, and how much their processes have worked."""

    def __init__(self, page: browser.Page, server: subprocess.Popen):
        self.page = page
        self.driver = psutil.Process(page.window.service.process.pid)
        self.server = psutil.Process(server.pid)

    def work(self) -> np.ndarray:
        """Seconds that processors have worked in the browser, and in the server."""
        browsers = [p.cpu_times() for p in self.driver.children(recursive=True)]
        times = [sum(t.user + t.system for t in browsers)]
        return np.array([*times, sum(self.server.cpu_times()[:2])])

    def time(self, action, is_done) -> np.ndarray:
        """Seconds from an action until something is so; of work in the browser, and the server."""
        before, start = self.work(), time.perf_counter()
        action()
        self.page.until(is_done)
        return np.array([time.perf_counter() - start, *self.work() - before])

    def is_shown(self, name: str) -> bool:
        return self.page.js(READY, name)


def tell(what: str, found: np.ndarray) -> None:
    wall, page, server = found
    print(f"{what}: {wall:.2f} s (worked: browser {page:.2f} s, server {server:.2f} s)", flush=True)


def measure(watch: Watch, address: str) -> None:
    """Print how long the list, the next scan and a scan of 600 slices take."""
    page = watch.page
    count = "return document.querySelectorAll('.result').length"
    opened = watch.time(lambda: page.window.get(address), lambda: page.js(count) >= 2)
    tell(f"list of {page.js(count)} results", opened)
    names = page.js("return [...document.querySelectorAll('.result .name')].map((e) => e.title)")
    page.until(lambda: watch.is_shown(names[0]))
    found = []
    for name in names[1:8]:
        time.sleep(FRAMES)
        found.append(watch.time(lambda: page.press("j"), lambda n=name: watch.is_shown(n)))
    tell("next scan of 512x512x35, median of 7", np.median(found, axis=0))
    tell("next scan, slowest", max(found, key=lambda times: times[0]))
    back = watch.time(lambda: page.press("k"), lambda: watch.is_shown(names[6]))
    tell("the one before, which was not loaded ahead", back)
    time.sleep(FRAMES)
    click = "[...document.querySelectorAll('.result')].at(-1).querySelector('button').click()"
    tell(
        "scan of 600 slices", watch.time(lambda: page.js(click), lambda: watch.is_shown(names[-1]))
    )
    whole = watch.time(lambda: None, lambda: "follows" not in page.text("#under"))
    tell("its every voxel, after that", whole)


def take_pictures(watch: Watch, address: str, folder: Path) -> None:
    """Write review_wide.png and review_narrow.png."""
    page = watch.page
    for name, size in browser.SIZES.items():
        page.resize(*size)
        page.window.get(address)
        page.until(lambda: not page.text("#curtain"))
        time.sleep(browser.PAUSE)
        page.js("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
        (folder / f"review_{name}.png").write_bytes(page.window.get_screenshot_as_png())


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--count", type=int, default=COUNT, help="results (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="a folder of results made before, with its scans")
    add("--pictures", type=Path, metavar="DIR", help="write screenshots there, too")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if missing := browser.missing():
        raise InputError(missing)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as all_of_it:
        out = args.out or make_results(Path(folder), args.count)
        process, address = all_of_it.enter_context(served(out))
        window = all_of_it.enter_context(browser.chromium(Path(folder)))
        page = browser.Page(window, address)
        page.resize(*browser.SIZES["wide"])
        watch = Watch(page, process)
        measure(watch, address)
        if args.pictures:
            take_pictures(watch, address, args.pictures)


if __name__ == "__main__":
    run(main)
