"""Trees of folders and lists: what is found in them, and where its results go."""

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from make import touch, write_dicom
from pydicom.uid import generate_uid

import pred
from common.card import Card
from common.errors import InputError
from predict.inputs import find_inputs, find_listed, read_list
from predict.result import plan
from scan import cases
from scan.cases import has_dicom

PLACES = [[0, 0, 2.5 * k] for k in range(3)]


def write_series(folder, study):
    return write_dicom(folder, np.zeros((3, 8, 8)), PLACES, StudyInstanceUID=study)


def places(found, out):
    """{label: the result's folder below out}"""
    targets = plan(found, out)
    return {t.label: t.folder.relative_to(out).as_posix() for t in targets}


def found_in(root, **more):
    return [path.relative_to(root).as_posix() for path in find_inputs([root], **more)]


def test_a_trees_folders_are_kept_below_out(tmp_path):
    names = ["a.nii.gz", "p1/ct.nii.gz", "p2/x/ct.nii.gz", "p2/x/s.PNG", "p3/b.nii/c.nii"]
    touch(*(tmp_path / "in" / name for name in names))
    assert places(find_inputs([tmp_path / "in"]), tmp_path / "out") == {
        "a.nii.gz": "a_prediction",
        "p1/ct.nii.gz": "p1/ct_prediction",
        "p2/x/ct.nii.gz": "p2/x/ct_prediction",
        "p2/x/s.PNG": "p2/x/s_prediction",
        "p3/c.nii": "p3/c_prediction",
    }


def test_a_study_is_one_input_among_the_scans_of_a_tree(tmp_path):
    root, first, second = tmp_path / "in", generate_uid(), generate_uid()
    for series in ("1", "2"):
        write_series(root / "p1/study" / series, first)
    write_series(root / "p2/only", second)
    touch(root / "p1/ct.nii.gz", root / "p1/study/1/notes.json")
    assert places(find_inputs([root]), tmp_path) == {
        "p1/ct.nii.gz": "p1/ct_prediction",
        "p1/study": "p1/study_prediction",
        "p2/only": "p2/only_prediction",
    }
    assert list(places(find_inputs([root / "p1/study"]), tmp_path).values()) == ["study_prediction"]


def test_what_is_no_scan_is_left_out(tmp_path, capsys):
    root = tmp_path / "in"
    names = ["p/ct.nii.gz", "p/ct_mask.nii.gz", "q/images/1.png", "q/masks/1.png", ".h/a.nii.gz"]
    names += ["out/b.nii.gz", "__MACOSX/c.nii.gz", "p/ct_prediction/d.nii.gz", "notes.txt"]
    touch(*(root / name for name in names))
    (root / "p/ct_prediction/ct.json").write_text('{"input": "x"}')
    assert found_in(root, out=root / "out") == ["p/ct.nii.gz", "q/images/1.png"]
    assert "2 masks of other files there left out" in capsys.readouterr().err
    assert "out/b.nii.gz" in found_in(root), "another folder of that name is searched"
    assert found_in(root / "out", out=root / "out") == ["b.nii.gz"], "and the archive itself"


def test_links_in_circles_end(tmp_path):
    root = tmp_path / "in"
    touch(root / "a/1.nii.gz", root / "b/2.nii.gz", tmp_path / "elsewhere/3.nii.gz")
    for link, to in {"a/to_b": "../b", "b/to_a": "../a", "a/up": "..", "a/self": "self"}.items():
        (root / link).symlink_to(to)
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert found_in(root) == [
        "a/1.nii.gz",
        "a/to_b/2.nii.gz",
        "b/2.nii.gz",
        "b/to_a/1.nii.gz",
        "c/3.nii.gz",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_cannot_be_read_is_a_warning(tmp_path, capsys):
    touch(tmp_path / "a/1.nii.gz", tmp_path / "b/2.nii.gz")
    (tmp_path / "a").chmod(0)
    assert found_in(tmp_path) == ["b/2.nii.gz"]
    (tmp_path / "a").chmod(0o700)
    assert f"{tmp_path / 'a'}: no permission" in capsys.readouterr().err


def test_paths_that_overlap_give_each_scan_once(tmp_path, monkeypatch):
    touch(tmp_path / "in/p/1.nii.gz", tmp_path / "in/2.nii.gz")
    monkeypatch.chdir(tmp_path)
    found = find_inputs(["in", tmp_path / "in/p", "in/../in/2.nii.gz"])
    assert places(found, tmp_path) == {
        "2.nii.gz": "2_prediction",
        "p/1.nii.gz": "p/1_prediction",
    }


def test_few_files_are_opened_to_find_dicom(tmp_path, monkeypatch):
    files = [tmp_path / f"{n}{end}" for n in range(50) for end in (".nii.gz", ".json", ".a", ".b")]
    touch(*files)
    opened, read = [], cases.read_start
    monkeypatch.setattr(cases, "read_start", lambda path: opened.append(path) or read(path))
    assert not has_dicom(files) and len(opened) == 2
    series = write_series(tmp_path / "s", generate_uid())
    assert has_dicom([*files, *series.iterdir()]) and len(opened) == 5


def test_a_tree_without_scans_is_one_line(tmp_path):
    touch(tmp_path / "a/notes.txt")
    with pytest.raises(InputError, match="holds no scan and no picture .* nor do the folders"):
        find_inputs([tmp_path])


# ---------------------------------------------------------------- lists


def test_a_list_names_inputs_a_line_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a/ct.nii.gz", "b/ct.nii.gz", "c/d/1.nii.gz", "c/e f/ 2.nii.gz"]
    touch(*map(Path, names))
    (tmp_path / "list").write_bytes(
        b"\xef\xbb\xbf# mine\r\n\r\na/ct.nii.gz\r\n  \n./a/ct.nii.gz\nb/ct.nii.gz\nc\nno.nii.gz\n"
        + os.fsencode(tmp_path / "b/ct.nii.gz")
    )
    found = find_listed(read_list("list"), Card())
    assert places(found, tmp_path / "out") == {
        "a/ct.nii.gz": "a/ct_prediction",
        "b/ct.nii.gz": "b/ct_prediction",
        "c/d/1.nii.gz": "c/d/1_prediction",
        "c/e f/ 2.nii.gz": "c/e f/ 2_prediction",
        "no.nii.gz": "no_prediction",
    }
    (label,) = places(find_listed([str(tmp_path / "a/ct.nii.gz")], Card()), tmp_path)
    assert f"/{label}" == str(tmp_path / "a/ct.nii.gz"), "the folders that the line names"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), (b"# no\n\n", "names no path"), (b"a\0b", "is no text")],
)
def test_a_list_that_is_none_is_one_line(tmp_path, content, told):
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        pred.main(["--list", str(path), "--out", str(tmp_path / "out")])


def test_lines_that_do_not_exist_fail_and_the_others_are_masked(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    disc = cv2.circle(np.zeros((128, 128), np.uint8), (64, 64), 40, 120, -1)
    cv2.imwrite(str(tmp_path / "in/x.png"), disc)
    lines = [tmp_path / name for name in ("in/x.png", "no.png", "no.nii.gz", "no/x.img", "no")]
    text = "\n".join(map(str, lines)).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert pred.main(["--list", "-", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    errors = [line for line in told if line.startswith("error: ")]
    assert len(errors) == 4 and all("does not exist" in line for line in errors)
    (result,) = (tmp_path / "out").rglob("x.json")
    assert json.loads(result.read_text())["label"] == str(tmp_path / "in/x.png").lstrip("/")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give a scan"),
        (["--bids"], "--bids takes one path"),
        (["a", "--subjects", "01"], "add --bids"),
        (["a", "--bids", "--format", "png"], "add nii"),
    ],
)
def test_options_that_name_no_scans_are_one_line(words, told):
    with pytest.raises(InputError, match=told):
        pred.main(words)
