"""DICOM files: those under a path or in a .zip, their headers, and the slices that they hold.

    with Files(Path("study.zip")) as files:
        image = read_image(files, files.names()[0])       # None where it is no DICOM image

pydicom parses: it names what is wrong in a file and reads one frame at a time; GDCM and OpenJPEG
decompress for it. dcm2niix would be a second program, and SimpleITK stacks a tilted or uneven
series as if it were neither. pydicom takes 0.3 s to load, so it is loaded with the first DICOM
file.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from common.errors import InputError
from scan.bounded import (
    MOST_FILE,
    MOST_HEADER,
    MOST_VOXELS,
    Bounded,
    is_endless,
    open_zip,
    stop_at_pixels,
)
from scan.dicom_start import ENDINGS, START, begins_as_dicom

if TYPE_CHECKING:
    import pydicom

logging.getLogger("pydicom").setLevel(logging.ERROR)  # it reports every oddity of every file
warnings.filterwarnings("ignore", module="pydicom")
# The attributes that name a patient, and all that is read of a header
NAMING = ["PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames"]
READ = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber SeriesDescription Modality ImageType
    BodyPartExamined PatientPosition ContrastBolusAgent ContrastBolusAgentSequence
    AcquisitionNumber InstanceNumber ImagePositionPatient ImageOrientationPatient PixelSpacing
    SliceThickness SliceLocation SamplesPerPixel Rows Columns NumberOfFrames RescaleSlope
    RescaleIntercept RescaleType SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
STUDY = [0x0020000D]  # the tag of StudyInstanceUID
# How a file begins, after its preamble if it has one: group 2 or 8, in either byte order
FIRST_GROUPS = (b"\2\0", b"\x08\0", b"\0\2", b"\0\x08")
# What may tell the scans of one series apart, weightiest first, and the functional group of each in
# a multi-frame file. What a scanner sets comes before what only counts
MARKS = {
    "StudyInstanceUID": "",
    "SeriesNumber": "",
    "SeriesDescription": "",
    "ContrastBolusAgent": "",
    "TemporalPositionIdentifier": "",
    "TemporalPositionIndex": "FrameContentSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImageType": "",
    "FrameType": "CTImageFrameTypeSequence",
    "KVP": "CTXRayDetailsSequence",
    "AcquisitionNumber": "",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "AcquisitionTime": "",
    "FrameAcquisitionDateTime": "FrameContentSequence",
    "ContentTime": "",
    "InstanceNumber": "",
    "file": "",  # of a frame its file, of any other image its folder
}
# Numbers that some writers give with a decimal comma
DECIMALS = """
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SliceLocation
    RescaleSlope RescaleIntercept
"""


class Files:
    """The files of a folder's tree, beside one file, or in a .zip, by name.

    A DICOMDIR stands for its folder. A file .gz is read unpacked.

    A zip's members are read inside it and never unpacked, so that none of their names reaches the
    disk. Each is read no farther than the size it declares.
    """

    def __init__(self, path: Path):
        self.path, self.archive = path, None
        self.root = path if path.is_dir() else path.parent
        if path.is_file() and path.suffix.lower() == ".zip":
            self.archive = open_zip(path)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error) -> None:
        if self.archive:
            self.archive.close()

    @property
    def given(self) -> str | None:
        """The name of the one file that was given, else None."""
        single = self.path.is_file() and not self.archive and self.path.name.upper() != "DICOMDIR"
        return self.path.name if single else None

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
        if self.archive:
            file = self.archive.open(name)
            return gzip.open(file) if name.lower().endswith(".gz") else file
        opened = gzip.open if name.lower().endswith(".gz") else open
        return opened(self.root / name, "rb")


# ---------------------------------------------------------------- headers and slices


class Slice(NamedTuple):
    """One image: a file, or a frame of one. Geometry is None where the header gives none."""

    file: str  # its name within the Files it came from
    frame: int  # from 0
    taken: tuple[int, int]  # AcquisitionNumber, InstanceNumber
    size: tuple[int, int]  # rows, columns
    origin: tuple[float, ...] | None  # ImagePositionPatient, mm, LPS: of the first pixel's centre
    cosines: tuple[float, ...] | None  # ImageOrientationPatient: along a row, down a column
    spacing: tuple[float, ...] | None  # mm between rows, between columns
    thickness: float  # mm
    scale: tuple[float, float] | None  # rescale slope, intercept
    location: float | None = None  # SliceLocation, mm
    marks: tuple[str, ...] = ()  # the values of MARKS, "" for none
    uid: str = ""  # SOPInstanceUID, with the frame's number
    unit: str = ""  # RescaleType, in capitals

    @property
    def missing(self) -> str:
        """The attributes that it lacks to have a place in space; empty if it has one."""
        names = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
        values = (self.cosines, self.origin, self.spacing)
        return ", ".join(name for name, value in zip(names, values, strict=True) if not value)

    @property
    def normal(self) -> np.ndarray:
        """(3,) LPS, right-handed with rows and columns."""
        return np.cross(self.cosines[:3], self.cosines[3:])

    @property
    def axial(self) -> bool:
        """Whether it lies across the body: its normal is within 45 degrees of the body's axis."""
        return bool(abs(self.normal[2]) > 0.7)

    @property
    def title(self) -> str:
        """How a note names it."""
        return f"{self.file} frame {self.frame + 1}" if self.frame else self.file


class Image(NamedTuple):
    """A file's header without its pixels, and its slices; whether its numbers had commas."""

    header: pydicom.Dataset
    slices: list[Slice]
    commas: bool = False


def parse_dicom(
    file: BinaryIO, most: int = MOST_FILE, tags: list[int] | None = None, with_pixels: bool = True
) -> pydicom.FileDataset:
    """A file as pydicom reads it, or, as old archives give them, without preamble and file meta.

    `tags` are those that are wanted (None: all). Raises ValueError where it would read more than
    `most` bytes, or the header before the pixels does not end.
    """
    import pydicom

    stop = None if with_pixels else stop_at_pixels()
    bounded = Bounded(file, most)
    data = pydicom.filereader.read_partial(bounded, stop, force=True, specific_tags=tags)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    return data


def choose_decoder(data: pydicom.Dataset) -> str:
    """The plug-in of pydicom that decompresses an image; "" for its own choice.

    JPEG 2000 is for OpenJPEG: a broken one may end the whole process in GDCM.
    """
    from pydicom.pixels import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    compressed = syntax.is_compressed and syntax.is_encapsulated
    there = get_decoder(syntax).available_plugins if compressed else ()
    return "pylibjpeg" if "pylibjpeg" in there else ""


def read_image(files: Files, name: str) -> Image | bool | None:
    """An image without its pixels; False for a damaged one, None for any other file."""
    try:
        with files.open(name) as file:
            start, named = file.read(START), name.lower().endswith(ENDINGS)
            if not (begins_as_dicom(start) or named):
                return None
            if start[132 if start[128:132] == b"DICM" else 0 :][:2] not in FIRST_GROUPS:
                return False
            file.seek(0)
            tags = list(find_tags(*NAMING, *READ.split(), *MARKS).values())
            header = parse_dicom(file, MOST_HEADER, tags, with_pixels=False)
            raw = list_raw(header)
            if claims_too_much(file, header) or is_endless(raw.values()):
                return False
        commas, marks = mend_commas(header, raw), read_marks(raw, name)
        # pydicom converts a value when it is asked for: find the senseless ones now
        for tag in raw.keys() & find_tags(*NAMING, *READ.split()).values():
            header[tag]
        if "SOPClassUID" in header and "Rows" in header and "Columns" in header:
            return Image(header, list(find_slices(name, header, marks)), commas)
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        return None if kind and "CT Image" not in kind.name else False
    except Exception:  # pydicom may raise anything for a damaged file
        return False


def claims_too_much(file: BinaryIO, header: pydicom.FileDataset) -> bool:
    """Whether an image is larger than a head's, or its pixels, where `file` stands, than it."""
    sizes = [header.get(tag) for tag in ("Rows", "Columns")]
    count = to_whole(header, "NumberOfFrames") or 1
    voxels = count * math.prod(size or 0 for size in sizes)
    element, order = file.read(12), "little" if header.original_encoding[1] else "big"
    length = int.from_bytes(element[8:] if element[4:6].isalpha() else element[4:8], order)
    packed = length == 0xFFFFFFFF  # in fragments of unknown size
    return voxels > MOST_VOXELS or (voxels and not packed and length > MOST_HEADER + 8 * voxels)


def list_raw(header: pydicom.Dataset) -> dict[int, bytes]:
    """{tag: bytes} of the elements of a header that was just read; empty for sequences."""
    values = {int(tag): element.value for tag, element in header.items()}
    return {tag: v if isinstance(v, bytes) else b"" for tag, v in values.items()}


def mend_commas(header: pydicom.Dataset, raw: dict[int, bytes]) -> bool:
    """Turn the decimal commas of a header that was just read into points; whether it had any."""
    decimals = find_tags(*DECIMALS.split()).values()
    with_comma = [tag for tag in decimals if b"," in raw.get(tag, b"")]
    for tag in with_comma:
        header[tag] = header.get_item(tag)._replace(value=raw[tag].replace(b",", b"."))
    return bool(with_comma)


def read_marks(raw: dict[int, bytes], name: str) -> dict[str, str]:
    """The MARKS of a header, as text (of numbers to a tenth); "" for none."""
    tags = find_tags(*MARKS)
    marks = {mark: raw.get(tag, b"").decode("latin1").strip("\0 ") for mark, tag in tags.items()}
    for mark in ("SliceThickness", "KVP"):
        numbers = to_numbers([marks[mark]], 1)
        marks[mark] = f"{numbers[0]:.1f}" if numbers else marks[mark]
    in_frames = find_tags("NumberOfFrames")["NumberOfFrames"] in raw
    return marks | {"file": name if in_frames else name.rpartition("/")[0]}


@cache
def find_tags(*keywords: str) -> dict[str, int]:
    """The tags of some attributes by keyword; what is no attribute is left out."""
    from pydicom.datadict import tag_for_keyword

    tags = {word: tag_for_keyword(word) for word in keywords}
    return {word: tag for word, tag in tags.items() if tag}


def read_study_uid(folder: Path) -> str:
    """StudyInstanceUID of the first DICOM image in a folder's tree; "" when there is none."""
    files = Files(folder)
    for name in files.names():
        try:
            with files.open(name) as file:
                if not begins_as_dicom(file.read(START)):
                    continue
                file.seek(0)
                header = parse_dicom(file, MOST_HEADER, STUDY, with_pixels=False)
            if uid := header.get("StudyInstanceUID"):
                return str(uid)
        except Exception:  # pydicom may raise anything for a damaged file
            continue
    return ""


def find_slices(name: str, header: pydicom.Dataset, marks: dict[str, str]) -> Iterator[Slice]:
    """The slices of one file: its frames if it is an enhanced one (PS3.3 C.7.6.16), else itself.

    `marks` are those of the file; a frame may have its own.
    """
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
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
        scale = to_numbers([slope or 1, intercept or 0], 2)
        thickness = to_numbers([get("PixelMeasuresSequence", "SliceThickness") or 1], 1)
        yield Slice(
            file=name,
            frame=n,
            taken=(to_whole(header, "AcquisitionNumber"), to_whole(header, "InstanceNumber")),
            size=(int(header.Rows or 0), int(header.Columns or 0)),
            origin=to_numbers(get("PlanePositionSequence", "ImagePositionPatient"), 3),
            cosines=to_numbers(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            spacing=to_numbers(get("PixelMeasuresSequence", "PixelSpacing"), 2),
            thickness=abs(thickness[0]) if thickness else 1.0,
            scale=None if slope is None and intercept is None else scale,
            location=(to_numbers([header.get("SliceLocation")], 1) or [None])[0],
            marks=tuple(
                str(frame and group and get(group, mark) or marks[mark])
                for mark, group in MARKS.items()
            ),
            uid=f"{header.get('SOPInstanceUID') or ''} {n}",
            unit=str(get("PixelValueTransformationSequence", "RescaleType") or "").strip().upper(),
        )


def to_whole(header: pydicom.Dataset, tag: str) -> int:
    """An attribute as a whole number; 0 where it is none."""
    numbers = to_numbers([header.get(tag)], 1)
    return int(numbers[0]) if numbers else 0


def to_numbers(values, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None for anything else."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


# ---------------------------------------------------------------- texts of notes


def match_patient(headers) -> re.Pattern:
    """A pattern that matches what names the patients, to be cut from texts and file names."""
    texts = {str(header.get(tag) or "") for header in headers for tag in NAMING}
    names = {name for text in texts for name in re.findall(r"[^\W_]{2,}", text)}
    # Short ones (Li, Wu) only as words of their own
    parts = [n if len(n) > 3 else rf"(?<![^\W_]){n}(?![^\W_])" for n in sorted(names)]
    return re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)


def clean_text(text, private: re.Pattern) -> str:
    """A header's or file's text for one line of a note: printable, nothing `private` in it."""
    text = "".join(c if c.isprintable() else " " for c in str(text or ""))
    return private.sub("...", " ".join(text.split()))[:100]


def join_names(names: list, private: re.Pattern) -> str:
    """A few names for a note."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(clean_text(name, private) for name in names[:4]) + more


def count_words(things: list, word: str) -> str:
    """How many things there are, such as "2 files"."""
    return f"{len(things)} {word}{'s' if len(things) > 1 else ''}"


def list_true(flaws: dict[str, bool]) -> list[str]:
    """The flaws that are present."""
    return [flaw for flaw, present in flaws.items() if present]
