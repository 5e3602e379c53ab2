"""The house: which folder may import which, no circle, few imports of ours inside functions."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A folder may import those before it, and model and metrics; a command on top may import all
ORDER = ("common", "scan", "synthesis", "dataset", "predict", "testing", "training", "server")
LOW = {"model": ("common",), "metrics": ("common",)}
LATE = {  # imports of ours inside functions, and why
    ("predict.work", "predict.tumour"): "a picture must not wait for nibabel and SciPy",
    ("predict.work", "predict.brain"): "as above",
    ("predict.work", "scan.read"): "as above",
    ("predict.work", "predict.correction"): "as above",
    ("predict.picture", "scan.read"): "as above",
    ("predict.network", "model"): "who only predicts needs neither Keras nor TensorFlow",
    ("predict.inputs", "scan.dicom_series"): "a picture need not wait for DICOM",
    ("predict.search", "scan.dicom_files"): "as above",
    ("pred", "predict.studies"): "as above",
    ("app", "synthetic"): "each worker of the page would wait a second for it",
}


def find_modules():
    """{name: path} of the product's modules."""
    paths = [*ROOT.glob("*.py"), *(p for folder in ORDER for p in ROOT.glob(f"{folder}/*.py"))]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}


MODULES = find_modules()


def find_imports(name):
    """(imported module of ours, whether inside a function) of a module."""
    tree = ast.parse(MODULES[name].read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    types = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if node in types:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [part if part in MODULES else node.module for part in parts]
        else:
            continue
        yield from ((module, node in inner) for module in set(found) if module in MODULES)


GRAPH = {name: list(find_imports(name)) for name in MODULES}


def test_eight_commands_stand_on_top():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(
        ["app", "data", "metrics", "model", "pred", "synthetic", "test", "train"]
    )


def test_there_is_no_circle():
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, " -> ".join([*under_way[under_way.index(name) :], name])
        if name not in done:
            under_way.append(name)
            for module, _ in GRAPH[name]:
                visit(module)
            done.add(under_way.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name or name in LOW])
def test_no_arrow_leads_upwards(name):
    folder = name.split(".")[0]
    allowed = LOW.get(name) or (*ORDER[: ORDER.index(folder) + 1], *LOW)
    if folder in ("common", "scan"):
        allowed = ORDER[: ORDER.index(folder) + 1]
    wrong = [module for module, _ in GRAPH[name] if module.split(".")[0] not in allowed]
    assert wrong == []


def test_late_imports_are_few_and_have_a_reason():
    late = {(name, module) for name in MODULES for module, inner in GRAPH[name] if inner}
    assert late == set(LATE) and len(late) <= 10


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
    text = MODULES[name].read_text()
    assert text.count("\n") <= 450
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = [f.name for f in functions if f.end_lineno - f.lineno >= 45]
    assert long == []
