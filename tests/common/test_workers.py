"""Several processes: the same result, and none that is left over."""

import os
import subprocess
import sys
import time
from pathlib import Path

from make import contents, make_ct_set, save_scans

ROOT = Path(__file__).parents[2]


def test_two_processes_give_the_same_as_one(tmp_path):
    scans = save_scans(tmp_path / "scans", 3)
    make_ct_set(scans, tmp_path / "one", "--slices", 3)
    make_ct_set(scans, tmp_path / "two", "--slices", 3, "--jobs", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_workers_die_with_a_killed_parent(tmp_path):
    body = """
import os, time
from common.workers import in_parallel
def work(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(60)
if __name__ == "__main__":
    list(in_parallel(work, [(FOLDER,)] * 2, 2))
"""
    (tmp_path / "script.py").write_text(body.replace("FOLDER", repr(str(tmp_path))))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment)
    wait_for(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2)
    workers = [int(path.name) for path in tmp_path.glob("[0-9]*")]
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(is_running, workers)))


def wait_for(what, seconds=30):
    for _ in range(seconds * 20):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def is_running(number):
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
