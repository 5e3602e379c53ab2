"""A BIDS dataset in, a BIDS derivatives dataset out.

    targets = plan_dataset(dataset, out, card, ["01", "02"])
    write_dataset(out, dataset)
    about = publish(target, about, card)        # once all files of a result are written

The folder of a result stays what it is, below sub-*/[ses-*/]ct/ of the derivatives; BIDS ignores
it. Mask and sidecar are moved beside it, the sidecar last but for the result's JSON: a mask without
a sidecar is not complete. The data type ct is that of BIDS's extension proposal 24, which BIDS
1.11 does not know yet: hence ct/ stands in .bidsignore, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from common import NAME, SOFTWARE, VERSION
from common.card import Card
from common.errors import InputError, explained, printable, warn
from common.files import read_json, write_json, write_text
from common.progress import track
from predict.inputs import holds_case
from predict.result import Target, absolute, name_bids_mask, remove
from scan.cases import find_case, get_stem, list_visible, parse_names

ABOUT = "dataset_description.json"
BIDS_VERSION = "1.10.0"
# What BIDS does not know of what is written. The validator compares folders without their last /
IGNORED = ("**/ct", "**/*_prediction", "/summary.*", "/report.*", "/runs")
MOST_NAMED = 5  # subjects in a message: a line
README = """# {name}

Masks of {software}. They are not made for medical use: look at each before you rely on it.

`sub-*/[ses-*/]{kind}/*_{mask}.nii.gz` is a mask on its scan's own grid. Its `.json` has the volume
and, of a brain, a verdict (ok, check, failed) with reasons. The folder `*_prediction` beside it has
the mask's outline on the scan (`*_overlay.png`), and all that was noticed (`*.json`).
"""


# ---------------------------------------------------------------- what is found


def plan_dataset(
    dataset: Path, out: Path, card: Card, subjects: Sequence[str] = ()
) -> list[Target]:
    """A target for each scan of a BIDS dataset, or of the subjects named: `01` or `sub-01`.

    A scan is sub-*/[ses-*/]ct/*_ct.nii[.gz]; for a network of MRI it is a folder anat that holds
    one of its modalities. Raises InputError where `dataset` is none, holds no scan or lacks a
    subject, and where `out` is the dataset itself or one of other software.
    """
    check_folders(dataset, out)
    kind, targets = name_kind(card), []
    folders = track(find_subjects(dataset, subjects), None, "subject")
    for path in find_scans(folders, kind, card):
        inner = absolute(path).relative_to(absolute(dataset))
        is_case = path.is_dir()  # it is named after its folders
        name = "_".join(inner.parts) if is_case else get_stem(path)
        folder = out / (inner if is_case else inner.parent) / f"{name}_prediction"
        label = printable(inner.as_posix())
        targets.append(Target(path, name, folder, label, f"bids:raw:{inner.as_posix()}"))
    if not targets:
        needed = f"file of {' or '.join(card.channels)}" if card.is_mri else "*_ct.nii[.gz]"
        raise InputError(f"{dataset} has no {needed} in sub-*/[ses-*/]{kind}/; check the names")
    return targets


def check_folders(dataset: Path, out: Path) -> None:
    """Raise InputError for a folder that is no BIDS dataset, or an `out` that others have made."""
    if not (dataset / ABOUT).is_file():
        raise InputError(f"{dataset} has no {ABOUT}; without --bids it is searched as a folder")
    makers = read_json(out / ABOUT).get("GeneratedBy", [])
    ours = any(isinstance(maker, dict) and maker.get("Name") == NAME for maker in makers)
    if (out / ABOUT).exists() and not ours:
        raise InputError(
            f"{out} is a BIDS dataset that {NAME} has not made; give another --out, such as "
            f"{dataset / 'derivatives' / 'brainmask'}"
        )


def find_subjects(dataset: Path, subjects: Sequence[str]) -> list[Path]:
    """The folders of all subjects, or of those named; InputError for one that is missing."""
    there = {path.name: path for path in list_visible(dataset) if path.name.startswith("sub-")}
    wanted = dict.fromkeys(f"sub-{subject.removeprefix('sub-')}" for subject in subjects)
    if missing := [name for name in wanted if name not in there]:
        few, known = ", ".join(missing[:MOST_NAMED]), ", ".join([*there][:MOST_NAMED])
        more = " …" * (len(there) > MOST_NAMED)
        raise InputError(f"{dataset} has no {few}; it has {known or 'no subject'}{more}")
    return [there[name] for name in wanted or there if there[name].is_dir()]


def find_scans(subjects: Iterable[Path], kind: str, card: Card) -> Iterator[Path]:
    """The scans or, of MRI, the folders of cases of some subjects."""
    for subject in subjects:
        sessions = [path for path in list_visible(subject) if path.name.startswith("ses-")]
        for folder in (parent / kind for parent in (subject, *sessions)):
            files = list_visible(folder) if folder.is_dir() else []
            if not card.is_mri:
                yield from choose_scans(files)
            elif holds_case(files, card):
                yield folder


def choose_scans(files: Sequence[Path]) -> Iterator[Path]:
    """The CT scans among files of one folder; of two that their mask's name does not tell apart,
    the first."""
    taken: dict[str, Path] = {}
    for path in (p for p in files if p.name.endswith(("_ct.nii", "_ct.nii.gz"))):
        mask = name_bids_mask(get_stem(path))
        if mask is None:
            warn(f"{path} is not named as BIDS asks; left out")
        elif mask in taken:
            warn(f"{path}: its mask would be called as that of {taken[mask].name}; left out")
        else:
            taken[mask] = path
            yield path


def name_kind(card: Card) -> str:
    """The data type of what a network masks: the name of its folder."""
    return "anat" if card.is_mri else "ct"


# ---------------------------------------------------------------- what is written


def write_dataset(out: Path, dataset: Path, card: Card) -> None:
    """Write what says of `out` that it is a BIDS derivatives dataset; what people have added to
    these files stays."""
    raw, old = read_json(dataset / ABOUT), read_json(out / ABOUT)
    link = quote(Path(os.path.relpath(absolute(dataset), absolute(out))).as_posix())
    source = {"URL": link} | ({"DOI": raw["DatasetDOI"]} if raw.get("DatasetDOI") else {})
    name = f"Masks of {raw.get('Name') or absolute(dataset).name}"
    known = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative"}
    made = {
        "GeneratedBy": [{"Name": NAME, "Version": VERSION} | describe_container()],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link},
    }
    write_json(out / ABOUT, known | old | made)
    if not any(out.glob("README*")):
        mask = "desc-tumour_dseg" if card.is_mri else "desc-brain_mask"
        about = {"name": name, "software": SOFTWARE, "kind": name_kind(card), "mask": mask}
        write_text(out / "README.md", README.format(**about))
    ignored = out / ".bidsignore"
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
    write_text(ignored, "\n".join(dict.fromkeys([*lines, *IGNORED])) + "\n")


def describe_container() -> dict:
    """GeneratedBy's Container, where the environment tells of one: Apptainer and Singularity set
    variables of their own; of any other, CONTAINER_IMAGE may name the image."""
    for variable in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if image := os.environ.get(variable):
            return {"Container": {"Type": "singularity", "Tag": Path(image).name}}
    image = os.environ.get("CONTAINER_IMAGE")
    return {"Container": {"Type": "docker", "Tag": image}} if image else {}


def publish(target: Target, about: dict, card: Card) -> dict:
    """Move a result's mask, and the brain alone, beside its folder, and write the mask's sidecar.

    Returns what the result's JSON says then: its names lead one folder up.
    """
    folder = target.folder.parent
    names = {path.name for path in target.published}
    moved = [n for n in (*about["masks"], about.get("brain")) if n in names]
    with explained(folder):
        for path in target.published:
            if path.name not in moved:
                remove(path)
        for name in moved:
            with suppress(FileNotFoundError):  # another process on the same scan has moved it
                os.replace(target.folder / name, folder / name)
    sidecar = f"{name_bids_mask(target.name, not card.is_mri)}.json"
    write_json(folder / sidecar, describe_mask(target, about, card))
    return about | {
        "masks": [f"../{name}" if name in moved else name for name in about["masks"]],
        **{k: f"../{about[k]}" for k in ("mask", "brain") if about.get(k) in moved},
    }


def describe_mask(target: Target, about: dict, card: Card) -> dict:
    """The sidecar of a mask."""
    sources = [target.bids]
    if card.is_mri:
        files = find_case(target.path, card.channels, parse_names(card.names)).files
        sources = [f"{target.bids}/{path.name}" for path in files.values()]
    said = {
        "Verdict": about.get("verdict"),
        "VerdictReasons": about.get("reasons"),
        "VolumesInMilliliters": about.get("volumes_ml"),
        "LabelValues": about.get("label_values"),
        "Notes": about.get("notes"),
    }
    what = "Tumour labels" if card.is_mri else "Brain mask"
    return {
        **({} if card.is_mri else {"Type": "Brain"}),
        "Description": f"{what} by {SOFTWARE}, on the scan's own grid",
        "Sources": sources,
        "SpatialReference": sources[0],
        "VolumeInMilliliters": about["volume_ml"],
        **{key: value for key, value in said.items() if value is not None},
    }
