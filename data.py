"""Scans to slices to pairs: makes, reads and augments the datasets that train.py learns from.

    python data.py SCANS MASKS --out files/dataset     X.nii.gz with a mask of the same name
    python data.py FOLDER                              X.nii.gz beside X_mask.nii.gz
    python data.py --synthetic 40                      no scan at all: forty phantoms
    python data.py --synthetic 400 --labels DIR --window hu --size 192 --slices 12

Writes Train|Val|Test/images|masks/<scan>_<view>_<index>.png, manifest.csv (one row a pair) and
dataset.json (what the dataset is). Cases are split, never slices. Run the same command again after
an interruption and it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from errors import InputError, explained, replacing, run, warn

# Whatever only the making of datasets needs is imported there: pred.py must not wait for it
if TYPE_CHECKING:
    import pandas as pd

    from volume import Volume

AIR = -1024  # HU: volume.AIR
WINDOW = (-200.0, 800.0)  # HU: from fat to dense contrast and the face of bone
VIEWS = ("axial", "coronal", "sagittal")
SPLITS = ("Train", "Val", "Test")
cv2.utils.logging.setLogLevel(0)  # what a picture cannot be read for is said once, by us

SCANS = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_NAME = re.compile(r"[_-](brain[_-]?)?(roi|mask|seg|segmentation|label)$")
SLICE_NAME = re.compile(rf"(?P<case>.+)_(?P<view>{'|'.join(VIEWS)}|mip)_\d+")


# ---------------------------------------------------------------- one picture


def normalise(image: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """What a network sees: float32 in [0, 1], of HU within `window` (lo, hi) or of a uint8 picture.

    A uint8 picture was windowed by whoever made it: it is divided by 255. Any other type is HU,
    seen through WINDOW where none is given.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    low, high = window or WINDOW
    scaled = (image.astype(np.float32) - low) / (high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def stack(array: np.ndarray, view: str) -> np.ndarray:
    """Pictures (N, H, W) of an (X, Y, Z) RAS+ array as a radiologist sees them; no copy.

    axial: front up, the patient's right on the left, from the feet upwards; coronal: head up, right
    on the left, from the back forwards; sagittal: head up, front on the left, from the left to the
    right.
    """
    if view == "axial":
        return array[::-1, ::-1, :].transpose(2, 1, 0)
    if view == "coronal":
        return array[::-1, :, ::-1].transpose(1, 2, 0)
    if view == "sagittal":
        return array[:, ::-1, ::-1].transpose(0, 2, 1)
    raise InputError(f"no view is called {view!r}; choose from {', '.join(VIEWS)}")


def unstack(pictures: np.ndarray, view: str) -> np.ndarray:
    """The (X, Y, Z) RAS+ array of pictures (N, H, W): the exact inverse of `stack`; no copy."""
    if view == "axial":
        return pictures.transpose(2, 1, 0)[::-1, ::-1, :]
    if view == "coronal":
        return pictures.transpose(2, 0, 1)[::-1, :, ::-1]
    if view == "sagittal":
        return pictures.transpose(0, 2, 1)[:, ::-1, ::-1]
    raise InputError(f"no view is called {view!r}; choose from {', '.join(VIEWS)}")


def pixel_spacing(spacing: Sequence[float], view: str) -> tuple[float, float]:
    """(row, column) spacing in mm of a view's pictures, for voxels of `spacing` (x, y, z) mm."""
    x, y, z = (float(mm) for mm in spacing)
    return {"coronal": (z, x), "sagittal": (z, y)}.get(view, (y, x))


@dataclass(frozen=True)
class Placement:
    """Where `fit` put a picture of `shape` (H, W): its box in the square, in pixels."""

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def fit(
    picture: np.ndarray,
    size: int,
    is_mask: bool = False,
    spacing: tuple[float, float] = (1.0, 1.0),
    outside: float = 0,
) -> tuple[np.ndarray, Placement]:
    """A (size, size) picture that holds all of an (H, W) one, centred, and where it was put.

    Pixels of `spacing` (row, column; any unit) become square; what is left over is `outside`.
    uint8 stays uint8, anything else becomes float32; a mask (any type, true above 0) becomes
    uint8, strictly 0 or 255, by a threshold of 0.5 on the area.
    """
    extent = np.multiply(picture.shape, spacing)
    height, width = np.maximum(1, np.rint(extent * size / extent.max())).astype(int).tolist()
    place = Placement(picture.shape, (size - height) // 2, (size - width) // 2, height, width)
    if is_mask:
        picture = picture > 0
    small = resize(picture, height, width)
    square = np.full((size, size), outside, small.dtype)
    square[place.top : place.top + height, place.left : place.left + width] = small
    return (np.uint8(255) * (square >= 0.5) if is_mask else square), place


def unfit(picture: np.ndarray, place: Placement) -> np.ndarray:
    """The (H, W) picture that `fit` placed in `picture`, back at its own size; linear."""
    box = picture[place.top : place.top + place.height, place.left : place.left + place.width]
    return resize(box, *place.shape)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over areas along the axes that shrink, linear along those that grow."""
    picture = np.ascontiguousarray(picture, np.uint8 if picture.dtype == np.uint8 else np.float32)
    smaller = (min(width, picture.shape[1]), min(height, picture.shape[0]))
    picture = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def read_picture(path: str | Path) -> np.ndarray:
    """A grey picture (H, W): uint8, or float32 HU where a 16-bit file holds HU + 1024.

    Sixteen bits with nothing above 4095 are taken as HU + 1024 (as `data.py --window hu` writes);
    other 16-bit pictures are brought to uint8, 65535 to 255.
    Raises InputError for what is no picture: missing, empty, truncated, another format, a photo.
    """
    grey = decode(path)
    if grey.dtype == np.uint16:
        return grey + np.float32(AIR) if grey.max() <= 4095 else np.rint(grey / 257).astype("u1")
    return grey


def read_mask_picture(path: str | Path) -> np.ndarray:
    """A mask (H, W) of bool, from a picture of 0 and 1, 0 and 255, or with softened edges."""
    grey = decode(path)
    return grey > grey.max() / 2


def decode(path: str | Path) -> np.ndarray:
    """The grey values (H, W) of a picture file as stored: uint8 or uint16."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
    if not content:
        raise InputError(f"{path} is empty; copy or export it again")
    for start, end in ((b"\x89PNG", b"IEND"), (b"\xff\xd8\xff", b"\xff\xd9")):
        if content.startswith(start) and end not in content.rstrip(b"\0")[-1024:]:
            raise InputError(f"{path} is truncated; copy or export it again")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} is no picture that can be read; give a PNG, JPEG or TIFF slice")
    return to_grey(image, path)


def to_grey(image: np.ndarray, path: Path) -> np.ndarray:
    """One grey channel; refuses a photo, allows coloured letters burnt into a slice."""
    if image.ndim == 2 or image.shape[2] < 3:
        return image.reshape(*image.shape[:2], -1)[..., 0]
    colours = image[..., :3].astype(np.int32)
    coloured = np.ptp(colours, axis=2) > 0.125 * np.iinfo(image.dtype).max
    if coloured.mean() > 0.05:
        raise InputError(f"{path} is a colour picture; give a grey slice of a head CT")
    return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture as PNG: grey (H, W), uint8 or uint16, or RGB (H, W, 3) uint8."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    with explained(path):
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


# ---------------------------------------------------------------- files to pairs


def stem(path: str | Path) -> str:
    """A file's name without its ending (.nii.gz counts as one)."""
    name = Path(path).name
    ending = next((e for e in SCANS + PICTURES if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def find_pairs(
    scans: str | Path, masks: str | Path | None = None, endings: Sequence[str] = SCANS
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair scans with masks by name: ([(case, scan, mask), …], [a line on each file left over]).

    `scans` is a scan, a folder of scans (NIfTI files or DICOM folders), or, without `masks`, a
    folder that holds both: X.nii.gz beside X_ROI, X_mask or X_seg.nii.gz, or two folders such as
    images/ and masks/. Letter case does not matter. Raises InputError when nothing pairs.
    """
    scans, masks = Path(scans), Path(masks) if masks else None
    for path in filter(None, (scans, masks)):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
    if scans.is_file() or is_dicom_folder(scans):
        if masks and masks.is_file():
            return [(stem(scans), scans, masks)], []
        masks = masks or scans.parent
        others = [path for path in list_scans(masks, endings) if path != scans]
        pairs, left_over = match([scans], others)[0], []
    else:
        if masks is None:
            scans, masks = image_and_mask_folders(scans)
        pairs, left_over = match(*scan_and_mask_files(scans, masks, endings))
    if not pairs:
        raise InputError(
            f"found no mask in {masks} for {scans}; name them X.nii.gz and X_mask.nii.gz, "
            "or give the masks' folder as second argument"
        )
    return pairs, left_over


def scan_and_mask_files(scans: Path, masks: Path, endings: Sequence[str]) -> tuple[list, list]:
    """Files of the two folders; those of one folder are told apart by their names."""
    files = list_scans(scans, endings)
    if scans != masks:
        return files, list_scans(masks, endings)
    mask_files = [file for file in files if MASK_NAME.search(stem(file).lower())]
    return [file for file in files if file not in mask_files], mask_files


def match(scans: list[Path], masks: list[Path]) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pairs of one name, and a line for every file that has no partner or more than one."""
    by_name: dict[str, list[Path]] = {}
    for mask in masks:
        name = stem(mask).lower()
        for key in {name, MASK_NAME.sub("", name)}:
            by_name.setdefault(key, []).append(mask)
    names = [stem(scan).lower() for scan in scans]
    pairs, left_over = [], []
    for scan, name in zip(scans, names, strict=True):
        found = by_name.get(name, [])
        if names.count(name) > 1:
            left_over.append(f"{scan}: another scan has the same name; left out")
        elif len(found) > 1:
            several = ", ".join(m.name for m in found)
            left_over.append(f"{scan}: several masks ({several}); left out")
        elif not found:
            left_over.append(f"{scan}: no mask of that name; left out")
        else:
            pairs.append((stem(scan), scan, found[0]))
    used = {m for name in names for m in by_name.get(name, [])}
    left_over += [f"{mask}: no scan of that name; left out" for mask in masks if mask not in used]
    return pairs, left_over


def list_scans(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The folder's files with one of `endings` and its DICOM folders; or itself, if it is one."""
    if folder.is_file() or is_dicom_folder(folder):
        return [folder]
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [p for p in paths if p.name.lower().endswith(tuple(endings)) or is_dicom_folder(p)]


def is_dicom_folder(folder: Path) -> bool:
    """Whether there are DICOM files in the folder itself."""
    return folder.is_dir() and any(map(is_dicom, folder.iterdir()))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or by its first bytes."""
    if not path.is_file() or path.name.lower().endswith(SCANS + PICTURES):
        return False
    with path.open("rb") as file:
        return path.suffix.lower() in (".dcm", ".ima") or file.read(132)[128:] == b"DICM"


def image_and_mask_folders(folder: Path) -> tuple[Path, Path]:
    """(images, masks) inside `folder`, or the folder twice where it holds no such pair."""
    inside = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    masks = [p for p in inside if re.search("mask|roi|seg|label", p.name.lower())]
    others = [p for p in inside if p not in masks]
    images = [p for p in others if re.search("image|img|scan|ct", p.name.lower())] or others
    if len(images) == len(masks) == 1:
        return images[0], masks[0]
    return folder, folder


# ---------------------------------------------------------------- reading a dataset


@dataclass(frozen=True)
class Pair:
    """One picture and its mask; case and view are "" where the files do not tell."""

    image: Path
    mask: Path
    case: str = ""
    view: str = ""


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The picture (as `read_picture`) and the bool mask of a pair, both (H, W).

    Raises InputError when their sizes differ.
    """
    image, mask = read_picture(pair.image), read_mask_picture(pair.mask)
    if image.shape != mask.shape:
        raise InputError(
            f"{pair.mask} is {mask.shape[1]}x{mask.shape[0]} but its picture "
            f"{image.shape[1]}x{image.shape[0]}; make them alike"
        )
    return image, mask


def describe(folder: str | Path) -> dict:
    """dataset.json of a dataset folder; {} where there is none (a layout made elsewhere)."""
    path = Path(folder) / "dataset.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); make the dataset again") from error


def read_dataset(folder: str | Path) -> dict[str, list[Pair]]:
    """The pairs of each split, {"Train": [...], "Val": [...], "Test": [...]}, of a dataset folder.

    Reads what data.py writes (by its manifest.csv) and Train/images with
    Train/mask_img_labelsTrain, and so on for Val and Test. Raises InputError for anything else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no dataset folder {folder}; make one: python data.py --synthetic 40")
    if (folder / "manifest.csv").exists():
        return read_manifest(folder)
    if (folder / "dataset.json").exists():
        raise InputError(f"{folder} is unfinished; run its data.py command again to finish it")
    found = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    if "train" not in found:
        raise InputError(f"{folder} has no manifest.csv and no Train/images; give a dataset folder")
    return {s: read_split(found[s.lower()]) if s.lower() in found else [] for s in SPLITS}


def read_manifest(folder: Path) -> dict[str, list[Pair]]:
    """The pairs of each split by the folder's manifest.csv."""
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    try:
        for row in read_rows(folder / "manifest.csv").itertuples():
            pair = Pair(folder / row.image, folder / row.mask, row.case, row.view)
            splits[row.split].append(pair)
    except (AttributeError, KeyError, ValueError) as error:
        said = f"{folder / 'manifest.csv'} is no manifest ({error}); make the dataset again"
        raise InputError(said) from error
    return splits


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of a manifest; a case called 001 or NA keeps its name."""
    import pandas as pd

    return pd.read_csv(path, dtype={"case": str, "scan": str}, keep_default_na=False)


def read_split(folder: Path) -> list[Pair]:
    """Pairs of `folder`/images and `folder`/mask…, matched by name; warns of what is left over."""
    images, masks = image_and_mask_folders(folder)
    pairs, left_over = find_pairs(images, masks, PICTURES)
    for line in left_over:
        warn(line)
    return [Pair(image, mask, **case_and_view(name)) for name, image, mask in pairs]


def case_and_view(name: str) -> dict[str, str]:
    """{"case", "view"} out of <case>_<view>_<index>, empty where the name says nothing."""
    found = SLICE_NAME.fullmatch(name)
    return found.groupdict() if found else {}


# ---------------------------------------------------------------- making a dataset


@dataclass(frozen=True)
class Options:
    """What decides a dataset's pictures; stands in dataset.json."""

    size: int = 512
    views: tuple[str, ...] = VIEWS
    window: tuple[float, float] | str = WINDOW  # HU, or "hu": HU + 1024 in 16 bits
    slices: int | None = None  # at most so many a view and scan
    empty: float = 0.15  # at most this share of slices without brain
    split: tuple[float, ...] = (80, 10, 10)
    seed: int = 0
    position: str | None = None
    necks: str | None = None  # folder of real scans that continue synthetic heads downwards
    licence: str | None = None  # of what the pictures were made from


@dataclass(frozen=True)
class Source:
    """Where one scan comes from: files, or a seed of synthetic.py (with a label map, or none)."""

    scan: str
    case: str
    path: Path | None = None
    mask: Path | None = None
    seed: int | None = None


def synthetic_sources(count: int, labels: str | Path | None, seed: int) -> list[Source]:
    """`count` synthetic scans, spread evenly over the label maps of a folder; phantoms without."""
    import synthetic

    maps = synthetic.label_files(labels) if labels else []
    sources = []
    for index in range(count):
        # scans of one map stand together: a process then prepares each map once
        path = maps[index * len(maps) // count] if maps else None
        case = stem(path) if path else f"phantom_{index:04d}"
        scan = f"{case}_{index:04d}" if path else case
        drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        sources.append(Source(scan, case, path, seed=drawn))
    return sources


def split_cases(
    cases: Sequence[str], seed: int = 0, shares: Sequence[float] = (80, 10, 10)
) -> dict[str, list[str]]:
    """Cases of each split, drawn with `seed`; the order of `cases` does not matter.

    Shares are rounded by largest remainder; a split with a share gets at least one case as long as
    another has two (so of one case nothing is left for Val and Test).
    """
    cases = sorted(set(cases))
    exact = np.array(shares, float) / sum(shares) * len(cases)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: len(cases) - counts.sum()]] += 1
    for index in np.flatnonzero((counts == 0) & (exact > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[index] += 1
    order = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    ends = np.cumsum(counts)
    return {s: sorted(order[e - n : e]) for s, n, e in zip(SPLITS, counts, ends, strict=True)}


def choose_slices(
    has_brain: np.ndarray, limit: int | None, empty: float, rng: np.random.Generator
) -> np.ndarray:
    """Sorted indices of at most `limit` slices, those without brain at most a share of `empty`.

    A scan with no brain at all gives `empty` times the limit, as an example of nothing to find. Of
    the slices without brain, those next to it are drawn most often: they are the hard ones.
    """
    brain, bare = np.flatnonzero(has_brain), np.flatnonzero(~has_brain)
    limit = min(limit or len(has_brain), len(has_brain))
    if len(brain):
        by_brain = len(brain) * empty / (1 - empty) if empty < 1 else math.inf
        bares = int(min(limit * len(bare) / len(has_brain), limit * empty, by_brain))
    else:
        bares = math.ceil(limit * empty)
    brains = min(len(brain), limit - bares)
    gap = np.abs(bare[:, None] - brain).min(1, initial=len(has_brain))
    # the largest of u ** (1 / weight), u uniform: a draw by weight, without putting back
    order = np.argsort(rng.random(len(bare)) ** (3.0 + gap))
    drawn = [rng.choice(brain, brains, replace=False), bare[order[len(bare) - bares :]]]
    return np.sort(np.concatenate(drawn))


def load(source: Source, options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
    """HU (X, Y, Z), bool mask, spacing (3,) in mm and notes of a source, on straight, even axes."""
    if source.seed is not None:
        import synthetic

        scan = synthetic.scan(source.seed, source.path, options.necks)
        return scan.hu, scan.mask, np.linalg.norm(scan.affine[:3, :3], axis=0), ()
    from volume import read_mask, read_volume, straighten

    scan = read_volume(source.path, options.position)
    mask = read_mask(source.mask, scan)
    if is_straight(scan):
        return scan.hu, mask, scan.spacing, scan.notes
    spacing = max(scan.spacing.min(), (scan.spacing * mask.shape).max() / options.size)
    hu, _ = straighten(scan.hu, scan, spacing)
    mask, _ = straighten(mask, scan, spacing, outside=0)
    return hu, mask >= 0.5, np.full(3, spacing), scan.notes


def is_straight(scan: Volume) -> bool:
    """Whether a scan's slices stand evenly and upright (no gantry tilt, no uneven gaps)."""
    axes = scan.affine[:3, :3] / scan.spacing
    return scan.shifts is None and np.allclose(axes.T @ axes, np.eye(3), atol=1e-3)


def slice_scan(source: Source, split: str, options: Options, out: Path) -> tuple[list[str], bool]:
    """Write the pairs of one scan and, last, its rows in .scans.

    Returns what there is to say about the scan and whether it could be used.
    """
    import pandas as pd

    try:
        hu, mask, spacing, notes = load(source, options)
    except InputError as error:
        return [str(error)], False
    rng = np.random.default_rng([options.seed, zlib.crc32(source.scan.encode())])
    rows = []
    for view in options.views:
        images, masks = pictures(hu, view), pictures(mask, view)
        for index in choose_slices(masks.any(axis=(1, 2)), options.slices, options.empty, rng):
            name = f"{source.scan}_{view}_{index:04d}.png"
            row = {"split": split, "case": source.case, "scan": source.scan, "view": view}
            row |= {"index": index, "image": f"{split}/images/{name}"}
            row |= {"mask": f"{split}/masks/{name}"}
            pixel = pixel_spacing(spacing, view)
            rows.append(row | write_pair(images[index], masks[index], pixel, row, options, out))
    with replacing(rows_file(out, source)) as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    return [f"{source.path}: {note}" for note in notes], True


def pictures(array: np.ndarray, view: str) -> np.ndarray:
    """`stack`, and for "mip" the one picture of the highest value along z."""
    return stack(array.max(axis=2, keepdims=True), "axial") if view == "mip" else stack(array, view)


def write_pair(
    hu: np.ndarray, mask: np.ndarray, spacing: tuple, row: dict, options: Options, out: Path
) -> dict:
    """Write one picture and its mask; returns the rest of its row."""
    # resampled as HU, then windowed, as a scanner's own export does it
    image, _ = fit(hu.astype(np.float32), options.size, spacing=spacing, outside=AIR)
    if options.window == "hu":
        image = np.clip(np.rint(image - AIR), 0, 4095).astype(np.uint16)
    else:
        image = np.rint(normalise(image, options.window) * 255).astype(np.uint8)
    mask, place = fit(mask, options.size, is_mask=True, spacing=spacing)
    write_picture(out / row["image"], image)
    write_picture(out / row["mask"], mask)
    extent = np.multiply(place.shape, spacing).max()
    return {
        "spacing_mm": round(float(extent) / options.size, 4),
        "brain_pixels": int(np.count_nonzero(mask)),
    }


def rows_file(out: Path, source: Source) -> Path:
    """The manifest rows of one finished scan; their existence says that it is finished."""
    return out / ".scans" / f"{source.scan}.csv"


def make_dataset(
    sources: list[Source], out: str | Path, options: Options, words: str, jobs: int = 1
) -> int:
    """Slice every source into a dataset folder; returns how many scans had to be left out.

    Goes on where an interrupted run of the same options stopped. Raises InputError when the folder
    was made with other options, or when nothing came out.
    """
    from tqdm import tqdm

    out = Path(out)
    splits = split_cases([s.case for s in sources], options.seed, options.split)
    split_of = {case: split for split, cases in splits.items() for case in cases}
    content = card(sources, options, words, splits)
    start(out, content)
    finished = set(finished_rows(out).scan)
    todo = [s for s in sources if s.scan not in finished]
    tasks = [(s, split_of[s.case], options, out) for s in todo]
    bar = tqdm(in_parallel(slice_scan, tasks, jobs), "slicing", len(sources), unit="scan",
               initial=len(sources) - len(todo))  # fmt: skip
    results = list(bar)
    for line in itertools.chain.from_iterable(lines for lines, _ in results):
        warn(line)
    finish(out, content)
    return sum(not used for _, used in results)


def in_parallel(function, tasks: list[tuple], jobs: int) -> Iterator:
    """Results of function(*task) in order, from `jobs` processes of one thread each."""
    if jobs <= 1:
        yield from (function(*task) for task in tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=be_a_worker) as pool:
        try:
            yield from pool.map(function, *zip(*tasks, strict=True)) if tasks else ()
        except BrokenProcessPool as error:
            advice = "a worker process died, likely for memory; run again with --jobs 1"
            raise InputError(advice) from error


def be_a_worker() -> None:
    """One thread a process; Ctrl-C is left to the parent, and no worker outlives it."""
    cv2.setNumThreads(1)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Wait for the parent process to end, then end this one: it may have been killed outright."""
    parent_process().join()
    os._exit(1)


def card(sources: list[Source], options: Options, words: str, splits: dict) -> dict:
    """dataset.json: what the dataset is, enough to train on it and to make it again."""
    content = {
        "format": 1,
        "channels": 1,
        "labels": {"1": "brain"},
        "views": options.views,
        "size": options.size,
        "window": options.window,
        "splits": splits,
        "seed": options.seed,
        "source": words,
        "licence": options.licence,
        "options": asdict(options) | {"scans": [s.scan for s in sources]},
    }
    return json.loads(json.dumps(content))


def start(out: Path, content: dict) -> None:
    """Make the folders and dataset.json, or check that the same options made those that stand."""
    if before := describe(out):
        then, now = before.get("options", {}), content["options"]
        changed = [key for key in now if then.get(key) != now[key]]
        if changed:
            what = "; ".join(difference(key, then.get(key), now[key]) for key in changed)
            raise InputError(
                f"{out} was made otherwise ({what}); choose another --out, or --overwrite"
            )
    elif any((out / name).exists() for name in (*SPLITS, "manifest.csv")):
        raise InputError(f"{out} holds a dataset made elsewhere; choose another --out")
    else:
        write_card(out, content)
    with explained(out):
        for split in SPLITS:
            for kind in ("images", "masks"):
                (out / split / kind).mkdir(parents=True, exist_ok=True)


def difference(key: str, then, now) -> str:
    """One changed option in words."""
    if key == "scans":
        return f"other scans: {len(then or [])} then, {len(now)} now"
    shown = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in (then, now)]
    return f"--{key} was {shown[0]}, is now {shown[1]}"


def finished_rows(out: Path) -> pd.DataFrame:
    """Rows of all finished scans: those of the manifest and those that wait to be added to it."""
    import pandas as pd

    files = [out / "manifest.csv", *sorted((out / ".scans").glob("*.csv"))]
    tables = [read_rows(file) for file in files if file.exists() and file.stat().st_size > 1]
    return pd.concat(tables).drop_duplicates("image") if tables else pd.DataFrame({"scan": []})


def finish(out: Path, content: dict) -> None:
    """Gather all rows, in the order of the scans, into manifest.csv; name only cases it has."""
    rows = finished_rows(out)
    if rows.empty:
        raise InputError(f"not one slice could be written to {out}; see the lines above")
    order = {scan: place for place, scan in enumerate(content["options"]["scans"])}
    rows = rows.sort_values("scan", key=lambda scan: scan.map(order), kind="stable")
    write_text(out / "manifest.csv", rows.to_csv(index=False))
    splits = content["splits"].items()
    used = {split: [c for c in cases if c in set(rows.case)] for split, cases in splits}
    write_card(out, content | {"splits": used})
    shutil.rmtree(out / ".scans", ignore_errors=True)


def write_card(out: Path, content: dict) -> None:
    """Write dataset.json."""
    write_text(out / "dataset.json", json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def remove_dataset(out: Path) -> None:
    """Delete what make_dataset wrote in `out`, and nothing else."""
    if not describe(out):
        return
    # dataset.json last: stopped half-way, the folder is still known as one of ours
    (out / "manifest.csv").unlink(missing_ok=True)
    for name in (".scans", *SPLITS):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "dataset.json").unlink()


# ---------------------------------------------------------------- augmentation

# centre and width in HU, each from … to: the windows that people export pictures in
EXPORT_WINDOWS = (
    (40, 40, 80, 80),  # brain
    (75, 75, 215, 215),  # subdural
    (35, 35, 35, 35),  # stroke
    (200, 300, 600, 800),  # CTA
    (50, 50, 350, 350),  # soft tissue
    (500, 700, 2000, 4000),  # bone
    (1024, 1024, 4095, 4095),  # all of 12 bits
)


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    size: int,
    window: tuple[float, float] = WINDOW,
) -> tuple[np.ndarray, np.ndarray]:
    """One random training sample of a picture (H, W; uint8 or float32 HU) and its mask.

    Returns float32 (size, size) in [0, 1] and a float32 mask (size, size) of 0 and 1. The same
    `rng` state gives the same sample.
    """
    image, mask = warp(image, mask, rng, size)
    if image.dtype == np.uint8:
        image = gain(normalise(image), rng)
    else:
        image = normalise(image, draw_window(image, rng, window))
        if rng.random() < 0.3:
            image = np.rint(image * 255) / np.float32(255)
    for effect, chance in EFFECTS:
        if rng.random() < chance:
            image = np.clip(effect(image, rng), 0, 1)
    return image, mask


def warp(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, size: int):
    """The picture and its mask (float32, 0 and 1) under one random affine map."""
    mask = mask.astype(np.float32) / max(1, mask.max())
    if max(image.shape) > 1.5 * size:  # warpAffine takes single points: average them first
        image, mask = fit(image, size, outside=outside(image))[0], fit(mask, size)[0]
    matrix, frame = draw_affine(image.shape, rng, size), (size, size)
    image = cv2.warpAffine(image, matrix, frame, borderValue=outside(image))
    return image, (cv2.warpAffine(mask, matrix, frame) >= 0.5).astype(np.float32)


def outside(image: np.ndarray) -> int:
    """Air around the picture: black, or -1024 HU."""
    return 0 if image.dtype == np.uint8 else AIR


def draw_affine(shape: tuple[int, int], rng: np.random.Generator, size: int) -> np.ndarray:
    """A (2, 3) map of an (H, W) picture into the square: turned, flipped, scaled, moved."""
    spread = 0.12 if rng.random() < 0.7 else 0.4
    scale = size / max(shape) * np.exp(np.clip(rng.normal(0, spread), np.log(0.6), np.log(1.5)))
    aspect = np.exp(rng.uniform(np.log(0.8), np.log(1.25)) / 2) if rng.random() < 0.5 else 1.0
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    squash = np.diag([aspect * rng.choice([-1, 1]), 1 / aspect])
    linear = scale * turn @ squash
    # squashed along the picture's own axes half of the time, else along those of the square
    linear = linear if rng.random() < 0.5 else scale * squash @ turn
    centre = (size - 1) / 2 + rng.uniform(-0.1, 0.1, 2) * size
    move = centre - linear @ ((np.array(shape[::-1]) - 1) / 2)
    return np.column_stack([linear, move])


def draw_window(hu: np.ndarray, rng: np.random.Generator, window: tuple) -> tuple[float, float]:
    """(lo, hi) in HU: half of the time about `window`, else about one that people export in."""
    if rng.random() < 0.5:
        centre, width = sum(window) / 2 + rng.uniform(-30, 30), window[1] - window[0]
    elif (index := rng.integers(len(EXPORT_WINDOWS) + 1)) < len(EXPORT_WINDOWS):
        a, b, c, d = EXPORT_WINDOWS[index]
        centre, width = rng.uniform(a, b), rng.uniform(c, d)
        centre += rng.uniform(-0.1, 0.1) * width
    else:
        low, high, *_ = cv2.minMaxLoc(hu)
        centre, width = (low + high) / 2, max(high - low, 1)
    width *= rng.uniform(0.85, 1.15)
    return centre - width / 2, centre + width / 2


def gain(image, rng):
    return np.clip(image * np.float32(rng.uniform(0.75, 1.3)) + np.float32(rng.uniform(-0.1, 0.1)),
                   0, 1)  # fmt: skip


def gamma(image, rng):
    return cv2.pow(image, float(np.exp(rng.uniform(-0.4, 0.4))))


def noise(image, rng):
    strength = np.float32(0.08 * rng.random() ** 2)
    return image + strength * rng.standard_normal(image.shape, np.float32)


def blur(image, rng):
    """Up to that of an averaged template: thin bones fade, and only their shape tells."""
    return cv2.GaussianBlur(image, (0, 0), np.exp(rng.uniform(np.log(0.4), np.log(2.5))))


def sharpen(image, rng):
    amount = rng.uniform(0.3, 1.5)
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)


def cutout(image, rng):
    size = len(image)
    for _ in range(rng.integers(1, 4)):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        width, height = (int(v) for v in rng.integers(2, size // 5, 2))
        cv2.rectangle(image, (x, y), (x + width, y + height), rng.random(), -1)
    return image


def write_on(image, rng):
    """Letters and a ruler near the frame, as viewers burn them in."""
    size, grey = len(image), rng.uniform(128, 255)
    layer = np.zeros(image.shape, np.uint8)  # OpenCV writes letters on bytes only
    for _ in range(rng.integers(1, 4)):
        text = "".join(chr(c) for c in rng.integers(48, 91, rng.integers(1, 8)))
        where = (int(rng.choice([2, 0.75 * size])), int(rng.choice([0.08, 0.15, 0.9, 0.97]) * size))
        cv2.putText(layer, text, where, cv2.FONT_HERSHEY_SIMPLEX, size / 500, grey, 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        x, top = int(rng.choice([3, size - 4])), int(size * rng.uniform(0.1, 0.5))
        cv2.line(layer, (x, top), (x, top + size // 3), grey, 1)
    return np.maximum(image, normalise(layer))


def jpeg(image, rng):
    grey = np.rint(image * 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
    return normalise(cv2.imdecode(cv2.imencode(".jpg", grey, quality)[1], cv2.IMREAD_GRAYSCALE))


EFFECTS = (
    (gamma, 0.3), (blur, 0.2), (sharpen, 0.15), (noise, 0.5), (cutout, 0.1), (write_on, 0.1),
    (jpeg, 0.15),
)  # fmt: skip


# ---------------------------------------------------------------- command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from volume import POSITIONS

    parser = argparse.ArgumentParser(
        description="Slice scans and their brain masks into PNG pairs, split by case."
    )
    add = parser.add_argument
    add("scans", nargs="?", help="folder of NIfTI files or DICOM folders, or one of them")
    add("masks", nargs="?", help="folder of masks of the same names, unless SCANS holds them too")
    add("--synthetic", type=int, metavar="N", help="make N synthetic scans instead")
    add("--labels", metavar="DIR", help="make them from these head label maps, not from phantoms")
    add("--necks", metavar="DIR", help="head-and-neck CTs (X_ct.nii.gz with X_oar.nii.gz, 1 = "
        "brainstem) to continue them below the skull")  # fmt: skip
    add("--licence", metavar="TEXT", help="of the scans or label maps, for the model's card")
    add("--out", default="files/dataset", help="the dataset's folder (%(default)s)")
    add("--size", type=int, default=512, help="pixels a side (%(default)s)")
    add("--views", nargs="+", default=list(VIEWS), choices=[*VIEWS, "mip"], metavar="VIEW",
        help="of axial, coronal, sagittal (these three), mip (highest value along z)")  # fmt: skip
    add("--window", nargs="+", default=list(WINDOW), metavar=("LO", "HI"),
        help="HU shown in 8 bits (-200 800), or the word hu: 16 bits of HU + 1024")  # fmt: skip
    add("--slices", type=int, metavar="K", help="at most K slices a view and scan, drawn at random")
    add("--empty", type=float, default=0.15, metavar="SHARE",
        help="at most this share of slices without brain; 1 keeps all (%(default)s)")  # fmt: skip
    add("--split", nargs=3, type=float, default=[80, 10, 10], metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the cases (80 10 10)")  # fmt: skip
    add("--position", choices=POSITIONS, help="how the patient lay, for files that do not say")
    add("--seed", type=int, default=0, help="of split, slices and synthetic scans (%(default)s)")
    add("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes (%(default)s)")
    add("--overwrite", action="store_true", help="throw away the dataset in --out first")
    return parser.parse_args(argv)


def to_options(args: argparse.Namespace) -> Options:
    """The options of a command line; raises InputError for values that make no sense."""
    window = "hu" if args.window == ["hu"] else to_window(args.window)
    if args.size < 16:
        raise InputError(f"--size {args.size} is too small; give at least 16 pixels")
    if args.slices is not None and args.slices < 1:
        raise InputError(f"--slices {args.slices} leaves nothing; give at least 1")
    if not 0 <= args.empty <= 1:
        raise InputError(f"--empty {args.empty} is no share; give a number from 0 to 1")
    if min(args.split) < 0 or args.split[0] == 0:
        raise InputError("--split needs three shares, the first above 0, such as 80 10 10")
    return Options(args.size, tuple(dict.fromkeys(args.views)), window, args.slices, args.empty,
                   tuple(args.split), args.seed, args.position, args.necks,
                   args.licence)  # fmt: skip


def to_window(words: Sequence) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in words)
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise InputError("--window needs two numbers in HU, the lower first, or the word hu")
    return low, high


def to_sources(args: argparse.Namespace) -> tuple[list[Source], str]:
    """The scans that a command line asks for, and where they come from in words."""
    if args.synthetic is not None:
        if args.scans or args.synthetic < 1:
            raise InputError("--synthetic takes a count of at least 1 and no SCANS")
        origin = f"label maps of {Path(args.labels).resolve().name}" if args.labels else "phantoms"
        sources = synthetic_sources(args.synthetic, args.labels, args.seed)
        return sources, f"{args.synthetic} synthetic head CTA of {origin} (synthetic.py)"
    if args.labels or args.necks:
        raise InputError("--labels and --necks are for --synthetic N; say how many scans to make")
    if not args.scans:
        raise InputError("nothing to slice; give a folder of SCANS, or --synthetic N")
    pairs, left_over = find_pairs(args.scans, args.masks)
    for line in left_over:
        warn(line)
    words = f"{len(pairs)} scans of {Path(args.scans).resolve().name}"
    return [Source(case, case, scan, mask) for case, scan, mask in pairs], words


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    options, (sources, words), out = to_options(args), to_sources(args), Path(args.out)
    if args.overwrite:
        remove_dataset(out)
    left_out = make_dataset(sources, out, options, words, args.jobs)
    splits = describe(out)["splits"]
    counts = ", ".join(f"{split} {len(cases)}" for split, cases in splits.items())
    if sum(map(len, splits.values())) < 10:
        warn(f"fewer than 10 cases: shares can only be met roughly; cases are {counts}")
    pairs = sum(map(len, read_dataset(out).values()))
    print(f"{out}: {pairs} pairs of {len(sources) - left_out} scans (cases: {counts})")
    if left_out:
        raise InputError(f"{left_out} of {len(sources)} scans could not be used; see above")
    return 0


if __name__ == "__main__":
    run(main)
