"""How the commands fail: one clear line, exit code 2, and nothing half-written.

with replacing("mask.nii.gz") as path:      # a temporary path, renamed only on success
    write(path)
raise InputError("scan.nii is empty; copy or export it again")
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a name may hold, and no line of text can show: bytes that are no UTF-8 (Python's surrogates),
# control characters, ends of lines, and marks that turn the direction of writing
ODD = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(Exception):
    """An input cannot be used: says in one line what is wrong, in which file, and what to do."""


def printable(text: object) -> str:
    """A text or path in one line that every terminal and UTF-8 file bears.

    What is ODD becomes an escape: a byte that is no UTF-8 such as \\xe9, a line's end \\n.
    """

    def escape(odd: re.Match) -> str:
        byte = ord(odd[0]) - 0xDC00  # of a name's byte: PEP 383
        return f"\\x{byte:02x}" if 0x80 <= byte < 0x100 else ascii(odd[0])[1:-1]

    return ODD.sub(escape, str(text))


def warn(message: str) -> None:
    """Print one line of warning to stderr."""
    tell(f"warning: {message}")


def tell(line: str) -> None:
    """Print one line to stderr."""
    print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed onto it only if the block succeeds.

    The temporary name keeps the ending, by which nibabel, OpenCV and Keras choose a format.
    Raises InputError when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    with explained(path):
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(prefix=".unfinished_", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises InputError where no folder can be made, as on /proc; OSError as `explained` takes it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} cannot be made; choose another --out") from error


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into an InputError.

    A file that is not there is no refusal: it passes as what it is.
    """
    advice = {
        errno.ENOSPC: "the disk is full; free some space and run again",
        errno.EFBIG: "the file is larger than is allowed there; choose another --out",
        errno.EDQUOT: "the disk quota is used up; free some space and run again",
        errno.EACCES: "no permission to write there; choose another --out",
        errno.EPERM: "no permission to write there; choose another --out",
        errno.EROFS: "the disk is read-only; choose another --out",
        errno.ENOTDIR: "a part of that path is a file, not a folder; choose another --out",
        errno.EEXIST: "a file of that name is in the way; choose another --out",
        errno.EISDIR: "a folder of that name is in the way; choose another --out",
        errno.ENAMETOOLONG: "the name is too long for the disk; choose a shorter one",
    }
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOENT):
            raise
        reason = advice.get(error.errno, f"{error.strerror}; choose another --out")
        raise InputError(f"cannot write {path}: {reason}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Hide what TensorFlow's C++ prints while it is imported: it would bury our one line.

    The whole process is quiet, so only one thread at a time may use this.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later, only fatal errors are printed
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main: Callable[[], int | None], then: str = "") -> None:
    """Run a command's main(): exit 0 or its return value, 2 on InputError, 130 on Ctrl-C.

    `then` says what the user can do after Ctrl-C.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    try:
        sys.exit(main())
    except InputError as error:
        tell(f"error: {' '.join(str(error).splitlines())}")
        sys.exit(2)
    except KeyboardInterrupt:
        tell(f"interrupted; {then}" if then else "interrupted")
        sys.exit(130)
