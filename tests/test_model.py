"""The network's shape and count, and what becomes of model files."""

import json

import keras
import numpy as np
import pytest

import model
from common.card import to_card
from common.errors import InputError
from common.files import checksum, read_json
from model import (
    FusedBatchNormalization,
    any_size,
    build_unet,
    copy_network,
    default_card,
    export_model,
    load_model,
    save_model,
)


@pytest.fixture
def small():
    keras.utils.set_random_seed(1)
    return build_unet((16, 16, 1), width=2, depth=2)


def openvino_of(path):
    """An exported network, ready to run."""
    return pytest.importorskip("openvino").Core().compile_model(path, "CPU")


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((2, 16, 16, 1), dtype=np.float32)


@pytest.fixture
def precision():
    """Sets the training precision for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def predict(model, pictures):
    return keras.ops.convert_to_numpy(model(pictures, training=False))


def test_the_classic_network_has_31_055_297_parameters():
    model = build_unet((512, 512, 3), width=64, depth=4)
    assert model.count_params() == 31_055_297
    assert model.output_shape == (None, 512, 512, 1)


def test_slices_and_volumes_come_out_as_large_as_they_went_in(picture):
    flat = build_unet((None, None, 1), width=2, depth=2)
    deep = build_unet((8, None, 12, 2), classes=4, width=2, depth=2)
    assert predict(flat, picture).shape == (2, 16, 16, 1)
    assert predict(deep, np.zeros((1, 8, 4, 12, 2))).shape == (1, 8, 4, 12, 4)


def test_filters_double_on_every_level():
    model = build_unet((32, 32, 1), width=3, depth=3)
    convolutions = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]
    levels = [3, 6, 12, 24, 12, 6, 3]
    assert [layer.filters for layer in convolutions] == [*np.repeat(levels, 2), 1]


def test_one_class_is_a_probability_and_several_share_one(picture):
    one = predict(build_unet((16, 16, 1), width=2, depth=2), picture)
    many = predict(build_unet((16, 16, 1), classes=3, width=2, depth=2), picture)
    assert one.min() > 0 and one.max() < 1 and np.ptp(one) > 0
    np.testing.assert_allclose(many.sum(-1), 1, atol=1e-6)


def test_dropout_acts_in_training_only(picture):
    model = build_unet((16, 16, 1), width=2, depth=2, dropout=0.5)
    np.testing.assert_array_equal(predict(model, picture), predict(model, picture))
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.5] * 5  # one in each block
    assert len(build_unet((16, 16, 1), width=2, depth=2).layers) == len(model.layers) - 5


def test_the_output_is_float32_under_mixed_precision(precision, picture):
    precision("mixed_bfloat16")
    model = build_unet((16, 16, 1), width=2, depth=2)
    assert model.layers[1].compute_dtype == "bfloat16"
    assert predict(model, picture).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((100, 128, 1), {}, "size 100 .* multiple of 16.*: use 96"),
        ((32, 32, 20, 1), {"depth": 3}, "size 20 .* multiple of 8"),
        ((0, 16, 1), {}, "size 0"),
        ((128, 128), {}, "not a picture or volume"),
        ((128, 128, None), {}, "not a picture or volume"),
        ((128, 128, 1), {"classes": 0}, "classes 0"),
        ((128, 128, 1), {"width": 0}, "width 0"),
        ((128, 128, 1), {"depth": 0}, "depth 0"),
        ((128, 128, 1), {"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_what_makes_no_network_is_refused(shape, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build_unet(shape, **options)
    assert "\n" not in str(caught.value)


def test_a_saved_model_predicts_the_same(tmp_path, small, picture):
    small.compile("sgd", "binary_crossentropy", jit_compile=False)
    small.train_on_batch(picture, picture > 0.5)  # moves the batch normalisation's averages too
    save_model(small, tmp_path / "m.keras", {"window": [-200, 800], "labels": {"1": "b"}})
    loaded, card = load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(predict(loaded, picture), predict(small, picture), atol=1e-6)
    said = json.loads((tmp_path / "m.json").read_text())
    assert card == to_card(said)
    assert said["window"] == [-200, 800] and said["labels"] == {"1": "b"}
    assert said["input_shape"] == [16, 16, 1] and said["spacing_mm"] is None
    assert said["sha256"] == checksum(tmp_path / "m.keras")
    assert getattr(loaded, "optimizer", None) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.keras"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_stays_in_training(tmp_path, precision, picture, policy):
    precision(policy)
    trained = build_unet((16, 16, 1), width=2, depth=2, dropout=0.1)
    save_model(trained, tmp_path / "m.keras", {})
    precision("float32")
    loaded, _ = load_model(tmp_path / "m.keras")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    np.testing.assert_allclose(predict(loaded, picture), predict(trained, picture), atol=0.02)
    for mine, theirs in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_volumes_and_several_labels_are_saved_too(tmp_path):
    model = build_unet((4, 4, 4, 2), classes=3, width=2, depth=1)
    save_model(model, tmp_path / "m.keras", {})
    loaded, card = load_model(tmp_path / "m.keras")
    scan = np.ones((1, 4, 4, 4, 2), np.float32)
    np.testing.assert_allclose(predict(loaded, scan), predict(model, scan), atol=1e-6)
    assert card.channels == ("ct", "ct") and card.is_3d
    assert list(card.labels) == [1, 2]


def test_a_model_without_card_is_taken_with_a_warning(tmp_path, small, capsys):
    save_model(small, tmp_path / "m.keras", {"window": [0, 1]})
    (tmp_path / "m.json").unlink()
    assert load_model(tmp_path / "m.keras")[1] == to_card(default_card(small))
    assert capsys.readouterr().err.startswith("warning: ")


def test_an_older_card_is_filled_up(tmp_path, small):
    save_model(small, tmp_path / "m.keras", {})
    (tmp_path / "m.json").write_text('{"window": [0, 80]}')
    assert load_model(tmp_path / "m.keras")[1] == to_card(default_card(small) | {"window": [0, 80]})


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        load_model(path)
    assert str(path.with_suffix("")) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_model_is_refused(tmp_path, small):
    path = tmp_path / "m.keras"
    save_model(small, path, {})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "checksums differ")
    path.with_suffix(".json").unlink()
    refused(path, "not a Keras model")


def test_a_model_with_the_card_of_another_is_refused(tmp_path, small):
    save_model(small, tmp_path / "a.keras", {})
    save_model(build_unet((16, 16, 1), width=3, depth=2), tmp_path / "b.keras", {})
    (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
    refused(tmp_path / "a.keras", "checksums differ")


def test_what_is_no_model_is_refused(tmp_path, small):
    refused(tmp_path / "none.keras", "cannot read")
    (tmp_path / "empty.keras").write_bytes(b"")
    refused(tmp_path / "empty.keras", "not a Keras model")
    (tmp_path / "text.keras").write_text("weights")
    refused(tmp_path / "text.keras", "not a Keras model")
    refused(tmp_path, "cannot read")  # a folder
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "table.keras")
    refused(tmp_path / "table.keras", "not a network for pictures")


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_broken_card_is_refused(tmp_path, small, content):
    save_model(small, tmp_path / "m.keras", {})
    (tmp_path / "m.json").write_text(content)
    refused(tmp_path / "m.keras", "card")


def test_a_failed_save_leaves_the_old_model_and_card(tmp_path, small):
    path = tmp_path / "m.keras"
    save_model(small, path, {"command": "old"})
    before = path.read_bytes()
    with pytest.raises(TypeError):  # after the weights were written, the card cannot be
        save_model(small, path, {"command": object()})
    assert path.read_bytes() == before and read_json(path.with_suffix(".json"))["command"] == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.keras"]


def test_saving_names_what_is_wrong_with_the_path(tmp_path, small):
    with pytest.raises(InputError, match=r"ends in \.keras"):
        save_model(small, tmp_path / "m.h5", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_model(small, tmp_path / "file" / "m.keras", {})


@pytest.mark.parametrize(
    ("shape", "classes"), [((32, 32, 1), 1), ((32, 32, 2), 4), ((16, 16, 16, 4), 4)]
)
def test_any_size_and_the_export_compute_what_the_network_computes(tmp_path, shape, classes):
    path = tmp_path / "model.keras"
    save_model(build_unet(shape, classes, width=4, depth=2), path, {})
    network, _ = load_model(path)
    pictures = np.random.default_rng(0).random((2, *shape), np.float32)
    expected = network.predict_on_batch(pictures)
    free = any_size(network)
    np.testing.assert_allclose(free.predict_on_batch(pictures), expected, atol=1e-5)
    smaller = pictures[:, :8, :12].shape[:-1]
    assert free.predict_on_batch(pictures[:, :8, :12]).shape == (*smaller, classes)
    exported = openvino_of(export_model(path))
    np.testing.assert_allclose(exported(pictures)[0], expected, atol=0.03)  # 16-bit weights


@pytest.mark.parametrize(("loss", "bits"), [(0.05, 8), (-2, 16)])
def test_an_export_is_of_8_bits_where_that_costs_little_dice(
    tmp_path, small, picture, monkeypatch, loss, bits
):
    pytest.importorskip("nncf")
    monkeypatch.setattr(model, "DICE_LOSS", loss)
    small.layers[-1].bias.assign([1.0])
    expected = small.predict_on_batch(picture)
    save_model(small, tmp_path / "m.keras", {})
    export_model(tmp_path / "m.keras", (picture, (expected > 0.5).astype(np.float32)))
    assert json.loads((tmp_path / "m.json").read_text())["export"]["bits"] == bits
    exported = openvino_of(tmp_path / "m.xml")(picture)[0]
    np.testing.assert_allclose(exported, expected, atol=0.05)
    kept = {"FakeQuantize" in line for line in (tmp_path / "m.xml").read_text().splitlines()}
    assert (True in kept) == (bits == 8)


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 8, 8, 2)])
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it is TensorFlow's kernel")
def test_training_normalises_as_keras_does_and_the_file_holds_keras_own_layer(tmp_path, shape):
    """The fused kernel gives the same values and the same moving averages."""
    values = np.random.default_rng(0).normal(3, 2, (6, *shape)).astype(np.float32)
    seen = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.5)
        normalised = np.asarray(layer(values, training=True))
        seen.append((normalised, *map(np.asarray, (layer.moving_mean, layer.moving_variance))))
    for fused, plain in zip(*seen, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=5e-3, atol=1e-4)
    network = build_unet((*[16] * len(shape[:-1]), 1), width=2, depth=1)
    trained = copy_network(network, lambda layer: {}, fused=True)
    assert any(isinstance(layer, FusedBatchNormalization) for layer in trained.layers)
    save_model(trained, tmp_path / "a.keras", {})
    again, _ = load_model(tmp_path / "a.keras")
    kinds = {type(layer) for layer in again.layers}
    assert keras.layers.BatchNormalization in kinds and FusedBatchNormalization not in kinds
