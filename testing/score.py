"""A network's masks scored against true ones: slices, whole scans and MRI cases, apart.

    table, failed = score_all(find("FOLDER"), Path("results"), Network("files/model.keras"))

Every mask is the one that pred.py would write. Each item has a row for the brain, or one for each
label and region of an MRI's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from common import SOFTWARE
from common.card import to_contiguous
from common.errors import InputError, printable, warn
from common.files import write_json
from common.progress import track
from common.report import paint_labels
from dataset.read import Pair, note_pair, read_pair
from metrics import region_scores, scores, surface_scores
from predict import brain, picture, tumour
from predict.network import Network
from predict.picture import as_grey, to_stored, write_image
from predict.result import Target, Wanted, plan
from predict.work import choose_kind
from scan.cases import Case
from scan.mask import doubt_mask
from scan.nifti import read_labels, read_noted_mask, write_mask
from scan.views import stack
from scan.volume import Volume, measure_ml

# ---------------------------------------------------------------- one pair


def score(item: Pair | Case, target: Target, network: Network) -> list[dict]:
    """Predict one pair or case, write its pictures and JSON, and return its rows of score.csv.

    Raises InputError when image or mask cannot be used, or the results cannot be written.
    """
    rows, notes = SCORERS[choose_kind(target.path, network.card)](item, target, network)
    for note in notes:
        warn(f"{target.path}: {note}")
    if isinstance(item, Case):
        mask, told = item.labels, {"Case": item.patient, "View": "", "File": target.path}
    else:
        mask, told = item.mask, {"Case": item.case, "View": item.view, "File": item.image}
    rows = [{"Image": target.name} | row for row in rows]
    # JSON knows no NaN
    found = [{name: None if v != v else v for name, v in row.items()} for row in rows]
    about = {
        "input": target.input,  # by which `plan` knows whose folder this is
        "true_mask": str(mask.resolve()),
        "scores": found if len(found) > 1 else found[0],
        "notes": list(notes),
        "software": SOFTWARE,
    }
    write_json(target.json, about)
    return [row | told | {"File": printable(told["File"])} for row in rows]


def score_slice(pair: Pair, target: Target, network: Network) -> tuple[list[dict], tuple]:
    """One row for the brain in a slice, or one for each label and region of an MRI's; and notes."""
    seen, mask = read_pair(pair)
    if mask.ndim > 2:
        raise InputError(f"{pair.image} holds volumes: score the scans that they were made of")
    is_mri = network.card.is_mri
    mask = mask if is_mri else mask > 0
    prediction = picture.find_mask(seen, network).astype(mask.dtype)
    write_pictures(target, seen, mask, prediction, network.card.shown_channel)
    if not is_mri:
        return [row_of(mask, prediction) | {"Kind": "slice"}], note_pair(pair)
    rows = [
        {"Region": name}
        | row_of(np.isin(mask, area), np.isin(prediction, area))
        | {"Kind": "slice"}
        for name, area in network.card.areas.items()
    ]
    return rows, note_pair(pair)


def score_scan(pair: Pair, target: Target, network: Network) -> tuple[list[dict], tuple]:
    """One row, and notes. The PNGs show the axial slice on which the masks differ most.

    HD95 and NSD take voxels as if they stood at right angles: a gantry's tilt is left out.
    """
    scan = brain.read(pair.image, Wanted(series=pair.series, volume=pair.volume))
    mask, said = read_noted_mask(pair.mask, scan)
    doubt = doubt_mask(mask, scan.hu)
    notes = [f"{pair.mask.name}: {note}" for note in said]
    notes += [f"{pair.mask.name} {doubt}"] if doubt else []
    prediction = brain.predict(scan, network).mask
    write_mask(prediction, scan, target.folder / f"{target.name}_predicted_mask.nii.gz")
    seen, *masks = most_different(scan.hu, mask, prediction)
    write_pictures(target, seen.astype(np.float32), *masks)
    row = row_of(mask, prediction) | surface_scores(mask, prediction, scan.spacing)
    row |= {"mL": measure_ml(prediction, scan), "Kind": "scan"}
    return [row], (*scan.notes, *notes)


def score_case(case: Case, target: Target, network: Network) -> tuple[list[dict], tuple]:
    """A row for each label and region of an MRI, and notes; the PNGs as in `score_scan`."""
    card = network.card
    source = tumour.read_mri(case, card)
    truth = to_contiguous(read_labels(case.labels, source.scan), card.label_values.values())
    found = tumour.predict(source, network).mask
    predicted = to_stored(found, card)
    write_mask(predicted, source.scan, target.folder / f"{target.name}_predicted_mask.nii.gz")
    seen, *masks = most_different(source.seen, truth, found)
    write_pictures(target, np.rint(255 * seen).astype(np.uint8), *masks, card.shown_channel)
    rows = [
        {"Region": name} | row_of_region(np.isin(truth, area), np.isin(found, area), source.scan)
        for name, area in card.areas.items()
    ]
    return rows, source.scan.notes


SCORERS = {picture: score_slice, brain: score_scan, tumour: score_case}


def row_of_region(truth: np.ndarray, found: np.ndarray, scan: Volume) -> dict:
    """Scores of one label or region, by BraTS' rule for empty ones, and its volumes."""
    row = region_scores(truth, found, scan.spacing)
    return row | {
        "Dice": row["F1"],
        "mL": measure_ml(found, scan),
        "True mL": measure_ml(truth, scan),
        "Kind": "case",
    }


def most_different(*volumes: np.ndarray) -> list[np.ndarray]:
    """Of an image and two masks (X, Y, Z), the axial slice on which the masks differ most; if they
    do on none, that with most of the mask."""
    image, truth, found = (stack(volume, "axial") for volume in volumes)
    differ = (truth != found).sum(axis=(1, 2))
    index = int((differ + 1e-6 * (truth > 0).sum(axis=(1, 2))).argmax())
    return [image[index], truth[index], found[index]]


def row_of(mask: np.ndarray, prediction: np.ndarray) -> dict:
    """Scores of one mask, and the counts that they can be pooled from."""
    row = scores(mask, prediction)
    return row | {
        "Dice": row["F1"],
        "Brain": int(np.count_nonzero(mask)),
        "Predicted": int(np.count_nonzero(prediction)),
        "Both": int(np.count_nonzero(mask & prediction)),
    }


def write_pictures(target: Target, seen, mask, prediction, channel: int = 0) -> None:
    """Write the three PNGs of a pair, masks (H, W) in white, labels in colours."""
    named = {"original_image": as_grey(seen, channel)}
    for kind, found in (("mask", mask), ("predicted_mask", prediction)):
        named[kind] = np.uint8(255) * found if found.dtype == bool else paint_labels(found)
    for kind, array in named.items():
        path = target.folder / f"{target.name}_{kind}.png"
        write_image(path, np.ascontiguousarray(array))


# ---------------------------------------------------------------- all of them


def score_all(items: list[Pair | Case], out: Path, network: Network):
    """A table of the rows of all pairs and cases (with a column Target), and a list of the errors
    of those that failed."""
    targets = plan([path_of(item) for item in items], out)
    rows, failed = [], []
    for item, target in track(zip(items, targets, strict=True), len(items), "image"):
        try:
            rows += [row | {"Target": target} for row in score(item, target, network)]
        except InputError as error:
            failed.append(str(error))
    return pd.DataFrame(rows), failed


def path_of(item: Pair | Case) -> Path:
    """The path after which a result is named: the picture or scan; of a record a picture of its
    name, of a case a folder of its name."""
    if isinstance(item, Pair):
        return item.image.with_name(f"{item.name}.png") if item.record else item.image
    folder = next(iter(item.files.values())).parent
    return folder if folder.resolve().name == item.name else folder / item.name
