"""Splits, the files of a dataset, and runs that are interrupted or changed."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import (
    all_pairs,
    contents,
    head,
    image_at,
    make_ct_set,
    make_mri_set,
    mri,
    save_mri,
    save_nifti,
    save_scan,
    save_scans,
    touch,
)
from scipy import ndimage

from common.errors import InputError
from common.files import read_json
from dataset.make import split_apart, split_cases, write_rows
from dataset.options import Options
from dataset.read import SPLITS, read_dataset, read_description, read_pair
from dataset.records import write_records
from scan.picture import write_picture
from scan.views import VIEWS


def test_splits_are_by_case_whole_and_repeatable():
    shares = (80, 10, 10)
    for seed in range(40):
        count = seed + 1
        cases = [f"c{i}" for i in range(count)]
        splits = split_cases(cases, seed, shares)
        assert sorted(sum(splits.values(), [])) == sorted(cases)  # each once, none lost
        assert splits == split_cases(cases[::-1] * 2, seed, shares)
        sizes = [len(splits[s]) for s in SPLITS]
        if count >= 10:
            assert np.abs(np.array(sizes) - count * np.array(shares) / 100).max() < 1
        if count >= 3:
            assert min(sizes) >= 1
    assert split_cases(cases, 1) != split_cases(cases, 2)


def test_corrected_cases_are_in_training_and_some_are_held_out():
    passed = [f"p{number}" for number in range(40)]
    for count in (1, 2, 3, 8, 20):
        corrected = [f"c{number}" for number in range(count)]
        splits = split_apart(corrected + passed, Options(corrected=tuple(corrected)))
        ours = [sum(case in corrected for case in splits[s]) for s in ("Train", "Val", "Test")]
        assert sum(map(len, splits.values())) == 40 + count and sum(ours) == count
        assert ours[0] >= max(ours[1:]) and [min(n, 1) for n in ours] == [
            1,
            int(count > 1),
            int(count > 2),
        ]


def test_a_share_of_nothing_gets_nothing():
    splits = split_cases([f"c{i}" for i in range(20)], 0, (70, 10, 20))
    assert [len(splits[s]) for s in SPLITS] == [14, 2, 4]
    splits = split_cases(["a", "b", "c"], 0, (50, 50, 0))
    assert splits["Test"] == [] and splits["Val"]
    assert split_cases(["only"])["Train"] == ["only"]


# ---------------------------------------------------------------- what is written


def test_a_dataset_has_what_the_readme_says(tmp_path):
    make_ct_set(save_scans(tmp_path / "scans", 10), tmp_path / "out", "--views", *VIEWS, "mip")
    card = json.loads((tmp_path / "out/dataset.json").read_text())
    assert card["views"] == [*VIEWS, "mip"] and card["size"] == 32
    assert card["window"] == [-200, 800] and card["channels"] == ["ct"]
    assert [len(card["splits"][s]) for s in SPLITS] == [8, 1, 1]
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert set(rows.view) == {*VIEWS, "mip"}
    assert rows.groupby("case").split.nunique().max() == 1
    assert (rows[rows.view == "mip"].groupby("case").size() == 1).all()
    files = {p for p in contents(tmp_path / "out") if p.endswith(".png")}
    assert files == {*rows.image, *rows["mask"]}
    for row in rows.itertuples():
        image, mask = image_at(tmp_path / "out" / row.image), image_at(tmp_path / "out" / row.mask)
        assert image.shape == mask.shape == (32, 32) and image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        assert np.count_nonzero(mask) == row.brain_pixels
    assert not (tmp_path / "out/.scans").exists()


def test_a_dataset_of_mri_says_what_it_is(tmp_path):
    cases = save_mri(tmp_path / "cases", 5)
    make_mri_set(cases, tmp_path / "out", "--licence", "mine")
    about = read_json(tmp_path / "out/dataset.json")
    assert about["channels"] == ["flair", "t1ce"] and about["dimensions"] == 2
    assert about["normalise"] == "zscore" and about["format"] == "png" and "window" not in about
    assert about["labels"] == {"1": "necrotic core", "2": "oedema", "3": "enhancing tumour"}
    assert about["label_values"] == {"1": 1, "2": 2, "3": 4}
    assert about["regions"]["tumour core"] == [1, 3]
    assert about["spacing_mm"] == 1 and about["size"] == 30
    files = about["cases"]["case3"]
    assert Path(files["files"]["t1ce"]).samefile(cases / "case3/case3_t1ce.nii.gz")
    assert Path(files["labels"]).samefile(cases / "case3/case3_seg.nii.gz")
    assert [len(about["splits"][split]) for split in SPLITS] == [3, 1, 1]


def same_pairs(first, second):
    """Whether two datasets give the same pairs, bit for bit; returns how many."""
    count = 0
    for ours, theirs in zip(all_pairs(first), all_pairs(second), strict=True):
        assert (ours.case, ours.view) == (theirs.case, theirs.view)
        for a, b in zip(read_pair(ours), read_pair(theirs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        count += 1
    return count


def test_png_and_tfrecord_give_the_same_pairs_of_mri(tmp_path):
    cases = save_mri(tmp_path / "cases", 3)
    for form in ("png", "tfrecord"):
        make_mri_set(cases, tmp_path / form, "--slices", 5, "--format", form)
    assert same_pairs(tmp_path / "png", tmp_path / "tfrecord") == 45
    files = sorted(path.name for path in (tmp_path / "tfrecord").rglob("*.*"))
    assert files == [*(f"case{i}.tfrecord.gz" for i in range(3)), "dataset.json", "manifest.csv"]


@pytest.mark.parametrize("window", ["hu", None])
def test_png_and_tfrecord_give_the_same_pairs_of_ct(tmp_path, window):
    scans = save_scans(tmp_path / "scans", 3)
    more = ["--window", window] if window else []
    for form in ("png", "tfrecord"):
        make_ct_set(scans, tmp_path / form, "--slices", 4, "--format", form, *more)
    assert same_pairs(tmp_path / "png", tmp_path / "tfrecord") == 36
    image, mask = read_pair(all_pairs(tmp_path / "tfrecord")[5])
    assert image.dtype == (np.float32 if window else np.uint8) and mask.dtype == bool


def test_fewer_than_ten_cases_are_said(tmp_path, capsys):
    make_ct_set(save_scans(tmp_path / "scans", 4), tmp_path / "out", "--views", "axial")
    assert "fewer than 10 cases" in capsys.readouterr().err


def test_visits_of_a_patient_stay_together(tmp_path):
    cases = save_mri(tmp_path / "cases", 6)
    for index in range(6):
        name = f"BraTS-GLI-0000{index // 3}-00{index % 3}"
        (cases / f"case{index}").rename(cases / name)
    make_mri_set(cases, tmp_path / "out", "--slices", 2)
    rows = pd.read_csv(tmp_path / "out/manifest.csv")
    assert rows.scan.nunique() == 6 and rows.case.nunique() == 2
    assert (rows.groupby("case").split.nunique() == 1).all()


# ---------------------------------------------------------------- interrupted, changed, broken


def test_an_interrupted_run_continues_to_the_same_result(tmp_path, monkeypatch):
    scans = save_scans(tmp_path / "scans", 5)
    make_ct_set(scans, tmp_path / "whole", "--slices", 5)
    write, seen = write_picture, []

    def die(path, picture):
        seen.append(path)
        if len(seen) == 70:  # amid the third scan
            path.write_bytes(b"half a pict")
            raise RuntimeError("killed")
        write(path, picture)

    monkeypatch.setattr("dataset.make.write_picture", die)
    with pytest.raises(RuntimeError):
        make_ct_set(scans, tmp_path / "broken", "--slices", 5)
    with pytest.raises(InputError, match="unfinished"):
        read_dataset(tmp_path / "broken")

    def note(path, picture):
        seen.append(path)
        write(path, picture)

    monkeypatch.setattr("dataset.make.write_picture", note)
    del seen[:]
    make_ct_set(scans, tmp_path / "broken", "--slices", 5)
    assert not any("case0" in p.name for p in seen) and any("case4" in p.name for p in seen)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_records_are_finished_after_an_interruption_as_pictures_are(tmp_path, monkeypatch):
    cases = save_mri(tmp_path / "cases", 4)
    make_mri_set(cases, tmp_path / "whole", "--slices", 3, "--format", "tfrecord")
    write, seen = write_records, []

    def die(path, samples):
        seen.append(path)
        if len(seen) == 3:
            next(iter(samples))
            raise RuntimeError("killed")
        return write(path, samples)

    monkeypatch.setattr("dataset.make.write_records", die)
    with pytest.raises(RuntimeError):
        make_mri_set(cases, tmp_path / "broken", "--slices", 3, "--format", "tfrecord")
    with pytest.raises(InputError, match="unfinished"):
        read_dataset(tmp_path / "broken")
    make_mri_set(cases, tmp_path / "broken", "--slices", 3, "--format", "tfrecord")
    assert len(seen) == 5, "the two finished cases were not done again"
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_kill_while_finishing_leaves_no_row_twice(tmp_path, monkeypatch):
    scans = save_scans(tmp_path / "scans", 3)
    make_ct_set(scans, tmp_path / "whole", "--slices", 3)

    def die(*args, **kwargs):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("dataset.make.shutil.rmtree", die)
        with pytest.raises(RuntimeError):
            make_ct_set(scans, tmp_path / "broken", "--slices", 3)
    make_ct_set(scans, tmp_path / "broken", "--slices", 3)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "changed, said",
    [
        (["--slices", 4], "--slices was 3, is now 4"),
        (["--window", "hu"], "--window was -200.0 800.0, is now hu"),
        (["--seed", 1], "--seed was 0, is now 1"),
        (["--size", 48], "--size was 32, is now 48"),
    ],
)
def test_a_changed_option_is_refused_and_named(tmp_path, changed, said):
    scans = save_scans(tmp_path / "scans", 2)
    make_ct_set(scans, tmp_path / "out", "--slices", 3)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        make_ct_set(scans, tmp_path / "out", "--slices", 3, *changed)
    assert said in str(caught.value) and "--overwrite" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_a_dataset_of_before_there_were_these_options_is_gone_on_with(tmp_path):
    scans = save_scans(tmp_path / "scans", 3)
    make_ct_set(scans, tmp_path / "out", "--slices", 3)
    path = tmp_path / "out/dataset.json"
    about = json.loads(path.read_text())
    for later in ("channels", "labels", "least", "range", "dimensions", "grid", "fit", "format"):
        del about["options"][later]
    path.write_text(json.dumps(about))
    assert make_ct_set(scans, tmp_path / "out", "--slices", 3) == 0
    with pytest.raises(InputError, match="--format was png, is now tfrecord"):
        make_ct_set(scans, tmp_path / "out", "--slices", 3, "--format", "tfrecord")


def test_overwrite_starts_anew_and_touches_nothing_else(tmp_path):
    scans, out = save_scans(tmp_path / "scans", 2), tmp_path / "out"
    make_ct_set(scans, out)
    (out / "notes.txt").write_text("mine")
    make_ct_set(scans, out, "--views", "axial", "--overwrite")
    assert all("axial" in name for name in contents(out) if name.endswith(".png"))
    assert (out / "notes.txt").read_text() == "mine"


def test_another_set_of_scans_is_refused(tmp_path):
    make_ct_set(save_scans(tmp_path / "scans", 2), tmp_path / "out")
    with pytest.raises(InputError, match="other scans: 2 then, 3 now"):
        make_ct_set(save_scans(tmp_path / "scans", 3), tmp_path / "out")


def test_a_dataset_made_elsewhere_is_left_alone(tmp_path):
    touch(tmp_path / "out/Train/images/mine.png")
    with pytest.raises(InputError, match="choose another --out"):
        make_ct_set(save_scans(tmp_path / "scans", 1), tmp_path / "out", "--overwrite")
    assert list(contents(tmp_path / "out")) == ["Train/images/mine.png"]


def test_a_bad_mask_stops_its_own_case_alone(tmp_path, capsys):
    scans = save_scans(tmp_path / "scans", 3)
    save_scan(head(shape=(8, 8, 8))[1], scans / "case1_mask.nii.gz")
    with pytest.raises(InputError, match="1 of 3 scans"):
        make_ct_set(scans, tmp_path / "out")
    assert "case1_mask.nii.gz" in capsys.readouterr().err
    pairs = sum(read_dataset(tmp_path / "out").values(), [])
    assert {pair.case for pair in pairs} == {"case0", "case2"}
    assert "case1" not in str(read_description(tmp_path / "out").splits)
    save_scan(head(1)[1], scans / "case1_mask.nii.gz")  # mended: the same command finishes it
    assert make_ct_set(scans, tmp_path / "out") == 0
    make_ct_set(scans, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_modalities_of_two_grids_stop_their_own_case_alone(tmp_path, capsys):
    cases = save_mri(tmp_path / "cases", 4)
    nib.save(nib.Nifti1Image(mri()[0][:20, ..., 1], np.eye(4)), cases / "case1/case1_t1ce.nii.gz")
    with pytest.raises(InputError, match="1 of 4 scans"):
        make_mri_set(cases, tmp_path / "out")
    assert "case1_t1ce.nii.gz has shape (20, 30, 24)" in capsys.readouterr().err
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"case0", "case2", "case3"}


# ---------------------------------------------------------------- masks that look wrong


def bad_masks():
    """Masks of `head`, as they are wrong, and what is said of each."""
    mask = head()[1].astype(np.float32)
    speck, labels, beside = 0 * mask, mask.copy(), np.roll(mask, (9, 12), (0, 1))
    speck[10, 13, 9:11] = 1
    labels[:10] *= 2
    return {
        "empty": (0 * mask, "is empty"),
        "everything": (0 * mask + 1, "labels the whole scan"),
        "a speck": (speck, "covers .*% of the head in its largest slice: far too small"),
        "the head": (np.float32(head()[0] > -300), r"holds \d+% of bone: far too large"),
        "beside": (beside, r"lies in air with \d+% of it"),
        "inverted": (1 - mask, r"lies in air with \d+% of it \(inverted"),
        "several labels": (labels, r"holds the values 1 \(.*%\), 2 \(.*%\), and one label"),
        "below 0": (-mask, r"holds the values -1 \(.*%\)"),
    }


@pytest.mark.parametrize("kind", bad_masks())
def test_a_mask_that_looks_wrong_is_named_and_left_out(tmp_path, capsys, kind):
    mask, said = bad_masks()[kind]
    scans = save_scans(tmp_path / "scans", 3)
    save_nifti(scans / "case1_mask.nii.gz", np.float64(mask))
    more = ["--views", "axial"]
    with pytest.raises(InputError, match="1 of 3 scans"):
        make_ct_set(scans, tmp_path / "out", *more)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "case1" in x and "warning" in x]
    assert re.search(f"case1_mask.nii.gz {said}", line)
    assert {pair.case for pair in all_pairs(tmp_path / "out")} == {"case0", "case2"}
    if "--trust-masks" in line:  # the same command goes on with them
        assert make_ct_set(scans, tmp_path / "out", *more, "--trust-masks") == 0
        assert len({pair.case for pair in all_pairs(tmp_path / "out")}) == 3
    else:
        assert "holds the values" in line


@pytest.mark.parametrize("value", [0.4, 1 / 255, 90, 255])
def test_a_mask_of_one_value_is_that_mask(tmp_path, capsys, value):
    scans = save_scans(tmp_path / "scans", 1)
    make_ct_set(scans, tmp_path / "sound")
    capsys.readouterr()
    mask = np.where(head()[1], float(value), 0)
    mask[0, 0, 0] = np.nan
    save_nifti(scans / "case0_mask.nii.gz", mask)
    make_ct_set(scans, tmp_path / "out")
    assert same_pairs(tmp_path / "sound", tmp_path / "out") > 20
    assert (f"{value:.4g} was taken as the label" in capsys.readouterr().err) == (value < 1)


def test_a_resampled_mask_ends_at_half(tmp_path, capsys):
    scans = save_scans(tmp_path / "scans", 1)
    make_ct_set(scans, tmp_path / "sound")
    soft = ndimage.gaussian_filter(head()[1].astype(float), 0.4)
    save_nifti(scans / "case0_mask.nii.gz", soft)
    make_ct_set(scans, tmp_path / "out")
    assert "case0_mask.nii.gz: its edges are softened" in capsys.readouterr().err
    for sound, pair in zip(all_pairs(tmp_path / "sound"), all_pairs(tmp_path / "out"), strict=True):
        assert np.count_nonzero(read_pair(sound)[1] != read_pair(pair)[1]) < 20


def test_an_mri_without_labels_or_with_those_of_another_is_left_out(tmp_path, capsys):
    cases = save_mri(tmp_path / "cases", 4)
    labels = mri(1)[1]
    for case, array in (("case1", 0 * labels), ("case2", np.roll(labels, 13, 0))):
        nib.save(
            nib.Nifti1Image(array, np.diag([-1, -1, 1, 1])), cases / case / f"{case}_seg.nii.gz"
        )
    with pytest.raises(InputError, match="2 of 4 scans"):
        make_mri_set(cases, tmp_path / "out")
    said = capsys.readouterr().err
    assert "case1_seg.nii.gz holds no label; left out" in said
    assert re.search(r"case2_seg.nii.gz has \d+% of its labels outside the brain", said)
    assert make_mri_set(cases, tmp_path / "out", "--trust-masks") == 0


@pytest.mark.parametrize("form", ["png", "tfrecord"])
def test_the_split_is_made_of_sound_cases(tmp_path, form, monkeypatch):
    """Where the cases drawn for Val and Test are left out, others take their place."""
    scans, out, more = save_scans(tmp_path / "scans", 5), tmp_path / "out", ["--format", form]
    drawn = split_cases([f"case{i}" for i in range(5)])
    for case in drawn["Val"] + drawn["Test"]:
        save_scan(0 * head()[1], scans / f"{case}_mask.nii.gz")

    def die(path, rows):
        if path.name == "manifest.csv":
            raise RuntimeError("killed")
        write_rows(path, rows)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr("dataset.make.write_rows", die)  # files are moved, and no row is written
        make_ct_set(scans, out, *more)
    for _ in range(2):
        with pytest.raises(InputError, match="2 of 5 scans"):
            make_ct_set(scans, out, *more)
        found = read_dataset(out)
        assert all(found.values()), "no split is empty"
        cases = {split: {pair.case for pair in pairs} for split, pairs in found.items()}
        assert cases == {s: set(c) for s, c in read_description(out).splits.items()}
        assert sum(map(len, cases.values())) == 3
        assert all(read_pair(pair)[1].shape == (32, 32) for pair in all_pairs(out))
    for case in drawn["Val"] + drawn["Test"]:
        save_scan(head(int(case[-1]))[1], scans / f"{case}_mask.nii.gz")
    make_ct_set(scans, out, *more)
    make_ct_set(scans, tmp_path / "fresh", *more)
    assert contents(out) == contents(tmp_path / "fresh")
