"""nibabel, loaded without pydicom and quiet: all of the project takes it from here.

from scan.nib import nib
"""

import logging
import sys

sys.modules.setdefault("pydicom", None)  # nibabel would load it (0.3 s) for what we do not use
import nibabel as nib  # noqa: E402

if sys.modules["pydicom"] is None:
    del sys.modules["pydicom"]
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # our one line says it already

__all__ = ["nib"]
