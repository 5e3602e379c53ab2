"""Whether a file's first bytes are those of DICOM, also of one without preamble.

begins_as_dicom(start)               # `start`: the first START bytes, or the whole of a short file
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

ENDINGS = (".dcm", ".ima", ".dcm.gz", ".ima.gz")  # of DICOM files; many have none
START = 1024  # bytes: the SOP class stands within these. A round number
# (group, element) that name a SOP class: of the file meta information, of the image
CLASSES = ((0x0002, 0x0002), (0x0008, 0x0016))
UID = b"1.2.840.10008."  # how all SOP classes of the standard begin (PS3.6 A)
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # VRs with a length of 4 bytes (PS3.5 7.1.2)


def begins_as_dicom(start: bytes) -> bool:
    """Whether bytes begin with preamble and DICM, or, as old files do, with the elements alone.

    Elements must follow each other in order up to one that names a SOP class, so that no text,
    picture or NIfTI file passes. Big endian without preamble is not known.
    """
    if start[128:132] == b"DICM":
        return True
    at, last = 0, (0, 0)
    while at + 8 <= len(start):
        group, element, vr, short = struct.unpack_from("<HH2sH", start, at)
        if group not in (0x0002, 0x0008) or (group, element) <= last and last != (0, 0):
            return False
        last = group, element
        if not vr.isalpha():  # implicit: all four bytes are the length
            length, at = struct.unpack_from("<I", start, at + 4)[0], at + 8
        elif vr in LONG:
            length, at = int.from_bytes(start[at + 8 : at + 12], "little"), at + 12
        else:
            length, at = short, at + 8
        if last in CLASSES:
            return start[at : at + length].startswith(UID)
        at += length
    return False


def read_start(path: Path) -> bytes:
    """The first START bytes of a file, of a .gz unpacked; empty where it cannot be read."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as file:
            return file.read(START)
    except (OSError, EOFError, zlib.error):
        return b""
