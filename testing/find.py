"""Which pairs test.py scores: pictures, scans, or MRI cases; of a dataset its Test split."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from common.card import Card
from common.errors import InputError
from common.files import plain_name
from dataset.read import (
    MANIFEST,
    Pair,
    case_and_view,
    read_dataset,
    read_description,
    warn_of_rest,
)
from scan import cases, pairs
from scan.cases import PICTURES, SCANS, Case, has_ending, parse_names
from scan.names import name_file


def find(
    folder: str | Path, masks: str | Path | None = None, card: Card | None = None
) -> list[Pair | Case]:
    """The pairs in a folder: pictures, or scans where it holds no picture.

    Where the model's card asks for MRI, cases take the place of scans, and also of the pictures of
    a dataset that was made of cases; all slices of a case are scored, where a dataset has some of
    them. Raises InputError when nothing pairs; files without a partner are named in warnings.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a folder, or make one with data.py")
    if card and card.is_mri and masks is None:
        about = read_description(folder)
        drawn = folder if about is None else Path(about.pictures or "nowhere")
        is_plain = about is None or len(card.labels) == 1  # else data.py changed the labels' values
        if is_plain and drawn.is_dir() and holds(drawn, PICTURES) and not holds(drawn, SCANS):
            return find_drawn(drawn, card, about)
        if about is None or about.cases:
            return find_test_cases(folder, card, about)
    if masks is None and is_made(folder):
        found = read_dataset(folder)
    else:
        found = {"": []}
        for name, image, mask in warn_of_rest(find_test_pairs(folder, masks)):
            split = "" if masks or folder.is_file() else name_file(image, folder).split
            found.setdefault(split, []).append(Pair(image, mask, **case_and_view(name)))
    if found.get("Test") or list(found) == [""]:
        return found.get("Test") or found[""]
    raise InputError(f"the Test split of {folder} is empty; give its Val folder, or other data")


def find_test_pairs(folder: Path, masks: str | Path | None) -> tuple[list, list[str]]:
    """As `pairs.find_pairs`: pictures, or scans where no pictures pair."""
    if holds(folder, PICTURES):
        try:
            return pairs.find_pairs(folder, masks, PICTURES)
        except InputError:
            if not holds(folder, SCANS):
                raise
    return pairs.find_pairs(folder, masks, SCANS)


def find_test_cases(folder: Path, card: Card, about: Card | None) -> list[Case]:
    """The cases in a folder that have labels.

    In a dataset (`about` is its description), these are the cases of its Test split, read from the
    files that it was made of.
    """
    if about is None:
        return warn_of_rest(cases.find_cases(folder, card.channels, parse_names(card.names)))
    if found := list_originals(about, about.splits["Test"]):
        return found
    raise InputError(f"the Test split of {folder} holds no MRI case; give a folder of cases")


def list_originals(about: Card, patients: Collection[str]) -> list[Pair | Case]:
    """The whole scans, or MRI cases, of some patients that a dataset was made of; none where it was
    made of pictures."""
    found = []
    for name, said in about.cases.items():
        files = {kind: Path(path) for kind, path in said["files"].items()}
        case = Case(name, files, Path(said["labels"]))
        if case.patient not in patients:
            continue
        if "series" in said:  # a CT
            chosen = {"series": said["series"], "volume": said["volume"]}
            case = Pair(files["ct"], case.labels, case.patient, **chosen)
        found.append(case)
    return found


def is_made(folder: Path) -> bool:
    """Whether the folder is a dataset of data.py."""
    return (folder / MANIFEST).exists() or read_description(folder) is not None


def holds(path: Path, endings: tuple[str, ...]) -> bool:
    """Whether there are files of some endings in and below the folder."""
    return any(has_ending(file, endings) for file in pairs.list_scan_files(path, endings))


def find_drawn(folder: Path, card: Card, about: Card | None) -> list[Pair]:
    """All slices of the cases of pictures in a folder, as data.py finds them.

    Where a dataset was made of them (`about` is its description), those of its Test split.
    Raises InputError for masks of several labels, whose values only data.py knows.
    """
    if len(card.labels) > 1:
        raise InputError(
            f"{folder} holds pictures, and the network tells {len(card.labels)} labels apart: give "
            "the dataset that data.py makes of them"
        )
    found = warn_of_rest(pairs.find_picture_cases(folder))
    found = {plain_name(case): slices for case, slices in found.items()}
    if about:
        found = {case: slices for case, slices in found.items() if case in about.splits["Test"]}
    if not found:
        raise InputError(f"the Test split of {folder} is empty; give a folder of cases")
    channels = len(card.channels)
    return [
        Pair(image, mask, case, "slice", channels)
        for case, slices in found.items()
        for _, image, mask in slices
    ]
