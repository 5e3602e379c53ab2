"""What scores come to: the table's columns, the lines that a run prints, and its picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd

from common.report import plot_boxes, plot_ranking

COLUMNS = ["Accuracy", "F1", "Jaccard", "Recall", "Precision"]
SPECK = 50  # pixels, a round number: a false positive of more than these is counted once more


def order_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of score.csv: Image (and Region) and the five scores first."""
    first = ["Image", "Region", *COLUMNS, "Specificity", "Dice", "HD95", "NSD", "mL"]
    kept = [name for name in first if name in table]
    return table[kept + [name for name in table if name not in (*kept, "Target")]]


def summary(table: pd.DataFrame) -> list[str]:
    """What a run prints: slices with a brain, without one, cases, and scans, apart."""
    if "Region" in table:
        parts = table.groupby("Region", sort=False)
        return [line for region, rows in parts for line in region_lines(region, rows)]
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


def region_lines(region: str, rows: pd.DataFrame) -> list[str]:
    """The scores of one label or region over all cases, or over the slices of each."""
    if rows.Kind.iloc[0] == "slice":
        return slice_lines(region, rows)
    worst = rows.iloc[rows.Dice.argmin()]
    means = "  ".join(
        f"{name} {rows[name].mean():.4f}"
        for name in ("Dice", "Precision", "Recall", "Specificity")
        if name in rows
    )
    if "HD95" in rows:
        means += f"  HD95 {rows.HD95.mean():.2f} mm"
    return [
        f"{region}: {len(rows)} {worst.Kind}s, means: {means}; worst Dice {worst.Dice:.4f} "
        f"({worst.Image})"
    ]


def slice_lines(region: str, rows: pd.DataFrame) -> list[str]:
    """The scores of a label or region in slices: by case, and of the slices that hold none."""
    dice, empty = pooled_dice(rows), rows[rows.Brain == 0]
    lines = [
        f"{region}: {len(dice)} cases, Dice of all slices of a case together: mean "
        f"{dice.mean():.4f}, median {dice.median():.4f}, worst {dice.min():.4f} "
        f"({' '.join(dice.idxmin()).strip()})"
    ]
    if len(empty):
        wrong = (empty.Predicted > 0).sum()
        lines.append(
            f"{region}: {len(empty)} slices without it, with false positives: {wrong} "
            f"({wrong / len(empty):.1%})"
        )
    return lines


def pooled_dice(slices: pd.DataFrame) -> pd.Series:
    """Dice of each case and view, over the pixels of all its slices together; 1 if all empty."""
    counts = slices.groupby(["Case", "View"])[["Brain", "Predicted", "Both"]].sum()
    total = counts.Brain + counts.Predicted
    return (2 * counts.Both / total).where(total > 0, 1.0)


def draw(table: pd.DataFrame, png: Path) -> bool:
    """A box plot of labels and regions, where there are any; else worst, median and best of the
    images with a brain. False when none has one."""
    if "Region" in table and "HD95" in table:
        regions = list(table.groupby("Region", sort=False))
        titles = {"Dice": "Dice", "HD95": "HD95 in mm"}
        panels = {
            title: {region: rows[score] for region, rows in regions}
            for score, title in titles.items()
        }
        plot_boxes(panels, png)
        return True
    if "Region" in table:
        table = of_cases(table)
    ranked = table[table.Brain > 0].sort_values("F1", kind="stable")
    if ranked.empty:
        return False
    examples = []
    for title, rank in (("worst", 0), ("median", len(ranked) // 2), ("best", -1)):
        row = ranked.iloc[rank]
        pictures = [
            cv2.imread(str(row.Target.folder / f"{row.Image}_{kind}.png"), cv2.IMREAD_GRAYSCALE)
            for kind in ("original_image", "mask", "predicted_mask")
        ]
        examples.append((f"{title}: {row.Image}\nF1 {row.F1:.4f}", *pictures))
    plot_ranking(examples, ranked.F1, png)
    return True


def of_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Of each case of slices, the one with most of the first label, with the F1 of the case."""
    rows = table[table.Region == table.Region.iloc[0]]
    largest = rows.loc[rows.groupby(["Case", "View"]).Brain.idxmax()]
    return largest.assign(F1=pooled_dice(rows).to_numpy())
