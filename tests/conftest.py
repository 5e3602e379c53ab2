"""What several test files share: one synthetic head, with and without contrast."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import synthetic

SHARED = Path(__file__).parents[2] / "shared/data"
COARSE = {"spacing": 2.5, "thickness": 2.5, "width": 200.0, "length": 180.0}  # mm: soon made


@pytest.fixture(scope="session")
def coarse():
    """Options of synthetic.scan that make a whole head in a second."""
    return COARSE


@pytest.fixture(scope="session")
def cta():
    """The phantom with contrast in its arteries."""
    return synthetic.scan(0, plain=True, phase="arterial", **COARSE)


@pytest.fixture(scope="session")
def plain_ct():
    """The same head without contrast."""
    return synthetic.scan(0, plain=True, phase="none", **COARSE)


@pytest.fixture(scope="session")
def cta_file(cta, tmp_path_factory):
    """The CTA as a NIfTI file."""
    return save_nifti(tmp_path_factory.mktemp("cta") / "cta.nii.gz", cta.hu, cta.affine)


@pytest.fixture(scope="session")
def tumour_case(tmp_path_factory):
    """The folder of a small MRI case: FLAIR, T1ce, and the labels that `tumour_model` finds."""
    from test_mri import egg, layers, write_case

    return write_case(tmp_path_factory.mktemp("mri") / "BraTS_7", layers(), egg())


@pytest.fixture(scope="session")
def tumour_model(tmp_path_factory):
    """A network by slices, exported, that knows a tumour's parts in two modalities."""
    from test_mri import make_network

    from model import export_model

    path = tmp_path_factory.mktemp("network") / "tumour.keras"
    make_network(path, (48, 48), {"views": ["axial", "sagittal"]})
    export_model(path)
    return path


@pytest.fixture(scope="session")
def shared():
    """Gives a path in the folder of real data beside the repository, or skips the test."""

    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"no real data: {SHARED / name} is not there")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def save_nifti_as():
    return save_nifti


def save_nifti(path, array, affine=None, sform=1, qform=1):
    """Write an array as a NIfTI file, HU as int16; return the path."""
    array = np.asarray(array)
    if array.dtype == np.float32 and np.isfinite(array).all():
        array = np.rint(array).astype(np.int16)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header.set_sform(image.affine, sform)
    image.header.set_qform(image.affine, qform)
    nib.save(image, path)
    return path
