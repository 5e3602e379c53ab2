"""Work spread over processes: the same result, no task lost, and no process left over."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import tasks
from make import contents, make_ct_set, save_scans

from common import cluster, count_cores
from common.cluster import WorkerDied, open_cluster, spread
from common.errors import InputError
from common.files import read_json
from data import parse

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))  # for processes that import them
# A command whose workers only wait
SCRIPT = """
import tasks
from common.cluster import open_cluster, spread
from common.errors import run

def main():
    with open_cluster(2) as client:
        list(spread(client, tasks.wait, [(FOLDER,)] * 4))

if __name__ == "__main__":
    run(main, "the same command goes on")
"""


@pytest.fixture(scope="module")
def client():
    with open_cluster(2) as client:
        yield client


def test_every_task_has_its_result_and_few_are_under_way(client):
    drawn = []

    def numbers():
        for number in range(12):
            drawn.append(number)
            yield number, 10

    found = {}
    for number, (task, result) in enumerate(spread(client, tasks.add, numbers()), 1):
        assert len(drawn) <= number + 2
        found[task[0]] = result
    assert found == {number: number + 10 for number in range(12)}


def test_one_process_needs_no_dask_and_keeps_the_order(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with open_cluster() as client:
        assert list(spread(client, tasks.add, [(1, 2), (3, 4)])) == [((1, 2), 3), ((3, 4), 7)]


def test_what_a_task_raises_is_raised(client):
    with pytest.raises(InputError, match="7 cannot be used"):
        list(spread(client, tasks.refuse, [(7,)]))


def test_a_task_whose_worker_dies_once_is_done_by_another(client, tmp_path):
    (tmp_path / "once").touch()
    found = dict(spread(client, tasks.die_at, [(n, 2, tmp_path) for n in range(6)]))
    assert sorted(found.values()) == list(range(6))
    assert (tmp_path / "2_1").exists()


def test_a_task_that_kills_its_worker_twice_is_given_up_and_the_others_are_not(client, tmp_path):
    found = dict(spread(client, tasks.die_at, [(n, 2, tmp_path) for n in range(8)]))
    died = [task[0] for task, result in found.items() if isinstance(result, WorkerDied)]
    assert died == [2] and len(found) == 8
    assert "died twice, likely for memory" in str(found[2, 2, tmp_path])
    assert len(list(tmp_path.glob("2_*"))) == 2, "it has two tries"


def test_each_worker_has_its_share_of_the_cores(client, monkeypatch):
    share = str(max(1, cluster.CORES // 2))
    ((_, threads),) = spread(client, os.getenv, [("OMP_NUM_THREADS",)])
    assert threads == share
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert count_cores() == 1
    for useless in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        assert count_cores() >= 1


def test_the_environment_of_the_workers_is_not_ours():
    before = dict(os.environ)
    with cluster.environment(OMP_NUM_THREADS="3", A_NEW_ONE="x"):
        os.environ["ANOTHER"] = "of Dask"
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert dict(os.environ) == before


def test_the_workers_listen_on_this_machine_alone(client):
    family = [psutil.Process(), *psutil.Process().children()]
    listening = [c for p in family for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert len(listening) >= 3 and {c.laddr.ip for c in listening} == {"127.0.0.1"}


# ---------------------------------------------------------------- the end of it


@pytest.fixture
def command(tmp_path):
    """A command whose two workers wait, in a process group of its own, and the workers' numbers."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("FOLDER", repr(str(tmp_path))))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": PATHS},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=tasks.heed_ctrl_c,
    )
    wait_for(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2)
    yield process, psutil.Process(process.pid).children(recursive=True)
    process.kill()


def test_no_process_outlives_a_killed_command(command):
    process, family = command
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_running, family)))


def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(command):
    process, family = command
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "interrupted; the same command goes on\n"
    wait_for(lambda: not any(map(is_running, family)))


def test_a_scheduler_that_is_killed_is_one_line(tmp_path):
    said = tmp_path / "address"
    words = ["--scheduler-file", str(said), "--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"env": os.environ | {"PYTHONPATH": PATHS}, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--port", "0", *words], **quiet)
    worker = subprocess.Popen([*dask, "worker", "--no-nanny", "--nthreads", "1", *words], **quiet)
    try:
        wait_for(lambda: "address" in read_json(said))
        with open_cluster(scheduler=read_json(said)["address"]) as client:
            assert list(spread(client, tasks.add, [(1, 2)])) == [((1, 2), 3)]
            threading.Timer(1, scheduler.kill).start()
            with pytest.raises(InputError, match="the scheduler is gone.*the same command goes on"):
                list(spread(client, tasks.wait, [(tmp_path,)]))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def wait_for(what, seconds=120):
    for _ in range(seconds * 20):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def is_running(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------- what the commands make of it


def test_two_workers_make_the_same_dataset_as_one(tmp_path):
    scans = save_scans(tmp_path / "scans", 3)
    make_ct_set(scans, tmp_path / "one", "--slices", 3)
    make_ct_set(scans, tmp_path / "two", "--slices", 3, "--workers", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_without_dask_a_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for words in (["--workers", "2"], ["--scheduler", "tcp://host:8786"]):
        with pytest.raises(InputError, match="need Dask: pip install -r requirements-cluster.txt"):
            cluster.check_cluster_options(parse(words))
    monkeypatch.setattr(cluster, "CORES", 4)
    args = parse([])
    cluster.check_cluster_options(args)
    assert args.workers == 1 and "pip install -r requirements-cluster" in capsys.readouterr().err
    cluster.check_cluster_options(parse(["--workers", "1"]))
    assert capsys.readouterr().err == ""


def test_options_that_contradict_are_refused():
    for words, said in (
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--workers", "2", "--scheduler", "tcp://host:8786"], "leave one of them out"),
    ):
        with pytest.raises(InputError, match=said):
            cluster.check_cluster_options(parse(words))


def test_nobody_at_the_schedulers_address_is_one_line():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(InputError, match="no Dask scheduler answers at tcp://127.0.0.1:9"),
        open_cluster(scheduler="tcp://127.0.0.1:9"),
    ):
        pass
