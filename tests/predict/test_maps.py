"""What the networks said, as maps: probabilities, and where views and networks disagree."""

import json

import cv2
import nibabel as nib
import numpy as np
import pytest
from make import CARD, egg, layers, make_network, write_case
from scipy import ndimage

import pred
from common.card import to_card
from model import export_model
from predict.brain import put_slices
from predict.maps import measure_spread, name_maps
from predict.network import Network, read_cards
from predict.result import Wanted, is_done, plan
from scan.read import read_volume
from scan.views import VIEWS

LABELS = list(CARD["labels"].values())
TURNED = np.diag([-1.0, -1, 1, 1])  # the affine of a case that is stored in another order


def run(*words, out):
    return pred.main([*map(str, words), "--probabilities", "--uncertainty", "--out", str(out)])


def about(out, name):
    return json.loads((out / f"{name}_prediction/{name}.json").read_text())


def map_of(out, name, kind):
    return nib.load(out / f"{name}_prediction/{name}_{kind}.nii.gz")


def values_of(out, name, kind):
    return np.asarray(map_of(out, name, kind).dataobj)


# ---------------------------------------------------------------- the spread


def test_the_spread_is_the_standard_deviation_and_exactly_0_where_all_agree():
    answers = np.random.default_rng(0).random((7, 5, 4), np.float32)
    answers[:, 0] = answers[0, 0]
    spread = measure_spread(iter(answers))
    assert spread.dtype == np.float32 and (spread[0] == 0).all()
    np.testing.assert_allclose(spread, answers.std(0), atol=1e-6)


def test_every_view_and_its_mirror_image_is_asked_of_every_network(network):
    """Two networks: one sees brain in the left columns of every slice, the other nowhere."""

    def left_half(pictures):
        inside = np.arange(pictures.shape[2]) < 8
        inside = np.broadcast_to(inside, pictures.shape[:3])
        return np.stack([~inside, inside, 0 * inside], axis=-1).astype(np.float32)

    def nothing(pictures):
        return np.eye(3, dtype=np.float32)[np.zeros(pictures.shape[:3], int)]

    pair = Network([pred.MODEL, pred.MODEL])
    for member, answer in zip(pair.members, (left_half, nothing), strict=True):
        member.run = answer
    answers = list(pair.each_view(np.zeros((16, 16, 16), np.float32), dict.fromkeys(VIEWS, 2)))
    assert len(answers) == 2 * 2 * 3
    x, y = np.indices((16, 16, 16))[:2] < 8
    # the right lies on the left of a slice; of a sagittal one, mirrored or not, the front
    expected = [~x, ~x, ~y, x, x, ~y, *[np.zeros_like(x)] * 6]
    for found, truth in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(found > 0.5, truth)
    spread = measure_spread(iter(answers))
    np.testing.assert_allclose(spread, np.std(expected, axis=0), atol=1e-6)


def test_a_mirrored_head_is_cut_at_the_other_side(network, monkeypatch):
    cuts = []

    def watched(seen, every, cut):
        cuts.append(cut)
        return {}

    monkeypatch.setattr(network, "in_views", watched)
    cut = np.array([[True, False, True], [False, True, False]])
    list(network.each_view(np.zeros((4, 4, 4)), {"axial": 1}, cut))
    np.testing.assert_array_equal(cuts[1], [[False, False, True], [True, True, False]])


# ---------------------------------------------------------------- MRI

KINDS = {
    "slices": ((48, 48), {"views": ["axial", "sagittal"]}),
    "patches": ((32, 32, 24), {"spacing_mm": 1.0, "views": ["volume"]}),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Two networks that know a tumour's parts: one surely, one with soft probabilities."""
    folder = tmp_path_factory.mktemp("pair")
    shape, card = KINDS[request.param]
    paths = []
    for name, sure in (("hard", 200.0), ("soft", 2.0)):
        paths.append(make_network(folder / f"{name}.keras", shape, card, sure))
        export_model(paths[-1])
    return paths


@pytest.fixture(scope="module")
def outcome(pair, tmp_path_factory):
    """The folders of the results of each network, and of both together."""
    folder = tmp_path_factory.mktemp("outcome")
    case = write_case(folder / "x", layers(), egg(), TURNED, [[1, -1], [0, 1], [2, 1]])
    models = {"hard": pair[:1], "soft": pair[1:], "both": pair}
    for name, paths in models.items():
        assert run(case, "--model", *paths, out=folder / name) == 0
    return case, {name: folder / name for name in models}


def test_probabilities_lie_on_the_scans_own_grid_a_volume_for_each_label(outcome):
    case, out = outcome
    truth = nib.load(case / "x_seg.nii.gz")
    found, said = map_of(out["hard"], "x", "probability"), about(out["hard"], "x")
    assert said["probability"] == ["x_probability.nii.gz"] and said["probability_of"] == LABELS
    assert found.shape == (*truth.shape, 3) and found.get_data_dtype() == np.float32
    assert found.header.get_zooms()[3] == 1
    np.testing.assert_array_equal(found.affine, truth.affine)
    values, labels = np.asarray(found.dataobj), np.asarray(truth.dataobj)
    background = 1 - values.sum(-1, keepdims=True)
    likeliest = np.array([0, 1, 2, 4])[np.concatenate([background, values], -1).argmax(-1)]
    mask = values_of(out["hard"], "x", "predicted_mask")
    np.testing.assert_array_equal(likeliest, mask)
    assert (mask == labels).mean() > 0.99 and mask.any()


def test_of_two_networks_every_probability_is_the_mean(outcome):
    hard, soft, both = (values_of(out, "x", "probability") for out in outcome[1].values())
    assert np.abs(hard - soft).max() > 0.1
    np.testing.assert_allclose(both, (hard + soft) / 2, atol=1e-5)


def test_the_uncertainty_is_0_where_all_agree_and_half_the_difference_of_two(outcome):
    case, out = outcome
    hard, soft, both = (values_of(o, "x", "uncertainty") for o in out.values())
    assert hard.max() < 1e-6 and about(out["hard"], "x")["uncertainty_ml"] == 0
    foreground = [values_of(out[name], "x", "probability").sum(-1) for name in ("hard", "soft")]
    np.testing.assert_allclose(both, np.abs(foreground[0] - foreground[1]) / 2, atol=1e-4)
    said = about(out["both"], "x")
    ml = both.sum() / 1000
    assert said["uncertainty_ml"] == pytest.approx(ml, abs=0.006) and ml > 0.03
    picture = cv2.imread(str(out["both"] / "x_prediction" / said["uncertainty_picture"]))
    assert (np.ptp(picture.astype(int), axis=2) > 30).any(), "drawn in colour"


def test_the_json_names_every_network_and_another_set_is_not_done(pair, outcome, capsys):
    case, out = outcome
    shas = [to_card(json.loads(p.with_suffix(".json").read_text())).sha256 for p in pair]
    assert about(out["both"], "x")["model"] == sorted(shas)
    assert about(out["hard"], "x")["model"] == shas[0]
    run(case, "--model", *pair[::-1], out=out["both"])
    assert "done before" in capsys.readouterr().out, "the same set in another order"
    (target,), wanted = plan([case], out["both"]), Wanted(probabilities=True, uncertainty=True)
    assert is_done(target, read_cards(pair), wanted)
    for models in (pair[:1], [*pair, pair[0]]):
        assert not is_done(target, read_cards(models), wanted)


def test_a_slice_of_several_labels_gets_a_picture_for_each(tmp_path):
    path = make_network(tmp_path / "m.keras", *KINDS["slices"], 6.0)
    export_model(path)
    picture = np.zeros((40, 48, 3), np.uint8)
    picture[8:30, 8:40], picture[12:20, 12:30], picture[22:28, 10:20] = 40, 250, (0, 40, 250)
    cv2.imwrite(str(tmp_path / "s.png"), picture)
    assert run(tmp_path / "s.png", "--model", path, out=tmp_path) == 0
    said, folder = about(tmp_path, "s"), tmp_path / "s_prediction"
    assert said["probability"] == [f"s_probability_{value}.png" for value in (1, 2, 4)]
    assert said["probability_of"] == LABELS
    parts = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for name in said["probability"]]
    mask = cv2.imread(str(folder / "s_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    shares = [65535 - np.sum(parts, axis=0, dtype=int), *parts]
    assert all(part.dtype == np.uint16 and part.shape == (40, 48) for part in parts)

    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[np.argmax(shares, 0)], mask)
    assert mask.any() and said["uncertainty_pixels"] == pytest.approx(0, abs=0.1)


# ---------------------------------------------------------------- CT


@pytest.fixture(scope="module")
def head(cta_file, tmp_path_factory):
    """The folder of the results of a CTA, with and without maps."""
    out = tmp_path_factory.mktemp("head")
    assert pred.main([str(cta_file), "--out", str(out / "plain")]) == 0
    assert run(cta_file, out=out / "maps") == 0
    return out


def test_maps_change_no_mask_and_lie_on_the_scans_grid(head, cta_file):
    plain, mapped = (
        (head / kind / "cta_prediction/cta_predicted_mask.nii.gz").read_bytes()
        for kind in ("plain", "maps")
    )
    assert plain == mapped and len(list((head / "plain/cta_prediction").iterdir())) == 4
    scan, said = nib.load(cta_file), about(head / "maps", "cta")
    assert said["probability_of"] == ["brain"] and not said["notes"]
    for kind in ("probability", "uncertainty"):
        found = map_of(head / "maps", "cta", kind)
        assert found.shape == scan.shape and found.get_data_dtype() == np.float32
        np.testing.assert_array_equal(found.affine, scan.affine)


def test_the_probability_is_high_in_the_brain_and_views_disagree_at_its_border(head, cta):
    probability, spread, mask = (
        values_of(head / "maps", "cta", kind)
        for kind in ("probability", "uncertainty", "predicted_mask")
    )
    deep = ndimage.binary_erosion(mask, iterations=4)
    far = ndimage.distance_transform_edt(mask == 0) > 16
    border = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask)
    assert probability[deep].mean() > 0.95 and probability[far].mean() < 0.05
    assert spread.min() >= 0 and spread.max() <= 0.5
    assert 5 * spread[deep].mean() < spread[border].mean()
    voxel = abs(np.linalg.det(cta.affine[:3, :3])) / 1000
    said = about(head / "maps", "cta")["uncertainty_ml"]
    assert said == pytest.approx(spread.sum(dtype=float) * voxel, rel=1e-3)


def test_a_slice_gets_its_maps_in_16_bits(head_slice, tmp_path):
    cv2.imwrite(str(tmp_path / "s.png"), head_slice[0])
    assert run(tmp_path / "s.png", out=tmp_path) == 0
    folder, said = tmp_path / "s_prediction", about(tmp_path, "s")
    probability, spread = (
        cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) / 65535
        for name in (*said["probability"], said["uncertainty"])
    )
    assert said["probability"] == ["s_probability.png"] and probability.shape == spread.shape
    mask = cv2.imread(str(folder / "s_predicted_mask.png"), cv2.IMREAD_UNCHANGED) > 0
    assert probability[mask].mean() > 0.9 and ((probability > 0.5) == mask).mean() > 0.97
    assert 0 < spread.max() <= 0.5
    assert said["uncertainty_pixels"] == pytest.approx(spread.sum(), abs=0.5)
    assert cv2.imread(str(folder / said["uncertainty_picture"])).shape == (*mask.shape, 3)


def test_a_thin_scan_and_one_without_a_head_get_maps_too(cta, tmp_path, save_nifti_as):
    save_nifti_as(tmp_path / "thin.nii.gz", cta.hu[..., 40:43], cta.affine)
    save_nifti_as(tmp_path / "air.nii.gz", np.full((40, 40, 40), -1000, np.int16))
    assert run(tmp_path / "thin.nii.gz", tmp_path / "air.nii.gz", out=tmp_path) == 0
    probability = values_of(tmp_path, "thin", "probability")
    mask = values_of(tmp_path, "thin", "predicted_mask") > 0
    assert probability.shape == mask.shape == (*cta.hu.shape[:2], 3)
    assert probability[mask].mean() > 0.9 > 0.1 > probability[~mask].mean()
    assert values_of(tmp_path, "thin", "uncertainty").max() > 0
    assert not values_of(tmp_path, "air", "probability").any()
    assert about(tmp_path, "air")["uncertainty_ml"] == 0


def test_maps_of_some_slices_are_put_where_these_lie(cta_file):
    scan = read_volume(cta_file)
    part = np.random.default_rng(0).random((1, *scan.hu[..., 3:7].shape), np.float32)
    whole = put_slices(part, scan, slice(3, 7))
    np.testing.assert_array_equal(whole[0, ..., 3:7], part[0])
    assert whole.shape == (1, *scan.hu.shape)
    assert not whole[..., :3].any() and not whole[..., 7:].any()


def test_a_mask_of_a_head_has_one_probability_whatever_its_network_tells_apart():
    assert name_maps(to_card({"labels": {"1": "tissue", "2": "hyperdense"}})) == {1: "brain"}
    assert name_maps(to_card(CARD)) == dict(zip((1, 2, 4), LABELS, strict=True))
