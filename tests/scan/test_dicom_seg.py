"""What goes back to an archive: DICOM SEG of labels, DICOM SR, their UIDs; read by highdicom."""

import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from make import STUDY, write_dicom
from pydicom.sr.codedict import codes

from common import NAME, SOFTWARE
from common.card import CORE, ENHANCING, OEDEMA, SOLID
from common.report import label_colour
from scan.dicom_seg import write_dicom_seg
from scan.dicom_sr import VERDICTS, write_dicom_sr
from scan.read import read_volume

NAMES = {1: CORE, 2: OEDEMA, 3: SOLID, 4: ENHANCING, 5: "label 9"}
ML = {**{name: label + 0.25 for label, name in NAMES.items()}, "whole tumour": 10.5}
REASON = "the brain is cut: 12 mm² of the mask lie at the scan's top face"
VERSION = "0123456789abcdef"


def write_study(folder, **tags):
    hu = np.random.default_rng(1).integers(-900, 900, (5, 6, 7)).astype(np.int16)
    places = np.array([-5, -6, 3]) + np.arange(5)[:, None] * np.array([0, 0, 2.0])
    return write_dicom(folder, hu, places, **tags)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "scan"
    return read_volume(write_study(folder, PatientSex="F", StudyDate="20260102", StudyID="7"))


@pytest.fixture(scope="module")
def labels(volume):
    return np.random.default_rng(2).integers(0, 6, volume.hu.shape).astype(np.uint8)


def write_both(folder, volume, mask, names=None, ml=None, version=VERSION, options=""):
    """A mask's SEG and the report on it; their paths."""
    folder.mkdir()
    seg, report = folder / "seg.dcm", folder / "report.dcm"
    write_dicom_seg(mask, volume, seg, version, options, names)
    write_dicom_sr(volume, seg, report, ml or {"brain": 1234.5}, "check", [REASON])
    return seg, report


@pytest.fixture(scope="module")
def written(volume, labels, tmp_path_factory):
    """{"brain" or "labels": (SEG, SR)} as files."""
    folder = tmp_path_factory.mktemp("written")
    return {
        "brain": write_both(folder / "brain", volume, volume.hu > 0),
        "labels": write_both(folder / "labels", volume, labels, NAMES, ML),
    }


def test_every_label_is_a_coded_segment_in_its_colour(written, volume, labels):
    seg = hd.seg.segread(written["labels"][0])
    uids = [pydicom.dcmread(volume.path / image.file).SOPInstanceUID for image in volume.slices]
    frames = seg.get_pixels_by_source_instance(uids)
    expected = labels[::-1, ::-1].transpose(2, 1, 0)
    for label, name in NAMES.items():
        np.testing.assert_array_equal(frames[..., label - 1], expected == label)
        segment = seg.get_segment_description(label)
        assert segment.segment_label == name.capitalize() and segment.tracking_id == name
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(), label_colour(label), atol=2)
    types = [seg.get_segment_description(label).segmented_property_type for label in NAMES]
    # SNOMED CT, and of the NCI Thesaurus what it has no code for: CID 7168 of PS3.16
    assert [(t.value, t.scheme_designator) for t in types] == [
        ("6574001", "SCT"),
        ("79654002", "SCT"),
        ("C81175", "NCIt"),
        ("C113842", "NCIt"),
        ("85756007", "SCT"),
    ]


def list_uids(paths):
    """The series and instance UIDs of some files, and the tracking UIDs in the SEG."""
    found = [pydicom.dcmread(path) for path in paths]
    uids = [uid for data in found for uid in (data.SeriesInstanceUID, data.SOPInstanceUID)]
    return [*uids, *(segment.TrackingUID for segment in found[0].SegmentSequence)]


def test_the_same_prediction_twice_is_one_instance_and_any_other_is_another(
    written, volume, labels, tmp_path
):
    mask = volume.hu > 0
    first = list_uids(written["brain"])
    assert first == list_uids(write_both(tmp_path / "again", volume, mask))
    copy = shutil.copytree(volume.path, tmp_path / "elsewhere")
    assert first == list_uids(write_both(tmp_path / "copy", read_volume(copy), mask))
    another = read_volume(write_study(tmp_path / "another"))
    others = [
        list_uids(written["labels"]),
        list_uids(write_both(tmp_path / "version", volume, mask, version="fedcba")),
        list_uids(write_both(tmp_path / "options", volume, mask, options="border 2")),
        list_uids(write_both(tmp_path / "source", another, another.hu > 0)),
    ]
    every = [*first, *(uid for uids in others for uid in uids)]
    assert len(set(every)) == len(every)


def test_a_report_measures_the_segments_of_its_seg(written, volume):
    seg, report = (path for path in written["labels"])
    seg, report = hd.seg.segread(seg), hd.sr.srread(report)
    groups = report.content.get_volumetric_roi_measurement_groups()
    source = pydicom.dcmread(volume.path / volume.slices[0].file)
    for number, group in enumerate(groups, 1):
        referenced = group.referenced_segment
        assert referenced[0].referenced_sop_instance_uid == seg.SOPInstanceUID
        assert referenced[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == number
        assert referenced[1].value == source.SeriesInstanceUID
        segment = seg.get_segment_description(number)
        assert group.tracking_uid == segment.tracking_uid
        assert group.finding_type == segment.segmented_property_type
        (measured,) = group.get_measurements()
        assert (measured.name, measured.value) == (codes.SCT.Volume, ML[NAMES[number]])
        assert (measured.unit.value, measured.unit.scheme_designator) == ("mL", "UCUM")
    assert len(groups) == len(NAMES)
    (region,) = report.content.get_image_measurement_groups()
    assert region.tracking_identifier == "whole tumour"
    assert region.get_measurements()[0].value == ML["whole tumour"]


def test_a_report_says_verdict_reasons_network_and_patient(written, volume):
    report = hd.sr.srread(written["brain"][1])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    evaluations = {e.name.value: e.value for e in group.get_qualitative_evaluations()}
    assert evaluations["verdict"].value == "check"
    assert evaluations["verdict"].meaning == VERDICTS["check"]
    texts = {
        item.name.meaning: item.value
        for item in (*report.ContentSequence, *group[0].ContentSequence)
        if item.ValueType == "TEXT"
    }
    assert texts["Comment"] == REASON, "with its ²"
    assert texts["Device Observer Name"] == NAME
    assert texts["Device Observer Model Name"] == SOFTWARE
    assert texts["Device Observer Serial Number"] == texts["Algorithm Version"] == VERSION
    said = (report.PatientName, report.PatientID, report.PatientSex, report.StudyInstanceUID)
    assert said == ("Doe^Jane", "MRN4711", "F", STUDY)
    assert (report.StudyDate, report.StudyID) == ("20260102", "7")
    evidence = {
        image.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    }
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in volume.path.iterdir()}
    assert evidence == sources | {pydicom.dcmread(written["brain"][0]).SOPInstanceUID}


def test_a_name_keeps_its_letters_whatever_their_coding(tmp_path):
    name = "Müller^Jörg"
    folder = write_study(tmp_path / "a", SpecificCharacterSet="ISO_IR 100", PatientName=name)
    volume = read_volume(folder)
    for path in write_both(tmp_path / "out", volume, volume.hu > 0):
        assert pydicom.dcmread(path).PatientName == name


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="apt-get install dicom3tools")
@pytest.mark.parametrize("kind", ["brain", "labels", "anonymous"])
def test_dciodvfy_finds_no_error(written, kind, tmp_path):
    if kind == "anonymous":  # by a tool that does not say how, which a SEG must
        removed = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""}
        scan = read_volume(write_study(tmp_path / "scan", **removed))
        written = {kind: write_both(tmp_path / "out", scan, scan.hu > 0)}
    for path in written[kind]:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert "Segmentation" in said or "ComprehensiveSR" in said
        assert [line for line in said.splitlines() if line.startswith("Error")] == []
