"""The page in a real browser, headless Chromium without a GPU: from a scan to the mask and back."""

import shutil
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from make import write_dicom
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import app
from page import fetch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import browser  # noqa: E402

from common.errors import InputError
from pred import main

# Of an axial picture, across and down: in the air before the face. A stroke that is drawn there
STROKE = ((0.2, 0.05), (0.4, 0.08))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address(cta_file, tumour_case, tumour_model, tmp_path_factory):
    """The address of a page with two tasks, whose samples are coarse; one job at a time."""
    folder = tmp_path_factory.mktemp("served")
    with browser.served(folder / "jobs", cta_file, tumour_model, case=tumour_case) as address:
        yield address


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads):
    """A browser, or a skip that says what is missing."""
    missing = browser.missing()
    if missing:
        pytest.skip(missing)
    with browser.chromium(downloads) as window:
        yield window


@pytest.fixture
def page(chromium, address):
    """The page, fresh: no jobs of an earlier test in its list."""
    page = browser.Page(chromium, address)
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    page.resize(*browser.SIZES["wide"])
    page.open()
    return page


def test_sample_to_visible_mask_and_its_tools(page):
    place = page.find("#stage").rect
    page.find("#sample").click()
    page.wait_for_result("cta.nii.gz")
    assert page.find("#stage").rect == place, "the layout jumped"
    assert page.text("#grade") in ("ok", "check") and page.text("#size").endswith(" mL")
    page.press("2")
    filled = page.cyan()
    page.press("m")
    hidden = page.cyan()
    page.press("m", "o")
    outline = page.cyan()
    assert hidden < 0.01 * filled and 100 < outline < 0.5 * filled
    number = page.text("[data-plane=axial].tile")
    page.press(Keys.ARROW_UP)
    assert page.text("[data-plane=axial].tile") != number
    page.press("w")
    assert page.find("[value=bone]").is_selected() and "W 2500 L 500" in page.text("#under")
    page.press("?")
    page.until(lambda: page.find("#keys").is_displayed())
    shown = {key.text for key in page.window.find_elements(By.CSS_SELECTOR, "#keys kbd")}
    assert {"1", "5", "↑", "Page Down", "W", "M", "O", "]", "+", "−", "0", "?"} <= shown
    page.find("#keys").send_keys("m", Keys.ESCAPE)
    assert page.find("#shown").is_selected(), "keys are for the dialog alone"
    page.find("#why").click()
    page.until(lambda: page.find("#meaning").is_displayed())
    assert page.text("#grades").split()[0] == "ok" and "Do not use this mask" in page.text(
        "#grades"
    )
    (volume, *_) = page.window.find_elements(By.CSS_SELECTOR, "#signs li")
    assert "volume" in volume.text and "check below 700 or above 1950" in volume.text
    page.find("#meaning button").click()
    severe = [entry for entry in page.window.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_the_page_works_below_a_path(chromium, cta_file, tmp_path):
    with browser.served(tmp_path / "jobs", cta_file, prefix="/brain") as address:
        page = browser.Page(chromium, address)
        page.open()
        page.find("#sample").click()
        page.wait_for_result("cta.nii.gz")
        links = page.window.find_elements(By.CSS_SELECTOR, "#files a")
        assert {link.get_attribute("href").split("api/")[0] for link in links} == {address}


def place_of(page):
    """Where the cross comes to rest, in mm to the right, to the front and to the head, as the line
    below says."""
    seen = [""]

    def rests():
        time.sleep(0.3)
        seen.append(page.text("#under"))
        return seen[-1] and seen[-1] == seen[-2]

    page.until(rests)
    words = seen[-1].split(" mm")[0].split()
    signs = [-1 if letter in "LPI" else 1 for letter in words[::2]]
    return np.multiply(signs, [float(number) for number in words[1::2]])


def distance_to(line, places):
    """mm from places (N, 3) to the straight line between two places."""
    start, end = line
    share = np.clip((places - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
    return np.linalg.norm(places - (start + share[:, None] * (end - start)), axis=1)


def test_a_stroke_of_the_pen_changes_what_it_covers_and_nothing_else(page, downloads):
    page.find("#sample").click()
    page.wait_for_result("cta.nii.gz")
    page.press("e")  # the pen
    page.until(lambda: page.find("#pen").is_displayed())
    before = page.text("#under")
    page.drag("axial", STROKE[0])
    page.until(lambda: page.find("#pen-save").is_enabled() and page.text("#under") != before)
    ends = [place_of(page)]
    page.press(Keys.CONTROL + "z")
    page.until(lambda: not page.find("#pen-save").is_enabled())
    before = page.text("#under")
    page.drag("axial", *STROKE)
    page.until(lambda: page.find("#pen-save").is_enabled() and page.text("#under") != before)
    ends.append(place_of(page))
    page.drag("coronal", (0.4, 0.3), (0.6, 0.3))
    page.press(Keys.CONTROL + "z")
    guarded = "return ['intake', 'result'].map((id) => document.getElementById(id).inert)"
    assert page.js(guarded) == [True, True], "a click may take away what is not saved"
    page.press(Keys.CONTROL + "s")
    page.until(lambda: page.find("#files a[href$='/corrected_mask.nii.gz']"))
    page.until(lambda: page.js(guarded) == [False, False])
    old, new = (
        nib.load(page.download(name, downloads))
        for name in ("mask.nii.gz", "corrected_mask.nii.gz")
    )
    assert old.header == new.header and (old.affine == new.affine).all()
    before, after = np.asarray(old.dataobj), np.asarray(new.dataobj)
    drawn = np.argwhere(before != after)
    assert len(drawn) > 20 and (after[tuple(drawn.T)] == 1).all()
    voxel = np.linalg.norm(old.affine[:3, 0])
    places = nib.affines.apply_affine(old.affine, drawn)
    assert np.unique(np.round(places[:, 2], 3)).size == 1
    # half of the brush, and what rounding to voxels moves the cross and the stroke
    assert distance_to(ends, places).max() < (3.5 + 2**0.5) * voxel, ends
    for end in ends:
        assert np.linalg.norm(places - end, axis=1).min() < 1.5 * voxel
    assert "Corrected: +" in page.text("#reasons")
    page.find("#pen-back").click()
    page.window.switch_to.alert.accept()
    page.until(lambda: not page.window.find_elements(By.CSS_SELECTOR, "[href*=corrected_mask]"))


def test_nothing_is_asked_of_another_server(page):
    page.find("#sample").click()
    page.wait_for_result("cta.nii.gz")
    asked = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith((page.address, "data:", "blob:"))] == []


def test_dropped_nifti_gives_the_mask_that_pred_gives(page, cta_file, downloads, tmp_path):
    page.drop(cta_file)
    page.wait_for_result("cta.nii.gz")
    got = nib.load(page.download("mask.nii.gz", downloads))
    assert main([str(cta_file), "--out", str(tmp_path)]) == 0
    expected = nib.load(tmp_path / "cta_prediction/cta_predicted_mask.nii.gz")
    assert np.array_equal(got.dataobj, expected.dataobj) and expected.get_fdata().any()
    assert np.array_equal(got.affine, expected.affine)
    assert got.get_data_dtype() == expected.get_data_dtype()


def test_dropped_zip_of_dicom_gives_a_dicom_seg(page, cta, downloads, tmp_path):
    hu = cta.hu.transpose(2, 1, 0)[:, ::-1, ::-1]
    places = np.array([[-100, -100, 2.5 * k] for k in range(len(hu))])
    folder = write_dicom(tmp_path / "series", hu, places, spacing=(2.5, 2.5), PatientPosition="HFS")
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"series/{path.name}")
    page.drop(tmp_path / "series.zip")
    page.wait_for_result("series.zip")
    assert page.cyan() > 1000
    seg = pydicom.dcmread(page.download("mask.dcm", downloads))
    assert seg.Modality == "SEG"


def test_cancel(page, cta_file, tmp_path):
    for name in ("first.nii.gz", "second.nii.gz"):
        shutil.copy(cta_file, tmp_path / name)
    page.drop(tmp_path / "first.nii.gz", tmp_path / "second.nii.gz")
    button = "[aria-label='Cancel second.nii.gz']"
    page.until(lambda: len(page.states()) == 2 and "sending" not in page.states())
    page.find(button).click()
    page.until(lambda: sorted(page.states()) == ["cancelled", "done"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.nii.gz", b"\x1f\x8b no gzip at all", "broken.nii.gz"),
        ("notes.txt", b"no scan", "notes.txt"),
        ("<img src=x onerror=alert(1)>.png", b"no picture", "onerror"),
    ],
)
def test_bad_file_gets_a_message_and_stays_text(page, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    page.drop(tmp_path / name)
    page.until(lambda: page.text("#message"))
    assert words in page.text("#message") and "\n" not in page.text("#message")
    assert not page.window.find_elements(By.CSS_SELECTOR, "img[src=x]")
    page.until(lambda: "running" not in page.states())


def test_too_large_a_file_is_refused_before_it_is_sent(page, tmp_path):
    with open(tmp_path / "large.nii", "wb") as file:
        file.truncate((2048 << 20) + 1)  # a hole: it takes no space
    page.drop(tmp_path / "large.nii")
    page.until(lambda: "takes up to 2048 MB" in page.text("#message"))
    assert page.states() == []


def test_a_slice_is_shown_as_a_picture(page, cta, tmp_path):
    middle = cta.hu[:, :, cta.hu.shape[2] // 2].T[::-1]
    grey = np.clip((middle + 100) / 400 * 255, 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "slice.png"), cv2.resize(grey, (256, 256)))
    page.drop(tmp_path / "slice.png")
    page.wait_for_result("slice.png")
    filled = page.cyan()
    page.press("m")
    assert page.cyan() < 0.01 * filled
    assert page.text("#size").endswith(" px") and not page.find("#views input").is_enabled()


def test_a_result_is_found_again_by_its_owner_and_by_a_link_until_it_is_deleted(page):
    page.find("#sample").click()
    page.wait_for_result("cta.nii.gz")
    page.press("2", Keys.ARROW_UP, Keys.ARROW_UP)
    tile = page.text("[data-plane=axial].tile")
    number = tile.split()[1]
    page.until(lambda: page.window.current_url.endswith(f"/axial/{number}"))
    link = page.window.current_url
    page.window.refresh()
    page.wait_for_result("cta.nii.gz")
    assert page.text("[data-plane=axial].tile") == tile and page.states() == ["done"]
    (cookie,) = page.window.get_cookies()
    page.window.delete_all_cookies()  # a colleague
    page.window.get("about:blank")
    page.window.get(link)
    page.wait_for_result("cta.nii.gz")
    assert page.text("[data-plane=axial].tile") == tile and page.states() == []
    assert page.text("#message") == "" and page.find("[value=axial]").is_selected()
    page.js(
        "location.hash = arguments[0]", link.split("#")[1].replace(f"axial/{number}", "all/9/8/7")
    )
    page.until(lambda: page.text("[data-plane=sagittal].tile").split()[1] == "7")
    assert page.text("[data-plane=axial].tile").split()[1] == "9"
    page.window.add_cookie(cookie)
    page.window.refresh()
    page.wait_for_result("cta.nii.gz")
    page.find("[aria-label='Delete cta.nii.gz']").click()
    page.until(lambda: page.states() == [] and page.text("#result-name") == "Result")
    page.js("location.hash = arguments[0]", link.split("#")[1])
    page.until(lambda: page.text("#message"))
    assert page.text("#message").startswith("This link has expired: a result is deleted after 24 h")


def run_module(page, module, script, *arguments):
    """What `script` returns, with a module of the page as `m`."""
    done = "arguments[arguments.length - 1]"
    body = f"import('/page/{module}').then(async (m) => {done}(await (() => {{ {script} }})()))"
    return page.window.execute_async_script(body, *arguments)


def test_an_address_is_read_as_it_was_written_and_no_other_is(page):
    script = """const write = m.writeAddress("a-_1", "all", {axial: 3, coronal: 2, sagittal: 1});
        const strange = ["#", "#job/", "#job/../x", "#job/a/top/3", "#job/a/axial/x", "#a"];
        const read = [write, "#job/b/axial/139", "#job/c"].map(m.readAddress);
        return [write, ...read, strange.map(m.readAddress).filter(Boolean)];"""
    written, whole, axial, bare, strange = run_module(page, "address.js", script)
    assert written == "#job/a-_1/all/3/2/1" and strange == []
    numbers = {"axial": 3, "coronal": 2, "sagittal": 1}
    assert whole == {"id": "a-_1", "view": "all", "numbers": numbers}
    assert axial == {"id": "b", "view": "axial", "numbers": {"axial": 139}}
    assert bare["id"] == "c" and bare["numbers"] == {}


def test_what_is_dropped_together_becomes_a_job_each_and_a_study_stays_whole(page):
    script = """const entries = arguments[0].map((path) => ({path, file: {}}));
        const names = (all) => all.map(({name, entries}) => [name, entries.length]);
        const [brain, tumour] = [m.sorted(entries, false), m.sorted(entries, true)];
        return [names(brain.jobs), brain.cases, names(tumour.jobs), names(tumour.cases)];"""
    script = script.replace("arguments[0]", "given")
    paths = ["a.nii.gz", "b.nii.gz", "p1/s1/1.dcm", "p1/s2/2.dcm", "p2/1", "p2/2", "p2/.DS_Store"]
    paths += [
        "im1.dcm",
        "im2.dcm",
        "c1/x_flair.nii",
        "c1/x_t1ce.nii",
        "c2/y_flair.nii",
        "c2/y_t1ce.nii",
    ]
    given = f"const given = {paths};"
    jobs, none, rest, cases = run_module(page, "files.js", given + script)
    studies = [["p1", 2], ["p2", 2], ["im1.dcm and 1 more", 2]]
    scans = ["a.nii.gz", "b.nii.gz", "x_flair.nii", "x_t1ce.nii", "y_flair.nii", "y_t1ce.nii"]
    assert jobs == [[name, 1] for name in scans] + studies and none == []
    assert rest == studies and cases == [["a.nii.gz and 1 more", 2], ["c1", 2], ["c2", 2]]


def test_of_many_cases_only_those_whose_names_leave_something_open_are_asked_about(page):
    script = """const tumour = {name: "tumour", channels: ["flair", "t1ce"]};
        const found = (paths) => ({name: "c1", entries: paths.map((path) => ({path}))});
        const ask = (paths) => m.askChannels(found(paths), tumour, true);
        const asked = ask(["c1/x_flair.nii", "c1/other.nii"]).then(() => "asked");
        const known = ask(["c1/x_flair.nii", "c1/x_t1ce.nii", "c1/x_seg.nii"]);
        return Promise.all([known, Promise.race([asked, known.then(() => "open")])]);"""
    known, state = run_module(page, "channels.js", script)
    assert known == {"c1/x_flair.nii": "flair", "c1/x_t1ce.nii": "t1ce"} and state == "open"
    page.until(lambda: page.find("#channels").is_displayed())
    assert page.text("#case-name") == "c1"


def test_what_does_not_fit_into_the_line_is_said(page, head_slice, tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), head_slice[0])
    monkeypatch.setattr(app, "MOST_WAITING", 1)
    page.open()
    page.drop(*sorted(tmp_path.iterdir()))
    said = "2 left out, for up to 1 can wait in line: b.png, c.png. Drop them again later."
    page.until(lambda: page.text("#message") == said)
    page.wait_for_result("a.png")
    assert page.states() == ["done"], "the first that is there is opened"
    monkeypatch.setattr(app, "MOST_WAITING", 0)  # others have filled it meanwhile
    page.drop(tmp_path / "a.png")
    said = "1 left out, for too many jobs wait or are kept: a.png. Drop them again later."
    page.until(lambda: page.text("#message") == said)
    assert page.states() == ["done"]


def test_regions_of_a_tumour_have_a_legend_and_can_be_chosen(page):
    result = {
        "kind": "case",
        "volume_ml": 60.0,
        "verdict": "",
        "seconds": 1,
        "files": {},
        "labels": [
            {"value": 1, "name": "necrotic core", "ml": 10.0, "colour": "#ff5c50"},
            {"value": 2, "name": "oedema", "ml": 30.0, "colour": "#6ec878"},
            {"value": 4, "name": "enhancing tumour", "ml": 20.0, "colour": "#ff9e2c"},
        ],
        "regions": [{"name": "whole tumour", "values": [1, 2, 4], "ml": 60.0, "colour": "#40e0ff"}],
    }
    done = """const [result, done] = arguments;
        window.chosen = [];
        import("/page/result.js").then(({showResult}) => {
          showResult({name: "case", result}, (region) => window.chosen.push(region));
          done();
        });"""
    page.window.execute_async_script(done, result)
    rows = page.window.find_elements(By.CSS_SELECTOR, ".region")
    assert [row.text.split("\n")[0] for row in rows] == [
        "All",
        "whole tumour",
        "necrotic core",
        "oedema",
        "enhancing tumour",
    ]
    rows[3].click()
    assert page.js("return window.chosen[0].values") == [2]
    patch = rows[3].find_element(By.TAG_NAME, "i").value_of_css_property("background-color")
    assert "110, 200, 120" in patch


def reds_and_greens(page):
    """How many of the stage's pixels the necrotic core and the oedema colour."""
    blue, green, red = page.stage()
    return (
        np.count_nonzero((red - green > 25) & (red - blue > 25)),
        np.count_nonzero((green - red > 12) & (green - blue > 12)),
    )


def choose_region(page, name):
    (row,) = (
        row
        for row in page.window.find_elements(By.CSS_SELECTOR, ".region")
        if row.text.split("\n")[0] == name
    )
    row.click()


def test_a_case_is_corrected_sent_and_shown_by_region(page, tumour_case, tmp_path):
    for name, kind in (("scan_t1ce.nii.gz", "flair"), ("other.nii.gz", "t1ce")):
        shutil.copy(tumour_case / f"BraTS_7_{kind}.nii.gz", tmp_path / name)
    Select(page.find("#task")).select_by_value("tumour")
    assert page.find("#sample").is_enabled() and "FLAIR, T1CE" in page.text("#kinds")
    page.drop(*tmp_path.iterdir())
    page.until(lambda: page.find("#channels").is_displayed())
    rows = {
        name: Select(page.find(f"#channels [name='{name}']"))
        for name in ("scan_t1ce.nii.gz", "other.nii.gz")
    }
    recognised = [row.first_selected_option.text for row in rows.values()]
    assert recognised == ["T1CE", "not used"]
    page.find("#channels .chief").click()
    assert page.find("#channels").is_displayed() and page.states() == [], "FLAIR is missing"
    rows["scan_t1ce.nii.gz"].select_by_value("flair")
    rows["other.nii.gz"].select_by_value("t1ce")
    page.find("#channels .chief").click()
    page.wait_for_result("case")
    rows = [row.text for row in page.window.find_elements(By.CSS_SELECTOR, ".region")]
    assert [row.split("\n")[0] for row in rows] == [
        "All",
        "whole tumour",
        "tumour core",
        "necrotic core",
        "oedema",
        "enhancing tumour",
    ] and all(row.endswith(" mL") for row in rows[1:])
    assert not page.find("#windows").is_displayed(), "an MRI has no HU"
    flair = page.text("#under")
    page.press("w")
    page.until(lambda: page.text("#under") != flair)
    assert page.find("#modalities [value=t1ce]").is_selected()
    page.press("w")
    page.until(lambda: page.text("#under") == flair)
    page.press("2", "0")
    both = reds_and_greens(page)
    choose_region(page, "oedema")
    page.until(lambda: reds_and_greens(page)[0] < 0.1 * both[0])
    assert both[0] > 20 and reds_and_greens(page)[1] > 0.5 * both[1] > 20
    choose_region(page, "necrotic core")
    page.until(lambda: reds_and_greens(page)[1] < 0.1 * both[1])
    assert reds_and_greens(page)[0] > 0.5 * both[0]


@pytest.mark.parametrize("size", browser.SIZES.values(), ids=list(browser.SIZES))
def test_nothing_runs_over_the_edge_and_all_has_a_name(page, size):
    page.resize(*size)
    assert page.js("return document.scrollingElement.scrollWidth") <= size[0]
    unnamed = page.js("""return [...document.querySelectorAll("button, input, select")]
        .filter((e) => !e.closest("label, [aria-label]") && !e.textContent.trim())
        .map((e) => e.outerHTML)""")
    assert unnamed == []


def test_without_the_viewer_the_overlay_is_shown(page):
    page.window.execute_cdp_cmd("Network.enable", {})
    page.window.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*niivue.js"]})
    try:
        page.open()
        page.find("#sample").click()
        page.until(lambda: page.find("#fallback").is_displayed())
        page.until(lambda: page.js("return document.getElementById('fallback').naturalWidth") > 0)
        assert "overlay" in page.text("#curtain")
    finally:
        page.window.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_without_network_the_viewer_is_left_out_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "URL", "http://127.0.0.1:9/niivue.tgz")  # where nobody answers
    with pytest.raises(InputError, match="niivue.*the connection failed"):
        fetch.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_was_changed_is_not_kept(tmp_path, monkeypatch):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"something else")
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(fetch, "URL", f"http://127.0.0.1:{server.server_port}/other.tgz")
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(InputError, match="wrong checksum"):
            fetch.fetch(tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()
