"""server/jobs.py: jobs that are cancelled, killed, kept, deleted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ask import Site, multipart, png

from common.errors import InputError
from predict.network import MODEL
from server import jobs
from server.jobs import STAGES, Job, Jobs, follow_job, lock_folder
from server.worker import SPAWN, Worker

ROOT = Path(__file__).parents[2]


def stopped(site) -> Worker:
    """The idle worker, which answers nothing until it is told to go on."""
    worker = site.app.extensions["jobs"].idle[-1]
    os.kill(worker.process.pid, signal.SIGSTOP)
    return worker


def test_cancel_ends_a_running_job_and_the_next_one_runs(site):
    worker = stopped(site)
    _, first = site.post("sample=1")
    _, second = site.post("sample=1")
    while (first := site.get(f"/api/jobs/{first['id']}"))["state"] == "queued":
        time.sleep(0.02)
    assert first["state"] == "running"
    assert site.get(f"/api/jobs/{second['id']}")["state"] == "queued"
    for job in (second, first):
        assert json.loads(site.ask("DELETE", f"/api/jobs/{job['id']}")[2])["state"] == "cancelled"
    assert not worker.process.is_alive()
    assert site.send("sample=1")["state"] == "done"
    assert site.get(f"/api/jobs/{first['id']}")["state"] == "cancelled"
    assert not {first["id"], second["id"]} & set(os.listdir(site.folder))


def test_a_process_that_dies_fails_its_job_alone(site):
    worker = stopped(site)
    _, job = site.post("sample=1")
    os.kill(worker.process.pid, signal.SIGKILL)
    job = site.over(job)
    assert job["state"] == "failed" and "ended by the system" in job["error"]
    assert site.send("sample=1")["state"] == "done"


def test_a_job_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_SECONDS", 0)
    killed = []
    ours, theirs = SPAWN.Pipe()
    worker = SimpleNamespace(pipe=ours, kill=lambda: killed.append(True))
    state, words = follow_job(Job(tmp_path, "x", "brain", "me", worker=worker))
    assert state == "failed" and "took longer" in words and killed
    assert theirs.recv() == ("brain", None, tmp_path, "x")


def test_deleted_is_deleted(site):
    job = site.send("sample=1")
    assert json.loads(site.ask("DELETE", f"/api/jobs/{job['id']}")[2])["state"] == "deleted"
    assert site.ask("GET", f"/api/jobs/{job['id']}")[0] == 404
    assert site.ask("GET", job["result"]["files"]["mask.nii.gz"])[0] == 404
    assert job["id"] not in os.listdir(site.folder)


def test_what_is_kept_long_enough_is_deleted(site):
    job = site.send(("a.png", png(64, 64)))
    queue = site.app.extensions["jobs"]
    here = queue.jobs[job["id"]]
    queue.forget(2.0)
    assert here.folder.exists()
    here.created = 1.0
    queue.forget(2.0)
    assert site.ask("GET", f"/api/jobs/{job['id']}")[0] == 404 and not here.folder.exists()


def test_a_browser_lists_its_own_jobs_newest_first(site):
    other = Site(site.port, site.folder)
    status, headers, _ = other.ask(
        "POST",
        "/api/jobs",
        multipart("sample=1"),
        Content_Type="multipart/form-data; boundary=XxXxX",
    )
    assert status == 202
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    empty = other.get("/api/jobs")
    assert empty["jobs"] == [] and "curl, -c jar.txt keeps it and -b" in empty["note"]
    other.cookie = headers["Set-Cookie"].split("owner=")[1].split(";")[0]
    (first,) = other.get("/api/jobs")["jobs"]
    second = other.send(("a.png", png(64, 64)))
    assert [job["id"] for job in other.get("/api/jobs")["jobs"]] == [second["id"], first["id"]]
    other.over(first)
    assert len(first["id"]) == 22, "128 bits"


def test_files_of_a_job_under_way_must_be_waited_for(site):
    worker = stopped(site)
    _, job = site.post("sample=1")
    folder = site.folder / job["id"]
    assert site.ask("GET", f"/api/jobs/{job['id']}/mask.nii.gz")[0] == 409
    assert site.ask("GET", f"/api/jobs/{job['id']}/scan.nii.gz")[0] in (200, 409)
    assert site.ask("GET", f"/api/jobs/{job['id']}/other")[0] == 404
    (folder / "scan_overlay.png").touch()
    assert site.ask("GET", f"/api/jobs/{job['id']}/overlay.png")[0] == 409
    (folder / "scan.nii.gz").touch()
    assert site.ask("GET", f"/api/jobs/{job['id']}/scan.nii.gz")[0] == 200
    os.kill(worker.process.pid, signal.SIGCONT)
    assert site.over(job)["state"] == "done"


def test_stages_come_in_order_and_are_shares_of_the_whole():
    job, seen = Job(Path("x"), "x", "brain", "me"), []
    for stage in STAGES:
        for share in (0, 0.5, 1):
            job.tell(stage, share)
            seen.append(job.progress)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


DRIVER = """
import sys, app
from pathlib import Path
from common.errors import run
settings = app.PageSettings(port=0, folder=Path(sys.argv[1]), sample=Path(sys.argv[2]), workers=1)
run(lambda: app.serve(settings))
"""


def start(folder: Path, sample: Path) -> tuple[subprocess.Popen, Site]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder, sample],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    address = process.stdout.readline().split("/  ")[0]
    return process, Site(int(address.rsplit(":")[-1] or 0) if address else 0, folder)


def test_a_finished_job_survives_a_kill_and_nothing_a_clean_end(tmp_path, sample):
    folder = tmp_path / "page"
    process, site = start(folder, sample)
    assert folder.stat().st_mode & 0o777 == 0o700
    job = site.send("sample=1")
    mask = site.file(job, "mask.nii.gz")
    (folder / "unfinished" / "input").mkdir(parents=True)
    process.kill()
    process.communicate()
    process, again = start(folder, sample)
    again.cookie = site.cookie
    assert again.get("/api/jobs")["jobs"] == [again.get(f"/api/jobs/{job['id']}")]
    assert again.get("/api/jobs")["jobs"][0]["result"] == job["result"]
    assert again.file(job, "mask.nii.gz") == mask
    assert not (folder / "unfinished").exists()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 0 and said == "" and not folder.exists()


def test_a_folder_of_others_is_not_used(tmp_path):
    for name, make in {
        "open": lambda p: p.mkdir(),
        "file": lambda p: p.touch(),
        "link": lambda p: p.symlink_to(tmp_path),
    }.items():
        make(tmp_path / name)
        (tmp_path / name).chmod(0o755)
        with pytest.raises(InputError, match="not yours alone"):
            lock_folder(tmp_path / name)


def test_a_folder_is_one_servers(tmp_path):
    with (
        lock_folder(tmp_path / "page"),
        pytest.raises(InputError, match="another server uses .*/page; choose another --port"),
    ):
        lock_folder(tmp_path / "page")


def test_a_model_that_is_none_is_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no model"):
        Jobs([MODEL, tmp_path / "none.keras"], tmp_path / "page", 1, 1)
    assert not (tmp_path / "page").exists()
