"""Small files that say something: JSON and text, written whole or not at all; checksums."""

import hashlib
import json
from pathlib import Path

from common.errors import ODD, replacing

LONGEST = 200  # bytes of a name that is made of another: a disk takes 255. A round number


def read_json(path: str | Path) -> dict:
    """A JSON file's object; {} when there is none that can be read."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: str | Path, content: dict) -> None:
    """Write a JSON file; InputError when it cannot be written."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file; InputError when it cannot be written."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def plain_name(name: str) -> str:
    """A file's name as the start of other files' names, which any disk, table and page bears.

    Characters that no text can show (ODD) become _, and a name that is too long is cut.
    """
    return ODD.sub("_", name).encode()[:LONGEST].decode(errors="ignore")


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
