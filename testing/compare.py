"""Two networks side by side on the same pairs: a table, what it comes to, and a picture.

table = compare(rows_a, rows_b)             # a row for each scan or case (and region)
print(*summarise(table), sep="\\n")
draw_comparison(table, rows_a, rows_b, "files/compare.png")
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from common.report import plot_comparison
from testing.summary import pooled_dice

LISTED = 20  # rows on the terminal. A round number
SHOWN = 3  # scans on which they differ most, in the picture and by name. A round number


def compare(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Dice A, Dice B and their Difference for each scan or case, and region, that both scored.

    `first` and `second` are tables of `score_all`. All slices of a case count together; those
    of no known case count one by one.
    """
    both = [pool(table).rename(f"Dice {name}") for name, table in (("A", first), ("B", second))]
    table = pd.concat(both, axis=1, join="inner").reset_index()
    return table.assign(Difference=table["Dice B"] - table["Dice A"])


def pool(table: pd.DataFrame) -> pd.Series:
    """Dice by name, and region where there are any."""
    table = table.assign(Name=name_units(table), View="")
    if "Region" not in table:
        table["Region"] = ""
    found = {}
    for region, rows in table.groupby("Region", sort=False):
        if rows.Kind.iloc[0] == "slice":
            dice = pooled_dice(rows.assign(Case=rows.Name)).droplevel("View")
        else:
            dice = rows.set_index("Name").Dice
        found |= {(region, name): value for name, value in dice.items()}
    index = pd.MultiIndex.from_tuples(found, names=["Region", "Name"])
    return pd.Series(list(found.values()), index, dtype=float)


def name_units(table: pd.DataFrame) -> pd.Series:
    """What each row counts for: its case if it is a slice of a known one, else its image; or its
    file, where several images have one name."""
    is_part = (table.Kind == "slice") & (table.Case != "")
    files = table.groupby("Image").File.transform("nunique")
    return table.Case.where(is_part, table.Image.where(files == 1, table.File))


def tabulate(table: pd.DataFrame) -> str:
    """The rows in words, those on which the networks differ most first; at most LISTED of them."""
    rows = order_by_difference(table).head(LISTED)
    text = drop_regions(rows).to_string(index=False, float_format="{:.4f}".format)
    more = len(table) - len(rows)
    return text + f"\nand {more} more" * (more > 0)


def drop_regions(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the column Region, where it has none."""
    return table if table.Region.any() else table.drop(columns="Region")


def summarise(table: pd.DataFrame) -> list[str]:
    """What a comparison comes to, in words, for each region."""
    lines = []
    for region, rows in table.groupby("Region", sort=False):
        a, b, change = rows["Dice A"], rows["Dice B"], rows.Difference
        told = f"{region}: " if region else ""
        lines.append(
            f"{told}{len(rows)} scans or cases, Dice of A and B: mean {a.mean():.4f} and "
            f"{b.mean():.4f}, median {a.median():.4f} and {b.median():.4f}; difference: mean "
            f"{change.mean():+.4f}, median {change.median():+.4f}; B is better on "
            f"{(change > 0).sum()}, worse on {(change < 0).sum()}, as good on "
            f"{(change == 0).sum()}; Wilcoxon signed-rank p {tell_p(change)}"
        )
        most = order_by_difference(rows).head(SHOWN)
        named = ", ".join(f"{row.Name} ({row.Difference:+.4f})" for row in most.itertuples())
        lines.append(f"{told}they differ most on {named}")
    return lines


def tell_p(change: pd.Series) -> str:
    """The two-sided p of Wilcoxon's signed-rank test, as SciPy gives it, in words."""
    if not change.any():
        return "1 (there is no difference)"
    return f"{wilcoxon(change).pvalue:.3g}"


def order_by_difference(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, those on which the networks differ most first."""
    return table.sort_values("Difference", key=abs, ascending=False, kind="stable")


def draw_comparison(
    table: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame, png: str | Path
) -> None:
    """Draw each score of A against B's, and the scans on which they differ most.

    Of a scan each network's own worst slice is shown, as test.py has written it; of a case of
    slices that on which their errors differ most.
    """
    examples = []
    for _, row in order_by_difference(table).head(SHOWN).iterrows():
        found = [find_rows(rows, row) for rows in (first, second)]
        place = find_place(*found)
        for name, rows in zip("AB", found, strict=True):
            title = f"{name}: {row.Name} {row.Region}\nDice {row[f'Dice {name}']:.4f}"
            examples.append((title, *read_pictures(rows.iloc[place])))
    plot_comparison(table["Dice A"], table["Dice B"], examples, png)


def find_rows(scores: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The rows of a network's scores that count for a row of a comparison."""
    is_ours = name_units(scores) == row.Name
    return scores[is_ours & (scores.Region == row.Region if row.Region else True)]


def find_place(first: pd.DataFrame, second: pd.DataFrame) -> int:
    """The place of the slice on which the errors of two networks differ most; 0 of a scan."""
    if len(first) < 2:
        return 0
    wrong = [(rows.Brain + rows.Predicted - 2 * rows.Both).to_numpy() for rows in (first, second)]
    return int(np.abs(wrong[0] - wrong[1]).argmax())


def read_pictures(row: pd.Series) -> list[np.ndarray]:
    """Image, true and predicted mask (H, W), uint8, that test.py wrote for a row."""
    start = row.Target.folder / row.Image
    kinds = ("original_image", "mask", "predicted_mask")
    return [cv2.imread(f"{start}_{kind}.png", cv2.IMREAD_GRAYSCALE) for kind in kinds]
