"""The promises of the set-up: pinned requirements, `make help`, `--help`, a light repository."""

import ast
import os
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydicom.pixels import get_decoder
from pydicom.uid import UID

ROOT = Path(__file__).parents[1]
FOLDERS = ("common", "scan", "predict", "dataset", "training", "testing", "synthesis", "server")
COMMANDS = sorted(ROOT.glob("*.py"))
MODULES = [*COMMANDS, *(path for folder in FOLDERS for path in sorted(ROOT.glob(f"{folder}/*.py")))]
TESTS = sorted(ROOT.glob("tests/**/*.py"))
OURS = {path.stem for path in (*COMMANDS, *TESTS, *ROOT.glob("benchmarks/*.py"))}
OURS |= {"page", *FOLDERS}
SCRIPTS = [path for path in COMMANDS if "\n    run(main" in path.read_text()]
LIGHT = {"data.py", "synthetic.py"}
INSTALLED = packages_distributions()  # package -> the distributions that hold it
TRANSITIVE = "# What those need."
OPTIONAL = ("-cluster", "-onnx", "-dicomweb")  # imported only when asked for


def requirements(name):
    """Lines of a requirements file as (direct, transitive) lists of Requirement."""
    halves = (ROOT / name).read_text().split(TRANSITIVE)
    return [
        [Requirement(line.split("#")[0]) for line in half.splitlines() if line[:1].isalnum()]
        for half in halves
    ]


def names(pins):
    return {canonicalize_name(pin.name) for pin in pins}


def imported(path):
    """Top-level packages that a script imports anywhere, except Python's own and ours."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add(node.module.split(".")[0])
    return packages - sys.stdlib_module_names - OURS


def distributions(package):
    return {canonicalize_name(name) for name in INSTALLED.get(package, [package])}


def wanted(name, extra=""):
    """What the installed distribution `name`, or its `extra`, wants on this system."""
    found = [Requirement(line) for line in requires(name) or []]
    return [w for w in found if not w.marker or w.marker.evaluate({"extra": extra})]


def needed(name):
    """Names that the installed distribution `name` needs, those of the extras it asks for too."""
    extras = [(w.name, extra) for w in wanted(name) for extra in w.extras]
    return names(wanted(name)) | names(sum((wanted(*pair) for pair in extras), []))


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-predict.txt",
        "requirements-cluster.txt",
        "requirements-onnx.txt",
        "requirements-dicomweb.txt",
        "requirements-page.txt",
        "requirements-dev.txt",
    ],
)
def test_every_requirement_is_pinned_once(name):
    pins = sum(requirements(name), [])
    assert all(len(p.specifier) == 1 and "==" in str(p.specifier) for p in pins), pins
    assert len(names(pins)) == len(pins)


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-cluster.txt",
        "requirements-onnx.txt",
        "requirements-dicomweb.txt",
        "requirements-dev.txt",
    ],
)
def test_the_transitive_half_is_exactly_what_the_direct_half_needs(name):
    direct, transitive = map(names, requirements(name))
    runtime = names(sum(requirements("requirements.txt"), [])) if "dev" in name else set()
    found, todo = set(direct), set(direct)
    while todo:
        new = needed(todo.pop()) - found
        found |= new
        todo |= new
    only_elsewhere = transitive - found  # e.g. what Python 3.11 needs and 3.13 no longer does
    assert found - direct - runtime <= transitive
    assert only_elsewhere <= {
        "importlib-metadata",
        "importlib-resources",
        "lazy-importer",
        "typing-extensions",
        "zipp",
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_is_a_direct_requirement(path):
    files = [f"requirements{name}.txt" for name in ("", *OPTIONAL)]
    direct = names(sum((requirements(name)[0] for name in files), []))
    chosen = {"torch", "mlflow", "wandb"}  # by who sets KERAS_BACKEND, or asks for --track
    assert [p for p in imported(path) - chosen if not distributions(p) & direct] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_test_imports_is_required_for_development(path):
    files = [f"requirements{name}.txt" for name in ("", *OPTIONAL, "-dev")]
    pinned = names(sum((sum(requirements(name), []) for name in files), []))
    assert [p for p in imported(path) if not distributions(p) & pinned] == []


@pytest.fixture(scope="module")
def helps():
    """{script: what it prints for --help, its exit code, whether the network is imported by then},
    of one process that runs those first which need no network."""
    code = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        print(end.code, "tensorflow" in sys.modules or "keras" in sys.modules, end="\\0")
"""
    scripts = sorted((path.name for path in SCRIPTS), key=lambda name: name not in LIGHT)
    python = [sys.executable, "-c", code, *scripts]
    done = subprocess.run(python, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(zip(scripts, done.stdout.split("\0"), strict=False))


@pytest.mark.parametrize("name", [path.name for path in SCRIPTS])
def test_help_answers(helps, name):
    assert helps[name].startswith("usage: " + name)
    *_, code, heavy = helps[name].split()
    assert code == "0"
    assert name not in LIGHT or heavy == "False", "this script must not import the network"


def test_the_command_line_tools_are_scripts():
    assert {path.name for path in SCRIPTS} >= LIGHT


@pytest.mark.parametrize(
    "syntax",
    ["4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "5"],
)
def test_compressed_dicom_can_be_decoded(syntax):
    """JPEG, lossless JPEG, JPEG-LS, JPEG 2000, HTJ2K and RLE, as hospitals' archives store them."""
    uid = UID(f"1.2.840.10008.1.2.{syntax}")
    assert get_decoder(uid).is_available, f"no decoder for {uid.name}"


def test_nothing_is_sent_anywhere(tmp_path):
    """OpenVINO would report to Google Analytics and keep an identity in the home folder."""
    code = """
import sys
def no_network(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print(event, *args, flush=True)
sys.addaudithook(no_network)
import numpy, model, pred
model.save_model(model.build_unet((16, 16, 1), width=2, depth=1), sys.argv[1], {})
model.export_model(sys.argv[1])
from predict.network import Network
Network(sys.argv[1]).probabilities(numpy.zeros((1, 16, 16), numpy.float32))
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.keras"],
        cwd=ROOT,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (home / "intel").exists()


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert {"demo", "test", "lint", "bench", "clean"} <= set(listed)


def test_no_large_file_is_tracked():
    git = ["git", "ls-files", "-z"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    large = [path.name for path in files if path.exists() and path.stat().st_size > 25_000_000]
    assert large == []
