"""Score a network's masks against true ones: slices and whole scans, apart from each other.

    python test.py                                     # the Test split of files/dataset
    python test.py FOLDER                              # pairs of pictures, or of NIfTI scans
    python test.py SCANS MASKS --model files/model.keras --out results

FOLDER is a dataset (its Test split is taken), or holds images/ and masks/, or X.png beside
X_mask.png, or X.nii.gz beside X_mask.nii.gz. Every mask is the one that pred.py would write.
Writes results/<name>_prediction/<name>_{original_image,mask,predicted_mask}.png, a row an image to
files/score.csv, and worst, median and best to files/score.png.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import data
import metrics
import pred
import report
import volume
from errors import InputError, replacing, run, warn

COLUMNS = ["Accuracy", "F1", "Jaccard", "Recall", "Precision"]
SPECK = 50  # pixels: a false positive of more than these is counted once more


# ---------------------------------------------------------------- what to score


def find(folder: str | Path, masks: str | Path | None = None) -> list[data.Pair]:
    """The pairs of a folder: of pictures, or of scans where it holds no picture.

    Raises InputError when nothing pairs; files without a partner are named in warnings.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a folder, or make one with data.py")
    if masks is None and folder.is_dir() and is_dataset(folder):
        if pairs := data.read_dataset(folder)["Test"]:
            return pairs
        raise InputError(f"the Test split of {folder} is empty; give its Val folder, or other data")
    endings = data.PICTURES if holds_pictures(folder) else data.SCANS
    pairs, left_over = data.find_pairs(folder, masks, endings)
    for line in left_over:
        warn(line)
    return [data.Pair(image, mask, **data.case_and_view(name)) for name, image, mask in pairs]


def is_dataset(folder: Path) -> bool:
    """Whether the folder has splits, as data.py and others lay them out."""
    return (folder / "dataset.json").exists() or any(
        path.name.lower() == "train" for path in folder.iterdir() if folder.is_dir()
    )


def holds_pictures(path: Path) -> bool:
    """Whether there is a picture in the folder or one level below."""
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    return any(file.name.lower().endswith(data.PICTURES) for file in files)


# ---------------------------------------------------------------- one pair


def score(pair: data.Pair, job: pred.Job, predictor: pred.Predictor) -> dict:
    """Predict one pair, write its pictures and JSON, and return its row of score.csv.

    Raises InputError when image or mask cannot be used, or the results cannot be written.
    """
    is_picture = pair.image.name.lower().endswith(data.PICTURES)
    row = (score_picture if is_picture else score_scan)(pair, job, predictor)
    row = {"Image": job.name} | row
    about = {
        "input": str(pair.image.resolve()),  # by which pred.plan knows whose folder this is
        "true_mask": str(pair.mask.resolve()),
        "scores": {name: None if value != value else value for name, value in row.items()},
    }
    with replacing(job.folder / f"{job.name}.json") as path:
        path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return row | {"Case": pair.case, "View": pair.view, "File": str(pair.image)}


def score_picture(pair: data.Pair, job: pred.Job, predictor: pred.Predictor) -> dict:
    picture, mask = data.read_pair(pair)
    prediction = predictor.predict_slices([picture])[0]
    write_pictures(job, picture, mask, prediction)
    return row_of(mask, prediction) | {"Kind": "slice"}


def score_scan(pair: data.Pair, job: pred.Job, predictor: pred.Predictor) -> dict:
    """As `score_picture`; the PNGs show the axial slice on which the masks differ most."""
    scan = volume.read_volume(pair.image)
    mask = volume.read_mask(pair.mask, scan)
    prediction = predictor.volume(scan).mask
    volume.write_mask(prediction, scan, job.folder / f"{job.name}_predicted_mask.nii.gz")
    pictures, *masks = (data.stack(array, "axial") for array in (scan.hu, mask, prediction))
    differ = (masks[0] != masks[1]).sum(axis=(1, 2))
    index = int((differ + 1e-6 * masks[0].sum(axis=(1, 2))).argmax())
    write_pictures(job, pictures[index].astype(np.float32), masks[0][index], masks[1][index])
    return (
        row_of(mask, prediction)
        | metrics.surface_scores(mask, prediction, scan.spacing)
        | {"mL": metrics.volume_ml(prediction, scan.spacing), "Kind": "scan"}
    )


def row_of(mask: np.ndarray, prediction: np.ndarray) -> dict:
    """Scores of one mask, and the counts that they can be pooled from."""
    found = metrics.scores(mask, prediction)
    return found | {
        "Dice": found["F1"],
        "Brain": int(np.count_nonzero(mask)),
        "Predicted": int(np.count_nonzero(prediction)),
        "Both": int(np.count_nonzero(mask & prediction)),
    }


def write_pictures(job: pred.Job, picture, mask, prediction) -> None:
    """The three PNGs of a pair."""
    named = {"original_image": pred.grey(picture), "mask": mask, "predicted_mask": prediction}
    for kind, array in named.items():
        grey = array if array.dtype == np.uint8 else np.uint8(255) * array
        pred.write_image(job.folder / f"{job.name}_{kind}.png", np.ascontiguousarray(grey))


# ---------------------------------------------------------------- all of them


def score_all(pairs: list[data.Pair], out: Path, predictor: pred.Predictor):
    """Rows of all pairs (a table, with the column Job) and the errors of those that failed."""
    jobs = pred.plan([pair.image for pair in pairs], out)
    rows, failed = [], []
    with tqdm(list(zip(pairs, jobs, strict=True)), unit="image") as bar:
        for pair, job in bar:
            try:
                rows.append(score(pair, job, predictor) | {"Job": job})
            except InputError as error:
                failed.append(str(error))
    return pd.DataFrame(rows), failed


def order_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of score.csv: Image and the five scores first."""
    first = ["Image", *COLUMNS, "Dice", "HD95", "NSD", "mL"]
    kept = [name for name in first if name in table]
    return table[kept + [name for name in table if name not in (*kept, "Job")]]


def summary(table: pd.DataFrame) -> list[str]:
    """What a run prints: slices with a brain, without one, cases, and scans, apart."""
    slices, scans = table[table.Kind == "slice"], table[table.Kind == "scan"]
    brain, empty = slices[slices.Brain > 0], slices[slices.Brain == 0]
    lines = []
    if len(brain):
        means = "  ".join(f"{name} {brain[name].mean():.4f}" for name in COLUMNS)
        lines.append(f"slices with a brain: {len(brain)}, means: {means}")
    if len(empty):
        wrong, large = (empty.Predicted > 0).sum(), (empty.Predicted > SPECK).sum()
        lines.append(
            f"slices without a brain: {len(empty)}, with false positives: {wrong} "
            f"({wrong / len(empty):.1%}), with more than {SPECK} pixels of them: {large} "
            f"({large / len(empty):.1%})"
        )
    known = slices[slices.Case != ""]
    if len(known):
        dice = pooled_dice(known)
        case, view = dice.index[dice.argmin()]
        lines.append(
            f"volumes of slices, one for each case and view: {len(dice)}, Dice mean "
            f"{dice.mean():.4f}, worst {dice.min():.4f} ({case} {view})"
        )
    if len(scans):
        no_number = scans.HD95.isna().sum()
        worst = scans.iloc[scans.Dice.argmin()]
        lines.append(
            f"scans: {len(scans)}, means: Dice {scans.Dice.mean():.4f}  HD95 "
            f"{scans.HD95.mean():.2f} mm  NSD at 1 mm {scans.NSD.mean():.4f}; HD95 not a number: "
            f"{no_number}; worst Dice {worst.Dice:.4f} ({worst.Image})"
        )
    return lines


def pooled_dice(slices: pd.DataFrame) -> pd.Series:
    """Dice of each case and view, over the pixels of all its slices together; 1 if all empty."""
    counts = slices.groupby(["Case", "View"])[["Brain", "Predicted", "Both"]].sum()
    total = counts.Brain + counts.Predicted
    return (2 * counts.Both / total).where(total > 0, 1.0)


def draw_ranking(table: pd.DataFrame, png: Path) -> bool:
    """Worst, median and best of the images with a brain; False when none has one."""
    ranked = table[table.Brain > 0].sort_values("F1", kind="stable")
    if ranked.empty:
        return False
    examples = []
    for title, place in (("worst", 0), ("median", len(ranked) // 2), ("best", -1)):
        row = ranked.iloc[place]
        files = [row.Job.folder / f"{row.Image}_{kind}.png"
                 for kind in ("original_image", "mask", "predicted_mask")]  # fmt: skip
        examples.append((f"{title}: {row.Image}\nF1 {row.F1:.4f}",
                         *(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files)))
    report.ranking(examples, ranked.F1, png)
    return True


# ---------------------------------------------------------------- command line


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", nargs="?", default="files/dataset", help="pairs to score (default: %(default)s)")
    add("masks", nargs="?", help="folder of the true masks, where FOLDER has none")
    add("--model", default=pred.MODEL, help="a network of train.py (default: the shipped one)")
    add("--out", default="results", help="where the result folders go (default: %(default)s)")
    add("--scores", default="files/score.csv", type=Path,
        help="the table; the picture goes beside it (default: %(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    pairs = find(args.folder, args.masks)
    table, failed = score_all(pairs, Path(args.out), pred.Predictor(args.model))
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    if not len(table):
        raise InputError(f"none of the {len(pairs)} pairs could be scored; see above")
    with replacing(args.scores) as path:
        order_columns(table).round(6).to_csv(path, index=False)
    print(*summary(table), sep="\n")
    png = args.scores.with_suffix(".png")
    drawn = f", {png}" if draw_ranking(table, png) else ""
    print(f"each image: {args.scores}{drawn}; masks: {args.out}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
