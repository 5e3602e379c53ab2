"""Files that would burst: archives, and files that claim more than a head can be.

archive = open_zip(Path("study.zip"))             # InputError where it would
dcmread(Bounded(file, MOST_HEADER))               # ValueError as soon as it does
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from common.errors import InputError

MOST_BYTES = 8 << 30  # of a zip unpacked, and of a series in memory; a round number
# Round numbers. A zip that unpacks to more than BURSTS times its size holds no scan, whose noise
# packs to a third at best; SMALL: bytes that do no harm; MOST_HEADER: bytes of a DICOM file before
# its pixels, of thousands of frames, too; MOST_READS: of its elements
BURSTS, SMALL = 100, 256 << 20
MOST_HEADER, MOST_READS = 64 << 20, 500_000
# Round numbers, too: elements of a header outside its sequences, of which some 200 are usual; items
# of all sequences, of which a frame has some ten; bytes of one value that is read
MOST_ELEMENTS, MOST_ITEMS, MOST_VALUE = 5000, 100_000, 8 << 20
ITEM = b"\xfe\xff\x00\xe0"  # the tag of an item; big endian has no sequences of thousands
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # tags: in doubles, in floats, in whole numbers
ZEROS, MOST_ZEROS = bytes(8), 8  # reads on end: an element may hold zero, but no tag is zero
MOST_VOXELS, MOST_FILE = 1 << 30, 4 << 30  # of one DICOM file, whose lengths have 32 bits
MOST_DEFLATED = 2 << 20  # bytes of a DICOM file that is packed as a whole, for one slice is smaller
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a .zip; raise InputError for one that cannot be read, or would burst."""
    try:
        archive = zipfile.ZipFile(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds names that are not UTF-8; unpack it first") from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is no readable zip file; copy or export it again") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    # Only deflate lets itself be read piece by piece; other methods may burst in memory
    usual = all(m.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members)
    size, packed = (sum(getattr(m, n) for m in members) for n in ("file_size", "compress_size"))
    burst = size > max(SMALL, BURSTS * packed)
    nested = all(m.filename.lower().endswith(ARCHIVES[:1]) for m in members) and members
    problems = {
        "is encrypted; unpack it and give the folder": any(m.flag_bits & 1 for m in members),
        "is packed in a rare way; unpack it and give the folder": not usual,
        f"unpacks to more than {MOST_BYTES >> 30} GiB; give the folder of one series": (
            size > MOST_BYTES
        ),
        f"unpacks to {size >> 20} MiB, {size // max(1, packed)} times its size, as no scan does; "
        "export it again": burst,
        "holds no scan but other zip files; unpack it and give one of these": nested,
    }
    for problem in (text for text, present in problems.items() if present):
        archive.close()
        raise InputError(f"{path} {problem}")
    return archive


def is_endless(values: Iterable[bytes]) -> bool:
    """Whether the values of DICOM elements hold more than a head's can.

    Sequences of known length are among them, which pydicom parses outside `Bounded`.
    """
    return any(len(v) > MOST_VALUE or v.count(ITEM) > MOST_ITEMS for v in values)


def stop_at_pixels() -> Callable[..., bool]:
    """A `stop_when` for pydicom's read_partial: True at the pixels; ValueError where a header has
    more than MOST_ELEMENTS before them."""
    count = itertools.count(1)

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if next(count) > MOST_ELEMENTS:
            raise ValueError("its header does not end")
        return tag in PIXELS

    return stop


class Bounded:
    """A file of which no more than `most` bytes, in `reads` pieces, can be read.

    ValueError tells that it was more, or that zeros stand where elements should begin, or that it
    holds more than MOST_ITEMS. Reading to the end, as of a DICOM file that is packed as a whole,
    ends at MOST_DEFLATED.
    """

    def __init__(self, file: BinaryIO, most: int, reads: int = MOST_READS):
        self.file, self.most, self.reads = file, most, reads
        self.tell, self.left, self.zeros, self.items = file.tell, most, 0, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self.most:
            raise ValueError("it claims more than a head can be")
        return self.file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        self.reads -= 1
        self.left -= max(size, 0)
        if self.left < 0 or not self.reads:
            raise ValueError("it claims more than a head can be")
        if size >= 0:
            found = self.file.read(size)
            self.zeros = self.zeros + 1 if found == ZEROS else 0
            self.items += found[:4] == ITEM
            if self.zeros > MOST_ZEROS or self.items > MOST_ITEMS:
                raise ValueError("it goes on in zeros, or in items")
            return found
        found = self.file.read(MOST_DEFLATED + 1)
        if len(found) > MOST_DEFLATED:
            raise ValueError("it claims more than a head can be")
        return found
