"""What may be sent to the page: looked into, bounded, and kept under names of our own, or refused.

    parts = request.files.getlist("files")        # written by `Part` as they arrive
    upload = take_upload(parts, folder)           # Upload, or Refused in one clear line
    upload = take_upload(parts, folder, {"x_flair.nii.gz": "flair", "x_t1ce.nii.gz": "t1ce"})

All bounds on an upload's size stand here, but for those of an unpacked DICOM zip
(scan/dicom_files.py). The name that a file came with is only ever shown. A file's first bytes say
what it is. Its header says how large it is once unpacked, and the readers unpack no more than that.
"""

from __future__ import annotations

import glob
import math
import os.path
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from isal import isal_zlib

from common.errors import InputError
from scan.dicom_start import begins_as_dicom
from scan.nib import nib
from scan.picture import MOST_PIXELS, read_size

MOST_NIFTI_VOXELS = 1 << 29  # of a scan: 2048 slices of 512 x 512
# Round numbers, far above what scanners and programs write:
MOST_NIFTI_HEADER = 1 << 24  # bytes before a NIfTI file's voxels: some programs keep texts there
MOST_FILES = 20_000  # of a folder
SPARE = 256 << 20  # bytes that stay free on the disk
START = 4096  # bytes that tell what a file is
MOST_TEXT = 1 << 20  # bytes of a header of text
FORMATS = [".nii", ".nii.gz", ".nrrd", ".mha", ".zip", ".dcm", ".png", ".jpg"]
ENDINGS = {"nifti": ".nii", "gzip": ".nii.gz", "zip": ".zip", "png": ".png", "jpeg": ".jpg"}
ENDINGS |= {"nrrd": ".nrrd", "mha": ".mha"}
SCANS = ("nifti", "gzip", "nrrd", "mha")
MARKS = {  # the first bytes of a file of each kind
    "zip": (b"PK\3\4", b"PK\5\6"),
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff",
    "nrrd": b"NRRD00",
    "mha": (b"ObjectType", b"NDims"),
}
HIDDEN = re.compile(r"(^|[/\\])(\.|__MACOSX)")  # files that systems leave beside the others
NIFTI = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by the header's size in bytes
DISK_FULL = "the server's disk is nearly full; delete some results, or free some space"


class Refused(InputError):
    """An upload that is not taken, with the HTTP status that says so."""

    def __init__(self, reason: str, status: int = 400):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class SizeLimit:
    """How large one upload may be: `mb` (--max-mb) in all, in MOST_FILES files."""

    mb: int

    @property
    def bytes(self) -> int:
        return self.mb << 20

    @property
    def reason(self) -> str:
        """What is said of a larger upload."""
        return (
            f"one upload may have {self.mb} MB and {MOST_FILES} files; send one series alone, "
            "or start the page with a larger --max-mb"
        )


def check_disk(folder: Path, sent: int) -> None:
    """Refuse an upload of `sent` bytes where the disk has no room for it and its result."""
    if shutil.disk_usage(folder).free < 2 * sent + SPARE:
        raise Refused(DISK_FULL, 507)


class Part:
    """One file of an upload, written to `path` as it arrives."""

    def __init__(self, path: Path):
        self.path, self.file = path, path.open("xb")
        self.write = self.file.write

    def seek(self, offset: int) -> None:
        """Close the file. Werkzeug calls this once, when the part is whole: thousands of files must
        not stay open together."""
        self.file.close()

    close = seek


@dataclass(frozen=True)
class Upload:
    """A file or folder to predict, its name for people, and the sent name of each of its files."""

    path: Path
    name: str
    given: dict[str, str] = field(default_factory=dict)


def take_upload(parts: Sequence, folder: Path, channels: dict[str, str] | None = None) -> Upload:
    """Take the one scan or picture among the parts (Flask's FileStorage of `Part`).

    It is renamed by its content; all else in the folder is deleted. DICOM files are one scan
    together, whatever lies beside them. So are SCANS where `channels` gives the modality of
    each cleaned name. Raises Refused when there is none, or more than one.
    """
    names = {part.stream.path: clean_name(part.filename) for part in parts}
    formats = {
        path: find_format(path, name)
        for path, name in names.items()
        if len(names) == 1 or not HIDDEN.search(name)
    }
    scans = [path for path, known in formats.items() if known in SCANS]
    found = scans if channels is not None else []
    found = found or [path for path, known in formats.items() if known == "dicom"]
    found = found or [path for path, known in formats.items() if known]
    for path in set(folder.iterdir()) - set(found):
        path.unlink()
    if not found:
        raise refuse_all(list(names.values()))
    if formats[found[0]] == "dicom":
        return take_dicom({path: names[path] for path in found}, folder)
    if scans and channels is not None:
        return take_case({path: names[path] for path in scans}, channels, folder)
    if len(found) > 1:
        listed = ", ".join(names[path] for path in found[:4])
        raise Refused(f"{len(found)} files came at once ({listed}); send one scan at a time")
    path, name = found[0], names[found[0]]
    check_size(path, formats[path], name)
    return Upload(path.rename(folder / f"scan{ENDINGS[formats[path]]}"), last_part(name))


def take_dicom(names: dict[Path, str], folder: Path) -> Upload:
    """Take the one DICOM file, or a folder of several."""
    given = {path.rename(path.with_suffix(".dcm")).name: name for path, name in names.items()}
    first = next(iter(names.values()))
    if len(given) == 1:
        return Upload(folder / next(iter(given)), last_part(first), given)
    name = first.split("/")[0] if "/" in first else f"{len(given)} DICOM files"
    return Upload(folder, name, given)


def take_case(names: dict[Path, str], channels: dict[str, str], folder: Path) -> Upload:
    """Take the scans that are a modality, into a folder where `make_patterns` finds them."""
    case, given = folder / "case", {}
    case.mkdir(mode=0o700)
    for path, name in names.items():
        if channel := channels.get(name):
            known = find_format(path, name)
            check_size(path, known, name)
            new_name = f"{channel}.{path.name}{ENDINGS[known]}"
            given[new_name] = last_part(name)
            path.rename(case / new_name)
        else:
            path.unlink()
    common = os.path.commonprefix(list(names.values()))
    return Upload(case, last_part(common.rstrip("/_-. ")) or "case", given)


def make_patterns(channels: Sequence[str]) -> tuple[str, ...]:
    """MODALITY=GLOB, as a card's `names`, for the files that `take_case` leaves."""
    return tuple(f"{channel}={glob.escape(channel)}.*" for channel in channels)


def refuse_all(names: Sequence[str]) -> Refused:
    """The Refused that says why none of the files can be taken."""
    if not names:
        return Refused("no file came; choose a scan")
    what = f"{names[0]} is no" if len(names) == 1 else f"none of the {len(names)} files is a"
    formats = "NIfTI, NRRD, MHA, DICOM, zip, PNG or JPEG file by its content"
    return Refused(f"{what} {formats}; send a head CT in one of these", 415)


def clean_name(name: str | None) -> str:
    """A file's name, perhaps with folders, as it may be shown: printable, of bounded length."""
    name = "".join(c if c.isprintable() else " " for c in (name or "")[:4096])
    return " ".join(name.replace("\\", "/").split())[-200:].strip("/") or "unnamed"


def last_part(name: str) -> str:
    """A cleaned name without its folders."""
    return name.rsplit("/", 1)[-1]


# ---------------------------------------------------------------- what a file is


def find_format(path: Path, name: str) -> str | None:
    """dicom, gzip (a NIfTI inside) or a key of ENDINGS, by content; None for anything else.

    Old DICOM files begin without a mark: their ending is believed if a tag comes first.
    """
    start = peek(path)
    if begins_as_dicom(start):
        return "dicom"
    for known, mark in MARKS.items():
        if start.startswith(mark):
            return known
    if start.startswith(b"\x1f\x8b"):
        return "gzip" if parse_header(unpack(start)) else None
    if parse_header(start):
        return "nifti"
    tagged = start[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
    return "dicom" if tagged and name.lower().endswith((".dcm", ".ima")) else None


def peek(path: Path, count: int = START) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def unpack(start: bytes) -> bytes:
    """Unpack the first bytes of a file, gzipped once or twice; nothing where they are not gzip."""
    for times in range(2):
        try:
            start = isal_zlib.decompressobj(wbits=31).decompress(start, START)
        except isal_zlib.error:
            return start if times else b""
    return start


def parse_header(start: bytes) -> nib.Nifti1Header | None:
    """The NIfTI header at the start of a file, if there is one."""
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size in NIFTI and len(start) >= size:
            with suppress(nib.spatialimages.HeaderDataError):
                return NIFTI[size](start[:size], check=False)
    return None


# ---------------------------------------------------------------- how large it would become


def check_size(path: Path, known: str, name: str) -> None:
    """Refuse a file that its own header says is too large to be unpacked."""
    checks = {"nifti": check_nifti, "gzip": check_nifti, "png": check_pixels, "jpeg": check_pixels}
    checks |= {"nrrd": check_nrrd, "mha": check_mha}
    if known in checks:
        checks[known](path, name)


def check_nifti(path: Path, name: str) -> None:
    start = peek(path)
    found = parse_header(start) or parse_header(unpack(start))
    sizes = [int(n) for n in found["dim"][1 : 1 + max(0, int(found["dim"][0]))]]
    if not 0 <= float(found["vox_offset"]) <= MOST_NIFTI_HEADER or any(n < 0 for n in sizes):
        raise Refused(f"{name} has a header that makes no sense; export it again")
    check_voxels(sizes, name)


def check_nrrd(path: Path, name: str) -> None:
    """Refuse an NRRD that names another file, or more voxels than can be read."""
    header, *voxels = re.split(rb"\r?\n\r?\n", peek(path, MOST_TEXT), maxsplit=1)
    if not voxels or b"datafile" in re.sub(rb"\s", b"", header).lower():
        raise Refused(f"{name} has its voxels in another file; send one .nrrd with both")
    check_voxels(find_sizes(rb"^\s*sizes\s*:", header), name)


def check_mha(path: Path, name: str) -> None:
    """Refuse a MetaImage that names another file, or more voxels than can be read."""
    parts = re.split(b"(elementdatafile)", peek(path, MOST_TEXT), maxsplit=1, flags=re.I)
    header, *rest = parts
    is_line = re.search(rb"(\A|\n)\s*\Z", header)  # and not within a comment
    if not (is_line and rest and re.match(rb"\s*[=:]\s*LOCAL\s*\n", rest[1])):
        raise Refused(f"{name} has its voxels in another file; send one .mha with both")
    check_voxels(find_sizes(rb"^\s*DimSize\s*[=:]", header), name)


def find_sizes(key: bytes, header: bytes) -> list[int]:
    """The numbers after a key, at the start of a line in a header of text; [] without it."""
    found = re.search(key + rb"([ \t\d]+)", header, re.M | re.I)
    return list(map(int, found[1].split())) if found else []


def check_voxels(sizes: list[int], name: str) -> None:
    if math.prod(sizes) > MOST_NIFTI_VOXELS:
        says = f"{name} says that it holds {' x '.join(map(str, sizes))} voxels"
        raise Refused(f"{says}, more than can be read; send the head alone", 413)


def check_pixels(path: Path, name: str) -> None:
    with path.open("rb") as file:
        size = read_size(file)
    if 0 in size:
        raise Refused(f"{name} is truncated or damaged; copy or export it again")
    if math.prod(size) > MOST_PIXELS:
        says = f"{name} says that it has {size[0]} x {size[1]} pixels"
        raise Refused(f"{says}, more than can be read; send one slice", 413)
