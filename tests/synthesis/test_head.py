"""The anatomy of a head, from a label map or from nothing; the cavity cut at the foramen."""

import numpy as np
import pytest

from common.errors import InputError
from synthesis.ct import make_scan
from synthesis.head import (
    INDEX,
    TISSUES,
    canal_coordinates,
    find_cavity,
    find_label_maps,
    make_phantom,
)


def test_no_vessel_of_the_neck_makes_the_mask_pierce_the_skull():
    head = make_phantom(0)
    bone = head.tissue == INDEX["cancellous"]
    vault = np.flatnonzero((head.inner < 0).any((0, 1)))[-1]
    vein = head.tissue == INDEX["vein"]
    assert bone[..., vault - 5].any() and not vein[..., vault - 5].any()
    assert vein[..., : round(head.base[2])].sum() > 1000, "but in the neck they are"


@pytest.mark.parametrize("shape, counts", [("sinus", True), ("jugular bulb", False)])
def test_a_sinus_counts_as_brain_and_a_vein_in_its_foramen_does_not(shape, counts):
    """Both touch the brain: one lies flat on it, the other stands out like a finger."""
    head = make_phantom(0)
    y, z = round(head.base[1]), round(head.base[2]) + 30
    side = np.flatnonzero(head.inner[:, y, z] < 0)[-1]
    tissue = head.tissue.copy()
    if shape == "sinus":
        at = np.s_[side - 4 : side + 5, y - 20 : y + 20, z - 5 : z + 30]
    else:
        at = np.s_[side - 4 : side + 13, y - 4 : y + 5, z - 4 : z + 5]
    tissue[at][head.inner[at] > -2] = INDEX["vein"]
    cavity = find_cavity(tissue, head.base, head.down)
    assert cavity[side + 3, y, z + 5 if counts else z] == counts
    if not counts:
        assert not cavity[side + 5 : side + 13, y, z].any()


def test_the_cavity_is_cut_at_the_foramen_magnum():
    head = make_phantom(0)
    along, across = canal_coordinates(head.tissue.shape, head.base, head.down)
    cavity = head.inner < 0
    assert cavity[(along > -6) & (along < -3) & (across < 5)].all(), "it reaches down to the cut"
    assert not cavity[(along > 3) & (across < 20)].any(), "and ends there"
    cord = head.tissue == INDEX["cord"]
    assert (cord & (along > 3)).sum() > 1000 and not cavity[cord & (along > 3)].any()


def test_orbits_are_mostly_fat_and_sinuses_mostly_air(coarse):
    head = make_phantom(0)
    for tissue, level in (("orbit", -95), ("sinus", -1000)):
        assert (head.tissue == INDEX[tissue]).sum() > 500, tissue
        assert TISSUES[tissue][1] == level


def test_label_files_are_found_in_order(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.txt", "d.nii.gz.part"):
        (tmp_path / name).touch()
    assert [p.name for p in find_label_maps(tmp_path)] == ["a.nii", "b.nii.gz"]


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="no label map"):
        find_label_maps(tmp_path)
    with pytest.raises(InputError, match="no label map"):
        find_label_maps(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "text", "truncated", "damaged", "no brain", "flat", "several"]
)
def test_what_is_no_label_map_is_refused_in_one_line(tmp_path, save_nifti_as, kind):
    path = tmp_path / f"{kind}.nii.gz"
    labels = np.random.default_rng(0).integers(0, 60, (20, 20, 20)).astype(np.int16)
    arrays = {"no brain": labels % 8, "flat": labels[0], "several": np.stack([labels] * 2, 3)}
    save_nifti_as(path, arrays.get(kind, labels))
    content, half = path.read_bytes(), path.stat().st_size // 2
    damaged = content[:half] + b"\xff" * 64 + content[half + 64 :]
    broken = {"empty": b"", "text": b"no labels\n", "truncated": content[:half]}
    path.write_bytes((broken | {"damaged": damaged}).get(kind, content))
    if kind == "missing":
        path.unlink()
    with pytest.raises(InputError) as caught:
        make_scan(0, path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
