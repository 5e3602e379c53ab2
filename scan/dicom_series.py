"""DICOM series: those of a folder or a .zip, and which of them is the head CT.

    with Files(Path("study.zip")) as files:
        found, notes = find_series(files)                 # best first

ImagePositionPatient and ImageOrientationPatient alone say where a slice lies: no file name, no
InstanceNumber.
"""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import THREADS
from common.errors import InputError
from scan.dicom_files import (
    Files,
    Image,
    Slice,
    clean_text,
    count_words,
    join_names,
    list_true,
    match_patient,
    read_image,
    to_whole,
)

if TYPE_CHECKING:
    import pydicom

ELSEWHERE = "CHEST|THORAX|LUNG|HEART|CARDIAC|ABD|LIVER|PELVI|SPINE|LEG|KNEE|HIP|FOOT|HAND|EXTREM"
# Round numbers
TEST_SHOT = 5  # slices: an original series of fewer is a test shot, so a derived one is better
SAME = 0.01  # mm: images no farther apart are at one place
ALIKE = 2e-3  # of direction cosines (a tenth of a degree) and of mm: images of one stack


@dataclass(frozen=True, eq=False)
class Series:
    """One series: `slices` in order along their normal, and `notes` on what was left out of it.

    number: SeriesNumber, or the next one free where that is missing or taken by another series.
    private: matches what names the patient, which no text may say.
    """

    number: int
    header: pydicom.Dataset
    slices: list[Slice]
    notes: list[str]
    private: re.Pattern

    @property
    def count(self) -> int:
        return len(self.slices)

    @property
    def kind(self) -> set[str]:
        """The values of ImageType, such as ORIGINAL, AXIAL, MPR."""
        return set(re.findall("[A-Z0-9]+", str(self.header.get("ImageType")).upper()))

    @property
    def class_name(self) -> str:
        """The name of its SOP class, such as CT Image Storage; empty for none."""
        return getattr(self.header.get("SOPClassUID"), "name", "")

    @property
    def grey(self) -> bool:
        """Whether its images have one channel, and pixels at all."""
        return (self.header.get("SamplesPerPixel") or 1) == 1 and 0 not in self.slices[0].size

    @property
    def is_slice(self) -> bool:
        """Whether it is one grey image of a CT that has no place in space."""
        is_ct = (self.header.get("Modality") or self.class_name[:2]) == "CT"
        single = self.count == 1 and (self.header.get("NumberOfFrames") or 1) == 1
        return is_ct and single and self.grey and bool(self.slices[0].missing)

    @property
    def unusable(self) -> dict[str, bool]:
        """{flaw: whether it is there}: each forbids to make a volume of the series."""
        missing = self.slices[0].missing
        return {
            "colour or empty pictures": not self.grey,
            f"images without {missing}": bool(missing),
        }

    @property
    def unlike(self) -> dict[str, bool]:
        """{sign: whether it is there}: each says that the series is no head CT."""
        modality = self.header.get("Modality") or "not stated"
        captured = "Secondary Capture" in self.class_name
        part = str(self.header.get("BodyPartExamined") or "").upper()
        return {
            f"the modality is {clean_text(modality, self.private)}, not CT": modality != "CT",
            "a localizer": bool(self.kind & {"LOCALIZER", "SCOUT", "TOPOGRAM"}),
            "a secondary capture": captured or bool(self.kind & {"SCREEN", "DOSE"}),
            "of another body part": bool(re.search(ELSEWHERE, part)) and "HEAD" not in part,
        }

    @property
    def lesser(self) -> dict[str, bool]:
        """{reason: whether it is there}: each speaks for another series, weightiest first."""
        known = not self.slices[0].missing
        return {
            f"fewer than {TEST_SHOT} slices": self.count < TEST_SHOT,
            "derived from another series": bool(self.kind & {"DERIVED", "MPR", "MIP"}),
            "not axial": known and not self.slices[0].axial,
        }

    @property
    def why_not(self) -> str:
        """Why it is not plainly the head CT, in words; empty when nothing speaks against it."""
        return ", ".join(list_true(self.unusable | self.unlike | self.lesser))

    @property
    def rank(self) -> tuple:
        """The smaller the better."""
        flaws = (len(list_true(self.unusable)), len(list_true(self.unlike)))
        return *flaws, *self.lesser.values(), -self.count, self.number

    def __str__(self) -> str:
        text = clean_text(self.header.get("SeriesDescription"), self.private)
        title = f' "{text}"' if text else ""
        coded = self.header.get("ContrastBolusAgentSequence") or [{}]
        agent = self.header.get("ContrastBolusAgent") or coded[0].get("CodeMeaning")
        contrast = ", contrast" if clean_text(agent, self.private) else ""
        return f"{self.number}{title} ({self.count} slices{contrast})"


# ---------------------------------------------------------------- finding


def list_slices(folder: str | Path) -> list[Path]:
    """The DICOM images of a folder's tree if each is a slice of its own, else none.

    None of them has a place in space then, and a CT slice is among them. The damaged ones are
    listed, too. Of a scan, only the first header is read.
    """
    found, slices = [], 0
    with Files(Path(folder)) as files:
        for name in files.names():
            image = read_image(files, name)
            if image is None:
                continue
            if image and not image.slices[0].missing:
                return []
            found.append(files.root / name)
            slices += bool(image) and series_of_one(image).is_slice
    return found if slices else []


def find_slice(files: Files) -> Series | None:
    """The one given file as a series, if it is a CT image without a place in space."""
    image = read_image(files, files.given) if files.given else None
    series = series_of_one(image) if image else None
    return series if series and series.is_slice else None


def series_of_one(image: Image) -> Series:
    """A series of one file."""
    return Series(1, image.header, image.slices, [], match_patient([image.header]))


def find_series(files: Files) -> tuple[list[Series], list[str]]:
    """The series, best first, and notes on files that cannot be read."""
    images, damaged = read_images(files)
    unread = f"{count_words(damaged, 'file')} cannot be read"
    private = match_patient([image.header for image in images])
    if not images:
        reason = f" ({unread})" if damaged else ""
        raise InputError(f"{files.path} holds no DICOM image{reason}; give the folder of a CT")
    notes = []
    if damaged:
        notes.append(f"{unread}: {join_names(damaged, private)}")
    patients = {str(image.header.get("PatientID")) for image in images}
    if len(patients) > 1:
        notes.append(f"the series are of {len(patients)} patients")
    groups = {}
    for image in images:
        groups.setdefault(str(image.header.get("SeriesInstanceUID")), []).append(image)
    groups = [groups[uid] for uid in sorted(groups)]
    stated = [to_whole(group[0].header, "SeriesNumber") for group in groups]
    free = iter(set(range(1, 2 * len(groups) + 1)).difference(stated))
    series = []
    for n, group in enumerate(groups):
        number = stated[n] if stated[n] not in (0, *stated[:n]) else next(free)
        series.append(make_series(number, group, files, private))
    return sorted(series, key=lambda s: s.rank), notes


def read_images(files: Files) -> tuple[list[Image], list[str]]:
    """The DICOM images (of a given file: those of its series), and the names of damaged files."""
    names = files.names()
    if files.given:
        own = read_image(files, files.given)
        if not own:
            raise InputError(
                f"{files.path} is neither a NIfTI nor a readable DICOM image; give a CT scan"
            )
        if len(own.slices) > 1:
            return [own], []
        names = sorted({files.given, *names})
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(lambda name: read_image(files, name), names))
    damaged = [name for name, image in zip(names, images, strict=True) if image is False]
    images = [image for image in images if image]
    if files.given:  # the neighbours that cannot be read need not be of its series
        uid = own.header.get("SeriesInstanceUID")
        return [i for i in images if i.header.get("SeriesInstanceUID") == uid], []
    return images, damaged


def make_series(number: int, images: list[Image], files: Files, private: re.Pattern) -> Series:
    """The series of some images: its largest stack of like ones, in order."""
    headers = {image.slices[0].file: image.header for image in images}
    stacks = stack_alike([image for parts in images for image in parts.slices])
    stacks.sort(key=lambda s: (files.given not in {i.file for i in s}, bool(s[0].missing), -len(s)))
    stack, notes = stacks[0], []

    def leave_out(slices: list[Slice], reason: str) -> None:
        names = join_names([image.title for image in slices], private)
        notes.append(f"{count_words(slices, 'image')} {reason} left out: {names}")

    if others := [image for other in stacks[1:] for image in other]:
        kinds = {
            "unknown place": any(i.missing for i in others),
            "another size": any(i.size != stack[0].size for i in others),
        }
        what = " or ".join(list_true(kinds)) or "another orientation or pixel spacing"
        leave_out(others, f"of {what}")
    if not stack[0].missing:
        stack, doubles = sort_by_height(stack)
        if doubles:
            leave_out(doubles, "at a place already taken")
    return Series(number, headers[stack[0].file], stack, notes, private)


def stack_alike(images: list[Slice]) -> list[list[Slice]]:
    """Images of one size, orientation and pixel spacing, together."""

    def alike(a: Slice, b: Slice) -> bool:
        if a.size != b.size or bool(a.missing) != bool(b.missing):
            return False
        if a.missing:
            return True
        pairs = zip(a.cosines + a.spacing, b.cosines + b.spacing, strict=True)
        return all(abs(x - y) < ALIKE for x, y in pairs)

    stacks = []
    for image in images:
        same = [stack for stack in stacks if alike(stack[0], image)]
        if same:
            same[0].append(image)
        else:
            stacks.append([image])
    return stacks


def sort_by_height(stack: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Slices along their normal, one a place (of several acquisitions the first); and the rest."""
    stack = sorted(stack, key=lambda image: image.taken)
    height = np.array([image.origin for image in stack]) @ stack[0].normal  # mm
    order = np.argsort(np.round(height / SAME), kind="stable")
    slices, doubles, last = [], [], -math.inf
    for n in order:
        new = height[n] - last > SAME
        (slices if new else doubles).append(stack[n])
        last = height[n] if new else last
    return slices, doubles


# ---------------------------------------------------------------- choosing


def choose_series(found: list[Series], number: int | None, path: Path) -> list[Series]:
    """The series to try, best first; InputError where none can be used, or has that number."""
    if number is not None:
        found = [series for series in found if series.number == number] or found
        if found[0].number != number:
            there = "; ".join(map(str, found))
            raise InputError(f"{path} has no series {number}, but {there}; choose of these")
    if reasons := list_true(found[0].unusable):
        raise InputError(
            f"{path} holds {reasons[0]}; give the CT series itself, a NIfTI of it, or one CT image"
        )
    return [s for s in found if s.rank[:3] == found[0].rank[:3]]


def explain_choice(series: Series, found: list[Series], number: int | None) -> str:
    """Which series was taken, and what speaks against each of the others."""
    text = f"{len(found)} image series found; took series {series}"
    if number is not None:
        return f"{text} as asked"
    others = [s for s in found if s is not series]
    fewer = ["as good", "fewer slices"]
    reasons = [f"{s.number} ({s.why_not or fewer[s.count < series.count]})" for s in others]
    return f"{text}, not {', '.join(reasons[:8])}{', ...' if len(reasons) > 8 else ''}"
