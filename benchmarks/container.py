"""The container, built and run without a registry of images: how large, how quick, does it mask.

    python benchmarks/container.py               # as root, with mmdebstrap, buildah and podman
    python benchmarks/container.py --folder X    # keeps base and image there for another run

mmdebstrap makes the base, a minimal Debian of the release that the Dockerfile names. buildah runs
the Dockerfile on it. podman runs the image as its user, with the network cut off and every folder
read-only but /data: pred.py masks the sample there, and the page answers its HEALTHCHECK.
tests/deploy/test_container.py runs this where CONTAINER=1 is set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.errors import InputError, run  # noqa: E402
from synthetic import write_sample  # noqa: E402

PROGRAMS = ("mmdebstrap", "buildah", "podman")
IMAGE, SCAN = "brain", "sample_cta"
MOST_MB = 900  # of the image, as deploy/README.md promises
INSIDE = "/build-ca.crt"  # where the build finds the certificates of a proxy around this machine
TRUST = ("PIP_CERT", "REQUESTS_CA_BUNDLE")
CLOSED = [  # how the image is run: nothing is written outside /data, nothing is sent
    "--network=none",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
]
PATIENCE = 300  # seconds, until the page answers


def missing() -> str:
    """What this cannot run without and is missing, in words; "" for nothing."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"there is no {' or '.join(absent)}: apt-get install {' '.join(absent)}"
    return "" if os.getuid() == 0 else "only root can build and run the image here"


def call(*words, **options) -> str:
    """The output of a command; InputError with its last lines where it fails."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise InputError(f"{' '.join(map(str, words[:2]))} ended with {done.returncode}: {said}")
    return done.stdout.strip()


class Builder:
    """buildah and podman, with all they store in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = ["--storage-driver", "vfs", "--root", folder / "store"]
        self.store += ["--runroot", folder / "run"]

    def buildah(self, *words) -> str:
        return call("buildah", *self.store, *words)

    def podman(self, *words) -> str:
        return call("podman", *self.store, "--cgroup-manager=cgroupfs", *words)

    def has(self, image: str) -> bool:
        return bool(self.podman("images", "--quiet", image))

    def make_base(self) -> None:
        """Make the image that the Dockerfile begins with, if it is not there."""
        (base,) = re.findall("^FROM (.+)$", (ROOT / "Dockerfile").read_text(), re.M)
        release = re.fullmatch("debian:([a-z]+)-slim", base)[1]
        if self.has(f"docker.io/library/{base}"):
            return
        root = self.folder / "base.tar"
        call("mmdebstrap", "--quiet", "--variant=minbase", release, root)
        empty = self.buildah("from", "scratch")
        self.buildah("add", empty, root)
        if host_certificates():
            known = [f"--env={name}={INSIDE}" for name in TRUST]
            self.buildah("config", *known, empty)
        self.buildah("commit", "--rm", empty, f"docker.io/library/{base}")

    def build(self) -> None:
        """Run the Dockerfile."""
        trust = [f"--volume={path}:{INSIDE}:ro" for path in host_certificates()]
        options = ["--format=docker", "--isolation=chroot", "--pull-never", *trust]
        self.buildah("bud", *options, "--tag", IMAGE, ROOT)

    def size(self) -> float:
        """Of the image, in MB of 10^6 bytes, unpacked."""
        return int(self.podman("image", "inspect", "--format={{.Size}}", IMAGE)) / 1e6

    def run(self, data: Path, *words) -> str:
        """The output of a container that sees the folder `data` as /data."""
        return self.podman("run", "--rm", *CLOSED, f"--volume={data}:/data", IMAGE, *words)

    def check_page(self, data: Path) -> float:
        """Seconds until a container with the page is healthy; InputError when it never is."""
        page = self.podman("run", "--detach", *CLOSED, f"--volume={data}:/data", IMAGE, "app")
        start = time.monotonic()
        try:
            while True:
                try:
                    self.podman("healthcheck", "run", page)
                    return time.monotonic() - start
                except InputError:
                    if time.monotonic() - start > PATIENCE:
                        raise
                    time.sleep(1)
        finally:
            self.podman("rm", "--force", "--time=10", page)


def host_certificates() -> list[str]:
    """The file of certificates that this machine's pip is told to trust, if it is told."""
    return [os.environ["PIP_CERT"]] if "PIP_CERT" in os.environ else []


def measure(folder: Path) -> dict[str, float | str]:
    """Build the image, mask the sample in it, and return what there is to tell."""
    builder, data = Builder(folder), folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o777, parents=True)
    data.chmod(0o777)
    write_sample(data / f"{SCAN}.nii.gz")
    told, start = {}, time.monotonic()
    for name, step in (("base_s", builder.make_base), ("build_s", builder.build)):
        step()
        told[name], start = round(time.monotonic() - start), time.monotonic()
    told["image_mb"] = round(builder.size())
    start = time.monotonic()
    builder.run(data, f"{SCAN}.nii.gz")
    told["container_s"] = round(time.monotonic() - start, 1)
    told |= read_result(data)
    told["page_healthy_after_s"] = round(builder.check_page(data), 1)
    return told


def read_result(data: Path) -> dict[str, float | str]:
    """What the container found in the sample, and its Dice with the sample's own mask."""
    result = data / "results" / f"{SCAN}_prediction"
    about = json.loads((result / f"{SCAN}.json").read_text())
    ours, true = (
        np.asarray(nib.load(path).dataobj) > 0
        for path in (result / f"{SCAN}_predicted_mask.nii.gz", data / f"{SCAN}_mask.nii.gz")
    )
    dice = 2 * np.count_nonzero(ours & true) / (np.count_nonzero(ours) + np.count_nonzero(true))
    kept = ("volume_ml", "verdict", "seconds")
    owner = (result / f"{SCAN}.json").stat().st_uid
    return {"dice": round(dice, 4), "owner": owner, **{key: about[key] for key in kept}}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="for base and image (default: a temporary one)")
    args = parser.parse_args(argv)
    if missing():
        raise InputError(missing())
    with tempfile.TemporaryDirectory(prefix="container_") as temporary:
        told = measure((args.folder or Path(temporary)).absolute())
    print(json.dumps(told, indent=2))
    return 2 * (told["image_mb"] > MOST_MB)


if __name__ == "__main__":
    run(main)
