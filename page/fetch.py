"""Fetch NiiVue, with which the page shows scans: from npm's registry into page/vendor/, once.

    python -m page.fetch

The version is pinned and the archive's checksum is npm's own, so what is served is what was tested.
"""

import base64
import hashlib
import io
import ssl
import tarfile
import urllib.request
from pathlib import Path

import certifi

from errors import InputError, replacing, run

VERSION = "0.69.0"
URL = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{VERSION}.tgz"
SHA512 = "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
MEMBER = "package/dist/index.js"  # dist/index.min.js has no named exports
VENDOR = Path(__file__).parent / "vendor"
LICENCE = Path(__file__).with_name("niivue-licence.txt")  # the archive names it, but holds no text


def download(url: str) -> bytes:
    """A file's bytes. Raises InputError when it cannot be had."""
    trust = ssl.create_default_context()
    trust.load_verify_locations(certifi.where())  # macOS gives Python none of its own
    try:
        with urllib.request.urlopen(url, timeout=60, context=trust) as answer:
            return answer.read()
    except OSError as error:
        raise InputError(f"{url} cannot be fetched ({error}); the page stays without viewer "
                         "until `make app` finds the network") from error  # fmt: skip


def viewer(archive: bytes) -> bytes:
    """NiiVue's module out of npm's archive. Raises InputError when the archive is another one."""
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if digest != SHA512:
        raise InputError(f"{URL} is not what it was: its SHA-512 is {digest}; nothing was kept")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return files.extractfile(MEMBER).read()


def main() -> None:
    module = viewer(download(URL))
    with replacing(VENDOR / "LICENCE") as path:
        path.write_bytes(LICENCE.read_bytes())
    with replacing(VENDOR / "niivue.js") as path:
        path.write_bytes(module)


if __name__ == "__main__":
    run(main)
