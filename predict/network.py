"""A trained network and the probabilities it gives for pictures, volumes and views.

network = Network("files/model.keras")
network.probabilities(pictures)                          # (N, H, W) of (N, H, W) in [0, 1]
network.in_views(cubes, {"axial": 2, "coronal": 2})      # {view: (X, Y, Z)}
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from common.card import read_card
from common.errors import InputError, warn
from common.files import checksum
from scan.views import VIEWS, WINDOW, stack, unstack

MODEL = Path(__file__).parents[1] / "files" / "model.keras"
SIZE = 160  # pixels a side of a slice for a network of any size: as the shipped one was trained
SPACING = 1.5  # mm: the cubes that a scan is brought to when the model's card names no other
MIRRORED = 40  # cubes that a head goes on for where the scan cuts it. A round number
UNCUT = np.zeros((2, 3), bool)  # low and high face of each axis


def load_openvino(path: Path):
    """A function from pictures (N, H, W, C) to probabilities, run by OpenVINO, and the card.

    A missing or stale export is made anew, for which Keras must be installed.
    Raises InputError when the model cannot be read or exported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # else every run is reported to a server
    import openvino

    if not path.is_file():
        raise InputError(f"there is no model {path}; give one of train.py's, or leave --model out")
    if not (found := checksums(path)) or not found.items() <= read_card(path).export.items():
        from model import export_model  # the training stack, which a prediction can do without

        export_model(path)
        warn(f"{path.with_suffix('.xml')} was missing or not made of {path}: exported it again")
    try:
        network = openvino.Core().compile_model(path.with_suffix(".xml"), "CPU")
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot read {path.with_suffix('.xml')}: {error}") from error
    return lambda pictures: network(pictures)[0], read_card(path)


def checksums(path: Path) -> dict | None:
    """What a card's `export` must say for a .keras file and its export; None without an export."""
    try:
        path.with_suffix(".xml").stat()
        files = {"made_from": path, "sha256": path.with_suffix(".bin")}
        return {key: checksum(file) for key, file in files.items()}
    except OSError:
        return None


def load_keras(path: Path):
    """The same function run by Keras itself (on a GPU if there is one), and the card."""
    from model import any_size, load_model  # the training stack, as above

    network, card = load_model(path)
    return any_size(network).predict_on_batch, card


BACKENDS = {"openvino": load_openvino, "keras": load_keras}


class Network:
    """A trained network and its card.

    tell(stage, share) is called as a prediction goes on: finding the head, segmenting, refining.
    Raises InputError when `model` is not a network that train.py could have written.
    """

    def __init__(self, model: str | Path = MODEL, backend: str = "openvino", tell=None):
        self.run, self.card = BACKENDS[backend](Path(model))
        self.tell = tell or (lambda stage, share: None)
        *shape, self.channels = self.card.input_shape
        self.size = shape[0] or SIZE
        self.window = self.card.window or WINDOW
        self.spacing = self.card.spacing_mm or SPACING
        self.classes = len(self.card.classes or self.card.labels)

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
        """The probability (…) of being inside the skull, from that of one (…) or all classes
        (…, C)."""
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
