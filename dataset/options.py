"""What a dataset is made from, and how: data.py's command line as Options and Sources."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from common.card import BRAIN, HEAD, Card, name_labels
from common.errors import InputError
from common.files import plain_name
from dataset.read import warn_of_rest
from scan.cases import (
    PICTURES,
    SCANS,
    Case,
    find_cases,
    find_channels,
    find_patient,
    get_stem,
    has_ending,
    parse_names,
)
from scan.hu import AIR
from scan.pairs import find_pairs, find_picture_cases, list_scan_files
from scan.views import SCALES, VIEWS, WINDOW
from synthesis.head import find_label_maps

CT = ("ct",)  # the channels of a scan that is not an MRI
# Of a dataset like that of the shipped network: slices a view and scan, and their size over that
# which the network sees
LIKE_SLICES, LIKE_SIZE = 28, 1.2
DRAWN = ("slice",)  # the views of MRI that are slices in pictures


@dataclass(frozen=True)
class Options:
    """The options that decide a dataset, with their defaults; dataset.json keeps them."""

    size: int | None = 512  # pixels a side of a slice; None: as `measure_sources` finds
    views: tuple[str, ...] = VIEWS
    window: tuple[float, float] | str = WINDOW  # HU; or "hu": 16 bits of HU + 1024; or of SCALES
    slices: int | None = None  # the most slices a view and scan
    empty: float = 0.15  # the largest share of slices without brain, or without any label
    split: tuple[float, ...] = (80, 10, 10)
    seed: int = 0
    position: str | None = None
    necks: str | None = None  # folder of real scans that continue synthetic heads downwards
    licence: str | None = None  # of the scans
    channels: tuple[str, ...] = CT
    labels: tuple[int, ...] = ()  # values of a label volume; none: the mask is the brain
    names: tuple[str, ...] = ()  # MODALITY=GLOB, for files that are not named as in BraTS
    least: float = 0.0  # the least labelled share of a slice or volume that has any label
    range: tuple[float, float] = (0.0, 1.0)  # shares of a view's axis between which slices lie
    dimensions: int = 2
    grid: tuple[int, ...] = ()  # voxels of a volume; none: as large as what it shows
    fit: str = "crop"  # how a volume comes to its grid; or "resize"
    spacing: float | None = 1.0  # mm: voxels of volumes and pixels of MRI; None likewise
    format: str = "png"  # or "tfrecord"
    trust_masks: bool = False  # take masks that look wrong: empty, far too small, beside the head
    field_mm: float = 0.0  # the least width of what a slice shows: around a smaller scan is air
    like: str | None = None  # checksum of the network for whose fine-tuning it is made
    corrected: tuple[str, ...] = ()  # cases whose masks people have corrected
    lessons: tuple[str, ...] = ()  # checksums of the masks that people corrected or passed

    @property
    def is_mri(self) -> bool:
        return self.window in SCALES

    @property
    def shown(self) -> tuple[float, float]:
        """HU from black to white."""
        return WINDOW if self.window == "hu" else self.window

    @property
    def outside(self) -> float:
        """The value around an image: air in HU, black in a normalised MRI."""
        return 0.0 if self.is_mri else AIR

    @property
    def label_names(self) -> dict[int, str]:
        """{1: name, …} of the labels in a mask."""
        if not self.labels:
            return {1: BRAIN}
        return name_labels(self.labels) if self.is_mri else HEAD


@dataclass(frozen=True)
class Source:
    """Where one scan comes from: files, or the seed of a synthetic scan."""

    scan: str
    case: str  # scans of one case stay in one split
    path: Path | None = None  # of a scan, of a synthetic scan's label map, or of a folder
    mask: Path | None = None
    seed: int | None = None
    modalities: Case | None = None  # the files of an MRI
    pictures: tuple[tuple[int, Path, Path], ...] = ()  # (index, image, mask), if it has only those
    series: int | None = None  # of DICOM, and volume of a 4-D file: those to take, if not usual
    volume: int | None = None


# ---------------------------------------------------------------- options


def to_options(args: argparse.Namespace) -> Options:
    """The options of a command line; raises InputError for values that make no sense."""
    if args.scans and not (args.channels or args.masks or args.synthetic):
        args.channels = find_channels(args.scans)
    is_mri = bool(args.channels)
    # slices in pictures: no scan lies in or below the folder of MRI
    files = Path(args.scans or ".").rglob("*") if is_mri else ()
    is_drawn = is_mri and bool(args.scans) and not any(has_ending(file, SCANS) for file in files)
    refuse_useless(args, is_drawn)
    card = getattr(args, "card", Card())  # of --like
    is_head = bool(args.synthetic or card.classes)
    labels = parse_labels(args.labels, is_drawn) if is_mri else HEAD if is_head else ()
    given = vars(args) | {
        "views": DRAWN if is_drawn else tuple(dict.fromkeys(args.views or VIEWS)),
        "window": "minmax" if is_drawn else parse_window(args.window, is_mri),
        "channels": [name.lower() for name in args.channels or CT],
        "labels": tuple(labels),
        "grid": args.grid and args.grid * (3 // len(args.grid)),
        "format": args.format or ("tfrecord" if args.dimensions == 3 else "png"),
        "field_mm": measure_field(card),
        "like": card.sha256,
        "corrected": None,
        "lessons": None,
    }
    values = {f.name: given[f.name] for f in fields(Options) if given[f.name] is not None}
    options = Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    check_options(options)
    if not is_mri:
        return options
    # pictures are predicted one by one, and most of a patient's show nothing to find
    empty = args.empty if args.empty is not None else 1.0 if is_drawn else options.empty
    return replace(options, size=args.size, spacing=args.spacing, empty=empty)


def imitate(args: argparse.Namespace, card: Card) -> None:
    """Set what a command line leaves open so that the dataset suits a network with this card.

    Slices of CT are stored in HU, a fifth larger than the network sees them, as those that the
    shipped one learned from: augmentation then has something to zoom into. A small scan stands in
    air, so that a head has the size that it has in a prediction.
    """
    size = card.input_shape[0] if card.input_shape else None
    given = {"views": None if card.is_3d else card.views}
    if card.is_mri:
        given |= {"channels": card.channels, "labels": card.label_values.values()}
        given |= {"window": [card.normalise], "dimensions": card.dimensions, "names": card.names}
        given |= {"spacing": card.spacing_mm, "size": None if card.is_3d else size}
    else:
        given |= {"window": ["hu"], "slices": LIKE_SLICES}
        given |= {"size": int(LIKE_SIZE * size) if size else None}
    for name, value in given.items():
        if value is not None and not getattr(args, name):
            setattr(args, name, value if isinstance(value, int | float) else list(value))
    args.card = card


def measure_field(card: Card) -> float:
    """The width in mm of what a network of CT slices sees at its own spacing; 0 if not known."""
    known = card.spacing_mm and card.input_shape and card.input_shape[0]
    return (
        card.spacing_mm * card.input_shape[0] if known and not (card.is_mri or card.is_3d) else 0.0
    )


def check_options(o: Options) -> None:
    """Raise InputError for values that make no sense."""
    require(o.size >= 16, f"--size {o.size} is too small; give at least 16 pixels")
    is_some = o.slices is None or o.slices >= 1
    require(is_some, f"--slices {o.slices} leaves nothing; give at least 1")
    for name, share in (("empty", o.empty), ("least", o.least)):
        require(0 <= share <= 1, f"--{name} {share} is not a share; give one from 0 to 1")
    is_rising = 0 <= o.range[0] < o.range[1] <= 1
    require(is_rising, "--range needs two shares from 0 to 1, the lower first")
    require(o.seed >= 0, f"--seed {o.seed} is not a seed; give 0 or more")
    is_split = min(o.split) >= 0 < o.split[0] and math.isfinite(sum(o.split))
    require(is_split, "--split needs three shares, the first above 0, such as 80 10 10")
    require(o.spacing > 0, f"--spacing {o.spacing} is not a length; give mm above 0")
    is_grid = not o.grid or (len(o.grid) == 3 and min(o.grid) >= 16)
    require(is_grid, "--grid takes one or three numbers of voxels, each at least 16")
    is_once = len(set(o.channels)) == len(o.channels) <= 4
    require(is_once, "--channels takes one to four modalities, each once")
    is_storable = o.dimensions == 2 or o.format == "tfrecord"
    require(is_storable, "volumes are stored as --format tfrecord alone")


def require(is_right, said: str) -> None:
    """Raise InputError with the sentence `said` unless a value is right."""
    if not is_right:
        raise InputError(said)


def refuse_useless(args: argparse.Namespace, is_drawn: bool) -> None:
    """Raise InputError for options that would change nothing."""
    useless = {"volumes": ("size", "views", "slices")} if args.dimensions == 3 else {}
    useless |= {"slices in pictures": ("window", "views")} if is_drawn else {}
    for things, names in useless.items():
        given = [f"--{name}" for name in names if getattr(args, name) is not None]
        require(not given, f"{' and '.join(given)} would do nothing to {things}: leave them out")


def parse_labels(given: Sequence[str] | None, is_drawn: bool) -> tuple[int, ...]:
    """The values of a label volume to tell apart, in ascending order; () for all that it has.

    Of masks in pictures that is 255.
    """
    if not given:
        return (255,) if is_drawn else ()
    try:
        values = sorted({int(value) for value in given})
    except ValueError:
        values = [0]
    is_uint8 = values[0] >= 1 and values[-1] <= 255
    require(is_uint8, "with --channels, --labels takes whole numbers from 1 to 255")
    return tuple(values)


def parse_window(given: Sequence | None, is_mri: bool) -> tuple[float, float] | str:
    """A window in HU, the word hu, or the key of SCALES by which an MRI is normalised."""
    given = list(given or (["zscore"] if is_mri else WINDOW))
    if is_mri:
        is_scale = len(given) == 1 and given[0] in SCALES
        require(is_scale, f"--window needs one of {', '.join(SCALES)} for MRI")
        return given[0]
    if given == ["hu"]:
        return "hu"
    try:
        low, high = map(float, given)
    except ValueError:
        low = high = 0.0
    require(low < high, "--window needs two numbers in HU, the lower first, or the word hu")
    return low, high


# ---------------------------------------------------------------- sources


def to_sources(args: argparse.Namespace, options: Options) -> tuple[list[Source], str]:
    """The scans that a command line asks for, and their origin in plain words."""
    if args.channels:
        return find_mri(args, options)
    if args.synthetic is not None:
        return list_synthetic(args, options.seed)
    is_plain = not (args.labels or args.necks)
    require(is_plain, "--labels and --necks are for --synthetic N; say how many scans to make")
    require(args.scans, "nothing to slice; give a folder of SCANS, or --synthetic N")
    refuse_pictures(Path(args.scans))
    pairs = warn_of_rest(find_pairs(args.scans, args.masks))
    origin = f"{len(pairs)} scans of {Path(args.scans).resolve().name}"
    return [Source(case, find_patient(case), scan, mask) for case, scan, mask in pairs], origin


def name_plainly(sources: list[Source]) -> list[Source]:
    """The sources, named as any disk and table bears it; InputError where two names become one."""
    named = [replace(s, scan=plain_name(s.scan), case=plain_name(s.case)) for s in sources]
    for name, count in Counter(source.scan for source in named).items():
        require(count == 1, f"{count} scans would be called {name}; rename all but one")
    return named


def refuse_pictures(folder: Path) -> None:
    """Raise InputError for a folder that holds pictures and no scans."""
    if not folder.exists() or any(list_scan_files(folder, SCANS)):
        return
    if any(list_scan_files(folder, PICTURES)):
        raise InputError(
            f"{folder} holds pictures, and data.py slices scans (NIfTI, DICOM). Pictures and masks "
            f"need no data.py: train.py --data {folder} takes its Train and Val folders as they "
            f"are, test.py {folder} its Test folder, or all where there are no such folders. If "
            "their colours are modalities of an MRI, give --channels NAME NAME NAME"
        )


def find_mri(args: argparse.Namespace, options: Options) -> tuple[list[Source], str]:
    """The MRI cases that a command line asks for, and their origin in plain words."""
    is_one = args.scans and not (args.masks or args.synthetic or args.necks)
    require(is_one, "--channels takes one folder of cases, and no scans to make")
    folder, is_drawn = Path(args.scans), options.views == DRAWN
    if is_drawn:
        is_2d = options.dimensions == 2
        require(is_2d, f"{folder} holds no NIfTI files, so no volumes can be made of it")
        found = warn_of_rest(find_picture_cases(folder))
        sources = [Source(c, c, folder, pictures=tuple(pairs)) for c, pairs in found.items()]
    else:
        found = warn_of_rest(find_cases(folder, options.channels, parse_names(args.names)))
        sources = [Source(c.name, c.patient, Path(c.name), c.labels, None, c) for c in found]
    return sources, f"{'slices of ' * is_drawn}{len(found)} cases of {folder.resolve().name}"


def list_synthetic(args: argparse.Namespace, seed: int) -> tuple[list[Source], str]:
    """Synthetic scans, spread evenly over label maps if there are any, and their origin."""
    count, folders = args.synthetic, args.labels or []
    is_right = count >= 1 and len(folders) <= 1 and not args.scans
    require(is_right, "--synthetic takes a count of at least 1, one --labels and no SCANS")
    maps = find_label_maps(*folders or [None])
    sources = []
    for index in range(count):
        # scans of one map stand together: a process then prepares each map once
        path = maps[index * len(maps) // count]
        case = get_stem(path) if path else f"phantom_{index:04d}"
        scan = f"{case}_{index:04d}" if path else case
        drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        sources.append(Source(scan, case, path, seed=drawn))
    used = sorted({source.case for source in sources})
    origin = f"label maps {used[0]} to {used[-1]}" if folders else "phantoms"
    if args.necks:
        origin += f", with necks and chests of {Path(args.necks).resolve().name}"
    return sources, f"{count} synthetic head CT and CTA of {origin} (synthetic.py)"
