"""The verdict: HU told from other values, each sign, the verdict; and what pred.py makes of it."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common.report import VERDICTS, add_verdict
from pred import main
from predict.brain import compare_views
from predict.verdict import (
    CHECK,
    EMPTY,
    FAILED,
    LIMITS,
    OK,
    judge,
    measure_agreement,
    measure_answer,
    measure_axes,
    measure_scan,
    measure_tail,
    measure_upright,
)
from scan.hu import doubt_hu, to_hu
from scan.mask import dice, grow_mask
from scan.read import read_volume
from scan.volume import NO_SPACING

SPACING = 2.0  # mm
EVERY = {"axial": 3, "coronal": 2, "sagittal": 2}  # slice that a view looks at


@pytest.fixture(scope="module")
def head():
    """A ball of brain (radius 60 mm) in a skull, over a neck: HU and mask (X, Y, Z) at 2 mm."""
    x, y, z = np.ogrid[-45:46, -45:46, -70:50]
    away = np.sqrt(x**2 + y**2 + z**2) * SPACING
    hu = np.full(away.shape, -1000, np.float32)
    hu[(x**2 + y**2 < 30**2) & (z < -20)] = 50
    hu[away < 75] = 40
    hu[away < 66] = 900
    hu[away < 60] = 35
    noise = np.random.default_rng(0).normal(0, 8, hu.shape)
    return (hu + noise).astype(np.float32), away < 60


@pytest.fixture(scope="module")
def answer(head):
    """What a sure network says of it, in three views that agree."""
    _, mask = head
    probability = np.clip(ndimage.gaussian_filter(mask.astype(np.float32), 0.4), 0, 1)
    return dict.fromkeys(("axial", "coronal", "sagittal"), probability)


def verdict_on(hu, mask, views):
    size = mask.sum() * SPACING**3 / 1000
    signs = measure_answer(views, EVERY, mask, hu, SPACING)
    signs |= measure_scan(hu, mask, (SPACING,) * 3, size)
    return judge(signs, doubt_hu(hu))


# ---------------------------------------------------------------- HU or not


def test_hu_are_left_alone(head):
    hu, notes = to_hu(head[0])
    assert hu is head[0]
    assert notes == ()
    assert doubt_hu(hu) == ()


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_missing_intercept_is_seen_and_mended(head, kind):
    whole = np.maximum(np.rint(head[0]), -1024).astype(kind)
    hu, notes = to_hu(whole + kind(1024))
    assert hu.dtype == kind
    assert np.array_equal(hu, whole)
    assert len(notes) == 1
    assert "1024" in notes[0]


def eight_bit(hu):
    return np.rint(np.clip((hu + 200) / 1000, 0, 1) * 255)


def mri(hu):
    return np.select([hu > 500, hu > -300], [20, 600 + hu], 5)


def no_slope(hu):
    return hu * 2 + 1024


STRANGE = {
    "8-bit": eight_bit,
    "no air": mri,
    "bone": lambda hu: np.minimum(hu, 100),
    "body lies at": lambda hu: hu + 400,
    "not HU": no_slope,
}


@pytest.mark.parametrize("words", STRANGE)
def test_what_is_no_hu_is_called_so_and_left_alone(head, words):
    hu = STRANGE[words](head[0]).astype(np.float32)
    same, notes = to_hu(hu)
    assert same is hu
    assert notes == ()
    assert any(words in reason for reason in doubt_hu(hu))


def test_nothing_but_air_is_no_head():
    assert doubt_hu(np.full((8, 8, 8), -1000, np.int16))


# ---------------------------------------------------------------- signs


def test_a_good_mask_is_ok(head, answer):
    verdict = verdict_on(*head, answer)
    assert verdict.reasons == ()
    assert verdict.grade == OK
    assert verdict.signs["near_bone"] == 1
    assert verdict.signs["agreement"] == 1
    assert verdict.signs["volume_ml"] == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.01)


def test_every_limit_is_a_sign_that_is_measured(head, answer):
    assert {limit.sign for limit in LIMITS} <= set(verdict_on(*head, answer).signs)


def test_views_that_disagree_in_one_third_are_told_where(head, answer):
    hu, mask = head
    low = np.flatnonzero(mask.any((0, 1)))[0]
    shifted = answer["axial"].copy()
    shifted[..., low : low + 20] = np.roll(shifted[..., low : low + 20], 8, axis=0)
    signs = measure_agreement(answer | {"axial": shifted}, EVERY, mask)
    assert signs["agreement_base"] < 0.9 < signs["agreement"]
    assert signs["agreement_upper"] == signs["agreement_middle"] == 1


def test_only_what_both_views_looked_at_tells_whether_they_agree(head, answer):
    _, mask = head
    wrong = {view: np.ones_like(mask, np.float32) for view in answer}
    for axis, view in enumerate(("sagittal", "coronal", "axial")):
        looked = np.moveaxis(wrong[view], axis, 0)[:: EVERY[view]]
        looked[:] = np.moveaxis(answer[view], axis, 0)[:: EVERY[view]]
    assert measure_agreement(wrong, EVERY, mask)["agreement"] == 1
    broad = [
        measure_answer(views, EVERY, *head[::-1], SPACING)["border_mm"] for views in (answer, wrong)
    ]
    assert broad[0] == broad[1]
    assert set(compare_views(wrong, EVERY).values()) == {1}
    assert measure_agreement(wrong, dict.fromkeys(EVERY, 1), mask)["agreement"] < 0.97


def test_a_wavering_network_has_a_broad_border(head, answer):
    hu, mask = head
    unsure = dict.fromkeys(answer, ndimage.gaussian_filter(mask.astype(np.float32), 3))
    sharp, broad = (
        measure_answer(views, EVERY, mask, hu, SPACING)["border_mm"] for views in (answer, unsure)
    )
    # of a Gaussian from 0.1 to 0.9; a shell of voxels is some 20 % smaller than the sphere
    assert broad == pytest.approx(2 * 1.2816 * 3 * SPACING * 1.2, rel=0.15)
    assert sharp < broad / 2


def test_a_cut_brain_is_told_by_face_and_area(head):
    hu, mask = head
    signs = measure_scan(hu[..., :80], mask[..., :80], (2, 2, 2), 500)
    radius = np.sqrt(60**2 - 18**2)  # slice 79 lies 18 mm above the centre
    assert signs["cut_top_mm2"] == pytest.approx(np.pi * radius**2, rel=0.02)
    assert signs["cut_bottom_mm2"] == signs["cut_left_mm2"] == 0
    assert "top face" in judge(signs).reasons[1]


def test_blanked_voxels_are_seen_in_the_middle_of_a_scan(head, answer):
    hu, mask = (x.copy() for x in head)
    hu[..., 80:], mask[..., 80:] = -1024, False
    signs = measure_answer(answer, EVERY, mask, hu, SPACING)
    assert signs["faces_air"] > 0.2
    assert signs["near_bone"] < 0.9


@pytest.mark.parametrize(("sign", "value"), [("bone_inside", 900), ("fat_inside", -90)])
def test_what_no_brain_holds_is_seen(head, answer, sign, value):
    hu, mask = head
    filled = hu.copy()
    filled[30:60, 30:60, 60:80] = value
    share = 30 * 30 * 20 / mask.sum()
    signs = measure_answer(answer, EVERY, mask, filled, SPACING)
    assert signs[sign] == pytest.approx(share, rel=0.25)  # its edge is blurred


def test_a_tail_down_the_canal_is_measured(head):
    mask = head[1].copy()
    before = measure_tail(mask, SPACING)
    mask[40:50, 40:50, 20:45] = True
    assert measure_tail(mask, SPACING) - before == pytest.approx(2 * 20, abs=2 * SPACING)
    canal = np.zeros_like(mask)
    canal[40:50, 40:50, 20:45] = True
    assert measure_tail(canal, SPACING) == 25 * SPACING, "all of it, where there is nothing wide"


def test_a_head_upside_down_is_told(head):
    hu, mask = head
    assert measure_upright(hu, mask, (2, 2, 2)) > 0.9
    turned = measure_upright(hu[..., ::-1], mask[..., ::-1], (2, 2, 2))
    assert turned < -0.9
    assert "head is up" in judge({"upright": turned}).reasons[0]


def test_a_vault_alone_says_nothing_of_up_and_down(head):
    hu, mask = head
    assert measure_upright(hu[..., 45:], mask[..., 45:], (2, 2, 2)) is None


@pytest.mark.parametrize("turn", [(0, 0, 0), (20, -35, 50)])
def test_the_axes_of_a_turned_ellipsoid_are_its_own(turn):
    semi_axes = np.array([60, 70, 84])  # mm
    places = (np.indices((90, 90, 90)).T - 44.5) * SPACING
    places = places @ Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    signs = measure_axes(np.linalg.norm(places / semi_axes, axis=-1) < 1, SPACING)
    assert signs["longest_mm"] == pytest.approx(2 * 84, rel=0.01)
    assert signs["flatness"] == pytest.approx(84 / 60, rel=0.01)
    assert measure_axes(np.ones((1, 1, 1), bool), SPACING) == {}


@pytest.mark.parametrize(
    ("share", "stretch", "grade", "words"),
    [
        (1, (1, 1, 1), OK, None),
        (1 / 0.8, (1, 1, 1), CHECK, "longer than a skull"),
        (1 / 0.49, (1, 1, 1), FAILED, "longer than a skull"),
        (1, (1, 1, 0.5), CHECK, "times as long as thin"),
        (1 / 0.45, (1, 1, 0.09), FAILED, "times as long as thin"),
    ],
)
def test_a_head_of_a_wrong_spacing_has_no_heads_size(share, stretch, grade, words):
    """An adult's, 166 x 136 x 126 mm inside, where the header's spacing is `share` of the right."""
    semi_axes = np.multiply((68, 83, 63), share) * stretch
    places = (np.indices((110, 130, 100)).T - (54.5, 64.5, 49.5)) * 3.0
    signs = measure_axes((np.linalg.norm(places / semi_axes, axis=-1) < 1).T, 3.0)
    verdict = judge(signs)
    assert verdict.grade == grade
    assert words is None or any(words in reason for reason in verdict.reasons)
    assert all("spacing right?" in reason for reason in verdict.reasons)
    assert not any("thin" in reason for reason in judge(signs | {"cut_top_mm2": 900}).reasons)


# ---------------------------------------------------------------- the verdict


def test_no_brain_failed(head, answer):
    hu, mask = head
    verdict = verdict_on(hu, np.zeros_like(mask), answer)
    assert verdict.grade == FAILED
    assert verdict.reasons == (EMPTY,)


def test_the_worst_sign_is_the_verdict_and_comes_first():
    verdict = judge({"tail_mm": 40, "near_bone": 0.1})
    assert verdict.grade == FAILED
    assert "bone" in verdict.reasons[0]
    assert "40 mm" in verdict.reasons[1]
    assert judge({"tail_mm": 40}).grade == CHECK
    assert judge({}).grade == OK


def test_a_part_of_a_brain_may_be_small():
    assert judge({"volume_ml": 150}).grade == FAILED
    verdict = judge({"volume_ml": 150, "cut_top_mm2": 5000})
    assert verdict.grade == CHECK and len(verdict.reasons) == 2
    assert judge({"volume_ml": 3000, "cut_top_mm2": 5000}).grade == FAILED
    assert judge({"volume_ml": 0, "cut_top_mm2": 0}).grade == FAILED


def test_values_that_are_no_hu_are_never_ok(head, answer):
    hu, mask = head
    verdict = verdict_on(eight_bit(hu), mask, answer)
    assert verdict.grade != OK
    assert any("8-bit" in reason for reason in verdict.reasons)


# ---------------------------------------------------------------- pred.py and report.py


def test_growing_is_by_true_distance():
    mask = np.zeros((41, 41, 15), bool)
    mask[20, 20, 7] = True
    grown = grow_mask(mask, (1.0, 1.0, 3.0), 6.0)
    where = np.argwhere(grown) - (20, 20, 7)
    assert np.abs(where).max(0).tolist() == [6, 6, 2]
    assert (
        grown.sum()
        == (
            np.linalg.norm((np.indices(mask.shape).T - (20, 20, 7)) * (1, 1, 3), axis=-1) <= 6
        ).sum()
    )
    assert grow_mask(mask, (1, 1, 3), 0) is mask


def test_shrinking_undoes_growing_of_a_ball_and_stops_at_the_scans_face(head):
    ball = head[1]
    back = grow_mask(grow_mask(ball, (2, 2, 2), 6.0), (2, 2, 2), -6.0)
    assert dice(ball, back) > 0.99
    cut = ball[..., :70]
    assert grow_mask(cut, (2, 2, 2), -6.0)[..., -1].any()
    assert not grow_mask(ball, (2, 2, 2), -70.0).any()


@pytest.fixture(scope="module")
def run_of_two(cta, tmp_path_factory, save_nifti_as):
    """The phantom's CTA and the same without intercept and name, predicted with all options."""
    folder = tmp_path_factory.mktemp("run")
    flipped = np.diag([-1.0, -1, 1, 1]) @ cta.affine
    (folder / "in").mkdir()
    save_nifti_as(folder / "in/good.nii.gz", cta.hu, flipped)
    stored = np.maximum(cta.hu, -1024) + 1024
    save_nifti_as(folder / "in/stored.nii.gz", stored, cta.affine)
    save_nifti_as(folder / "in/empty.nii.gz", np.full((40, 40, 40), -1000, np.int16), np.eye(4))
    out = folder / "out"
    code = main([str(folder / "in"), "--out", str(out), "--brain", "--border", "-3"])
    assert code == 0
    return folder / "in", out


def about(out, name):
    return json.loads((out / f"{name}_prediction/{name}.json").read_text())


def test_the_json_says_verdict_reasons_and_what_cannot_be_known(run_of_two):
    _, out = run_of_two
    good = about(out, "good")
    assert good["verdict"] in (OK, CHECK)
    assert (good["verdict"] == OK) == (good["reasons"] == [])
    assert "left and right" in good["left_right"]
    assert about(out, "empty")["verdict"] == FAILED
    assert about(out, "empty")["reasons"][:2] == [EMPTY, NO_SPACING]
    assert NO_SPACING not in good["reasons"]


def test_a_scan_without_intercept_gets_the_same_mask_and_a_note(run_of_two):
    _, out = run_of_two
    assert any("intercept" in note for note in about(out, "stored")["notes"])
    good, stored = (about(out, name)["volume_ml"] for name in ("good", "stored"))
    assert good == pytest.approx(stored, rel=0.02)


def test_the_brain_lies_on_the_scans_own_grid_in_air(run_of_two):
    folder, out = run_of_two
    scan = nib.load(folder / "good.nii.gz")
    mask = np.asarray(nib.load(out / "good_prediction/good_predicted_mask.nii.gz").dataobj) > 0
    brain = nib.load(out / "good_prediction/good_brain.nii.gz")
    assert np.array_equal(brain.affine, scan.affine)
    assert brain.header["sform_code"] == scan.header["sform_code"]
    values = np.asarray(brain.dataobj)
    assert np.array_equal(values[mask], np.maximum(np.asarray(scan.dataobj), -1024)[mask])
    assert (values[~mask] == -1024).all()


def test_the_border_shrinks_the_mask(run_of_two, tmp_path):
    folder, out = run_of_two
    grown = about(out, "good")
    assert grown["wanted"]["border"] == -3
    assert grown["volume_ml"] < 0.95 * grown["signs"]["volume_ml"]


def test_the_overlays_strip_says_the_verdict_in_its_colour():
    sheet = np.full((50, 300, 3), 90, np.uint8)
    drawn = add_verdict(sheet, "failed", ["12 mm² of something or other, " * 3])
    assert np.array_equal(drawn[-50:], sheet)
    assert len(drawn) - 50 > 60  # the reason is wrapped, not cut
    assert (drawn[:25] == VERDICTS["failed"]).all(-1).any()


def test_a_real_head_ct_is_upright_and_in_hu(shared):
    scan = read_volume(shared("ct/scct.nii.gz"))
    mask = np.asarray(nib.as_closest_canonical(nib.load(shared("ct/scct_mask.nii.gz"))).dataobj) > 0
    assert doubt_hu(scan.hu) == ()
    signs = measure_scan(scan.hu, mask, scan.spacing, 1400)
    assert signs.get("upright", 1) > 0
    assert signs["cut_top_mm2"] == 0
