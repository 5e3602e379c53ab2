"""The report in a real browser, headless Chromium, from the file system: 200 made-up results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from make import make_result
from selenium.webdriver.common.by import By

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import browser  # noqa: E402

from predict.manifest import RUNS
from predict.summary import collect

COUNT = 200
EVIL = "</script><img src=x onerror=alert(1)>.nii.gz"
SEEN = """return [...document.querySelectorAll('article img')]
    .some((picture) => picture.complete && picture.naturalWidth)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results with volumes of 1000 mL and up, every tenth to be checked, one far off; a failure."""
    folder = tmp_path_factory.mktemp("results")
    picture = np.full((40, 60, 3), 90, np.uint8)
    for number in range(COUNT):
        about = {"verdict": "ok" if number % 10 else "check", "volume_ml": 1000.0 + number}
        if number == 150:
            about |= {"label": EVIL, "volume_ml": 5000.0}
        name, signs = f"scan {number:03d}.nii.gz", {"flatness": 2 - number / COUNT}
        make_result(folder / f"site-{number % 3}", name, picture, signs=signs, **about)
    failure = {"input": "/in/z", "name": "zz.nii.gz", "error": "zz is empty", "time": "2026"}
    (folder / RUNS).mkdir()
    (folder / RUNS / "run.json").write_text(json.dumps({"failed": [failure]}))
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if missing := browser.find_browser():
        pytest.skip(missing)
    with browser.chromium(tmp_path_factory.mktemp("downloads")) as window:
        yield window


@pytest.fixture
def page(chromium, folder):
    """The report, fresh, with a picture that can be seen."""
    page = browser.Page(chromium, (folder / "report.html").as_uri())
    page.resize(*browser.SIZES["wide"])
    chromium.get(page.address)
    page.until(lambda: page.js(SEEN))
    return page


def names(page):
    return page.js("return [...document.querySelectorAll('article h2')].map((e) => e.textContent)")


def change(page, field, value):
    code = """const field = document.getElementById(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input", {bubbles: true}));"""
    page.window.execute_script(code, field, value)


def test_only_what_is_in_view_is_drawn_and_its_pictures_are_seen(page):
    assert page.text("#count") == f"{COUNT + 1} of {COUNT + 1}"
    assert 0 < len(names(page)) < 40 and EVIL in names(page), "< comes before letters"
    page.js("scrollTo(0, document.body.scrollHeight)")
    page.until(lambda: "zz.nii.gz" in names(page) and page.js(SEEN))
    assert EVIL not in names(page) and len(names(page)) < 40
    broken = "return [...document.images].filter((e) => e.complete && !e.naturalWidth).length"
    assert page.js(broken) == 0


def test_rows_are_filtered_and_sorted(page):
    page.find("#verdicts .check").click()
    assert page.text("#count").startswith(f"{COUNT // 10} of ")
    change(page, "words", "SCAN 11")
    assert names(page) == ["scan 110.nii.gz"]
    change(page, "words", "is empty")
    assert names(page) == []
    page.find("#clear").click()
    change(page, "words", "is empty")
    assert names(page) == ["zz.nii.gz"], "reasons are searched, too"
    page.find("#clear").click()
    change(page, "measure", "0")
    assert names(page)[:2] == ["scan 000.nii.gz", "scan 001.nii.gz"]
    change(page, "low", "1101")
    change(page, "high", "1102")
    assert names(page) == ["scan 101.nii.gz", "scan 102.nii.gz"]
    change(page, "low", "")
    change(page, "high", "")
    page.find("#turn").click()
    assert names(page)[:2] == [EVIL, "scan 199.nii.gz"]
    change(page, "measure", "1")
    assert names(page)[0] == "scan 000.nii.gz", "the flattest"
    change(page, "measure", "verdict")
    assert page.text("article strong") == "ok"


def test_an_outlier_and_a_title_can_be_clicked(page):
    page.find("figure p [data-row]").click()
    assert names(page) == [EVIL]
    page.find("figure [data-measure='1']").click()
    assert page.find("#measure").get_attribute("value") == "1"


def test_names_are_text_and_nothing_is_wrong(page, folder):
    assert not page.window.find_elements(By.CSS_SELECTOR, "img[src=x], [onerror]")
    link = page.find("article:has(img) .facts a").get_attribute("href")
    assert link.startswith(folder.as_uri()) and link.endswith("_predicted_mask.nii.gz")
    asked = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith(folder.as_uri())] == []
    assert [e for e in page.window.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.parametrize("size", browser.SIZES.values(), ids=list(browser.SIZES))
def test_nothing_runs_over_the_edge(page, size):
    page.resize(*size)
    page.until(lambda: page.js("return innerWidth") <= size[0])
    assert page.js("return document.scrollingElement.scrollWidth") <= size[0]
    right = """return Math.max(...[...document.querySelectorAll("article")]
        .map((card) => card.getBoundingClientRect().right))"""
    page.until(lambda: page.js(right) <= size[0])
