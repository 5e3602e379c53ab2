"""DICOM: two scans in one series, one scan in many series, files as exports leave them."""

import gzip
import shutil

import numpy as np
import pydicom
import pytest
from make import save_nifti, without, write_dicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage, generate_uid

from common.errors import InputError
from predict.inputs import find_inputs
from scan.cases import is_dicom
from scan.dicom_files import Files
from scan.dicom_series import find_series
from scan.dicom_stacks import split_scans
from scan.read import read_volume

COUNT = 24
HEIGHTS = np.arange(COUNT) * 5.0  # mm
NUMBERS = np.arange(COUNT) + 1


def noise(count=COUNT, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, (count, 6, 7)).astype(np.int16)


def write(folder, hu, heights=HEIGHTS, uid=None, prefix="im", each=None, **tags):
    """A series of 5 mm slices at some heights; `each` has a value a slice."""
    tags = {"SeriesInstanceUID": uid or generate_uid(), "SliceThickness": 5.0} | tags
    for n, (image, height) in enumerate(zip(hu, heights, strict=True)):
        own = {tag: values[n] for tag, values in (each or {}).items()}
        write_dicom(folder, image[None], [(0, 0, height)], prefix=f"{prefix}{n:03}_", **tags | own)
    return folder


def canonical(hu):
    """(slices, rows, columns) of an HFS head as (X, Y, Z) RAS+."""
    return np.asarray(hu).transpose(2, 1, 0)[::-1, ::-1]


def noted(volume, text):
    return any(text in note for note in volume.notes)


def list_series(path):
    with Files(path) as files:
        return find_series(files)[0]


# ---------------------------------------------------------------- two scans in one series

TOLD = {
    "AcquisitionNumber": (1, 2),
    "AcquisitionTime": ("101010", "101510"),
    "ContrastBolusAgent": (None, "Iomeprol"),
    "TemporalPositionIdentifier": (1, 2),
    "ConvolutionKernel": ("H30s", "H70h"),
    "SeriesNumber": (1, 2),
    "ContentTime": ("1010", "1020"),
}


@pytest.mark.parametrize("offset", [0, 1.0, 2.5, 12.6], ids="{} mm".format)
@pytest.mark.parametrize("tag", TOLD)
def test_two_scans_in_one_series_are_told_apart(tmp_path, tag, offset):
    uid, both = generate_uid(), (noise(seed=1), noise(seed=2))
    for n, hu in enumerate(both):
        tags = {"SeriesNumber": 1, tag: TOLD[tag][n]}
        write(tmp_path / "a", hu, HEIGHTS + n * offset, uid, f"{'ba'[n]}", **tags)
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.hu, canonical(both[0]))
    assert noted(volume, "2 image series found; took series 1 ")
    first = tag if TOLD[tag][0] else f"no {tag}"
    assert noted(volume, f"2 scans lie in one series: {first}")
    np.testing.assert_array_equal(read_volume(tmp_path / "a", series=2).hu, canonical(both[1]))
    for n, name in enumerate("ba"):  # a file given stands for its own scan
        given = next((tmp_path / "a").glob(f"{name}007*"))
        np.testing.assert_array_equal(read_volume(given).hu, canonical(both[n]))


@pytest.mark.parametrize(
    "each",
    [
        {"InstanceNumber": lambda n: NUMBERS + n * COUNT},
        {"InstanceNumber": lambda n: (NUMBERS, NUMBERS[::-1] + COUNT)[n]},
        {"InstanceNumber": lambda n: NUMBERS},
        {"AcquisitionTime": lambda n: [f"{101010 + 100 * n + k}.5" for k in NUMBERS]},
        {"AcquisitionNumber": lambda n: (NUMBERS - 1) // 4 + 6 * n},
    ],
    ids=["on", "back", "anew", "times", "rotations"],
)
def test_scans_are_told_apart_by_what_counts_their_slices(tmp_path, each):
    uid, both = generate_uid(), (noise(seed=1), noise(seed=2))
    for n, hu in enumerate(both):
        own = {tag: [str(v) for v in count(n)] for tag, count in each.items()}
        write(tmp_path / "a", hu, HEIGHTS + n * 12.6, uid, "ba"[n], own)
    np.testing.assert_array_equal(read_volume(tmp_path / "a").hu, canonical(both[0]))


def test_thin_and_thick_reconstructions_are_told_apart(tmp_path):
    uid, thin = generate_uid(), noise(90)
    write(tmp_path / "a", noise(), HEIGHTS, uid, "a")
    write(tmp_path / "a", thin, 10 + np.arange(90.0), uid, "b", SliceThickness=1.0)
    np.testing.assert_array_equal(read_volume(tmp_path / "a").hu, canonical(thin))


def test_series_without_uid_are_told_by_their_numbers(tmp_path):
    for n, offset in ((2, 0), (7, 2.5)):
        write(tmp_path / "a", noise(seed=n), HEIGHTS + offset, None, f"{n}_", SeriesNumber=n)
    without(tmp_path / "a", "SeriesInstanceUID")
    assert [s.number for s in list_series(tmp_path / "a")] == [2, 7]
    for n in (2, 7):
        volume = read_volume(tmp_path / "a", series=n)
        np.testing.assert_array_equal(volume.hu, canonical(noise(seed=n)))


@pytest.mark.parametrize("offset, why", [(0, "two lie at most places"), (12.6, "gaps alternate")])
def test_scans_that_nothing_tells_apart_are_refused(tmp_path, offset, why):
    uid = generate_uid()
    for n in range(2):
        write(tmp_path / "a", noise(seed=n), HEIGHTS + n * offset, uid)
        for k, file in enumerate(sorted((tmp_path / "a").glob("im*"))):
            file.rename(file.with_name(f"{n}_{k}"))
    with pytest.raises(InputError, match="slices of two scans that no tag tells apart") as caught:
        read_volume(tmp_path / "a")
    assert why in str(caught.value)


def test_scans_that_only_their_pixels_tell_apart_are_refused(tmp_path):
    ramps = [np.full((12, 6, 7), value, np.int16) + noise(12) // 90 for value in (0, 300)]
    hu = np.stack(ramps, 1).reshape(24, 6, 7)
    with pytest.raises(InputError, match="every second slice is more alike than neighbours"):
        read_volume(write(tmp_path / "a", hu))


# Sound scans: {name: (heights, a value a slice of some tags)}
STEPS = [n // 4 for n in range(COUNT)]
SOUND = {
    "step by step": (HEIGHTS, {"AcquisitionNumber": STEPS}),
    "one acquisition a slice": (HEIGHTS, {"AcquisitionNumber": NUMBERS}),
    "each rotation downwards": (
        HEIGHTS.reshape(6, 4)[:, ::-1].ravel(),
        {"AcquisitionNumber": STEPS, "InstanceNumber": NUMBERS},
    ),
    "thin base": (
        np.cumsum([5] * 12 + [10] * 12),
        {"AcquisitionNumber": [1] * 12 + [2] * 12, "SliceThickness": [5] * 12 + [10] * 12},
    ),
    "a slice taken later": (
        np.append(np.delete(HEIGHTS, 8), HEIGHTS[8]),
        {"AcquisitionNumber": [1] * 23 + [2], "InstanceNumber": NUMBERS},
    ),
    "two-slice rotations apart": (np.cumsum([5, 7] * 12), {"InstanceNumber": NUMBERS}),
    "rounded thickness": (HEIGHTS, {"SliceThickness": ["4.9", "5.1", "5.1"] * 8}),
    "numbers in disorder": (
        HEIGHTS,
        {"InstanceNumber": np.random.default_rng(0).permutation(COUNT)},
    ),
    "a rotation once more": (
        np.concatenate([HEIGHTS[:12], HEIGHTS[8:12], HEIGHTS[12:]]),
        {"AcquisitionNumber": [n // 4 for n in range(28)], "InstanceNumber": range(28)},
    ),
    "slices that overlap": (HEIGHTS / 2, {"InstanceNumber": NUMBERS}),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_series_stays_one_scan(tmp_path, name):
    heights, each = SOUND[name]
    each = {tag: [str(value) for value in values] for tag, values in each.items()}
    hu = noise(len(heights))
    write(tmp_path / "a", hu, heights, each=each)
    order = np.argsort(heights, kind="stable")
    order = order[np.append(True, np.diff(np.asarray(heights)[order]) > 0)]
    np.testing.assert_array_equal(read_volume(tmp_path / "a").hu, canonical(hu[order]))
    (series,) = list_series(tmp_path / "a")
    assert len(split_scans(series.slices)) == 1


# ---------------------------------------------------------------- one scan in many series


def test_series_of_one_slice_each_are_one_scan(tmp_path):
    hu = noise()
    new = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    each = {tag: [generate_uid() for _ in hu] for tag in new} | {"SeriesNumber": NUMBERS.tolist()}
    folder = write(tmp_path / "a", hu, each=each)
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_dicom(folder, noise(1), [(0, 0, 0)], column=(0, 0, -1), prefix="scout", **localizer)
    for given in (folder, next(folder.glob("im007*"))):
        volume = read_volume(given)
        np.testing.assert_array_equal(volume.hu, canonical(hu))
        assert noted(volume, "24 series of one slice each taken as one")


def test_two_scans_of_a_series_for_each_slice_are_two(tmp_path):
    for n in (1, 2):
        uids = {"SeriesInstanceUID": [generate_uid() for _ in HEIGHTS]}
        places = HEIGHTS + 2.5 * n
        write(tmp_path / "a", noise(seed=n), places, prefix=f"{n}_", each=uids, SeriesNumber=n)
    for n in (1, 2):
        volume = read_volume(tmp_path / "a", series=n)
        np.testing.assert_array_equal(volume.hu, canonical(noise(seed=n)))


def test_slices_of_series_that_lie_anyhow_stay_apart(tmp_path):
    places = [0, 1.3, 9, 9.2, 31, 47.7]
    uids = {"SeriesInstanceUID": [generate_uid() for _ in places]}
    assert len(list_series(write(tmp_path / "a", noise(6), places, each=uids))) == 6


# ---------------------------------------------------------------- places and numbers


@pytest.mark.parametrize("heights", [HEIGHTS, HEIGHTS[::-1] - 70])
def test_places_come_from_slice_location_where_positions_are_all_one(tmp_path, heights):
    hu = noise()
    write(tmp_path / "a", hu, np.full(COUNT, 3.0), each={"SliceLocation": heights.tolist()})
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.hu, canonical(hu[np.argsort(heights)]))
    assert noted(volume, "ImagePositionPatient is the same in all slices")
    assert volume.spacing[2] == pytest.approx(5) and volume.affine[2, 3] == heights.min()


def test_decimal_commas_are_points(tmp_path):
    hu = noise(6)
    places = np.arange(6)[:, None] * [0, 0, 2.5]
    folder = write_dicom(tmp_path / "a", hu, places, spacing=(0.5, 0.75), SliceThickness="2.5")
    wanted = read_volume(folder)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        for tag in ("ImagePositionPatient", "PixelSpacing", "SliceThickness", "RescaleIntercept"):
            text = data.get_item(tag).value.replace(b".", b",")
            data[tag] = data.get_item(tag)._replace(value=text)
        data.save_as(file)
        assert b"0,5\\0,75" in file.read_bytes()
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu, wanted.hu)
    np.testing.assert_array_equal(volume.affine, wanted.affine)
    assert volume.notes == ("decimal commas in the headers read as points",)


# ---------------------------------------------------------------- files as exports leave them


def strip(folder, implicit=True):
    """The folder, its files without preamble and file meta information."""
    for file in folder.iterdir():
        how = {"implicit_vr": implicit, "little_endian": True, "enforce_file_format": False}
        pydicom.dcmwrite(file, Dataset(pydicom.dcmread(file)), **how)
        assert file.read_bytes()[128:132] != b"DICM"
    return folder


def save_dicomdir(path):
    data = Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.FileSetID = "EXPORT"
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_ending_deep_in_an_export(tmp_path, implicit):
    hu = noise()
    strip(write(tmp_path / "PAT1/STU1/SER1", hu, prefix="I"), implicit)
    strip(write(tmp_path / "PAT1/STU1/SER2", noise(8), HEIGHTS[:8], prefix="I"), implicit)
    save_dicomdir(tmp_path / "DICOMDIR")
    (found,) = find_inputs([tmp_path])
    for given in (found, tmp_path, tmp_path / "DICOMDIR"):
        volume = read_volume(given)
        np.testing.assert_array_equal(volume.hu, canonical(hu))
        assert noted(volume, "2 image series found")
    assert all(map(is_dicom, (tmp_path / "PAT1/STU1/SER1").iterdir()))


def test_studies_beside_a_dicomdir_are_inputs_of_their_own(tmp_path):
    for n in range(2):
        write(tmp_path / f"PAT{n}/S", noise(6), HEIGHTS[:6], StudyInstanceUID=generate_uid())
    save_dicomdir(tmp_path / "DICOMDIR")
    assert list(find_inputs([tmp_path])) == [tmp_path / "PAT0/S", tmp_path / "PAT1/S"]


def test_only_dicom_is_taken_for_dicom(tmp_path):
    (tmp_path / "text").write_text("\b\0\5\0CS\n\0ISO_IR 100 and so on" * 60)
    (tmp_path / "zeros").write_bytes(bytes(4000))
    (tmp_path / "tags").write_bytes(b"\x08\0\x16\0UI\x1a\0" + b"no uid" * 40)
    (tmp_path / "short").write_bytes(b"\x08\0")
    (tmp_path / "empty").write_bytes(b"")
    save_nifti(tmp_path / "scan.nii", noise())
    (tmp_path / "scan.nii").rename(tmp_path / "nifti")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 4000)[:20])
    rng = np.random.default_rng(0)
    for n in range(50):
        (tmp_path / f"random{n}").write_bytes(b"\x08\0" + rng.bytes(2000))
    assert not any(map(is_dicom, tmp_path.iterdir()))


def test_gzipped_files_are_read_unpacked(tmp_path):
    hu = noise(6)
    folder = write(tmp_path / "a", hu, HEIGHTS[:6])
    for file in list(folder.iterdir()):
        file.with_name(file.name + ".dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    shutil.make_archive(str(tmp_path / "b"), "zip", folder)
    for given in (folder, next(folder.iterdir()), tmp_path / "b.zip"):
        np.testing.assert_array_equal(read_volume(given).hu, canonical(hu))
    assert list(find_inputs([folder])) == [folder]
