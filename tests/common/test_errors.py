"""What users see when a script cannot go on, and what is left on their disk."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import InputError, explained, printable, replacing, warn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old(tmp_path):
    """A file that a later write is to replace."""
    path = tmp_path / "mask.nii.gz"
    path.write_text("old")
    return path


@contextmanager
def without_permission(folder):
    """Make `folder` read-only; root, whom no mode stops, acts as another user meanwhile."""
    folder.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield
    folder.chmod(0o700)


def run_script(body):
    """Run a script whose main() holds `body`, as a user would: a process of its own."""
    call = "errors.run(main, 'the same command goes on')"
    code = f"from common import errors\ndef main():\n    {body}\n{call}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_success_replaces_the_file_and_leaves_nothing_else(old):
    with replacing(old) as temporary:
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


def test_the_temporary_path_keeps_the_ending_and_the_disk(old):
    with replacing(old) as temporary:
        temporary.write_text("new")
        assert temporary.name == old.name
        assert temporary.stat().st_dev == old.stat().st_dev


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "results" / "head_prediction" / "mask.png"
    with replacing(str(path)) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, InputError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing_else(old, failure):
    with pytest.raises(failure), replacing(old) as temporary:
        temporary.write_text("half")
        (temporary.parent / "lock").write_text("something that a library left behind")
        raise failure("stop")
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_no_permission(old):
    refused = pytest.raises(InputError, match="mask.nii.gz: no permission")
    with without_permission(old.parent), refused, replacing(old):
        pytest.fail("the block must not start")
    assert old.read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_full_disk(old):
    with pytest.raises(InputError, match="disk is full"), replacing(old) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text("new")
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_file_larger_than_allowed(old):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match="larger than"), replacing(old) as temporary:
            temporary.write_bytes(bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("below", ["mask.png", "folder/mask.png"])
def test_a_file_where_a_folder_must_be(old, below):
    with pytest.raises(InputError, match="file"), replacing(old / below):
        pytest.fail("the block must not start")


def test_a_folder_where_the_file_must_be(tmp_path):
    (tmp_path / "mask.png").mkdir()
    refused = pytest.raises(InputError, match="a folder of that name")
    with refused, replacing(tmp_path / "mask.png") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_a_name_too_long(tmp_path):
    refused = pytest.raises(InputError, match="too long")
    with refused, replacing(tmp_path / ("x" * 300)) as temporary:
        temporary.write_text("new")


def test_an_unknown_failure_of_the_system_is_not_hidden(tmp_path):
    with pytest.raises(FileNotFoundError), explained(tmp_path / "mask.png"):
        (tmp_path / "nowhere").read_text()


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("return 1", 1, ""),
        ("raise errors.InputError('no head in scan.nii')", 2, "error: no head in scan.nii\n"),
        ("raise errors.InputError('first\\nsecond')", 2, "error: first second\n"),
        ("raise KeyboardInterrupt", 130, "interrupted; the same command goes on\n"),
    ],
)
def test_exit_code_and_the_one_line(body, code, stderr):
    done = run_script(body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", stderr)


def test_a_bug_shows_its_traceback():
    done = run_script("raise ZeroDivisionError")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_warn_is_one_line_on_stderr(capsys):
    warn("no orientation in scan.nii")
    assert capsys.readouterr() == ("", "warning: no orientation in scan.nii\n")


def test_a_folder_that_cannot_be_made_is_named():
    with (
        pytest.raises(InputError, match="/proc/nowhere cannot be made"),
        replacing("/proc/nowhere/mask.png"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"scan_\xe9\xff.nii.gz", r"scan_\xe9\xff.nii.gz"),
        (b"two\nlines\t\x1b[31m.png", r"two\nlines\t\x1b[31m.png"),
        ("Z\u00fcrich \u8133 100%\u00a0.png".encode(), "Z\u00fcrich \u8133 100%\u00a0.png"),
        ("gnp.\u202eexe \u2028 \x85".encode(), r"gnp.\u202eexe \u2028 \x85"),
    ],
)
def test_every_name_is_told_in_one_line(capsys, name, shown):
    assert printable(Path(os.fsdecode(name))) == shown
    warn(f"{os.fsdecode(name)}: empty")
    assert capsys.readouterr().err == f"warning: {shown}: empty\n"


def test_an_output_that_is_not_utf_8_takes_any_text():
    script = "from common import errors; errors.run(lambda: print('100 mm\u00b2'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "100 mm\\xb2\n", "")


def test_an_unusual_refusal_of_the_system_is_told(tmp_path):
    refused = pytest.raises(InputError, match="a.png: Input/output error; choose another --out")
    with refused, explained("a.png"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
