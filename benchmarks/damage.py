"""Sound inputs of every kind and the damage done to them, for fuzz.py.

    case = make_case(folder, seed=0, number=7, hu=hu)     # the same bytes for the same arguments

A damage is a function from a file's bytes and a random generator to other bytes.
"""

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
from dicom_damage import DICOM_DAMAGE, FOLDER_DAMAGE, make_slices, make_stack

SPACING = 3.5  # mm: of the head that is damaged, so that it is small
KINDS = {  # and the ending of its file
    "NIfTI .nii": ".nii",
    "NIfTI .nii.gz": ".nii.gz",
    "DICOM folder": "",
    "DICOM file": ".dcm",
    "PNG": ".png",
    "JPEG": ".jpg",
    "TIFF": ".tif",
    "16-bit PNG": ".png",
    "zip": ".zip",
}
HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 65535, 1, 0)  # as a length
MIB = 1 << 20
Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]


@dataclass(frozen=True)
class Case:
    """A damaged input: what a user would give to pred.py, of which kind, and what was done."""

    path: Path
    kind: str
    done: str


def make_case(folder: Path, seed: int, number: int, hu: np.ndarray, real=()) -> Case:
    """Write a damaged input into a folder.

    hu (X, Y, Z): a head, voxels of SPACING mm. real: sound files, some taken in place of ours.
    """
    rng = np.random.default_rng([seed, number])
    kind = list(KINDS)[number % len(KINDS)]
    path = folder / f"input{KINDS[kind]}"
    if kind == "DICOM folder":
        files, done = damage_folder(make_slices(hu, rng), rng)
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return Case(path, kind, done)
    ours = [file for file in real if kind != "16-bit PNG" and has_ending(file, KINDS[kind])]
    if is_real := bool(ours) and rng.random() < 0.3:
        source = choose(rng, ours)
        content, done = source.read_bytes(), [source.name]
    else:
        content, done = MAKERS[kind](hu, rng), []
    for times in range(rng.choice((1, 2, 3), p=(0.75, 0.2, 0.05))):
        damage = choose(rng, ANY if rng.random() < 0.35 else DAMAGE[kind])
        try:
            content = damage(content, rng)
        except Exception:
            if not times and not is_real:
                raise
            continue  # what came before left nothing for this one to harm
        done.append(damage.__name__)
    path.write_bytes(content)
    return Case(path, kind, ", ".join(done))


def has_ending(file: Path, ending: str) -> bool:
    return file.name.lower().endswith(ending)


def choose(rng: Rng, options):
    """One of some options, whatever they are."""
    return options[rng.integers(len(options))]


def damage_folder(files: dict[str, bytes], rng: Rng) -> tuple[dict[str, bytes], str]:
    """A DICOM folder's files damaged: one of them, some, all, or which files there are."""
    if rng.random() < 0.25:
        damage = choose(rng, FOLDER_DAMAGE)
        return damage(files, rng), damage.__name__
    names = list(files)
    count = choose(rng, (1, len(names) // 2, len(names)))
    damage = choose(rng, ANY if rng.random() < 0.25 else DICOM_DAMAGE)
    again = rng.integers(1 << 32)  # the same damage to each
    hit = [names[n] for n in rng.choice(len(names), count, replace=False)]
    harmed = {name: damage(files[name], np.random.default_rng(again)) for name in hit}
    return files | harmed, f"{damage.__name__} in {count} of {len(names)} files"


# ---------------------------------------------------------------- sound files


def make_nifti(hu: np.ndarray, rng: Rng) -> bytes:
    kind = choose(rng, (np.int16, np.int16, np.float32, np.float64, np.int32))
    values = hu.astype(kind)
    if rng.random() < 0.15:  # a value that no scan has
        spots = rng.random(hu.shape) < choose(rng, (0.001, 0.5, 2))  # few, half, all
        odd = (math.nan, math.inf, 1e30) if np.issubdtype(kind, np.floating) else (-32768, 32767, 0)
        values[spots] = choose(rng, odd)
    image = nib.Nifti1Image(values, np.diag([SPACING, SPACING, SPACING, 1]))
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def make_gzip(hu: np.ndarray, rng: Rng) -> bytes:
    content = make_nifti(hu, rng)
    if rng.random() < 0.5:  # damage below what gzip checks
        content = choose(rng, NIFTI_DAMAGE)(content, rng)
    return gzip.compress(content, 1, mtime=0)


def make_picture(ending: str, options=(), wide: bool = False):
    """A maker of pictures of an axial slice, in 8 bits, or in 16 as HU + 1024."""

    def make(hu: np.ndarray, rng: Rng) -> bytes:
        k = int(rng.integers(hu.shape[2] // 3, 2 * hu.shape[2] // 3))
        seen = cv2.resize(hu[:, ::-1, k].T.astype(np.float32), (160, 160))
        grey = np.clip((seen + 100) * 255 / 400, 0, 255).astype(np.uint8)
        if wide:
            grey = np.clip(seen + 1024, 0, choose(rng, (4095, 65535))).astype(np.uint16)
            grey[0, 0] = choose(rng, (0, 0, 0, 65535))
        if rng.random() < 0.2:
            grey = cv2.merge([grey] * int(choose(rng, (3, 4))))
        return cv2.imencode(ending, grey, list(options))[1].tobytes()

    return make


def make_tiff(hu: np.ndarray, rng: Rng) -> bytes:
    packed = choose(rng, (1, 5, 8, 32773))  # none, LZW, deflate, PackBits
    options = (cv2.IMWRITE_TIFF_COMPRESSION, int(packed))
    return make_picture(".tif", options, wide=rng.random() < 0.3)(hu, rng)


def make_zip(hu: np.ndarray, rng: Rng) -> bytes:
    return pack(make_slices(hu, rng))


def pack(files: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of some files, always of one date."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method, 1)
    return memory.getvalue()


# ---------------------------------------------------------------- damage to any file


def flip_header(content: bytes, rng: Rng) -> bytes:
    return flip(content, rng, 400)


def flip_anywhere(content: bytes, rng: Rng) -> bytes:
    return flip(content, rng, len(content))


def flip(content: bytes, rng: Rng, end: int) -> bytes:
    harmed = bytearray(content)
    for place in rng.integers(min(end, len(content)), size=rng.integers(1, 9)):
        harmed[place] = choose(rng, (0, 255, 127, 128, harmed[place] ^ 1 << int(rng.integers(8))))
    return bytes(harmed)


def truncate(content: bytes, rng: Rng) -> bytes:
    return content[: choose(rng, (0, 1, int(rng.integers(400)), int(rng.integers(len(content)))))]


def insert(content: bytes, rng: Rng) -> bytes:
    place = int(rng.integers(min(len(content), choose(rng, (400, len(content)))) + 1))
    return content[:place] + rng.bytes(int(choose(rng, (1, 2, 4, 1000)))) + content[place:]


def swap_blocks(content: bytes, rng: Rng) -> bytes:
    size = max(1, len(content) // 16)
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    a, b = rng.integers(len(blocks), size=2)
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks)


def blank(content: bytes, rng: Rng) -> bytes:
    """A run of zeros, as a broken disk leaves it."""
    start, size = int(rng.integers(len(content))), int(choose(rng, (8, 512, 4096)))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def double_gzip(content: bytes, rng: Rng) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def append(content: bytes, rng: Rng) -> bytes:
    return content + choose(rng, (rng.bytes(100), bytes(5000), content))


ANY = (flip_header, flip_anywhere, truncate, insert, swap_blocks, blank, double_gzip, append)

# ---------------------------------------------------------------- NIfTI

FIELDS = {
    "dim": (0, -1, 1, 2, 7, 8, 300, 32767, -32768),
    "pixdim": (0, -1, math.nan, math.inf, 1e30, 1e-30, 1e-3, 300),
    "datatype": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2304, 255),
    "bitpix": (0, 1, 8, 24, 64, -1),
    "vox_offset": (0, 1, 348, 351.5, 1e9, 1e30, math.nan, math.inf, -352),
    "scl_slope": (math.nan, 0, 1e30, 1e-30, -1, math.inf, 2.5),
    "scl_inter": (math.nan, 1e30, -1024, math.inf),
    "srow_x": (0, math.nan, math.inf, 1e30, 1e-30, -3.5),
    "srow_z": (0, math.nan, math.inf, 1e30, 1e-30, -3.5),
    "sform_code": (-1, 0, 9, 32767),
    "qform_code": (-1, 0, 1, 9, 32767),
    "quatern_b": (math.nan, 2, -1e30, 1),
    "qoffset_z": (math.nan, 1e30),
    "magic": (b"ni1", b"", b"n+2", b"xyz"),
    "sizeof_hdr": (0, 540, 1543569408, -1, 349),
    "xyzt_units": (255, 0, 1, 3),
    "cal_max": (math.nan,),
    "intent_code": (1005, 1007, 2003),
}


def set_field(content: bytes, rng: Rng) -> bytes:
    """A single header field gets an odd value."""
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    name = choose(rng, list(FIELDS))
    values = header[name].reshape(-1)  # a view
    place = slice(None)
    if values.size > 1 and rng.random() < 0.9:
        place = int(rng.integers(min(6, values.size)))
    values[place] = choose(rng, FIELDS[name])
    return header.tobytes() + content[348:]


def set_affine(content: bytes, rng: Rng) -> bytes:
    """All of sform and qform: zero, singular, minute, huge, sheared, or not said at all."""
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    rows = choose(
        rng,
        (
            np.zeros((3, 4)),
            np.ones((3, 4)),
            np.diag([1e-6, 1e-6, 1e-6, 1])[:3],
            np.diag([1e6, 1e6, 1e6, 1])[:3],
            np.diag([SPACING, SPACING, 0, 1])[:3],
            np.array([[3.5, 3.4, 0, 0], [0, 3.5, 3.4, 0], [3.4, 0, 3.5, 0]]),
            np.full((3, 4), math.nan),
            rng.normal(0, 3, (3, 4)),
        ),
    )
    for name, row in zip(("srow_x", "srow_y", "srow_z"), rows, strict=True):
        header[name] = row
    header["sform_code"] = 1
    header["qform_code"] = rng.integers(2)
    return header.tobytes() + content[348:]


def set_voxels(content: bytes, rng: Rng) -> bytes:
    """All voxels the lowest, the highest, or any value."""
    size = len(content) - 352
    low, high = b"\x00\x80", b"\xff\x7f"
    fill = choose(rng, (low, high, b"\0\0", b"\xff\xff", b"\0\xfc", b"\0\0\x80\x7f"))
    voxels = rng.bytes(size) if rng.random() < 0.3 else fill * (size // len(fill) + 1)
    return content[:352] + voxels[:size]


def add_extension(content: bytes, rng: Rng) -> bytes:
    """The header says that an extension follows, of a size that is wrong."""
    said = struct.pack("<ii", choose(rng, (0, 8, -16, 1 << 30, 352, 7)), choose(rng, (6, -1, 2)))
    return content[:348] + b"\1\0\0\0" + said + content[352 + choose(rng, (0, 8)) :]


def swap_order(content: bytes, rng: Rng) -> bytes:
    """The header in the other byte order, its voxels not."""
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype)
    return header.byteswap().tobytes() + content[348:]


NIFTI_DAMAGE = (set_field, set_field, set_field, set_affine, set_voxels, add_extension, swap_order)


def harm_trailer(content: bytes, rng: Rng) -> bytes:
    """The checksum or the length at a gzip's end."""
    return content[:-8] + struct.pack("<II", int(rng.integers(1 << 32)), choose(rng, HUGE))


def swell(content: bytes, rng: Rng) -> bytes:
    """3 GiB of zeros behind a gzip's own content, in a file of 3 MB."""
    return content + gzip.compress(bytes(64 * MIB), 9, mtime=0) * 48


def repack(content: bytes, rng: Rng) -> bytes:
    """Damage to what a gzip holds."""
    inner = zlib.decompress(content, 31)
    return gzip.compress(choose(rng, (*NIFTI_DAMAGE, *ANY))(inner, rng), 1, mtime=0)


GZIP_DAMAGE = (harm_trailer, swell, repack, repack, repack, repack, double_gzip)

# ---------------------------------------------------------------- pictures


def list_chunks(content: bytes) -> list[list]:
    """[type, data] of a PNG's chunks."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += 12 + size
    return chunks


def join_chunks(chunks: list[list]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        check = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, check]
    return b"".join(parts)


def set_ihdr(content: bytes, rng: Rng) -> bytes:
    """Width, height, depth, colour or interlace of a PNG, with a right checksum."""
    chunks = list_chunks(content)
    fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
    place = int(rng.integers(7))
    sizes = (0, 1, 159, 161, 65535, 30000, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF)
    fields[place] = choose(rng, sizes if place < 2 else (0, 1, 2, 3, 4, 6, 7, 16, 255))
    chunks[0][1] = struct.pack(">IIBBBBB", *fields)
    return join_chunks(chunks)


def harm_chunk(content: bytes, rng: Rng) -> bytes:
    """A chunk with a wrong length or checksum; or one lacks, comes twice, or is unknown."""
    chunks = list_chunks(content)
    n, way = int(rng.integers(len(chunks))), int(rng.integers(6))
    if way == 0:
        at = content.index(chunks[n][0]) - 4
        return content[:at] + struct.pack(">I", choose(rng, HUGE)) + content[at + 4 :]
    if way == 1:
        at = content.index(chunks[n][0]) + 4 + len(chunks[n][1])
        return content[:at] + rng.bytes(4) + content[at + 4 :]
    if way == 2:
        chunks.pop(n)
    if way == 3:
        chunks.insert(n, chunks[n])
    if way == 4:
        odd = choose(rng, (b"ABCD", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"acTL"))
        chunks.insert(1, [odd, rng.bytes(int(choose(rng, (0, 3, 4, 100))))])
    if way == 5:
        text = b"a\0\0" + zlib.compress(bytes(50 * MIB), 9)
        chunks.insert(1, [b"zTXt", text])
    return join_chunks(chunks)


def make_bomb(content: bytes, rng: Rng) -> bytes:
    """A PNG of a huge black picture in a small file, whole and with right checksums."""
    side = int(choose(rng, (8000, 16000, 32000)))
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(side + 1)) for _ in range(side)]
    chunks = [
        [b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)],
        [b"IDAT", b"".join(parts) + packer.flush()],
        [b"IEND", b""],
    ]
    return join_chunks(chunks)


def harm_marker(content: bytes, rng: Rng) -> bytes:
    """The length of a JPEG's segment, or what stands in it."""
    places = [n for n in range(2, len(content) - 8) if content[n] == 255 and content[n + 1] > 191]
    at = choose(rng, places[:12]) + 2
    if rng.random() < 0.5:
        return content[:at] + struct.pack(">H", choose(rng, (0, 1, 2, 65535))) + content[at + 2 :]
    return content[: at + 2] + rng.bytes(5) + content[at + 7 :]


def set_frame(content: bytes, rng: Rng) -> bytes:
    """The size of a JPEG, its depth or its number of channels."""
    at = content.index(b"\xff\xc0") + 4
    depth, *size, channels = struct.unpack(">BHHB", content[at : at + 6])
    odd = (0, 1, 65535, 30000)
    fields = choose(
        rng,
        (
            (depth, choose(rng, odd), choose(rng, odd), channels),
            (depth, choose(rng, odd), size[1], channels),
            (choose(rng, (0, 12, 16, 255)), *size, channels),
            (depth, *size, choose(rng, (0, 2, 3, 255))),
        ),
    )
    return content[:at] + struct.pack(">BHHB", *fields) + content[at + 6 :]


def set_entry(content: bytes, rng: Rng) -> bytes:
    """A TIFF's tag, its type, its number of values or its value; or where the next page is."""
    start = struct.unpack("<I", content[4:8])[0]
    (count,) = struct.unpack("<H", content[start : start + 2])
    if rng.random() < 0.1:  # the next page is this one
        end = start + 2 + 12 * count
        return content[:end] + struct.pack("<I", start) + content[end + 4 :]
    at = start + 2 + 12 * int(rng.integers(count))
    fields = list(struct.unpack("<HHII", content[at : at + 12]))
    place = choose(rng, (0, 1, 2, 3, 3, 3))
    odd = (0, 1, 2, 3, 7, 12, 32, 64, 65535) if place < 2 else (*HUGE, 2, 3, 12, 32, 64, 30000)
    fields[place] = choose(rng, odd)
    return content[:at] + struct.pack("<HHII", *fields) + content[at + 12 :]


PNG_DAMAGE = (set_ihdr, set_ihdr, harm_chunk, harm_chunk, harm_chunk, make_bomb)

# ---------------------------------------------------------------- zip


def harm_directory(content: bytes, rng: Rng) -> bytes:
    """The last bytes of a zip: its central directory and where that lies."""
    tail = int(choose(rng, (22, 22, 200, 2000)))
    return content[:-tail] + flip(content[-tail:], rng, tail)


def set_sizes(content: bytes, rng: Rng) -> bytes:
    """Sizes, method or flags of the first member, in the directory alone, or there as well."""
    at = content.index(b"PK\1\2")
    offset, form, odd = choose(
        rng,
        (
            (24, "<I", HUGE),
            (20, "<I", HUGE),
            (42, "<I", HUGE),
            (10, "<H", (0, 1, 8, 9, 12, 14, 99)),
            (8, "<H", (1, 8, 0x800, 0xFFFF)),
            (28, "<H", (0, 1, 65535)),
        ),
    )
    said = struct.pack(form, choose(rng, odd))
    place = at + offset
    return content[:place] + said + content[place + len(said) :]


def rename_members(content: bytes, rng: Rng) -> bytes:
    """Members of names that lead out of a folder, or that no disk takes."""
    odd = (
        "../../out",
        "/tmp/fuzz",
        "C:\\x",
        "a" * 5000,
        "\u202e.dcm",
        "..",
        ".hidden",
        "a/b/" * 90,
    )
    name = choose(rng, odd)
    files = read_zip(content)
    return pack({f"{name}{n}.dcm": data for n, data in enumerate(files.values())})


def nest(content: bytes, rng: Rng) -> bytes:
    return pack({"inner.zip": content, **choose(rng, ({}, {"readme.txt": b"a"}))})


def crowd(content: bytes, rng: Rng) -> bytes:
    """Many empty members, with the images or without."""
    empty = {f"{n:05d}{choose(rng, ('', '.dcm'))}": b"" for n in range(20000)}
    return pack(empty | choose(rng, ({}, read_zip(content))), zipfile.ZIP_STORED)


def burst(content: bytes, rng: Rng) -> bytes:
    """One image of 64 x 64 pixels whose PixelData is said to have, and has, 3 GiB."""
    head = next(iter(read_zip(content).values()))
    head = head[: head.index(b"\xe0\x7f\x10\0")] + b"\xe0\x7f\x10\0OW\0\0"
    head += struct.pack("<I", 3 << 30)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    body, size = start + 48 * zeros + packer.flush(), len(head) + (3 << 30)
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(body), size, 6, 0)
    local = b"PK\3\4" + common + b"im.dcm" + body
    central = b"PK\1\2\x14\0" + common + bytes(14) + b"im.dcm"
    ending = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\5\6" + ending


def repack_zip(content: bytes, rng: Rng) -> bytes:
    """Damage to the images within."""
    return pack(damage_folder(read_zip(content), rng)[0])


def read_zip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


DAMAGE: dict[str, tuple[Damage, ...]] = {
    "NIfTI .nii": NIFTI_DAMAGE,
    "NIfTI .nii.gz": GZIP_DAMAGE,
    "DICOM file": DICOM_DAMAGE,
    "PNG": PNG_DAMAGE,
    "16-bit PNG": PNG_DAMAGE,
    "JPEG": (harm_marker, set_frame),
    "TIFF": (set_entry,),
    "zip": (
        harm_directory,
        set_sizes,
        set_sizes,
        rename_members,
        nest,
        crowd,
        burst,
        repack_zip,
        repack_zip,
        repack_zip,
    ),
}
MAKERS = {
    "NIfTI .nii": make_nifti,
    "NIfTI .nii.gz": make_gzip,
    "DICOM file": make_stack,
    "PNG": make_picture(".png"),
    "16-bit PNG": make_picture(".png", wide=True),
    "JPEG": make_picture(".jpg"),
    "TIFF": make_tiff,
    "zip": make_zip,
}
