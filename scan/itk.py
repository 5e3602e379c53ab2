"""NRRD and MetaImage files, as 3D Slicer and ITK write them, read by SimpleITK.

array, affine, notes = load_itk(Path("scan.nrrd"), number=None)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError
from scan.volume import LPS_TO_RAS, choose_volume

ITK = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}


def load_itk(path: Path, number: int | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The array (I, J, K) of a file, its affine to RAS+ world mm, and notes.

    `number`: of the volume in 4-D, from 1. Raises InputError unless there are real numbers in 3-D.
    """
    try:
        import SimpleITK as sitk  # 0.1 s and 260 MB, which most people need not have
    except ImportError as error:
        raise InputError(f"{path}: to read it, run pip install simpleitk==2.5.7") from error
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    try:
        reader.SetImageIO(ITK[path.suffix.lower()])
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) < 3 or 0 in size:
            raise InputError(f"{path} is {len(size)}-D, not a 3-D scan (size {size})")
        values = reader.GetNumberOfComponents()
        index, notes = choose_volume((*size, values), number, path)
        index, value = divmod(index, values)
        place = np.unravel_index(index, size[3:], order="F") if size[3:] else ()
        reader.SetExtractIndex([0, 0, 0, *map(int, place)])
        reader.SetExtractSize([*size[:3], *[0] * len(place)])
        image = reader.Execute()
    except (RuntimeError, UnicodeError) as error:
        kind = "NRRD" if "nrrd" in ITK[path.suffix.lower()].lower() else "MetaImage"
        raise InputError(f"{path} is no readable {kind} image; export it again") from error
    if values > 1:
        image = sitk.VectorIndexSelectionCast(image, value)
    array = sitk.GetArrayFromImage(image).T
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path} holds complex voxels, not HU; give the scan itself")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return array, LPS_TO_RAS @ affine, notes
