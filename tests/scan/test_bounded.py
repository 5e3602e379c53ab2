"""Files that would burst: refused in a second, in folders, archives and alone."""

import gzip
import io
import struct
import time
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from make import header_of, set_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.errors import InputError
from scan.read import read_volume

LARGE = 1 << 31  # bytes
PIXELS = b"\xe0\x7f\x10\0"  # the tag


def dicom(hu=None, **tags) -> bytes:
    """The bytes of a small image."""
    data = header_of()
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    set_pixels(data, np.zeros((8, 8)) if hu is None else hu)
    for name, value in tags.items():
        setattr(data, name, value)
    content = io.BytesIO()
    data.save_as(content, enforce_file_format=True)
    return content.getvalue()


def packed_as_a_whole() -> bytes:
    whole = dicom()
    head, _, _ = whole.partition(b"1.2.840.10008.1.2.1\0")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(LARGE >> 24)) + packer.flush()
    return head + DeflatedExplicitVRLittleEndian.encode() + bomb


def long_sequence() -> bytes:
    """A header whose functional groups go on for 2 GB."""
    start = dicom().partition(PIXELS)[0]
    return start + b"\0\x52\x30\x92SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"


EMPTY = b"\x08\0\x08\0CS\0\0"  # an element without a value
STARTS = {  # followed by zeros up to 2 GB
    "zeros": b"",
    "preamble": bytes(128) + b"DICM",
    "image": dicom().partition(PIXELS)[0],
    "pixels": dicom().partition(PIXELS)[0] + PIXELS + b"OW\0\0\0\0\0\x70",
    "sequence": long_sequence(),
    "private": dicom().partition(PIXELS)[0] + b"\xe1\x6f\x10\x10OB\0\0\0\0\0\x70",
}


@pytest.fixture
def quick():
    """What comes after its call must take seconds at most, of this process alone."""
    starts = [time.process_time()]
    yield lambda: starts.append(time.process_time())
    assert time.process_time() - starts[-1] < 5


def refuse(path):
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("ending", [".dcm", ""])
def test_two_gigabytes_of_zeros_are_no_image(tmp_path, quick, start, ending):
    path = tmp_path / f"IM{ending}"
    with path.open("wb") as file:
        file.write(STARTS[start])
        file.truncate(LARGE)  # takes no place on the disk
    refuse(path)
    refuse(tmp_path)


def test_nor_are_they_in_a_zip(tmp_path, quick):
    path = tmp_path / "study.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("im.dcm", "w", force_zip64=True) as member,
    ):
        for _ in range(LARGE >> 24):
            member.write(bytes(1 << 24))
    quick()
    assert "times its size, as no scan does" in refuse(path)


@pytest.mark.parametrize("start", STARTS)
def test_nor_packed_one_by_one(tmp_path, quick, start):
    path = tmp_path / "im.dcm.gz"
    path.write_bytes(gzip.compress(STARTS[start]) + (LARGE >> 24) * gzip.compress(bytes(1 << 24)))
    quick()
    refuse(path)


def test_a_file_that_is_packed_as_a_whole_does_not_burst(tmp_path, quick):
    path = tmp_path / "im.dcm"
    path.write_bytes(packed_as_a_whole())
    quick()
    refuse(path)


def test_a_small_zip_of_one_blank_image_is_read(tmp_path):
    """It, too, unpacks to hundreds of times its size, and does no harm."""
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("im", dicom(np.zeros((512, 512))))
    assert read_volume(path).hu.shape == (512, 512, 1)


def test_zips_in_a_zip_are_named_as_what_they_are(tmp_path):
    path, inner = tmp_path / "study.zip", io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("im.dcm", dicom())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("series/a.zip", inner.getvalue())
    assert "holds no scan but other zip files; unpack it" in refuse(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("read me.txt", "two studies")
    said = "holds no DICOM image; unpack what is packed in it, such as series/a.zip"
    assert said in refuse(path)


def test_a_zip_whose_names_are_no_text_is_named_as_one(tmp_path):
    path, content = tmp_path / "study.zip", io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("ä" * 9, dicom())
    path.write_bytes(content.getvalue().replace("ä".encode(), b"\xe4\xff"))
    assert "names that are not UTF-8; unpack it" in refuse(path)


ITEM = b"\xfe\xff\0\xe0"
FRAMES = b"\0\x52\x30\x92SQ\0\0"  # PerFrameFunctionalGroupsSequence
GROWS = (struct.pack("<HH2sH", 0x29 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(200_000))
ENDLESS = {  # what stands in place of the pixels: never a zero where an element should begin
    "one element again and again": lambda: EMPTY * 9_000_000,
    "elements in order": lambda: b"".join(GROWS),
    "items": lambda: FRAMES + b"\xff" * 4 + (ITEM + bytes(4)) * 200_000,
    "items of a known length": lambda: (
        FRAMES + struct.pack("<I", 1_600_000) + (ITEM + bytes(4)) * 200_000
    ),
    "a long item": lambda: (
        FRAMES
        + struct.pack("<I", 9 << 20)
        + ITEM
        + struct.pack("<I", (9 << 20) - 8)
        + EMPTY * ((9 << 17) - 1)
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_header_without_end_is_no_image(tmp_path, quick, kind):
    path = tmp_path / "im.dcm"
    path.write_bytes(STARTS["image"] + ENDLESS[kind]())
    quick()
    refuse(path)


def test_zeros_within_a_header_are_values(tmp_path):
    """Eight bytes each, one after the other."""
    header = header_of()
    header.ContrastBolusAgentSequence = [pydicom.Dataset() for _ in range(30)]
    for item in header.ContrastBolusAgentSequence:
        item.RealWorldValueSlope = item.RealWorldValueIntercept = 0.0
    path = tmp_path / "im.dcm"
    path.write_bytes(dicom(ContrastBolusAgentSequence=header.ContrastBolusAgentSequence))
    assert read_volume(path).hu.shape == (8, 8, 1)
