"""DICOM files: those under a path or in a .zip, their headers, and the slices that they hold.

    with Files(Path("study.zip")) as files:
        image = read_image(files, files.names()[0])       # None where it is no DICOM image

pydicom parses: it names what is wrong in a file and reads one frame at a time; GDCM decompresses
for it. dcm2niix would be a second program, and SimpleITK stacks a tilted or uneven series as if it
were neither. pydicom takes 0.3 s to load, so it is loaded with the first DICOM file.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    import pydicom

logging.getLogger("pydicom").setLevel(logging.ERROR)  # it reports every oddity of every file
warnings.filterwarnings("ignore", module="pydicom")
MOST_BYTES = 8 << 30  # of a zip unpacked, and of a series in memory; a round number
# The attributes that name a patient, and all that is read of a header
NAMING = ["PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames"]
READ = """
    SOPClassUID SeriesInstanceUID SeriesNumber SeriesDescription Modality ImageType
    BodyPartExamined PatientPosition ContrastBolusAgent ContrastBolusAgentSequence
    AcquisitionNumber InstanceNumber ImagePositionPatient ImageOrientationPatient PixelSpacing
    SliceThickness SamplesPerPixel Rows Columns NumberOfFrames RescaleSlope RescaleIntercept
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""


class Files:
    """The files of a folder's tree, beside one file, or in a .zip, by name.

    A zip's members are read inside it and never unpacked, so that none of their names reaches the
    disk. Each is read no farther than the size it declares, and all together declare no more than
    MOST_BYTES.
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


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a .zip; raise InputError for one that cannot be read, or would burst."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is no readable zip file; copy or export it again") from error
    members = archive.infolist()
    # Only deflate lets itself be read piece by piece; other methods may burst in memory
    usual = all(m.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members)
    large = sum(m.file_size for m in members) > MOST_BYTES
    problems = {
        "is encrypted; unpack it and give the folder": any(m.flag_bits & 1 for m in members),
        "is packed in a rare way; unpack it and give the folder": not usual,
        f"unpacks to more than {MOST_BYTES >> 30} GiB; give the folder of one series": large,
    }
    for problem in list_true(problems):
        archive.close()
        raise InputError(f"{path} {problem}")
    return archive


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
    """A file's header without its pixels, and its slices."""

    header: pydicom.Dataset
    slices: list[Slice]


def parse_dicom(file: BinaryIO, **options) -> pydicom.FileDataset:
    """A file as pydicom reads it, or, as old archives give them, without preamble and file meta."""
    import pydicom

    data = pydicom.dcmread(file, force=True, **options)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    return data


def read_image(files: Files, name: str) -> Image | bool | None:
    """An image without its pixels; False for a damaged one, None for any other file."""
    try:
        with files.open(name) as file:
            magic = file.read(132)[128:] == b"DICM"
            if not magic and not name.lower().endswith((".dcm", ".ima")):
                return None
            file.seek(0)
            header = parse_dicom(
                file, stop_before_pixels=True, specific_tags=[*NAMING, *READ.split()]
            )
        list(header)  # pydicom converts a value when it is asked for: find the senseless ones now
        if "SOPClassUID" in header and "Rows" in header and "Columns" in header:
            return Image(header, list(find_slices(name, header)))
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        return None if kind and "CT Image" not in kind.name else False
    except Exception:  # pydicom may raise anything for a damaged file
        return False


def read_study_uid(folder: Path) -> str:
    """StudyInstanceUID of the first DICOM image in a folder's tree; "" when there is none."""
    import pydicom

    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"])
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if uid := header.get("StudyInstanceUID"):
            return str(uid)
    return ""


def find_slices(name: str, header: pydicom.Dataset) -> Iterator[Slice]:
    """The slices of one file: its frames if it is an enhanced one (PS3.3 C.7.6.16), else itself."""
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
