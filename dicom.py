"""DICOM: the series under a folder or in a .zip, the head CT among them, its slices; a SEG out.

    for series in list_series("study.zip"):               # best first
        print(series.number, series.description, series.count, series.why_not)
    scan = read_series("study.zip")                       # or its series of a given number
    hu, notes = read_slice("slice.dcm")                   # of an image without a place in space

What lies where follows from ImagePositionPatient and ImageOrientationPatient alone: no file name,
no InstanceNumber. pydicom parses, since it names what is wrong in a file and reads one frame at a
time; GDCM decompresses for it. dcm2niix would be a second program, and SimpleITK stacks a tilted
or uneven series as if it were neither.
"""

import logging
import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue
from pydicom.pixels import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from errors import InputError, replacing
from volume import PADDING, POSITIONS

logging.getLogger("pydicom").setLevel(logging.ERROR)  # it reports every oddity of every file
warnings.filterwarnings("ignore", module="pydicom")
DARK = -500  # a padding value brighter than this is a header's error: it would erase tissue
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ELSEWHERE = "CHEST|THORAX|LUNG|HEART|CARDIAC|ABD|LIVER|PELVI|SPINE|LEG|KNEE|HIP|FOOT|HAND|EXTREM"
FEW = 5  # slices: an original series of fewer is a test shot, so a derived one is better
SAME = 0.01  # mm: images no farther apart are at one place
THREADS = min(4, os.cpu_count() or 1)
MOST_BYTES = 8 << 30  # of a zip unpacked, and of a series in memory
TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "ImageType", "BodyPartExamined", "PatientPosition", "ContrastBolusAgent",
    "ContrastBolusAgentSequence", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SamplesPerPixel", "Rows",
    "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
# A SEG must repeat these, empty where de-identification removed them (type 2 of PS3.3 C.7.1, C.7.2)
EMPTY = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
]  # fmt: skip
NAMING = ["PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames"]


class Slice(NamedTuple):
    """One image: a file, or a frame of one. Geometry is None where the header gives none."""

    file: str  # its name within the Files it came from
    frame: int  # from 0
    taken: tuple[int, int]  # AcquisitionNumber, InstanceNumber
    size: tuple[int, int]  # rows, columns
    place: tuple[float, ...] | None  # ImagePositionPatient, mm, LPS
    turn: tuple[float, ...] | None  # ImageOrientationPatient: along a row, down a column
    spacing: tuple[float, ...] | None  # mm between rows, between columns
    thickness: float  # mm
    scale: tuple[float, float] | None  # rescale slope, intercept

    @property
    def missing(self) -> str:
        """The attributes that it lacks to have a place in space, as words; empty if it has one."""
        names = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
        values = (self.turn, self.place, self.spacing)
        return ", ".join(name for name, value in zip(names, values, strict=True) if not value)

    @property
    def normal(self) -> np.ndarray:
        """(3,) LPS, right-handed with rows and columns."""
        return np.cross(self.turn[:3], self.turn[3:])

    @property
    def axial(self) -> bool:
        return bool(abs(self.normal[2]) > 0.7)


@dataclass(frozen=True, eq=False)
class Series:
    """One series: `slices` in order along their normal, and `notes` of what was left out of it.

    number: SeriesNumber, or the next one free where that is missing or taken by another series.
    """

    number: int
    header: pydicom.Dataset
    slices: list[Slice]
    notes: list[str]
    words: re.Pattern  # of the patient's, to be said nowhere

    @property
    def count(self) -> int:
        return len(self.slices)

    @property
    def description(self) -> str:
        return plain(self.header.get("SeriesDescription"), self.words)

    @property
    def contrast(self) -> str:
        """The contrast agent as the header words it; empty when it names none."""
        coded = self.header.get("ContrastBolusAgentSequence") or [pydicom.Dataset()]
        agent = self.header.get("ContrastBolusAgent") or coded[0].get("CodeMeaning")
        return plain(agent, self.words)

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """mm between columns, rows and slices (the usual gap; of one slice its thickness)."""
        first = self.slices[0]
        if first.missing:
            return None
        gaps = np.diff(heights(self.slices))
        gap = float(np.median(gaps)) if len(gaps) else first.thickness
        return tuple(round(mm, 4) for mm in (*first.spacing[::-1], gap))

    @property
    def kind(self) -> set[str]:
        """The words of ImageType, such as ORIGINAL, AXIAL, MPR."""
        return set(re.findall("[A-Z0-9]+", str(self.header.get("ImageType")).upper()))

    @property
    def unusable(self) -> dict[str, bool]:
        """What forbids to make a volume of it: the words, and whether it is so."""
        missing = self.slices[0].missing
        return {
            "colour or empty pictures": not self.grey,
            f"images without {missing}": bool(missing),
        }

    @property
    def grey(self) -> bool:
        """Whether its images have one channel, and pixels at all."""
        return (self.header.get("SamplesPerPixel") or 1) == 1 and 0 not in self.slices[0].size

    @property
    def is_slice(self) -> bool:
        """Whether it is one grey image of a CT that has no place in space."""
        stored = getattr(self.header.get("SOPClassUID"), "name", "")
        is_ct = (self.header.get("Modality") or stored[:2]) == "CT"
        single = self.count == 1 and (self.header.get("NumberOfFrames") or 1) == 1
        return is_ct and single and self.grey and bool(self.slices[0].missing)

    @property
    def unlike(self) -> dict[str, bool]:
        """What makes it no head CT."""
        modality = self.header.get("Modality") or "not stated"
        captured = "Secondary Capture" in getattr(self.header.get("SOPClassUID"), "name", "")
        part = str(self.header.get("BodyPartExamined") or "").upper()
        return {
            f"the modality is {plain(modality, self.words)}, not CT": modality != "CT",
            "a localizer": bool(self.kind & {"LOCALIZER", "SCOUT", "TOPOGRAM"}),
            "a secondary capture": captured or bool(self.kind & {"SCREEN", "DOSE"}),
            "of another body part": bool(re.search(ELSEWHERE, part)) and "HEAD" not in part,
        }

    @property
    def lesser(self) -> dict[str, bool]:
        """What speaks for another series, weightiest first."""
        known = not self.slices[0].missing
        return {
            f"fewer than {FEW} slices": self.count < FEW,
            "derived from another series": bool(self.kind & {"DERIVED", "MPR", "MIP"}),
            "not axial": known and not self.slices[0].axial,
        }

    @property
    def why_not(self) -> str:
        """Why it is not plainly the head CT, in words; empty when nothing speaks against it."""
        return ", ".join(_true(self.unusable | self.unlike | self.lesser))

    @property
    def rank(self) -> tuple:
        """The smaller the better."""
        return (
            len(_true(self.unusable)), len(_true(self.unlike)), *self.lesser.values(),
            -self.count, self.number,
        )  # fmt: skip

    def __str__(self) -> str:
        says = f' "{self.description}"' if self.description else ""
        return f"{self.number}{says} ({self.count} slices{', contrast' if self.contrast else ''})"


@dataclass(frozen=True, eq=False)
class Scan:
    """A series read: values, geometry, and whence each slice came.

    array: (I, J, K), I along a picture's rows, J up its columns (as dcm2niix stores it), K along
    the normal; HU, padding as min(PADDING). affine: (4, 4) its voxels to RAS+ mm, with the mean
    slice step; shifts: (K, 3) RAS+ mm by which slices lie off it, or None; normal: (3,) RAS+.
    """

    array: np.ndarray
    affine: np.ndarray
    shifts: np.ndarray | None
    normal: np.ndarray
    slices: tuple[Slice, ...]
    name: str
    notes: list[str]


# ---------------------------------------------------------------- files


class Files:
    """The files of a folder's tree, beside one file, or in a .zip, by name.

    A zip's members are read inside it and never unpacked, so that no name of theirs reaches the
    disk; each is read no farther than the size it declares, and all together declare no more
    than MOST_BYTES.
    """

    def __init__(self, path: Path):
        self.path, self.archive = path, None
        self.root = path if path.is_dir() else path.parent
        if path.is_file() and path.suffix.lower() == ".zip":
            self.archive = _open_zip(path)

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *error) -> None:
        if self.archive:
            self.archive.close()

    @property
    def given(self) -> str | None:
        """The name of the one file that was given, else None."""
        return self.path.name if self.path.is_file() and not self.archive else None

    def names(self) -> list[str]:
        """Every file, hidden ones left out; of one file its neighbours, not their folders."""
        if self.archive:
            names = {info.filename for info in self.archive.infolist() if not info.is_dir()}
        else:
            try:
                found = self.root.iterdir() if self.given else self.root.rglob("*")
                names = {str(file.relative_to(self.root)) for file in found if file.is_file()}
            except OSError as error:
                raise InputError(f"{self.path} cannot be listed; check its permissions") from error
        return sorted(n for n in names if not re.search(r"(^|[/\\])(\.[^/\\.]|__MACOSX)", n))

    def open(self, name: str) -> BinaryIO:
        return self.archive.open(name) if self.archive else open(self.root / name, "rb")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is no readable zip file; copy or export it again") from error
    members = archive.infolist()
    # Only deflate lets itself be read piece by piece; other methods may burst in memory
    usual = all(m.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members)
    problems = {
        "is encrypted; unpack it and give the folder": any(m.flag_bits & 1 for m in members),
        "is packed in a rare way; unpack it and give the folder": not usual,
        f"unpacks to more than {MOST_BYTES >> 30} GiB; give the folder of one series":
            sum(m.file_size for m in members) > MOST_BYTES,
    }  # fmt: skip
    for words, present in problems.items():
        if present:
            archive.close()
            raise InputError(f"{path} {words}")
    return archive


def plain(text, words: re.Pattern) -> str:
    """A header's or file's text for one line of a note: printable, nothing of the patient's."""
    text = "".join(c if c.isprintable() else " " for c in str(text or ""))
    return words.sub("...", " ".join(text.split()))[:100]


def _patient_words(headers) -> re.Pattern:
    """What names the patients, as a pattern to be cut from texts and file names."""
    texts = {str(header.get(tag) or "") for header in headers for tag in NAMING}
    words = {word for text in texts for word in re.findall(r"[^\W_]{2,}", text)}
    # Short ones (Li, Wu) only as words of their own
    parts = [w if len(w) > 3 else rf"(?<![^\W_]){w}(?![^\W_])" for w in sorted(words)]
    return re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)


# ---------------------------------------------------------------- finding and choosing


def study(folder: Path) -> str:
    """StudyInstanceUID of the first DICOM image in a folder's tree; "" when there is none."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"])
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if uid := header.get("StudyInstanceUID"):
            return str(uid)
    return ""


def list_series(path: str | Path) -> list[Series]:
    """The image series of a folder's tree, of a .zip, or the one of a file; best first.

    Raises InputError when there is none.
    """
    with Files(Path(path)) as files:
        return _find(files)[0]


def read_series(path: str | Path, number: int | None = None) -> Scan:
    """Read the series that is plainly the head CT, or the one of that number.

    Left to choose, it takes the next one as good when the best cannot be read.
    Raises InputError when no series can be read, or none has that number.
    """
    path = Path(path)
    with Files(path) as files:
        found, notes = _find(files)
        errors = []
        for series in _candidates(found, number, path):
            try:
                scan = _read(series, files)
            except InputError as error:
                errors.append(error)
                notes.append(f"series {series} cannot be read and was passed over")
                continue
            if len(found) > 1:
                notes.append(_why(series, found, number))
            return replace(scan, notes=notes + scan.notes)
    raise errors[0]


def read_slice(path: str | Path) -> tuple[np.ndarray, list[str]] | None:
    """The HU (rows, columns) of a CT image that has no place in space, and notes on it.

    Such are the single slices that de-identification or a conversion left without orientation,
    position or spacing. Padding is min(PADDING). None for any other file; InputError when the
    image has no readable pixels.
    """
    with Files(Path(path)) as files:
        image = _image(files, files.given) if files.given else None
        if not image or not (series := _alone(image)).is_slice:
            return None
        array, slices, _ = _stack_pixels(series, files)
    lacks = f"the header has no {slices[0].missing}: taken as a slice"
    hu = np.ascontiguousarray(array[:, ::-1, 0].T)
    return hu, [lacks, *_kind_notes(series), *_scale_notes(series, slices)]


def list_slices(folder: str | Path) -> list[Path]:
    """The DICOM images of a folder's tree if `read_slice` is for them, else none.

    None of them has a place in space then, and a CT slice is among them. The damaged ones are
    listed, too. Of a scan no more is read than its first header.
    """
    found, slices = [], 0
    with Files(Path(folder)) as files:
        for name in files.names():
            image = _image(files, name)
            if image is None:
                continue
            if image and not image.slices[0].missing:
                return []
            found.append(files.root / name)
            slices += bool(image) and _alone(image).is_slice
    return found if slices else []


def _find(files: Files) -> tuple[list[Series], list[str]]:
    """The series, best first, and notes of files that cannot be read."""
    images, damaged = _images(files)
    words = _patient_words([image.header for image in images])
    if not images:
        reason = f" ({_count(damaged, 'file')} cannot be read)" if damaged else ""
        raise InputError(f"{files.path} holds no DICOM image{reason}; give the folder of a CT")
    notes = []
    if damaged:
        notes.append(f"{_count(damaged, 'file')} cannot be read: {_listed(damaged, words)}")
    patients = {str(image.header.get("PatientID")) for image in images}
    if len(patients) > 1:
        notes.append(f"the series are of {len(patients)} patients")
    groups = {}
    for image in images:
        groups.setdefault(str(image.header.get("SeriesInstanceUID")), []).append(image)
    groups = [groups[uid] for uid in sorted(groups)]
    stated = [_whole(group[0].header, "SeriesNumber") for group in groups]
    free = iter(set(range(1, 2 * len(groups) + 1)).difference(stated))
    series = [
        _series(stated[n] if stated[n] not in (0, *stated[:n]) else next(free), group, files, words)
        for n, group in enumerate(groups)
    ]
    return sorted(series, key=lambda s: s.rank), notes


class _Image(NamedTuple):
    """A file's header without its pixels, and its slices."""

    header: pydicom.Dataset
    slices: list[Slice]


def _images(files: Files) -> tuple[list[_Image], list[str]]:
    """The DICOM images (of a given file: those of its series), and the names of damaged files."""
    names = files.names()
    if files.given:
        own = _image(files, files.given)
        if not own:
            raise InputError(
                f"{files.path} is neither a NIfTI nor a readable DICOM image; give a CT scan"
            )
        if len(own.slices) > 1:
            return [own], []
        names = sorted({files.given, *names})
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(lambda name: _image(files, name), names))
    damaged = [name for name, image in zip(names, images, strict=True) if image is False]
    images = [image for image in images if image]
    if files.given:  # the neighbours that cannot be read need not be of its series
        uid = own.header.get("SeriesInstanceUID")
        return [i for i in images if i.header.get("SeriesInstanceUID") == uid], []
    return images, damaged


def _image(files: Files, name: str) -> _Image | bool | None:
    """An image without its pixels; False for a damaged one, None for any other file."""
    try:
        with files.open(name) as file:
            magic = file.read(132)[128:] == b"DICM"
            if not magic and not name.lower().endswith((".dcm", ".ima")):
                return None
            file.seek(0)
            header = _parse(file, stop_before_pixels=True, specific_tags=TAGS + NAMING)
        list(header)  # pydicom converts a value when it is asked for: find the senseless ones now
        if "SOPClassUID" in header and "Rows" in header and "Columns" in header:
            return _Image(header, list(_slices(name, header)))
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        return None if kind and "CT Image" not in kind.name else False
    except Exception:  # of a damaged file pydicom may raise anything
        return False


def _alone(image: _Image) -> Series:
    """A series of one file."""
    return Series(1, image.header, image.slices, [], _patient_words([image.header]))


def _parse(file: BinaryIO, **options) -> FileDataset:
    """A file as pydicom reads it, or, as old archives give them, without preamble and file meta."""
    data = pydicom.dcmread(file, force=True, **options)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    return data


def _series(number: int, images: list[_Image], files: Files, words: re.Pattern) -> Series:
    """The series of some images: its largest stack of like ones, in order."""
    headers = {image.slices[0].file: image.header for image in images}
    stacks = _stacks([image for parts in images for image in parts.slices])
    stacks.sort(key=lambda s: (files.given not in {i.file for i in s}, bool(s[0].missing), -len(s)))
    stack, notes = stacks[0], []
    others = [image for other in stacks[1:] for image in other]
    if others:
        kinds = {
            "unknown place": any(i.missing for i in others),
            "another size": any(i.size != stack[0].size for i in others),
        }
        what = " or ".join(_true(kinds)) or "another orientation or pixel spacing"
        notes.append(
            f"{_count(others, 'image')} of {what} left out: {_listed(map(_called, others), words)}"
        )
    if not stack[0].missing:
        stack, doubles = _ordered(stack)
        if doubles:
            notes.append(
                f"{_count(doubles, 'image')} at a place already taken left out: "
                f"{_listed(map(_called, doubles), words)}"
            )
    return Series(number, headers[stack[0].file], stack, notes, words)


def _slices(name: str, header: pydicom.Dataset) -> Iterator[Slice]:
    """The slices of one file: its frames if it is an enhanced one (PS3.3 C.7.6.16), else itself."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    frames = header.get("PerFrameFunctionalGroupsSequence")
    count = int(header.get("NumberOfFrames") or 1)
    for n, frame in enumerate(frames or [None]):

        def get(group: str, tag: str, frame=frame):
            if frame is None:  # frames without functional groups have no place each
                return header.get(tag) if count == 1 else None
            items = frame.get(group) or shared.get(group)
            return items[0].get(tag) if items else None

        slope = get("PixelValueTransformationSequence", "RescaleSlope")
        intercept = get("PixelValueTransformationSequence", "RescaleIntercept")
        scale = _numbers([slope or 1, intercept or 0], 2)
        thickness = _numbers([get("PixelMeasuresSequence", "SliceThickness") or 1], 1)
        yield Slice(
            name, n, (_whole(header, "AcquisitionNumber"), _whole(header, "InstanceNumber")),
            (int(header.Rows or 0), int(header.Columns or 0)),
            _numbers(get("PlanePositionSequence", "ImagePositionPatient"), 3),
            _numbers(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            _numbers(get("PixelMeasuresSequence", "PixelSpacing"), 2),
            abs(thickness[0]) if thickness else 1.0,
            None if slope is None and intercept is None else scale,
        )  # fmt: skip


def _whole(header: pydicom.Dataset, tag: str) -> int:
    numbers = _numbers([header.get(tag)], 1)
    return int(numbers[0]) if numbers else 0


def _numbers(values, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None for anything else."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _stacks(images: list[Slice]) -> list[list[Slice]]:
    """Images of one size, orientation (to a tenth of a degree) and pixel spacing, together."""

    def alike(a: Slice, b: Slice) -> bool:
        if a.size != b.size or bool(a.missing) != bool(b.missing):
            return False
        if a.missing:
            return True
        pairs = zip(a.turn + a.spacing, b.turn + b.spacing, strict=True)
        return all(abs(x - y) < 2e-3 for x, y in pairs)

    stacks = []
    for image in images:
        stack = next((s for s in stacks if alike(s[0], image)), None)
        if stack is None:
            stacks.append([image])
        else:
            stack.append(image)
    return stacks


def heights(slices: list[Slice]) -> np.ndarray:
    """(slices,) mm along the normal."""
    return np.array([image.place for image in slices]) @ slices[0].normal


def _ordered(stack: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Slices along their normal, one a place (of several acquisitions the first); and the rest."""
    stack = sorted(stack, key=lambda image: image.taken)
    height = heights(stack)
    order = np.argsort(np.round(height / SAME), kind="stable")
    slices, doubles, last = [], [], -math.inf
    for n in order:
        new = height[n] - last > SAME
        (slices if new else doubles).append(stack[n])
        last = height[n] if new else last
    return slices, doubles


def _candidates(found: list[Series], number: int | None, path: Path) -> list[Series]:
    """The series to try, best first."""
    if number is not None:
        found = [series for series in found if series.number == number] or found
        if found[0].number != number:
            there = "; ".join(map(str, found))
            raise InputError(f"{path} has no series {number}, but {there}; choose of these")
    if reasons := _true(found[0].unusable):
        raise InputError(
            f"{path} holds {reasons[0]}; give the CT series itself, a NIfTI of it, or one CT image"
        )
    return [s for s in found if s.rank[:3] == found[0].rank[:3]]


def _true(flaws: dict[str, bool]) -> list[str]:
    return [words for words, present in flaws.items() if present]


def _why(series: Series, found: list[Series], number: int | None) -> str:
    """Which series was taken, and what speaks against each of the others."""
    text = f"{len(found)} image series found; took series {series}"
    if number is not None:
        return f"{text} as asked"
    others = [s for s in found if s is not series]
    fewer = ["as good", "fewer slices"]
    reasons = [f"{s.number} ({s.why_not or fewer[s.count < series.count]})" for s in others]
    return f"{text}, not {', '.join(reasons[:8])}{', ...' if len(reasons) > 8 else ''}"


def _called(image: Slice) -> str:
    return f"{image.file} frame {image.frame + 1}" if image.frame else image.file


def _count(things: list, word: str) -> str:
    return f"{len(things)} {word}{'s' if len(things) > 1 else ''}"


def _listed(names, words: re.Pattern, most: int = 4) -> str:
    """A few names for a note."""
    names = [plain(name, words) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---------------------------------------------------------------- pixels and geometry


def _read(series: Series, files: Files) -> Scan:
    array, slices, damaged = _stack_pixels(series, files)
    notes = [*series.notes, *_kind_notes(series), *_position_note(series)]
    if damaged:
        names = _listed(map(_called, damaged), series.words)
        notes.append(f"{_count(damaged, 'slice')} without readable pixels left out: {names}")
    notes += _scale_notes(series, slices)
    affine, shifts, found = _geometry(slices, series.words)
    single = len({image.file for image in slices}) == 1
    whole = files.archive or (files.given and single)
    name = files.path.stem if whole else files.root.resolve().name
    normal = LPS_TO_RAS[:3, :3] @ slices[0].normal
    return Scan(array, affine, shifts, normal, tuple(slices), name, notes + found)


def _kind_notes(series: Series) -> list[str]:
    """What makes the series no head CT."""
    return [w if w.startswith("the") else f"the series is {w}" for w in _true(series.unlike)]


def _scale_notes(series: Series, slices: list[Slice]) -> list[str]:
    """A warning when it is not certain that the values are HU."""
    if all(image.scale for image in slices) or series.header.get("Modality") != "CT":
        return []
    return ["the header has no rescale slope and intercept: values taken as HU"]


def _position_note(series: Series) -> list[str]:
    """A warning when PatientPosition is not that of the images' rows and columns."""
    said, turn = series.header.get("PatientPosition"), np.reshape(series.slices[0].turn, (2, 3))
    if said not in POSITIONS or not series.slices[0].axial:
        return []
    main = np.abs(turn).argmax(axis=1)
    towards = "".join(("LPS" if turn[n, a] > 0 else "RAI")[a] for n, a in enumerate(main))
    seen = next((p for p, codes in POSITIONS.items() if codes[:2] == towards), None)
    if seen in (said, None):
        return []
    return [f"PatientPosition is {said} but the images lie as {seen}: the images are followed"]


def _stack_pixels(series: Series, files: Files) -> tuple[np.ndarray, list[Slice], list[Slice]]:
    """(I, J, K) HU, its slices, and those without readable pixels (at most half of them)."""
    slices = series.slices
    rows, columns = slices[0].size
    if 2 * len(slices) * rows * columns > MOST_BYTES:
        raise InputError(f"{files.path}: series {series} is larger than memory; give a part of it")
    scales = [image.scale or (1.0, 0.0) for image in slices]
    whole = all(value.is_integer() for scale in scales for value in scale)
    stored_as, kind, number = (np.int16, np.int32, int) if whole else (np.float32,) * 3
    stack = np.empty((len(slices), rows, columns), stored_as)
    frames = {}
    for n, image in enumerate(slices):
        frames.setdefault(image.file, []).append(n)
    bad, errors = set(), {}

    def fill(name: str) -> None:
        left = list(frames[name])
        try:
            wanted = [slices[n].frame for n in left]
            for stored, padded in _pixels(files, name, wanted):
                slope, intercept = map(number, scales[left[0]])
                hu = stored.astype(kind) * slope + intercept
                hu[padded & (hu < DARK)] = min(PADDING)
                stack[left[0]] = np.clip(hu, -32768, 32767)[::-1]
                left.pop(0)
            if left:
                raise ValueError("it holds fewer frames than its header says")
        except Exception as error:
            errors[name] = error
        bad.update(left)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, frames))
    if 2 * len(bad) >= len(slices):
        name = min(errors)
        reason = " ".join(str(errors[name]).split())
        raise InputError(
            f"{files.path}: {plain(name, series.words)} has no readable pixels "
            f"({plain(reason, series.words)}); export it again"
        )
    good = [n for n in range(len(slices)) if n not in bad]
    stack = stack[good] if bad else stack
    return stack.T, [slices[n] for n in good], [slices[n] for n in sorted(bad)]


def _pixels(files: Files, name: str, frames: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stored values (rows, columns) of a file's frames, decompressed, and where there is none."""
    with files.open(name) as file:
        data = _parse(file)
    if data.get("NumberOfFrames", 1) in (None, 1):
        stored = data.pixel_array
        yield stored, _padding(data, stored)
        return
    for stored in iter_pixels(data, indices=frames):
        yield stored, _padding(data, stored)


def _padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Where the header says that there is no image (PS3.3 C.7.5.1.1.2)."""
    value = header.get("PixelPaddingValue")
    if value is None or isinstance(value, MultiValue):
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit", value)
    # Some writers give a signed value in the unsigned type
    low, high = sorted(np.array([value, limit], np.int64).astype(stored.dtype).tolist())
    return (stored >= low) & (stored <= high)


def _geometry(slices: list[Slice], words: re.Pattern):
    """Affine (mean slice step) of the stored array, shifts of slices off it, and notes."""
    first, count = slices[0], len(slices)
    along, across = first.spacing
    row, column = np.reshape(first.turn, (2, 3))
    places = np.array([image.place for image in slices])
    normal = first.normal
    step = (places[-1] - places[0]) / (count - 1) if count > 1 else normal * first.thickness
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * across, -column * along, step], axis=1)
    affine[:3, 3] = places[0] + column * along * (first.size[0] - 1)
    shifts = places - places[0] - np.arange(count)[:, None] * step
    notes = []
    with np.errstate(all="ignore"):
        tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > 0.1:
        notes.append(f"gantry tilt of {tilt:.1f} degrees")
    if np.abs(shifts).max() < 0.02:
        return LPS_TO_RAS @ affine, None, notes
    gaps = np.diff(places @ normal)
    notes += _missing_note(gaps, slices, words)
    notes.append(
        f"slice gaps are uneven ({gaps.min():.1f} to {gaps.max():.1f} mm); "
        f"files written have the mean, {gaps.mean():.2f} mm"
    )
    return LPS_TO_RAS @ affine, shifts @ LPS_TO_RAS[:3, :3], notes


def _missing_note(gaps: np.ndarray, slices: list[Slice], words: re.Pattern) -> list[str]:
    """Gaps that are a multiple of the usual one, unless they are many: then it was so planned."""
    usual = np.median(gaps)
    times = np.rint(gaps / usual)
    lacking = np.flatnonzero((times > 1) & (np.abs(gaps / usual - times) < 0.1))
    if not 0 < len(lacking) <= max(1, len(gaps) / 4):
        return []
    where = [f"between {_called(slices[n])} and {_called(slices[n + 1])}" for n in lacking]
    total = range(int(times[lacking].sum()) - len(lacking))
    return [
        f"{_count(total, 'slice')} missing (a gap of {gaps[lacking].max():.1f} mm, "
        f"usual {usual:.1f}): {_listed(where, words)}"
    ]


# ---------------------------------------------------------------- writing


def write_seg(masks: np.ndarray, slices: tuple[Slice, ...], source: Path, path, version: str):
    """Write masks (slices, rows, columns) bool of `slices` as a DICOM SEG of one segment, brain.

    Every slice gets its frame, empty ones too, so that a reader finds the source's whole stack.
    Codes: SNOMED CT 12738006 (brain) of 123037004 (anatomical structure), as in DICOM PS3.16.
    Raises InputError when the source cannot be read again or lacks what a SEG must repeat.
    """
    import highdicom as hd  # half a second, for this alone
    from pydicom.sr.codedict import codes

    names = list(dict.fromkeys(image.file for image in slices))
    with Files(source) as files:
        headers = [_full_header(files, name) for name in names]
    if "PerFrameFunctionalGroupsSequence" in headers[0]:
        if len(names) > 1:
            raise InputError(f"{source} is in {len(names)} multi-frame files; take --format nii")
        frames = np.zeros((int(headers[0].NumberOfFrames), *masks.shape[1:]), bool)
        frames[[image.frame for image in slices]] = masks
    else:
        frames = masks
    algorithm = hd.AlgorithmIdentificationSequence(
        "Brain mask", codes.DCM.ArtificialIntelligence, version
    )
    segment = hd.seg.SegmentDescription(
        1, "Brain", codes.SCT.AnatomicalStructure, codes.SCT.Brain, "AUTOMATIC", algorithm
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom would print the patient's name
            result = hd.seg.Segmentation(
                headers, frames, "BINARY", [segment], hd.UID(), 300, hd.UID(), 1,
                manufacturer="Brain mask", manufacturer_model_name="volume.py",
                software_versions=version, device_serial_number="0", omit_empty_frames=False,
                content_label="BRAIN", content_description="Brain mask, made automatically",
            )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = plain(error, _patient_words(headers))
        raise InputError(
            f"{source} lacks what a DICOM SEG must repeat ({reason}); take --format nii"
        ) from error
    with replacing(path) as temporary:
        result.save_as(temporary)


def _full_header(files: Files, name: str) -> pydicom.Dataset:
    try:
        with files.open(name) as file:
            header = _parse(file, stop_before_pixels=True)
        for tag in EMPTY:
            header.setdefault(tag, "")
        return header
    except Exception as error:
        raise InputError(f"{files.path} has changed since it was read; run again") from error
