"""The kind of input "tumour slice": one slice of an MRI, as data.py writes it to a picture.

The slice is uint8 (H, W, C), a channel for each modality.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.card import Card
from common.errors import InputError
from predict.network import Network
from predict.picture import average_turns, show, write
from predict.result import Result, Wanted
from scan.picture import read_channels

__all__ = ["predict", "read", "show", "write"]
NOTHING = "nothing was found in this slice"


def read(path: Path, wanted: Wanted, card: Card) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture of as many channels as the card names, and notes; InputError for any other."""
    if card.is_3d:
        raise InputError(f"{path} is a slice, and this model looks at volumes: give a scan")
    return read_channels(path, len(card.channels)), wanted.notes_of_slice


def predict(source: tuple[np.ndarray, tuple[str, ...]], network: Network) -> Result:
    """The labels of a slice."""
    picture, notes = source
    network.tell("segmenting", 0)
    labels = find_mask(picture, network)
    return Result(labels, notes=notes if labels.any() else (*notes, NOTHING))


def find_mask(picture: np.ndarray, network: Network) -> np.ndarray:
    """The labels (H, W), uint8, of a slice; several parts and small ones are kept."""
    seen = average_turns(picture, network, network.size, network.window)
    return choose_labels([seen] if seen.ndim == 2 else np.moveaxis(seen, -1, 0))


def choose_labels(parts) -> np.ndarray:
    """The likeliest labels, uint8, from the probabilities of all classes, or of the only label."""
    return (parts[0] > 0.5 if len(parts) == 1 else np.argmax(parts, axis=0)).astype(np.uint8)
