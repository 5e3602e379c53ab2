"""The review of a folder of results in a real browser: looked at, rated by keys, found again."""

import json
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import waitress
from make import make_result
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import browser  # noqa: E402

from app import PageSettings
from common.files import checksum
from predict.ratings import Rating, add_rating, read_ratings
from predict.result import Target, input_version
from server import results
from server.review import create_review, make_address

EVIL = "<img src=x onerror=alert(1)>.nii.gz"
VERDICTS = {"a.nii.gz": "ok", "b.nii.gz": "check", "c.nii.gz": "failed"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three results, one of a scan that is gone, each with a ball for a mask."""
    place = tmp_path_factory.mktemp("review")
    x, y, z = np.indices((40, 40, 30)) - np.array([20, 20, 15]).reshape(3, 1, 1, 1)
    ball = (x**2 + y**2 + z**2 < 120).astype(np.uint8)
    hu, affine = np.where(ball, 40, -900).astype(np.int16), np.diag([4, 4, 5, 1])
    for number, (name, verdict) in enumerate(VERDICTS.items()):
        scan = place / name
        nib.save(nib.Nifti1Image(hu, affine), scan)
        version = input_version(Target(scan, "", place / "out"))
        about = {"input": str(scan), "input_version": version, "shape": list(hu.shape)}
        about |= {"volume_ml": 1300.0 - 100 * number, "verdict": verdict, "affine": affine.tolist()}
        label = EVIL if name == "c.nii.gz" else name
        picture = np.full((400, 640, 3), 90, np.uint8)
        result = make_result(place / "out", name, picture, **about, label=label)
        mask = result / f"{name[0]}_predicted_mask.nii.gz"
        nib.save(nib.Nifti1Image(ball, affine), mask)
    (place / "c.nii.gz").unlink()
    failed = {"name": EVIL, "input": str(place / "d.nii.gz"), "error": "no scan", "time": "2026"}
    (place / "out/runs").mkdir()
    (place / "out/runs/run.json").write_text(json.dumps({"failed": [failed]}))
    return place / "out"


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """The page of the folder, opened with its key."""
    if missing := browser.missing():
        pytest.skip(missing)
    app = create_review(PageSettings(review=folder))
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    address = make_address(app, f"http://127.0.0.1:{server.effective_port}/")
    with browser.chromium(tmp_path_factory.mktemp("downloads")) as window:
        page = browser.Page(window, address)
        page.resize(*browser.SIZES["wide"])
        window.get(address)
        yield page
    server.close()


def list_names(page):
    return [row.text for row in page.window.find_elements(By.CSS_SELECTOR, ".result .name")]


def wait_for(page, name):
    page.until(
        lambda: (
            page.text("#result-name") == name
            and not page.find("#stage").get_attribute("aria-busy")
            and "Loading" not in page.text("#curtain")
        )
    )


def choose(page, field, value):
    page.js(
        """const [id, value] = arguments, field = document.getElementById(id);
           field.value = value;
           field.dispatchEvent(new Event("input", {bubbles: true}));""",
        field,
        value,
    )


def test_three_results_are_rated_by_keys(page, folder):
    """One afternoon in short: names in, ratings, a note, back, another person's, a reload."""
    evil, first, second = sorted((EVIL, "a.nii.gz", "b.nii.gz"))
    wait_for(page, evil)
    assert page.window.current_url.split("#")[0] == page.address.split("?")[0], "no key is left"
    assert list_names(page) == [evil, first, second] and page.text("#rated-count") == "rated 0 of 3"
    assert not page.window.find_elements(By.CSS_SELECTOR, "img[src=x]")
    assert "is not where it was" in page.text("#curtain") and page.find("#fallback").is_displayed()
    page.press("x")
    page.until(lambda: "Who is looking?" in page.text("#message"))
    assert read_ratings(folder) == []
    page.find("#who").send_keys("Dr A", Keys.ENTER)  # which sends what waits, and goes on
    wait_for(page, first)
    assert page.cyan() > 500, "the scan is there, and its mask"
    page.press("c")
    page.find("#note").send_keys("jkadx out", Keys.ESCAPE)  # letters there are no keys
    page.press("a")
    wait_for(page, second)
    page.press("d", "k")
    page.until(lambda: page.text("#rated-count") == "rated 3 of 3")
    wait_for(page, first)
    assert page.text("#rated").startswith("pass by Dr A, ") and "jkadx" in page.text("#rated")
    assert [(row.rating, row.who, row.note[:5]) for row in read_ratings(folder)] == [
        ("fix", "Dr A", ""),
        ("pass", "Dr A", "jkadx"),
        ("fail", "Dr A", ""),
    ]
    rated = page.find("[data-rating=pass][aria-pressed=true]")
    assert rated.value_of_css_property("background-color") == "rgba(110, 200, 120, 1)"


def test_the_list_is_filtered_and_sorted(page):
    assert page.text("#failed summary") == "1 input failed"
    page.find("#failed summary").click()
    assert page.text("#failed li") == f"{EVIL}: no scan"
    evil, first, second = sorted((EVIL, "a.nii.gz", "b.nii.gz"))
    choose(page, "order", "verdict")
    assert list_names(page) == [evil, second, first]
    choose(page, "order", "-ml")
    assert list_names(page) == [first, second, evil]
    choose(page, "by-rating", "fail")
    assert list_names(page) == [first, second], "what is open stays"
    choose(page, "by-rating", "")
    choose(page, "words", "jkadx")
    assert list_names(page) == [first]
    for field, value in (("words", ""), ("order", "name")):
        choose(page, field, value)


def test_what_others_rate_and_what_changes_is_seen(page, folder):
    path = folder / "b_prediction/b_predicted_mask.nii.gz"
    row = Rating(who="B", result="b_prediction", mask=path.name, sha256=checksum(path))
    add_rating(folder, Rating(**vars(row) | {"rating": "pass", "note": "fine"}))
    page.window.refresh()
    wait_for(page, "a.nii.gz")  # by the address
    page.press("j")
    wait_for(page, "b.nii.gz")
    assert page.text("#rated").startswith("pass by B") and page.find("#who").get_property("value")
    before = path.read_bytes()
    path.write_bytes(before + b"\0")  # another mask since
    page.press("x")
    page.until(lambda: "look at it again" in page.text("#message"))
    path.write_bytes(before)
    assert read_ratings(folder)[-1].who == "B"


def test_of_a_large_scan_every_second_voxel_comes_first(page, monkeypatch):
    monkeypatch.setattr(results, "MOST_AT_ONCE", 100)
    page.window.refresh()
    page.until(lambda: "every second voxel" in page.text("#under"))
    assert page.text("[data-plane=axial].tile").endswith("/ 30")
    page.press("2", Keys.ARROW_UP, Keys.ARROW_UP)
    coarse, seen = page.text("[data-plane=axial].tile"), page.cyan()
    page.until(lambda: "every second voxel" not in page.text("#under"))
    assert page.text("[data-plane=axial].tile") == coarse, "the same slice"
    assert page.find("#slices [data-plane=axial]").get_property("max") == "29"
    assert 0.8 * seen < page.cyan() < 1.25 * seen and seen > 500
    page.press("1")


@pytest.mark.parametrize("size", browser.SIZES.values(), ids=list(browser.SIZES))
def test_nothing_runs_over_the_edge_and_all_has_a_name(page, size):
    page.resize(*size)
    assert page.js("return document.scrollingElement.scrollWidth") <= size[0]
    unnamed = page.js("""return [...document.querySelectorAll("button, input, select")]
        .filter((e) => !e.closest("label, [aria-label]") && !e.textContent.trim()
                       && !e.labels?.length).map((e) => e.outerHTML)""")
    assert unnamed == []
    severe = [e for e in page.window.get_log("browser") if e["level"] == "SEVERE"]
    assert [e for e in severe if "409" not in e["message"]] == []
