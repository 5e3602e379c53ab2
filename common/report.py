"""Pictures for people: masks drawn over scans, sheets of them, training curves, scores.

    sheet = make_sheet([draw_mask(picture, mask) for picture, mask in slices])
    plot_curves("files/data.csv", "files/curves.png")

Pictures are RGB uint8 arrays (H, W, 3); figures are written to files, whole or not at all.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError, replacing

# Colours are RGB; those of a figure are texts
CYAN, ORANGE = (64, 224, 255), (255, 158, 44)  # of a predicted mask, of a true one
GREEN, RED = (110, 200, 120), (255, 92, 80)
YELLOW, VIOLET, BLUE = (250, 220, 70), (205, 130, 255), (90, 140, 255)
LABEL_COLOURS = (RED, GREEN, YELLOW, VIOLET, BLUE, ORANGE)  # label 1, 2, …; then from RED again
VERDICTS = {"ok": GREEN, "check": ORANGE, "failed": RED}
NIGHT, PALE = (16, 18, 22), (216, 222, 230)  # the ground that scans lie on, and words on it
INK, MUTED = "#d8dee6", "#7d8894"
GAP = 4  # pixels between the pictures of a sheet; chosen by eye
FONT, SMALL = cv2.FONT_HERSHEY_SIMPLEX, 0.42  # it knows no more than ASCII; letters of 9 pixels
LEAST = 40, 60  # pixels, height and width: on less there is no room for a slice's marks. By eye


# ---------------------------------------------------------------- pictures of scans


def draw_mask(picture: np.ndarray, mask: np.ndarray, colour=CYAN, fill=0.08) -> np.ndarray:
    """Draw the mask's outline and a light fill on a picture (H, W) or (H, W, 3), uint8; return it.

    `mask` is (H, W), nonzero inside; the outline, one pixel wide, runs on the mask's outermost
    pixels. `fill` is the share of `colour` within. An empty mask leaves the picture as it is.
    Raises InputError when the sizes differ.
    """
    if picture.shape[:2] != mask.shape:
        raise InputError(f"a mask {mask.shape} cannot be drawn on a picture {picture.shape[:2]}")
    mask = np.ascontiguousarray(mask, bool).astype(np.uint8)
    rgb = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    tints = (1 - fill) * np.arange(256)[:, None] + fill * np.array(colour)  # of each grey value
    drawn = cv2.copyTo(cv2.LUT(rgb, np.rint(tints).astype(np.uint8)[None]), mask, rgb.copy())
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, outlines, -1, colour, 1)


def draw_labels(picture: np.ndarray, labels: np.ndarray, fill: float = 0.25) -> np.ndarray:
    """Draw labels (H, W) as `draw_mask` draws a mask, each in its colour; return the picture."""
    drawn = draw_mask(picture, np.zeros_like(labels))
    for label in np.unique(labels[labels > 0]):
        drawn = draw_mask(drawn, labels == label, label_colour(label), fill)
    return drawn


def draw_heat(picture: np.ndarray, values: np.ndarray, most: float) -> np.ndarray:
    """Paint a map (H, W) from 0 to `most` over a grey picture (H, W), uint8; return the picture.

    The map goes from clear by violet and red to yellow, which hides the picture.
    """
    share = np.clip(values / most, 0, 1)
    colours = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    cover = np.sqrt(share)[..., None]  # low values must be seen, too
    return np.rint((1 - cover) * picture[..., None] + cover * colours[..., ::-1]).astype(np.uint8)


def mark_slice(picture: np.ndarray, number: int, sides: Sequence[str]) -> np.ndarray:
    """Write a slice's number into the corner of its picture (H, W, 3), and the names of its left
    and right side there; return the picture, widened where there is no room."""
    more = np.maximum(np.subtract(LEAST, picture.shape[:2]), 0).tolist()
    edges = [edge for n in more for edge in (n // 2, n - n // 2)]
    marked = cv2.copyMakeBorder(picture, *edges, cv2.BORDER_CONSTANT, value=NIGHT)
    (height, width), (left, right) = marked.shape[:2], sides
    end, middle = width - 3 - measure_text(right), height // 2 + 5
    for text, start, base in ((str(number), 3, 12), (left, 3, middle), (right, end, middle)):
        box = (start - 2, base - 11), (start + measure_text(text) + 1, base + 2)
        cv2.rectangle(marked, *box, NIGHT, cv2.FILLED)  # bone is as bright as the words
        cv2.putText(marked, text, (start, base), FONT, SMALL, PALE, 1, cv2.LINE_AA)
    return marked


def measure_text(text: str) -> int:
    """The width in pixels of a text in small letters."""
    return cv2.getTextSize(text, FONT, SMALL, 1)[0][0]


def label_colour(label: int) -> tuple:
    """The colour of a label from 1 up."""
    return LABEL_COLOURS[(int(label) - 1) % len(LABEL_COLOURS)]


def paint_labels(labels: np.ndarray) -> np.ndarray:
    """Paint labels (H, W) on black; return the picture."""
    colours = [(0, 0, 0), *(label_colour(label) for label in range(1, int(labels.max()) + 1))]
    return np.array(colours, np.uint8)[labels]


def make_sheet(pictures: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Put pictures of any sizes on one sheet, row by row, each centred in its cell.

    Without `columns`, the sheet comes out about half as wide again as high.
    Raises InputError when there is no picture.
    """
    if not len(pictures):
        raise InputError("a sheet needs at least one picture")
    high, wide = np.max([picture.shape[:2] for picture in pictures], axis=0) + GAP
    columns = columns or max(1, round(math.sqrt(1.5 * len(pictures) * high / wide)))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.empty((rows * high + GAP, columns * wide + GAP, 3), np.uint8)
    cv2.rectangle(sheet, (0, 0), sheet.shape[1::-1], NIGHT, cv2.FILLED)  # np.full is far slower
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top = GAP + index // columns * high + (high - GAP - height) // 2
        left = GAP + index % columns * wide + (wide - GAP - width) // 2
        cell = picture if picture.ndim == 3 else picture[..., None]
        sheet[top : top + height, left : left + width] = cell
    return sheet


def add_verdict(sheet: np.ndarray, verdict: str, reasons: Sequence[str] = ()) -> np.ndarray:
    """Put a strip above the sheet (H, W, 3) that says the verdict, in its colour, and reasons."""
    return add_lines(sheet, [(verdict, VERDICTS[verdict]), *((r, PALE) for r in reasons)])


def add_legend(sheet: np.ndarray, names: dict[int, str]) -> np.ndarray:
    """Put a strip above the sheet (H, W, 3) that names the labels, each in its colour."""
    return add_lines(sheet, [(name, label_colour(label)) for label, name in names.items()])


def add_lines(sheet: np.ndarray, lines: Sequence[tuple[str, tuple]]) -> np.ndarray:
    """Put a strip of (text, colour) above the sheet (H, W, 3); texts too long are broken."""
    width = max(20, sheet.shape[1] // 8 - 2)
    rows = []
    for text, colour in lines:
        rows += [(row, colour) for row in textwrap.wrap(text, width, subsequent_indent="  ")]
    strip = np.full((20 * len(rows) + 10, sheet.shape[1], 3), NIGHT, np.uint8)
    for number, (text, colour) in enumerate(rows):
        at = (8, 20 + 20 * number)
        cv2.putText(strip, text.replace("²", "2"), at, FONT, SMALL, colour, 1, cv2.LINE_AA)
    return np.concatenate([strip, sheet])


# ---------------------------------------------------------------- figures


def plot_curves(csv: str | Path, png: str | Path) -> None:
    """Draw every figure of a training log that validation has too, and the learning rate.

    `csv` is train.py's data.csv: a row an epoch, from 1, columns such as dice and val_dice.
    dice_oedema and the like, figures of one label or region, are lines in the panel of dice.
    Raises InputError when there is no row to draw, or when `png` cannot be written.
    """
    import pandas as pd  # late, as matplotlib below: a prediction does not wait for them

    try:
        log = pd.read_csv(csv)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot draw {csv}: {error}") from error
    panels = group_figures([name for name in log if f"val_{name}" in log and name != "positive"])
    names = sorted(panels, key=lambda name: (name != "loss", name != "dice"))
    names += ["learning_rate"] if "learning_rate" in log else []
    if log.empty or not names:
        raise InputError(f"{csv} has no finished epoch to draw")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = make_figure(4.2 * columns, 3.1 * rows, rows, columns)
    for axis, name in zip(axes, names, strict=False):
        plot_panel(axis, log, name, panels.get(name, []))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[: 2 if any(panels.values()) else 1]:
        axis.legend(frameon=False, labelcolor=INK, fontsize=9 if axis is axes[0] else 7)
    save_figure(figure, png)


def group_figures(names: Sequence[str]) -> dict[str, list[str]]:
    """{"dice": ["dice_oedema", …], …}: each figure with those of single labels and regions."""
    parts = {name: [part for part in names if part.startswith(f"{name}_")] for name in names}
    inner = {part for found in parts.values() for part in found}
    return {name: found for name, found in parts.items() if name not in inner}


def plot_panel(axis, log, name: str, parts: Sequence[str]) -> None:
    """Draw one panel: training muted, validation bright, the best validation epoch marked."""
    epochs = np.arange(1, len(log) + 1)  # earlier versions wrote them from 0
    line = {"marker": "o" if len(log) < 3 else None, "ms": 4, "lw": 1.4}
    thin, val = line | {"ms": 3, "lw": 1}, f"val_{name}"
    axis.set_title(name.replace("_", " "), color=INK, fontsize=11, loc="left")
    axis.set_xlabel("epoch", color=MUTED, fontsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if val not in log:
        axis.semilogy(epochs, log[name], color=INK, **line)
        return
    for number, part in enumerate(parts, 1):
        thin["color"], area = to_hex(label_colour(number)), part.removeprefix(f"{name}_")
        axis.plot(epochs, log[part], ":", **thin)
        axis.plot(epochs, log[f"val_{part}"], label=area.replace("_", " "), **thin)
    axis.plot(epochs, log[name], ":" if parts else "-", color=MUTED, label="training", **line)
    axis.plot(epochs, log[val], color=to_hex(CYAN), label="validation", **line | {"lw": 1.8})
    if name == "dice" and log.val_dice.notna().any():
        best, bright = log.val_dice.idxmax(), {"color": to_hex(ORANGE)}
        at = (epochs[best], log.val_dice[best])
        axis.plot(*at, "o", ms=6, **bright)
        below = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        axis.annotate(f"{at[1]:.3f}", at, **below, **bright)


def plot_boxes(panels: dict[str, dict[str, Sequence[float]]], png: str | Path) -> None:
    """Draw a box plot for each score, {"Dice": {"whole tumour": one value a case, …}, …}.

    A box spans the quartiles, its line is the median; every case is a point. Values that are not
    numbers are left out. Raises InputError when `png` cannot be written.
    """
    figure, axes = make_figure(1.2 + 1.1 * sum(map(len, panels.values())), 4, 1, len(panels))
    ink = {"color": INK, "lw": 1.2}
    style = {"boxprops": ink, "whiskerprops": ink, "capprops": ink, "showfliers": False}
    style["medianprops"] = {"color": to_hex(ORANGE)}
    point = {"color": to_hex(CYAN), "ms": 4, "alpha": 0.8}
    for axis, (score, groups) in zip(axes, panels.items(), strict=True):
        values = [np.asarray(group, float) for group in groups.values()]
        values = [group[np.isfinite(group)] for group in values]
        axis.boxplot(values, widths=0.5, **style)
        for number, group in enumerate(values, 1):
            spread = np.linspace(-0.12, 0.12, len(group)) if len(group) > 1 else 0
            axis.plot(number + np.zeros(len(group)) + spread, group, "o", **point)
        names = [textwrap.fill(name, 12) for name in groups]
        axis.set_xticks(range(1, len(names) + 1), names, color=INK, fontsize=8)
        axis.set_title(score, color=INK, fontsize=11, loc="left")
    save_figure(figure, png)


def plot_ranking(examples: Sequence[tuple], values: Sequence[float], png: str | Path) -> None:
    """Draw some examples side by side, and the distribution of all scores.

    `examples` are (title, picture (H, W) uint8, true mask, predicted mask), say worst, median and
    best; `values` all scores in 0..1. Raises InputError when `png` cannot be written.
    """
    figure, axes = make_figure(3.4 * (len(examples) + 1), 3.9, 1, len(examples) + 1)
    for axis, example in zip(axes, examples, strict=False):
        show_example(axis, *example)
    plot_histogram(axes[-1], np.asarray(values, float))
    figure.supxlabel("orange: true mask    cyan: predicted mask", color=MUTED, fontsize=9)
    save_figure(figure, png)


def plot_comparison(first, second, examples: Sequence[tuple], png: str | Path) -> None:
    """Draw the scores of two networks, A and B, on the same scans, and some examples.

    Above the diagonal B is better. `examples` are as in `plot_ranking`, first A's, then B's of each
    scan. Raises InputError when `png` cannot be written.
    """
    columns = 1 + len(examples) // 2
    figure, axes = make_figure(3.6 * columns, 7.2, 2, columns)
    rows = axes[:columns], axes[columns:]
    a, b = np.asarray(first, float), np.asarray(second, float)
    ends = np.array([min(a.min(), b.min()), max(a.max(), b.max())]) + (-0.01, 0.01)
    rows[0][0].plot(ends, ends, color=MUTED, lw=1)
    rows[0][0].plot(a, b, "o", color=to_hex(CYAN), ms=4, alpha=0.8)
    rows[0][0].set_title("Dice: A across, B upwards", color=INK, fontsize=9)
    change = b - a
    rows[1][0].axhline(0, color=MUTED, lw=1)
    rows[1][0].bar(range(len(change)), np.sort(change), color=to_hex(CYAN))
    rows[1][0].set_title("difference of each scan (B - A)", color=INK, fontsize=9)
    rows[1][0].set_xticks([])
    for number, example in enumerate(examples):
        show_example(rows[number % 2][1 + number // 2], *example)
    figure.supxlabel("orange: true mask    cyan: predicted mask", color=MUTED, fontsize=9)
    save_figure(figure, png)


def show_example(axis, title: str, picture, truth, prediction) -> None:
    """Show a picture (H, W) uint8 with the outlines of both masks."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    for mask, colour in ((truth, ORANGE), (prediction, CYAN)):
        if 0 < np.count_nonzero(mask) < mask.size:
            axis.contour(mask, [0.5], colors=[to_hex(colour)], linewidths=1.2)
    axis.set_title(title, color=INK, fontsize=9)
    axis.set_axis_off()


def plot_histogram(axis, values: np.ndarray) -> None:
    """Draw how many scores lie where; the counts on a scale that shows a single bad image."""
    counts, _, _ = axis.hist(values, bins=np.linspace(0, 1, 41), color=to_hex(CYAN), alpha=0.85)
    axis.axvline(np.median(values), color=INK, lw=1)
    axis.set_title(f"{len(values)} scores, median {np.median(values):.3f}", color=INK, fontsize=9)
    axis.set_xlabel("F1 (Dice)", color=MUTED, fontsize=8)
    axis.set_ylabel("scores", color=MUTED, fontsize=8)
    axis.set_yscale("symlog")
    axis.set_yticks([10**power for power in range(1 + math.ceil(math.log10(counts.max() + 1)))])
    axis.yaxis.set_major_formatter("{x:.0f}")


def make_figure(width: float, height: float, rows: int, columns: int):
    """An empty dark figure of `width` x `height` inches, and its panels as a flat list."""
    from matplotlib.figure import Figure  # half a second, which a prediction need not spend

    figure = Figure((width, height), layout="constrained", facecolor=to_hex(NIGHT))
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_facecolor(to_hex(NIGHT))
        axis.tick_params(which="both", colors=MUTED, labelcolor=MUTED, labelsize=8, length=0)
        axis.grid(color="#2a3038", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[:].set_visible(False)
    return figure, axes


def save_figure(figure, png: str | Path) -> None:
    """Write a figure as PNG; InputError when it cannot be written."""
    with replacing(png) as path:
        figure.savefig(path, dpi=140)


def to_hex(colour: tuple) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
