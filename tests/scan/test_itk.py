"""NRRD and MetaImage files, against SimpleITK's own positions and values."""

import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from make import head, make_ct_set, save_nifti

from common.errors import InputError
from scan.nifti import read_labels, read_mask, write_mask
from scan.read import read_volume

KINDS = [".nrrd", ".nhdr", ".mha", ".mhd"]
TURN = np.reshape([0.8, 0, 0.6, 0, -1, 0, 0.6, 0, -0.8], (3, 3))  # axes in LPS, in columns
SPACING, ORIGIN = (0.9, 0.8, 2.5), (30, -20, 7)


def stored():
    return np.random.default_rng(1).integers(-900, 900, (9, 11, 7)).astype(np.int16)


def save(path, array=None, packed=False, vector=False):
    """Write (I, J, K) as SimpleITK does; return the path."""
    array = stored() if array is None else array
    image = sitk.GetImageFromArray(array.T, isVector=vector)
    size = image.GetDimension()
    turn = np.eye(size)
    turn[:3, :3] = TURN
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing((*SPACING, 1)[:size])
    image.SetOrigin((*ORIGIN, 0)[:size])
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path), packed)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_scan_and_mask_lie_where_simpleitk_says(tmp_path, kind, packed):
    path = save(tmp_path / f"x{kind}", packed=packed)
    volume = read_volume(path)
    assert volume.name == "x"
    assert volume.notes == volume.doubts == ()
    write_mask(volume.hu > 300, volume, tmp_path / "mask.nii.gz")
    scan, mask = (sitk.ReadImage(str(p)) for p in (path, tmp_path / "mask.nii.gz"))
    for index in [(0, 0, 0), (3, 2, 1), (8, 10, 6)]:
        there = scan.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(there, mask.TransformIndexToPhysicalPoint(index), atol=1e-4)
        place = np.linalg.solve(volume.affine, [-there[0], -there[1], there[2], 1])
        here = tuple(np.rint(place[:3]).astype(int))
        assert volume.hu[here] == stored()[index]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask).T, stored() > 300)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), volume.hu > 300)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_labels_are_read_on_the_grid_of_their_nifti_scan(tmp_path, kind):
    scan = read_volume(save(tmp_path / f"x{kind}"))
    write_mask(np.ones_like(scan.hu, bool), scan, tmp_path / "grid.nii")
    affine = nib.load(tmp_path / "grid.nii").affine
    nifti = read_volume(save_nifti(tmp_path / "x.nii", stored(), affine))
    np.testing.assert_array_equal(nifti.hu, scan.hu)
    labels = np.abs(stored() % 3).astype(np.uint8)
    drawn = save(tmp_path / f"labels{kind}", labels)
    mask = save(tmp_path / f"mask{kind}", (labels == 1).astype(np.uint8))
    found = read_labels(drawn, nifti)
    assert np.bincount(found.ravel()).tolist() == np.bincount(labels.ravel()).tolist()
    np.testing.assert_array_equal(read_mask(mask, nifti), found == 1)


@pytest.mark.parametrize(("kind", "vector"), [(".nrrd", True), (".nrrd", False), (".mha", False)])
def test_one_volume_of_several(tmp_path, kind, vector):
    volumes = np.stack([stored() + 2 * n for n in range(3)], 0 if vector else 3)
    path = save(tmp_path / f"x{kind}", volumes, vector=vector)
    with pytest.raises(InputError, match=r"holds 3 volumes .*--volume N"):
        read_volume(path)
    first = read_volume(save(tmp_path / "first.nrrd"))
    third = read_volume(path, number=3)
    assert third.notes == ("volume 3 of 3 was taken",)
    np.testing.assert_array_equal(third.hu, first.hu + 4)
    np.testing.assert_allclose(third.affine, first.affine)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_gets_one_line(tmp_path, kind):
    path = tmp_path / f"x{kind}"
    save(path)
    for raw in (path, *tmp_path.glob("x.*raw")):
        content = raw.read_bytes()
        for part in (content[:40], content[: len(content) - 300], b"no image"):
            raw.write_bytes(part)
            with pytest.raises(InputError) as caught:
                read_volume(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
        raw.write_bytes(content)
    flat = tmp_path / f"flat{kind}"
    sitk.WriteImage(sitk.GetImageFromArray(stored()[0]), str(flat))
    with pytest.raises(InputError, match="2-D"):
        read_volume(flat)


def test_without_simpleitk_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    path = save(tmp_path / "x.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match="pip install simpleitk"):
        read_volume(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_spacing_is_doubted(tmp_path, kind):
    sitk.WriteImage(sitk.GetImageFromArray(stored()), str(tmp_path / f"x{kind}"))
    (doubt,) = read_volume(tmp_path / f"x{kind}").doubts
    assert "spacing" in doubt


def test_data_finds_pairs_of_them(tmp_path):
    for number, kind in enumerate(KINDS):
        hu, mask = head(number)
        save(tmp_path / f"in/case{number}{kind}", hu)
        save(tmp_path / f"in/case{number}_mask{kind}", mask.astype(np.uint8))
    assert make_ct_set(tmp_path / "in", tmp_path / "out") == 0
    names = {path.name.split("_")[0] for path in (tmp_path / "out").rglob("*.png")}
    assert names == {"case0", "case1", "case2", "case3"}
