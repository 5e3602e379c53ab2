"""Sound DICOM files of a small head, and the damage done to them, for damage.py.

A file is taken apart into its elements (explicit VR, little endian) and put together again, since
pydicom refuses to write most of what is wrong here.
"""

import io
import struct

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, RLELossless

STEP, PIXEL = 7.0, 3.5  # mm
ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's own root of UIDs
LONG = (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"OD", b"UC", b"UR")  # VRs of a 4-byte length
PIXELS = (0x7FE0, 0x0010)
Rng = np.random.Generator


def choose(rng: Rng, options):
    return options[rng.integers(len(options))]


# ---------------------------------------------------------------- sound files


def make_header(number: int, storage=CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = f"{ROOT}3.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}1", f"{ROOT}2"
    data.FrameOfReferenceUID, data.InstanceNumber = f"{ROOT}4", number + 1
    data.PatientName, data.PatientID, data.Modality = "Doe^Jane", "MRN4711", "CT"
    data.ImageType, data.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
    data.SeriesNumber, data.SeriesDescription = 2, "Head"
    return data


def set_pixels(data: Dataset, stored: np.ndarray) -> None:
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = stored.astype("<i2").tobytes()


def write(data: FileDataset) -> bytes:
    memory = io.BytesIO()
    data.save_as(memory, enforce_file_format=True)
    return memory.getvalue()


def make_slices(hu: np.ndarray, rng: Rng) -> dict[str, bytes]:
    """A file for each second slice of a head (X, Y, Z)."""
    packed = rng.random() < 0.2
    files = {}
    for n, k in enumerate(range(0, hu.shape[2], 2)):
        data = make_header(n)
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, n * STEP]
        data.PixelSpacing, data.SliceThickness = [PIXEL, PIXEL], STEP
        set_pixels(data, hu[::-1, ::-1, k].T)
        if packed:
            data.compress(RLELossless, generate_instance_uid=False)
        files[f"im{n:03d}.dcm"] = write(data)
    return files


def make_stack(hu: np.ndarray, rng: Rng) -> bytes:
    """One file: an enhanced CT of all slices, a slice with its place, or one without."""
    way = int(rng.integers(3))
    if way < 2:
        content = list(make_slices(hu, rng).values())[hu.shape[2] // 3]
        lost = [] if way else [(0x20, 0x32), (0x20, 0x37)]
        return join([e for e in split(content) if tuple(e[0]) not in lost])
    data, frames = make_header(0, EnhancedCTImageStorage), range(0, hu.shape[2], 2)
    shared, measures, turned = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [PIXEL, PIXEL], STEP
    turned.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turned]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    for n in range(len(frames)):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, n * STEP]
        frame.PlanePositionSequence = [place]
        data.PerFrameFunctionalGroupsSequence.append(frame)
    data.NumberOfFrames = len(frames)
    set_pixels(data, np.stack([hu[::-1, ::-1, k].T for k in frames]))
    return write(data)


# ---------------------------------------------------------------- elements


def split(content: bytes) -> list[list]:
    """[(group, element), VR, value, length said] of a file's elements; the last takes the rest."""
    elements, at = [], 132
    while at + 8 <= len(content):
        tag, vr = struct.unpack("<HH", content[at : at + 4]), content[at + 4 : at + 6]
        if vr in LONG:
            (size,), start = struct.unpack("<I", content[at + 8 : at + 12]), at + 12
        else:
            (size,), start = struct.unpack("<H", content[at + 6 : at + 8]), at + 8
        end = len(content) if tag == PIXELS else start + size
        elements.append([tag, vr, content[start:end], size])
        at = end
    if not elements:
        raise ValueError("no DICOM file")
    return elements


def join(elements: list[list]) -> bytes:
    """The file of these elements. A said length that is None is the value's own."""
    parts = [bytes(128), b"DICM"]
    for tag, vr, value, said in elements:
        size = len(value) if said is None else said
        long = vr in LONG
        length = struct.pack("<HI", 0, size % 2**32) if long else struct.pack("<H", size % 2**16)
        parts += [struct.pack("<HH", *tag), vr, length, value]
    return b"".join(parts)


# ---------------------------------------------------------------- damage

SHORT = tuple(struct.pack("<H", n) for n in (0, 1, 2, 3, 7, 8, 12, 32, 63, 64, 255, 65535))
TEXTS = (b"", b"0", b"-1", b"NaN", b"1e30", b"1,5 ", b"abc ", b"1e999 ", b"\\", b"1\\2\\3\\4")
PAIRS = (b"0\\0 ", b"-1\\-1 ", b"1,5\\1,5 ", b"nan\\nan ", b"1e-9\\1e-9 ", b"3.5 ", b"1e9\\1e9 ")
TURNS = (
    b"0\\0\\0\\0\\0\\0 ",
    b"1\\0\\0\\1\\0\\0 ",
    b"1\\0\\0\\0.5\\0.5\\0 ",
    b"nan\\0\\0\\0\\1\\0 ",
    b"1\\0\\0",
    b"1e30\\0\\0\\0\\1e30\\0 ",
    b"0\\1\\0\\0\\0\\-1",
    b"-1\\0\\0\\0\\-1\\0 ",
)
PLACES = (b"0\\0\\0 ", b"1e308\\0\\0 ", b"inf\\0\\0 ", b"0\\0", b"0,0\\0,0\\1,0 ", b"a\\b\\c ")
SYNTAXES = (
    b"1.2.840.10008.1.2\0",
    b"1.2.840.10008.1.2.1.99\0",
    b"1.2.840.10008.1.2.2\0",
    b"1.2.840.10008.1.2.4.50\0",
    b"1.2.840.10008.1.2.4.70\0",
    b"1.2.840.10008.1.2.4.80\0",
    b"1.2.840.10008.1.2.4.90\0",
    b"1.2.840.10008.1.2.5\0",
    b"1.2.840.10008.1.2.4.201\0",
    b"1.2.3\0",
    b"",
    b"abc\0",
)
ODD = {  # values for a tag
    (0x0002, 0x0010): SYNTAXES,
    (0x0008, 0x0008): (b"", b"LOCALIZER ", b"DERIVED\\SECONDARY"),
    (0x0008, 0x0016): (b"", b"1.2.840.10008.5.1.4.1.1.4\0", b"1.2.3\0", b"x\0"),
    (0x0008, 0x0060): (b"", b"MR", b"SR", b"\xff\xfe"),
    (0x0010, 0x0010): (b"", b"\xff\xfe\x80\x81", b"\x1b$B^a", b"." * 64, b".*"),
    (0x0018, 0x0050): TEXTS,
    (0x0018, 0x5100): (b"", b"FFP ", b"xyz "),
    (0x0020, 0x000E): (b"", b"1.2.3\0", b"a b c "),
    (0x0020, 0x0013): (*TEXTS, b"99999999999 "),
    (0x0020, 0x0032): (*PLACES, *TEXTS),
    (0x0020, 0x0037): (*TURNS, *TEXTS),
    (0x0028, 0x0002): SHORT,
    (0x0028, 0x0004): (b"", b"MONOCHROME1 ", b"RGB ", b"YBR_FULL", b"PALETTE COLOR ", b"x "),
    (0x0028, 0x0008): (*TEXTS, b"1000000 ", b"2147483647"),
    (0x0028, 0x0010): (*SHORT, b"", b"\0"),
    (0x0028, 0x0011): (*SHORT, b"", b"\0"),
    (0x0028, 0x0030): (*PAIRS, *TEXTS),
    (0x0028, 0x0100): SHORT,
    (0x0028, 0x0101): SHORT,
    (0x0028, 0x0102): SHORT,
    (0x0028, 0x0103): SHORT,
    (0x0028, 0x0120): (*SHORT, b"", b"\0\x80\0\x80"),
    (0x0028, 0x0121): (*SHORT, b""),
    (0x0028, 0x1052): TEXTS,
    (0x0028, 0x1053): (*TEXTS, b"1e-30 "),
    (0x5200, 0x9229): (b"", b"\xfe\xff\x00\xe0\0\0\0\0"),
    (0x5200, 0x9230): (b"", b"\xfe\xff\x00\xe0\0\0\0\0", b"abcdefgh"),
}
VRS = {(0x0028, 0x0008): b"IS", (0x0028, 0x0120): b"SS", (0x0028, 0x0121): b"SS"}


def set_tag(content: bytes, rng: Rng) -> bytes:
    """A tag gets an odd value; a few are added where the file has none."""
    elements = split(content)
    have = {tuple(element[0]) for element in elements}
    tag = choose(rng, [tag for tag in ODD if tag in have or tag in VRS])
    value = choose(rng, ODD[tag])
    for element in elements:
        if tuple(element[0]) == tag:
            element[2:] = [value, None]
    if tag not in have:
        elements.append([tag, VRS[tag], value, None])
        elements.sort(key=lambda element: tuple(element[0]))
    return join(elements)


def remove_tag(content: bytes, rng: Rng) -> bytes:
    elements = split(content)
    elements.pop(int(rng.integers(len(elements))))
    return join(elements)


def empty_tag(content: bytes, rng: Rng) -> bytes:
    elements = split(content)
    choose(rng, elements)[2:] = [b"", None]
    return join(elements)


def set_vr(content: bytes, rng: Rng) -> bytes:
    """An element says that it is of another type."""
    elements = split(content)
    choose(rng, elements)[1] = choose(rng, (b"DS", b"US", b"SQ", b"UN", b"OB", b"FD", b"??", b"AT"))
    return join(elements)


def set_length(content: bytes, rng: Rng) -> bytes:
    """An element says that it is of another length."""
    elements = split(content)
    choose(rng, elements)[3] = choose(rng, (0, 1, 3, 65535, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE))
    return join(elements)


def set_pixel_data(content: bytes, rng: Rng) -> bytes:
    """PixelData too short, too long, empty, of extreme values, or of a wrong length."""
    elements = split(content)
    *_, last = (element for element in elements if element[0] == PIXELS)
    size = len(last[2])
    low, high = b"\x00\x80" * (size // 2), b"\xff\x7f" * (size // 2)
    last[2] = choose(
        rng,
        (b"", b"\0", last[2][: size // 2], last[2][:-1], last[2] * 2, low, high, rng.bytes(size)),
    )
    last[3] = choose(rng, (None, None, size, size + 2, 0, 0xFFFFFFFF, 0x7FFFFFFF))
    return join(elements)


def drop_preamble(content: bytes, rng: Rng) -> bytes:
    return content[choose(rng, (128, 132)) :]


def repeat_element(content: bytes, rng: Rng) -> bytes:
    elements = split(content)
    n = int(rng.integers(len(elements)))
    elements.insert(int(rng.integers(len(elements))), elements[n])
    return join(elements)


DICOM_DAMAGE = (
    *[set_tag] * 6,
    remove_tag,
    empty_tag,
    set_vr,
    set_length,
    set_pixel_data,
    drop_preamble,
    repeat_element,
)

# ---------------------------------------------------------------- damage to a folder


def lose_files(files: dict, rng: Rng) -> dict:
    kept = choose(rng, (1, 2, 3, len(files) // 2))
    return dict(list(files.items())[:kept])


def double_files(files: dict, rng: Rng) -> dict:
    return files | {f"copy_{name}": content for name, content in files.items()}


def add_strangers(files: dict, rng: Rng) -> dict:
    """Files that are no images: empty, noise, one named as an image."""
    odd = {"DICOMDIR": b"", "notes.txt": b"a", "im.dcm": rng.bytes(999), ".DS_Store": b"x"}
    return files | odd | {"deep/er/im.dcm": b"", "thumbs.db": rng.bytes(99)}


def give_odd_names(files: dict, rng: Rng) -> dict:
    names = ("a b", "é", "-x", "\n", "x" * 200, "%s", "*.dcm")
    return {f"{names[n % len(names)]}{n}": c for n, c in enumerate(files.values())}


def empty_files(files: dict, rng: Rng) -> dict:
    return {name: content if rng.random() < 0.5 else b"" for name, content in files.items()}


def place_all_at_one(files: dict, rng: Rng) -> dict:
    """All slices in one place, or in places at random."""
    harmed = {}
    for name, content in files.items():
        z = b"0 " if rng.random() < 0.9 else b"%.3f" % rng.normal(0, 50)
        elements = split(content)
        for element in elements:
            if element[0] == (0x20, 0x32):
                element[2:] = [b"0\\0\\" + z, None]
        harmed[name] = join(elements)
    return harmed


def mix_sizes(files: dict, rng: Rng) -> dict:
    """Rows halved in every other file, though the pixels are not."""
    harmed = dict(files)
    for name in list(files)[::2]:
        elements = split(files[name])
        for element in elements:
            if element[0] == (0x28, 0x10):
                element[2] = struct.pack("<H", 32)
        harmed[name] = join(elements)
    return harmed


FOLDER_DAMAGE = (
    lose_files,
    double_files,
    add_strangers,
    give_odd_names,
    empty_files,
    place_all_at_one,
    mix_sizes,
)
