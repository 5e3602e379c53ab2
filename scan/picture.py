"""Picture files: what can be read of a PNG, JPEG or TIFF, and how one is written.

picture = read_picture("slice.png")                # (H, W), uint8 or float32 HU
channels = read_channels("slice_of_mri.png", 3)    # (H, W, 3), uint8
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from common.errors import InputError, explained
from scan.hu import AIR, HIGHEST_AIR, LOWEST_AIR, STORED, doubt_hu, is_padded, thin_sample

LUMA = np.float32([0.114, 0.587, 0.299])  # of blue, green and red (ITU-R BT.601)
COLOURED = 0.125  # of white: channels of grey, JPEG's too, differ by less; chosen by eye
COLOURED_LETTERS = 0.05  # of all pixels: letters on a grey slice cover less; chosen by eye
TWELVE_BITS = 4095  # the largest value that HU + 1024 have on a scanner
# What is added to HU so that 16 bits without sign hold them: by scanners, and by DeepLesion (Yan et
# al., J Med Imaging 5 (2018)) and others who shift int16 by half its range
OFFSETS = (-AIR, 32768)
NEAR_AIR = (LOWEST_AIR, HIGHEST_AIR)
HEAD_HU = (-1100, 4000)  # HU: all of a head, but for metal and padding, round numbers
FLAT = 32  # of 255 greys: a picture of 16 bits that spans fewer shows next to nothing. By eye
# Of the pixels that are not black, at most LETTERS may lie more than FAR (of white) from a tint's
# colours. Their share was up to 0.05 in slices under a cast or sepia with letters, also in JPEG; it
# was 0.12 and more in slices in the colour maps hot, inferno, jet and viridis, 0.14 in photos
FAR, LETTERS = 0.08, 0.1
TINTED = "the picture is coloured in part or as a whole: its brightness was taken as grey"
PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"  # how such files begin
MOST_PIXELS = 1 << 25  # some 5,800 x 5,800: a film that was scanned; to predict takes 1 GB then
# What libjpeg and libpng say where pixels are lost. Bytes before the end's mark are harmless
DAMAGED = re.compile(
    rb"Corrupt JPEG data(?!: \d+ extraneous bytes before marker 0xd9)|Premature end|libpng error"
)
FROM_LIBRARY = re.compile(rb"JPEG|JFIF|libpng|TIFF|tiff")
ONE_AT_A_TIME = threading.Lock()  # there is one stderr
cv2.utils.logging.setLogLevel(0)  # we say ourselves, once, why a picture cannot be read


def read_picture(path: str | Path) -> np.ndarray:
    """A grey picture (H, W): uint8, or float32 HU where a 16-bit file holds HU + 1024.

    Sixteen bits with nothing above 4095 are taken as HU + 1024 (as `data.py --window hu` writes),
    those that span the HU of a head as HU + 32768 or another constant (see `find_offset`). Other
    16-bit pictures are brought to uint8, 65535 to 255.
    Raises InputError for anything else: missing, empty, truncated, another format, a photo.
    """
    return to_values(to_grey(decode_file(path), Path(path))[0])


def read_noted(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture as `read_picture` gives it, and notes if it was not all grey or is doubtful HU."""
    stored, notes = to_grey(decode_file(path), Path(path))
    values = to_values(stored)
    if stored.dtype != np.uint8:
        notes = (*notes, *note_16_bits(stored, values))
    return values, notes


# ---------------------------------------------------------------- what stored values mean


def to_values(stored: np.ndarray) -> np.ndarray:
    """What stored values mean: uint8 as it is, HU plus a constant as HU, else the upper 8 bits."""
    if stored.dtype == np.uint8:
        return stored
    offset = find_offset(stored)
    if offset is None:
        return np.rint(stored / 257).astype(np.uint8)
    hu = stored - np.float32(offset)
    return hu if offset == -AIR else np.maximum(hu, AIR, out=hu)


def find_offset(stored: np.ndarray) -> int | None:
    """The constant that 16 bits (H, W), uint16, hold on top of HU; None where they are no HU.

    It is known by the head: air 1000 HU below soft tissue, and bone. Values up to 4095 are HU +
    1024 unless these fit only another constant.
    """
    is_12_bits = stored.max() <= TWELVE_BITS
    sample = thin_sample(stored).astype(np.int32)
    if is_12_bits and not sample.min() and is_padded(sample, 2 * STORED):
        return 2 * STORED  # with padding at 0, which is no air
    if is_12_bits and np.mean(stored < NEAR_AIR[1] - AIR) > 0.01:
        return -AIR  # air lies where it should
    steps = np.diff(np.unique(sample))
    if not is_12_bits and len(steps) and steps.min() > 2:
        return None  # 8 or 12 bits stretched to 16
    if is_12_bits and not doubt_hu(sample + AIR):
        return -AIR
    if is_head(sample, OFFSETS[1], in_doubt=True):
        return OFFSETS[1]
    fitting = (offset for offset in (-AIR, *guess_offsets(sample)) if is_head(sample, offset))
    return next(fitting, -AIR if is_12_bits else None)


def guess_offsets(sample: np.ndarray) -> list[int]:
    """What HU could be stored with, (N,), by the commonest values: one of them may be air."""
    values, counts = np.unique(sample // 20, return_counts=True)
    offsets = []
    for level in values[np.argsort(counts, kind="stable")[::-1][:3]]:
        near = sample[np.abs(sample - 20 * level - 10) < 50]
        is_cut = np.mean(near == near.min()) > 0.5  # at the least value of a scanner
        offsets.append(round(float(np.median(near))) + (-AIR if is_cut else 1000))
    return offsets


def is_head(sample: np.ndarray, offset: int, in_doubt: bool = False) -> bool:
    """Whether stored values less an offset are the HU of a head, padding apart.

    With `in_doubt`, air alone will do: no picture of greys lies in so narrow a band.
    """
    hu = sample - offset
    within = (HEAD_HU[0] <= hu) & (hu <= HEAD_HU[1])
    has_air = np.mean((NEAR_AIR[0] <= hu) & (hu <= NEAR_AIR[1])) > 0.01
    if not has_air or np.mean(within | (sample == sample.min())) < 0.98:
        return False
    return in_doubt or not doubt_hu(np.maximum(hu, AIR))


def note_16_bits(stored: np.ndarray, values: np.ndarray) -> tuple[str, ...]:
    """Notes on a picture of 16 bits: how it was taken, where that is not plain or doubtful."""
    if values.dtype == np.uint8:
        low, high = np.percentile(values, (1, 99))
        flat = "16 bits that span next to no greys: if they are HU, store HU + 1024"
        return (flat,) if high - low < FLAT else ()
    offset = round(float(stored.max()) - float(values.max()))
    said = f"16 bits taken as HU + {offset}"
    doubts = tuple(f"{said}, but {doubt}" for doubt in doubt_hu(values))
    return doubts or ((said,) if offset != -AIR or stored.max() > TWELVE_BITS else ())


def read_channels(path: str | Path, count: int) -> np.ndarray:
    """The first `count` channels (H, W, count), uint8, of a picture that data.py made of an MRI.

    Raises InputError as `read_picture` does, and for a picture of fewer channels.
    """
    image = decode_file(path)
    image = swap_colours(image.reshape(*image.shape[:2], -1))
    if image.dtype != np.uint8 or image.shape[2] < count:
        raise InputError(f"{path} needs {count} channels of 8 bits; give a slice of such an MRI")
    return np.ascontiguousarray(image[..., :count])


def decode_file(path: str | Path) -> np.ndarray:
    """What a picture file stores, (H, W) or (H, W, channels) in OpenCV's order: uint8 or uint16."""
    return decode(read_content(path), path)


def read_content(path: str | Path) -> bytes:
    """The bytes of a file; InputError for one that is missing or empty."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
    if not content:
        raise InputError(f"{path} is empty; copy or export it again")
    return content


def decode(content: bytes, path: str | Path) -> np.ndarray:
    """What the bytes of a picture file store, as `decode_file` gives it."""
    if is_cut_off(content):
        raise InputError(f"{path} is truncated; copy or export it again")
    width, height = read_size(io.BytesIO(content))
    if width * height > MOST_PIXELS:
        raise InputError(f"{path} claims {width} x {height} pixels, too many; give one slice")
    with caught_stderr() as said:
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} is no picture that can be read; give a PNG, JPEG or TIFF slice")
    if DAMAGED.search(b"".join(said)):
        raise InputError(f"{path} is damaged, so parts of it would be wrong; export it again")
    return image


def is_cut_off(content: bytes) -> bool:
    """Whether the bytes of a PNG or JPEG end before the mark of its end, or in a chunk of a PNG."""
    if not content.startswith(PNG):
        ending = content.rstrip(b"\0")[-1024:]
        return content.startswith(JPEG) and b"\xff\xd9" not in ending
    at = 8
    while at < len(content) and content[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(content[at : at + 4])  # OpenCV would take memory for any length
    return at >= len(content)


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels that a picture file's header claims; (0, 0) if it has none."""
    if (start := file.read(24)).startswith(PNG):
        return int.from_bytes(start[16:20]), int.from_bytes(start[20:])
    from PIL import Image  # 60 ms, which a PNG need not wait for

    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # our one line says it already

    Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS bounds them, with a line of our own
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            return image.size
    except Exception:  # whatever a damaged header makes Pillow raise
        return 0, 0


@contextmanager
def caught_stderr() -> Iterator[list[bytes]]:
    """Catch what libraries in C write to stderr: libjpeg and libpng say there what is damaged.

    The list is filled when the block ends. Other threads' lines are written on afterwards.
    """
    said: list[bytes] = []
    with ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said += file.readlines()
    for line in said:
        if not FROM_LIBRARY.search(line):
            os.write(2, line)


def to_grey(image: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """One grey channel (H, W), and a note if there was colour.

    A slice may have coloured letters, and a tint. Raises InputError for a photo or a colour map.
    """
    if image.ndim == 2 or image.shape[2] < 3:
        return image.reshape(*image.shape[:2], -1)[..., 0], ()
    colours, white = np.ascontiguousarray(image[..., :3]), np.iinfo(image.dtype).max
    coloured = np.ptp(colours, axis=2) > COLOURED * white
    if coloured.mean() <= COLOURED_LETTERS:
        grey = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY)
        return grey, (TINTED,) if coloured.any() else ()
    if not is_tinted(colours / np.float32(white)):
        raise InputError(f"{path} is a colour picture; give a grey slice of a head CT")
    return to_luminance(colours), (TINTED,)


def is_tinted(colours: np.ndarray) -> bool:
    """Whether colours (H, W, 3) from 0 to 1 are grey under one tint, but for a few letters.

    Then one hue is everywhere, and as strong as the brightness says: a cast, sepia, a blue film. A
    photo has several hues, and a colour map runs through them.
    """
    step = math.ceil(max(colours.shape) / 128)  # JPEG blurs colours
    seen = cv2.blur(colours, (step, step))[::step, ::step].reshape(-1, 3)
    brightness, chroma = seen.max(axis=1), seen - seen.mean(axis=1, keepdims=True)
    hue = np.linalg.svd(chroma.T @ chroma)[0][:, 0]  # where most of the chroma points
    hue *= np.sign((chroma @ hue).sum())
    strength, level = chroma @ hue, np.rint(63 * brightness).astype(int)
    usual = np.zeros(64, np.float32)
    for n in np.unique(level):
        usual[n] = max(0, np.median(strength[level == n]))
    far = np.linalg.norm(chroma - usual[level, None] * hue, axis=1) > FAR
    lit = brightness > 0.1
    return np.count_nonzero(far & lit) <= LETTERS * np.count_nonzero(lit)


def to_luminance(colours: np.ndarray) -> np.ndarray:
    """The grey (H, W) under a tint: white is as bright as in the tint's strongest channel."""
    grey = colours @ LUMA
    grey *= np.percentile(colours.max(axis=2), 99.9) / max(1, np.percentile(grey, 99.9))
    return np.clip(np.rint(grey), 0, np.iinfo(colours.dtype).max).astype(colours.dtype)


def swap_colours(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) with its first and third channel exchanged: OpenCV has blue first."""
    return image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.shape[2] > 2 else image


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture as PNG: grey (H, W), uint8 or uint16, or (H, W, C) uint8, C from 1 to 4.

    Three channels are red, green and blue, the fourth is opacity; of two, the third is 0.
    """
    if picture.ndim == 3:
        picture = np.pad(picture, ((0, 0), (0, 0), (0, int(picture.shape[2] == 2))))
        picture = swap_colours(picture)
    with explained(path):
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
