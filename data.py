"""Scans to slices to pairs: makes the datasets that train.py learns from.

    python data.py SCANS MASKS --out files/dataset     X.nii.gz with a mask of the same name
    python data.py FOLDER                              X.nii.gz beside X_mask.nii.gz; 001/ct.nii.gz
        beside 001/mask.nii.gz; imagesTr and labelsTr of nnU-Net: pairs by what the names share
    python data.py --synthetic 40                      no scan at all: forty phantoms
    python data.py --synthetic 400 --labels DIR --window hu --size 192 --slices 12
    python data.py CASES --out files/tumour            MRI, as BraTS': all modalities and labels
    python data.py CASES --channels flair t1ce --labels 1 2 4 --dimensions 3
    python data.py --results results --out files/mine  what people corrected or rated pass, from
        which train.py --start-from files/model.keras then learns

Writes Train|Val|Test/images|masks/<scan>_<view>_<index>.png, or Train|Val|Test/<scan>.tfrecord.gz,
manifest.csv (one row a pair) and dataset.json (what the dataset is). Cases are split, never slices.
Run the same command again after an interruption and it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.cluster import add_cluster_options, check_cluster_options, open_cluster
from common.errors import InputError, run, warn
from common.files import checksum, plain_name
from dataset.make import make_dataset, remove_dataset
from dataset.measure import measure_sources
from dataset.options import (
    Options,
    Source,
    imitate,
    name_plainly,
    require,
    to_options,
    to_sources,
)
from dataset.plan import describe_plan
from dataset.read import read_dataset, read_description
from predict.lessons import find_lessons
from predict.network import MODEL, read_cards
from scan.cases import find_case, find_patient, parse_names
from scan.views import VIEWS
from scan.volume import POSITIONS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; an option of Options that is not given is None."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scans", nargs="?", help="folder of NIfTI files or DICOM folders, or one of them")
    add("masks", nargs="?", help="folder of masks of like names, unless SCANS holds them too")
    add("--synthetic", type=int, metavar="N", help="make N synthetic scans instead")
    said = "take the masks that people corrected, or rated pass, in a folder of pred.py's results"
    add("--results", metavar="DIR", help=said)
    said = "make what fine-tunes this network: as it saw it (of --results the shipped network)"
    add("--like", metavar="MODEL", help=said)
    said = "with --synthetic, the folder of head label maps to make scans from, else phantoms; "
    said += "of MRI, the label values to tell apart, all else being background (all)"
    add("--labels", nargs="+", metavar="LABEL", help=said)
    said = "SCANS holds MRI cases: the modalities to use (all of BraTS' that each case has)"
    add("--channels", nargs="+", metavar="NAME", help=said)
    said = "how the files of a modality, or of seg, the labels, are called if not as in BraTS"
    add("--names", nargs="+", metavar="NAME=GLOB", default=[], help=said)
    said = "head-and-neck CTs (X_ct.nii.gz with X_oar.nii.gz, 1 = brainstem) that continue them "
    add("--necks", metavar="DIR", help=said + "below the skull")
    add("--position", choices=POSITIONS, help="how the patient lay, for files that do not say")
    said = "use masks that look wrong, too: empty, far too small or large, beside the head"
    add("--trust-masks", action="store_true", help=said)
    add("--licence", metavar="TEXT", help="of the scans or label maps, for the model's card")
    add("--out", default="files/dataset", help="the dataset's folder (%(default)s)")
    add_pictures(add)
    names, said = ("TRAIN", "VAL", "TEST"), "shares of the cases (80 10 10)"
    add("--split", nargs=3, type=float, metavar=names, help=said)
    add("--seed", type=int, help=f"of split, slices and synthetic scans ({Options.seed})")
    add_cluster_options(parser, workers=None)
    add("--overwrite", action="store_true", help="throw away the dataset in --out first")
    return parser.parse_args(argv)


def add_pictures(add) -> None:
    """Add the options that say which slices or volumes are stored, and how."""
    add("--format", choices=("png", "tfrecord"), help="of the pairs (png; tfrecord of volumes)")
    add("--dimensions", type=int, choices=(2, 3), help="slices or volumes (2)")
    add("--size", type=int, help="pixels a side of a slice (512; of MRI as large as the brains)")
    said = "voxels of a volume, one number or three (as many as show something)"
    add("--grid", nargs="+", type=int, metavar="N", help=said)
    said = f"how a volume, cropped to what it shows, comes to --grid ({Options.fit})"
    add("--fit", choices=("crop", "resize"), help=said)
    said = "voxel size of volumes and of MRI's slices (that of the scans, 1 or more)"
    add("--spacing", type=float, metavar="MM", help=said)
    said = "of axial, coronal, sagittal (these three), mip (highest value along z)"
    add("--views", nargs="+", choices=[*VIEWS, "mip"], metavar="VIEW", help=said)
    said = "HU shown in 8 bits (-200 800), or the word hu: 16 bits of HU + 1024; of MRI zscore "
    said += "(the default) or minmax, within the brain"
    add("--window", nargs="+", metavar=("LO", "HI"), help=said)
    add("--slices", type=int, metavar="K", help="at most K slices a view and scan, drawn at random")
    said = "at most this share of slices without brain, or any label; 1 keeps all "
    add("--empty", type=float, metavar="SHARE", help=f"{said}({Options.empty})")
    said = f"drop slices and volumes of which less is labelled, but something ({Options.least})"
    add("--least", type=float, metavar="SHARE", help=said)
    said = "keep slices between these shares of a view's depth (0 1)"
    add("--range", nargs=2, type=float, metavar=("FROM", "TO"), help=said)


def name_whole_paths(args: argparse.Namespace) -> None:
    """Make the paths of a command line absolute: a cluster's workers stand in other folders."""
    for name in ("scans", "masks", "necks", "out", "results"):
        if given := getattr(args, name):
            setattr(args, name, os.path.abspath(given))
    if args.synthetic is not None and args.labels:
        args.labels = list(map(os.path.abspath, args.labels))


def learn_from_results(args: argparse.Namespace, options: Options) -> tuple:
    """Sources of the masks that people corrected or passed, their origin, and the options with the
    cases that were corrected; a warning for each mask that is left out."""
    given = [name for name in ("scans", "masks", "synthetic", "necks") if getattr(args, name)]
    require(not given, f"--results stands alone: leave {' and '.join(given)} out")
    lessons, left_out = find_lessons(Path(args.results).resolve())
    sources, corrected = [], []
    for lesson in lessons:
        name = plain_name(lesson.name)
        chosen = {"series": lesson.series, "volume": lesson.volume}
        if options.is_mri:
            try:
                case = find_case(lesson.scan, options.channels, parse_names(args.names))
            except InputError as error:
                left_out.append(f"{error}; left out")
                continue
            chosen = {"modalities": replace(case, name=name, labels=lesson.mask)}
        sources.append(Source(name, find_patient(name), lesson.scan, lesson.mask, **chosen))
        corrected += [sources[-1].case] * lesson.is_corrected
    for line in left_out:
        warn(line)
    require(sources, f"nothing of {args.results} can be learned from; see the lines above")
    if len(set(corrected)) < 2:
        warn(
            "fewer than two of these masks were corrected: one is learned from, another judges "
            "(one that was passed is the network's own, which no other can better)"
        )
    passed = len(sources) - len(corrected)
    origin = f"{len(corrected)} masks that people corrected and {passed} that they passed"
    masks = tuple(checksum(source.mask) for source in sources)
    return sources, origin, replace(options, corrected=tuple(sorted(corrected)), lessons=masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the dataset that a command line asks for; returns the exit code."""
    args = parse(argv)
    check_cluster_options(args)
    if args.scheduler:
        name_whole_paths(args)
    if args.results:
        args.like = args.like or MODEL
    if args.like:
        require(Path(args.like).is_file(), f"there is no model {args.like}; give one of train.py's")
        imitate(args, read_cards([args.like]))
    options, out = to_options(args), Path(args.out)
    if args.results:
        sources, origin, options = learn_from_results(args, options)
    else:
        sources, origin = to_sources(args, options)
    sources = name_plainly(sources)
    with open_cluster(min(args.workers, len(sources)), args.scheduler) as client:
        options = measure_sources(sources, options, client)
        if args.overwrite:
            remove_dataset(out)
        left_out = make_dataset(sources, out, options, origin, client)
    card = read_description(out)
    splits = card.splits
    counts = ", ".join(f"{split} {len(cases)}" for split, cases in splits.items())
    if sum(map(len, splits.values())) < 10:
        warn(f"fewer than 10 cases: shares can only be met roughly; cases are {counts}")
    pairs = sum(map(len, read_dataset(out).values()))
    print(f"{out}: {pairs} pairs of {len(sources) - left_out} scans (cases: {counts})")
    if options.split[1] and not splits["Val"]:
        more = "correct or pass more masks" if args.results else "add scans"
        warn(f"train.py needs a second case, to validate by: {more}, and make it with --overwrite")
    elif args.like:
        print(f"to learn from it: python train.py --data {out} --start-from {args.like}")
    else:
        print(f"plan of training: {describe_plan(card.plan)}")
    if left_out:
        raise InputError(f"{left_out} of {len(sources)} scans could not be used; see above")
    return 0


if __name__ == "__main__":
    run(main, "the same command, without --overwrite, goes on after the last finished scan")
