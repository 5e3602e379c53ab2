"""Which module handles an input: one for each kind of input, with the same functions.

    kind = choose_kind(path, card)
    source = kind.read(path, wanted, card)             # InputError for what cannot be used
    kind.show(source, folder)                          # what a viewer shows below the mask
    result = kind.predict(source, network)             # a Result
    about = kind.write(target, source, result, wanted, card)    # what the JSON says

To add a kind, write such a module and name it here.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from common.card import Card
from predict import picture
from scan.cases import PICTURES, is_dicom


def choose_kind(path: Path, card: Card) -> ModuleType:
    """The module for an input, by what it is and what the model's card asks for."""
    if path.name.lower().endswith(PICTURES):
        return picture
    # what follows brings SciPy and nibabel, for which a picture need not wait half a second
    if card.is_mri:
        from predict import tumour

        return tumour
    from predict import brain
    from scan.read import has_no_place

    return picture if is_dicom(path) and has_no_place(path) else brain
