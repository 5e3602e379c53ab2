"""How long a person waits for the page in a browser, and how it looks.

    python benchmarks/browser.py              # from the sample to its mask; a scan of 512x512x300
    python benchmarks/browser.py --pictures   # files/page_wide.png and files/page_narrow.png anew

Debian's Chromium is driven without a window and without a GPU: WebGL runs on the CPU, beside the
prediction. Nothing else should run meanwhile. tests/test_page.py drives the page with the same.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import waitress
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import inputs  # noqa: E402

from app import SAMPLE, SAMPLE_CASE, PageSettings, create_app  # noqa: E402
from common.errors import InputError, replacing, run  # noqa: E402
from page import fetch  # noqa: E402
from predict.network import MODEL  # noqa: E402
from synthesis.ct import make_scan  # noqa: E402
from synthetic import write_sample  # noqa: E402

PATIENCE = 600  # seconds: drawing with no GPU, perhaps beside other work
FLAGS = [  # WebGL in software; nothing that calls home
    "--headless=new",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
PAUSE = 3  # seconds, for the page to be drawn anew
RING = 8  # pixels: around the stage, when it has the focus, runs a line of the mask's colour
SIZES = {"wide": (1280, 800), "narrow": (400, 860)}  # of the window, in pixels


# ---------------------------------------------------------------- the page, driven


@contextlib.contextmanager
def served(folder: Path, sample: Path, *models: Path, prefix: str = "", case: Path = SAMPLE_CASE):
    """The address of a page that runs one job at a time, `folder` for its jobs.

    It serves the shipped network, and `models` if there are any, at the path `prefix`; `case` is
    the sample of MRI.
    """
    samples = {"sample": sample, "sample_case": case}
    site = create_app(PageSettings((MODEL, *models), folder=folder, workers=1, **samples))
    server = waitress.create_server(site, host="127.0.0.1", port=0, url_prefix=prefix)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}{prefix}/"
    finally:
        server.close()
        site.extensions["jobs"].close()


def find_browser() -> str:
    """What is missing of a browser, in words; "" for nothing."""
    if not shutil.which("chromedriver") or not shutil.which("chromium"):
        return "there is no browser: install Debian's chromium and chromium-driver"
    return ""


def missing() -> str:
    """What the page cannot be driven without and is missing, in words; "" for nothing."""
    if no_browser := find_browser():
        return no_browser
    if not (fetch.VENDOR / "niivue.js").exists():
        return "there is no viewer: run `python -m page.fetch`"
    return ""


@contextlib.contextmanager
def chromium(downloads: Path):
    """A browser with a profile of its own, which saves its downloads in a folder.

    Raises InputError when there is none.
    """
    if no_browser := find_browser():
        raise InputError(no_browser)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.page_load_strategy = "eager"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        window = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield window
        finally:
            window.quit()


class Page:
    """The page, as a person uses and sees it."""

    def __init__(self, window: webdriver.Chrome, address: str):
        self.window, self.address = window, address

    def open(self) -> None:
        self.window.get(self.address)
        self.until(lambda: self.text("#limit"))

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def find(self, selector: str):
        return self.window.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def until(self, condition):
        """Wait for `condition` and return its value; the browser may be too busy to answer."""
        wait = WebDriverWait(self.window, PATIENCE, 0.1, [WebDriverException])
        return wait.until(lambda _: condition())

    def js(self, script: str, *arguments):
        return self.window.execute_script(script, *arguments)

    def drop(self, *paths: Path) -> None:
        """Drop files onto the page, as a file manager does."""
        self.js("""const input = document.createElement("input");
                   Object.assign(input, {type: "file", multiple: true, id: "hand"});
                   document.body.append(input);""")
        self.find("#hand").send_keys("\n".join(map(str, paths)))
        self.js("""const hand = document.getElementById("hand"), transfer = new DataTransfer();
                   for (const file of hand.files) transfer.items.add(file);
                   hand.remove();
                   document.getElementById("drop").dispatchEvent(new DragEvent("drop",
                     {dataTransfer: transfer, bubbles: true, cancelable: true}));""")

    def wait_for_result(self, name: str) -> None:
        self.until(
            lambda: (
                self.text("#result-name") == name
                and not self.text("#curtain")
                and not self.find("#stage").get_attribute("aria-busy")
            )
        )

    def states(self) -> list[str]:
        """The states of the jobs listed: sending, queued, running, done, failed or cancelled."""
        return self.js("return [...document.querySelectorAll('.job')].map((e) => e.dataset.state)")

    def cyan(self) -> int:
        """How many of the stage's pixels the mask colours."""
        blue, _, red = self.stage()
        return np.count_nonzero(blue - red > 20)

    def stage(self) -> np.ndarray:
        """The picture on the stage: blue, green and red (3, H, W), int."""
        box = {key: round(value) for key, value in self.find("#stage").rect.items()}
        shot = self.until(self.window.get_screenshot_as_png)
        picture = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR).astype(int)
        stage = picture[
            box["y"] + RING : box["y"] + box["height"] - RING,
            box["x"] + RING : box["x"] + box["width"] - RING,
        ]
        return np.moveaxis(stage, -1, 0)

    def press(self, *keys: str) -> None:
        """Press keys while the viewer has the focus."""
        self.find("#stage").send_keys(*keys)

    def drag(self, plane: str, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point of a plane, (across, down) as shares of its tile, and
        let go at the last."""
        tile, canvas = (self.find(s).rect for s in (f".tile[data-plane={plane}]", "#scan"))
        middle = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
        places = [
            (
                round(tile["x"] + across * tile["width"] - middle[0]),
                round(tile["y"] + down * tile["height"] - middle[1]),
            )
            for across, down in points
        ]
        hand, canvas = ActionChains(self.window, duration=20), self.find("#scan")
        hand.move_to_element_with_offset(canvas, *places[0]).click_and_hold()
        for place in places[1:]:
            hand.move_to_element_with_offset(canvas, *place)
        hand.release().perform()

    def download(self, name: str, folder: Path) -> Path:
        """Click the link to a file of the result; return the file when it is whole."""
        before = set(folder.iterdir())
        self.find(f"#files a[href$='/{name}']").click()
        self.until(
            lambda: [
                path
                for path in set(folder.iterdir()) - before
                if path.suffix != ".crdownload" and path.name[0] != "."
            ]
        )
        return (set(folder.iterdir()) - before).pop()


# ---------------------------------------------------------------- what is measured


def sample_to_mask(page: Page) -> float:
    """Seconds from the click on the sample to a mask in a picture of the screen."""
    start = time.perf_counter()
    page.find("#sample").click()
    page.until(lambda: not page.text("#curtain") and page.cyan())
    return time.perf_counter() - start


def large_scan(folder: Path) -> Path:
    """A head CTA of 512x512x300 voxels, not compressed, so that all of its 157 MB travel."""
    phantom = make_scan(3, phase="arterial", length=inputs.LENGTH, **inputs.LOOK)
    count, thickness = inputs.SCANS["cta"]
    path = folder / "cta.nii"
    inputs.write(path, inputs.enlarge(phantom.hu, count, thickness, 0), thickness)
    return path


def upload(page: Page, path: Path) -> tuple[float, float]:
    """Seconds from a drop until the server has the file, and until its mask is seen."""
    start = time.perf_counter()
    page.drop(path)
    page.until(lambda: page.states() and page.states()[0] != "sending")
    sent = time.perf_counter() - start
    page.wait_for_result(path.name)
    page.until(page.cyan)
    return sent, time.perf_counter() - start


def measure(page: Page, folder: Path) -> None:
    """Print the times that a person waits."""
    page.resize(*SIZES["wide"])
    page.open()
    print(f"from the sample's button to its mask: {sample_to_mask(page):.1f} s", flush=True)
    path = large_scan(folder)
    page.open()
    sent, seen = upload(page, path)
    size = path.stat().st_size / 1e6
    print(f"a scan of {size:.0f} MB: there after {sent:.1f} s, its mask seen after {seen:.1f} s")


def take_pictures(page: Page, folder: Path) -> None:
    """Write page_wide.png and page_narrow.png: the sample's result at both widths."""
    page.resize(*SIZES["wide"])
    page.open()
    sample_to_mask(page)
    for name, (width, height) in SIZES.items():
        page.resize(width, height)
        page.js("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
        time.sleep(PAUSE)
        shot = Image.open(io.BytesIO(page.until(page.window.get_screenshot_as_png)))
        picture = shot.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        with replacing(folder / f"page_{name}.png") as path:
            picture.save(path, optimize=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", action="store_true", help="take README's pictures instead")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if missing():
        raise InputError(missing())
    if not SAMPLE.exists():
        write_sample(SAMPLE)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as both:
        folder = Path(folder)
        address = both.enter_context(served(folder / "jobs", SAMPLE))
        page = Page(both.enter_context(chromium(folder)), address)
        if args.pictures:
            take_pictures(page, ROOT / "files")
        else:
            measure(page, folder)


if __name__ == "__main__":
    run(main)
