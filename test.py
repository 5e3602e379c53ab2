"""Score a network's masks against true ones: slices and whole scans, apart from each other.

    python test.py                                     # the Test split of files/dataset
    python test.py FOLDER                              # pairs of pictures, or of NIfTI scans
    python test.py SCANS MASKS --model files/model.keras --out results
    python test.py files/tumour --model files/tumour_net/model.keras  # MRI cases, or their folder
    python test.py FOLDER --compare A.keras B.keras     # two networks side by side

FOLDER is a dataset (its Test split is taken), or holds images/ and masks/, or X.png beside
X_mask.png, or X.nii.gz beside X_mask.nii.gz. Every mask is the one that pred.py would write.
Writes results/<name>_prediction/<name>_{original_image,mask,predicted_mask}.png, a row an image to
files/score.csv, and worst, median and best to files/score.png. MRI cases are scored on their own
voxels, whatever the dataset was made of: a row for each label and region, and a box plot.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import InputError, replacing, run, tell
from predict.network import MODEL, Network, put_paths_first, read_cards
from testing.compare import compare, draw_comparison, drop_regions, summarise, tabulate
from testing.find import find
from testing.score import score_all
from testing.summary import draw, order_columns, summary


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", nargs="?", default="files/dataset", help="pairs to score (default: %(default)s)")
    add("masks", nargs="?", help="folder of the true masks, where FOLDER has none")
    networks = "networks of train.py, of which the mean is taken (default: the shipped one)"
    add("--model", nargs="+", default=[MODEL], help=networks)
    add("--out", default="results", help="where the result folders go (default: %(default)s)")
    said = "two networks side by side: both scores of each scan or case, and how they differ"
    add("--compare", nargs=2, metavar=("A", "B"), help=said)
    scores_help = "the table; the picture goes beside it (files/score.csv, or files/compare.csv)"
    add("--scores", type=Path, help=scores_help)
    args = parser.parse_args(put_paths_first(sys.argv[1:] if argv is None else argv))
    args.scores = args.scores or Path("files", "compare.csv" if args.compare else "score.csv")
    return args


def compare_networks(args: argparse.Namespace) -> int:
    """Score two networks on the same pairs, write and print how they differ; the exit code."""
    tables, failed = [], []
    networks = list(map(Network, args.compare))  # refused before any pair is scored
    for name, model, network in zip("AB", args.compare, networks, strict=True):
        pairs = find(args.folder, args.masks, network.card)
        print(f"{name}: {model}")
        table, lines = score_all(pairs, Path(args.out, name), network)
        tables.append(table)
        failed += [line for line in lines if line not in failed]
    for line in failed:
        tell(f"error: {line}")
    if not all(map(len, tables)):
        raise InputError(f"none of the {len(pairs)} pairs could be scored; see above")
    table = compare(*tables)
    if table.empty:
        raise InputError(f"the networks have no score in common: {' and '.join(args.compare)}")
    with replacing(args.scores) as path:
        drop_regions(table).round(6).to_csv(path, index=False)
    png = args.scores.with_suffix(".png")
    draw_comparison(table, *tables, png)
    print(tabulate(table), *summarise(table), sep="\n")
    print(f"each scan: {args.scores}, {png}; masks: {args.out}/A, {args.out}/B")
    return 2 if failed else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.compare:
        return compare_networks(args)
    card = read_cards(args.model)
    pairs = find(args.folder, args.masks, card)
    table, failed = score_all(pairs, Path(args.out), Network(args.model))
    for line in failed:
        tell(f"error: {line}")
    if not len(table):
        raise InputError(f"none of the {len(pairs)} pairs could be scored; see above")
    with replacing(args.scores) as path:
        order_columns(table).round(6).to_csv(path, index=False)
    print(*summary(table), sep="\n")
    png = args.scores.with_suffix(".png")
    drawn = f", {png}" if draw(table, png) else ""
    print(f"each image: {args.scores}{drawn}; masks: {args.out}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
