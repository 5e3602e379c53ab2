"""The samples behind a button of the page: a head CTA, and for networks of MRI a case of tumour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.card import Card
from common.errors import InputError, warn
from scan.cases import find_case
from server.uploads import Refused, Upload

SAMPLE = Path(__file__).parents[1] / "results" / "demo" / "sample_cta.nii.gz"
SAMPLE_CASE = SAMPLE.with_name("sample_tumour")


@dataclass(frozen=True)
class Samples:
    """Where a scan (a file) and a case of MRI (a folder) lie, or shall lie."""

    scan: Path = SAMPLE
    case: Path = SAMPLE_CASE

    @property
    def lacks_case(self) -> bool:
        """Whether the case is not there, or was not written to its end: its labels come last."""
        return not list(self.case.glob("*_seg.nii.gz"))

    def make_case(self, write: Callable[[Path], None]) -> None:
        """Have the case written; a page that may write nothing there, as in a container, has
        none."""
        print("making the sample case, once ...", flush=True)
        try:
            write(self.case)
        except (InputError, OSError) as error:
            warn(f"the page has no sample of MRI: {error}")

    def find(self, card: Card) -> dict[str, Path] | None:
        """The files of the sample for a card's network, by channel; None without one."""
        if not card.is_mri:
            return {card.channels[0]: self.scan}
        try:
            return find_case(self.case, card.channels).files
        except (InputError, FileNotFoundError):
            return None

    def take(self, folder: Path, card: Card) -> Upload:
        """The sample for a card's network; a case is linked into a job's input `folder`, named as
        `take_upload` names one. Raises Refused where there is none."""
        files = self.find(card)
        if files is None:
            raise Refused("there is no sample for this task; send a case of your own")
        if not card.is_mri:
            return Upload(self.scan, self.scan.name)
        case = folder / "case"
        case.mkdir(mode=0o700)
        for channel, path in files.items():
            (case / f"{channel}.{path.name}").symlink_to(path.resolve())
        return Upload(case, self.case.name)
