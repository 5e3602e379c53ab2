"""Summary, report data and manifests of results that several runs have left below one folder."""

import csv
import json
import re
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
from make import make_result, read_report

import pred
from common.errors import InputError
from common.files import checksum
from predict import distribution, work
from predict.distribution import describe_distribution, draw_distribution
from predict.manifest import RUNS, read_failures, recorded
from predict.report_page import write_report_page
from predict.result import Target
from predict.signs import SIGNS
from predict.summary import COLUMNS, Row, adds_up, collect, find_results
from predict.verdict import LIMITS
from predict.work import Work

EVIL = "</script><img src=x onerror=alert(1)>.nii.gz"


@pytest.fixture
def pictures(tmp_path, head_slice):
    """Writes the slice under some names into a folder; returns the paths."""

    def write(*names, folder="in"):
        paths = [tmp_path / folder / f"{name}.png" for name in names]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), head_slice[0])
        return paths

    return write


def run(*words, out):
    return pred.main([*map(str, words), "--out", str(out)])


def read_rows(out, name="summary.csv", **how):
    with open(out / name, newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file, **how)}


def read_manifests(out):
    return [json.loads(path.read_text()) for path in sorted((out / RUNS).iterdir())]


def fail(name, time, error="it is empty"):
    return {"input": f"/in/{name}", "name": name, "error": error, "reason": error, "time": time}


def write_manifest(out, *failed):
    path = out / RUNS / f"{len(list(out.glob('runs/*')))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"failed": failed}))


# ---------------------------------------------------------------- rows


def test_every_result_in_and_below_is_a_row_with_every_sign(tmp_path):
    signs = {name: number + 0.5 for number, name in enumerate(SIGNS)}
    make_result(tmp_path, "a.nii.gz", signs=signs, reasons=["cut"], notes=["tilt", "cut"])
    make_result(tmp_path / "site/b", "c.nii.gz", label="site/b/c.nii.gz", verdict="check")
    assert collect(tmp_path).startswith("2 results and 0 failed inputs")
    rows = read_rows(tmp_path)
    first, second = rows["a.nii.gz"], rows["site/b/c.nii.gz"]
    assert list(first) == list(COLUMNS)
    assert list(first)[:6] == ["scan", "mL", "verdict", "seconds", "warnings", "mask"]
    assert {name: float(first[name]) for name in SIGNS} == signs
    assert (first["warnings"], first["input"]) == ("cut; tilt", "/in/a.nii.gz")
    assert second["mask"] == "site/b/c_prediction/c_predicted_mask.nii.gz"
    assert (second["verdict"], second["upright"]) == ("check", "")


def test_every_sign_has_its_words():
    assert {limit.sign for limit in LIMITS} == set(SIGNS)


def test_what_is_no_complete_result_is_no_row(tmp_path):
    make_result(tmp_path, "a.nii.gz")
    for name, said in {"begun": {"input": "x"}, "scored": {"input": "x", "scores": {}}}.items():
        folder = tmp_path / f"{name}_prediction"
        folder.mkdir()
        (folder / f"{name}.json").write_text(json.dumps(said))
    make_result(tmp_path / "somebody_prediction", "b.nii.gz")  # somebody's own folder of scans
    make_result(tmp_path / ".snapshot", "a.nii.gz")
    make_result(tmp_path, ".c.nii.gz")
    (tmp_path / "up").symlink_to(tmp_path)
    assert sorted(row.name for row in find_results(tmp_path)) == [
        ".c.nii.gz",
        "a.nii.gz",
        "b.nii.gz",
    ]


def test_a_folder_without_results_is_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="holds no results of pred.py"):
            pred.main(["--collect", str(folder)])
    with pytest.raises(InputError, match="--collect DIR"):
        pred.main([])
    with pytest.raises(InputError, match="--collect DIR or --dicomweb URL alone"):
        pred.main(["x.png", "--collect", str(tmp_path)])


def test_an_input_failed_if_the_last_run_that_tried_it_failed(tmp_path):
    make_result(tmp_path, "later.nii.gz", finished="2026-01-02")
    make_result(tmp_path, "earlier.nii.gz", finished="2026-01-02")
    make_result(tmp_path, "old.nii.gz")  # of a version that did not say when it was finished
    write_manifest(tmp_path, fail("earlier.nii.gz", "2026-01-03"), fail("old.nii.gz", "2026-01-01"))
    write_manifest(tmp_path, fail("later.nii.gz", "2026-01-01"), fail("none.nii.gz", "2026-01-01"))
    write_manifest(tmp_path, fail("none.nii.gz", "2026-01-04", "no permission"))
    (tmp_path / RUNS / "broken.json").write_text("{")
    assert collect(tmp_path).startswith("1 results and 3 failed inputs")
    rows = read_rows(tmp_path)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "earlier.nii.gz": "failed",
        "later.nii.gz": "ok",
        "none.nii.gz": "failed",
        "old.nii.gz": "failed",
    }
    assert rows["none.nii.gz"]["warnings"] == "error: no permission"
    assert rows["earlier.nii.gz"]["mask"] == rows["earlier.nii.gz"]["mL"] == ""


def test_a_bids_dataset_gets_a_tsv(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    make_result(tmp_path, "a.nii.gz", notes=['a "quoted"\tword'])
    collect(tmp_path)
    assert not (tmp_path / "summary.csv").exists()
    (row,) = read_rows(tmp_path, "summary.tsv", delimiter="\t", quoting=csv.QUOTE_NONE).values()
    assert row["warnings"] == r'a "quoted"\tword' and row["upright"] == "n/a"


# ---------------------------------------------------------------- runs


def test_two_runs_into_one_folder_add_up(pictures, tmp_path, capsys):
    first, second = pictures("a", "b")
    out = tmp_path / "out"
    assert run(first, out=out) == 0
    assert [path.name for path in out.iterdir()] == ["a_prediction"], "of one input alone"
    assert run(first, out=out) == 0
    assert not (out / RUNS).exists(), "nor when it is done before"
    second.write_bytes(b"no picture")
    assert run(second, out=out) == 2
    rows = read_rows(out)
    assert [rows[name]["verdict"] for name in ("a.png", "b.png")] == ["", "failed"]
    pictures("b")
    assert run(second, out=out) == 0
    rows = read_rows(out)
    assert [rows[name]["verdict"] for name in ("a.png", "b.png")] == ["", ""]
    before = (out / "summary.csv").read_bytes(), read_report(out)
    capsys.readouterr()
    assert pred.main(["--collect", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 results and 0 failed inputs: ")
    assert before == ((out / "summary.csv").read_bytes(), read_report(out))


def test_a_run_that_found_nothing_to_sum_up_is_no_error(tmp_path):
    """As a part of an archive in which no input is, beside another that has just begun."""
    write_manifest(tmp_path)
    assert adds_up(tmp_path, []) and collect(tmp_path) == ""
    assert not adds_up(tmp_path / "new", [Target(tmp_path / "x.png", "x", tmp_path / "new/x")])


def test_a_part_of_one_input_has_a_manifest(pictures, tmp_path, monkeypatch):
    """Else its failure would be forgotten, where no other part has written before."""
    paths = pictures("a", "b")
    paths[1].write_bytes(b"no picture")
    monkeypatch.setattr(pred, "take_part", lambda targets, part: targets[1:])
    assert run(*paths, "--part", "2/2", out=tmp_path / "out") == 2
    assert list(read_rows(tmp_path / "out")) == ["b.png"]


def test_a_run_of_failures_alone_is_summed_up_too(pictures, tmp_path):
    paths = pictures("a", "b")
    for path in paths:
        path.write_bytes(b"no picture")
    assert run(*paths, out=tmp_path / "out") == 2
    assert [row["verdict"] for row in read_rows(tmp_path / "out").values()] == ["failed"] * 2


def test_the_manifest_says_what_ran_and_what_came_of_it(pictures, tmp_path):
    paths = pictures("a", "b", "c", "d")
    out = tmp_path / "out"
    for path in paths[2:]:
        path.write_bytes(b"")
    run(*paths[:1], out=out)
    assert run(*paths, "--border", "0", out=out) == 2
    (said,) = read_manifests(out)
    ((reason, count),) = said["counts"].pop("failed_by_reason").items()
    assert said["counts"] == {"inputs": 4, "done_before": 1, "done": 1, "failed": 2, "left": 0}
    assert count == 2 and "the input" in reason and str(tmp_path) not in reason
    assert [failure["input"] for failure in said["failed"]] == list(map(str, paths[2:]))
    assert str(paths[2]) in said["failed"][0]["error"]
    assert said["models"] == {str(pred.MODEL): checksum(pred.MODEL)}
    assert said["packages"]["numpy"] == np.__version__ and said["options"]["border"] == 0
    assert said["start"] < said["failed"][0]["time"] < said["end"]
    assert {"software", "python", "host", "process", "command"} <= set(said)


def test_the_manifest_is_there_from_the_start_and_ends_at_ctrl_c(pictures, tmp_path, monkeypatch):
    paths, out = pictures("a", "b", "c"), tmp_path / "out"
    seen = []

    def stop(source, network, wanted, real=work.picture.predict):
        seen.extend(read_manifests(out))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(source, network, wanted)

    monkeypatch.setattr(work.picture, "predict", stop)
    with pytest.raises(KeyboardInterrupt):
        run(*paths, out=out)
    assert seen[0]["end"] is None and seen[0]["counts"]["left"] == 3
    (said,) = read_manifests(out)
    assert said["end"] > said["start"] and said["failed"] == []
    assert said["counts"]["left"] + said["counts"]["done"] == 3


def test_each_run_has_a_manifest_of_its_own(tmp_path):
    args = Namespace(paths=["x"], model=[tmp_path / "no model"], border=1.0)
    target = Target(tmp_path / "x.png", "x", tmp_path / "x_prediction", label="in/x.png")
    for error in (InputError(f"{target.path} is\nempty"), None):
        with recorded(tmp_path, args, 1, 0) as add:
            add(Work(target, error=error))
    first, second = read_manifests(tmp_path)
    assert first["options"] == {"border": 1.0} and first["models"] == {}
    assert first["counts"]["failed_by_reason"] == {"the input is empty": 1}
    assert second["counts"]["done"] == 1 and second["failed"] == []
    (failure,) = read_failures(tmp_path)
    assert (failure["name"], failure["error"]) == ("in/x.png", f"{target.path} is empty")


# ---------------------------------------------------------------- the page


def test_the_page_knows_every_row(tmp_path):
    make_result(tmp_path, "a #1.nii.gz", thumbnail="a #1_thumbnail.jpg", signs={"flatness": 1.5})
    make_result(tmp_path, "b.nii.gz", volume_ml=None, signs={"flatness": float("nan")})
    write_manifest(tmp_path, fail("c.nii.gz", "2026-01-01"))
    collect(tmp_path)
    data = read_report(tmp_path)
    assert data["measures"] == ["volume (mL)", SIGNS["flatness"], "time (s)"]
    first, second, third = data["rows"]
    assert first[0:2] == ["a #1.nii.gz", "ok"] and first[6] == [1000.0, 1.5, 2.0]
    assert first[3:6] == [
        f"a%20%231_prediction/a%20%231_{end}"
        for end in ("overlay.png", "thumbnail.jpg", "predicted_mask.nii.gz")
    ]
    assert second[4] == "b_prediction/b_overlay.png" and second[6] == [None, None, 2.0]
    assert third[:6] == ["c.nii.gz", "failed", ["it is empty"], "", "", ""]


def test_the_page_is_one_file_that_asks_for_nothing_else(tmp_path):
    make_result(tmp_path, "a.nii.gz")
    collect(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|<link|@import|src=|{{", text)
    assert "summary.csv" in re.search(r"<noscript>(.*?)</noscript>", text, re.S)[1]


def test_names_on_the_page_stay_text(tmp_path):
    for number in range(8):
        make_result(tmp_path, f"{number}.nii.gz", volume_ml=1000 + number)
    far = make_result(tmp_path, "far.nii.gz", label=EVIL, volume_ml=9000, notes=[EVIL])
    assert far.exists()
    write_manifest(tmp_path, fail(EVIL, "2026-01-01", EVIL))
    collect(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "&lt;/script&gt;&lt;img src=x" in text, "it is named as an outlier"
    assert "<img" not in text and text.count("</script>") == 2
    assert [row[2] for row in read_report(tmp_path)["rows"] if row[0] == EVIL] == [[EVIL], [EVIL]]


def test_ten_thousand_rows_are_a_page_of_less_than_5_mb(tmp_path):
    noise = np.random.default_rng(0)
    rows = [make_row(number, noise.normal(1, 0.1, len(SIGNS))) for number in range(2000)]
    write_report_page(rows, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5e6 * len(rows) / 10_000


def make_row(number, values):
    """A row with names as long as they are in archives."""
    name = f"site-{number % 40}/sub-{number:05d}_ses-01_ct.nii.gz"
    signs = dict(zip(SIGNS, values.round(4).tolist(), strict=True))
    said = (f"{1000 * values[0]:.0f} mL is less than the skull of all but infants holds",)
    files = {kind: Path(name) / f"{kind}.png" for kind in ("mask", "overlay", "picture")}
    return Row(name, name, "check", said, ml=1000 * values[0], seconds=2.0, signs=signs, **files)


# ---------------------------------------------------------------- distributions


def test_outliers_lie_beyond_the_fences():
    """Quartiles of 1 to 9 are 3, 5 and 7, so the fences lie at -3 and 13."""
    found = describe_distribution(np.array([*range(9, 0, -1), np.nan], float))
    assert found.quartiles.tolist() == [3, 5, 7] and not len(found.outliers)
    assert (found.low, found.high, found.whiskers) == (1, 9, (1, 9))
    with_far = describe_distribution(np.array([-90.0, *range(1, 10), 200.0]))
    assert with_far.outliers.tolist() == [10, 0], "the farthest off first"
    assert with_far.whiskers == (1, 9)


def test_few_outliers_are_named_and_marked():
    values = np.array([1000.0] * 200 + [1100.0 + n for n in range(40)])
    names = [f"<{n}>" for n in range(len(values))]
    drawn = draw_distribution(values, names, "a < b", 7)
    assert drawn.count("<circle") == distribution.MOST_MARKED
    assert drawn.count("<button data-row") == distribution.MOST_NAMED
    assert "and 37 more" in drawn and "&lt;239&gt;" in drawn and "<239>" not in drawn
    assert 'data-measure="7">a &lt; b<' in drawn


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, np.nan, 1e9]])
def test_values_however_few_can_be_drawn(values):
    drawn = draw_distribution(np.array(values), ["x"] * len(values), "title", 0)
    assert "nan" not in drawn and "inf" not in drawn and "<svg" in drawn


# ---------------------------------------------------------------- the small picture


def test_a_wide_overlay_gets_a_small_picture(tmp_path):
    target = Target(tmp_path / "x.nii.gz", "x", tmp_path)
    wide = np.zeros((100, 2000, 3), np.uint8)
    wide[..., 0] = 200
    assert work.picture.write_overlay(target, wide) == {"thumbnail": "x_thumbnail.jpg"}
    small = cv2.imread(str(tmp_path / "x_thumbnail.jpg"))
    assert small.shape == (32, 640, 3) and abs(small[16, 320] - [0, 0, 200]).max() < 12
    assert work.picture.write_overlay(target, np.zeros((10, 640, 3), np.uint8)) == {}
    stripe = np.zeros((1, 20480, 3), np.uint8)
    work.picture.write_overlay(target, stripe)
    assert cv2.imread(str(tmp_path / "x_thumbnail.jpg")).shape == (1, 640, 3)
