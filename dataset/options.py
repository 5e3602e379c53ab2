"""What a dataset is made from, and how: data.py's words as Options and Sources.

    options = to_options(args)                      # InputError for values that make no sense
    sources, words = to_sources(args, options)      # InputError when there is nothing to slice

dataset.json keeps the options: the same options make the same dataset.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from common.card import BRAIN, HEAD, name_labels
from common.errors import InputError, warn
from scan.cases import Case, find_cases, find_pairs, find_picture_cases, get_stem, parse_names
from scan.hu import AIR
from scan.views import SCALES, VIEWS, WINDOW
from synthesis.files import find_label_maps

CT = ("ct",)  # the channels of a scan that is not an MRI
DRAWN = ("slice",)  # the views of MRI that are slices in pictures


@dataclass(frozen=True)
class Options:
    """The options that decide a dataset's pictures; dataset.json keeps them."""

    size: int = 512  # pixels a side of a slice
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
    grid: tuple[int, int, int] = (128, 128, 128)  # voxels of a volume
    fit: str = "crop"  # how a volume comes to its grid; or "resize"
    spacing: float = 1.0  # mm: voxels of a cropped volume
    format: str = "png"  # or "tfrecord"

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
    """Where one scan comes from: files, or a seed of a synthetic scan (with or without label map).

    Scans of one `case` stay in one split. `modalities` are the files of an MRI; `pictures` are its
    slices, if there are only those: (index, image, mask).
    """

    scan: str
    case: str
    path: Path | None = None
    mask: Path | None = None
    seed: int | None = None
    modalities: Case | None = None
    pictures: tuple[tuple[int, Path, Path], ...] = ()


# ---------------------------------------------------------------- options


def to_options(args: argparse.Namespace) -> Options:
    """The options of a command line; raises InputError for values that make no sense."""
    is_mri, is_3d = bool(args.channels), args.dimensions == 3
    # slices in pictures: no NIfTI file lies in or below the folder of MRI
    is_drawn = is_mri and bool(args.scans) and not any(Path(args.scans).rglob("*.nii*"))
    refuse_useless(args, is_drawn)
    size = args.size or (240 if is_mri else 512)
    check(size >= 16, f"--size {size} is too small; give at least 16 pixels")
    is_some = args.slices is None or args.slices >= 1
    check(is_some, f"--slices {args.slices} leaves nothing; give at least 1")
    for name in ("empty", "least"):
        share = getattr(args, name)
        check(0 <= share <= 1, f"--{name} {share} is not a share; give one from 0 to 1")
    is_rising = 0 <= args.range[0] < args.range[1] <= 1
    check(is_rising, "--range needs two shares from 0 to 1, the lower first")
    check(args.seed >= 0, f"--seed {args.seed} is not a seed; give 0 or more")
    is_split = min(args.split) >= 0 < args.split[0] and math.isfinite(sum(args.split))
    check(is_split, "--split needs three shares, the first above 0, such as 80 10 10")
    check(args.spacing > 0, f"--spacing {args.spacing} is not a length; give mm above 0")
    is_grid = len(args.grid) in (1, 3) and min(args.grid) >= 16
    check(is_grid, "--grid takes one or three numbers of voxels, each at least 16")
    channels = [name.lower() for name in args.channels or CT]
    is_right = len(set(channels)) == len(channels) <= 4
    check(is_right, "--channels takes one to four modalities, each once")
    check(not is_3d or args.format != "png", "volumes are stored as --format tfrecord alone")
    chosen = vars(args) | {
        "size": size,
        "views": list(DRAWN) if is_drawn else list(dict.fromkeys(args.views or VIEWS)),
        "window": "minmax" if is_drawn else parse_window(args.window, is_mri),
        "channels": channels,
        "labels": parse_labels(args.labels) if is_mri else list(HEAD) if args.synthetic else [],
        "grid": args.grid * (3 // len(args.grid)),
        "format": args.format or ("tfrecord" if is_3d else "png"),
    }
    values = {field.name: chosen[field.name] for field in fields(Options)}
    return Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check(is_right: bool, said: str) -> None:
    """Raise InputError with the sentence `said` unless a value is right."""
    if not is_right:
        raise InputError(said)


def refuse_useless(args: argparse.Namespace, is_drawn: bool) -> None:
    """Raise InputError for options that would change nothing."""
    useless = {"volumes": ("size", "views", "slices")} if args.dimensions == 3 else {}
    useless |= {"slices in pictures": ("window", "views")} if is_drawn else {}
    for things, names in useless.items():
        given = [f"--{name}" for name in names if getattr(args, name) is not None]
        check(not given, f"{' and '.join(given)} would do nothing to {things}: leave them out")


def parse_labels(words: Sequence[str] | None) -> list[int]:
    """The values of a label volume to tell apart, in ascending order."""
    try:
        labels = sorted({int(word) for word in words or (1, 2, 4)})
    except ValueError:
        labels = [0]
    is_right = labels[0] >= 1 and labels[-1] <= 255
    check(is_right, "with --channels, --labels takes whole numbers from 1 to 255")
    return labels


def parse_window(words: Sequence | None, is_mri: bool) -> tuple[float, float] | str:
    """A window in HU, the word hu, or the key of SCALES by which an MRI is normalised."""
    words = list(words or (["zscore"] if is_mri else WINDOW))
    if is_mri:
        is_scale = len(words) == 1 and words[0] in SCALES
        check(is_scale, f"--window needs one of {', '.join(SCALES)} for MRI")
        return words[0]
    if words == ["hu"]:
        return "hu"
    try:
        low, high = map(float, words)
    except ValueError:
        low = high = 0.0
    check(low < high, "--window needs two numbers in HU, the lower first, or the word hu")
    return low, high


# ---------------------------------------------------------------- sources


def to_sources(args: argparse.Namespace, options: Options) -> tuple[list[Source], str]:
    """The scans that a command line asks for, and where they come from in words."""
    if args.channels:
        return find_mri(args, options)
    if args.synthetic is not None:
        return list_synthetic(args)
    if args.labels or args.necks:
        raise InputError("--labels and --necks are for --synthetic N; say how many scans to make")
    if not args.scans:
        raise InputError("nothing to slice; give a folder of SCANS, or --synthetic N")
    pairs = warn_of_rest(find_pairs(args.scans, args.masks))
    words = f"{len(pairs)} scans of {Path(args.scans).resolve().name}"
    return [Source(case, case, scan, mask) for case, scan, mask in pairs], words


def find_mri(args: argparse.Namespace, options: Options) -> tuple[list[Source], str]:
    """The MRI cases that a command line asks for, and where they come from in words."""
    if not args.scans or args.masks or args.synthetic or args.necks:
        raise InputError("--channels takes one folder of cases, and no scans to make")
    folder = Path(args.scans)
    if options.views == DRAWN:
        if args.dimensions == 3:
            raise InputError(f"{folder} holds no NIfTI files, so no volumes can be made of it")
        found = warn_of_rest(find_picture_cases(folder))
        sources = [Source(c, c, folder, pictures=tuple(pairs)) for c, pairs in found.items()]
        return sources, f"slices of {len(found)} cases of {folder.resolve().name}"
    found = warn_of_rest(find_cases(folder, options.channels, parse_names(args.names)))
    sources = [Source(c.name, c.patient, Path(c.name), c.labels, None, c) for c in found]
    return sources, f"{len(found)} cases of {folder.resolve().name}"


def warn_of_rest(found: tuple):
    """The things that a search found; prints a warning for each file that it left over."""
    for line in found[1]:
        warn(line)
    return found[0]


def list_synthetic(args: argparse.Namespace) -> tuple[list[Source], str]:
    """The synthetic scans that a command line asks for, and where they come from in words."""
    maps = args.labels and args.labels[0]
    if args.scans or args.synthetic < 1 or len(args.labels or "1") > 1:
        raise InputError("--synthetic takes a count of at least 1, one --labels and no SCANS")
    sources = make_synthetic_sources(args.synthetic, maps, args.seed)
    used = sorted({source.case for source in sources})
    origin = f"label maps {used[0]} to {used[-1]}" if maps else "phantoms"
    if args.necks:
        origin += f", with necks and chests of {Path(args.necks).resolve().name}"
    return sources, f"{args.synthetic} synthetic head CT and CTA of {origin} (synthetic.py)"


def make_synthetic_sources(count: int, labels: str | Path | None, seed: int) -> list[Source]:
    """`count` synthetic scans, spread evenly over the label maps of a folder; phantoms without."""
    maps = find_label_maps(labels) if labels else []
    sources = []
    for index in range(count):
        # scans of one map stand together: a process then prepares each map once
        path = maps[index * len(maps) // count] if maps else None
        case = get_stem(path) if path else f"phantom_{index:04d}"
        scan = f"{case}_{index:04d}" if path else case
        drawn = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        sources.append(Source(scan, case, path, seed=drawn))
    return sources
