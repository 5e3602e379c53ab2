"""The container, built and run without a registry of images: how large, how quick, does it mask.

    python benchmarks/container.py               # as root, with mmdebstrap and buildah
    python benchmarks/container.py --folder X    # keeps base and image there for another run

mmdebstrap makes the base, a minimal Debian of the release that the Dockerfile names, without the
manuals and translations that Debian's slim images lack, too. buildah runs the Dockerfile on it.
Then the image's command runs in its root as its user, with the network cut off and everything
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

PROGRAMS = ("mmdebstrap", "buildah", "unshare", "ip")
IMAGE, SCAN = "brain", "sample_cta"
MOST_MB = 900  # of the image, as deploy/README.md promises
INSIDE = "/build-ca.crt"  # where the build finds the certificates of a proxy around this machine
TRUST = ("PIP_CERT", "REQUESTS_CA_BUNDLE")
LEFT_OUT = [f"path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
# Run by root in namespaces of its own, which take mounts, network and processes with them: ROOT
# DATA USER WORDS...
CLOSED = """
set -e
ip link set lo up
mount --bind "$1" "$1"
mount --bind "$2" "$1/data"
mount -t proc proc "$1/proc"
for name in null urandom; do touch "$1/dev/$name"; mount --bind "/dev/$name" "$1/dev/$name"; done
mount -o remount,ro,bind "$1"
cd "$1/data"
root=$1 user=$3
shift 3
exec chroot --userspec="$user:$user" "$root" "$@"
"""
PAGE = """
cd /data
! touch /opt/brain/x /tmp/x 2> /dev/null
/opt/brain/deploy/start.sh app > /data/log 2>&1 &
for second in $(seq 300); do
    sleep 1
    kill -0 $! || { cat /data/log >&2; exit 1; }
    if grep -q http://0.0.0.0:8000/ /data/log; then
        exec python /opt/brain/deploy/check_health.py
    fi
done
exit 1
"""


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
    """buildah, with all it stores in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = ["--storage-driver", "vfs", "--root", folder / "store"]
        self.store += ["--runroot", folder / "run"]
        self.root, self.config = Path(), {}

    def buildah(self, *words) -> str:
        return call("buildah", *self.store, *words)

    def make_base(self) -> None:
        """Make the image that the Dockerfile begins with, if it is not there."""
        (base,) = re.findall("^FROM (.+)$", (ROOT / "Dockerfile").read_text(), re.M)
        release = re.fullmatch("debian:([a-z]+)-slim", base)[1]
        if base in self.buildah("images", "--format={{.Name}}:{{.Tag}}"):
            return
        root = self.folder / "base.tar"
        left_out = [f"--dpkgopt={line}" for line in LEFT_OUT]
        call("mmdebstrap", "--quiet", "--variant=minbase", *left_out, release, root)
        empty = self.buildah("from", "scratch")
        self.buildah("add", empty, root)
        if host_certificates():
            known = [f"--env={name}={INSIDE}" for name in TRUST]
            self.buildah("config", *known, empty)
        self.buildah("commit", "--rm", empty, f"docker.io/library/{base}")

    def build(self) -> None:
        """Run the Dockerfile; note where the image's root lies and what it says of itself."""
        trust = [f"--volume={path}:{INSIDE}:ro" for path in host_certificates()]
        options = ["--format=docker", "--isolation=chroot", "--pull-never", *trust]
        self.buildah("bud", *options, "--tag", IMAGE, ROOT)
        self.config = json.loads(self.buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]
        self.root = Path(self.buildah("mount", self.buildah("from", "--pull-never", IMAGE)))

    def size(self) -> float:
        """Of the image's files, in MB of 10^6 bytes."""
        return int(call("du", "-sb", self.root).split()[0]) / 1e6

    def run(self, data: Path, *words) -> str:
        """The output of a command in the image, which sees the folder `data` as /data."""
        alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        closed = ["sh", "-c", CLOSED, "sh", self.root, data, self.config["User"]]
        inside = ["/usr/bin/env", "-i", f"--chdir={self.config['WorkingDir']}"]
        return call(*alone, *closed, *inside, *self.config["Env"], *words)


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
    builder.run(data, *builder.config["Entrypoint"], f"{SCAN}.nii.gz")
    told["container_s"] = round(time.monotonic() - start, 1)
    told |= read_result(data)
    builder.run(data, "sh", "-c", PAGE)
    return told | {"page": "healthy"}


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
    return {"dice": round(float(dice), 4), "owner": owner, **{key: about[key] for key in kept}}


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
