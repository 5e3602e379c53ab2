"""Values that are not HU, of DICOM and NIfTI: maps, virtual images, wrong intercepts."""

import numpy as np
import pytest
from make import save_nifti, without, write_dicom

from common.errors import InputError
from predict.brain import read
from scan.hu import doubt_hu
from scan.read import read_slice, read_volume

MAP = ["DERIVED", "PRIMARY", "AXIAL"]


def scan():
    """(slices, rows, columns) HU of a head and what `read` makes of it."""
    radius = np.linalg.norm((np.indices((40, 52, 32)).T - (19.5, 26, 15)) / (20, 26, 16), axis=-1).T
    hu = np.select([radius < 0.8, radius < 0.9], [35, 900], -1000)
    hu = hu + np.random.default_rng(0).integers(-15, 16, hu.shape)
    return hu.transpose(2, 1, 0)[:, ::-1, ::-1], hu


def write(folder, hu, number=1, **tags):
    places, hu = np.arange(len(hu))[:, None] * [0, 0, 4.0], hu.astype(np.int32)
    return write_dicom(folder, hu, places, prefix=f"s{number}_", SeriesNumber=number, **tags)


@pytest.mark.parametrize(
    "tags, why",
    [
        ({"RescaleType": "MGML"}, "values in MGML (RescaleType), not HU"),
        ({"RescaleType": "Z_EFF"}, "values in Z_EFF (RescaleType), not HU"),
        ({"RescaleType": "EDW"}, "values in EDW (RescaleType), not HU"),
        ({"ImageType": [*MAP, "IODINE"]}, "a map of IODINE, not HU"),
        ({"ImageType": [*MAP, "MAT_SPECIFIC"]}, "a map of MAT_SPECIFIC, not HU"),
        ({"ImageType": [*MAP, "DE_RHO"]}, "a map of RHO, not HU"),
    ],
    ids=str,
)
def test_maps_are_refused_and_the_ct_beside_them_is_taken(tmp_path, tags, why):
    stored, hu = scan()
    write(tmp_path / "a", np.concatenate([stored, stored[:3]]) // 3 + 5, 1, **tags)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "a")
    assert why in str(caught.value) and "\n" not in str(caught.value)
    write(tmp_path / "a", stored, 2)
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.hu, hu)
    assert f"took series 2 (32 slices), not 1 ({why}" in volume.notes[0]


@pytest.mark.parametrize(
    "tags, why",
    [
        ({"ImageType": [*MAP, "MONO_70KEV"]}, "the series is virtual (monoenergetic"),
        ({"ImageType": [*MAP, "VMI"]}, "the series is virtual"),
        ({"ImageType": [*MAP, "VNC"]}, "the series is virtual"),
        ({"RescaleType": "HU_MOD"}, "the series is virtual"),
        ({"RescaleType": "US"}, "the RescaleType is US (not specified)"),
    ],
    ids=str,
)
def test_computed_images_in_hu_are_read_with_a_note_but_a_plain_ct_comes_first(tmp_path, tags, why):
    stored, hu = scan()
    volume = read_volume(write(tmp_path / "a", np.concatenate([stored, stored[:3]]), 1, **tags))
    assert volume.hu.shape[2] == 35 and any(why in note for note in volume.notes)
    write(tmp_path / "a", stored, 2)
    np.testing.assert_array_equal(read_volume(tmp_path / "a").hu, hu)


@pytest.mark.parametrize("rescale", ["HU", None, " hu "])
def test_values_that_are_said_to_be_hu_need_no_note(tmp_path, rescale):
    stored, hu = scan()
    volume = read_volume(write(tmp_path / "a", stored, RescaleType=rescale))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.notes == ()


def test_us_without_intercept_is_mended(tmp_path):
    stored, hu = scan()
    folder = write(tmp_path / "a", stored + 1024, RescaleType="US", RescaleIntercept=0)
    volume = read(folder)
    np.testing.assert_array_equal(volume.hu, hu)
    assert any("lacks the intercept" in note for note in volume.notes)


@pytest.mark.parametrize("intercept", [0, -1024])
def test_air_above_padding_tells_how_far_values_lie_too_high(tmp_path, intercept):
    """HU + 2048 with padding at 0, under no intercept, or one that would fit HU + 1024."""
    stored, hu = scan()
    stored, hu = stored + 2048, hu.copy()
    stored[:, :4], hu[:, -4:] = 0, -1024
    folder = write(tmp_path / "a", stored, RescaleIntercept=intercept, signed=False)
    volume = read(folder)
    np.testing.assert_array_equal(volume.hu, hu)
    where = f"padding at {intercept} and air near {intercept + 1048} shifted by"
    assert any(where in note for note in volume.notes)


@pytest.mark.parametrize("signed, intercept", [(True, -1024), (True, -32768), (False, -33792)])
def test_an_intercept_too_many_is_taken_back(tmp_path, signed, intercept):
    stored, hu = scan()
    right = 0 if signed else -1024
    about = {"signed": signed, "scales": [(1, right)] * len(stored), "RescaleIntercept": intercept}
    volume = read_volume(write(tmp_path / "a", stored, **about))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.hu.dtype == np.int16
    shift = right - intercept
    assert any(f"all of the body {shift} too low" in note for note in volume.notes)
    folder = write(tmp_path / "b", stored[16:17], **about)
    without(folder, "ImagePositionPatient")
    picture, notes = read_slice(next(folder.iterdir()))
    np.testing.assert_array_equal(picture, stored[16])
    assert any("too low" in note for note in notes)


@pytest.mark.parametrize("dtype, shift", [(np.int16, 1024), (np.int32, 32768)])
def test_a_nifti_of_an_intercept_too_many_is_mended_alike(tmp_path, dtype, shift):
    _, hu = scan()
    volume = read_volume(save_nifti(tmp_path / "a.nii", (hu - shift).astype(dtype)))
    np.testing.assert_array_equal(volume.hu, hu)
    assert any(f"all of the body {shift} too low" in note for note in volume.notes)


@pytest.mark.parametrize("padding", [-1500, -2000, -3024])
def test_padding_is_no_shift(tmp_path, padding):
    stored, hu = scan()
    stored, hu = stored.copy(), hu.copy()
    stored[:, :4], hu[:, -4:] = padding, -1024
    volume = read_volume(write(tmp_path / "a", stored))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.notes == ("padding taken as air",)


def test_unsigned_values_with_the_intercept_that_they_need_are_hu(tmp_path):
    stored, hu = scan()
    folder = write(tmp_path / "a", stored, signed=False, scales=[(1, -33792)] * len(stored))
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.notes == () and doubt_hu(volume.hu) == ()
