"""What runs the network, and how it looks at views."""

import keras
import numpy as np
import pytest

from common.errors import InputError
from model import export_model, save_model
from predict.network import MIRRORED, UNCUT, Network, interpolate, mirror_cut_faces
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
