"""A dataset folder as pairs of images and masks: of data.py, or with folders called as splits.

Needs no network library, and reads one pair at a time.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.card import Card, to_card
from common.errors import InputError, warn
from common.files import read_json
from dataset.records import read_record
from scan.cases import PICTURES, SCANS, list_visible
from scan.mask_picture import read_label_picture, read_mask_picture, read_noted_mask_picture
from scan.names import name_file
from scan.pairs import find_pairs, list_scan_files
from scan.picture import read_channels, read_noted, read_picture, to_values
from scan.views import VIEWS

SPLITS = ("Train", "Val", "Test")
MANIFEST, DESCRIPTION = "manifest.csv", "dataset.json"  # the two files of a dataset folder
HOW_TO_SPLIT = (
    "Move them to Train/images, Train/masks, Val/images, Val/masks (and Test), "
    "all slices of a patient to one of these"
)
LOOKED_AT = 20  # pictures, a round number, read in a second: whether they are in colour
OF_COLOURS = (
    "They are in colour: if the colours are modalities of an MRI, data.py splits them by patient: "
    "python data.py {} --channels NAME NAME NAME --out files/dataset"
)
SAMPLE_NAME = re.compile(rf"(?P<case>.+)_(?P<view>{'|'.join(VIEWS)}|mip)_\d+")


@dataclass(frozen=True)
class Pair:
    """One picture or volume and its mask; case and view are "" where the files do not tell."""

    image: Path
    mask: Path
    case: str = ""
    view: str = ""
    channels: int | None = None  # of an MRI; None for grey pictures
    labels: int = 1  # how many the mask has
    record: tuple[int, int] | None = None  # (offset, bytes) in a TFRecord file; None for pictures
    name: str = ""  # of the picture, also of one in a TFRecord file
    series: int | None = None  # of DICOM, and volume of a 4-D file, of a whole scan: if not usual
    volume: int | None = None


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a pair, from pictures or a TFRecord alike.

    The image is (H, W) as `read_picture` gives it, or (H, W, C) uint8 for a slice of an MRI, or
    (X, Y, Z, C) for a volume. The mask has the same shape without the channels: bool for one label,
    uint8 for several. Raises InputError when their sizes differ.
    """
    if pair.record:
        image, mask = read_record(pair.image, *pair.record)
        return to_values(image), mask if pair.labels > 1 else mask > 0
    image = read_channels(pair.image, pair.channels) if pair.channels else read_picture(pair.image)
    mask = read_label_picture(pair.mask) if pair.labels > 1 else read_mask_picture(pair.mask)
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{pair.mask} is {mask.shape[1]}x{mask.shape[0]} but its picture "
            f"{image.shape[1]}x{image.shape[0]}; make them alike"
        )
    return image, mask


def note_pair(pair: Pair) -> tuple[str, ...]:
    """Notes on what was mended in a pair of pictures when it was read; none on a TFRecord's."""
    if pair.record:
        return ()
    notes = () if pair.channels else read_noted(pair.image)[1]
    said = () if pair.labels > 1 else read_noted_mask_picture(pair.mask)[1]
    return (*notes, *(f"{pair.mask.name}: {note}" for note in said))


def read_description(folder: str | Path) -> Card | None:
    """The card of a dataset folder, from its dataset.json; None where there is none.

    nnU-Net and the Decathlon describe their sets in files of that name, too: these are None.
    """
    path = Path(folder) / DESCRIPTION
    if not path.exists():
        return None
    if said := read_json(path):
        return None if "numTraining" in said else to_card(said)
    raise InputError(f"{path} cannot be read as JSON; make the dataset again")


def read_dataset(folder: str | Path) -> dict[str, list[Pair]]:
    """The pairs of each split of a dataset folder, {"Train": [...], "Val": [...], "Test": [...]}.

    Reads the layout of data.py (by its manifest.csv), and folders of any layout in which a folder's
    name says the split: Train/images with Train/masks, images/val with labels/val, train with
    train_masks. Raises InputError for anything else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no dataset folder {folder}; make one: python data.py --synthetic 40")
    if (folder / MANIFEST).exists():
        return read_manifest(folder)
    if read_description(folder):
        raise InputError(f"{folder} is unfinished; run its data.py command again to finish it")
    if not any(list_scan_files(folder, PICTURES)):
        raise InputError(f"{folder} has no {MANIFEST} and no pictures; {advise(folder)}")
    splits = find_splits(folder)
    if others := splits.pop("", []):
        said = f"{folder}: {len(others)} pairs lie in no folder called Train, Val or Test"
        if not any(splits.values()):
            some = others[:: math.ceil(len(others) / LOOKED_AT)]
            way = OF_COLOURS.format(folder) if any(map(is_coloured, some)) else HOW_TO_SPLIT
            raise InputError(f"{said}; there are {name_folders(folder)}. {way}")
        warn(f"{said}, such as {others[0].image}; left out")
    return splits


def is_coloured(pair: Pair) -> bool:
    """Whether a pair's picture is in colour, and no tint or letters only."""
    try:
        read_picture(pair.image)
    except InputError as error:
        return "colour picture" in str(error)
    return False


def find_splits(folder: Path) -> dict[str, list[Pair]]:
    """The pairs of pictures in and below a folder, by the split that their folders' names say.

    Those of no split stand at "". Warns of files left over; raises InputError when nothing pairs.
    """
    splits: dict[str, list[Pair]] = {split: [] for split in (*SPLITS, "")}
    for name, image, mask in warn_of_rest(find_pairs(folder, endings=PICTURES)):
        split = name_file(image, folder).split
        splits[split].append(Pair(image, mask, **case_and_view(name)))
    return splits


def name_folders(folder: str | Path) -> str:
    """The folders in a folder, in words."""
    names = [path.name for path in list_visible(Path(folder)) if path.is_dir()]
    more = f" and {len(names) - 8} more folders" if len(names) > 8 else ""
    return (", ".join(names[:8]) + more) or "no folders"


def advise(folder: Path) -> str:
    """What to do with a folder that holds no pictures."""
    if any(list_scan_files(folder, SCANS)):
        return f"make a dataset of its scans: python data.py {folder} --out files/dataset"
    return f"there are {name_folders(folder)}; give a dataset folder"


def read_manifest(folder: Path) -> dict[str, list[Pair]]:
    """The pairs of each split by the folder's manifest.csv and dataset.json."""
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    card = read_description(folder) or Card()
    kind = (len(card.channels) if card.is_mri else None, len(card.labels))
    is_record = card.format == "tfrecord"
    try:
        for row in read_rows(folder / MANIFEST):
            record = (int(row["offset"]), int(row["bytes"])) if is_record else None
            files = (folder / row["image"], folder / row["mask"])
            name = name_sample(row["scan"], row["view"], int(row["index"]))
            splits[row["split"]].append(Pair(*files, row["case"], row["view"], *kind, record, name))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        said = f"{folder / MANIFEST} is not a manifest ({error!r}); make the dataset again"
        raise InputError(said) from error
    return splits


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a manifest, {column: text}."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def warn_of_rest(found: tuple):
    """What a search of `scan.cases` found; prints a warning for each file that it left over."""
    for line in found[1]:
        warn(line)
    return found[0]


def name_sample(scan: str, view: str, index: int) -> str:
    """The name of a slice or volume; SAMPLE_NAME reads a slice's."""
    return f"{scan}_{view}_{index:04d}"


def case_and_view(name: str) -> dict[str, str]:
    """{"case", "view"} out of <case>_<view>_<index>, empty where the name says nothing."""
    found = SAMPLE_NAME.fullmatch(name)
    return found.groupdict() if found else {}
