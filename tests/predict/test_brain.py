"""The mask of a scan: found in any position, cut, blanked out or thin; cleaned."""

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from predict import brain
from predict.brain import (
    BLANKED,
    NO_HEAD,
    TOO_THIN,
    choose_every,
    clean_volume,
    compare_views,
    cut_canal,
)
from scan.mask import dice
from scan.read import read_volume
from scan.views import VIEWS


@pytest.mark.parametrize("flips", [(1, 1, -1), (-1, -1, 1)])
def test_a_head_upside_down_gets_nearly_the_same_mask(
    network, cta, found, flips, tmp_path, save_nifti_as
):
    order = np.column_stack([range(3), flips])
    path = save_nifti_as(tmp_path / "x.nii.gz", nib.apply_orientation(cta.hu, order), cta.affine)
    mask = nib.apply_orientation(brain.predict(read_volume(path), network).mask, order)
    assert dice(mask, found.mask) > 0.97
    assert dice(mask, cta.mask) > 0.94


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 4])
def test_a_few_slices_are_enough(network, cta, axis, count, tmp_path, save_nifti_as):
    middle = range(40 - count // 2, 40 - count // 2 + count)
    path = save_nifti_as(tmp_path / "slab.nii.gz", cta.hu.take(middle, axis), cta.affine)
    scan = read_volume(path)
    result = brain.predict(scan, network)
    assert result.mask.shape == scan.hu.shape and not result.notes
    assert dice(result.mask, cta.mask.take(middle, axis)) > 0.9
    assert result.verdict.grade == "check" and result.verdict.reasons == (TOO_THIN,)


def test_a_real_head_ct(network, shared):
    scan = read_volume(shared("ct/scct.nii.gz"))
    mask = np.asarray(nib.as_closest_canonical(nib.load(shared("ct/scct_mask.nii.gz"))).dataobj)
    assert dice(brain.predict(scan, network).mask, mask > 0.5) > 0.93


def blind(seen):
    """The probabilities (…, classes) of a view that sees nothing but background."""
    return np.eye(seen.shape[-1], dtype=np.float32)[np.zeros(seen.shape[:-1], int)]


def test_what_no_two_views_see_alike_is_no_brain(network, cta_file, monkeypatch):
    """As the tongue in scans of a neck; one view that fails does not stop the other two."""
    scan, views, ask_views = read_volume(cta_file), network.in_views, brain.ask_views
    thirds = dict(zip(VIEWS, (0.9, 0.6, 0.0), strict=True))

    def apart(*args, **words):
        answer = ask_views(*args, **words)
        heights = np.linspace(0, 1, answer.inside.shape[2])
        seen = {
            v: s * (heights >= thirds[v]) * (heights < thirds[v] + 0.4)
            for v, s in answer.views.items()
        }
        return replace(answer, views=seen)

    monkeypatch.setattr(brain, "ask_views", apart)
    result = brain.predict(scan, network)
    assert not result.mask.any() and result.notes == (NO_HEAD,)
    monkeypatch.setattr(brain, "ask_views", ask_views)

    def two_views(*args, **words):
        seen = views(*args, **words)
        return seen | {"sagittal": blind(seen["sagittal"])}

    monkeypatch.setattr(network, "in_views", two_views)
    assert brain.predict(scan, network).mask.any()


def test_a_trunk_has_no_brain(network, shared):
    result = brain.predict(read_volume(shared("trunk/example_ct.nii.gz")), network)
    assert not result.mask.any() and result.notes == (NO_HEAD,)


@pytest.mark.parametrize(
    "spacing, slice_axis, seen",
    [
        ((0.5, 0.5, 0.7), 2, (2, 2, 2)),
        ((0.8, 0.8, 3.5), 2, (2, 2, 2)),
        ((0.4, 0.4, 5.0), 2, (3, 5, 5)),
        ((0.4, 0.4, 6.5), 2, (4, 5, 5)),
        ((7.5, 0.6, 0.6), 0, (5, 5, 5)),
        ((4.7, 4.7, 2.5), 2, (2, 3, 3)),
    ],
)
def test_of_views_finer_than_the_scan_fewer_slices_are_seen(spacing, slice_axis, seen):
    scan = SimpleNamespace(spacing=np.array(spacing), slice_axis=slice_axis)
    every = choose_every(scan, 1.5)
    assert every == dict(zip(("axial", "coronal", "sagittal"), seen, strict=True))


def test_clean_volume_keeps_the_largest_part_and_fills_it():
    probability = np.zeros((30, 30, 30), np.float32)
    probability[5:20, 5:20, 5:20] = 0.9
    probability[10:13, 10:13, 10:13] = 0.2
    probability[24:28, 24:28, 24:28] = 1.0
    probability[20:22, 5:20, 5:20] = 0.4  # the soft border of the large part
    clean = clean_volume(probability)
    assert clean.dtype == np.float32 and (clean[10:13, 10:13, 10:13] == 1).all()
    assert not clean[24:].any()
    np.testing.assert_allclose(clean[20, 7:18, 7:18], 0.4, atol=1e-6)
    assert (clean[6:19, 6:19, 6:19] > 0.5).all()
    assert not clean_volume(np.zeros((4, 4, 4), np.float32)).any()


def test_clean_volume_cuts_off_what_hangs_by_a_thread():
    """An orbit painted through the optic canal, two cubes wide."""
    probability = np.zeros((40, 30, 30), np.float32)
    probability[3:18, 5:25, 5:25] = 0.9
    probability[18:26, 12:14, 12:14] = 0.9
    probability[26:36, 8:18, 8:18] = 0.9
    clean = clean_volume(probability) > 0.5
    assert clean[4:17, 6:24, 6:24].all() and not clean[22:].any()


def test_agreement_is_the_dice_of_each_pair_of_views():
    seen = {"axial": [1.0, 1, 0, 0], "coronal": [1.0, 0, 0, 0], "sagittal": [0.0, 0, 0, 1]}
    views = {view: np.reshape(row, (4, 1, 1)) for view, row in seen.items()}
    assert compare_views(views, dict.fromkeys(views, 1)) == {
        "axial-coronal": pytest.approx(2 / 3, abs=1e-4),
        "axial-sagittal": 0,
        "coronal-sagittal": 0,
    }
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1


def test_what_runs_down_the_canal_is_cut_and_a_round_end_is_not():
    x, y, z = np.ogrid[-50:51, -50:51, -80:51]
    ball = x**2 + y**2 + z**2 < 45**2
    canal = (x**2 + y**2 < 8**2) & (z < 0)
    cut = cut_canal((ball | canal).astype(np.float32), 1.5) > 0.5
    lowest = np.flatnonzero(cut.any(axis=(0, 1)))[0] - 80
    assert -45 - 3 / 1.5 <= lowest < -40, "the funnel above the foramen stays, the canal does not"
    np.testing.assert_array_equal(cut[..., 80:], (ball | canal)[..., 80:])
    whole = cut_canal(ball.astype(np.float32), 1.5) > 0.5
    np.testing.assert_array_equal(whole, ball)
    assert not cut_canal(np.zeros((4, 4, 4), np.float32), 1.5).any()


def test_brain_close_to_a_face_of_the_box_is_looked_at_in_a_larger_one(
    network, found, cta_file, monkeypatch
):
    coarse = brain.find_head

    def half(scan, network):
        head = coarse(scan, network)
        head.box[0, 0] = head.box[:, 0].mean() - 10
        return head

    monkeypatch.setattr(brain, "find_head", half)
    again = brain.predict(read_volume(cta_file), network)
    assert dice(again.mask, found.mask) > 0.99


@pytest.mark.parametrize("mm", [30, 36, 60])
def test_a_head_that_the_scan_cuts_is_found_whole(mm, network, cta, tmp_path, save_nifti_as):
    """So many mm above its base; without the mirror image, much less of the first two."""
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    part = np.s_[..., : base + round(mm / cta.affine[2, 2])]
    scan = read_volume(save_nifti_as(tmp_path / "cut.nii.gz", cta.hu[part], cta.affine))
    assert brain.find_head(scan, network).cut.tolist() == [[False] * 3, [False, False, True]]
    assert dice(brain.predict(scan, network).mask, cta.mask[part]) > 0.95


@pytest.mark.parametrize("axes", ["RAS", "ALI"])
@pytest.mark.parametrize("left", ["nothing", "a cylinder", "the brain"])
def test_where_a_head_was_blanked_out_its_scan_ends(
    left, axes, network, cta, tmp_path, save_nifti_as
):
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    stop = base + round(50 / cta.affine[2, 2])
    x, y = np.ogrid[: cta.hu.shape[0], : cta.hu.shape[1]]
    middle = np.argwhere(cta.mask).mean(0)
    cylinder = np.hypot(x - middle[0], y - middle[1])[..., None] < 8
    kept = {"nothing": False, "a cylinder": cylinder, "the brain": cta.mask}[left]
    hu = np.where(kept | (np.arange(cta.hu.shape[2]) < stop), cta.hu, -1024)
    path = save_nifti_as(tmp_path / "blanked.nii.gz", hu, cta.affine)
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axes)
    )
    nib.save(nib.load(path).as_reoriented(turn), path)
    result = brain.predict(read_volume(path), network)
    assert result.mask.shape == cta.mask.shape and not result.mask[..., stop:].any()
    assert dice(result.mask[..., :stop], cta.mask[..., :stop]) > 0.985
    assert result.notes == (BLANKED.format(hu.shape[2] - stop, "top"),)
    assert any("top face" in reason for reason in result.verdict.reasons)


def test_what_is_seen_only_once_the_scan_ends_where_it_was_blanked_out(
    network, cta, tmp_path, save_nifti_as, monkeypatch
):
    base = np.flatnonzero(cta.mask.any((0, 1)))[0]
    stop = base + round(50 / cta.affine[2, 2])
    hu = np.where(np.arange(cta.hu.shape[2]) < stop, cta.hu, -1024)
    scan = read_volume(save_nifti_as(tmp_path / "x.nii.gz", hu, cta.affine))
    find = brain.find_head
    monkeypatch.setattr(
        brain,
        "find_head",
        lambda part, network: None if part.hu.shape == hu.shape else find(part, network),
    )
    assert dice(brain.predict(scan, network).mask[..., :stop], cta.mask[..., :stop]) > 0.985
    monkeypatch.setattr(brain, "find_head", lambda part, network: None)
    result = brain.predict(scan, network)
    assert not result.mask.any() and result.notes == (NO_HEAD,)


def test_a_head_that_one_view_alone_sees_is_found(network, cta_file, monkeypatch):
    scan, views = read_volume(cta_file), network.in_views
    head = brain.find_head(scan, network)

    def axial(*args):
        return {
            view: seen if view == "axial" else blind(seen) for view, seen in views(*args).items()
        }

    monkeypatch.setattr(network, "in_views", axial)
    again = brain.find_head(scan, network)
    np.testing.assert_allclose(again.box, head.box, atol=3 * 3.0)  # mm: three of the coarse cubes
    np.testing.assert_array_equal(again.whole, head.whole)
    monkeypatch.setattr(network, "in_views", lambda *args: {"axial": blind(views(*args)["axial"])})
    assert brain.find_head(scan, network) is None
