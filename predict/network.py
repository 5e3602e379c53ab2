"""Trained networks and the probabilities they give for pictures, volumes and views.

network = Network("files/model.keras")                   # or several, whose mean it gives
network.probabilities(pictures)                          # (N, H, W) of (N, H, W) in [0, 1]
network.in_views(cubes, {"axial": 2, "coronal": 2})      # {view: (X, Y, Z)}
"""

from __future__ import annotations

import copy
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import CORES
from common.card import Card, read_card
from common.errors import InputError, warn
from common.files import checksum
from scan.views import VIEWS, WINDOW, stack, unstack

MODEL = Path(__file__).parents[1] / "files" / "model.keras"
SIZE = 160  # pixels a side of a slice for a network of any size: as the shipped one was trained
SPACING = 1.5  # mm: the cubes that a scan is brought to when the model's card names no other
MIRRORED = 40  # cubes that a head goes on for where the scan cuts it. A round number
UNCUT = np.zeros((2, 3), bool)  # low and high face of each axis
# What the cards of networks must have in common, so that the mean of their answers has a meaning
MUST_MATCH = {
    "channels": "channels",
    "dimensions": "dimensions",
    "normalise": "normalisation",
    "labels": "labels",
    "label_values": "values of the labels",
    "regions": "regions",
    "classes": "classes",
    "window": "window",
    "spacing_mm": "spacing in mm",
    "input_shape": "input shape",
    "views": "views",
    "sure": "least mean probability of a slice's mask",
}


def load_openvino(path: Path, device: str = "CPU"):
    """A function from pictures (N, H, W, C) to probabilities, run by OpenVINO, and the card.

    `device` is one of OpenVINO's, or AUTO, which chooses. Raises InputError when the model cannot
    be read, exported or run there, and for a device that this machine has not.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # else every run is reported to a server
    import openvino

    prepare_export(path, "openvino")
    core = openvino.Core()
    there = core.available_devices  # of several of a kind GPU.0, GPU.1, …
    if device not in ("AUTO", *there, *(name.partition(".")[0] for name in there)):
        raise InputError(
            f"--device {device}: OpenVINO finds none on this machine; choose of "
            f"{', '.join((*there, 'AUTO'))}"
        )
    # Else OpenVINO keeps what it prepares for every shape, and scans of different sizes take ever
    # more memory: a third more after 200. It costs a small scan 5 % of its time
    settings = {"CPU_RUNTIME_CACHE_CAPACITY": 0} if device == "CPU" else {}
    # OpenVINO itself knows how many of its threads are best on a machine, but for that variable
    if device == "CPU" and "OMP_NUM_THREADS" in os.environ:
        settings["INFERENCE_NUM_THREADS"] = CORES
    try:
        network = core.compile_model(path.with_suffix(".xml"), device, settings)
    except RuntimeError as error:
        failed = f"OpenVINO cannot run {path.with_suffix('.xml')} on {device}"
        raise InputError(f"{failed}: {error}") from error
    return lambda pictures: network(pictures)[0], read_card(path)


def load_onnx(path: Path):
    """The same function run by ONNX Runtime on a CPU, and the card; InputError as above."""
    try:
        import onnxruntime
    except ImportError as error:
        needed = "pip install -r requirements-onnx.txt"
        raise InputError(f"--backend onnx needs ONNX Runtime: {needed}") from error

    prepare_export(path, "onnx")
    file = path.with_suffix(".onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    if "OMP_NUM_THREADS" in os.environ:
        options.intra_op_num_threads = CORES
    try:
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common but this one
        raise InputError(f"ONNX Runtime cannot read {file}: {error}") from error
    name = session.get_inputs()[0].name
    return lambda pictures: session.run(None, {name: pictures})[0], read_card(path)


def prepare_export(path: Path, backend: str) -> None:
    """Make a backend's missing or stale export anew, for which Keras must be installed.

    Raises InputError when there is no model, or when it cannot be exported.
    """
    if not path.is_file():
        raise InputError(f"there is no model {path}; give one of train.py's, or leave --model out")
    endings, key = EXPORTS[backend]
    found = checksums(path, *endings)
    if not found or not found.items() <= getattr(read_card(path), key).items():
        from model import export_model, export_onnx  # which a prediction can do without

        (export_onnx if backend == "onnx" else export_model)(path)
        file = path.with_suffix(endings[0])
        warn(f"{file} was missing or not made of {path}: exported it again")


def checksums(path: Path, ending: str, weights: str) -> dict | None:
    """What a card must say of a .keras file and of its export, a file with that `ending` and one
    with the `weights`; None without an export."""
    try:
        path.with_suffix(ending).stat()
        files = {"made_from": path, "sha256": path.with_suffix(weights)}
        return {key: checksum(file) for key, file in files.items()}
    except OSError:
        return None


def load_keras(path: Path):
    """The same function run by Keras itself (on a GPU if there is one), and the card."""
    from model import any_size, load_model  # the training stack, as above

    network, card = load_model(path)
    return any_size(network).predict_on_batch, card


BACKENDS = {"openvino": load_openvino, "onnx": load_onnx, "keras": load_keras}
# The endings of an export's files, with what it is read by first and its weights last, and the
# card's key for its checksums
EXPORTS = {"openvino": ((".xml", ".bin"), "export"), "onnx": ((".onnx", ".onnx"), "onnx")}


def find_loader(backend: str) -> Callable:
    """What loads a model for a key of BACKENDS; after a colon, OpenVINO's may have a device."""
    name, _, device = backend.partition(":")
    return functools.partial(BACKENDS[name], device=device) if device else BACKENDS[name]


# ---------------------------------------------------------------- several networks as one


def prepare(models: Sequence[str | Path], backend: str) -> None:
    """Bring the models to where `Network` only reads them: many processes may then load them."""
    name = backend.partition(":")[0]
    for path in list_models(models) if name in EXPORTS else ():
        prepare_export(path, name)


def list_models(model: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of one model or of several."""
    return [Path(model)] if isinstance(model, str | Path) else [Path(path) for path in model]


def put_paths_first(words: list[str]) -> list[str]:
    """A command line with the paths that follow the files of --model put before all else.

    argparse would take them for models; a model's file ends in .keras.
    """
    if "--model" not in words:
        return words
    first = words.index("--model") + 2
    after = (at for at in range(first, len(words)) if words[at].startswith("-"))
    part = slice(first, next(after, len(words)))
    paths = [word for word in words[part] if not word.endswith(".keras")]
    models = [word for word in words[part] if word.endswith(".keras")]
    return [*paths, *words[:first], *models, *words[part.stop :]]


def read_cards(model: str | Path | Sequence[str | Path]) -> Card:
    """The card of one model or of several together: see `join_cards`."""
    paths = list_models(model)
    return join_cards(paths, map(read_card, paths))


def join_cards(paths: Sequence[Path], cards: Iterable[Card]) -> Card:
    """The one card of networks that are averaged; `sha256` has a checksum for each, sorted.

    A single network keeps its card. If one of several has learned too little, its card leads, so
    that `Card.weakness` tells. Raises InputError for networks whose cards differ in MUST_MATCH.
    """
    cards = list(cards)
    if len(cards) == 1:
        return cards[0]
    for path, card in zip(paths, cards, strict=True):
        if not path.is_file():
            raise InputError(f"there is no model {path}; give files of train.py's")
        for name, called in MUST_MATCH.items():
            ours, theirs = getattr(cards[0], name), getattr(card, name)
            if ours != theirs:
                raise InputError(
                    f"{paths[0]} and {path} cannot be averaged, since their {called} differ: "
                    f"{ours} and {theirs}"
                )
    found = (card.sha256 or checksum(path) for path, card in zip(paths, cards, strict=True))
    multiple = max(card.multiple for card in cards)  # all are powers of 2
    lead = next((card for card in cards if card.weakness), cards[0])
    return replace(lead, sha256=tuple(sorted(found)), multiple=multiple)


def average(runs: Sequence[Callable]) -> Callable:
    """The function that gives the mean of what several functions give."""
    if len(runs) == 1:
        return runs[0]
    return lambda pictures: sum(run(pictures) for run in runs) / len(runs)


class Network:
    """A trained network and its card, or several that are averaged, and their card.

    backend: what runs them, such as "openvino" or "openvino:GPU": see `find_loader`.
    members: each of the networks alone, as a Network.
    tell(stage, share) is called as a prediction goes on: finding the head, segmenting, refining.
    Raises InputError when `model` is not a network that train.py could have written, or when
    several cannot be averaged (see `join_cards`).
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] = MODEL,
        backend: str = "openvino",
        tell=None,
    ):
        paths = list_models(model)
        if len(paths) > 1:
            read_cards(paths)  # refused before any is loaded
        runs, cards = zip(*map(find_loader(backend), paths), strict=True)
        self.run, self.card = average(runs), join_cards(paths, cards)
        self.tell = tell or (lambda stage, share: None)
        *shape, self.channels = self.card.input_shape
        self.size = shape[0] or SIZE
        self.window = self.card.window or WINDOW
        self.spacing = self.card.spacing_mm or SPACING
        self.classes = len(self.card.classes or self.card.labels)
        self.members = [self]
        if len(runs) > 1:
            self.members = [copy.copy(self) for _ in runs]
            for member, run in zip(self.members, runs, strict=True):
                member.run, member.members = run, [member]

    def probabilities(self, pictures: np.ndarray, batch: int = 16) -> np.ndarray:
        """Probabilities, float32, of normalised pictures (N, H, W[, C]) in [0, 1].

        They are (N, H, W) for one label, (N, H, W, classes) for several, the background first. A
        3-D network takes volumes (N, X, Y, Z, C) in the same way. At most `batch` pictures go
        through the network at a time, always as many: OpenVINO prepares anew for every shape.
        """
        count, *shape = pictures.shape[: 1 + self.card.dimensions]
        if pictures.ndim == 1 + self.card.dimensions:
            pictures = pictures[..., None]
        batch = math.ceil(count / math.ceil(count / batch))
        multiples = (batch, *[self.card.multiple] * self.card.dimensions)
        pad = [(0, -n % m) for n, m in zip(pictures.shape, multiples, strict=False)]
        pictures = np.pad(pictures, [*pad, (0, 0)])
        parts = []
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            part = np.repeat(part, self.channels // part.shape[-1], axis=-1)  # grey as red is
            parts.append(self.run(part))
        found = np.concatenate(parts)[tuple(map(slice, (count, *shape)))]
        return found[..., 0] if found.shape[-1] == 1 else found

    def to_inside(self, probability: np.ndarray) -> np.ndarray:
        """The probability (…) of being inside the skull, or in any label of an MRI, from that of
        one (…) or all classes (…, C)."""
        return probability if self.classes == 1 else 1 - probability[..., 0]

    def to_hyperdense(self, probability: np.ndarray) -> np.ndarray:
        """The probability (…) of being bright and inside the skull; 0 for a network that has not
        learned to tell."""
        return np.zeros_like(probability) if self.classes == 1 else probability[..., 2]

    def in_views(
        self, seen: np.ndarray, every: dict[str, int], stage: str = "segmenting", cut=UNCUT
    ) -> dict[str, np.ndarray]:
        """Probabilities (X, Y, Z[, classes]) of normalised cubes (X, Y, Z[, C]) in each view.

        Only every n-th slice of a view (n = `every[view]`) goes through the network; the rest are
        interpolated. Where the head is `cut` (bool (2, 3), by the scan's low and high faces), the
        slices go on beyond the face: see `mirror_cut_faces`.
        """
        found = {}
        for view, step in every.items():
            self.tell(stage, len(found) / len(every))
            whole, original = mirror_cut_faces(seen, cut, view)
            slices = stack(whole, view)
            some = self.probabilities(slices[::step])
            found[view] = unstack(interpolate(some, step, len(slices)), view)[original]
        return found

    def each_view(
        self, seen: np.ndarray, every: dict[str, int], cut: np.ndarray = UNCUT
    ) -> Iterator[np.ndarray]:
        """The probabilities (X, Y, Z) of being inside, one by one: by every network, in each view,
        of cubes as `in_views` takes them and of the same cubes mirrored left to right."""
        across = {view: step for view, step in every.items() if view != "sagittal"}
        turned_cut = np.column_stack([cut[::-1, 0], cut[:, 1:]])
        for member in self.members:
            views = member.in_views(seen, every, cut=cut)
            turned = member.in_views(seen[::-1], across, cut=turned_cut)
            # the sagittal slices of a mirrored head are its own, in the other order
            turned = views | {view: found[::-1] for view, found in turned.items()}
            for found in (*views.values(), *turned.values()):
                yield member.to_inside(found)


def mirror_cut_faces(cubes: np.ndarray, cut: np.ndarray, view: str) -> tuple[np.ndarray, tuple]:
    """Cubes (X, Y, Z[, C]) with their mirror image beyond each face where a head is `cut`, and the
    slices in which the cubes themselves lie.

    Only faces at the edges of a view's slices are mirrored. Without the mirror image the head would
    end in a straight line, which the network does not know and may take for a neck.
    """
    across = 2 - VIEWS.index(view)
    widths = [tuple(MIRRORED * cut[:, axis] * (axis != across)) for axis in range(3)]
    sizes = zip(widths, cubes.shape[:3], strict=True)
    original = tuple(slice(low, low + size) for (low, _), size in sizes)
    if not cut.any():
        return cubes, original
    return np.pad(cubes, widths + [(0, 0)] * (cubes.ndim - 3), "reflect"), original


def interpolate(slices: np.ndarray, every: int, count: int) -> np.ndarray:
    """`count` slices where every `every`-th is given, (N, H, W[, C]): linear in between, and
    beyond the last one as it is."""
    if every == 1:
        return slices
    low, step = np.divmod(np.arange(count), every)
    share = (step / every).astype(np.float32).reshape(-1, *[1] * (slices.ndim - 1))
    high = np.minimum(low + 1, len(slices) - 1)
    return slices[low] * (1 - share) + slices[high] * share
