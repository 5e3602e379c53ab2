"""Which file of an MRI case is which, and whether they lie on one grid."""

import json

import nibabel as nib
import numpy as np
import pytest

from common.errors import InputError
from scan.cases import Case, find_case, find_cases
from scan.nifti import read_labels, write_mask
from scan.pairs import find_picture_cases
from scan.read import read_case, read_volume

SHAPE = (8, 9, 7)


def save(path, array=None, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE) if array is None else array
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
    return path


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


# ---------------------------------------------------------------- names

NAMES = {
    "2013": ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "T1_x", "T2_x", "OTMultiClass"),
    "2013 VSD": tuple(
        f"VSD.Brain.XX.O.{m}.54512" for m in ("MR_Flair", "MR_T1c", "MR_T1", "MR_T2", "OT")
    ),
    "2017": tuple(f"Brats17_TCIA_100_1_{m}" for m in ("flair", "t1ce", "t1", "t2", "seg")),
    "2020 by hand": ("W39_flair", "W39_t1ce", "W39_t1", "W39_t2", "W39_1998.09.19_Segm"),
    "2021": tuple(f"BraTS2021_00000_{m}" for m in ("flair", "t1ce", "t1", "t2", "seg")),
    "2023": tuple(f"BraTS-GLI-00000-000-{m}" for m in ("t2f", "t1c", "t1n", "t2w", "seg")),
    "UPENN": tuple(f"UPENN-GBM-00001_11_{m}" for m in ("FLAIR", "T1GD", "T1", "T2", "segm")),
    "TCGA": tuple(
        f"TCGA-02-0006_1996.08.23_{m}"
        for m in ("flair", "t1Gd", "t1", "t2", "GlistrBoost_ManuallyCorrected")
    ),
    "UCSF": tuple(
        f"UCSF-PDGM-0004_{m}" for m in ("FLAIR", "T1c", "T1", "T2", "tumor_segmentation")
    ),
    "UCSD": tuple(
        f"UCSD-PTGBM-0002_01_{m}" for m in ("FLAIR", "T1post", "T1pre", "T2", "BraTS_tumor_seg")
    ),
    "meningioma": tuple(f"BraTS-MEN-00004-000-{m}" for m in ("t2f", "t1c", "t1n", "t2w", "seg")),
    "radiotherapy": tuple(f"BraTS-MEN-RT-0001-1_{m}" for m in ("t2f", "t1c", "t1n", "t2w", "gtv")),
    "after treatment": tuple(
        f"PatientID_0003_Timepoint_1_{m}"
        for m in ("brain_t2f", "brain_t1c", "brain_t1n", "brain_t2w", "tumorMask")
    ),
    "BIDS": tuple(f"sub-01_{m}" for m in ("FLAIR", "ce-GADOLINIUM_T1w", "T1w", "T2w", "dseg")),
    "in words": ("p1 T2-FLAIR", "p1 T1 post", "p1 T1w", "p1 T2w", "p1 label"),
}
KINDS = ("flair", "t1ce", "t1", "t2", "seg")


@pytest.mark.parametrize("year", NAMES)
def test_modalities_are_known_by_the_names_of_every_year(tmp_path, year):
    for ending in (".nii.gz", ".nii"):
        folder = tmp_path / ending / "case_7"
        others = ("brainmask.nii.gz", "x_brain_segmentation.nii", "x_T1c_bias.nii", "notes.txt")
        touch(folder, *(name + ending for name in NAMES[year]), *others, "x_GlistrBoost.nii.gz")
        case = find_case(folder, KINDS[:4])
        found = {**case.files, "seg": case.labels}
        assert {k: p.name for k, p in found.items()} == {
            kind: name + ending for kind, name in zip(KINDS, NAMES[year], strict=True)
        }
        assert case.name == "case_7" and list(case.files) == list(KINDS[:4])


def test_the_order_of_the_channels_is_the_one_asked_for(tmp_path):
    touch(tmp_path, "x_flair.nii", "x_t1ce.nii")
    case = find_case(tmp_path, ("t1ce", "flair"))
    assert list(case.files) == ["t1ce", "flair"] and case.labels is None


def test_patterns_and_channels_of_another_kind(tmp_path):
    touch(tmp_path / "p1", "p1_FL.nii.gz", "p1_gado.nii.gz", "p1_adc.nii.gz", "p1_lesion.nii.gz")
    patterns = {"flair": "*_fl.nii*", "t1ce": "*GADO*", "seg": "*lesion*"}
    found, left_over = find_cases(tmp_path, ("flair", "t1ce", "adc"), patterns)
    assert not left_over and [c.name for c in found] == ["p1"]
    assert [p.name for p in found[0].files.values()] == [
        "p1_FL.nii.gz",
        "p1_gado.nii.gz",
        "p1_adc.nii.gz",
    ]


def test_cases_lie_in_a_tree_or_side_by_side(tmp_path):
    for name in ("HGG/a", "LGG/b"):
        touch(tmp_path / name, "x_flair.nii.gz", "x_seg.nii.gz")
    touch(tmp_path / "flat", *(f"{c}{m}.nii" for c in ("c", "d") for m in ("_flair", "-seg")))
    found, left_over = find_cases(tmp_path, ["flair"])
    assert [case.name for case in found] == ["a", "b", "c", "d"] and not left_over
    assert [case.labels.name for case in found[2:]] == ["c-seg.nii", "d-seg.nii"]


def test_incomplete_cases_are_named_and_left_out(tmp_path):
    touch(tmp_path / "good", "x_flair.nii", "x_t1c.nii", "x_seg.nii")
    touch(tmp_path / "bare", "x_flair.nii", "x_t1c.nii")
    touch(tmp_path / "poor", "x_flair.nii", "x_seg.nii")
    touch(tmp_path / "twice", "x_flair.nii", "x_flair.nii.gz", "x_t1c.nii", "x_seg.nii")
    found, left_over = find_cases(tmp_path, ["flair", "t1ce"])
    assert [case.name for case in found] == ["good"]
    said = "\n".join(left_over)
    assert "no seg volume in bare" in said and "no t1ce volume in poor" in said
    assert "several flair volumes in" in said and len(left_over) >= 3
    with pytest.raises(InputError, match="found no case with t2 and labels.*--names"):
        find_cases(tmp_path, ["t2"])


def test_folders_called_like_files_stand_for_the_file_in_them(tmp_path):
    for kind in ("flair", "t1ce", "seg"):
        touch(tmp_path / "B_1" / f"B_1_{kind}.nii", f"00000057_brain_{kind}.nii")
    found, left_over = find_cases(tmp_path, ["flair", "t1ce"])
    assert [case.name for case in found] == ["B_1"] and not left_over
    assert found[0].files["t1ce"].name == "00000057_brain_t1ce.nii"
    assert found[0].labels.name == "00000057_brain_seg.nii"
    touch(tmp_path / "B_1" / "B_1_flair.nii", "another.nii")
    with pytest.raises(InputError, match="put one file into it"):
        find_cases(tmp_path, ["flair", "t1ce"])


def test_a_folder_for_each_modality(tmp_path):
    for patient in ("pat_1", "pat_2"):
        for kind in ("MR_Flair.1", "MR_T1c.2", "OT.3"):
            touch(tmp_path / patient / f"VSD.{kind}", f"VSD.{kind}.nii")
    found, left_over = find_cases(tmp_path, ["flair", "t1ce"])
    assert [case.name for case in found] == ["pat_1", "pat_2"] and not left_over


def test_cases_of_one_name_in_two_folders_are_two(tmp_path):
    for patient in ("sub-01", "sub-02"):
        touch(tmp_path / patient / "anat", "x_flair.nii", "x_seg.nii")
    assert [case.name for case in find_cases(tmp_path, ["flair"])[0]] == [
        "sub-01_anat",
        "sub-02_anat",
    ]


def test_labels_in_a_folder_of_their_own(tmp_path):
    for patient in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"):
        touch(tmp_path / "structural" / patient, f"{patient}_FLAIR.nii", f"{patient}_T1GD.nii")
        touch(tmp_path / "segm", f"{patient}_segm.nii")
    found, left_over = find_cases(tmp_path, ["t1ce", "flair"])
    assert [case.patient for case in found] == ["UPENN-GBM-00001", "UPENN-GBM-00002"]
    assert [case.labels.name for case in found] == [f"{case.name}_segm.nii" for case in found]
    assert not left_over


def test_channels_by_the_dataset_json_of_nnu_net(tmp_path):
    said = {"channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd"}, "numTraining": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(said))
    touch(tmp_path / "imagesTr", *(f"B_001_000{number}.nii.gz" for number in range(3)))
    touch(tmp_path / "labelsTr", "B_001.nii.gz")
    (case,) = find_cases(tmp_path, ["t1ce", "flair"])[0]
    assert [path.name for path in case.files.values()] == ["B_001_0002.nii.gz", "B_001_0000.nii.gz"]
    assert (case.name, case.labels.name) == ("B_001", "B_001.nii.gz")


@pytest.mark.parametrize(
    "names, said",
    [
        (
            ("p1_FL.nii", "p1_gado.nii"),
            r"holds p1_FL.nii, p1_gado.nii, so a GLOB may be '\*_FL.nii'",
        ),
        (("p1_flair.nii", "p1_lesion.nii"), r"p1_lesion.nii is it, .*--names 'seg=\*_lesion.nii'"),
        (("p1_flair.nii", "p1_GlistrBoost.nii"), r"--names 'seg=\*_GlistrBoost.nii'"),
        ((), "holds no NIfTI file"),
    ],
)
def test_names_are_proposed_by_the_files_that_were_seen(tmp_path, names, said):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=said):
        find_cases(tmp_path, ["flair"])


def test_a_label_volume_of_an_odd_name_is_named_beside_the_case_without(tmp_path):
    touch(tmp_path, "B_354_flair.nii", "B_354_seg.nii", "B_355_flair.nii", "W39_1998_Segm.nii")
    found, left_over = find_cases(tmp_path, ["flair"])
    assert [case.name for case in found] == ["B_354"]
    assert "if W39_1998_Segm.nii is it, call it B_355_seg.nii" in left_over[0]
    for path in tmp_path.glob("B_354*"):
        path.unlink()
    (tmp_path / "355").mkdir()
    for path in tmp_path.glob("*.nii"):
        path.rename(tmp_path / "355" / path.name)
    assert find_cases(tmp_path, ["flair"])[0][0].labels.name == "W39_1998_Segm.nii"


def test_patterns_tell_the_cases_of_one_folder_apart(tmp_path):
    touch(tmp_path, *(f"{case}_{kind}.nii.gz" for case in ("p1", "p2") for kind in ("FL", "drawn")))
    found, left_over = find_cases(tmp_path, ["flair"], {"flair": "*_FL.nii*", "seg": "*_drawn*"})
    assert [(c.name, c.labels.name) for c in found] == [
        ("p1", "p1_drawn.nii.gz"),
        ("p2", "p2_drawn.nii.gz"),
    ]


@pytest.mark.parametrize(
    "names, said",
    [
        ((), "no NIfTI file"),
        (("x_flair.nii",), "no t1ce volume"),
        (("a_flair.nii", "a_t1c.nii", "b_flair.nii", "b_t1c.nii"), "holds 2 cases"),
    ],
)
def test_what_is_not_one_case_is_refused(tmp_path, names, said):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=said):
        find_case(tmp_path, ["flair", "t1ce"])


@pytest.mark.parametrize(
    "name, patient",
    [
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("sub-07_ses-02", "sub-07"),
        ("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001"),
        ("PatientID_0003_Timepoint_1", "PatientID_0003"),
        ("BraTS2021_00000", "BraTS2021_00000"),
        ("Brats17_TCIA_100_1", "Brats17_TCIA_100_1"),
    ],
)
def test_visits_of_one_patient_are_known(name, patient):
    assert Case(name, {}).patient == patient


def test_slices_in_pictures_are_gathered_by_case(tmp_path):
    for case in ("TCGA_CS_4941", "TCGA_DU_5851"):
        names = [f"{case}_{n}{m}.tif" for n in (1, 2, 10) for m in ("", "_mask")]
        touch(tmp_path / case, *names, "notes.csv")
    touch(tmp_path / "TCGA_CS_4941", "TCGA_CS_4941_11.tif")
    found, left_over = find_picture_cases(tmp_path)
    assert list(found) == ["TCGA_CS_4941", "TCGA_DU_5851"] and len(left_over) == 1
    assert [(n, i.name, m.name) for n, i, m in found["TCGA_DU_5851"]] == [
        (n, f"TCGA_DU_5851_{n}.tif", f"TCGA_DU_5851_{n}_mask.tif") for n in (1, 2, 10)
    ]
    touch(tmp_path / "TCGA_DU_5851", "TCGA_DU_5851_01.tif", "TCGA_DU_5851_01_mask.tif")
    assert any("has its number" in line for line in find_picture_cases(tmp_path)[1])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="neither NIfTI cases nor slices"):
        find_picture_cases(tmp_path / "bare")


def test_slices_of_one_name_in_two_folders_are_two_cases(tmp_path):
    for patient in ("one", "two"):
        touch(tmp_path / patient, "img_1.png", "img_1_mask.png")
        touch(tmp_path / patient / "slices", "a.png", "a_mask.png", "b.png", "b_mask.png")
    found, left_over = find_picture_cases(tmp_path)
    assert list(found) == ["one_img", "one_slices", "two_img", "two_slices"] and not left_over
    assert [(n, i.name) for n, i, _ in found["two_slices"]] == [(0, "a.png"), (1, "b.png")]
    assert found["one_img"][0][1].parent.name == "one"


# ---------------------------------------------------------------- grids and values


def case_of(folder, **arrays):
    for name, (array, affine) in arrays.items():
        save(folder / f"x_{name}.nii.gz", array, affine)
    return find_case(folder, list(arrays))


def test_modalities_are_stacked_in_one_orientation_however_they_are_stored(tmp_path):
    array, affine = np.random.default_rng(0).normal(0, 900, SHAPE), np.diag([2.0, 2, 3, 1])
    affine[:3, 3] = (5, -7, 9)
    turned = affine @ np.diag([-1.0, -1, 1, 1])
    turned[:3, 3] = (affine @ [SHAPE[0] - 1, SHAPE[1] - 1, 0, 1])[:3]
    case = case_of(tmp_path, flair=(array, affine), t1ce=(array[::-1, ::-1] * 2, turned))
    scan, image = read_case(case)
    assert image.shape == (*SHAPE, 2) and image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0], array, rtol=1e-6)
    np.testing.assert_allclose(image[..., 1], 2 * array, rtol=1e-6)  # -2000 is no padding here
    np.testing.assert_allclose(scan.affine, affine)


def test_what_is_no_number_becomes_nought(tmp_path):
    array = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)
    array[0, 0, 0] = np.nan
    scan, image = read_case(case_of(tmp_path, flair=(array, np.eye(4))))
    assert image[0, 0, 0, 0] == 0 and "taken as 0" in scan.notes[0]


@pytest.mark.parametrize("kind", ["shape", "place", "spacing", "flat"])
def test_modalities_of_another_grid_are_refused(tmp_path, kind):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    other, affine = array, np.eye(4)
    if kind == "shape":
        other = array[:-1]
    elif kind == "flat":
        other = np.full(SHAPE, 7)
    elif kind == "place":
        affine[0, 3] = 0.5
    else:
        affine[2, 2] = 1.2
    case = case_of(tmp_path, flair=(array, np.eye(4)), t1ce=(other, affine))
    with pytest.raises(InputError, match="x_t1ce.nii.gz") as caught:
        read_case(case)
    assert ("shows nothing" if kind == "flat" else "register them") in str(caught.value)


def test_labels_of_another_grid_or_of_no_labels_are_refused(tmp_path):
    scan = read_volume(save(tmp_path / "x.nii"), is_hu=False)
    moved = save(tmp_path / "moved.nii", np.zeros(SHAPE), np.diag([1, 1, 2, 1.0]))
    halves = save(tmp_path / "halves.nii", np.full(SHAPE, 0.5))
    negative = save(tmp_path / "negative.nii", np.full(SHAPE, -1))
    for path, said in (
        (moved, "drawn on this scan"),
        (halves, "no label volume"),
        (negative, "no label volume"),
    ):
        with pytest.raises(InputError, match=said):
            read_labels(path, scan)


def test_labels_are_written_on_the_cases_own_grid(tmp_path):
    affine = np.diag([-2.0, -2, 3, 1])
    scan = read_volume(save(tmp_path / "x.nii.gz", affine=affine), is_hu=False)
    labels = np.random.default_rng(0).choice([0, 1, 2, 4], scan.hu.shape).astype(np.uint8)
    write_mask(labels, scan, tmp_path / "seg.nii.gz")
    written = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    assert written.get_data_dtype() == np.uint8 and written.header["cal_max"] == 4
    np.testing.assert_array_equal(read_labels(tmp_path / "seg.nii.gz", scan), labels)
