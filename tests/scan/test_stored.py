"""Files that are not what their names or headers say, in two files, of several volumes."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from make import save_nifti

from common.errors import InputError
from scan.nifti import read_mask, write_mask
from scan.read import read_volume
from scan.volume import NO_SPACING

TURNED = nib.affines.from_matvec(np.diag([-0.9, 0.8, 2.5]), (30, -20, 7))


def stored():
    return np.random.default_rng(1).integers(-900, 900, (9, 11, 7)).astype(np.int16)


def read(path, **how):
    """The volume of a file, and its notes on what was mended."""
    volume = read_volume(path, **how)
    return volume, volume.notes


def same_as_sound(path, folder, **how):
    """Whether a file is read as the sound one is; its mask lies there too; the notes."""
    sound = read_volume(save_nifti(folder / "sound.nii", stored(), TURNED))
    volume, notes = read(path, **how)
    np.testing.assert_array_equal(volume.hu, sound.hu)
    np.testing.assert_allclose(volume.affine, sound.affine, atol=1e-5)
    write_mask(volume.hu > 300, volume, folder / "written_mask.nii.gz")
    written = nib.load(folder / "written_mask.nii.gz")
    np.testing.assert_allclose(written.affine, TURNED, atol=1e-5)
    np.testing.assert_array_equal(written.dataobj, stored() > 300)
    np.testing.assert_array_equal(
        read_mask(folder / "written_mask.nii.gz", volume), volume.hu > 300
    )
    return notes


# ---------------------------------------------------------------- gzipped or not


@pytest.mark.parametrize(
    ("name", "layers", "said"),
    [
        ("x.nii.gz", 0, "is not gzipped"),
        ("x.nii", 1, "is gzipped"),
        ("x.nii", 2, "is gzipped twice"),
        ("x.nii.gz", 2, "is gzipped twice"),
        ("x.nii", 0, None),
        ("x.nii.gz", 1, None),
    ],
)
def test_a_file_is_unpacked_by_its_content(tmp_path, name, layers, said):
    content = save_nifti(tmp_path / "plain.nii", stored(), TURNED).read_bytes()
    for _ in range(layers):
        content = gzip.compress(content)
    (tmp_path / name).write_bytes(content)
    notes = same_as_sound(tmp_path / name, tmp_path)
    assert [said in note for note in notes] == ([True] if said else [])


# ---------------------------------------------------------------- sform and qform


def with_header(path, **fields):
    """A file at TURNED, some fields of its header set after all checks."""
    header = nib.load(save_nifti(path, stored(), TURNED)).header
    header["vox_offset"] = 352
    for field, value in fields.items():
        header[field] = value
    content = path.read_bytes()
    path.write_bytes(header.binaryblock + content[348:])
    return path


ZERO = {f"srow_{axis}": [0] * 4 for axis in "xyz"}
NO_GEOMETRY = {
    "zero": ZERO,
    "flat": {"srow_y": [0, 0, 0, 5]},
    "parallel": {"srow_x": [0, 0, 2.5, 1], "srow_y": [0, 0, 2.5, 1]},
    "not a number": {"srow_z": [np.nan] * 4},
    "in micrometres": {"srow_x": [-9e5, 0, 0, 30]},
    "in metres": {"srow_x": [-9e-4, 0, 0, 0], "srow_y": [0, 8e-4, 0, 0], "srow_z": [0, 0, 2e-3, 0]},
}


@pytest.mark.parametrize("kind", NO_GEOMETRY)
def test_a_sound_qform_takes_the_place_of_a_bad_sform(tmp_path, kind):
    path = with_header(tmp_path / "x.nii", **NO_GEOMETRY[kind])
    (note,) = same_as_sound(path, tmp_path)
    assert "qform" in note
    with_header(path, **NO_GEOMETRY[kind], qform_code=0)
    with pytest.raises(InputError, match="repair its"):
        read_volume(path)


@pytest.mark.parametrize("length", [1.000001, 1.0001, 1.5])
@pytest.mark.parametrize("sform", [{"sform_code": 0}, ZERO])
def test_a_quaternion_longer_than_1_is_made_1(tmp_path, length, sform):
    """As nifti1_io.c does; TURNED is a half turn about y: c is 1."""
    path = with_header(tmp_path / "x.nii", quatern_c=length, **sform)
    notes = same_as_sound(path, tmp_path)
    assert "quaternion" in notes[-1]


def test_a_quaternion_that_is_no_number_is_refused(tmp_path):
    path = with_header(tmp_path / "x.nii", quatern_b=np.nan, sform_code=0)
    with pytest.raises(InputError, match=r"x\.nii"):
        read_volume(path)


@pytest.mark.parametrize("start", [np.inf, np.nan])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, start):
    path = with_header(tmp_path / "x.nii", vox_offset=start)
    with pytest.raises(InputError, match=r"x\.nii does not say where its voxels begin"):
        read_volume(path)


def test_a_scan_in_metres_is_refused(tmp_path):
    path = save_nifti(tmp_path / "x.nii", stored(), np.diag([4e-4, 4e-4, 5e-3, 1]))
    with pytest.raises(InputError, match=r"mm long by its header; repair its spacing"):
        read_volume(path)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), None])
def test_a_header_of_1_mm_without_a_place_is_doubted(tmp_path, signs):
    """As nibabel (np.eye(4), None) and SimpleITK write an array that has no spacing."""
    affine = None if signs is None else np.diag([*signs, 1.0])
    nib.save(nib.Nifti1Image(stored(), affine), tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").doubts == (NO_SPACING,)
    for column, values in ((3, (0, -40, 12)), (1, (0, 0.9, 0))):
        known = np.diag([1.0, 1, 1, 1])
        known[:3, column] = values
        assert read_volume(save_nifti(tmp_path / "y.nii", stored(), known)).doubts == ()


# ---------------------------------------------------------------- several volumes


def several(path, count=3):
    volumes = np.stack([stored() + 2 * n for n in range(count)], -1)
    return save_nifti(path, volumes, TURNED)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_one_volume_of_several_is_chosen_by_its_number(tmp_path, name):
    path = several(tmp_path / name)
    with pytest.raises(InputError, match=r"holds 3 volumes .*--volume N \(1 to 3\)"):
        read_volume(path)
    first, notes = read(path, number=1)
    assert notes == ("volume 1 of 3 was taken",)
    for number in (2, 3):
        volume = read_volume(path, number=number)
        np.testing.assert_array_equal(volume.hu, first.hu + 2 * (number - 1))
    for number in (0, 4):
        with pytest.raises(InputError, match=f"no --volume {number}"):
            read_volume(path, number=number)
    write_mask(first.hu > 300, first, tmp_path / "written.nii")
    assert nib.load(tmp_path / "written.nii").shape == (9, 11, 7)


def test_a_number_is_no_use_for_dicom(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match="leave --volume out"):
        read_volume(tmp_path / "x.dcm", number=1)


# ---------------------------------------------------------------- two files


@pytest.mark.parametrize("given", ["x.hdr", "x.img"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_nifti_in_two_files(tmp_path, kind, given):
    image = kind(stored(), TURNED)
    image.to_filename(tmp_path / "x.hdr")
    assert same_as_sound(tmp_path / given, tmp_path) == ()
    (tmp_path / "x.img").rename(tmp_path / "X.IMG")
    assert same_as_sound(tmp_path / "x.hdr", tmp_path) == ()


def save_analyze(path):
    image = nib.AnalyzeImage(stored(), np.diag([-0.9, 0.8, 2.5, 1]))
    image.to_filename(path)
    return path


def test_analyze_warns_of_left_and_right(tmp_path):
    """Its mask has the same place for nibabel."""
    volume, notes = read(save_analyze(tmp_path / "x.hdr"))
    np.testing.assert_array_equal(volume.hu, stored()[::-1])
    assert len(notes) == 1
    assert "which side is left" in notes[0]
    write_mask(volume.hu > 300, volume, tmp_path / "written.nii.gz")
    written, analyze = nib.load(tmp_path / "written.nii.gz"), nib.load(tmp_path / "x.img")
    np.testing.assert_allclose(written.affine, analyze.affine, atol=1e-5)
    np.testing.assert_array_equal(written.dataobj, stored() > 300)
    assert read_mask(tmp_path / "written.nii.gz", volume).sum() == (stored() > 300).sum()


@pytest.mark.parametrize("left_out", ["x.hdr", "x.img"])
def test_half_of_a_scan_says_what_is_missing(tmp_path, left_out):
    save_analyze(tmp_path / "x.hdr")
    os.remove(tmp_path / left_out)
    there = next(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"{left_out} is not beside it"):
        read_volume(there)
