"""What several test files share: one synthetic head, with and without contrast."""

import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from ask import MOST_MB, MOST_PARTS, Site, files_in
from make import egg, layers, make_network, save_nifti, write_case

import model
from dataset import plan
from model import build_unet, export_model, save_model
from predict import brain
from predict.network import MODEL, Network
from scan.read import read_volume
from scan.views import normalise, stack
from synthesis.ct import make_scan

SHARED = Path(__file__).parents[2] / "shared/data"
COARSE = {"spacing": 2.5, "thickness": 2.5, "width": 200.0, "length": 180.0}  # mm: soon made


# Files that take a minute and more, in seconds. They come first, so that no worker ends with one
SLOW = {
    "test_train": 200,
    "test_page": 140,
    "test_mri_path": 100,
    "test_tools": 80,
    "test_devices": 80,
    "test_bad_input": 80,
    "test_dicomweb": 60,
    "test_pred": 60,
    "test_learn": 50,
    "test_folds": 50,
}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: -SLOW.get(item.path.stem, 0))


@pytest.fixture(scope="session", autouse=True)
def steady_machine():
    """How fast a machine is differs from time to time; here it never does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "time_matrix", lambda: 1e11)
        yield


@pytest.fixture(scope="module")
def quick_export():
    """A network is not exported in 8 bits, which takes seconds and changes little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "in_eight_bits", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A network to begin with, of another window, spacing and size than usual."""
    path = tmp_path_factory.mktemp("start") / "model.keras"
    said = {"window": [-100, 300], "spacing_mm": 2.5, "sure": 0.8}
    save_model(build_unet((32, 32, 1), 1, 4, 1), path, said)
    return path


@pytest.fixture(scope="session")
def coarse():
    """Options of make_scan that make a whole head in a second."""
    return COARSE


@pytest.fixture(scope="session")
def cta():
    """The phantom with contrast in its arteries."""
    return make_scan(0, plain=True, phase="arterial", **COARSE)


@pytest.fixture(scope="session")
def plain_ct():
    """The same head without contrast."""
    return make_scan(0, plain=True, phase="none", **COARSE)


@pytest.fixture(scope="session")
def cta_file(cta, tmp_path_factory):
    """The CTA as a NIfTI file."""
    return save_nifti(tmp_path_factory.mktemp("cta") / "cta.nii.gz", cta.hu, cta.affine)


@pytest.fixture(scope="session")
def tumour_case(tmp_path_factory):
    """The folder of a small MRI case: FLAIR, T1ce, and the labels that `tumour_model` finds."""
    return write_case(tmp_path_factory.mktemp("mri") / "BraTS_7", layers(), egg())


@pytest.fixture(scope="session")
def tumour_model(tmp_path_factory):
    """A network by slices, exported, that knows a tumour's parts in two modalities."""

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


@pytest.fixture(scope="session")
def network():
    return Network()


@pytest.fixture(scope="session")
def head_slice(cta):
    """An axial slice of the phantom in a CTA's window (H, W) uint8, and its mask."""
    index = int(cta.mask.sum((0, 1)).argmax())
    pictures, masks = stack(cta.hu, "axial"), stack(cta.mask, "axial")
    return np.rint(255 * normalise(pictures[index])).astype(np.uint8), masks[index]


# ---------------------------------------------------------------- a server that is asked


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """Empty folders around the server: the one it works in, its home, the temporary one."""
    around, before = tmp_path_factory.mktemp("around"), os.getcwd()
    patch = pytest.MonkeyPatch()
    for name in ("work", "home", "tmp"):
        (around / name).mkdir()
    os.chdir(around / "work")
    patch.setenv("HOME", str(around / "home"))
    patch.setenv("TMPDIR", str(around / "tmp"))
    patch.setattr(tempfile, "tempdir", None)
    yield around
    os.chdir(before)
    patch.undo()


@pytest.fixture(scope="module")
def sample(cta, tmp_path_factory):
    """Two slices of the head, which are soon predicted."""
    path = tmp_path_factory.mktemp("sample") / "sample.nii.gz"
    return save_nifti(path, cta.hu[:, :, 40:42], cta.affine)


@pytest.fixture(scope="module")
def site(around, sample, tumour_case, tumour_model):
    """A server of two networks at a real socket, which runs one job at a time."""
    from app import PageSettings, create_app
    from server.serve import make_server, open_socket

    settings = PageSettings(
        (MODEL, tumour_model),
        folder=around / "ours",
        sample=sample,
        sample_case=tumour_case,
        workers=1,
        max_mb=MOST_MB,
    )
    served = create_app(settings)
    served.config["MAX_FORM_PARTS"] = MOST_PARTS
    listener = open_socket("127.0.0.1", 0)
    server = make_server(served, listener, settings.limit)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield Site(listener.getsockname()[1], around / "ours", served)
    server.close()
    served.extensions["jobs"].close()
    assert files_in(around) == ["home", "tmp", "work"], "the end leaves something"


@pytest.fixture(scope="module")
def done(site, cta_file):
    """The job of a NIfTI scan that was sent."""
    return site.send(("Doe_Jane cta.nii.gz", cta_file.read_bytes()))


@pytest.fixture(scope="session")
def found(network, cta_file):
    """The mask of the phantom's CTA, as the scan lies in memory."""
    return brain.predict(read_volume(cta_file), network)
