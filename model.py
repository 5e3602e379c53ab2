"""The U-Net: one builder for slices and volumes, and model files with their card.

The network is Ronneberger's U-Net (MICCAI 2015) as it is used today: padded convolutions with
batch normalisation, so that the output is as large as the input.

    network = build_unet((256, 256, 1))                 # slices, one class
    network, card = load_model("files/model.keras")     # no custom objects needed
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.card import Card, to_card
from common.errors import InputError, quietly, replacing, warn
from common.files import checksum, write_json

with quietly():
    import keras
    from keras import layers

DICE_LOSS = 0.001  # Dice that 8 bits may cost an export; a round number


def build_unet(
    input_shape: tuple, classes: int = 1, width: int = 16, depth: int = 4, dropout: float = 0.0
) -> keras.Model:
    """Return an uncompiled U-Net, 2-D for (H, W, C) and 3-D for (D, H, W, C).

    Spatial sizes are divisible by 2**depth, or None for any such size. The first of `depth` levels
    has `width` filters, each one below twice as many. `dropout` is the share of features that are
    dropped between the two convolutions of a block.
    The output is float32 probabilities, also under mixed precision: (..., 1) by sigmoid for one
    class, (..., classes) by softmax for more (class 0 is the background).
    Raises InputError for a shape or an option that makes no network.
    """
    _check_options(input_shape, classes, width, depth, dropout)
    conv, up, pool = {
        3: (layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D),
        4: (layers.Conv3D, layers.Conv3DTranspose, layers.MaxPooling3D),
    }[len(input_shape)]
    x = inputs = keras.Input(input_shape, name="image")
    skips = []
    for level in range(depth):
        x = _block(x, conv, width * 2**level, dropout)
        skips.append(x)
        x = pool(2)(x)
    x = _block(x, conv, width * 2**depth, dropout)
    for level in reversed(range(depth)):
        x = up(width * 2**level, 2, strides=2)(x)
        x = layers.Concatenate()([skips[level], x])
        x = _block(x, conv, width * 2**level, dropout)
    activation = "sigmoid" if classes == 1 else "softmax"
    outputs = conv(classes, 1, activation=activation, dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="unet")


def _block(x, conv, filters: int, dropout: float):
    """Twice convolution, batch normalisation, ReLU."""
    for index in range(2):
        if index and dropout:
            x = layers.Dropout(dropout)(x)
        x = conv(filters, 3, padding="same", kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    return x


def _check_options(input_shape, classes, width, depth, dropout) -> None:
    """Raise InputError for a shape or an option that makes no network."""
    if min(classes, width, depth) < 1 or not 0 <= dropout < 1:
        raise InputError(
            f"no network has classes {classes}, width {width}, depth {depth}, dropout {dropout}: "
            "give 1 or more, and a dropout from 0 to below 1"
        )
    if len(input_shape) not in (3, 4) or not input_shape[-1]:
        raise InputError(
            f"input shape {tuple(input_shape)} is not a picture or volume: "
            "give (H, W, C) or (D, H, W, C)"
        )
    factor = 2**depth
    for size in input_shape[:-1]:
        if size is not None and (size < 1 or size % factor):
            raise InputError(
                f"input size {size} in {tuple(input_shape)} is not a multiple of {factor}, which "
                f"a depth of {depth} needs: use {max(1, round(size / factor)) * factor}"
            )


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalisation that trains by TensorFlow's fused kernel, which Keras 3 does not use.

    On a CPU a step of training takes 0.58 of the time with it in bfloat16, 0.84 in float32. Only
    networks in training hold it; a saved one holds Keras' own layer.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        normalised, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, "float32"),
            offset=tf.cast(self.beta, "float32"),
            mean=tf.constant([], "float32"),
            variance=tf.constant([], "float32"),
            epsilon=self.epsilon,
            data_format="NHWC" if len(inputs.shape) == 4 else "NDHWC",
        )
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return normalised


def copy_network(
    model: keras.Model, change: Callable[[layers.Layer], dict], fused: bool = False
) -> keras.Model:
    """A copy of the network; `change` gives the new options of each layer.

    Batch normalisations are FusedBatchNormalization where `fused` is asked for and TensorFlow runs
    them, else Keras' own, which is synchronised over devices only where `change` says so.
    """
    fused = fused and keras.backend.backend() == "tensorflow"
    normalisation = FusedBatchNormalization if fused else layers.BatchNormalization

    def convert(layer):
        is_normalisation = isinstance(layer, layers.BatchNormalization)
        kind = normalisation if is_normalisation else type(layer)
        alone = {"synchronized": False} if is_normalisation else {}
        return kind.from_config(layer.get_config() | alone | change(layer))

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy


def save_model(model: keras.Model, path: str | Path, said: dict) -> None:
    """Write `path` (.keras) and its card, the same name with .json.

    The network is saved in float32 and without its optimiser, whatever precision trained it, so
    that it loads and predicts the same anywhere. `said` is what the card says, anything that JSON
    can hold; `default_card` fills in the rest, and `sha256` is the checksum of the .keras file.
    Neither file is ever half-written. Raises InputError when they cannot be written.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise InputError(f"a model file ends in .keras: rename {path}")
    plain = keras.Model(model.input, model.output)  # without loss and optimiser
    with replacing(path) as new_model, replacing(path.with_suffix(".json")) as new_card:
        free = {"dtype": "float32", "trainable": True}  # whatever was kept still in training
        copy_network(plain, lambda layer: free).save(new_model)
        write_json(new_card, default_card(model) | said | {"sha256": checksum(new_model)})


def any_size(model: keras.Model) -> keras.Model:
    """A copy of the network that takes pictures or volumes of any divisible size."""
    *sizes, channels = model.input_shape[1:]
    anything = keras.Input((*[None] * len(sizes), channels), name="image")
    free = keras.models.clone_model(model, input_tensors=anything)
    free.set_weights(model.get_weights())
    return free


def export_model(path: str | Path, samples: tuple | None = None) -> Path:
    """Write the network of a .keras file for OpenVINO, as .xml and .bin beside it; return the .xml.

    Sizes are left open and weights kept in 16 bits. With `samples`, a batch of images as the
    network sees them (N, ..., C) and of masks (N, ..., 1), it computes in 8 bits where it can.
    The card's `export` holds the checksum of the .keras file that it was made from, its own
    checksum and its number of bits, so that pred.py never runs a stale one.
    Raises InputError as `load_model` and `save_model` do.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # else every run is reported to a server
    import openvino

    path = Path(path)
    model, said = _load(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.xml"
        any_size(model).export(str(plain), format="openvino", verbose=False)
        network = openvino.Core().read_model(plain)
        small = samples and in_eight_bits(network, *samples)
        with (
            replacing(path.with_suffix(".xml")) as xml,
            replacing(path.with_suffix(".bin")) as weights,
            replacing(path.with_suffix(".json")) as new_card,
        ):
            openvino.save_model(small or network, Path(folder) / "small.xml", compress_to_fp16=True)
            shutil.copy(Path(folder) / "small.xml", xml)
            shutil.copy(Path(folder) / "small.bin", weights)
            bits = 8 if small else 16
            export = {"made_from": checksum(path), "sha256": checksum(weights), "bits": bits}
            write_json(new_card, said | {"export": export})
    return path.with_suffix(".xml")


def export_onnx(path: str | Path) -> Path:
    """Write the network of a .keras file for ONNX Runtime, as .onnx beside it; return its path.

    Sizes are left open and weights kept in 32 bits. The card's `onnx` holds the checksums, as its
    `export` does for OpenVINO. Raises InputError as `load_model` and `save_model` do, and where
    tf2onnx is missing or Keras does not run on TensorFlow.
    """
    check_onnx_export()
    path = Path(path)
    model, said = _load(path)
    free = any_size(model)
    signature = [keras.InputSpec("float32", free.input_shape, name="image")]
    with replacing(path.with_suffix(".onnx")) as file, replacing(path.with_suffix(".json")) as card:
        with quietly(), warnings.catch_warnings():  # tf2onnx tells every step
            warnings.simplefilter("ignore")
            free.export(str(file), format="onnx", input_signature=signature, verbose=False)
        write_json(card, said | {"onnx": {"made_from": checksum(path), "sha256": checksum(file)}})
    return path.with_suffix(".onnx")


def check_onnx_export() -> None:
    """Raise InputError where no network can be exported for ONNX Runtime."""
    if importlib.util.find_spec("tf2onnx") is None:
        raise InputError("ONNX export needs tf2onnx: pip install -r requirements-onnx.txt")
    if keras.backend.backend() != "tensorflow":
        raise InputError("ONNX export for any size needs TensorFlow: leave KERAS_BACKEND out")


def in_eight_bits(network, images: np.ndarray, masks: np.ndarray):
    """An OpenVINO network with weights and activations of 8 bits, their ranges taken from `images`;
    None where that costs more than DICE_LOSS over all `masks`, or without NNCF.

    Post-training quantisation: Nagel et al., A White Paper on Neural Network Quantization (2021).
    """
    if importlib.util.find_spec("nncf") is None:
        return None
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        small = nncf.quantize(
            network,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
        )
    before, after = (dice_over_all(each, images, masks) for each in (network, small))
    return small if after >= before - DICE_LOSS else None


def dice_over_all(network, images: np.ndarray, masks: np.ndarray) -> float:
    """Dice of an OpenVINO network's labels over all voxels of `masks` (N, ..., 1) together."""
    import openvino

    run = openvino.Core().compile_model(network, "CPU")
    both = total = 0
    for image, mask in zip(images, masks[..., 0], strict=True):
        probability = run(image[None])[0][0]
        found = probability[..., 0] > 0.5 if probability.shape[-1] == 1 else probability.argmax(-1)
        both += np.count_nonzero((found == mask) & (mask > 0))
        total += np.count_nonzero(found) + np.count_nonzero(mask)
    return 2 * both / max(total, 1)


def default_card(model: keras.Model) -> dict:
    """What a card says by default: the input and labels by the network's own shape; no window."""
    labels = range(1, max(2, model.output_shape[-1]))
    return {
        "input_shape": list(model.input_shape[1:]),  # (H, W, C) or (D, H, W, C), null: any size
        "dimensions": len(model.input_shape) - 2,
        "channels": ["ct"] * model.input_shape[-1],
        "multiple": 2 ** sum("MaxPool" in type(layer).__name__ for layer in model.layers),
        "window": None,  # HU
        "spacing_mm": None,  # size of the voxels that it was trained on
        "labels": {str(label): f"label {label}" for label in labels},
    }


def load_model(path: str | Path) -> tuple[keras.Model, Card]:
    """Read a network and its card; it is not compiled, and needs no custom objects.

    Where there is no card, `default_card` takes its place, with a warning.
    Raises InputError when the file is missing, is not a Keras model or not a network for pictures
    or volumes, or is not the one that its card was written for.
    """
    model, said = _load(Path(path))
    return model, to_card(said)


def _load(path: Path) -> tuple[keras.Model, dict]:
    """A network and its card's JSON, filled up by `default_card`; errors as in `load_model`."""
    try:
        found = checksum(path)
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror or error}") from error
    said = _read_said(path)
    if said.get("sha256", found) != found:
        raise InputError(
            f"{path} is not the file that its card {path.with_suffix('.json')} was written for "
            "(checksums differ): copy both again"
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its zip, HDF5 and JSON readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise InputError(f"{path} is not a Keras model that can be read: {reason}") from error
    if len(getattr(model, "input_shape", ())) not in (4, 5):
        raise InputError(f"{path} is not a network for pictures or volumes: give one of train.py's")
    return model, default_card(model) | said


def _read_said(path: Path) -> dict:
    """The JSON of a model's card, {} with a warning where there is none; InputError for others."""
    card = path.with_suffix(".json")
    if not card.exists():
        warn(f"{path} has no card {card}: its window and labels are taken by default")
        return {}
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the model's card {card}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{card} is not a model's card: copy it again, or remove it")
    return content
