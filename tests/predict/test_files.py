"""Pictures of a result."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from make import save_nifti, write_dicom
from nibabel import orientations

from predict import files
from predict.files import choose_shown, draw_scan
from scan.mask import find_box
from scan.read import read_volume


@pytest.mark.parametrize("axis", range(3))
def test_of_a_thin_scan_only_its_own_slices_are_drawn(axis):
    shape = np.insert([64, 64], axis, 2)
    scan = SimpleNamespace(hu=np.zeros(shape, np.float32), spacing=np.ones(3), notes=())
    height, width = draw_scan(scan, scan.hu > 0, height=64).shape[:2]
    assert 64 < height < 2 * 64 and 2 * 64 < width < 3 * 64  # two pictures, no stripe


def test_a_brain_is_drawn_with_its_surroundings_not_with_the_shoulders(monkeypatch):
    """Of a scan 400 mm wide the sheet shows the brain and AROUND mm on every side, to the edge."""
    hu, brain = np.full((100, 100, 50), -1000.0, np.float32), np.zeros((100, 100, 50), bool)
    brain[40:60, 30:60, 30:50] = True
    box = find_box(brain, 10)
    assert box == (slice(30, 70), slice(20, 70), slice(20, 50))
    hu[box] = np.random.default_rng(0).normal(40, 90, (40, 50, 30))
    scan = SimpleNamespace(hu=hu, spacing=np.full(3, 4.0), notes=())
    part = SimpleNamespace(hu=hu[box], spacing=scan.spacing, notes=())
    monkeypatch.setattr(files, "mark_slice", lambda picture, *marks: picture)  # numbers differ
    sheet = draw_scan(scan, brain, height=64)
    np.testing.assert_array_equal(sheet, draw_scan(part, brain[box], height=64))


# ---------------------------------------------------------------- sides and numbers


NODULE = np.array([45, 70, 8])  # RAS+ voxel: to the right, in front and low; each slice has one
SHAPE = (64, 80, 48)


def phantom():
    """A head (X, Y, Z) RAS+ of 2 mm with a nodule, all in HU, and the nodule alone."""
    at = np.indices(SHAPE) - (np.array(SHAPE) / 2)[:, None, None, None]
    ball = (np.square(at / (np.array(SHAPE) / 2.2)[:, None, None, None])).sum(0) < 1
    near = np.abs(np.indices(SHAPE) - NODULE[:, None, None, None]).max(0) <= 3
    return np.select([near, ball], [300, -60], -1000).astype(np.int16), near


def as_nifti(axes):
    """Writes the phantom with its voxels stored along other axes, as in LPS."""

    def write(folder):
        hu, affine = phantom()[0], np.diag([2.0, 2, 2, 1])
        affine[:3, 3] = -60, -80, -40
        turn = orientations.ornt_transform(
            orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axes)
        )
        stored = orientations.apply_orientation(hu, turn)
        return save_nifti(
            folder / "scan.nii.gz", stored, affine @ orientations.inv_ornt_aff(turn, hu.shape)
        )

    return write


def as_dicom(position, row, column, step):
    """Writes the phantom as slices whose rows and columns run as DICOM's cosines say (LPS)."""

    def write(folder):
        hu = phantom()[0][::-1, ::-1]  # to the left, to the back, to the head
        images = np.stack([hu[:, :, k].T for k in range(SHAPE[2])])[:, :: column[1], :: row[0]]
        start = [0 if row[0] > 0 else 2 * (SHAPE[0] - 1), 0 if column[1] > 0 else 2 * SHAPE[1] - 2]
        places = np.array([[*start, 2.0 * k] for k in range(SHAPE[2])])[::step]
        tags = {"spacing": (2, 2), "PatientPosition": position}
        return write_dicom(folder / "series", images[::step], places, row, column, **tags)

    return write


@pytest.mark.parametrize(
    "write",
    [
        *map(as_nifti, ("RAS", "LAS", "LPS", "RPI", "PIR", "SAL")),
        as_dicom("HFS", (1, 0, 0), (0, 1, 0), 1),
        as_dicom("FFS", (-1, 0, 0), (0, 1, 0), -1),
        as_dicom("HFP", (-1, 0, 0), (0, -1, 0), 1),
    ],
    ids=["RAS", "LAS", "LPS", "RPI", "PIR", "SAL", "HFS", "FFS", "HFP"],
)
def test_every_slice_is_marked_with_its_sides_and_its_number(write, tmp_path, monkeypatch):
    """However a scan is stored: the patient's right is on the left, as in radiology, and numbers
    count from the feet, the back and the left, as in the page's viewer."""
    scan, marked = read_volume(write(tmp_path)), []
    monkeypatch.setattr(files, "mark_slice", lambda *marks: marked.append(marks) or marks[0])
    monkeypatch.setattr(files, "MOST_AXIAL", 999)
    monkeypatch.setattr(files, "MOST_OTHERS", 999)
    draw_scan(scan, phantom()[1], height=160)
    assert {sides for _, _, (sides, *_) in marked} == {"R", "A"}
    numbers = {"RL": [], "AP": []}
    for picture, number, sides in marked:
        bright = np.argwhere(picture.min(axis=2) > 200)
        numbers["".join(sides)].append(number)
        assert len(bright), number
        high, left = bright.mean(axis=0) / np.array(picture.shape[:2]) - 0.5
        assert left < -0.05, "to the right and in front of the middle"
    low, high = NODULE - 3 + 1, NODULE + 3 + 1
    across = [list(range(last, first - 1, -1)) for first, last in zip(low, high, strict=True)]
    assert numbers["RL"] == across[2] + across[1] and numbers["AP"] == across[0]


def test_an_axial_slice_has_the_front_above_and_others_the_head(tmp_path, monkeypatch):
    scan, marked = read_volume(as_nifti("LPS")(tmp_path)), []
    monkeypatch.setattr(files, "mark_slice", lambda *marks: marked.append(marks) or marks[0])
    monkeypatch.setattr(files, "MOST_AXIAL", 1)
    monkeypatch.setattr(files, "MOST_OTHERS", 1)
    draw_scan(scan, phantom()[1], height=160)
    rows = [np.argwhere(p.min(axis=2) > 200).mean(axis=0)[0] / len(p) for p, *_ in marked]
    assert rows[0] < 0.4 and min(rows[1:]) > 0.55, "in front, and low"


def test_sides_that_no_header_says_are_marked_as_doubtful(tmp_path, monkeypatch):
    path, marked = tmp_path / "x.nii.gz", []
    nib.save(nib.Nifti1Image(phantom()[0], None), path)  # its header has no orientation
    monkeypatch.setattr(files, "mark_slice", lambda *marks: marked.append(marks) or marks[0])
    draw_scan(read_volume(path), phantom()[1][::-1, ::-1])
    assert {tuple(sides) for *_, sides in marked} == {("R?", "L?"), ("A?", "P?")}


def test_chosen_slices_are_spread_over_the_brain_from_the_top():
    masks = np.zeros((100, 2, 2), bool)
    masks[20:60, 0, 0] = True
    masks[30] = False  # a gap is shown, too
    assert choose_shown(masks, 100).tolist() == list(range(59, 19, -1))
    few = choose_shown(masks, 4)
    assert few.tolist() == [55, 45, 35, 25]
    assert len(choose_shown(np.zeros((50, 2, 2), bool), 5)) == 5, "no brain: over the scan"
    assert choose_shown(masks[20:21], 4).tolist() == [0]
