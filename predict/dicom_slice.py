"""The kind of input "DICOM slice": one CT image whose header gives it no place in space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.card import Card
from predict.picture import predict, show, write
from predict.result import Wanted
from scan.cases import is_dicom
from scan.hu import doubt_hu, to_hu
from scan.read import has_no_place, read_slice

__all__ = ["is_for", "predict", "read", "show", "write"]


def is_for(path: Path) -> bool:
    """Whether a path is such an image."""
    return is_dicom(path) and has_no_place(path)


def read(path: Path, wanted: Wanted, card: Card) -> tuple[np.ndarray, tuple[str, ...]]:
    """The image as float32 HU (H, W), and notes; InputError where it has no readable pixels."""
    hu, notes = read_slice(path)
    hu, mended = to_hu(hu)
    return hu, (*notes, *mended, *doubt_hu(hu), *wanted.notes_of_slice)
