"""MRI cases: to a network's cubes and back, in patches, and through pred.py and test.py.

The networks are made by hand: they know a tumour's parts by their brightness alone, so that every
label must come back in its own voxel.
"""

import json
import tracemalloc

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import (
    CARD,
    FLAIR,
    T1CE,
    VALUES,
    contrast,
    egg,
    layers,
    make_network,
    run_test,
    write_case,
)

import data
import pred
from common.card import to_card
from common.errors import InputError
from common.report import label_colour
from dataset.read import read_description
from predict.tumour import in_patches, place_patches, read_mri, to_cubes, to_labels
from scan.mask import dice

labels, brain = (
    pytest.fixture(make, scope="module", name=name)
    for make, name in ((layers, "labels"), (egg, "brain"))
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """By slices, by a volume larger than the brain, and by patches far smaller than it."""
    folder = tmp_path_factory.mktemp("networks")
    kinds = {
        "slices": ((48, 48), {"views": ["axial", "sagittal"]}),
        "volume": ((48, 48, 48), {"spacing_mm": 1.0, "views": ["volume"]}),
        "patches": ((16, 24, 8), {"spacing_mm": 1.0, "views": ["volume"]}),
    }
    return {name: make_network(folder / f"{name}.keras", *kind) for name, kind in kinds.items()}


# ---------------------------------------------------------------- patches


@pytest.mark.parametrize("shape", [(10, 8, 6), (33, 20, 17), (16, 8, 8)])
def test_patches_give_back_what_they_were_cut_from(shape):
    cubes = np.random.default_rng(0).random((*shape, 2), np.float32)
    seen = []

    def predict(part):
        seen.append(part.shape[:3])
        return np.concatenate([part, part[..., :1]], -1)

    whole = in_patches(predict, cubes, (16, 8, 8))
    np.testing.assert_allclose(whole, np.concatenate([cubes, cubes[..., :1]], -1), rtol=1e-5)
    assert set(seen) == {(min(16, shape[0]), 8, min(8, shape[2]))}
    single = in_patches(lambda part: part[..., 0], cubes, (16, 8, 8))
    np.testing.assert_allclose(single, cubes[..., 0], rtol=1e-5)


def test_patches_cover_a_volume_and_overlap_by_half():
    seen = np.zeros((50, 16, 20), int)
    found = place_patches(seen.shape, (16, 16, 16))
    for place in found:
        seen[place] += 1
    assert seen.min() >= 1 and len(found) == 6 * 1 * 2
    starts = sorted({place[0].start for place in found})
    assert starts[0] == 0 and starts[-1] == 50 - 16 and max(np.diff(starts)) <= 8


def test_where_patches_disagree_the_nearer_middle_counts():
    blended = in_patches(
        lambda part: np.full(part.shape[:3], part[0, 0, 0, 0]),
        np.indices((24, 8, 8))[0][..., None].astype(np.float32),
        (16, 8, 8),
    )
    line = blended[:, 4, 4]
    assert line[0] == 0 and line[-1] == 8 and (np.diff(line) >= 0).all()
    assert line[12] > 4 > line[11], "half-way between the two"


def test_patches_need_little_more_memory_than_the_answer():
    cubes = np.zeros((96, 96, 96, 4), np.float32)
    tracemalloc.start()
    in_patches(lambda part: part, cubes, (24, 24, 24))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * cubes.nbytes


# ---------------------------------------------------------------- cubes


def source_of(folder):
    return read_mri(folder, to_card(CARD))


def test_voxels_of_the_networks_own_size_are_not_resampled(tmp_path, labels, brain):
    source = source_of(write_case(tmp_path / "x", labels, brain))
    card = to_card(CARD | {"dimensions": 3, "input_shape": [48, 48, 48, 2], "spacing_mm": 1.0})
    cubes, grid = to_cubes(source, card)
    assert cubes.shape == (48, 48, 48, 2) and grid.spacing == 1
    start = np.rint(grid.start - source.scan.affine[:3, 3]).astype(int)
    low = np.array([np.flatnonzero(brain.any(axis=a))[0] for a in ((1, 2), (0, 2), (0, 1))])
    assert (start <= low).all(), "centred on the brain"
    inside = tuple(slice(-s if s < 0 else 0, None) for s in start)
    found = cubes[inside][tuple(slice(0, n) for n in brain.shape)]
    there = source.seen[tuple(slice(max(s, 0), None) for s in start)]
    there = there[tuple(slice(0, n) for n in found.shape[:3])]
    np.testing.assert_allclose(found[tuple(slice(0, n) for n in there.shape[:3])], there, atol=1e-6)


def test_without_a_spacing_the_brain_is_brought_into_the_grid(tmp_path, labels, brain):
    source = source_of(write_case(tmp_path / "x", labels, brain))
    card = to_card(CARD | {"dimensions": 3, "input_shape": [16, 16, 16, 2]})
    cubes, grid = to_cubes(source, card)
    assert cubes.shape[:3] == (16, 16, 16)
    assert grid.spacing == pytest.approx(np.ptp(np.argwhere(brain)[:, 1]) / 16, rel=0.05)
    slices, grid = to_cubes(source, to_card(CARD | {"input_shape": [24, 24, 2]}))
    assert grid.spacing == pytest.approx(48 / 24), "of slices, the whole scan"
    assert slices.shape[:3] == (20, 24, 18)


def test_labels_return_to_an_oblique_scan_of_other_voxels(tmp_path, labels, brain):
    turn = np.array([[0.97, -0.2, 0.1], [0.2, 0.97, 0.05], [-0.1, -0.04, 0.99]])
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(turn)[0] @ np.diag([-1, -1, 1]) @ np.diag([1, 1, 1.5])
    source = source_of(write_case(tmp_path / "x", labels, brain, affine))
    cubes, grid = to_cubes(
        source, to_card(CARD | {"input_shape": [None, None, None, 2], "spacing_mm": 0.8})
    )
    found = to_labels(cubes[..., 0], grid, source)  # bright on FLAIR
    truth = nib.as_closest_canonical(nib.load(tmp_path / "x/x_seg.nii.gz")).get_fdata() > 0
    assert found.dtype == np.uint8 and dice(found > 0, truth) > 0.97
    everywhere = to_labels(np.ones_like(cubes[..., 0]), grid, source)
    np.testing.assert_array_equal(everywhere > 0, source.seen.any(-1))


def test_people_are_shown_flair_wherever_it_stands(tmp_path, labels, brain):
    folder = write_case(tmp_path / "x", labels, brain)
    for names in (["flair", "t1ce"], ["t1ce", "flair"]):
        source = read_mri(folder, to_card(CARD | {"channels": names}))
        flair = np.rint(255 * source.seen[..., names.index("flair")])
        np.testing.assert_array_equal(source.shown.hu, flair)
    assert to_card(CARD | {"channels": ["t1", "t2"]}).shown_channel == 0


# ---------------------------------------------------------------- pred.py


@pytest.mark.parametrize("kind", ["slices", "volume", "patches"])
def test_a_case_gets_its_labels_back_on_its_own_grid(tmp_path, labels, brain, networks, kind):
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = 30, -12, 400
    folder = write_case(tmp_path / "case_7", labels, brain, affine, [[1, -1], [0, 1], [2, 1]])
    words = [str(folder), "--model", str(networks[kind]), "--out", str(tmp_path / "out")]
    assert pred.main(words) == 0
    results = tmp_path / "out/case_7_prediction"
    made = nib.load(results / "case_7_predicted_mask.nii.gz")
    truth = nib.load(folder / "case_7_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(truth.dataobj))
    np.testing.assert_array_equal(made.affine, truth.affine)
    assert made.get_data_dtype() == np.uint8
    about = json.loads((results / "case_7.json").read_text())
    counts = {
        name: np.isin(labels, [int(VALUES[str(n)]) for n in area]).sum() / 1000
        for name, area in to_card(CARD).areas.items()
    }
    assert about["volumes_ml"] == pytest.approx(counts, abs=0.006)
    assert about["label_values"]["enhancing tumour"] == 4
    overlay = cv2.imread(str(results / "case_7_overlay.png"))[..., ::-1]
    for label in (1, 2, 3):
        assert (overlay == label_colour(label)).all(-1).any()
    assert {path.name for path in results.iterdir()} == {
        "case_7.json",
        "case_7_overlay.png",
        "case_7_predicted_mask.nii.gz",
        "case_7_thumbnail.jpg",
    }


def test_a_folder_of_cases_is_done_once_and_a_broken_one_does_not_stop_it(
    tmp_path, labels, brain, networks, capsys
):
    for name in ("a", "deep/b"):
        write_case(tmp_path / "in" / name, labels, brain)
    (tmp_path / "in/c").mkdir()
    (tmp_path / "in/c/c_flair.nii.gz").write_bytes(b"")
    words = [str(tmp_path / "in"), "--model", str(networks["slices"]), "--out"]
    assert pred.main([*words, str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert "no t1ce volume" in shown.err and "1 of 3 inputs failed" in shown.err
    rows = pd.read_csv(tmp_path / "out/summary.csv").set_index("scan")
    assert rows.mL["a"] == rows.mL["deep/b"] == pytest.approx((labels > 0).sum() / 1000, abs=0.06)
    pred.main([*words, str(tmp_path / "out")])
    assert capsys.readouterr().out.count("done before") == 2


def test_what_such_a_network_cannot_use_is_said_in_one_line(tmp_path, labels, brain, networks):
    folder = write_case(tmp_path / "x", labels, brain)
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "slice.png"), np.zeros((8, 8, 3), np.uint8))
    slices, volume = (str(networks[kind]) for kind in ("slices", "volume"))

    def refused(path, model, *more):
        words = [str(path), "--model", model, *more, "--out", str(tmp_path / "out")]
        try:
            return pred.main(words), ""
        except InputError as error:
            return 2, str(error)

    assert refused(tmp_path / "empty", slices) == (
        2,
        f"{tmp_path / 'empty'} holds no file of flair or t1ce, and no picture, "
        "nor do the folders below",
    )
    for path, model, *more in (
        (folder / "x_flair.nii.gz", slices),
        (folder, slices, "--brain"),
        (tmp_path / "slice.png", volume),
    ):
        assert refused(path, model, *more)[0] == 2
    assert not list(tmp_path.glob("out/*prediction/*"))


def write_slice(path, labels, brain):
    """Both channels of a slice as a picture, in the brightness that the networks know."""
    slices = [contrast(values, labels, brain) for values in (FLAIR, T1CE)]
    seen = [np.where(image, (image - 100) * (254 / 800) + 1, 0) for image in slices]
    picture = np.rint(np.dstack([np.zeros_like(seen[0]), *seen[::-1]])).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)  # OpenCV has blue first, and it stays empty


def test_a_slice_of_several_channels_gets_its_labels(tmp_path, labels, brain, networks):
    write_slice(tmp_path / "s.png", labels[:, :, 16], brain[:, :, 16])
    words = [str(tmp_path / "s.png"), "--model", str(networks["slices"]), "--out", str(tmp_path)]
    assert pred.main(words) == 0
    folder = tmp_path / "s_prediction"
    mask = cv2.imread(str(folder / "s_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, labels[:, :, 16])
    assert json.loads((folder / "s.json").read_text())["labelled_pixels"] == (mask > 0).sum()


# ---------------------------------------------------------------- test.py


def test_cases_get_a_row_for_each_label_and_region(tmp_path, labels, brain, networks, capsys):
    write_case(tmp_path / "in/a", labels, brain)
    drawn = write_case(tmp_path / "in/b", labels, brain) / "b_seg.nii.gz"
    other = np.where(labels == 4, 2, labels).astype(np.uint8)  # its rim was taken for oedema
    nib.save(nib.Nifti1Image(other, nib.load(drawn).affine), drawn)
    code, table = run_test(tmp_path / "in", networks["volume"], tmp_path)
    assert code == 0
    assert list(table)[:4] == ["Image", "Region", "Accuracy", "F1"]
    assert table.Image.tolist() == ["a"] * 5 + ["b"] * 5
    rows = table.set_index(["Image", "Region"])
    assert (rows.loc["a"].Dice == 1).all() and (rows.loc["a"].HD95 == 0).all()
    empty = rows.loc[("b", "enhancing tumour")]
    assert empty.Dice == 0 and empty.HD95 == 373.13 and empty["True mL"] == 0
    assert rows.loc[("b", "whole tumour")].Dice == 1
    core, rim = (labels == 1).sum(), (labels == 4).sum()
    assert rows.loc[("b", "tumour core")].Precision == pytest.approx(core / (core + rim), abs=1e-5)
    shown = capsys.readouterr().out
    assert "enhancing tumour: 2 cases, means: Dice 0.5000" in shown and "0.0000 (b)" in shown
    assert cv2.imread(str(tmp_path / "score.png")) is not None
    for kind in ("original_image", "mask", "predicted_mask"):
        assert (tmp_path / f"results/b_prediction/b_{kind}.png").exists()
    written = nib.load(tmp_path / "results/a_prediction/a_predicted_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)


@pytest.mark.parametrize("form", ["png", "tfrecord"])
def test_slices_in_pictures_are_scored_by_label_and_region(tmp_path, labels, brain, networks, form):
    for name in "abc":
        for index in (14, 16, 18):
            path = tmp_path / name / f"{name}_{index}.png"
            write_slice(path, labels[:, :, index], brain[:, :, index])
            cv2.imwrite(str(tmp_path / name / f"{name}_{index}_mask.png"), labels[:, :, index])
    data.main(
        [
            str(tmp_path),
            "--channels",
            "flair",
            "t1ce",
            "--labels",
            "1",
            "2",
            "4",
            "--size",
            "48",
            "--workers",
            "1",
            "--format",
            form,
            "--out",
            str(tmp_path / "set"),
        ]
    )
    code, rows = run_test(tmp_path / "set", networks["slices"], tmp_path)
    (case,) = read_description(tmp_path / "set").splits["Test"]
    assert code == 0 and len(rows) == 3 * 5 and (rows.Dice == 1).all()
    assert set(rows.Image) == {f"{case}_slice_{index:04d}" for index in (14, 16, 18)}
    assert (
        pred.main(
            [
                str(tmp_path / case),
                "--model",
                str(networks["slices"]),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert len(list(tmp_path.glob("out/*_prediction"))) == 3, "masks are no slices"


def test_a_dataset_that_has_no_test_case_is_refused(tmp_path, networks):
    known = {"a": {"files": {}, "labels": "a_seg.nii.gz"}}
    splits = {"Train": ["a"], "Val": [], "Test": []}
    (tmp_path / "dataset.json").write_text(json.dumps({"cases": known, "splits": splits}))
    with pytest.raises(InputError, match="holds no MRI case"):
        run_test(tmp_path, networks["volume"], tmp_path)
