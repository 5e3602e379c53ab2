"""A dataset folder made from scans: cases are split, each scan is written, and the whole described.

A scan is finished when its rows lie in .scans; manifest.csv gathers them at the end. So the same
call goes on where an interrupted one stopped, and comes to the same bytes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import SOFTWARE
from common.card import find_regions, to_card
from common.cluster import WorkerDied, spread
from common.errors import InputError, explained, warn
from common.files import read_json, write_text
from common.progress import track
from dataset.options import DRAWN, Options, Source
from dataset.plan import Machine, make_plan
from dataset.read import DESCRIPTION, MANIFEST, SPLITS, name_sample, read_description, read_rows
from dataset.records import ENDING, write_records
from dataset.slices import Sample, cut_scan, fit_sample, keep_slices, load_pictures, load_source
from scan.hu import AIR
from scan.picture import write_picture
from scan.views import normalise

AXES = ("x", "y", "z")  # columns of the voxels of a volume
UNFINISHED = ".scans"  # folder of the rows of each finished scan, until the dataset is finished


def make_dataset(sources, out: str | Path, options: Options, origin: str, client=None) -> int:
    """Write the pairs of every source into a dataset folder; returns how many scans are left out.

    The workers of a `client` (common/cluster.py) do it, where there is one. Goes on where an
    interrupted run of the same options stopped. Raises InputError when the folder was made with
    other options, or when nothing came out.
    """
    out = Path(out)
    splits = split_apart([s.case for s in sources], options)
    split_of = {case: split for split, cases in splits.items() for case in cases}
    content = describe_dataset(sources, options, origin, splits)
    start_dataset(out, content)
    finished = {row["scan"] for row in read_finished(out)}
    todo = [s for s in sources if s.scan not in finished]
    tasks = [(s, split_of[s.case], options, out) for s in todo]
    made, count = spread(client, store_scan, tasks), len(sources)
    left_out = 0
    for (source, *_), found in track(made, count, "scan", done=count - len(todo)):
        died = isinstance(found, WorkerDied)
        notes, is_used = ([f"{source.scan}: {found}"], False) if died else found
        left_out += not is_used
        with tqdm.external_write_mode():
            for line in notes:
                warn(line)
    finish_dataset(out, content, options)
    return left_out


def split_cases(cases, seed: int = 0, shares=(80, 10, 10)) -> dict[str, list[str]]:
    """Cases of each split, drawn with `seed`; the order of `cases` does not matter.

    Shares are rounded by largest remainder. A split with a share gets at least one case as long as
    another has two (so one case alone leaves nothing for Val and Test).
    """
    cases = sorted(set(cases))
    exact = np.array(shares, float) / sum(shares) * len(cases)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: len(cases) - counts.sum()]] += 1
    for index in np.flatnonzero((counts == 0) & (exact > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[index] += 1
    order = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    ends = np.cumsum(counts)
    return {s: sorted(order[e - n : e]) for s, n, e in zip(SPLITS, counts, ends, strict=True)}


def split_apart(cases, options: Options) -> dict[str, list[str]]:
    """As `split_cases`; each split has its share of the corrected cases, and of the others."""
    corrected = set(options.corrected)
    parts = [
        split_cases(part, options.seed, options.split)
        for part in ([c for c in cases if c in corrected], [c for c in cases if c not in corrected])
    ]
    return {split: sorted(part for found in parts for part in found[split]) for split in SPLITS}


def describe_dataset(sources: list[Source], options: Options, origin: str, splits: dict) -> dict:
    """The content of dataset.json: enough to train on the dataset and to make it again."""
    names = options.label_names
    content = {
        "format": options.format,
        "channels": options.channels,
        "dimensions": options.dimensions,
        "normalise": options.window if options.is_mri else "window",
        "labels": names,
        "label_values": dict(zip(names, sorted(options.labels) or [1], strict=True)),
    }
    if regions := find_regions(names):
        content["regions"] = regions
    if options.is_mri:
        content["names"] = options.names
        if sources[0].pictures:
            content["pictures"] = str(sources[0].path.resolve())
    if options.dimensions == 3:
        is_crop = options.fit == "crop"
        content |= {"grid": options.grid or None, "fit": options.fit, "views": ["volume"]}
        content["spacing_mm"] = options.spacing if is_crop else None
    else:
        content |= {"views": options.views, "size": options.size, "field_mm": options.field_mm}
        if options.is_mri and options.views != DRAWN:
            content["spacing_mm"] = options.spacing
    if not options.is_mri:
        content["window"] = options.window
    content |= {
        "cases": {s.scan: name_sources(s) for s in sources if s.mask},
        "splits": splits,
        "seed": options.seed,
        "source": origin,
        "software": SOFTWARE,
        "licence": options.licence,
        "like": options.like,
        "corrected": options.corrected,
        "options": asdict(options) | {"scans": [s.scan for s in sources]},
    }
    return json.loads(json.dumps(content))


def name_sources(source: Source) -> dict:
    """The files that a case was read from, so that it can be scored on its own grid."""
    files = source.modalities.files if source.modalities else {"ct": source.path}
    named = {kind: str(path.resolve()) for kind, path in files.items()}
    chosen = {} if source.modalities else {"series": source.series, "volume": source.volume}
    return {"files": named, "labels": str(source.mask.resolve())} | chosen


def start_dataset(out: Path, content: dict) -> None:
    """Make the folders and dataset.json; or check that a dataset there has the same options."""
    if read_description(out):
        check_same_options(out, content["options"])
    elif any((out / name).exists() for name in (*SPLITS, MANIFEST)):
        raise InputError(f"{out} holds a dataset made elsewhere; choose another --out")
    else:
        write_text(out / DESCRIPTION, json.dumps(content, indent=1) + "\n")
    with explained(out):
        for split in SPLITS:
            for kind in ("images", "masks") if content["format"] == "png" else ("",):
                (out / split / kind).mkdir(parents=True, exist_ok=True)


def check_same_options(out: Path, now: dict) -> None:
    """Raise InputError if a dataset folder was made with options other than `now`."""
    defaults = json.loads(json.dumps(asdict(Options())))  # for options that came later
    then = defaults | read_json(out / DESCRIPTION).get("options", {})
    changes = []
    for key in now:
        old, new = then.get(key), now[key]
        if key == "trust_masks":
            continue  # scans that were left out then may be taken now
        if old != new and key == "scans":
            changes.append(f"other scans: {len(old or [])} then, {len(new)} now")
        elif old != new and key in ("corrected", "lessons"):
            changes.append("masks have been corrected since")
        elif old != new:
            old, new = (" ".join(map(str, v)) if isinstance(v, list) else v for v in (old, new))
            changes.append(f"--{key} was {old}, is now {new}")
    if changes:
        said = f"{out} was made with other options ({'; '.join(changes)})"
        raise InputError(f"{said}; choose another --out, or --overwrite")


def read_finished(out: Path) -> list[dict[str, str]]:
    """Rows of all finished scans: those of the manifest and those that wait to be added to it."""
    files = [out / MANIFEST, *sorted((out / UNFINISHED).glob("*.csv"))]
    rows = itertools.chain.from_iterable(read_rows(file) for file in files if file.exists())
    return list({(row["scan"], row["view"], row["index"]): row for row in rows}.values())


def finish_dataset(out: Path, content: dict, options: Options) -> None:
    """Gather all rows in manifest.csv, in the order of the scans, and split the cases that it has.

    Cases of which nothing came count in no split, so that none is empty for their sake.
    """
    rows = read_finished(out)
    if not rows:
        raise InputError(f"not one slice could be written to {out}; see the lines above")
    pixels = [int(value) for row in rows for name, value in row.items() if "_pixels" in name]
    if not (any(pixels) or options.trust_masks):
        said = f"not one of the {len(rows)} images in {out} has a label; look at the masks"
        raise InputError(f"{said} (see the lines above), or give other --labels with --overwrite")
    order = {scan: place for place, scan in enumerate(content["options"]["scans"])}
    splits = split_apart([row["case"] for row in rows], options)
    rows = [to_split(row, splits, out) for row in sorted(rows, key=lambda row: order[row["scan"]])]
    write_rows(out / MANIFEST, rows)
    found = {"splits": splits}
    if options.dimensions == 3:
        found["shape"] = [int(np.median([int(row[axis]) for row in rows])) for axis in AXES]
    count = sum(row["split"] == "Train" for row in rows)
    found["plan"] = make_plan(to_card(content | found), count, Machine.here())
    write_text(out / DESCRIPTION, json.dumps(content | found, indent=1) + "\n")
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def to_split(row: dict[str, str], splits: dict[str, list[str]], out: Path) -> dict[str, str]:
    """A row as it is in the split of its case; its files are moved there.

    They may lie in any split, after a run that was stopped before it wrote the rows.
    """
    split = next(split for split, cases in splits.items() if row["case"] in cases)
    moved = row | {"split": split}
    for kind in ("image", "mask"):
        name = row[kind].partition("/")[2]
        moved[kind] = f"{split}/{name}"
        if not (out / moved[kind]).exists():
            there = next(out / other / name for other in SPLITS if (out / other / name).exists())
            with explained(out / moved[kind]):
                there.replace(out / moved[kind])
    return moved


def remove_dataset(out: Path) -> None:
    """Delete what `make_dataset` wrote in `out`, and nothing else."""
    if not read_description(out):
        return
    # dataset.json last: if this is stopped half-way, the folder is still known as one of ours
    (out / MANIFEST).unlink(missing_ok=True)
    for name in (UNFINISHED, *SPLITS):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / DESCRIPTION).unlink()


# ---------------------------------------------------------------- one scan


def store_scan(source: Source, split: str, options: Options, out: Path) -> tuple[list[str], bool]:
    """Write the pairs of one scan and, last, its rows in .scans: these say that it is finished.

    This is what a worker process does. Returns warnings, and whether the scan could be used.
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
    rows = store_samples(samples, source, split, options, out)
    write_rows(out / UNFINISHED / f"{source.scan}.csv", rows)
    return [f"{source.path}: {note}" for note in notes], True


def store_samples(samples, source: Source, split: str, options: Options, out: Path) -> list[dict]:
    """Write samples and their masks as PNGs, or into one TFRecord file; returns their rows."""
    rows, record = [], f"{split}/{source.scan}{ENDING}"

    def list_examples() -> Iterator[dict]:
        for sample in samples:
            row = {"split": split, "case": source.case, "scan": source.scan}
            row |= {"view": sample.view, "index": sample.index}
            name = name_sample(source.scan, sample.view, sample.index)
            for kind in ("image", "mask"):
                is_png = options.format == "png"
                row[kind] = f"{split}/{kind}s/{name}.png" if is_png else record
            rows.append(row | measure_sample(sample, options))
            image = quantise_image(sample.image, options)
            said = {key: row[key] for key in ("case", "view", "index")}
            yield {"image": image, "mask": sample.mask} | said

    if options.format == "png":
        for example in list_examples():
            for kind in ("image", "mask"):
                write_picture(out / rows[-1][kind], example[kind])
        return rows
    places = write_records(out / record, list_examples())
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


def measure_sample(sample: Sample, options: Options) -> dict:
    """Measured columns of a row: the spacing, and the count of pixels of each label."""
    row = {"spacing_mm": sample.spacing_mm} if sample.spacing_mm else {}
    if options.dimensions == 3:
        row |= dict(zip(AXES, sample.mask.shape, strict=True))
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
