"""Pictures for people: masks drawn over scans, sheets of them, training curves, scores.

Pictures are RGB uint8 arrays (H, W, 3); figures are written to files, whole or not at all.
"""

import base64
import html
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from errors import InputError, replacing

CYAN, ORANGE = (64, 224, 255), (255, 158, 44)  # RGB: what was predicted, what is true
GREEN, RED = (110, 200, 120), (255, 92, 80)
YELLOW, VIOLET, BLUE = (250, 220, 70), (205, 130, 255), (90, 140, 255)
LABELS = (RED, GREEN, YELLOW, VIOLET, BLUE, ORANGE)  # label 1, 2, …; then from the first again
VERDICTS = {"ok": GREEN, "check": ORANGE, "failed": RED}
NIGHT = (16, 18, 22)  # the ground that scans lie on
INK, MUTED = "#d8dee6", "#7d8894"


# ---------------------------------------------------------------- pictures of scans


def overlay(
    picture: np.ndarray, mask: np.ndarray, colour: tuple = CYAN, fill: float = 0.08
) -> np.ndarray:
    """The picture (H, W) or (H, W, 3), uint8, with the mask's outline and a light fill.

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


def montage(pictures: Sequence[np.ndarray], columns: int | None = None, gap: int = 4) -> np.ndarray:
    """One sheet of pictures of any sizes, row by row, each centred in its cell.

    Without `columns`, the sheet comes out about half as wide again as high.
    Raises InputError when there is no picture.
    """
    if not len(pictures):
        raise InputError("a montage needs at least one picture")
    high, wide = np.max([picture.shape[:2] for picture in pictures], axis=0) + gap
    columns = columns or max(1, round(math.sqrt(1.5 * len(pictures) * high / wide)))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.empty((rows * high + gap, columns * wide + gap, 3), np.uint8)
    cv2.rectangle(sheet, (0, 0), sheet.shape[1::-1], NIGHT, cv2.FILLED)  # np.full is far slower
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top = gap + index // columns * high + (high - gap - height) // 2
        left = gap + index % columns * wide + (wide - gap - width) // 2
        cell = picture if picture.ndim == 3 else picture[..., None]
        sheet[top : top + height, left : left + width] = cell
    return sheet


def overlay_labels(picture: np.ndarray, labels: np.ndarray, fill: float = 0.25) -> np.ndarray:
    """As `overlay`, of labels (H, W): each with an outline and fill of its own colour."""
    drawn = overlay(picture, np.zeros_like(labels))
    for label in np.unique(labels[labels > 0]):
        drawn = overlay(drawn, labels == label, label_colour(label), fill)
    return drawn


def label_colour(label: int) -> tuple:
    """The colour of a label from 1 up."""
    return LABELS[(int(label) - 1) % len(LABELS)]


def paint(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) as an RGB picture: black where there is none."""
    colours = [(0, 0, 0), *(label_colour(label) for label in range(1, int(labels.max()) + 1))]
    return np.array(colours, np.uint8)[labels]


def captioned(sheet: np.ndarray, verdict: str, reasons: Sequence[str] = ()) -> np.ndarray:
    """The sheet (H, W, 3) below a strip that says the verdict, in its colour, and its reasons."""
    return below_lines(sheet, [(verdict, VERDICTS[verdict]), *((r, PALE) for r in reasons)])


def legend(sheet: np.ndarray, names: dict[int, str]) -> np.ndarray:
    """The sheet (H, W, 3) below a strip that names the labels, each in its colour."""
    return below_lines(sheet, [(name, label_colour(label)) for label, name in names.items()])


PALE = (216, 222, 230)


def below_lines(sheet: np.ndarray, lines: Sequence[tuple[str, tuple]]) -> np.ndarray:
    """The sheet (H, W, 3) below a strip of texts with a colour each, broken where too long."""
    width = max(20, sheet.shape[1] // 8 - 2)
    rows = [(row, colour) for text, colour in lines
            for row in textwrap.wrap(text, width, subsequent_indent="  ")]  # fmt: skip
    strip = np.full((20 * len(rows) + 10, sheet.shape[1], 3), NIGHT, np.uint8)
    for number, (text, colour) in enumerate(rows):
        text = text.replace("²", "2")  # OpenCV's font knows no more than ASCII
        cv2.putText(strip, text, (8, 20 + 20 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1,
                    cv2.LINE_AA)  # fmt: skip
    return np.concatenate([strip, sheet])


# ---------------------------------------------------------------- a page for a run

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Brain masks</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ background: #101216; color: #d8dee6; font: 15px/1.45 system-ui, sans-serif; margin: 2rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .6rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #2a3038 }}
th {{ color: #7d8894; font-weight: 500 }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
img {{ display: block; max-width: 30rem; width: 100% }}
ul {{ margin: 0; padding-left: 1.1rem }} a {{ color: inherit }}
{colours}
</style>
<h1>Brain masks</h1><p>{summary}</p>
<table><tr><th>scan<th><th>verdict<th>reasons and notes<th>mL<th>seconds</tr>
{rows}
</table></html>
"""


def page(rows: Sequence[dict], path: str | Path) -> None:
    """Write one HTML page for a run, with its pictures inside: it opens offline, with no server.

    Each row: name; verdict (a key of VERDICTS, or "" where none is given) and reasons (texts);
    picture, the path of an overlay or None; ml and seconds, numbers or "".
    Raises InputError when `path` cannot be written.
    """
    path = Path(path)
    counts = {v: sum(row["verdict"] == v for row in rows) for v in VERDICTS}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    colours = "\n".join(f".{v} {{ color: {_hex(c)} }}" for v, c in VERDICTS.items())
    body = "\n".join(_row(row, path.parent) for row in rows)
    with replacing(path) as temporary:
        text = PAGE.format(colours=colours, summary=summary, rows=body)
        temporary.write_text(text, encoding="utf-8")


def _row(row: dict, folder: Path) -> str:
    """One scan's line of the page; its thumbnail leads to the overlay itself."""
    name, verdict = html.escape(row["name"]), html.escape(row["verdict"])
    reasons = "".join(f"<li>{html.escape(reason)}" for reason in row["reasons"])
    picture = ""
    if row["picture"] and (small := thumbnail(row["picture"])):
        target = html.escape(os.path.relpath(row["picture"], folder).replace(os.sep, "/"))
        picture = f'<a href="{target}"><img src="{small}" alt="mask of {name}"></a>'
    numbers = "".join(f'<td class="n">{html.escape(str(row[key]))}' for key in ("ml", "seconds"))
    return (f'<tr><td>{name}<td>{picture}<td class="{verdict}">{verdict or "–"}'
            f"<td><ul>{reasons}</ul>{numbers}</tr>")  # fmt: skip


def thumbnail(path: str | Path, width: int = 640) -> str:
    """A picture file as a data: URL of a JPEG no wider than `width`; "" where it is unreadable."""
    picture = cv2.imread(str(path))
    if picture is None:
        return ""
    scale = min(1.0, width / picture.shape[1])
    size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


# ---------------------------------------------------------------- figures


def curves(csv: str | Path, png: str | Path) -> None:
    """Draw every figure of a training log that validation has too, and the learning rate.

    `csv` is train.py's data.csv: a row an epoch, from 0, columns such as dice and val_dice.
    dice_oedema and the like, figures of one label or region, are lines in the panel of dice.
    Raises InputError when there is no row to draw, or when `png` cannot be written.
    """
    import pandas as pd  # as matplotlib below: a prediction need not wait for it

    try:
        log = pd.read_csv(csv)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot draw {csv}: {error}") from error
    panels = panels_of([name for name in log if f"val_{name}" in log and name != "positive"])
    names = sorted(panels, key=lambda name: (name != "loss", name != "dice"))
    names += ["learning_rate"] if "learning_rate" in log else []
    if log.empty or not names:
        raise InputError(f"{csv} has no finished epoch to draw")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = _figure(4.2 * columns, 3.1 * rows, rows, columns)
    for axis, name in zip(axes, names, strict=False):
        _curve(axis, log, name, panels.get(name, []))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[: 2 if any(panels.values()) else 1]:
        axis.legend(frameon=False, labelcolor=INK, fontsize=9 if axis is axes[0] else 7)
    _write(figure, png)


def panels_of(names: Sequence[str]) -> dict[str, list[str]]:
    """{"dice": ["dice_oedema", …], …}: each figure with those of single labels and regions."""
    parts = {name: [part for part in names if part.startswith(f"{name}_")] for name in names}
    inner = {part for found in parts.values() for part in found}
    return {name: found for name, found in parts.items() if name not in inner}


def _curve(axis, log, name: str, parts: Sequence[str]) -> None:
    """One panel: training muted, validation bright, the best validation epoch marked."""
    epochs, marker = log.epoch + 1, "o" if len(log) < 3 else None
    axis.set_title(name.replace("_", " "), color=INK, fontsize=11, loc="left")
    axis.set_xlabel("epoch", color=MUTED, fontsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if f"val_{name}" not in log:
        axis.semilogy(epochs, log[name], color=INK, lw=1.4, marker=marker, ms=4)
        return
    for number, part in enumerate(parts, 1):
        colour, words = _hex(label_colour(number)), part.removeprefix(f"{name}_").replace("_", " ")
        axis.plot(epochs, log[part], ":", color=colour, lw=1, marker=marker, ms=3)
        axis.plot(epochs, log[f"val_{part}"], color=colour, lw=1, marker=marker, ms=3, label=words)
    axis.plot(epochs, log[name], ":" if parts else "-", color=MUTED, lw=1.4, marker=marker, ms=4,
              label="training")  # fmt: skip
    axis.plot(epochs, log[f"val_{name}"], color=_hex(CYAN), lw=1.8, marker=marker, ms=4,
              label="validation")  # fmt: skip
    if name == "dice" and log.val_dice.notna().any():
        best = log.val_dice.idxmax()
        axis.plot(epochs[best], log.val_dice[best], "o", color=_hex(ORANGE), ms=6)
        axis.annotate(f"{log.val_dice[best]:.3f}", (epochs[best], log.val_dice[best]),
                      (0, -14), textcoords="offset points", color=_hex(ORANGE), fontsize=9,
                      ha="center")  # fmt: skip


def boxes(panels: dict[str, dict[str, Sequence[float]]], png: str | Path) -> None:
    """Draw a box plot for each score, {"Dice": {"whole tumour": one value a case, …}, …}.

    A box spans the quartiles, its line is the median; every case is a point. Values that are no
    number are left out. Raises InputError when `png` cannot be written.
    """
    figure, axes = _figure(1.2 + 1.1 * sum(map(len, panels.values())), 4, 1, len(panels))
    for axis, (score, groups) in zip(axes, panels.items(), strict=True):
        values = [np.asarray(group, float) for group in groups.values()]
        values = [group[np.isfinite(group)] for group in values]
        lines = {"color": INK, "lw": 1.2}
        axis.boxplot(values, widths=0.5, showfliers=False, medianprops={"color": _hex(ORANGE)},
                     boxprops=lines, whiskerprops=lines, capprops=lines)  # fmt: skip
        for place, group in enumerate(values, 1):
            spread = np.linspace(-0.12, 0.12, len(group)) if len(group) > 1 else 0
            axis.plot(place + np.zeros(len(group)) + spread, group, "o", color=_hex(CYAN), ms=4,
                      alpha=0.8)  # fmt: skip
        names = [textwrap.fill(name, 12) for name in groups]
        axis.set_xticks(range(1, len(names) + 1), names, color=INK, fontsize=8)
        axis.set_title(score, color=INK, fontsize=11, loc="left")
    _write(figure, png)


def ranking(examples: Sequence[tuple], values: Sequence[float], png: str | Path) -> None:
    """Draw some examples side by side, and how the scores of all lie.

    `examples` are (title, picture (H, W) uint8, true mask, predicted mask), say worst, median and
    best; `values` all scores in 0..1. Raises InputError when `png` cannot be written.
    """
    figure, axes = _figure(3.4 * (len(examples) + 1), 3.9, 1, len(examples) + 1)
    for axis, (title, picture, truth, prediction) in zip(axes, examples, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        for mask, colour in ((truth, ORANGE), (prediction, CYAN)):
            if 0 < np.count_nonzero(mask) < mask.size:
                axis.contour(mask, [0.5], colors=[_hex(colour)], linewidths=1.2)
        axis.set_title(title, color=INK, fontsize=9)
        axis.set_axis_off()
    _histogram(axes[-1], np.asarray(values, float))
    figure.supxlabel("orange: true mask    cyan: predicted mask", color=MUTED, fontsize=9)
    _write(figure, png)


def _histogram(axis, values: np.ndarray) -> None:
    """How many scores lie where; the count on a scale on which one bad image shows."""
    counts, _, _ = axis.hist(values, bins=np.linspace(0, 1, 41), color=_hex(CYAN), alpha=0.85)
    axis.axvline(np.median(values), color=INK, lw=1)
    axis.set_title(f"{len(values)} scores, median {np.median(values):.3f}", color=INK, fontsize=9)
    axis.set_xlabel("F1 (Dice)", color=MUTED, fontsize=8)
    axis.set_ylabel("images", color=MUTED, fontsize=8)
    axis.set_yscale("symlog")
    axis.set_yticks([10**power for power in range(1 + math.ceil(math.log10(counts.max() + 1)))])
    axis.yaxis.set_major_formatter("{x:.0f}")


def _figure(width: float, height: float, rows: int, columns: int):
    """An empty dark figure of `width` x `height` inches, and its panels as a flat list."""
    from matplotlib.figure import Figure  # half a second, which a prediction need not spend

    figure = Figure((width, height), layout="constrained", facecolor=_hex(NIGHT))
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_facecolor(_hex(NIGHT))
        axis.tick_params(which="both", colors=MUTED, labelcolor=MUTED, labelsize=8, length=0)
        axis.grid(color="#2a3038", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[:].set_visible(False)
    return figure, axes


def _write(figure, png: str | Path) -> None:
    with replacing(png) as path:
        figure.savefig(path, dpi=140)


def _hex(colour: tuple) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
