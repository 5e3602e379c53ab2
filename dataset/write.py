"""How a scan's samples are stored: PNGs or one TFRecord file, and a row of the manifest for each.

    notes, is_used = store_scan(source, "Train", options, Path("files/dataset"))

This is what a worker process does with one scan.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import write_text
from dataset.options import Options, Source
from dataset.read import name_sample
from dataset.records import ENDING, write_records
from dataset.slices import Sample, cut_scan, fit_sample, keep_slices, load_pictures, load_source
from scan.hu import AIR
from scan.picture import write_picture
from scan.views import normalise


def store_scan(source: Source, split: str, options: Options, out: Path) -> tuple[list[str], bool]:
    """Write the pairs of one scan and, last, its rows in .scans: these say that it is finished.

    Returns warnings, and whether the scan could be used.
    """
    # the same slices are drawn of a scan whichever scans stand beside it
    rng = np.random.default_rng([options.seed, zlib.crc32(source.scan.encode())])
    try:
        if source.pictures:
            images, masks, notes = load_pictures(source, options)
            samples = (
                fit_sample(images[n], masks[n], "slice", source.pictures[n][0], options)
                for n in keep_slices(images, masks, options, rng)
            )
        else:
            scan, image, mask = load_source(source, options)
            samples, notes = cut_scan(scan, image, mask, rng, options), scan.notes
    except InputError as error:
        return [str(error)], False
    write = store_records if options.format == "tfrecord" else store_pictures
    rows = write(samples, source, split, options, out)
    write_rows(out / ".scans" / f"{source.scan}.csv", rows)
    return [f"{source.path}: {note}" for note in notes], True


def store_pictures(samples, source: Source, split: str, options: Options, out: Path) -> list[dict]:
    """Write each sample and its mask as a PNG; returns their rows."""
    rows = []
    for sample in samples:
        name = f"{name_sample(source.scan, sample.view, sample.index)}.png"
        where = {"image": f"{split}/images/{name}", "mask": f"{split}/masks/{name}"}
        write_picture(out / where["image"], quantise_image(sample.image, options))
        write_picture(out / where["mask"], sample.mask)
        rows.append(make_row(sample, source, split, where, options))
    return rows


def store_records(samples, source: Source, split: str, options: Options, out: Path) -> list[dict]:
    """Write all samples of a scan into one TFRecord file; returns their rows."""
    path, rows = f"{split}/{source.scan}{ENDING}", []

    def list_features() -> Iterator[dict]:
        for sample in samples:
            rows.append(make_row(sample, source, split, {"image": path, "mask": path}, options))
            said = {key: rows[-1][key] for key in ("case", "view", "index")}
            yield {"image": quantise_image(sample.image, options), "mask": sample.mask} | said

    places = write_records(out / path, list_features())
    for row, (offset, length) in zip(rows, places, strict=True):
        row |= {"offset": offset, "bytes": length}
    return rows


def quantise_image(image: np.ndarray, options: Options) -> np.ndarray:
    """An image as it is stored: uint8 as a network sees it, or uint16 HU + 1024."""
    if image.dtype == np.uint8:
        return image
    if options.window == "hu":
        return np.clip(np.rint(image - AIR), 0, 4095).astype(np.uint16)
    seen = image if options.is_mri else normalise(image, options.shown)
    return np.rint(seen * 255).astype(np.uint8)


def make_row(sample: Sample, source: Source, split: str, where: dict, options: Options) -> dict:
    """A row of the manifest; it ends with the count of pixels of each label."""
    row = {"split": split, "case": source.case, "scan": source.scan}
    row |= {"view": sample.view, "index": sample.index} | where
    if sample.spacing_mm:
        row["spacing_mm"] = sample.spacing_mm
    counts = np.bincount(sample.mask.ravel(), minlength=256)
    values = range(1, len(options.labels) + 1) if options.labels else (255,)
    for name, value in zip(options.label_names.values(), values, strict=True):
        row[f"{name.replace(' ', '_')}_pixels"] = int(counts[value])
    return row


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write rows as a CSV file with one line of names, whole or not at all."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
