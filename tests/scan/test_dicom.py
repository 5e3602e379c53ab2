"""DICOM: series of a study, geometry, codings, damage, zips; the DICOM SEG read by highdicom."""

import shutil
import struct
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from make import GEOMETRY, STUDY, header_of, set_pixels, without, write_dicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
    generate_uid,
)

from common import NAME, VERSION
from common.errors import InputError
from predict.files import name_bids_mask
from scan.dicom_files import Files
from scan.dicom_seg import write_dicom_seg
from scan.dicom_series import find_series, list_slices
from scan.hu import AIR
from scan.nifti import read_mask, write_mask
from scan.read import has_no_place, read_slice, read_volume
from scan.volume import LPS_TO_RAS, POSITIONS

GE = Path(__file__).parents[3] / "shared/data/ct/ge_dicom"


def asymmetric(shape=(9, 11, 7)):
    return np.random.default_rng(1).integers(-900, 900, shape).astype(np.int16)


def list_series(path):
    with Files(path) as files:
        return find_series(files)[0]


def stack(count, step=(0, 0, 2.0), start=(-5, -6, 3)):
    return np.array(start) + np.arange(count)[:, None] * np.array(step)


def axes_of(position):
    """The directions of a picture's rows, its columns and the slices, in LPS."""
    towards = dict(zip("LPSRAI", np.vstack([np.eye(3), -np.eye(3)]), strict=True))
    return [towards[letter] for letter in POSITIONS[position]]


def write_enhanced(path, hu, places, row=(1, 0, 0), column=(0, 1, 0), coding=None, **tags):
    """The same as one enhanced file, frames shuffled, each with an intercept of its own."""
    data = header_of(EnhancedCTImageStorage)
    data.SeriesInstanceUID, data.SeriesNumber, data.NumberOfFrames = generate_uid(), 3, len(hu)
    measures, turn, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.0
    turn.ImageOrientationPatient = [*map(float, row), *map(float, column)]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    data.SharedFunctionalGroupsSequence, frames, stored = [shared], [], []
    for n in np.random.default_rng(3).permutation(len(hu)):
        place, scale, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(value) for value in places[n]]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -1000 - int(n), "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frames.append(frame)
        stored.append(hu[n] + 1000 + n)
    data.PerFrameFunctionalGroupsSequence = frames
    set_pixels(data, np.array(stored), signed=False)
    for name, value in tags.items():
        setattr(data, name, value)
    if coding:
        data.compress(coding, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def canonical(hu):
    """(slices, rows, columns) of an HFS head as (X, Y, Z) RAS+."""
    return np.asarray(hu).transpose(2, 1, 0)[::-1, ::-1]


def noted(volume, text):
    return any(text in note for note in volume.notes)


def truncate(file, share=0.5):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


# ---------------------------------------------------------------- one series


def test_dicom_order_scale_sign_and_padding(tmp_path):
    hu = asymmetric((6, 8, 10)).astype(float)
    hu[0, 0, 0] = hu[3, 2, 1] = -2000
    scales = [(1, -1024), (1, -1000), (1, -2048), (1, -2100), (1, -1024), (1, -1024)]
    scales[0] = scales[3] = (1, -3000)
    places = stack(6)
    about = {"scales": scales, "signed": False, "PixelPaddingValue": 1000}
    folder = write_dicom(tmp_path / "head", hu, places, spacing=(0.5, 0.75), **about)
    volume = read_volume(folder)
    hu[hu == -2000] = AIR
    assert volume.name == "head" and volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, canonical(hu))
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 2))
    # PS3.3 C.7.6.2.1.1: the place of row 2, column 3 of slice 4
    place = places[4] + np.array([3 * 0.75, 2 * 0.5, 0])
    index = np.linalg.inv(volume.affine) @ LPS_TO_RAS @ [*place, 1]
    assert volume.hu[tuple(np.rint(index[:3]).astype(int))] == hu[4, 2, 3]
    np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    scan = reader.Execute()
    write_mask(volume.hu > 300, volume, tmp_path / "mask.nii.gz")
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    same = sitk.Resample(mask, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(same), hu > 300)


def test_dicom_fractional_slopes(tmp_path):
    hu = np.random.default_rng(0).integers(-400, 400, (3, 5, 6)) * 0.5
    volume = read_volume(write_dicom(tmp_path / "a", hu, stack(3), scales=[(0.5, -100)] * 3))
    assert volume.hu.dtype == np.float32
    np.testing.assert_array_equal(volume.hu, canonical(hu))


@pytest.mark.parametrize("position", POSITIONS)
def test_dicom_in_any_position_is_one_canonical_array(tmp_path, position):
    array = asymmetric()
    row, column, normal = axes_of(position)
    orientation = nib.orientations.axcodes2ornt(POSITIONS[position])
    back = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], orientation)
    stored = nib.apply_orientation(array, back)
    folder = write_dicom(
        tmp_path / "a", stored.transpose(2, 1, 0), stack(stored.shape[2], normal * 1.0), row, column
    )
    np.testing.assert_array_equal(read_volume(folder).hu, array)


def test_one_file_stands_for_its_series(tmp_path):
    folder = write_dicom(tmp_path / "ct", asymmetric((5, 6, 7)), stack(5))
    write_dicom(folder, asymmetric((9, 6, 7)), stack(9), prefix="other")
    (folder / "notes.txt").write_text("no image")
    volume = read_volume(folder / "im2")
    assert volume.hu.shape == (7, 6, 5) and volume.name == "ct"
    assert read_volume(folder / "other1").hu.shape == (7, 6, 9)


def test_single_dicom_slice(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((1, 6, 7)), stack(1))
    volume = read_volume(folder / "im0")
    assert volume.hu.shape == (7, 6, 1) and volume.name == "im0"
    np.testing.assert_allclose(volume.spacing, (1, 1, 2))


@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm"])
def test_real_ct_slices_of_pydicom(name):
    volume = read_volume(pydicom.data.get_testdata_file(name))
    assert volume.hu.shape == (512, 512, 1) and volume.hu.dtype == np.int16
    assert volume.hu.min() == AIR and 1000 < volume.hu.max() < 4096
    assert 0 < np.median(volume.hu[abs(volume.hu) < 200]) < 60  # soft tissue
    assert any("padding" in note for note in volume.notes)


def test_padding_that_would_erase_tissue_is_not_believed(tmp_path):
    hu = np.zeros((2, 6, 7))
    assert not read_volume(write_dicom(tmp_path / "a", hu, stack(2), PixelPaddingValue=0)).hu.any()


@pytest.mark.parametrize("tag", ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"])
def test_dicom_without_geometry_is_refused(tmp_path, tag):
    folder = write_dicom(tmp_path / "a", asymmetric((2, 6, 7)), stack(2))
    with pytest.raises(InputError, match=tag):
        read_volume(without(folder, tag))


@pytest.mark.parametrize("tags", [GEOMETRY, *([tag] for tag in GEOMETRY)], ids=str)
def test_an_image_without_geometry_is_read_as_a_slice_in_hu(tmp_path, tags):
    hu = asymmetric((1, 6, 7)).astype(float)
    hu[0, 0, 0] = -2000
    folder = write_dicom(
        tmp_path / "a", hu, stack(1), scales=[(2, -3000)], signed=False, PixelPaddingValue=500
    )
    path = without(folder, *tags) / "im0"
    assert has_no_place(path)
    picture, notes = read_slice(path)
    assert picture.shape == (6, 7) and picture.dtype == np.float32
    assert picture[0, 0] == AIR and "padding taken as air" in notes
    np.testing.assert_allclose(picture.flat[1:], hu.flat[1:], atol=1)  # the slope is 2
    assert f"no {', '.join(tags)}: taken as a slice" in notes[0]


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "MR"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        {"NumberOfFrames": 2},
        {"Modality": None, "SOPClassUID": SecondaryCaptureImageStorage},
    ],
    ids=str,
)
def test_what_is_no_single_grey_ct_image_is_no_slice(tmp_path, tags):
    folder = write_dicom(tmp_path / "a", asymmetric((2, 6, 7)), stack(2), **tags)
    path = without(folder, *GEOMETRY) / "im0"
    assert not has_no_place(path) and list_slices(folder) == []
    with pytest.raises(InputError, match="im0 is not a single CT image"):
        read_slice(path)
    with pytest.raises(InputError, match="colour" if "SamplesPerPixel" in tags else GEOMETRY[0]):
        read_volume(folder / "im0")


def test_an_image_with_geometry_is_no_slice(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((1, 6, 7)), stack(1))
    assert not has_no_place(folder / "im0") and list_slices(folder) == []


def test_a_ct_that_does_not_say_so_is_known_by_its_class(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((1, 6, 7)), stack(1), Modality=None)
    assert has_no_place(without(folder, *GEOMETRY) / "im0")


def test_a_slice_without_pixels_or_scale_says_so(tmp_path):
    folder = without(write_dicom(tmp_path / "a", asymmetric((2, 32, 32)), stack(2)), *GEOMETRY)
    truncate(folder / "im0", 0.6)
    with pytest.raises(InputError, match="im0 has no readable pixels"):
        read_slice(folder / "im0")
    _, notes = read_slice(without(folder, "RescaleSlope", "RescaleIntercept") / "im1")
    assert any("no rescale slope" in note for note in notes)


def test_slices_are_listed_only_where_no_image_has_a_place(tmp_path):
    folder = without(write_dicom(tmp_path / "a", asymmetric((3, 6, 7)), stack(3)), *GEOMETRY)
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("no image")
    names = ["broken.dcm", "im0", "im1", "im2"]
    assert [path.name for path in list_slices(folder)] == names
    write_dicom(folder / "below", asymmetric((1, 6, 7)), stack(1))
    assert list_slices(folder) == []


@pytest.mark.parametrize("feet_first", [False, True])
def test_tilted_uneven_series_knows_where_each_slice_lies(tmp_path, feet_first):
    angle = np.radians(20)
    row = (-1 if feet_first else 1, 0, 0)
    column = (0, np.cos(angle), -np.sin(angle))
    heights = np.cumsum([0, 2, 2, 5, 1, 3])
    places = np.array([-5, -6, 3]) + heights[:, None] * [0, 0, 1]
    volume = read_volume(write_dicom(tmp_path / "a", asymmetric((6, 7, 8)), places, row, column))
    assert any("tilt of 20.0" in note for note in volume.notes)
    assert any("uneven" in note for note in volume.notes)
    # A picture's first pixel, at ImagePositionPatient, lies at the front, on the left or right
    index = [[0 if feet_first else 7, 6, k] for k in range(6)]
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3] + volume.shifts
    np.testing.assert_allclose(points, places * [-1, -1, 1], atol=1e-5)
    write_mask(volume.hu > 0, volume, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), volume.hu > 0)
    assert sitk.ReadImage(str(tmp_path / "mask.nii.gz")).GetSize() == (8, 7, 6)


@pytest.mark.parametrize("bits,signed", [(12, True), (12, False), (16, True), (16, False)])
def test_bits_and_signs(tmp_path, bits, signed):
    """A signed 12-bit value fills its 16 bits with zeros, and is negative all the same."""
    hu = asymmetric((3, 5, 6))
    scales = [(1, 0 if signed else -1024)] * 3
    folder = write_dicom(tmp_path / "a", hu, stack(3), scales=scales, signed=signed, bits=bits)
    np.testing.assert_array_equal(read_volume(folder).hu, canonical(hu))


def test_missing_rescale_is_said(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((3, 5, 6)), stack(3))
    without(folder, "RescaleSlope", "RescaleIntercept")
    assert noted(read_volume(folder), "no rescale slope")


@pytest.mark.parametrize("position", POSITIONS)
def test_patient_position_is_checked(tmp_path, position):
    """Every position fits an image lying so, and contradicts one that lies as another."""
    for other in POSITIONS:
        row, column, normal = axes_of(other)
        hu, said = asymmetric((3, 4, 5)), {"PatientPosition": position}
        folder = write_dicom(tmp_path / other, hu, stack(3, normal), row, column, **said)
        notes = [n for n in read_volume(folder).notes if "PatientPosition" in n]
        assert bool(notes) == (other != position)
        assert not notes or (position in notes[0] and other in notes[0])


CODINGS = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_series(tmp_path, coding, signed):
    hu = asymmetric((3, 32, 40))
    scales = [(1, 0 if signed else -1024)] * 3
    folder = write_dicom(
        tmp_path / "a", hu, stack(3), scales=scales, signed=signed, coding=CODINGS[coding]
    )
    np.testing.assert_array_equal(read_volume(folder).hu, canonical(hu))


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_lossless_jpeg_series(tmp_path, signed):
    """pydicom decodes but does not encode it; GDCM does."""
    import gdcm

    hu = asymmetric((3, 16, 18))
    scales = [(1, 0 if signed else -1024)] * 3
    folder = write_dicom(tmp_path / "a", hu, stack(3), scales=scales, signed=signed)
    for file in folder.iterdir():
        reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
        change = gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(file))
        assert writer.Write()
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_array_equal(read_volume(folder).hu, canonical(hu))


@pytest.mark.parametrize("coding", [None, RLELossless, JPEG2000Lossless])
def test_enhanced_multi_frame(tmp_path, coding):
    hu = asymmetric((5, 32, 40))
    path = write_enhanced(tmp_path / "scan.dcm", hu, stack(5), coding=coding)
    for given in (path, tmp_path):
        volume = read_volume(given)
        np.testing.assert_array_equal(volume.hu, canonical(hu))
        np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 2))
        assert volume.name == given.stem and not volume.notes


def test_enhanced_files_of_one_series_are_one_scan_and_phases_are_two(tmp_path):
    hu, other, places, uid = asymmetric((12, 6, 7)), asymmetric((12, 6, 7)) + 9, stack(12), "1.2.3"
    for n, part in enumerate((slice(0, 5), slice(5, 12))):
        about = {"SeriesInstanceUID": uid, "SeriesNumber": 3}
        write_enhanced(tmp_path / f"a{n}.dcm", hu[part], places[part], **about)
    for given in (tmp_path, tmp_path / "a1.dcm"):
        np.testing.assert_array_equal(read_volume(given).hu, canonical(hu))
    write_enhanced(tmp_path / "b.dcm", other, places + (0, 0, 1), **about)
    for number, wanted in ((3, hu), (1, other)):
        volume = read_volume(tmp_path, series=number)
        np.testing.assert_array_equal(volume.hu, canonical(wanted))


@pytest.mark.parametrize("implicit", [True, False])
def test_old_files_without_preamble(tmp_path, implicit):
    hu = asymmetric((4, 6, 7))
    folder = write_dicom(tmp_path / "a", hu, stack(4), prefix="im.")
    for file in list(folder.iterdir()):
        data, old = Dataset(pydicom.dcmread(file)), file.with_name(file.name + ".dcm")
        how = {"implicit_vr": implicit, "little_endian": True, "enforce_file_format": False}
        pydicom.dcmwrite(old, data, **how)
        file.unlink()
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu, canonical(hu))
    seg_of(tmp_path / "seg.dcm", volume.hu > 0, volume)


def test_fewer_frames_than_the_header_says_are_refused(tmp_path):
    shutil.copy(pydicom.data.get_testdata_file("liver_1frame.dcm", download=False), tmp_path)
    with pytest.raises(InputError, match="no readable pixels"):
        read_volume(tmp_path)


def test_frames_without_a_place_are_refused(tmp_path):
    folder = write_dicom(tmp_path / "b", asymmetric((1, 6, 7)), stack(1), NumberOfFrames=3)
    with pytest.raises(InputError, match="ImageOrientationPatient"):
        read_volume(folder)


# ---------------------------------------------------------------- slices missing, double, foreign


def test_missing_slice_is_named(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((8, 4, 5)), stack(8), prefix="s")
    names = {pydicom.dcmread(f).ImagePositionPatient[2]: f for f in folder.iterdir()}
    names[9.0].unlink()
    volume = read_volume(folder)
    assert volume.hu.shape == (5, 4, 7)
    between = f"between {names[7.0].name} and {names[11.0].name}"
    assert noted(volume, f"1 slice missing (a gap of 4.0 mm, usual 2.0): {between}")
    points = volume.affine[2, 3] + volume.affine[2, 2] * np.arange(7) + volume.shifts[:, 2]
    np.testing.assert_allclose(points, [3, 5, 7, 11, 13, 15, 17], atol=1e-6)


def test_planned_gaps_are_not_missing_slices(tmp_path):
    """Thin slices through the posterior fossa, twice as thick ones above."""
    places = stack(9)
    places[:, 2] = np.cumsum([0, 2, 2, 2, 2, 4, 4, 4, 4])
    volume = read_volume(write_dicom(tmp_path / "a", asymmetric((9, 4, 5)), places))
    assert noted(volume, "uneven") and not noted(volume, "missing")


def test_duplicate_slices_are_named_and_acquisitions_not_mixed(tmp_path):
    first, second = asymmetric((4, 6, 7)), asymmetric((4, 6, 7)) + 1000
    uid = generate_uid()
    for n, hu in ((2, second), (1, first)):
        tags = {"SeriesInstanceUID": uid, "AcquisitionNumber": n}
        write_dicom(tmp_path / "a", hu, stack(4), prefix=f"{9 - n}_", **tags)
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.hu, canonical(first))
    assert noted(volume, "4 images at a place already taken left out: 7_")


@pytest.mark.parametrize("foreign", ["size", "orientation", "pixel spacing", "unknown place"])
def test_foreign_image_in_the_series_is_named(tmp_path, foreign):
    uid, hu = generate_uid(), asymmetric((5, 6, 7))
    folder = write_dicom(tmp_path / "a", hu, stack(5), SeriesInstanceUID=uid)
    write_dicom(
        folder,
        asymmetric((1, 8, 7) if foreign == "size" else (1, 6, 7)),
        stack(1) + 20,
        column=(0, 0, -1) if foreign == "orientation" else (0, 1, 0),
        spacing=(2.0, 2.0) if foreign == "pixel spacing" else (1.0, 1.0),
        prefix="other",
        SeriesInstanceUID=uid,
        **({"ImagePositionPatient": None} if foreign == "unknown place" else {}),
    )
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu, canonical(hu))
    assert noted(volume, "1 image of ") and noted(volume, "other0")
    assert noted(volume, foreign)


def test_orientations_that_differ_by_rounding_are_one(tmp_path):
    uid = generate_uid()
    for n, tiny in enumerate((0.00049, 0.00051)):
        hu, places, turned = asymmetric((2, 6, 7)), stack(2) + (0, 0, 4 * n), (1, tiny, 0)
        tags = {"prefix": f"{n}", "SeriesInstanceUID": uid}
        write_dicom(tmp_path / "a", hu, places, turned, (-tiny, 1, 0), **tags)
    volume = read_volume(tmp_path / "a")
    assert volume.hu.shape == (7, 6, 4) and not volume.notes


# ---------------------------------------------------------------- several series


def study(folder):
    """A head CTA study as a scanner leaves it; series 5 is the one to take."""
    axial = asymmetric((12, 6, 7))
    coronal = {"row": (1, 0, 0), "column": (0, 0, -1)}
    topogram = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    derived = ["DERIVED", "SECONDARY"]
    mpr, mip, other = ({"ImageType": [*derived, kind]} for kind in ("MPR", "MIP", "OTHER"))
    captured = {"Modality": "CT", "storage": SecondaryCaptureImageStorage}

    def add(number, name, hu, step=(0, 0, 2.0), **tags):
        tags |= {"SeriesNumber": number, "SeriesDescription": name}
        write_dicom(folder / f"s{number}", hu, stack(len(hu), step), **tags)

    add(1, "Topogram", asymmetric((2, 30, 30)), (0, 5, 0), **coronal, **topogram)
    add(2, "Monitoring", asymmetric((30, 6, 7)), (0, 0, 0), ContrastBolusAgent="I")
    add(3, "Head 6 mm", axial[::3], (0, 0, 6.0))
    add(5, "CTA 2 mm", axial, ContrastBolusAgent="Iomeprol 400")
    add(6, "COR", asymmetric((20, 6, 7)), (0, 2, 0), **coronal, **mpr)
    add(7, "MIP thin", asymmetric((40, 6, 7)), **mip)
    add(8, "T1", asymmetric((50, 6, 7)), Modality="MR", storage=MRImageStorage)
    add(9, "Chest", asymmetric((60, 6, 7)), BodyPartExamined="CHEST")
    add(501, "Patient Protocol", asymmetric((1, 6, 7)), **captured, **other)
    report = header_of(XRayRadiationDoseSRStorage)
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    report.save_as(folder / "dose.dcm", enforce_file_format=True)
    (folder / "readme.txt").write_text("no image")
    return axial


def test_the_head_cta_of_a_study_is_taken(tmp_path):
    axial = study(tmp_path)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.hu, canonical(axial))
    assert len(volume.notes) == 1
    assert volume.notes[0].startswith(
        '9 image series found; took series 5 "CTA 2 mm" (12 slices, contrast), not '
    )
    assert "1 (a localizer, fewer than 5 slices, not axial)" in volume.notes[0]


def test_series_are_listed_best_first_with_reasons(tmp_path):
    study(tmp_path)
    series = {s.number: s for s in list_series(tmp_path)}
    assert list(series)[0] == 5 and set(series) == {1, 2, 3, 5, 6, 7, 8, 9, 501}
    best = series[5]
    assert (str(best), best.why_not) == ('5 "CTA 2 mm" (12 slices, contrast)', "")
    assert series[2].count == 1  # thirty images at one place
    reasons = {
        1: "a localizer",
        2: "fewer than 5 slices",
        6: "derived",
        7: "derived",
        8: "the modality is MR, not CT",
        9: "another body part",
        501: "a secondary capture",
    }
    assert all(reason in series[number].why_not for number, reason in reasons.items())


def test_series_of_a_given_number(tmp_path):
    study(tmp_path)
    volume = read_volume(tmp_path, series=6)
    assert volume.hu.shape == (7, 20, 6) and noted(volume, "as asked")
    with pytest.raises(InputError, match='no series 4, but 5 "CTA 2 mm"'):
        read_volume(tmp_path, series=4)
    nib.save(nib.Nifti1Image(asymmetric(), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(InputError, match="no series to choose of"):
        read_volume(tmp_path / "scan.nii", series=5)


def test_numbers_are_unique_where_headers_are_not(tmp_path):
    for n, number in enumerate([2, 2, None]):
        write_dicom(tmp_path / f"{n}", asymmetric((5 + n, 6, 7)), stack(5 + n), SeriesNumber=number)
    series = list_series(tmp_path)
    assert sorted(s.number for s in series) in ([1, 2, 3], [1, 2, 4])
    for one in series:
        assert read_volume(tmp_path, series=one.number).hu.shape[2] == one.count


def test_mpr_is_taken_when_its_source_is_not_there(tmp_path):
    write_dicom(tmp_path, asymmetric((9, 6, 7)), stack(9), ImageType=["DERIVED", "PRIMARY", "MPR"])
    assert read_volume(tmp_path).hu.shape == (7, 6, 9)


def test_a_patient_called_as_the_modality_changes_nothing(tmp_path):
    name = {"PatientID": "CT-001", "PatientName": "Head^Ct"}
    write_dicom(tmp_path, asymmetric((5, 6, 7)), stack(5), **name)
    assert not read_volume(tmp_path).notes
    assert list_series(tmp_path)[0].why_not == ""


def test_two_patients_are_noticed(tmp_path):
    for name in "ab":
        write_dicom(tmp_path / name, asymmetric((5, 6, 7)), stack(5), PatientID=f"id-{name}{name}")
    assert noted(read_volume(tmp_path), "of 2 patients")


def test_neighbours_folders_are_not_of_the_files_series(tmp_path):
    uid = generate_uid()
    write_dicom(tmp_path, asymmetric((5, 6, 7)), stack(5), SeriesInstanceUID=uid)
    write_dicom(tmp_path / "x", asymmetric((3, 6, 7)), stack(3) + 30, SeriesInstanceUID=uid)
    (tmp_path / "broken.dcm").write_bytes(b"")
    volume = read_volume(tmp_path / "im0")
    assert volume.hu.shape == (7, 6, 5) and not volume.notes
    assert read_volume(tmp_path).hu.shape == (7, 6, 8)


def test_nothing_of_the_patient_is_said(tmp_path):
    said, places = "CTA jane DOE mrn4711 born 19700131\x1b[31m", stack(8)[[0, 1, 2, 3, 4, 5, 5, 7]]
    names = {"prefix": "DOE_JANE_", "SeriesDescription": said}
    folder = write_dicom(tmp_path, asymmetric((8, 6, 7)), places, **names)
    write_dicom(folder, asymmetric((5, 6, 7)), stack(5), SeriesDescription="Doe")
    (folder / "Doe_Jane.dcm").write_text("no image")
    volume = read_volume(folder)
    text = str([*volume.notes, *map(str, list_series(folder))]).lower()
    assert "cta" in text and "cannot be read" in text and "already taken" in text
    assert not any(word in text for word in ("doe", "jane", "4711", "1970", "\\x1b"))


# ---------------------------------------------------------------- damage


def test_one_truncated_file_among_good_ones_is_named(tmp_path):
    hu = asymmetric((6, 32, 32))
    folder = write_dicom(tmp_path / "a", hu, stack(6))
    bad = pydicom.dcmread(folder / "im3")
    truncate(folder / "im3", 0.9)
    volume = read_volume(folder)
    gone = round((bad.ImagePositionPatient[2] - 3) / 2)
    np.testing.assert_array_equal(volume.hu, canonical(np.delete(hu, gone, axis=0)))
    assert noted(volume, "1 slice without readable pixels left out: im3")


@pytest.mark.parametrize("coding", [None, *CODINGS])
def test_no_truncation_sinks_the_series_or_slips_by(tmp_path, coding):
    """Cut anywhere: the slice is right, or named and left out."""
    hu = asymmetric((4, 32, 32))
    good = write_dicom(tmp_path / "good", hu, stack(4), coding=CODINGS.get(coding))
    content = (good / "im2").read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        (good / "im2").write_bytes(content[: int(len(content) * share)])
        volume = read_volume(good)
        if volume.hu.shape[2] == 4:
            np.testing.assert_array_equal(volume.hu, canonical(hu))
        else:
            assert noted(volume, "im2")


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_never_crash(tmp_path, seed):
    rng = np.random.default_rng(seed)
    folder = write_dicom(tmp_path / "a", asymmetric((4, 8, 8)), stack(4))
    content = bytearray((folder / "im2").read_bytes())
    for place in rng.integers(132, len(content) - 128, 3):
        content[place] = rng.integers(256)
    (folder / "im2").write_bytes(content)
    assert read_volume(folder).hu.shape[:2] == (8, 8)


@pytest.mark.parametrize("content", [b"", b"no image", b"\0" * 128 + b"DICM"])
def test_damaged_file_beside_a_series_is_named(tmp_path, content):
    folder = write_dicom(tmp_path / "a", asymmetric((4, 6, 7)), stack(4))
    (folder / "broken.dcm").write_bytes(content)
    assert noted(read_volume(folder), "1 file cannot be read: broken.dcm")


@pytest.mark.parametrize("tag", ["Rows", "NumberOfFrames", "SeriesNumber", "ImageType"])
def test_senseless_header_does_not_sink_the_others(tmp_path, tag):
    folder = write_dicom(tmp_path / "a", asymmetric((4, 6, 7)), stack(4))
    bad = pydicom.dcmread(folder / "im0")
    bad.SeriesInstanceUID = generate_uid()
    bad[tag] = pydicom.DataElement(tag, "LO", "sense\\less")
    bad.save_as(folder / "other")
    assert read_volume(folder).hu.shape == (7, 6, 4)


def test_good_series_beside_a_bad_one(tmp_path):
    hu = asymmetric((6, 32, 32))
    write_dicom(tmp_path / "good", hu, stack(6), SeriesNumber=1)
    bad = asymmetric((9, 32, 32))
    for file in write_dicom(tmp_path / "bad", bad, stack(9), SeriesNumber=2, prefix="x").iterdir():
        truncate(file, 0.9)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.hu, canonical(hu))
    assert noted(volume, "series 2 (9 slices) cannot be read")
    with pytest.raises(InputError, match="no readable pixels"):
        read_volume(tmp_path, series=2)
    with pytest.raises(InputError, match="no readable pixels"):
        read_volume(tmp_path / "bad")


def test_a_localizer_is_not_taken_for_a_bad_series(tmp_path):
    for file in write_dicom(tmp_path / "a", asymmetric((6, 32, 32)), stack(6)).iterdir():
        truncate(file, 0.9)
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_dicom(tmp_path / "b", asymmetric((1, 32, 32)), stack(1), ImageType=localizer)
    with pytest.raises(InputError, match="no readable pixels"):
        read_volume(tmp_path)


def test_folder_of_damaged_files_says_so(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(InputError, match="3 files cannot be read"):
        read_volume(tmp_path)


# ---------------------------------------------------------------- zip


def pack(path, folder, method=zipfile.ZIP_DEFLATED, prefix=""):
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_is_its_folder(tmp_path, method):
    axial = study(tmp_path / "study")
    path = pack(tmp_path / "scan_7.ZIP", tmp_path / "study", method)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, canonical(axial))
    assert volume.name == "scan_7" and volume.notes == read_volume(tmp_path / "study").notes
    assert read_volume(path, series=6).hu.shape == (7, 20, 6)
    assert len(list_series(path)) == 9


@pytest.mark.parametrize("prefix", ["../../", "/", "..\\..\\", "C:\\"])
def test_zip_that_would_climb_out_writes_nothing(tmp_path, prefix):
    folder = write_dicom(tmp_path / "in/a", asymmetric((4, 6, 7)), stack(4))
    path = pack(tmp_path / "in/a.zip", folder, prefix=prefix)
    before = sorted(tmp_path.rglob("*"))
    assert read_volume(path).hu.shape == (7, 6, 4)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_that_would_burst_is_refused(tmp_path):
    """Three small members that declare 4 GB each in the zip's directory."""
    folder = write_dicom(tmp_path / "a", asymmetric((3, 6, 7)), stack(3))
    path = pack(tmp_path / "a.zip", folder)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFF00)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="more than 8 GiB"):
        read_volume(path)


def test_zip_member_larger_than_it_says_is_damaged(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((4, 6, 7)), stack(4))
    path = pack(tmp_path / "a.zip", folder)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    assert read_volume(path).hu.shape == (7, 6, 3)


def test_bad_zips_get_one_clear_line(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((3, 6, 7)), stack(3))
    path = pack(tmp_path / "locked.zip", folder)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    pack(tmp_path / "rare.zip", folder, zipfile.ZIP_LZMA)
    (tmp_path / "text.zip").write_text("no zip")
    shutil.copy(path, tmp_path / "cut.zip")
    truncate(tmp_path / "cut.zip")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/readme.txt").write_text("no image")
    pack(tmp_path / "none.zip", tmp_path / "b")
    said = {
        "locked": "encrypted",
        "rare": "rare way",
        "text": "no readable zip",
        "cut": "no readable zip",
        "none": "no DICOM image",
    }
    for name, words in said.items():
        with pytest.raises(InputError, match=words) as caught:
            read_volume(tmp_path / f"{name}.zip")
        assert f"{name}.zip" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_member_is_named(tmp_path):
    folder = write_dicom(tmp_path / "a", asymmetric((4, 32, 32)), stack(4))
    path = pack(tmp_path / "a.zip", folder, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.find(b"im2") + 2000] ^= 255  # its checksum no longer fits
    path.write_bytes(content)
    volume = read_volume(path)
    assert volume.hu.shape == (32, 32, 3) and noted(volume, "im2"), volume.notes


# ---------------------------------------------------------------- DICOM SEG


def seg_of(path, mask, volume) -> tuple[hd.seg.Segmentation, np.ndarray]:
    """The SEG of a folder's mask, and what it says (slices, rows, columns) of each source slice."""
    write_dicom_seg(mask, volume, path, "0123456789abcdef")
    seg = hd.seg.segread(path)
    sources = [pydicom.dcmread(volume.path / s.file, force=True) for s in volume.slices]
    uids = [source.SOPInstanceUID for source in sources]
    return seg, seg.get_pixels_by_source_instance(uids)[..., 0].astype(bool)


def canonical_seg(path) -> nib.Nifti1Image:
    """A SEG's voxels in RAS+ by highdicom's own geometry."""
    found = hd.seg.segread(path).get_volume(combine_segments=True)
    image = nib.Nifti1Image(found.array.astype(np.uint8), LPS_TO_RAS @ found.affine)
    return nib.as_closest_canonical(image)


def frame_places(seg):
    groups = seg.PerFrameFunctionalGroupsSequence
    return np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], float)


@pytest.mark.parametrize("position", POSITIONS)
def test_seg_has_the_masks_voxels_at_their_place(tmp_path, position):
    """Through highdicom's own geometry, in every orientation; and as the NIfTI says it."""
    row, column, normal = axes_of(position)
    folder = write_dicom(
        tmp_path / "a", asymmetric((5, 6, 8)), stack(5, normal * 2), row, column, (0.5, 0.75)
    )
    volume = read_volume(folder)
    mask = volume.hu > 300
    mask[:, :, :2] = False
    write_dicom_seg(mask, volume, tmp_path / "seg.dcm")
    image = canonical_seg(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(image.dataobj, mask)
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-5)
    write_mask(mask, volume, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), mask)


@pytest.mark.parametrize("filled", [True, False], ids=["mask", "empty"])
def test_seg_refers_to_every_slice_and_says_brain(tmp_path, filled):
    folder = write_dicom(tmp_path / "a", asymmetric((5, 6, 7)), stack(5))
    volume = read_volume(folder)
    mask = np.zeros(volume.hu.shape, bool)
    mask[2:4, 1:5, 3] = filled
    seg, frames = seg_of(tmp_path / "seg.dcm", mask, volume)
    np.testing.assert_array_equal(frames, mask[::-1, ::-1].transpose(2, 1, 0))
    sources = [pydicom.dcmread(folder / image.file) for image in volume.slices]
    uids = [source.SOPInstanceUID for source in sources]
    assert {uid for *_, uid in seg.get_source_image_uids()} == set(uids)
    segment = seg.get_segment_description(1)
    assert seg.number_of_segments == 1 and seg.segmentation_type.value == "BINARY"
    assert segment.segmented_property_type == codes.SCT.Brain
    assert segment.segmented_property_type.value == "12738006"
    assert segment.algorithm_type.value == "AUTOMATIC"
    assert seg.Manufacturer == NAME
    assert seg.ManufacturerModelName == f"{NAME} {VERSION}"
    assert seg.StudyInstanceUID == STUDY and seg.PatientID == "MRN4711"
    assert seg.SeriesInstanceUID != sources[0].SeriesInstanceUID


def test_seg_of_an_enhanced_file_and_of_a_zip(tmp_path):
    hu = asymmetric((5, 6, 7))
    enhanced = write_enhanced(tmp_path / "scan.dcm", hu, stack(5))
    write_dicom(tmp_path / "a", hu, stack(5), spacing=(0.5, 0.75))
    for path in (enhanced, pack(tmp_path / "a.zip", tmp_path / "a")):
        volume = read_volume(path)
        write_dicom_seg(volume.hu > 300, volume, tmp_path / "seg.dcm")
        image = canonical_seg(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(image.dataobj, volume.hu > 300)
        np.testing.assert_allclose(image.affine, volume.affine, atol=1e-5)


def test_seg_of_a_tilted_uneven_series_with_double_slices(tmp_path):
    angle = np.radians(20)
    heights = np.cumsum([0, 2, 2, 0, 5, 1, 3])
    places = np.array([-5, -6, 3]) + heights[:, None] * [0, 0, 1]
    folder = write_dicom(
        tmp_path / "a", asymmetric((7, 7, 8)), places, (1, 0, 0), (0, np.cos(angle), -np.sin(angle))
    )
    volume = read_volume(folder)
    mask = volume.hu > 300
    seg, frames = seg_of(tmp_path / "seg.dcm", mask, volume)
    np.testing.assert_array_equal(frames, mask[::-1, ::-1].transpose(2, 1, 0))
    found = sorted(frame_places(seg).tolist(), key=lambda place: place[2])
    np.testing.assert_allclose(found, np.delete(places, 3, axis=0), atol=1e-6)


def test_seg_lives_without_what_de_identification_takes(tmp_path, recwarn):
    gone = ("PatientName", "PatientID", "PatientBirthDate")
    folder = write_dicom(tmp_path / "a", asymmetric((3, 6, 7)), stack(3))
    volume = read_volume(without(folder, *gone))
    seg, _ = seg_of(tmp_path / "seg.dcm", volume.hu > 0, volume)
    assert not any(seg.get(tag) for tag in gone)
    write_dicom(tmp_path / "b", asymmetric((3, 6, 7)), stack(3), PatientName="Nemo")
    volume = read_volume(tmp_path / "b")
    seg_of(tmp_path / "seg.dcm", volume.hu > 0, volume)
    assert not [w for w in recwarn if "Nemo" in str(w.message)]


def test_seg_that_cannot_be_made_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(asymmetric(), np.eye(4)), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    with pytest.raises(InputError, match="no DICOM"):
        write_dicom_seg(volume.hu > 0, volume, tmp_path / "seg.dcm")
    folder = write_dicom(tmp_path / "a", asymmetric((3, 6, 7)), stack(3))
    volume = read_volume(without(folder, "FrameOfReferenceUID"))
    with pytest.raises(InputError, match="Frame Of Reference"):
        write_dicom_seg(volume.hu > 0, volume, tmp_path / "seg.dcm")
    (folder / "im0").unlink()
    with pytest.raises(InputError, match="changed"):
        write_dicom_seg(volume.hu > 0, volume, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.skipif(not GE.exists(), reason="../shared/data/ct/ge_dicom is not here")
def test_seg_of_a_real_tilted_series(tmp_path):
    volume = read_volume(GE)
    mask = abs(volume.hu - 40) < 40
    seg, frames = seg_of(tmp_path / "seg.dcm", mask, volume)
    assert seg.NumberOfFrames == 28
    write_mask(mask, volume, tmp_path / "mask.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    np.testing.assert_array_equal(frames, stored.T[:, ::-1])
    assert [image.file for image in volume.slices] == sorted(file.name for file in GE.iterdir())


def test_bids_names():
    assert name_bids_mask("sub-01_ct") == "sub-01_desc-brain_mask"
    assert name_bids_mask("sub-01_ses-02_run-1_ct") == "sub-01_ses-02_run-1_desc-brain_mask"
    assert name_bids_mask("sub-01_desc-iso_ct") == "sub-01_desc-brain_mask"
    for name in ("scan", "sub-01", "sub-01_", "sub-_ct", "01_sub-01_ct", "sub-01 ct", "sub-1_a_ct"):
        assert name_bids_mask(name) is None
