"""Files of any name: what a disk takes, every table, page and terminal bears."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pandas as pd
import pytest
from make import read_report

import pred
import test as scoring
from predict.result import plan

NAMES = {  # a picture's name in bytes: how it is told, and what its results are called
    b"scan_\xe9\xff.png": (r"scan_\xe9\xff.png", "scan___"),
    b"two\nlines.png": (r"two\nlines.png", "two_lines"),
    b"\x1b[31mred\t.png": (r"\x1b[31mred\t.png", "_[31mred_"),
    b"--overwrite.png": ("--overwrite.png", "--overwrite"),
    b" spa ce 100%#?&\"'<b>.png": (" spa ce 100%#?&\"'<b>.png", " spa ce 100%#?&\"'<b>"),
    "Zürich 脳.png".encode(): ("Zürich 脳.png", "Zürich 脳"),
    b"x" * 251 + b".png": ("x" * 251 + ".png", "x" * 200),
    b"good.png": ("good.png", "good"),
}


@pytest.fixture
def folder(tmp_path, head_slice):
    """A folder of one slice under every name; its own is not UTF-8 either."""
    folder = os.fsencode(tmp_path) + b"/in_\xff\n"
    os.mkdir(folder)
    for name in NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(cv2.imencode(".png", head_slice[0])[1].tobytes())
    return Path(os.fsdecode(folder))


def test_every_name_gets_a_mask_and_stands_in_all_that_is_told(folder, tmp_path, capsys):
    out = tmp_path / os.fsdecode(b"out_\xe9")
    assert pred.main([str(folder), "--out", str(out)]) == 0
    rows = pd.read_csv(out / "summary.csv", encoding="utf-8").set_index("scan")
    page = read_report(out)
    printed = capsys.readouterr().out
    assert sorted(rows.index) == sorted(shown for shown, _ in NAMES.values())
    assert sorted(row[0] for row in page["rows"]) == sorted(rows.index)
    links = {out / unquote(link) for row in page["rows"] for link in row[3:6]}
    masks = []
    for shown, name in NAMES.values():
        path = out / f"{name}_prediction" / f"{name}_predicted_mask.png"
        assert out / rows["mask"][shown] == path
        masks.append(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
        assert (path.parent / f"{name}_overlay.png") in links
        about = json.loads((path.parent / f"{name}.json").read_text(encoding="utf-8"))
        assert about["input"].endswith(f"/in_\\xff\\n/{shown}") and about["brain_pixels"] > 100
        assert f"/{path.parent.name}/{path.name}\n" in printed
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert pred.main([str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("done before") == len(NAMES)


def test_a_name_with_a_dash_first_is_no_option(folder, head_slice):
    words = ["--overwrite.png", "--border", "-1", "--out", "out"]
    done = subprocess.run(
        [sys.executable, pred.__file__, *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (folder / "out/--overwrite_prediction/--overwrite_predicted_mask.png").exists()


def test_a_broken_file_of_such_a_name_is_one_line(folder, tmp_path, capsys):
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"\x89PNG no")
    assert pred.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == len(NAMES) + 1
    for shown, _ in NAMES.values():
        assert any(line.startswith("error: ") and f"/{shown}" in line for line in errors)


def test_names_that_become_one_keep_their_results_apart(tmp_path):
    paths = [tmp_path / os.fsdecode(name) for name in (b"x\xe9.png", b"x\xff.png")]
    targets = plan(paths, tmp_path / "out")
    assert [target.folder.name for target in targets] == ["x__prediction", "x__prediction_2"]


def test_pairs_of_such_names_are_scored(folder, tmp_path, head_slice):
    pairs = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pairs_\xe9"))
    shutil.copytree(folder, pairs / "images")
    (pairs / "masks").mkdir()
    for picture in (pairs / "images").iterdir():
        mask = cv2.imencode(".png", np.uint8(255) * head_slice[1])[1].tobytes()
        (pairs / "masks" / picture.name).write_bytes(mask)
    words = [str(pairs), "--out", str(tmp_path / "out"), "--scores", str(tmp_path / "score.csv")]
    assert scoring.main(words) == 0
    table = pd.read_csv(tmp_path / "score.csv", encoding="utf-8").set_index("Image")
    assert sorted(table.index) == sorted(name for _, name in NAMES.values())
    assert (table.F1 > 0.9).all()
    assert table.File["scan___"].endswith(r"/pairs_\xe9/images/scan_\xe9\xff.png")
