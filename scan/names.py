"""A file's name as words: what they say of its case, its split, and whether it is a mask.

split_words("image (12)")                             # ("image", "12")
scans, masks = tell_masks([name_file(path, folder) for path in files])
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scan.cases import get_stem

IMAGES = frozenset(
    ("image", "images", "img", "imgs", "scan", "scans", "original", "raw", "input", "inputs")
    + ("data",)
)
MASKS = frozenset(
    ("mask", "masks", "msk", "msks", "seg", "segs", "segm", "segmentation", "segmentations")
    + ("label", "labels", "lbl", "roi", "rois", "gt", "gts", "truth", "truths", "groundtruth")
    + ("annotation", "annotations", "annot", "annots")
)
ROLES = IMAGES | MASKS
CT_WORDS = frozenset(("ct", "cts", "cta", "ncct", "cect"))
# Words on what is seen, or on who made a mask; they seldom say which case it is
VAGUE = CT_WORDS.union(
    ("mr", "mri", "anat", "brain", "head", "ground", "desc", "derivatives", "manual", "final")
    + ("predicted", "prediction", "predictions")
)
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "Train"),
    **dict.fromkeys(("val", "valid", "validation"), "Val"),
    **dict.fromkeys(("test", "testing"), "Test"),
}
WORD = re.compile(r"\d+|[^\W\d_]+")
# Where two words meet without a separator: brainMask, JPEGImages, brainmask, trainannot
SEAM = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z]{3})(?=(masks?|annot)(?![a-z]))"
)


def split_words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case; numbers are words of their own."""
    return tuple(WORD.findall(SEAM.sub(" ", name).lower()))


@dataclass(frozen=True)
class Name:
    """A file or DICOM folder, and the words of its folders (below the one given) and of itself."""

    path: Path
    folders: tuple[tuple[str, ...], ...]
    own: tuple[str, ...]

    @cached_property
    def split(self) -> str:
        """Train, Val or Test, if a folder says so; else ""."""
        return next((SPLIT_OF[w] for words in self.folders for w in words if w in SPLIT_OF), "")

    @cached_property
    def above(self) -> tuple[tuple[str, ...], ...]:
        """The words of each folder that are no role and no split, where there are any."""
        useless = ROLES.union(SPLIT_OF)
        return tuple(filter(None, (drop(words, useless) for words in self.folders)))

    @cached_property
    def case(self) -> tuple[str, ...]:
        """All words without roles, and without the folders' words with which its own begin.

        Where only roles are left, they are the case: images/scan.png goes with masks/scan.png.
        """
        above = [w for words in self.above if words != self.own[: len(words)] for w in words]
        return drop((*above, *self.own), ROLES) or self.own


def name_file(path: Path, root: Path) -> Name:
    """The Name of a file or DICOM folder in or below `root`."""
    folders = path.relative_to(root).parts[:-1]
    return Name(path, tuple(map(split_words, folders)), split_words(get_stem(with_name(path))))


def with_name(path: Path) -> Path:
    """The path, or, where it has no name as "." has none, the same path from the root."""
    return path if path.name.strip(".") else Path(os.path.abspath(path))


def drop(words: Sequence[str], useless: frozenset) -> tuple[str, ...]:
    """The words without those that are useless."""
    return tuple(word for word in words if word not in useless)


def tell_masks(names: Sequence[Name]) -> tuple[list[Name], list[Name]]:
    """(scans, masks): by the lowest folder that says what it holds, else by the files' names.

    A word that stands in the name of every file says nothing. Without masks, all are scans.
    """
    roles = {name.path: find_role(name) for name in names}
    masks = [name for name in names if roles[name.path] == "mask"]
    if 0 < len(masks) < len(names):
        images = [name for name in names if roles[name.path] == "image"]
        return images or [name for name in names if not roles[name.path]], masks
    count = Counter(word for name in names for word in MASKS.intersection(name.own))
    said = {word for word, number in count.items() if number < len(names)}
    masks = [name for name in names if said.intersection(name.own)]
    return [name for name in names if not said.intersection(name.own)], masks


def find_role(name: Name) -> str:
    """What the folders of a file say it is: "image", "mask" or ""."""
    for words in reversed(name.folders):
        if MASKS.intersection(words):
            return "mask"
        if (IMAGES | CT_WORDS).intersection(words):
            return "image"
    return ""
