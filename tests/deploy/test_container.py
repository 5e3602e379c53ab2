"""The container's files fit together; where CONTAINER=1 is set, the image is built and run."""

import ast
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path

import container
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KNOWN = {"FROM", "LABEL", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE"}
KNOWN |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
WEIGHTS = [f"files/model.{ending}" for ending in ("bin", "json", "keras", "xml")]
LATE = ("model.py",)  # imported where Keras is there, and never in the container


def steps():
    """(instruction, the rest) of the Dockerfile, one line each."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def given(instruction):
    return [rest for name, rest in steps() if name == instruction]


def enters(path: str) -> bool:
    """Whether .dockerignore lets a file in; as Docker does, the last line that fits decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    inside = True
    for line in lines:
        pattern = line.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        starts = [str(Path(*parts[: count + 1])) for count in range(len(parts))]
        names = parts if "**/" in line else starts
        if not line.startswith("#") and any(fnmatch.fnmatchcase(n, pattern) for n in names):
            inside = line.startswith("!")
    return inside


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def installed():
    """Names of the packages that the Dockerfile installs, {name: version}."""
    names = re.findall(r"-r (requirements\S+)", " ".join(given("RUN")))
    lines = sum(((ROOT / name).read_text().splitlines() for name in names), [])
    pins = [Requirement(line.split("#")[0]) for line in lines if line[:1].isalnum()]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_the_dockerfile_has_known_steps_and_what_it_copies_is_there():
    assert {name for name, _ in steps()} <= KNOWN
    sources = [word for rest in given("COPY") for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in sources) and all(map(enters, sources[:-1]))


def test_it_installs_what_predicts_and_not_what_trains():
    assert {"numpy", "openvino", "flask", "dicomweb-client"} <= set(installed())
    assert not {"tensorflow", "keras", "nncf", "pytest", "scikit-learn"} & set(installed())


def test_its_packages_are_those_that_the_rest_is_tested_with():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line.split("#")[0]) for line in lines if line[:1].isalnum()]
    tested = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert {name: pin for name, pin in installed().items() if tested.get(name, pin) != pin} == {}


def test_what_its_modules_import_is_installed_there():
    theirs, ours, missing = packages_distributions(), set(installed()), set()
    for name in filter(enters, tracked()):
        if not name.endswith(".py") or name in LATE:
            continue
        for node in ast.parse((ROOT / name).read_text()).body:
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for top in {module.split(".")[0] for module in modules} - sys.stdlib_module_names:
                if (ROOT / f"{top}.py").exists() or (ROOT / top).is_dir():
                    first = [f"{top}.py", f"{top}/__init__.py"]
                    found = any(map(enters, first)) or (top == "page" and enters("page/fetch.py"))
                else:
                    found = {canonicalize_name(d) for d in theirs.get(top, [top])} & ours
                if not found:
                    missing.add((name, top))
    assert missing == set()


def test_weights_and_page_enter_and_nothing_else_does():
    assert all(map(enters, [*WEIGHTS, "page/index.html", "page/vendor/niivue.js", "pred.py"]))
    out = ["results/x.nii.gz", "files/dataset/a.png", "tests/make.py", ".git/HEAD", "scan.nii.gz"]
    assert not any(map(enters, [*out, "train.py", "common/__pycache__/card.pyc", ".venv/x"]))


def test_it_runs_without_privileges_and_tells_its_version():
    users = given("USER")
    assert users and users[-1].isdecimal() and int(users[-1]) > 0, "a number, for Kubernetes"
    newest = re.search(r"^## \[(\d[\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert f'org.opencontainers.image.version="{newest}"' in given("LABEL")[0]


@pytest.mark.parametrize(
    "words, run",
    [
        (["scan one.nii.gz", "--strict"], ["/opt/brain/pred.py", "scan one.nii.gz", "--strict"]),
        (["app", "--port", "9"], ["/opt/brain/app.py", "--host", "0.0.0.0", "--port", "9"]),
        (["./app"], ["/opt/brain/pred.py", "./app"]),
    ],
)
def test_its_first_word_chooses_the_command(words, run, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    start = ROOT / "deploy/start.sh"
    assert given("ENTRYPOINT") == ['["/opt/brain/deploy/start.sh"]']
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([start, *words], env=path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == run


# ---------------------------------------------------------------- its health


@pytest.fixture(scope="module")
def health():
    path = ROOT / "deploy/check_health.py"
    assert f'"/opt/brain/{path.relative_to(ROOT)}"' in given("HEALTHCHECK")[0]
    spec = importlib.util.spec_from_file_location("check_health", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 500)
        self.end_headers()

    def log_message(self, *words):
        pass


def test_a_page_that_does_not_answer_is_ill_and_pred_alone_is_not(health, tmp_path):
    processes = str(tmp_path / "[0-9]*")
    (tmp_path / "1").write_bytes(b"python\0/opt/brain/pred.py\0app.py\0")
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    health.main(f"{url}/broken", processes)  # there is no page, and nobody asks
    (tmp_path / "7").write_bytes(b"python\0/opt/brain/app.py\0--host\x000.0.0.0\0")
    health.main(f"{url}/healthz", processes)
    with pytest.raises(SystemExit, match="500"):
        health.main(f"{url}/broken", processes)
    server.shutdown()
    server.server_close()
    with pytest.raises(SystemExit, match="refused"):
        health.main(f"{url}/healthz", processes)


# ---------------------------------------------------------------- beside a PACS


def test_compose_starts_a_pacs_and_what_watches_it():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    orthanc, brain = services["orthanc"], services["brain"]
    assert orthanc["environment"]["DICOM_WEB_PLUGIN_ENABLED"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in orthanc["ports"])
    assert brain["read_only"] and brain["cap_drop"] == ["ALL"]
    assert brain["volumes"] == [f"brain:{given('VOLUME')[0]}"]
    assert brain["command"][:2] == ["--dicomweb", "http://orthanc:8042/dicom-web"]


def test_docker_compose_takes_the_file():
    program = shutil.which("docker-compose")
    if not program:
        pytest.skip("docker-compose is not installed")
    asked = [program, "-f", str(ROOT / "compose.yaml"), "config", "--quiet"]
    password = {"ORTHANC_PASSWORD": "secret"}
    done = subprocess.run(asked, env=os.environ | password, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(asked, env=os.environ, capture_output=True, text=True)
    assert done.returncode and "set a password for Orthanc" in done.stderr


# ---------------------------------------------------------------- the whole of it, in minutes


@pytest.mark.skipif(not os.environ.get("CONTAINER"), reason="takes minutes: set CONTAINER=1")
def test_the_image_masks_the_sample_alone_and_read_only(tmp_path):
    if container.missing():
        pytest.skip(container.missing())
    told = container.measure(tmp_path)
    assert told["image_mb"] <= container.MOST_MB
    assert told["dice"] > 0.97 and told["verdict"] == "ok" and told["owner"] == 1000
