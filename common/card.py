"""What a model's card and a dataset's dataset.json say, and what labels mean.

card = read_card("files/model.keras")       # of the JSON beside it
card.is_mri, card.labels[1], card.areas     # defaults stand here and nowhere else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from common.files import read_json

# What the values of a BraTS label volume mean: Menze et al., IEEE TMI 34 (2015); Baid et al.,
# arXiv:2107.02314 (2021); since 2023 the enhancing tumour is 3
CORE, OEDEMA, SOLID, ENHANCING = "necrotic core", "oedema", "non-enhancing core", "enhancing tumour"
BRATS = {
    (1, 2, 4): (CORE, OEDEMA, ENHANCING),
    (1, 2, 3): (CORE, OEDEMA, ENHANCING),
    (1, 2, 3, 4): (CORE, OEDEMA, SOLID, ENHANCING),
}
BRAIN, TUMOUR = "brain", "tumour"
WEAK = 0.7  # Dice: a network whose best is lower misses too much to be of use. A round number
# The labels of a synthetic head CT; both together are the brain mask
HEAD = {1: "tissue", 2: "hyperdense"}


@dataclass(frozen=True)
class Card:
    """What is known of a network or a dataset.

    channels: modalities of an image, in order; dimensions: 2 for slices, 3 for volumes.
    normalise: "window" for HU, or how an MRI is scaled (`scan.views.SCALES`).
    labels: {1: name, …}; label_values: {1: value in the files, …}; regions: {name: labels}.
    classes: what a network tells apart, where that is more than the mask it makes; else empty.
    names: MODALITY=GLOB, for files that are not named as in BraTS.
    window: HU shown as black and white, or "hu"; None for a network that takes any.
    spacing_mm: size of a pixel or voxel that the network sees; sure: least mean probability of a
    slice's mask; multiple: its sizes are multiples of this; input_shape: (H, W, C) or (X, Y, Z, C),
    None for any size; size, grid: of a dataset's slices and volumes; field_mm: the least width of
    what its slices show, 0 for that of each scan; shape: the median of its volumes' where they
    differ; pictures: the folder of pictures that it was made of; plan: how train.py shall learn
    from it; sha256: of the model's file, or of the files of all models that
    are averaged; export, onnx: checksums of what was made of it for OpenVINO and ONNX Runtime;
    like: of a dataset, the checksum of the network for whose fine-tuning it was made; corrected:
    the cases of it whose masks people corrected.
    """

    channels: tuple[str, ...] = ("ct",)
    dimensions: int = 2
    normalise: str = "window"
    labels: dict[int, str] = field(default_factory=lambda: {1: BRAIN})
    label_values: dict[int, int] = field(default_factory=dict)
    regions: dict[str, list[int]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    window: tuple[float, float] | str | None = None
    spacing_mm: float | None = None
    sure: float = 0.5
    views: tuple[str, ...] | None = None
    multiple: int = 16
    input_shape: tuple[int | None, ...] = ()
    fit: str | None = None
    sha256: str | tuple[str, ...] | None = None
    training_data: str | None = None
    licence: str | None = None
    export: dict = field(default_factory=dict)
    onnx: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    run: str | None = None
    blend: str | None = None
    format: str = "png"
    size: int | None = None
    field_mm: float = 0.0
    grid: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    plan: dict = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    cases: dict[str, dict] = field(default_factory=dict)
    pictures: str | None = None
    source: str | None = None
    like: str | None = None
    corrected: tuple[str, ...] = ()

    @property
    def is_mri(self) -> bool:
        """Whether the images are MRI, scaled within the brain, and not HU."""
        return self.normalise != "window"

    @property
    def is_3d(self) -> bool:
        return self.dimensions == 3

    @property
    def shown_channel(self) -> int:
        """The channel that people look at: FLAIR, in which the whole of a tumour is bright, if it
        is there; else the first."""
        return self.channels.index("flair") if "flair" in self.channels else 0

    @property
    def weakness(self) -> str:
        """What a network's own validation says against it, in words; "" for nothing."""
        figures = self.validation.items()
        best = max((value or 0 for name, value in figures if name.startswith("dice")), default=WEAK)
        if best >= WEAK:
            return ""
        said = f"in validation its best Dice was {best:.2f}, where 1 is all and 0 is nothing"
        return f"the network has learned too little: {said}; train it longer or on more data"

    @property
    def areas(self) -> dict[str, list[int]]:
        """What is scored: {name: labels} of each label, then of each region."""
        return {name: [label] for label, name in self.labels.items()} | self.regions


def to_card(said: dict) -> Card:
    """The Card of a JSON object; keys that it does not know are left out, and so are nulls."""
    known = {f.name: said[f.name] for f in fields(Card) if said.get(f.name) is not None}
    if isinstance(known.get("channels"), int):  # older cards only count them
        known["channels"] = ["ct"] * known["channels"]
    for name in ("labels", "label_values"):
        if name in known:
            known[name] = {int(label): value for label, value in known[name].items()}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Card(**known | lists)


def read_card(model: str | Path) -> Card:
    """The card beside a model file; the defaults where there is none that can be read."""
    return to_card(read_json(Path(model).with_suffix(".json")))


# ---------------------------------------------------------------- what labels mean


def name_labels(values: Sequence[int]) -> dict[int, str]:
    """{1: name, …} for the labels that are stored as `values`, in ascending order."""
    values = tuple(sorted(values))
    several = [f"label {value}" for value in values]
    names = BRATS.get(values, [TUMOUR] if len(values) == 1 else several)
    return dict(enumerate(names, 1))


def find_regions(names: dict[int, str]) -> dict[str, list[int]]:
    """The regions that the field scores, as {name: labels}; {} for labels of something else."""
    if names == HEAD:
        return {BRAIN: list(HEAD)}
    if ENHANCING not in names.values():
        return {}
    return {
        "whole tumour": list(names),
        "tumour core": [label for label, name in names.items() if name != OEDEMA],
        "enhancing tumour": [label for label, name in names.items() if name == ENHANCING],
    }


def to_contiguous(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Labels as stored -> 1, 2, … in the ascending order of `values`; uint8, all else is 0."""
    table = np.zeros(256, np.uint8)
    table[sorted(values)] = np.arange(1, len(values) + 1)
    return table[labels]


def to_stored_values(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The inverse of `to_contiguous`: uint8 labels as they are stored."""
    return np.array([0, *sorted(values)], np.uint8)[labels]
