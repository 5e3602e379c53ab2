"""Ratings: what the file holds after many writers, kills and editors, and which rating counts."""

import csv
import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
from make import make_result, read_report

from common.errors import InputError
from common.files import checksum
from predict.ratings import (
    COLUMNS,
    NAME,
    Rating,
    add_rating,
    find_newest_mask,
    name_result,
    read_ratings,
    sort_ratings,
)
from predict.summary import collect

RATING = Rating(who="AB", result="x_prediction", mask="x.nii.gz", sha256="0f", rating="pass")


def rate(out, **said):
    return add_rating(out, replace(RATING, **said))


def test_a_rating_is_a_row_below_the_columns_names(tmp_path):
    assert read_ratings(tmp_path) == []
    rows = [rate(tmp_path, rating=word) for word in ("pass", "fix", "fail")]
    assert read_ratings(tmp_path) == rows
    with open(tmp_path / NAME, encoding="utf-8", newline="") as file:
        first, *others = csv.reader(file, delimiter="\t")
    assert tuple(first) == COLUMNS and len(others) == 3 and rows[0].when.endswith("+00:00")
    with pytest.raises(InputError, match="pass, fix, fail, not good"):
        rate(tmp_path, rating="good")
    assert len(read_ratings(tmp_path)) == 3


def test_whatever_is_said_stays_in_its_cell(tmp_path):
    evil = 'one\ttwo\nthree\r\0 "four" \udcff\u2028 =A1'
    said = rate(tmp_path, who=evil, result=evil, note=evil)
    other = rate(tmp_path, note='"')
    assert said.note == r'one\ttwo\nthree\r\x00 "four" \xff\u2028 =A1'
    assert read_ratings(tmp_path) == [said, other]
    with open(tmp_path / NAME, encoding="utf-8", newline="") as file:
        assert [len(row) for row in csv.reader(file, delimiter="\t")] == [len(COLUMNS)] * 3
    assert len(rate(tmp_path, note="x" * 5000).note) == 1000


@pytest.mark.parametrize("torn", ["2026-01-01\tAB\tx", "2026\tAB\tx\tm\t0f\tpass\thalf a no"])
def test_a_torn_line_is_no_rating_and_is_cut_off(tmp_path, torn):
    whole = rate(tmp_path)
    with open(tmp_path / NAME, "a") as file:
        file.write(torn)
    assert read_ratings(tmp_path) == [whole]
    other = rate(tmp_path, rating="fix")
    assert read_ratings(tmp_path) == [whole, other]
    assert torn not in (tmp_path / NAME).read_text()


def test_a_file_that_began_with_a_torn_line_begins_anew(tmp_path):
    (tmp_path / NAME).write_text("when\twho" + "\tx" * 5000)
    row = rate(tmp_path)
    assert read_ratings(tmp_path) == [row]
    assert (tmp_path / NAME).read_text().startswith("\t".join(COLUMNS))


def test_what_an_editor_has_saved_is_read(tmp_path):
    rows = [rate(tmp_path), rate(tmp_path, note="tilted")]
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_ratings(tmp_path) == rows
    with open(tmp_path / NAME, "ab") as file:
        file.write(b"\r\n# no rating\r\n" + b"x" * 200_000 + b"\n")
    assert read_ratings(tmp_path) == rows


def test_a_full_disk_leaves_no_half_row(tmp_path, monkeypatch):
    rate(tmp_path)
    before = (tmp_path / NAME).read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, content: real(file, content[:9]))
    with pytest.raises(InputError, match="the disk is full; this rating is lost"):
        rate(tmp_path)
    assert (tmp_path / NAME).read_bytes() == before


def test_a_link_is_neither_read_nor_written(tmp_path):
    (tmp_path / "elsewhere").write_text("private\n")
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot write"):
        rate(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_ratings(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "private\n"


def rate_for_ever(out, who, said):
    """Rate again and again; tell of each rating once it is acknowledged."""
    for number in range(100_000):
        rate(out, who=who, note=f"{number} {'x' * 900}")
        said.send(number)


def test_two_processes_lose_nothing_and_a_kill_no_row_that_was_acknowledged(tmp_path):
    told = {}
    for turn in range(3):
        writers = {}
        for who in ("AB", "CD"):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("fork").Process(
                target=rate_for_ever, args=(tmp_path, f"{who}{turn}", theirs)
            )
            process.start()
            theirs.close()
            writers[f"{who}{turn}"] = process, ours
        for who, (_, ours) in writers.items():
            while told.setdefault(who, -1) < 20:
                told[who] = ours.recv()
        for who, (process, ours) in writers.items():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            while ours.poll():
                try:
                    told[who] = ours.recv()
                except EOFError:
                    break
    rows = read_ratings(tmp_path)
    for who, last in told.items():
        mine = [int(row.note.split()[0]) for row in rows if row.who == who]
        assert mine == list(range(len(mine))) and len(mine) > last >= 20
    assert {len(row.note.split()[1]) for row in rows} == {900}


# ---------------------------------------------------------------- which counts


def write_masks(folder, *names):
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [checksum(folder / name) for name in names]


def test_the_newest_row_of_the_newest_mask_counts(tmp_path):
    folder = make_result(tmp_path / "p 1", "a.nii.gz")
    first, second = write_masks(folder, "a_predicted_mask.nii.gz", "a_corrected_mask.nii.gz")
    name = name_result(folder, tmp_path)
    assert name == "p 1/a_prediction"
    about = json.loads((folder / "a.json").read_text())
    for word in ("fail", "fix"):
        rate(tmp_path, result=name, sha256=first, rating=word)
    rate(tmp_path, result="p 2/a_prediction", sha256=first, rating="pass")
    find = sort_ratings(read_ratings(tmp_path)).find
    assert find(name, find_newest_mask(folder, about)).rating == "fix"
    corrected = about | {"corrections": [{"file": "a_corrected_mask.nii.gz"}]}
    assert find(name, find_newest_mask(folder, corrected)) is None, "nobody rated the correction"
    rate(tmp_path, result=name, sha256=second)
    find = sort_ratings(read_ratings(tmp_path)).find
    assert find(name, find_newest_mask(folder, corrected)).rating == "pass"
    (folder / "a_predicted_mask.nii.gz").write_bytes(b"predicted anew")
    assert find(name, find_newest_mask(folder, about)) is None
    assert find(name, folder / "gone.nii.gz") is None and find(name, None) is None


def test_a_mask_of_a_bids_dataset_lies_beside_the_folder(tmp_path):
    about = {"mask": "../sub-1_desc-brain_mask.nii.gz"}
    folder = tmp_path / "sub-1_ct_prediction"
    assert find_newest_mask(folder, about) == folder / "../sub-1_desc-brain_mask.nii.gz"
    about["corrections"] = [{"file": "../../sub-1_desc-corrected_mask.nii.gz"}]
    expected = folder / "../sub-1_desc-corrected_mask.nii.gz"
    assert find_newest_mask(folder, about) == expected, "nowhere else"
    assert find_newest_mask(folder, {}) is None


def test_summary_and_report_show_ratings(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        folder = make_result(tmp_path, name)
        (found,) = write_masks(folder, f"{name[0]}_predicted_mask.nii.gz")
        rate(tmp_path, result=name_result(folder, tmp_path), sha256=found, note="<b>leaks</b>")
    write_masks(folder, "b_predicted_mask.nii.gz")
    (folder / "b_predicted_mask.nii.gz").write_bytes(b"another mask since")
    collect(tmp_path)
    with open(tmp_path / "summary.csv", newline="", encoding="utf-8") as file:
        rows = [
            (row["rating"], row["rated_by"], row["rating_note"]) for row in csv.DictReader(file)
        ]
    assert rows == [("pass", "AB", "<b>leaks</b>"), ("", "", "")]
    said = [row[2] for row in read_report(tmp_path)["rows"]]
    assert said == [["rated pass by AB: <b>leaks</b>"], []]
