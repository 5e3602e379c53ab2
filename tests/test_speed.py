"""What makes predicting light: few packages, folders in a pipeline, one pass over large masks."""

import csv
import json
import subprocess
import sys
import threading
import weakref
from importlib.metadata import packages_distributions
from pathlib import Path

import cv2
import inputs
import nibabel as nib
import numpy as np
import pytest
import run as benchmark
from packaging.utils import canonicalize_name
from pydicom.data import get_testdata_file
from scipy import ndimage
from test_setup import needed, requirements

from common.errors import InputError
from pred import main
from predict import brain, picture
from predict.brain import NO_HEAD, crop_grid
from predict.network import Network
from predict.result import Target
from predict.work import Work, in_background, timed
from scan.mask import tidy_mask
from scan.read import read_volume
from scan.resample import straighten

ROOT = Path(__file__).parents[1]
SLICE = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)  # of a head, compressed


def pins(name):
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in sum(requirements(name), [])}


# ---------------------------------------------------------------- packages


def test_who_predicts_installs_the_same_versions_as_who_trains():
    light, whole = pins("requirements-predict.txt"), pins("requirements.txt")
    assert light.items() <= whole.items()
    assert not {"tensorflow", "keras", "matplotlib", "pandas", "scikit-learn"} & set(light)


def test_who_predicts_installs_what_its_packages_need():
    direct, transitive = (
        {canonicalize_name(pin.name) for pin in half}
        for half in requirements("requirements-predict.txt")
    )
    found, todo = set(direct), set(direct)
    while todo:
        new = needed(todo.pop()) - found
        found |= new
        todo |= new
    assert found - direct <= transitive
    # Python 3.11 needs these two, 3.13 no longer does
    assert transitive - found <= {"importlib-resources", "typing-extensions"}


def run_python(code, *words):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK = """
import sys
blocked = set(sys.argv.pop(1).split())
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not in requirements-predict.txt")
sys.meta_path.insert(0, Refuse())
import pred
sys.exit(pred.main())
"""


def test_predicting_needs_no_other_package(cta_file, tmp_path):
    """A slice, a scan and DICOM, in every format, with all else made impossible to import."""
    allowed = set(pins("requirements-predict.txt"))
    blocked = {
        package
        for package, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & allowed
    }
    assert {"keras", "tensorflow", "matplotlib", "pandas"} <= blocked
    picture = tmp_path / "slice.png"
    cv2.imwrite(str(picture), np.zeros((64, 64), np.uint8))
    run_python(
        BLOCK,
        " ".join(blocked),
        cta_file,
        picture,
        "--format",
        "nii",
        "png",
        "--brain",
        "--border",
        "1",
        "--out",
        tmp_path / "out",
    )
    run_python(
        BLOCK, " ".join(blocked), SLICE, "--format", "nii", "dicom-seg", "--out", tmp_path / "out"
    )
    about = json.loads((tmp_path / "out/cta_prediction/cta.json").read_text())
    assert about["volume_ml"] > 500
    assert list((tmp_path / "out").rglob("*.dcm"))


def test_a_picture_waits_for_no_package_that_only_scans_need(tmp_path):
    picture = tmp_path / "slice.png"
    cv2.imwrite(str(picture), np.zeros((64, 64), np.uint8))
    loaded = run_python(
        "import sys, pred; pred.main(); from predict.picture import clean_slice; "
        "import numpy; clean_slice(numpy.eye(64) > 0); print(*sys.modules)",
        picture,
        "--out",
        tmp_path / "out",
    )
    heavy = {
        "nibabel",
        "pydicom",
        "pandas",
        "matplotlib",
        "tqdm",
        "synthesis",
        "highdicom",
        "scipy.ndimage",
    }
    assert not heavy & set(loaded.split())


def test_a_nifti_scan_waits_for_no_package_that_only_dicom_needs(cta_file, tmp_path):
    run = "import sys, pred; pred.main(); print(*sys.modules)"
    loaded = run_python(run, cta_file, "--out", tmp_path / "out").split()
    assert "nibabel" in loaded
    assert not {"pydicom", "highdicom", "gdcm", "requests"} & set(loaded)


# ---------------------------------------------------------------- folders


def test_the_next_is_begun_before_the_last_is_used():
    begun, seen = threading.Event(), []

    def work(number):
        if number == 1:
            begun.set()
        return number * number

    for result in in_background(work, range(5)):
        assert begun.wait(10), "the second must be under way while the first is used"
        seen.append(result)
    assert seen == [0, 1, 4, 9, 16]


def test_no_more_than_one_is_begun_ahead():
    begun = []
    results = in_background(lambda n: begun.append(n) or n, iter(range(100)))
    for used in range(10):
        next(results)
        assert len(begun) <= used + 2


def test_nothing_is_nothing_in_the_background_too():
    assert list(in_background(str, [])) == []


def write_slices(folder, count):
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"s{number:02d}.png"), np.full((64, 64), 9, np.uint8))


def test_memory_stays_flat_over_a_folder(tmp_path, monkeypatch):
    """At most three inputs are in memory at any time, however many there are."""
    write_slices(tmp_path / "in", 12)
    alive, most, read_noted = weakref.WeakSet(), [], picture.read_noted

    class Picture(np.ndarray):  # of which weak references can be kept in a set
        __hash__ = object.__hash__

    def read(path):
        seen, notes = read_noted(path)
        seen = seen.view(Picture)
        alive.add(seen)
        most.append(len(alive))
        return seen, notes

    monkeypatch.setattr(picture, "read_noted", read)
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert len(most) == 12 and max(most) <= 4  # the one just read, too


def test_the_summary_tells_all_inputs(tmp_path, cta_file):
    write_slices(tmp_path / "in", 2)
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"nothing")
    words = [str(tmp_path / "in"), str(cta_file), "--out", str(tmp_path / "out")]
    for _ in range(2):  # the second time, all is done that can be
        assert main(words) == 2
        with open(tmp_path / "out" / "summary.csv", newline="") as file:
            rows = {row["scan"]: row for row in csv.DictReader(file)}
        assert list(rows) == ["broken.nii.gz", "cta.nii.gz", "s00.png", "s01.png"]
        assert 500 < float(rows["cta.nii.gz"]["mL"]) < 2500
        assert rows["cta.nii.gz"]["verdict"] == "ok" and rows["s00.png"]["verdict"] == ""
        assert float(rows["cta.nii.gz"]["seconds"]) > 0
        assert "no brain" in rows["s00.png"]["warnings"] and rows["s00.png"]["mL"] == ""
        assert rows["broken.nii.gz"]["warnings"].startswith("error: ")


def test_a_step_keeps_its_error_and_is_left_out_afterwards():
    def fail(work):
        raise InputError("no")

    work = Work(Target(Path("a.png"), "a", Path("out")), source=np.zeros(3))
    assert timed(fail)(work) is work and str(work.error) == "no" and work.source is None
    timed(lambda work: pytest.fail("must not be called"))(work)


# ---------------------------------------------------------------- quick ways to the same answer


@pytest.mark.parametrize("seed", range(8))
def test_tidy_keeps_the_largest_part_and_fills_it(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.random((30, 34, 28)), 1) > 0.5 + 0.01 * (seed % 3)
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    assert (tidy_mask(mask) == ndimage.binary_fill_holes(parts == sizes.argmax())).all()


def test_tidy_of_nothing_is_nothing():
    assert not tidy_mask(np.zeros((3, 4, 5), bool)).any()


@pytest.mark.parametrize("count", [1, 5, 16, 17, 40])
def test_batches_of_one_shape_give_the_probabilities_of_single_pictures(count):
    network, shapes = Network(), set()
    run = network.run

    def watched(pictures):
        shapes.add(pictures.shape)
        return run(pictures)

    network.run = watched
    pictures = np.random.default_rng(0).random((count, 40, 50), np.float32)
    together = network.probabilities(pictures)
    assert together.shape[:3] == pictures.shape and len(shapes) == 1
    alone = network.probabilities(pictures[-1:])
    np.testing.assert_allclose(together[-1], alone[0], atol=0.02)


def test_a_head_seen_only_coarsely_is_none(cta_file, monkeypatch):
    network = Network()
    run, coarse = network.run, brain.find_head

    def find_head(scan, network):
        boxes = coarse(scan, network)
        network.run = lambda pictures: np.eye(3, dtype=np.float32)[
            np.zeros(run(pictures).shape[:-1], int)
        ]
        return boxes

    monkeypatch.setattr(brain, "find_head", find_head)
    result = brain.predict(read_volume(cta_file), network)
    assert not result.mask.any() and result.notes == (NO_HEAD,)


def test_the_part_of_a_grid_close_to_a_mask_lies_where_the_mask_does(cta_file):
    scan = read_volume(cta_file)
    cubes, grid = straighten(scan.hu, scan, 4.0)
    mask = np.zeros(cubes.shape, bool)
    mask[10:20, 1:9, 30:32] = True
    part = crop_grid(grid, mask)
    assert part.shape == (16, 12, 8), "one cube is missing at the scan's face"
    np.testing.assert_allclose(part.start, grid.start + 4.0 * np.array([7, 0, 27]))


# ---------------------------------------------------------------- benchmarks


def test_benchmark_inputs_are_the_same_each_time():
    hu = np.random.default_rng(0).uniform(-1000, 1000, (20, 20, 300)).astype(np.float32)
    scans = [inputs.enlarge(hu, 5, 5.0, seed) for seed in (1, 1, 2)]
    assert scans[0].shape == (512, 512, 5) and scans[0].dtype == np.int16
    assert (scans[0] == scans[1]).all() and not (scans[0] == scans[2]).all()
    assert (scans[0][0, 0] == -1024).all(), "outside the round field of view"


def test_a_process_is_measured_and_stopped(tmp_path):
    # more than the tests themselves take: Linux counts the parent's memory as the child's first
    hungry = "import time; block = bytearray(b'x') * 1_000_000_000; time.sleep(0.3)"
    found = benchmark.measure([sys.executable, "-c", hungry], tmp_path / "log", 60)
    assert found["seconds"] >= 0.3 and found["peak_mb"] > 900
    with pytest.raises(InputError, match="stopped after 0 s"):
        benchmark.measure(["sleep", "60"], tmp_path / "l", 0.2)
    with pytest.raises(InputError, match="ValueError: so"):
        benchmark.measure([sys.executable, "-c", "raise ValueError('so')"], tmp_path / "l", 60)
    added = benchmark.measure([sys.executable, "-c", "print('n 1; add 50 s')"], tmp_path / "l", 60)
    assert added["seconds"] > 50


def test_the_table_gives_medians_and_ratios():
    rows = [
        {
            "input": "head",
            "way": way,
            "run": run,
            "seconds": seconds,
            "cpu": 1,
            "peak_mb": 100,
            "failed": "",
        }
        for way, times in (("floor", (1, 2, 9)), ("ours", (4, 3, 5)))
        for run, seconds in enumerate(times)
    ]
    rows.append({"input": "head", "way": "deepbet", "run": 0, "failed": "too slow"})
    lines = benchmark.table(rows).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        "ours",
        "floor: read, write zeros",
        "deepbet 1.0.2",
    ]
    assert "4.00 (3.00 to 5.00)" in lines[2] and lines[2].endswith("| 100 | 1.00 |")
    assert "2.00 (1.00 to 9.00)" in lines[3] and lines[3].endswith("| 0.50 |")
    assert "too slow" in lines[4]


def test_the_floor_keeps_the_shape(tmp_path, cta_file):
    words = [ROOT / "benchmarks" / "ways.py", "floor", cta_file, tmp_path / "m.nii.gz"]
    subprocess.run([sys.executable, *words], check=True)
    mask = nib.load(tmp_path / "m.nii.gz")
    assert mask.shape == nib.load(cta_file).shape and not np.asarray(mask.dataobj).any()
