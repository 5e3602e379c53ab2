"""pred.py on DICOM studies: which series, which formats, and no patient's name."""

import shutil

import cv2
import highdicom
import nibabel as nib
import numpy as np
import pytest
from make import FLAIR, GEOMETRY, T1CE, contrast, egg, layers, without, write_dicom
from pydicom.uid import MRImageStorage, generate_uid

from common.files import read_json
from pred import main
from predict.inputs import find_inputs
from predict.result import FOR_SCANS
from scan import dicom_series
from scan.mask import dice
from scan.picture import read_picture
from scan.views import unstack
from scan.volume import POSITIONS

STEP = 2.5  # mm: the fixture's cubes


@pytest.fixture(scope="module")
def study(cta, tmp_path_factory):
    """The phantom as a patient's study: the CTA, and a scout of three slices."""
    folder = tmp_path_factory.mktemp("patients") / "patient"
    hu = cta.hu.transpose(2, 1, 0)[:, ::-1, ::-1]  # slices, rows to the back, columns to the left
    places = np.array([[-100, -100, STEP * k] for k in range(len(hu))])
    write_dicom(
        folder / "1",
        hu,
        places,
        spacing=(STEP, STEP),
        SeriesDescription="Doe Jane CTA",
        PatientPosition="HFS",
        SeriesNumber=1,
    )
    write_dicom(
        folder / "2",
        hu[:3],
        places[:3],
        spacing=(STEP, STEP),
        SeriesNumber=2,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    return folder


@pytest.fixture
def slices(cta, tmp_path):
    """A folder of three axial slices of the phantom without geometry, wider than high; masks."""
    chosen = int(cta.mask.sum((0, 1)).argmax()) + np.arange(0, 6, 2)
    hu, masks = (
        np.pad(volume.transpose(2, 1, 0)[chosen, ::-1, ::-1], ((0, 0), (0, 0), (4, 8)), mode="edge")
        for volume in (cta.hu, cta.mask)
    )
    places = [[0, 0, STEP * k] for k in range(3)]
    folder = write_dicom(tmp_path / "in", hu, places, scales=[(1, -1024)] * 3)
    return without(folder, *GEOMETRY), masks


@pytest.fixture(scope="module")
def predicted(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    formats = ("nii", "dicom-seg", "dicom-sr", "png")
    assert main([str(study), "--format", *formats, "--out", str(out)]) == 0
    return out / "patient_prediction"


def test_a_study_is_one_input_and_its_head_ct_is_taken(study, predicted):
    about = read_json(predicted / "patient.json")
    assert list(find_inputs([study])) == [study] == list(find_inputs([study.parent]))
    assert about["shape"][2] > 3 and about["volume_ml"] > 500
    assert any("series" in note for note in about["notes"])


def test_the_series_can_be_chosen(study, tmp_path):
    assert main([str(study), "--series", "2", "--out", str(tmp_path)]) == 0
    about = read_json(tmp_path / "patient_prediction" / "patient.json")
    assert about["shape"][2] == 3


def test_studies_of_two_patients_are_two_inputs(study, tmp_path, cta):
    hu = cta.hu[:, :, :4].transpose(2, 1, 0)
    places = [[0, 0, STEP * k] for k in range(4)]
    studies = {name: generate_uid() for name in ("a", "b")}
    for name, uid in studies.items():
        write_dicom(tmp_path / name / "1", hu, places, StudyInstanceUID=uid)
    assert list(find_inputs([tmp_path])) == [tmp_path / "a/1", tmp_path / "b/1"]
    for name, uid in studies.items():
        write_dicom(tmp_path / name / "2", hu, places, StudyInstanceUID=uid)
    assert list(find_inputs([tmp_path])) == [tmp_path / "a", tmp_path / "b"]


def slice_result(out, name):
    """The mask picture of a slice's result, and its JSON."""
    folder = out / f"{name}_prediction"
    mask = cv2.imread(str(folder / f"{name}_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    assert (folder / f"{name}_overlay.png").exists()
    return mask, read_json(folder / f"{name}.json")


def test_a_dicom_image_without_geometry_gets_a_slices_mask(slices, tmp_path, capsys):
    (folder, masks), out = slices, tmp_path / "out"
    names = np.random.default_rng(3).permutation(3)  # as write_dicom shuffles them
    assert main([str(folder / f"im{names[0]}"), "--brain", "--out", str(out)]) == 0
    mask, about = slice_result(out, f"im{names[0]}")
    assert mask.shape == masks[0].shape and set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, masks[0]) > 0.9
    assert "ImageOrientationPatient" in about["notes"][0] and "as a slice" in about["notes"][0]
    assert FOR_SCANS in about["notes"] and about["shape"] == list(mask.shape)
    assert about["notes"][0] in capsys.readouterr().err


def test_images_without_geometry_are_an_input_each(slices, tmp_path):
    folder, out = slices[0], tmp_path / "out"
    found = [folder / name for name in ("im0", "im1", "im2")]
    assert list(find_inputs([folder])) == found == list(find_inputs([tmp_path]))
    assert main([str(folder), "--out", str(out)]) == 0
    for name in ("im0", "im1", "im2"):
        mask, about = slice_result(out, name)
        assert about["brain_pixels"] == np.count_nonzero(mask) > 0


def test_a_folder_with_one_place_in_space_stays_one_scan(slices, cta, tmp_path):
    folder = slices[0]
    hu = cta.hu[:, :, :2].transpose(2, 1, 0)
    write_dicom(folder, hu, [[0, 0, 0], [0, 0, STEP]], prefix="z")
    assert list(find_inputs([folder])) == [folder]


def test_one_header_tells_that_a_folder_is_a_scan(study, monkeypatch):
    read, image = [], dicom_series.read_image
    monkeypatch.setattr(dicom_series, "read_image", lambda *args: read.append(args) or image(*args))
    assert list(find_inputs([study / "1"])) == [study / "1"] and len(read) == 1


def test_a_slice_whose_values_are_no_hu_says_so(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (1, 32, 32))
    folder = without(write_dicom(tmp_path / "in", grey, [[0, 0, 0]]), *GEOMETRY)
    assert main([str(folder), "--out", str(tmp_path)]) == 0
    notes = slice_result(tmp_path, "im0")[1]["notes"]
    assert any("8-bit picture, not HU" in note for note in notes)


def test_all_formats_hold_the_same_mask(predicted):
    mask = nib.load(predicted / "patient_predicted_mask.nii.gz")
    mask = np.asarray(nib.as_closest_canonical(mask).dataobj) > 0
    pictures = sorted((predicted / "patient_predicted_mask_png").glob("*.png"))
    stacked = np.stack([read_picture(path) for path in pictures]) > 0
    np.testing.assert_array_equal(unstack(stacked, "axial"), mask)
    seg = highdicom.seg.segread(predicted / "patient_predicted_mask.dcm")
    volume = seg.get_volume(combine_segments=True).to_patient_orientation("RAS")
    np.testing.assert_array_equal(volume.array > 0, mask)


def test_no_patient_is_named_but_in_the_seg(predicted):
    for path in predicted.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes().lower() + path.name.lower().encode()
            assert not [
                word
                for word in (b"doe", b"jane", b"mrn4711", b"19700131")
                if word in content and path.suffix != ".gz" and path.suffix != ".png"
            ]


def test_the_report_says_what_the_json_says_of_the_seg(predicted):
    about = read_json(predicted / "patient.json")
    report = highdicom.sr.srread(predicted / about["dicom_sr"])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    seg = highdicom.seg.segread(predicted / "patient_predicted_mask.dcm")
    assert group.referenced_segment[0].referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.get_measurements()[0].value == about["volume_ml"]
    evaluations = {e.name.meaning: e.value.value for e in group.get_qualitative_evaluations()}
    assert evaluations["Verdict on the mask"] == about["verdict"]
    said = {item.TextValue for item in group[0].ContentSequence if item.name.value == "121106"}
    assert said == {*about["reasons"], *about["notes"]}
    assert report.SoftwareVersions == about["model"]


def test_a_report_alone_brings_its_seg_and_is_not_made_twice(study, tmp_path, capsys):
    words = [str(study), "--series", "2", "--format", "dicom-sr", "--out", str(tmp_path)]
    assert main(words) == 0 and main(words) == 0
    assert "done before" in capsys.readouterr().out
    folder = tmp_path / "patient_prediction"
    found = {path.name for path in folder.glob("*.dcm")}
    assert found == {"patient_predicted_mask.dcm", "patient_report.dcm"}
    assert read_json(folder / "patient.json")["mask"] == "patient_predicted_mask.dcm"


@pytest.fixture(scope="module")
def dicom_case(tmp_path_factory):
    """The case of `tumour_model` as two series of DICOM, each in a folder of its name."""
    folder, labels = tmp_path_factory.mktemp("mri") / "case_8", layers()
    places = [[-39.0, -47.0, k] for k in range(36)]  # of voxel (39, 47, k), in LPS
    for number, (name, values) in enumerate((("flair", FLAIR), ("t1ce", T1CE)), 1):
        array = contrast(values, labels, egg()).transpose(2, 1, 0)[:, ::-1, ::-1]
        about = {"Modality": "MR", "SeriesNumber": number, "storage": MRImageStorage}
        write_dicom(folder / name, array, places, RescaleType="normalized", **about)
    return folder


def test_every_label_of_a_dicom_mri_is_a_segment_with_its_volume(
    dicom_case, tumour_model, tmp_path
):
    words = [str(dicom_case), "--model", str(tumour_model), "--out", str(tmp_path)]
    assert main([*words, "--format", "nii", "dicom-seg", "dicom-sr"]) == 0
    folder = tmp_path / "case_8_prediction"
    about = read_json(folder / "case_8.json")
    stored = nib.as_closest_canonical(nib.load(folder / about["mask"]))
    stored = np.asarray(stored.dataobj)
    np.testing.assert_array_equal(stored, layers())
    assert not [note for note in about["notes"] if "CT" in note]
    seg = highdicom.seg.segread(folder / "case_8_predicted_mask.dcm")
    found = seg.get_volume().to_patient_orientation("RAS").array
    for number, value in enumerate((1, 2, 4)):
        np.testing.assert_array_equal(found[..., number], stored == value)
    report = highdicom.sr.srread(folder / "case_8_report.dcm").content
    groups = report.get_volumetric_roi_measurement_groups()
    groups += report.get_image_measurement_groups()  # of regions
    ml = {group.tracking_identifier: group.get_measurements()[0].value for group in groups}
    assert ml == about["volumes_ml"] and ml["whole tumour"] > ml["oedema"] > 0


def test_modalities_on_several_grids_are_refused_in_dicom_too(dicom_case, tumour_model, tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(dicom_case, folder)
    for file in sorted((folder / "t1ce").iterdir())[:1]:
        file.unlink()
    words = [str(folder), "--model", str(tumour_model), "--out", str(tmp_path / "out")]
    assert main(words) == 2 and not (tmp_path / "out" / "case_prediction").exists()


def test_dicom_of_an_mri_in_nifti_is_refused(tumour_case, tumour_model, tmp_path, capsys):
    words = [str(tumour_case), "--model", str(tumour_model), "--out", str(tmp_path)]
    assert main([*words, "--format", "dicom-seg", "dicom-sr"]) == 2
    assert "no DICOM scan: leave --format dicom-seg dicom-sr out" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*mask*"))


def test_a_seg_of_a_nifti_is_refused_before_anything_is_written(cta_file, tmp_path, capsys):
    words = [str(cta_file), "--format", "nii", "dicom-seg", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "no DICOM scan" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*mask*"))


@pytest.mark.parametrize("position", ["HFP", "FFS", "FFDL"])
def test_any_position_gives_the_same_mask_on_the_patient(cta, predicted, tmp_path, position):
    """The array turned to how the patient lay, its orientation told to DICOM."""
    axes = POSITIONS[position]  # where columns, rows and slices run, in RAS terms
    place = np.asarray(nib.orientations.axcodes2ornt(axes))
    turned = nib.apply_orientation(
        cta.hu, nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), place)
    )
    units = np.diag([-1.0, -1, 1])  # RAS to LPS
    column, row, normal = (units @ np.eye(3)[int(a)] * s for a, s in place)
    size = np.array(cta.hu.shape) * STEP
    first = units @ [0 if s > 0 else size[int(a)] - STEP for a, s in sorted(place.tolist())]
    places = [first + STEP * k * normal for k in range(turned.shape[2])]
    write_dicom(
        tmp_path / "scan",
        turned.transpose(2, 1, 0),
        places,
        row=column,
        column=row,
        spacing=(STEP, STEP),
        PatientPosition=position,
    )
    assert main([str(tmp_path / "scan"), "--out", str(tmp_path)]) == 0
    masks = [
        nib.as_closest_canonical(nib.load(path)).get_fdata() > 0
        for path in (
            tmp_path / "scan_prediction/scan_predicted_mask.nii.gz",
            predicted / "patient_predicted_mask.nii.gz",
        )
    ]
    assert dice(*masks) >= 0.995
