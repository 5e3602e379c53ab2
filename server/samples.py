"""The samples behind a button of the page: a head CTA, and for networks of MRI a case of tumour.

upload = take_sample(samples, folder, card)         # Upload, or Refused
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.card import Card
from common.errors import InputError
from scan.cases import find_case
from server.uploads import Refused, Upload

SAMPLE = Path(__file__).parents[1] / "results" / "demo" / "sample_cta.nii.gz"
SAMPLE_CASE = SAMPLE.with_name("sample_tumour")


@dataclass(frozen=True)
class Samples:
    """Where a scan (a file) and a case of MRI (a folder) lie, or shall lie."""

    scan: Path = SAMPLE
    case: Path = SAMPLE_CASE


def find_sample(samples: Samples, card: Card) -> dict[str, Path] | None:
    """The files of the sample for a card's network, by channel; None without one."""
    if not card.is_mri:
        return {card.channels[0]: samples.scan}
    try:
        return find_case(samples.case, card.channels).files
    except (InputError, FileNotFoundError):
        return None


def take_sample(samples: Samples, folder: Path, card: Card) -> Upload:
    """The sample for a card's network; a case is linked into a job's input `folder`, named as
    `take_upload` names one."""
    files = find_sample(samples, card)
    if files is None:
        raise Refused("there is no sample for this task; send a case of your own")
    if not card.is_mri:
        return Upload(samples.scan, samples.scan.name)
    case = folder / "case"
    case.mkdir(mode=0o700)
    for channel, path in files.items():
        (case / f"{channel}.{path.name}").symlink_to(path.resolve())
    return Upload(case, samples.case.name)
