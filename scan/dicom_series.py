"""DICOM series: those of a folder or a .zip, and which of them is the head CT.

    with Files(Path("study.zip")) as files:
        found, notes = find_series(files)                 # best first

ImagePositionPatient and ImageOrientationPatient alone say where a slice lies: no file name, no
InstanceNumber.
"""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import THREADS
from common.errors import InputError
from scan.bounded import ARCHIVES
from scan.dicom_files import (
    MARKS,
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
from scan.dicom_stacks import (
    SliceSet,
    doubt_scan,
    join_singles,
    place_by_location,
    sort_by_height,
    split_scans,
    stack_alike,
)

if TYPE_CHECKING:
    import pydicom

# Words of ImageType: maps of dual energy and perfusion that hold no HU (those of PS3.3 C.8.15.3.1.4
# among them), and pictures in HU that were computed
MAP = re.compile(
    r"IODINE|Z_?EFF|EFF_ATOMIC|ELECTRON_DEN|MAT_(SPECIFIC|FRACTIONAL|VALUE)|URIC"
    r"|(?<![A-Z])(RHO|EDW?|CBF|CBV|MTT|TTP|TMAX)(?![A-Z])"
)
VIRTUAL = re.compile(r"MONO(?!CHROME)|(?<![A-Z])(VMI|VNC|VUE)|VIRTUAL|MAT_(REMOVED|MODIFIED)")
IN_HU = ("", "HU", "HU_MOD", "US")  # RescaleType: US is not specified, and often HU
ELSEWHERE = "CHEST|THORAX|LUNG|HEART|CARDIAC|ABD|LIVER|PELVI|SPINE|LEG|KNEE|HIP|FOOT|HAND|EXTREM"
# Round numbers
TEST_SHOT = 5  # slices: an original series of fewer is a test shot, so a derived one is better
BY_LOCATION = (
    "ImagePositionPatient is the same in all slices: SliceLocation says where they lie, taken to "
    "rise to the head, the back or the left; check that the scan is not upside down"
)


@dataclass(frozen=True, eq=False)
class Series:
    """One series: `slices` in order along their normal, and `notes` on what was left out of it.

    number: SeriesNumber, or the next one free where that is missing or taken by another series.
    private: matches what names the patient, which no text may say.
    part: what tells it from the other scans of its series, where it has such; mixed: why it may be
    two scans whose slices nothing tells apart.
    """

    number: int
    header: pydicom.Dataset
    slices: list[Slice]
    notes: list[str]
    private: re.Pattern
    part: str = ""
    mixed: str = ""

    @property
    def count(self) -> int:
        return len(self.slices)

    @property
    def image_type(self) -> str:
        """ImageType and, of frames, FrameType in one text of capitals."""
        marks = dict(zip(MARKS, self.slices[0].marks, strict=False))
        return f"{self.header.get('ImageType')} {marks.get('FrameType', '')}".upper()

    @property
    def kind(self) -> set[str]:
        """The values of ImageType, such as ORIGINAL, AXIAL, MPR."""
        return set(re.findall("[A-Z0-9]+", self.image_type))

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
        missing, unit = self.slices[0].missing, self.slices[0].unit
        found = MAP.search(self.image_type)
        return {
            "colour or empty pictures": not self.grey,
            f"images without {missing}": bool(missing),
            f"slices of two scans that no tag tells apart, {self.mixed}": bool(self.mixed),
            f"values in {clean_text(unit, self.private)} (RescaleType), not HU": unit not in IN_HU,
            f"a map of {clean_text(found and found[0], self.private)}, not HU": bool(found),
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
            "the RescaleType is US (not specified)": self.slices[0].unit == "US",
            "virtual (monoenergetic, or contrast taken away), not as measured": bool(
                VIRTUAL.search(self.image_type) or self.slices[0].unit == "HU_MOD"
            ),
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
        part = f", {clean_text(self.part, self.private)}" if self.part else ""
        return f"{self.number}{title} ({self.count} slices{contrast}{part})"


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
        reason, advice = f" ({unread})" if damaged else "", "give the folder of a CT"
        if packed := [name for name in files.names() if name.lower().endswith(ARCHIVES)]:
            named = clean_text(packed[0], private)
            advice = f"unpack what is packed in it, such as {named}, and give one scan"
        raise InputError(f"{files.path} holds no DICOM image{reason}; {advice}")
    notes = []
    if damaged:
        notes.append(f"{unread}: {join_names(damaged, private)}")
    patients = {str(image.header.get("PatientID")) for image in images}
    if len(patients) > 1:
        notes.append(f"the series are of {len(patients)} patients")
    groups = group_images(images)
    if files.given:
        groups = [g for g in groups if any(i.slices[0].file == files.given for i in g)]
    scans = [make_series(group, files, private) for group in groups]
    series = [first for first, *_ in scans] + [s for _, *more in scans for s in more]
    stated = [to_whole(one.header, "SeriesNumber") for one in series]
    free = (number for number in itertools.count(1) if number not in stated)
    numbers = [n if n not in (0, *stated[:at]) else next(free) for at, n in enumerate(stated)]
    series = [replace(s, number=number) for s, number in zip(series, numbers, strict=True)]
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
        names = sorted({files.given, *names})
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(lambda name: read_image(files, name), names))
    damaged = [name for name, image in zip(names, images, strict=True) if image is False]
    images = [image for image in images if image]
    # the neighbours of a given file that cannot be read need not be of its series
    return images, [] if files.given else damaged


def group_images(images: list[Image]) -> list[list[Image]]:
    """Images by series, in an order that the names of files do not change.

    Where there is no SeriesInstanceUID, the other tags of a series tell. Series of one slice each
    that together make a scan become one.
    """
    tags = ("StudyInstanceUID", "SeriesNumber", "SeriesDescription", "Modality")
    groups: dict[str, list[Image]] = {}
    for image in images:
        get = image.header.get
        groups.setdefault(str(get("SeriesInstanceUID") or [*map(get, tags)]), []).append(image)
    of_file = {g[0].slices[0].file: uid for uid, g in groups.items() if len(g) == 1}
    by_patient: dict[tuple, list[Slice]] = {}
    for uid in sorted(of_file.values()):
        header, slices = groups[uid][0].header, groups[uid][0].slices
        if len(slices) == 1 and slices[0].size[0]:
            who = str(header.get("PatientID")), str(header.get("Modality"))
            by_patient.setdefault(who, []).append(slices[0])
    for stack in (stack for slices in by_patient.values() for stack in join_singles(slices)):
        first, *others = (of_file[image.file] for image in stack)
        groups[first] += [image for uid in others for image in groups.pop(uid)]
    return [groups[uid] for uid in sorted(groups)]


def make_series(images: list[Image], files: Files, private: re.Pattern) -> list[Series]:
    """The series of some images, numbered 0: its largest stack of alike ones first, in order.

    Another stack, and another scan that shares one, is a series of its own. Of a given file, only
    its own scan is returned.
    """
    headers = {image.slices[0].file: image.header for image in images}
    stacks = stack_alike([image for parts in images for image in parts.slices])
    stacks.sort(key=lambda s: (files.given not in {i.file for i in s}, bool(s[0].missing), -len(s)))
    several = [
        s for s in stacks[1:] if len(s) >= TEST_SHOT and not s[0].missing and not files.given
    ]
    others = [i for s in stacks[1:] if files.given or s not in several for i in s]
    notes = note_images(images, stacks[0][0], others, private)
    found = []
    for stack in (stacks[0], *several):
        placed = stack if stack[0].missing else place_by_location(stack)
        moved = [] if placed is stack else [BY_LOCATION]
        scans = [SliceSet(stack)] if stack[0].missing else split_scans(placed)
        told = [f"{len(scans)} scans lie in one series: {s.part}" for s in scans if len(scans) > 1]
        for n, scan in enumerate(scans):
            if files.given and files.given not in {image.file for image in scan.slices}:
                continue
            about = [*notes, *moved, *told[n : n + 1]]
            found.append(to_series(headers, scan, about, private))
    return found


def to_series(headers: dict, scan: SliceSet, notes: list[str], private: re.Pattern) -> Series:
    """A series, numbered 0, of the slices of one scan: in order, one a place."""
    slices, doubles = scan.slices, []
    if not slices[0].missing:
        slices, doubles = sort_by_height(slices)
    mixed = doubt_scan(slices, doubles) if not slices[0].missing else ""
    if doubles:
        notes = [*notes, note_left_out(doubles, "at a place already taken", private)]
    return Series(0, headers[slices[0].file], slices, notes, private, scan.part, mixed)


def note_images(
    images: list[Image], first: Slice, others: list[Slice], private: re.Pattern
) -> list[str]:
    """Notes on what was mended to make a series, and on images that are unlike the `first`."""
    uids = {str(image.header.get("SeriesInstanceUID")) for image in images}
    notes = [f"{len(uids)} series of one slice each taken as one"] if len(uids) > 1 else []
    if any(image.commas for image in images):
        notes.append("decimal commas in the headers read as points")
    if others:
        kinds = {
            "unknown place": any(i.missing for i in others),
            "another size": any(i.size != first.size for i in others),
        }
        what = " or ".join(list_true(kinds)) or "another orientation or pixel spacing"
        notes.append(note_left_out(others, f"of {what}", private))
    return notes


def note_left_out(slices: list[Slice], reason: str, private: re.Pattern) -> str:
    """Which images of a series are not in its stack."""
    names = join_names([image.title for image in slices], private)
    return f"{count_words(slices, 'image')} {reason} left out: {names}"


# ---------------------------------------------------------------- choosing


def choose_series(
    found: list[Series], number: int | None, path: Path, is_hu: bool = True
) -> list[Series]:
    """The series to try, best first; InputError where none can be used, or has that number.

    If they need not be in HU (not `is_hu`), those with the most slices come first.
    """
    if not is_hu:
        usable = [series for series in found if series.grey and not series.slices[0].missing]
        if number is None and usable:
            return sorted(usable, key=lambda series: -series.count)
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
