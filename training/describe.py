"""What the card of a new network says, by its dataset's and by how it was trained."""

from __future__ import annotations

import sys
from argparse import Namespace

from common import SOFTWARE
from common.card import BRAIN, HEAD, Card, read_card
from common.errors import quietly
from scan.views import WINDOW

with quietly():
    import keras


def compose_card(options: Namespace, card: Card, run_id: str) -> dict:
    """The JSON of the model's card, by its dataset's `card`, but for what training finds out."""
    window, start = choose_window(card), options.start_from
    before = read_card(start) if start else Card()
    source = card.source or f"the pictures in {options.data}"
    return {
        "channels": card.channels,
        **describe_labels(card),
        "window": window,
        "spacing_mm": options.spacing_mm or seen_spacing(options, card),
        "sure": options.sure,
        "views": options.views or card.views,
        "training_data": join(before.training_data, source),
        "licence": join(before.licence, card.licence),
        "start_from": start and (read_card(start).sha256 or start),
        "command": options.command,
        "seed": options.seed,
        "backend": f"{keras.backend.backend()}, keras {keras.version()}, {options.precision}",
        "python": sys.version.split()[0],
        "software": SOFTWARE,
        "run": run_id,
    }


def join(before: str | None, now: str | None) -> str | None:
    """What is said of the network that a run began with, and of the run; None for nothing."""
    return "; then: ".join(filter(None, (before, now))) or None


def describe_labels(card: Card) -> dict:
    """The part of a model's card about scaling and labels; no keys that its dataset leaves open."""
    if card.labels == HEAD:  # both together are the mask, which has one label
        names, values, regions = {1: BRAIN}, {1: 1}, {}
    else:
        names, values, regions = card.labels, card.label_values or None, card.regions or None
    said = {
        "normalise": card.normalise if card.label_values else None,
        "names": card.names if card.is_mri else None,
        "label_values": values,
        "regions": regions,
        "fit": card.fit,
        "labels": names,
        "classes": list(HEAD.values()) if card.labels == HEAD else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def choose_window(card: Card) -> tuple[float, float] | None:
    """Window in HU of what the network sees: the dataset's, or the default for stored HU; None
    where the dataset holds no HU."""
    if card.is_mri:
        return None
    return WINDOW if card.window in (None, "hu") else card.window


def seen_spacing(options: Namespace, card: Card) -> float | None:
    """Size in mm of what the network sees as a pixel or voxel; None where cases differ."""
    if card.is_3d or not card.spacing_mm:
        return card.spacing_mm
    return card.spacing_mm * card.size / options.size
