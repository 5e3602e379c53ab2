"""Which masks of a folder of results are learned from: corrections, and those that passed."""

import json

import pytest
from make import head, save_scan

from common.errors import InputError
from common.files import checksum
from predict.lessons import find_lessons
from predict.ratings import Rating, add_rating, name_result
from predict.result import Target, input_version


def save_result(out, scan, name, corrections=(), **about):
    """A result of a scan, with corrections of it; its folder."""
    folder = out / f"{name}_prediction"
    save_scan(head()[1], folder / f"{name}_mask.nii.gz")
    for when in corrections:
        save_scan(head()[1], folder / f"{name}_corrected_{when}.nii.gz")
    usual = {
        "input": str(scan),
        "input_version": input_version(Target(scan, name, folder)),
        "mask": f"{name}_mask.nii.gz",
        "corrections": [{"file": f"{name}_corrected_{w}.nii.gz", "when": w} for w in corrections],
    }
    (folder / f"{name}.json").write_text(json.dumps(usual | about))
    return folder


def rate(out, folder, mask, rating, when="2026-01-03"):
    digest = checksum(folder / mask)
    add_rating(out, Rating(when, "AB", name_result(folder, out), mask, digest, rating))


@pytest.fixture
def scan(tmp_path):
    return save_scan(head()[0], tmp_path / "in/a.nii.gz")


def name_masks(out):
    lessons, left_out = find_lessons(out)
    return {lesson.name: lesson.mask.name for lesson in lessons}, " ".join(left_out)


def test_the_newest_correction_counts_and_what_passed_without_one(tmp_path, scan):
    out, other = tmp_path / "out", save_scan(head(1)[0], tmp_path / "in/b.nii.gz")
    save_result(out / "p1", scan, "a", ["2026-01-01", "2026-01-02"])
    passed = save_result(out, other, "b", wanted={"series": 7})
    untold = save_scan(head(2)[0], tmp_path / "in/c.nii.gz")
    save_result(out, untold, "c")
    rate(out, passed, "b_mask.nii.gz", "fail", "2026-01-02")
    rate(out, passed, "b_mask.nii.gz", "pass")
    lessons, left_out = find_lessons(out)
    assert [(x.name, x.mask.name, x.is_corrected, x.series) for x in lessons] == [
        ("b", "b_mask.nii.gz", False, 7),
        ("p1_a", "a_corrected_2026-01-02.nii.gz", True, None),
    ]
    assert lessons[1].scan == scan and not left_out


def test_a_correction_that_was_rated_down_and_a_passed_mask_that_changed_since_do_not_count(
    tmp_path, scan
):
    out, other = tmp_path / "out", save_scan(head(1)[0], tmp_path / "in/b.nii.gz")
    kept = save_scan(head(2)[0], tmp_path / "in/c.nii.gz")
    save_result(out, kept, "c", ["2026-01-01"])
    rate(out, save_result(out, scan, "a", ["1"]), "a_corrected_1.nii.gz", "fix")
    passed = save_result(out, other, "b")
    rate(out, passed, "b_mask.nii.gz", "pass")
    save_scan(head(3)[1] * 0, passed / "b_mask.nii.gz")
    found, told = name_masks(out)
    assert list(found) == ["c"] and "a_corrected_1.nii.gz: this correction was rated fix" in told


@pytest.mark.parametrize("harm", ["gone", "changed", "border", "format"])
def test_what_no_longer_fits_its_scan_is_left_out_with_a_line(tmp_path, scan, harm):
    out, other = tmp_path / "out", save_scan(head(1)[0], tmp_path / "in/b.nii.gz")
    save_result(out, other, "b", ["1"])
    about = {"wanted": {"border": 2.0}} if harm == "border" else {}
    folder = save_result(out, scan, "a", ["1"], **about)
    if harm == "gone":
        scan.unlink()
    if harm == "changed":
        save_scan(head(4)[0], scan, coded=False)
        scan.touch()
    if harm == "format":
        text = (folder / "a.json").read_text().replace("corrected_1.nii.gz", "corrected_1.dcm")
        (folder / "a.json").write_text(text)
    found, told = name_masks(out)
    said = {"gone": "is gone", "changed": "has changed", "border": "--border", "format": "NIfTI"}
    assert list(found) == ["b"] and "a_corrected_1" in told and said[harm] in told


def test_of_one_scan_masked_twice_the_newest_mask_counts(tmp_path, scan):
    out = tmp_path / "out"
    save_result(out / "x", scan, "a", ["2026-01-02"])
    save_result(out / "y", scan, "a", ["2026-01-01"])
    found, told = name_masks(out)
    assert list(found) == ["x_a"] and "y/a_prediction" in told and "newer" in told


def test_a_folder_without_any_is_refused(tmp_path, scan):
    save_result(tmp_path / "out", scan, "a")
    with pytest.raises(InputError, match="no mask to learn from"):
        find_lessons(tmp_path / "out")
