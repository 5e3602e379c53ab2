"""What runs the network, and how it looks at views."""

import json
import sys
from dataclasses import replace

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

import model
import pred
import test as scoring
from common.card import read_card
from common.errors import InputError
from common.files import checksum
from model import build_unet, export_model, save_model
from predict.files import name_version
from predict.network import (
    MIRRORED,
    MODEL,
    MUST_MATCH,
    UNCUT,
    Network,
    interpolate,
    mirror_cut_faces,
    prepare,
    put_paths_first,
    read_cards,
)
from predict.picture import find_mask
from scan.mask import dice
from scan.views import stack


def test_probabilities_of_any_size_are_those_of_the_padded_picture(network):
    pictures = np.random.default_rng(0).random((3, 37, 50), np.float32)
    padded = np.pad(pictures, ((0, 0), (0, 11), (0, 14)))
    whole = network.probabilities(pictures, batch=2)
    assert whole.shape[:3] == (3, 37, 50) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, network.probabilities(padded)[:, :37, :50], atol=1e-3)


def test_between_slices_lie_their_mixtures_and_beyond_the_last_itself():
    shown = interpolate(np.array([0.0, 3.0, 9.0])[:, None, None], every=3, count=8)
    np.testing.assert_allclose(shown.ravel(), [0, 1, 2, 3, 5, 7, 9, 9])


def test_openvino_and_keras_find_the_same(network, cta):
    pictures = np.ascontiguousarray(stack(cta.hu, "axial")[10:60:5], np.float32)
    masks = np.stack([find_mask(picture, network) for picture in pictures])
    by_keras = Network(backend="keras")
    by_keras = np.stack([find_mask(picture, by_keras) for picture in pictures])
    assert masks.any() and dice(masks, by_keras) >= 0.999


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An untrained U-Net for pictures of any size, with no export yet."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    keras.utils.set_random_seed(0)
    save_model(build_unet((16, 16, 1), width=2, depth=1), path, {})
    return path


def test_onnx_keras_and_openvino_give_the_same_probabilities(tiny, capsys):
    pictures = np.random.default_rng(0).random((3, 37, 50), np.float32)
    by_keras = Network(tiny, "keras").probabilities(pictures)
    assert np.ptp(by_keras) > 0.05, "not all the same"
    # OpenVINO's export has weights of 16 bits, and a CPU may reckon in bfloat16
    for backend, ending, most in (("onnx", ".onnx", 1e-3), ("openvino", ".xml", 0.01)):
        found = Network(tiny, backend).probabilities(pictures)
        np.testing.assert_allclose(found, by_keras, atol=most)
        assert f"tiny{ending} was missing or not made of" in capsys.readouterr().err
    assert tiny.with_suffix(".onnx").stat().st_size < 100_000
    Network(tiny, "onnx")
    assert not capsys.readouterr().err, "both exports lie side by side, and both are fresh"


def test_a_stale_export_for_onnx_is_made_anew(tmp_path, monkeypatch):
    made, path = [], tmp_path / "m.keras"
    monkeypatch.setattr(model, "export_onnx", made.append)
    path.write_bytes(b"network")
    path.with_suffix(".onnx").write_bytes(b"export")
    said = {"made_from": checksum(path), "sha256": checksum(path.with_suffix(".onnx"))}
    path.with_suffix(".json").write_text(json.dumps({"onnx": said}))
    prepare([path], "onnx")
    assert made == []
    for file in (path, path.with_suffix(".onnx")):
        before = file.read_bytes()
        file.write_bytes(b"another")
        prepare([path], "onnx")
        assert made.pop() == path
        file.write_bytes(before)


def test_without_onnx_runtime_one_line_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install -r requirements-onnx.txt"):
        Network(tiny, "onnx")


def test_openvino_chooses_a_device_and_names_those_there_are(tiny):
    pictures = np.random.default_rng(0).random((2, 16, 16), np.float32)
    found = [Network(tiny, f"openvino{d}").probabilities(pictures) for d in ("", ":CPU", ":AUTO")]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-3)
    with pytest.raises(InputError, match=r"--device TPU: OpenVINO finds none.*CPU.*AUTO$"):
        Network(tiny, "openvino:TPU")


def test_the_device_is_openvinos(capsys):
    assert pred.parse(["x.png", "--device", "gpu"]).backend == "openvino:GPU"
    assert pred.parse(["x.png"]).backend == "openvino"
    for backend in ("keras", "onnx"):
        with pytest.raises(InputError, match="--device is for --backend openvino"):
            pred.parse(["x.png", "--device", "CPU", "--backend", backend])


def make_model(path, over):
    """A network that calls brain what is brighter than `over` in 0..1, saved but not exported."""
    inputs = keras.Input((None, None, 1))
    decide = keras.layers.Conv2D(1, 1, activation="sigmoid")
    network = keras.Model(inputs, decide(inputs))
    decide.set_weights([np.full((1, 1, 1, 1), 200.0), np.array([-200.0 * over])])
    save_model(network, path, {"window": [-200, 800]})
    return path


def brighter_than(path, grey):
    """Whether a model calls a grey of 0..1 brain."""
    picture = np.full((1, 32, 32), grey, np.float32)
    return bool((Network(path).probabilities(picture) > 0.5).all())


def test_an_export_that_is_stale_or_gone_is_made_anew(tmp_path, capsys):
    path = make_model(tmp_path / "m.keras", 0.3)
    export_model(path)
    capsys.readouterr()
    assert brighter_than(path, 0.5) and not capsys.readouterr().err
    make_model(path, 0.7)
    assert not brighter_than(path, 0.5), "the network of the new file"
    assert "m.xml was missing or not made of" in capsys.readouterr().err
    assert not brighter_than(path, 0.5) and not capsys.readouterr().err
    path.with_suffix(".xml").unlink()
    assert not brighter_than(path, 0.5) and capsys.readouterr().err.startswith("warning: ")
    path.with_suffix(".bin").write_bytes(b"\0" * 8)
    assert not brighter_than(path, 0.5) and capsys.readouterr().err.startswith("warning: ")


def test_an_unreadable_export_is_named(tmp_path):
    path = make_model(tmp_path / "m.keras", 0.3)
    export_model(path)
    path.with_suffix(".xml").write_text("<net>")
    with pytest.raises(InputError, match=r"m\.xml") as caught:
        Network(path)
    assert len(str(caught.value).splitlines()[0]) > 20


def test_slices_go_on_as_their_mirror_image_where_a_head_is_cut():
    cubes = np.random.default_rng(0).random((60, 50, 48))
    cut = np.array([[True, False, False], [False, False, True]])
    n = MIRRORED
    axial, inside = mirror_cut_faces(cubes, cut, "axial")
    np.testing.assert_array_equal(axial, np.concatenate([cubes[n:0:-1], cubes]))
    np.testing.assert_array_equal(axial[inside], cubes)
    sagittal, inside = mirror_cut_faces(cubes, cut, "sagittal")
    np.testing.assert_array_equal(sagittal[..., 48:], cubes[..., -2 : -2 - n : -1])
    np.testing.assert_array_equal(sagittal[inside], cubes)
    uncut, inside = mirror_cut_faces(cubes, UNCUT, "coronal")
    np.testing.assert_array_equal(uncut[inside], cubes)
    assert uncut.shape == cubes.shape


# ---------------------------------------------------------------- several networks as one


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Networks that call brain what is brighter than 0.3, and than 0.7, of 1."""
    folder = tmp_path_factory.mktemp("two")
    paths = [make_model(folder / f"{over}.keras", over) for over in (0.3, 0.7)]
    for path in paths:
        export_model(path)
    return paths


@pytest.mark.parametrize("backend", ["openvino", "keras"])
def test_several_networks_give_the_mean_of_their_probabilities(two, backend):
    pictures = np.random.default_rng(0).random((3, 32, 48), np.float32)
    alone = [Network(path, backend).probabilities(pictures) for path in two]
    both = Network(two, backend)
    assert (alone[0] != alone[1]).any()
    np.testing.assert_allclose(both.probabilities(pictures), (alone[0] + alone[1]) / 2, atol=1e-6)
    for member, probability in zip(both.members, alone, strict=True):
        np.testing.assert_array_equal(member.probabilities(pictures), probability)


def test_a_network_averaged_with_itself_changes_nothing(network, head_slice):
    twice, picture = Network([MODEL, MODEL]), head_slice[0]
    seen = np.float32(picture)[None] / 255
    np.testing.assert_array_equal(twice.probabilities(seen), network.probabilities(seen))
    mask = find_mask(picture, twice)
    np.testing.assert_array_equal(mask, find_mask(picture, network))
    assert mask.any() and twice.card.sha256 == (network.card.sha256,) * 2


OTHERS = {
    "channels": ["flair"],
    "dimensions": 3,
    "normalise": "zscore",
    "labels": {"1": "tumour"},
    "label_values": {"1": 4},
    "regions": {"whole tumour": [1]},
    "classes": ["a", "b"],
    "window": [0, 100],
    "spacing_mm": 2.0,
    "input_shape": [64, 64, 1],
    "views": ["axial"],
    "sure": 0.9,
}


@pytest.mark.parametrize("name", MUST_MATCH)
def test_networks_that_differ_are_refused_in_one_line(two, tmp_path, name):
    other = tmp_path / "other.keras"
    other.write_bytes(two[0].read_bytes())
    said = json.loads(two[0].with_suffix(".json").read_text()) | {name: OTHERS[name]}
    other.with_suffix(".json").write_text(json.dumps(said))
    with pytest.raises(InputError) as caught:
        Network([two[0], other])
    line = str(caught.value)
    assert "\n" not in line and f"{two[0]} and {other} cannot be averaged" in line
    values = (getattr(read_card(path), name) for path in (two[0], other))
    assert line.endswith("their {} differ: {} and {}".format(MUST_MATCH[name], *values))


def test_a_model_that_is_missing_among_several_is_named(two, tmp_path):
    with pytest.raises(InputError, match="there is no model .*gone.keras"):
        read_cards([two[0], tmp_path / "gone.keras"])


def test_the_card_of_several_names_them_all_and_tells_of_a_weak_one(two, tmp_path):
    cards = [read_card(path) for path in two]
    joint = read_cards(two)
    assert joint.sha256 == read_cards(two[::-1]).sha256, "in whatever order they come"
    assert joint.sha256 == tuple(sorted(card.sha256 for card in cards)) and not joint.weakness
    assert read_cards(two[:1]) == read_cards(two[0]) == cards[0]
    weak = tmp_path / "weak.keras"
    weak.write_bytes(b"x")
    said = json.loads(two[0].with_suffix(".json").read_text())
    weak.with_suffix(".json").write_text(json.dumps(said | {"validation": {"dice": 0.3}}))
    assert "its best Dice was 0.30" in read_cards([*two, weak]).weakness


def test_the_version_in_a_dicom_seg_names_every_network_in_64_characters():
    card = read_card(MODEL)
    assert name_version(card) == card.sha256 and len(card.sha256) == 64
    five = name_version(replace(card, sha256=tuple(letter * 64 for letter in "abcde")))
    assert five == "+".join(letter * 12 for letter in "abcde") and len(five) <= 64


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("a.nii --model x.keras y.keras --out o", "a.nii --model x.keras y.keras --out o"),
        ("--model x.keras a.nii b --out o", "a.nii b --model x.keras --out o"),
        ("--out o --model x.keras y.keras a.nii", "a.nii --out o --model x.keras y.keras"),
        ("a.nii --out o", "a.nii --out o"),
        ("--model", "--model"),
    ],
)
def test_paths_behind_the_models_are_no_models(words, ordered):
    assert put_paths_first(words.split()) == ordered.split()


def test_scores_are_of_the_mean_of_several_networks(two, tmp_path):
    """Two of three call a grey of 0.6 brain, one of them a grey of 0.4."""
    third = make_model(tmp_path / "0.5.keras", 0.5)
    picture = np.full((64, 64), 20, np.uint8)
    for grey, side in ((102, 40), (153, 30), (230, 20)):
        picture[32 - side // 2 : 32 + side // 2, 32 - side // 2 : 32 + side // 2] = grey
    for kind, array in (("images", picture), ("masks", np.uint8(255) * (picture > 128))):
        (tmp_path / "set" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "set" / kind / "x.png"), array)
    score = {}
    for name, models in {"0.3": two[:1], "0.7": two[1:], "all": [*two, third]}.items():
        table = tmp_path / f"{name}.csv"
        words = ["--out", tmp_path / name, "--scores", table, "--model", *models, tmp_path / "set"]
        assert scoring.main(list(map(str, words))) == 0
        score[name] = pd.read_csv(table).Dice[0]
    assert score["all"] == 1 and max(score["0.3"], score["0.7"]) < 0.9
