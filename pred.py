"""Predict masks: of one slice, of one scan, of a folder of either; or of MRI cases.

    python pred.py path/to/slice.png           # results/slice_prediction/slice_predicted_mask.png
    python pred.py scan.nii.gz dicom_folder/   # results/scan_prediction/scan_predicted_mask.nii.gz
    python pred.py archive --out masks         # all scans in and below a folder
    python pred.py --list paths.txt --out masks
    python pred.py BIDS --bids --out BIDS/derivatives/brainmask
    python pred.py CASE_FOLDER --model files/tumour_net/model.keras   # the files of one MRI case
    python pred.py scan.nii.gz --model A.keras B.keras      # the mean of several networks
    python pred.py --dicomweb http://HOST:8042/dicom-web --study UID --store   # of a PACS

Beside each mask stand `<name>_overlay.png`, to be looked at, and `<name>.json` with the volume in
mL (of every label and region, where there are several), a verdict on a brain mask (ok, check,
failed) and its reasons, the grid, the model's checksum and what was noticed. Several inputs, of one
run or of many into the same --out, get a table, `summary.csv`, a page, `report.html`, and a record
of each run in `runs`; `python pred.py --collect DIR` writes table and page anew. What is already
done is not done again.

--probabilities adds `<name>_probability.nii.gz` (float32, on the scan's own grid; of several labels
in four dimensions, the JSON's `probability_of` names them in order), for a slice a PNG of 16 bits
for each label (65535 is 1). They are the mean of what the networks said, before it is cleaned and
decided. --uncertainty adds `<name>_uncertainty.nii.gz` and a picture of it, `.png`: the standard
deviation of the probability (of several labels: of any of them) over views, networks, and the image
and its mirror image. The JSON's `uncertainty_ml` is its sum, each voxel times its volume.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.card import Card
from common.cluster import add_cluster_options, check_cluster_options
from common.errors import InputError, printable, run, tell, warn
from common.files import read_json
from common.progress import track
from predict.bids import plan_dataset, write_dataset
from predict.dicomweb import add_dicomweb_options, check_dicomweb_options
from predict.inputs import find_inputs, find_listed, join_inputs, read_list
from predict.manifest import recorded
from predict.network import BACKENDS, MODEL, put_paths_first, read_cards
from predict.result import Target, Wanted, is_done, plan, try_folder
from predict.spread import open_works, parse_part, take_part
from predict.summary import adds_up, collect, collect_anew
from predict.work import Work
from scan.cases import PICTURES, SCANS

FAILED = 3  # exit code of --strict
MOST_BORDER = 50  # mm by which a mask may be grown: a round number, above any margin in use


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_inputs(parser)
    add("--out", default="results", help="where the result folders go (default: %(default)s)")
    add_network(parser)
    add("--series", type=int, metavar="N", help="the DICOM series to take, if not the head CT")
    add("--volume", type=int, metavar="N", help="the volume of a 4-D scan to take, from 1")
    add_outputs(parser)
    add("--collect", metavar="DIR", help="write summary and report of all results below DIR anew")
    add_cluster_options(parser, workers=1)
    said = "do one part of N alone, the same inputs each time: for the jobs of an array"
    add("--part", metavar="K/N", help=said)
    add_dicomweb_options(parser)
    add("--overwrite", action="store_true", help="predict again what is already done")
    strict = f"exit with {FAILED} where a verdict is failed (else with 0)"
    add("--strict", action="store_true", help=strict)
    words = map(protect_name, sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(put_paths_first(list(words)))
    check_dicomweb_options(args)
    if not abs(args.border) <= MOST_BORDER:
        raise InputError(f"--border {args.border:g}: give mm from -{MOST_BORDER} to {MOST_BORDER}")
    check_inputs(args)
    if args.device:
        if args.backend != "openvino":
            raise InputError("--device is for --backend openvino: leave one of them out")
        args.backend = f"openvino:{args.device}"  # as Network takes it
    check_cluster_options(args)
    args.part = parse_part(args.part or "1/1")
    return args


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add what says which scans are masked."""
    add = parser.add_argument
    add(
        "paths",
        nargs="*",
        help="PNG or JPEG slices, NIfTI files, DICOM folders, or folders of these, however deep; "
        "for a network of MRI, folders with a file of each modality",
    )
    add("--list", metavar="FILE", help="a text with a path in each line; - for the standard input")
    bids = "the path is a BIDS dataset, and --out becomes one of its derivatives"
    add("--bids", action="store_true", help=bids)
    subjects = "with --bids: these subjects alone, such as 01 02"
    add("--subjects", nargs="+", default=[], metavar="LABEL", help=subjects)


def check_inputs(args: argparse.Namespace) -> None:
    """Raise InputError where the options do not say which scans are masked."""
    if args.bids and (len(args.paths) != 1 or args.list is not None):
        raise InputError("--bids takes one path, before --subjects: that of the BIDS dataset")
    given = bool(args.paths or args.list is not None), bool(args.collect), bool(args.dicomweb)
    if sum(given) != 1:
        said = "give a scan, a folder of scans, --list FILE, --collect DIR or --dicomweb URL alone"
        raise InputError(f"{said}; see pred.py --help")
    if args.bids and "nii" not in args.format:
        raise InputError("BIDS knows masks in NIfTI alone: with --bids, add nii to --format")
    if args.subjects and not args.bids:
        raise InputError("--subjects are those of a BIDS dataset: add --bids")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which network predicts, and what runs it."""
    add = parser.add_argument
    add(
        "--model",
        nargs="+",
        default=[MODEL],
        help="networks of train.py, of which the mean is taken (default: the shipped one)",
    )
    add(
        "--backend",
        default="openvino",
        choices=list(BACKENDS),
        help="what runs the network; keras takes a GPU if there is one, onnx is ONNX Runtime "
        "(default: %(default)s)",
    )
    device = "of OpenVINO: CPU, GPU, NPU or AUTO, which chooses (default: CPU)"
    add("--device", type=str.upper, help=device)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is written of a result."""
    add = parser.add_argument
    add(
        "--format",
        nargs="+",
        default=["nii"],
        choices=["nii", "dicom-seg", "dicom-sr", "png"],
        help="of a scan's mask; a DICOM SEG, and a DICOM SR with volume and verdict, which brings "
        "its SEG, name the patient as their source does (default: nii)",
    )
    add("--brain", action="store_true", help="write the scan, too, with all but the brain as air")
    add(
        "--border",
        type=float,
        default=0.0,
        metavar="MM",
        help="grow a scan's mask by MM, or shrink it where negative (default: 0)",
    )
    add("--probabilities", action="store_true", help="write the probability of each label, too")
    add("--uncertainty", action="store_true", help="write where views and networks disagree, too")


def protect_name(word: str) -> str:
    """A word of the command line; a scan's name that begins with a dash gets ./ before it."""
    named = word.startswith("-") and word.lower().endswith((*SCANS, *PICTURES, ".zip", ".dcm"))
    return f"./{word}" if named else word


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.collect:
        print(collect_anew(Path(args.collect)))
        return 0
    out, card = Path(args.out), read_cards(args.model)
    if args.dicomweb:
        from predict.studies import mask_studies  # which brings DICOM: other inputs need not wait

        return mask_studies(args, card, to_wanted(args))
    targets = find_targets(args, card, out)
    several = adds_up(out, targets)  # in a part of one input, too
    targets = take_part(targets, args.part)
    wanted = to_wanted(args)
    todo = [t for t in targets if args.overwrite or not is_done(t, card, wanted)]
    done = {t.path: Work(t, about=read_json(t.json)) for t in targets if t not in todo}
    if todo:
        try_folder(out)  # before anything is predicted in vain
    if args.bids:
        write_dataset(out, Path(args.paths[0]), card)
    cluster, model = (args.workers, args.scheduler), (args.model, args.backend)
    with (
        recorded(out if several else None, args, len(targets), len(done)) as add,
        open_works(todo, *cluster, *model, wanted, card) as works,
    ):
        for work in show_progress(works, len(todo)):
            done[work.target.path] = work
            add(work)
            tell_work(work)
    works = [done[target.path] for target in targets]
    failed = sum(work.error is not None for work in works)
    if several:
        collect(out)
    print_results(work for work in works if not work.error)
    if failed and len(works) > 1:
        tell(f"{failed} of {len(works)} inputs failed")
    bad = args.strict and any(work.about.get("verdict") == "failed" for work in works)
    return 2 if failed else FAILED * bad


def find_targets(args: argparse.Namespace, card: Card, out: Path) -> list[Target]:
    """The inputs that a command line names, and where their results go."""
    if args.bids:
        return plan_dataset(Path(args.paths[0]), out, card, args.subjects)
    found = find_inputs(args.paths, card, out)
    if args.list is not None:
        found = join_inputs(found, find_listed(read_list(args.list), card, out))
    return plan(found, out)


def to_wanted(args: argparse.Namespace) -> Wanted:
    """What the command line asks for of each result."""
    names = ("series", "brain", "border", "volume", "probabilities", "uncertainty")
    return Wanted(formats=tuple(args.format), **{name: getattr(args, name) for name in names})


def show_progress(works: Iterator[Work], count: int) -> Iterator[Work]:
    """The works, and how far they are if there are several."""
    return works if count < 2 else track(works, count, "input")


def tell_work(work: Work) -> None:
    """Print what was noticed of an input, or why it has no mask."""
    for note in work.about.get("notes", ()):
        warn(f"{work.target.path}: {note}")
    if work.error:
        tell(f"error: {work.error}")


def print_results(works: Iterable[Work]) -> None:
    """Print where the masks are, and the verdicts on them."""
    for work in works:
        about = work.about
        if "volume_ml" in about:
            size = f"{about['volume_ml']:.0f} mL"
        else:
            size = f"{about.get('brain_pixels', about.get('labelled_pixels'))} px"
        took = f"{about['seconds']} s" if work.seconds else "done before"
        verdict = about.get("verdict", "")
        mask = printable(os.path.normpath(work.target.folder / about["mask"]))
        print(f"{size:>9}  {verdict:<6}  {took:>11}  {mask}")
        if reasons := about.get("reasons"):
            more = f" (and {len(reasons) - 1} more: {work.target.name}.json)" * bool(reasons[1:])
            print(f"{'':>9}  {reasons[0]}{more}")


if __name__ == "__main__":
    run(main, "the same command, without --overwrite, goes on with the inputs that are left")
