"""What is asked of a prediction, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # which a picture need not wait for
    from predict.verdict import Verdict

FOR_SCANS = "--border, --brain and --format are for scans: a slice's mask is a PNG as it was found"


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for beside the mask itself.

    series: number of the DICOM series, None to choose; formats: of the mask; brain: write the
    brain cut out of the scan; border: mm by which the mask is grown.
    """

    series: int | None = None
    formats: tuple[str, ...] = ("nii",)
    brain: bool = False
    border: float = 0.0

    @property
    def notes_of_slice(self) -> tuple[str, ...]:
        """A note where something is asked for that only a scan's mask can have."""
        asked = self.brain or self.border or self.formats != ("nii",)
        return (FOR_SCANS,) if asked else ()


@dataclass(frozen=True)
class Result:
    """A mask and what was noticed on the way.

    mask: of a picture (H, W), of a scan (X, Y, Z) on its canonical voxels; bool for a brain, uint8
    labels from 1 for an MRI. agreement: Dice of each pair of views, empty for a thin scan.
    verdict: whether to trust a scan's brain mask; None for anything else.
    """

    mask: np.ndarray
    agreement: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
