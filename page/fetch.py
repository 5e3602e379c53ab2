"""Fetch NiiVue, with which the page shows scans: from npm's registry into page/vendor/, once.

    python -m page.fetch

The version is pinned, and the archive's checksum is npm's own: the page serves what was tested.
"""

import tarfile
import tempfile
from pathlib import Path

from common.download import retrieve
from common.errors import replacing, run

VERSION = "0.69.0"
URL = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{VERSION}.tgz"
CHECKSUM = (
    "sha512:60c8d0bc9803d56d9bec3ba8c64c250b85716eb80878f449e6ac90cd72b18b6b"
    "f6301560dbce4ffc2210ca0e3aa030c60c871a3656ddf8c86d3bf79d31b5c990"
)
MEMBER = "package/dist/index.js"  # dist/index.min.js has no named exports
VENDOR = Path(__file__).parent / "vendor"
LICENCE = Path(__file__).with_name("niivue-licence.txt")  # the archive names it, but holds no text


def fetch(folder: Path = VENDOR) -> None:
    """Put NiiVue and its licence into `folder`.

    Raises InputError when there is no network, when another archive came, or when `folder` cannot
    be written.
    """
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / f"niivue-{VERSION}.tgz"
        retrieve(URL, CHECKSUM, archive)
        with tarfile.open(archive) as files:
            module = files.extractfile(MEMBER).read()
    for name, content in (("LICENCE", LICENCE.read_bytes()), ("niivue.js", module)):
        with replacing(folder / name) as path:
            path.write_bytes(content)


if __name__ == "__main__":
    run(fetch)
