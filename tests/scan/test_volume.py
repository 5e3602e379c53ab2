"""Volumes: geometry in and out, read back by SimpleITK; malformed files; straight grids."""

import gzip
import itertools
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from make import head, save_nifti
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common.errors import InputError
from scan.blanked import find_sound_slices
from scan.hu import AIR
from scan.nifti import read_mask, write_mask
from scan.read import read_volume
from scan.resample import straighten, unstraighten
from scan.volume import (
    POSITIONS,
    crop_slices,
    cut_slabs,
    make_volume,
    measure_ml,
    note_volume,
    thin_out,
)

GE = Path(__file__).parents[3] / "shared/data/ct/ge_dicom"
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def affine_of(rotation=(0, 0, 0), spacing=(1, 1, 1), origin=(0, 0, 0), tilt=0.0, skew=0.0):
    """Rotation by Euler angles in degrees; tilt shears slices along rows, skew columns by rows."""
    affine = np.eye(4)
    shear = np.array([[1, skew, 0], [0, 1, tilt], [0, 0, 1]])
    turn = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    affine[:3, :3] = turn @ shear @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def world(affine, shape, shifts=None, axis=2):
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T
    points = points + affine[:3, 3]
    if shifts is not None:
        points = points + np.expand_dims(shifts, [a for a in range(3) if a != axis])
    return points


def smooth(points):
    x, y, z = np.moveaxis(points, -1, 0)
    return 100 + 0.8 * x - 0.5 * y + 0.3 * z + 20 * np.sin(x / 15) * np.cos(y / 18 + z / 14)


def save(path, array, affine=None, sform=1, qform=1, kind=nib.Nifti1Image):
    image = kind(array, np.eye(4) if affine is None else affine)
    image.header.set_sform(image.affine, sform)
    image.header.set_qform(image.affine, qform)
    nib.save(image, path)
    return path


def asymmetric(shape=(9, 11, 7)):
    return np.random.default_rng(1).integers(-900, 900, shape).astype(np.int16)


# ---------------------------------------------------------------- NIfTI in and out


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_every_axis_order_and_flip_is_canonical_and_written_back(tmp_path, orientation):
    """SimpleITK, an independent reader, finds scan and mask at the same physical points."""
    array = asymmetric()
    affine = affine_of((11, -7, 19), (1.0, 1.5, 2.2), (4, -9, 30))
    back = nib.orientations.inv_ornt_aff(orientation, array.shape)
    path = save(tmp_path / "scan.nii.gz", nib.apply_orientation(array, orientation), affine @ back)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)

    write_mask(volume.hu > 300, volume, tmp_path / "mask.nii.gz")
    scan, mask = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("scan", "mask"))
    assert scan.GetSize() == mask.GetSize()
    for index in [(0, 0, 0), (3, 2, 1), *np.subtract(scan.GetSize(), 1)[None].tolist()]:
        index = [int(i) for i in index]
        there = scan.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(there, mask.TransformIndexToPhysicalPoint(index), atol=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(scan) > 300)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), array > 300)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 3), (4, 1)])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_mask_keeps_codes_and_zooms(tmp_path, codes, shape, kind):
    affine = affine_of((0, 0, 20), (0.5, 0.6, 3))
    path = save(tmp_path / "scan.nii", np.zeros(shape, np.int16), affine, *codes, kind=kind)
    volume = read_volume(path)
    write_mask(volume.hu == 0, volume, tmp_path / "mask.nii")
    scan, mask = nib.load(path), nib.load(tmp_path / "mask.nii")
    assert mask.shape == (5, 6, 7) and mask.get_data_dtype() == np.uint8
    assert type(mask) is kind
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert (mask.header["sform_code"], mask.header["qform_code"]) == codes
    np.testing.assert_array_equal(mask.header.get_zooms(), scan.header.get_zooms()[:3])
    assert np.asarray(mask.dataobj).min() == 1


def test_mask_says_nothing_of_the_patient_and_is_the_same_twice(tmp_path):
    image = nib.Nifti1Image(asymmetric(), np.eye(4))
    image.header["descrip"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"JANE DOE"))
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    for name in "ab":
        (tmp_path / name).mkdir()
        write_mask(volume.hu > 0, volume, tmp_path / name / "mask.nii.gz")
    first, second = ((tmp_path / name / "mask.nii.gz").read_bytes() for name in "ab")
    assert first == second
    assert b"DOE" not in gzip.decompress(first)


def test_values_padding_and_strange_numbers(tmp_path):
    array = asymmetric().astype(np.float32)
    array[0, 0, :3] = -1500, -2000, -3024
    whole = read_volume(save(tmp_path / "whole.nii.gz", array))
    assert whole.hu.dtype == np.int16 and (whole.hu[0, 0, :3] == AIR).all()
    assert any("padding" in note for note in whole.notes)
    array[1, 1, :3] = np.nan, np.inf, -np.inf
    array[2, 2, 2:4] = 0.5, np.finfo(np.float32).max
    broken = read_volume(save(tmp_path / "broken.nii", array))
    assert broken.hu.dtype == np.float32 and (broken.hu[1, 1, :3] == AIR).all()
    assert any(note.startswith("4 voxels") for note in broken.notes)
    assert broken.name == "broken"


def test_voxels_of_no_size_are_refused_where_there_is_no_affine(tmp_path):
    image = nib.Nifti1Image(asymmetric(), np.diag([2, 2, 2, 1]))
    image.header["pixdim"][2] = 0
    content = image.to_bytes()
    (tmp_path / "sform.nii").write_bytes(content)
    assert read_volume(tmp_path / "sform.nii").spacing == pytest.approx([2, 2, 2])
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    image.header["pixdim"][2] = 0
    content = image.header.binaryblock + b"\0" * 4 + asymmetric().tobytes(order="F")
    (tmp_path / "x.nii").write_bytes(content)
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(content))
    for name in ("x.nii", "y.nii.gz"):
        with pytest.raises(InputError, match="no size"):
            read_volume(tmp_path / name)


def test_scaled_big_endian_and_wide_integers(tmp_path):
    array = asymmetric()
    image = nib.Nifti1Image((array.astype(np.int32) + 1024).astype(">u2"), np.eye(4))
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">u2")
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, -1024)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    content = header.binaryblock + b"\0\0\0\0" + np.asarray(image.dataobj).tobytes(order="F")
    (tmp_path / "big.nii").write_bytes(content)
    (tmp_path / "big.nii.gz").write_bytes(gzip.compress(content))
    for name in ("big.nii", "big.nii.gz"):
        volume = read_volume(tmp_path / name)
        assert volume.hu.dtype == np.int16 and volume.hu.dtype.isnative
        np.testing.assert_array_equal(volume.hu, array)
    wide = save(tmp_path / "wide.nii", array.astype(np.int32))
    assert read_volume(wide).hu.dtype == np.int16


@pytest.mark.parametrize("position", POSITIONS)
def test_headerless_array_in_any_position(tmp_path, position):
    array = asymmetric()
    codes = POSITIONS[position]
    orientation = nib.orientations.axcodes2ornt(codes)
    back = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], orientation)
    stored = nib.apply_orientation(array, back)
    image = nib.Nifti1Image(stored, None)
    image.header.set_zooms([(1.0, 1.5, 2.0)[int(axis)] for axis in orientation[:, 0]])
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz", position)
    np.testing.assert_array_equal(volume.hu, array)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([1.0, 1.5, 2.0]))
    assert not volume.notes
    write_mask(volume.hu > 0, volume, tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask.dataobj, stored > 0)
    assert not mask.header["sform_code"] and not mask.header["qform_code"]
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), array > 0)


def test_headerless_without_position_is_hfs_with_a_note(tmp_path):
    nib.save(nib.Nifti1Image(asymmetric(), None), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.position == "HFS" and "HFS" in volume.notes[0]
    np.testing.assert_array_equal(volume.hu, asymmetric()[::-1, ::-1])


def test_positions_are_right_handed_and_follow_dicom():
    """PS3.3 C.7.3.1.1.2: decubitus right has the patient's right side down, and so on."""
    down = {p: codes[1] for p, codes in POSITIONS.items()}
    table = {p: codes[2] for p, codes in POSITIONS.items()}
    assert all(table[p] == ("S" if p.startswith("HF") else "I") for p in POSITIONS)
    assert all(down[p] == {"S": "P", "P": "A", "DR": "R", "DL": "L"}[p[2:]] for p in POSITIONS)
    for codes in POSITIONS.values():
        affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))
        assert np.linalg.det(affine[:3, :3]) > 0


# ---------------------------------------------------------------- bad input


def bad_files(folder):
    scan = asymmetric((16, 16, 16))
    save(folder / "good.nii.gz", scan)
    save(folder / "good.nii", scan)
    for ending in ("nii", "nii.gz"):
        content = (folder / f"good.{ending}").read_bytes()
        (folder / f"truncated.{ending}").write_bytes(content[: len(content) // 2])
        (folder / f"header.{ending}").write_bytes(content[:100])
        (folder / f"empty.{ending}").write_bytes(b"")
        (folder / f"text.{ending}").write_text("no image\n" * 100)
    (folder / "damaged.nii.gz").write_bytes(content[:-6] + b"\0" + content[-5:])
    (folder / "text.txt").write_text("no image")
    (folder / "folder").mkdir()
    save(folder / "flat.nii", np.zeros((8, 8), np.int16))
    save(folder / "several.nii", np.zeros((4, 4, 4, 2), np.int16))
    save(folder / "complex.nii", np.zeros((4, 4, 4), np.complex64))
    save(folder / "colour.nii", np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    header = nib.Nifti1Header()
    header["dim"] = [3, 4, 0, 4, 1, 1, 1, 1]
    header["sform_code"], header["vox_offset"] = 1, 352
    header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
    (folder / "none.nii").write_bytes(header.binaryblock + b"\0" * 100)
    for name, row in (("singular", [1, 0, 0, 0]), ("zero", [0] * 4), ("nan", [np.nan] * 4)):
        image = nib.Nifti1Image(scan, np.eye(4))
        image.header["srow_x"] = image.header["srow_y"] = row
        image.header["sform_code"] = 1
        nib.save(nib.Nifti1Image(scan, None, image.header), folder / f"{name}.nii")


DAMAGES = itertools.product(("truncated", "header", "empty", "text"), ("nii", "nii.gz"))
OTHERS = ("flat", "several", "complex", "colour", "none", "singular", "zero", "nan", "missing")
BAD = [*map(".".join, DAMAGES), *(f"{name}.nii" for name in OTHERS)]
BAD += ["damaged.nii.gz", "text.txt", "folder", "missing"]


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gets_one_clear_line(tmp_path, name):
    bad_files(tmp_path)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_position_is_refused(tmp_path):
    with pytest.raises(InputError, match="HFS"):
        read_volume(save(tmp_path / "scan.nii", asymmetric()), "SUPINE")


def test_mask_of_another_grid_is_refused(tmp_path):
    volume = read_volume(save(tmp_path / "scan.nii", asymmetric(), np.diag([1, 1, 2, 1.0])))
    moved = np.diag([1, 1, 2, 1.0])
    moved[0, 3] = 0.5
    with pytest.raises(InputError, match="0.50 mm off"):
        read_mask(save(tmp_path / "moved.nii", asymmetric(), moved), volume)
    with pytest.raises(InputError, match="shape"):
        read_mask(save(tmp_path / "small.nii", asymmetric((9, 11, 6))), volume)


def test_mask_is_not_written_through_a_file(tmp_path):
    volume = read_volume(save(tmp_path / "scan.nii", asymmetric()))
    with pytest.raises(InputError, match="cannot write"):
        write_mask(volume.hu > 0, volume, tmp_path / "scan.nii" / "mask.nii")


# ---------------------------------------------------------------- straight grids

GEOMETRIES = {
    "plain": {"spacing": (1.1, 1.3, 2.4)},
    "oblique": {"rotation": (25, -14, 31), "spacing": (1.1, 1.3, 2.4), "origin": (7, -20, 11)},
    "flipped": {"rotation": (170, 10, 5), "spacing": (1.1, 1.3, 2.4)},
    "sagittal": {"rotation": (90, 0, 80), "spacing": (1.1, 1.3, 2.4)},
    "tilted": {"rotation": (12, 8, 4), "spacing": (1.1, 1.3, 2.4), "tilt": 0.35},
    "skew": {"spacing": (1.1, 1.3, 2.4), "skew": 0.3, "tilt": 0.2},
}


def scan_of(tmp_path, name, uneven=False):
    """A scan of smooth() at its voxels' true places in the world."""
    affine, shape = affine_of(**GEOMETRIES[name]), (44, 40, 24)
    path = save(tmp_path / "scan.nii", np.zeros(shape, np.float32), affine, qform=0)
    volume = read_volume(path)
    shifts = None
    if uneven:
        step = volume.affine[:3, volume.slice_axis] / 2
        count = volume.hu.shape[volume.slice_axis]
        amounts = np.random.default_rng(2).uniform(-0.7, 0.7, count)
        amounts[[0, -1]] = 0
        shifts = amounts[:, None] * step
    points = world(volume.affine, volume.hu.shape, shifts, volume.slice_axis)
    return replace(volume, hu=smooth(points).astype(np.float32), shifts=shifts), points


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("spacing", [0.8, 2, 4])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_straight_voxels_hold_what_is_at_their_place(tmp_path, name, spacing, uneven):
    """Half a voxel of displacement would be an error of 0.5-2 in the mean, and is seen."""
    volume, points = scan_of(tmp_path, name, uneven)
    cubes, grid = straighten(volume.hu, volume, spacing)
    covered, _ = straighten(np.ones_like(volume.hu), volume, spacing, outside=0)
    inside = ndimage.binary_erosion(covered > 0.999, iterations=1 + int(3 / spacing))
    truth = smooth(world(grid.affine, grid.shape))
    assert inside.sum() > 300
    assert cubes.dtype == np.float32 and cubes.shape == grid.shape
    assert np.abs(cubes - truth)[inside].max() < (0.3 if spacing < 4 else 0.6)
    assert abs((cubes - truth)[inside].mean()) < 0.1

    back = unstraighten(truth, grid, volume)
    assert back.shape == volume.hu.shape and back.dtype == np.float32
    inner = ndimage.binary_erosion(np.ones(back.shape, bool), iterations=3)
    assert np.abs(back - smooth(points))[inner].max() < 0.05 + 0.04 * spacing**2


def test_axis_aligned_grid_of_the_scans_own_spacing_is_the_scan(tmp_path):
    volume = read_volume(save(tmp_path / "scan.nii", asymmetric(), np.diag([2, 2, 2, 1])))
    cubes, grid = straighten(volume.hu, volume, 2)
    np.testing.assert_allclose(cubes, volume.hu, atol=1e-2)
    np.testing.assert_allclose(grid.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(unstraighten(cubes, grid, volume), volume.hu, atol=1e-2)


def test_coarse_cubes_are_means(tmp_path):
    """Anti-aliased along every axis: noise is averaged away, the mean is kept."""
    noise = np.random.default_rng(0).normal(0, 100, (48, 48, 48)).astype(np.float32)
    volume = read_volume(save(tmp_path / "scan.nii", noise))
    cubes, _ = straighten(volume.hu, volume, 4)
    assert cubes.shape == (12, 12, 12)
    assert cubes.std() < 100 / np.sqrt(4**3) * 1.1
    assert abs(cubes.mean() - noise.mean()) < 0.5


@pytest.mark.parametrize("name", ["oblique", "tilted", "skew"])
def test_a_thinned_scan_shows_the_same_at_the_same_place(tmp_path, name):
    """Every n-th voxel of each axis, no farther apart than is asked, also of uneven slices."""
    volume, _ = scan_of(tmp_path, name, uneven=True)
    spacing = 2.2 * volume.spacing.max()
    few = thin_out(volume, spacing)
    assert few.hu.size < volume.hu.size / 7 and few.spacing.max() <= spacing
    assert (few.spacing > spacing / 2).all()
    cubes, grid = straighten(few.hu, few, spacing)
    covered, _ = straighten(np.ones_like(few.hu), few, spacing, outside=0)
    inside = covered > 0.999
    truth = smooth(world(grid.affine, grid.shape))[inside]
    assert inside.sum() > 30
    assert np.abs(cubes[inside] - truth).mean() < 0.2 * truth.std()
    assert thin_out(volume, volume.spacing.min()).hu.shape == volume.hu.shape


@pytest.mark.parametrize("name", ["oblique", "tilted"])
def test_box_is_a_part_and_may_reach_outside(tmp_path, name):
    volume, _ = scan_of(tmp_path, name)
    cubes, grid = straighten(volume.hu, volume, 1.5)
    low, high = np.array([4, 5, 6]), np.array([20, 17, 30])
    part, small = straighten(volume.hu, volume, 1.5, grid.box(low, high))
    assert part.shape == tuple(high - low)
    np.testing.assert_allclose(part, cubes[4:20, 5:17, 6:30], atol=1e-2)
    np.testing.assert_allclose(small.box((0, 0, 0), small.shape), grid.box(low, high))
    beyond, _ = straighten(volume.hu, volume, 1.5, grid.box((-5,) * 3, (3,) * 3))
    assert (beyond[:4, :4, :4] == AIR).all()


@pytest.mark.parametrize("name", ["oblique", "tilted", "skew"])
def test_regions_are_all_that_a_grid_reaches(tmp_path, name):
    volume, _ = scan_of(tmp_path, name, uneven=True)
    _, grid = straighten(volume.hu, volume, 3)
    _, grid = straighten(volume.hu, volume, 3, grid.box((3, 3, 3), (9, 10, 11)))
    ones = np.ones(grid.shape, np.float32)
    whole = unstraighten(ones, grid, volume)
    parts = np.zeros_like(whole)
    for region in cut_slabs(grid, volume, depth=5):
        parts[region] = unstraighten(ones, grid, volume, region)
    np.testing.assert_array_equal(parts, whole)
    assert 0.01 < whole.mean() < 0.5


def skull(shape=(60, 60, 50), spacing=2.0):
    """A ball of bone and of brain within, in skin: HU, and its distance from the middle in mm."""
    points = spacing * (np.indices(shape) - np.array(shape)[:, None, None, None] / 2)
    away = np.linalg.norm(points, axis=0)
    shells = [away < 36, away < 42, away < 47]
    return np.select(shells, [40, 900, 0], AIR).astype(np.int16), away


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("shifts", [None, np.zeros((50, 3))])
def test_slices_that_were_blanked_out_are_told_by_bare_bone(axis, shifts):
    hu, away = skull()
    everything = np.array([[-1e3] * 3, [1e3] * 3])

    def sound(blanked, box=everything):
        scan = make_volume(np.moveaxis(blanked, 2, axis), np.diag([2, 2, 2, 1]), "x")
        scan = replace(scan, slice_axis=axis, shifts=shifts)
        part = crop_slices(scan, kept := find_sound_slices(scan, box))
        np.testing.assert_array_equal(np.moveaxis(part.hu, axis, 2), blanked[..., kept])
        np.testing.assert_allclose(part.affine[axis, 3], 2 * kept.start)
        assert shifts is None or len(part.shifts) == kept.stop - kept.start
        return kept.start, kept.stop

    brain = away < 36
    height = np.arange(50)
    assert sound(hu) == (0, 50), "the skull itself is covered by skin"
    assert sound(np.where(brain | (height < 30), hu, AIR)) == (0, 30)
    assert sound(np.where(brain | (height >= 20), hu, AIR)) == (20, 50)
    both = np.where(brain | ((height >= 20) & (height < 30)), hu, AIR)
    assert sound(both) == (20, 30)
    elsewhere = np.array([[-1e3] * 3, [1e3] * 3])
    elsewhere[1, axis] = 40  # mm
    assert sound(both, elsewhere) == (20, 50), "what lies beyond the box is not looked at"
    assert sound(np.full_like(hu, AIR)) == (0, 50)
    for number in (8, 25, 40):
        blank = hu.copy()
        blank[..., number] = AIR
        assert sound(blank) == (0, 50), "the head goes on after a slice that was lost"


def test_metal_about_a_head_and_slices_far_apart_are_no_blanks():
    hu, _ = skull((100, 100, 50))
    x, y = np.ogrid[-50:50, -50:50]
    ring = (np.abs(2 * np.hypot(x, y) - 75) < 6)[..., None] & (np.abs(np.arange(50) - 25) < 4)
    affine = np.diag([2.0, 2, 2, 1])
    framed = make_volume(np.where(ring, np.int16(1500), hu), affine, "x")
    head = np.array([[40.0, 40, 0], [160, 160, 100]])  # mm: the skull's middle lies at 100
    assert find_sound_slices(framed, head) == slice(0, 50)
    assert (framed.hu[..., 25] == 1500).sum() > (hu[..., 25] == 900).sum()
    for axis in range(3):
        for start in range(5):
            every = [slice(None)] * 3
            every[axis] = slice(start, None, 5)
            spaced = affine.copy()
            spaced[axis, axis] = 10.0
            scan = replace(make_volume(hu[tuple(every)], spaced, "x"), slice_axis=axis)
            everything = slice(0, scan.hu.shape[axis])
            assert find_sound_slices(scan, head) == everything, "a head ends between two slices"


def test_tilted_phantom_is_a_ball_again(tmp_path):
    affine = affine_of(spacing=(1, 1, 3), tilt=np.tan(np.radians(18.5)), origin=(-40, -60, -40))
    shape = (80, 100, 30)
    points = world(affine, shape)
    centre = points.reshape(-1, 3).mean(axis=0)
    ball = np.linalg.norm(points - centre, axis=-1) < 25
    volume = read_volume(save(tmp_path / "scan.nii", ball.astype(np.int16), affine, qform=0))
    cubes, grid = straighten(volume.hu, volume, 1, outside=0)
    where = np.argwhere(cubes > 0.5)
    assert np.ptp(where, axis=0) == pytest.approx([50, 50, 50], abs=3)
    np.testing.assert_allclose(
        grid.affine[:3, :3] @ where.mean(axis=0) + grid.affine[:3, 3], centre, atol=0.3
    )
    back = unstraighten(cubes, grid, volume) > 0.5
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.97


def test_volume_in_ml_follows_the_slice_gaps(tmp_path):
    even, _ = scan_of(tmp_path, "tilted")
    everything = np.ones_like(even.hu, bool)
    voxel = abs(np.linalg.det(even.affine[:3, :3])) / 1000
    assert measure_ml(everything, even) == pytest.approx(everything.sum() * voxel)
    (note,) = note_volume(even)
    found, step = (float(number) for number in re.findall(r"([0-9.]+) mm", note))
    assert step == pytest.approx(even.spacing[even.slice_axis], abs=0.01)
    volume = everything.sum() * np.prod(even.spacing) / 1000 * found / step
    assert measure_ml(everything, even) == pytest.approx(volume, rel=0.005)
    uneven, _ = scan_of(tmp_path, "tilted", uneven=True)
    assert "on average" in note_volume(uneven)[0]
    one = np.zeros_like(uneven.hu, bool)
    volumes = []
    for index in range(one.shape[uneven.slice_axis]):
        one[:] = False
        np.moveaxis(one, uneven.slice_axis, 0)[index] = True
        volumes.append(measure_ml(one, uneven))
    assert np.ptp(volumes) > 0.1 * np.mean(volumes)
    assert sum(volumes) == pytest.approx(measure_ml(np.ones_like(one), uneven))


@pytest.mark.skipif(not GE.exists(), reason="../shared/data/ct/ge_dicom is not here")
def test_real_tilted_series():
    """Against dcm2niix 1.0.20260724: same array, first voxel and in-plane steps."""
    volume = read_volume(GE)
    assert volume.hu.shape == (512, 512, 28) and volume.hu.min() == AIR
    assert any("tilt of 18.5" in note for note in volume.notes)
    affine = volume.header.get_sform()
    expected = [[-0.48828, 0, 125], [0, 0.46305, -113.07737], [0, 0.15493, -73.33517]]
    np.testing.assert_allclose(affine[:3, [0, 1, 3]], expected, atol=1e-4)
    np.testing.assert_allclose(affine[:3, 2], [0, 0, 151.94 / 27], atol=1e-4)

    cubes, grid = straighten(volume.hu, volume, 2)
    np.testing.assert_allclose(grid.axes[:, 2], [0, -0.3173, 0.9483], atol=1e-3)
    back = unstraighten(cubes, grid, volume)
    assert np.median(np.abs(back - volume.hu)[150:350, 150:350]) < 5


def test_slices_that_lean_more_than_any_gantry_are_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 2] = 2.0  # 63 degrees off the normal
    path = save_nifti(tmp_path / "lean.nii.gz", head()[0], affine, qform=0)
    with pytest.raises(InputError, match="lean by over 60 degrees"):
        read_volume(path)
