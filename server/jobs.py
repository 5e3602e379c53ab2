"""Predictions in the background: a queue, one process a job, and a private folder for the results.

    jobs = Jobs([model, other], root, workers=2, keep_hours=24)
    folder = jobs.new_folder()                      # put the scan into folder / "input"
    jobs.add(Job(folder, "scan.nii.gz", "brain", owner, path))
    jobs.close()                                    # everything is deleted

A job is cancelled by killing its process, which may also die of too large a scan: neither touches
the server. A result counts once result.json stands in its folder, written last: after a kill of the
server itself, the next server finds it there.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from common.card import read_card
from common.errors import InputError
from common.files import read_json, write_json
from server.worker import FILES, Worker

STAGES = {  # where each begins, as a share of the whole time; by eye
    "reading": 0.0,
    "finding the head": 0.15,
    "segmenting": 0.25,
    "refining": 0.6,
    "writing": 0.85,
}
STEM = "scan"  # of the names of a job's files, as server/worker.py calls its target
CORRECTED = "corrected_mask.nii.gz"  # what the newest correction is called in the API
KEPT = ("name", "task", "owner", "created")  # of a job, in job.json
MOST_SECONDS = 600  # of one job: a round number, some fifty times what 300 slices take
SWEEP = 30  # s between two looks for jobs that were kept long enough: a round number


def name_tasks(models: Sequence[Path]) -> dict[str, Path]:
    """The networks, named by what their cards say they find: brain, tumour, a second: tumour 2."""
    tasks = {}
    for model in models:
        card = read_card(model)
        name = next(iter(card.regions | card.areas)).removeprefix("whole ")
        names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        tasks[next(name for name in names if name not in tasks)] = Path(model)
    return tasks


@dataclass
class Job:
    """One scan or picture on its way; what `job.json` says of it survives the server."""

    folder: Path
    name: str
    task: str
    owner: str
    path: Path | None = None
    given: dict[str, str] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    state: str = "queued"
    stage: str = ""
    progress: float = 0.0
    error: str = ""
    result: dict | None = None
    worker: Worker | None = None

    @property
    def id(self) -> str:
        return self.folder.name

    def tell(self, stage: str, share: float) -> None:
        """Note how far the prediction is."""
        if stage in STAGES:
            ends = [*STAGES.values(), 1.0]
            begins = STAGES[stage]
            self.stage = stage
            self.progress = begins + share * (ends[ends.index(begins) + 1] - begins)

    def explain(self, error: str) -> str:
        """An error with the sender's names for things in place of where they lie here."""
        error = error.replace(str(self.path), self.name).replace(f"{self.folder}/", "")
        file = r"[\w-]+(\.[\w-]+)+"
        return re.sub(file, lambda found: self.given.get(found[0], found[0]), error)

    def find_file(self, name: str) -> Path:
        """Where a file lies that the API gives out by a name; it may not be there."""
        result = self.result or {}
        if name == CORRECTED and result.get("corrections"):
            return self.folder / result["corrections"][-1]["file"]
        is_channel = name in result.get("channels", {}).values()
        return self.folder / (name if is_channel else FILES.get(name, "no such file"))

    def public(self, root: str = "") -> dict:
        """What the API says of the job; `root` is the path at which the page lies."""
        url = f"{root}/api/jobs/{self.id}/"
        result = self.result
        if result:
            names = [*result["files"], *([CORRECTED] if result.get("corrections") else [])]
            correction = {"correction": f"{url}correction"} if "mask.nii.gz" in names else {}
            result = result | {"files": {name: url + name for name in names}} | correction
        return {
            "id": self.id,
            "name": self.name,
            "task": self.task,
            "state": self.state,
            "stage": self.stage,
            "progress": round(self.progress, 3),
            "error": self.error,
            "created": round(self.created, 1),
            "result": result,
            "scan": url + "scan.nii.gz" if (self.folder / FILES["scan.nii.gz"]).exists() else None,
        }


class Jobs:
    """The queue, one job a worker, and the folder where the jobs lie.

    Raises InputError when a network cannot be loaded or the folder is not ours alone.
    """

    def __init__(self, models: Sequence[Path], root: Path, workers: int, keep_hours: float):
        self.tasks, self.root, self.keep_hours = name_tasks(models), root, keep_hours
        self.lock, self.closed = threading.RLock(), threading.Event()
        self.idle = [Worker(self.tasks)]
        state, reason = self.idle[0].first_word()
        if state == "failed":
            raise InputError(reason)
        self.guard = lock_folder(root)
        left = map(restore_job, [path for path in root.iterdir() if path.is_dir()])
        self.jobs = {job.id: job for job in left if job}
        self.pool = ThreadPoolExecutor(workers)
        threading.Thread(target=self.sweep, daemon=True).start()

    def new_folder(self) -> Path:
        """A folder for an upload, of a name that nobody can guess."""
        folder = self.root / secrets.token_urlsafe(16)
        (folder / "input").mkdir(parents=True, mode=0o700)
        return folder

    def count_waiting(self) -> int:
        return sum(job.state == "queued" for job in list(self.jobs.values()))

    def add(self, job: Job) -> None:
        """Put a job into the queue."""
        write_json(job.folder / "job.json", {key: getattr(job, key) for key in KEPT})
        with self.lock:
            self.jobs[job.id] = job
        self.pool.submit(self.run, job)

    def of(self, owner: str) -> list[Job]:
        """A browser's jobs, newest first."""
        jobs = [job for job in list(self.jobs.values()) if job.owner == owner]
        return sorted(jobs, key=lambda job: -job.created)

    def run(self, job: Job) -> None:
        """See a job through, in a thread of the pool."""
        with self.lock:
            if job.state != "queued" or self.closed.is_set():
                return
            try:
                job.state, job.worker = "running", self.free_worker()
            except OSError as error:
                job.state, job.error = "failed", f"no process can be started: {error.strerror}"
                return
        state, reason = follow_job(job)
        with self.lock:
            worker, job.worker = job.worker, None
            self.settle(job, state, reason)
            self.release(worker)

    def settle(self, job: Job, state: str, reason: str) -> None:
        """Note how a job ended, unless it was cancelled, and delete what nobody needs any more."""
        shutil.rmtree(job.folder / "input", ignore_errors=True)
        if job.state == "running":
            job.result = read_json(job.folder / "result.json") or None
            job.state, job.error = state, job.explain(reason)
            job.progress = 1.0 if state == "done" else job.progress
        if job.state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)

    def free_worker(self) -> Worker:
        """The worker that was used last, or a new one."""
        while self.idle:
            worker = self.idle.pop()
            if worker.process.is_alive():
                return worker
        return Worker(self.tasks)

    def release(self, worker: Worker) -> None:
        """Keep a worker for the next job; one that is gone is replaced, to be ready by then."""
        if worker.process.is_alive():
            self.idle.append(worker)
        elif not self.idle and not self.closed.is_set():
            self.idle.append(Worker(self.tasks))

    def drop(self, job: Job) -> None:
        """Cancel a job, or delete the result of one that is over."""
        with self.lock:
            if job.state in ("queued", "running"):
                job.state = "cancelled"
                if job.worker:
                    job.worker.kill()
                else:
                    shutil.rmtree(job.folder, ignore_errors=True)
                return
            self.jobs.pop(job.id, None)
            job.state = "deleted"
            shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Forget what has been kept long enough."""
        while not self.closed.wait(SWEEP):
            self.forget(time.time() - 3600 * self.keep_hours)

    def forget(self, before: float) -> None:
        """Delete the jobs that are over and were made before a time (seconds since 1970)."""
        for job in list(self.jobs.values()):
            if job.created < before and job.state not in ("queued", "running"):
                self.drop(job)

    def close(self) -> None:
        """End all work and delete everything."""
        with self.lock:
            self.closed.set()
            self.pool.shutdown(wait=False, cancel_futures=True)
            for worker in [*self.idle, *(job.worker for job in self.jobs.values() if job.worker)]:
                worker.kill()
        self.pool.shutdown()
        shutil.rmtree(self.root, ignore_errors=True)
        self.guard.close()


def follow_job(job: Job) -> tuple[str, str]:
    """The last answer of a job's worker, ("done", "") or ("failed", why); its stages are noted."""
    deadline, worker = time.monotonic() + MOST_SECONDS, job.worker
    try:
        worker.pipe.send((job.task, job.path, job.folder, job.name))
        while worker.pipe.poll(max(0, deadline - time.monotonic())):
            said, value = worker.pipe.recv()
            if said in ("done", "failed"):
                return said, value
            job.tell(said, value)
    except (EOFError, OSError):
        return "failed", "the prediction was ended by the system, likely for want of memory"
    worker.kill()
    return "failed", f"the prediction took longer than {MOST_SECONDS // 60} minutes"


def lock_folder(root: Path):
    """Make the folder private and lock it; return the open lock file.

    Raises InputError when another user made it or another server uses it.
    """
    if not root.is_symlink() and not root.exists():
        root.mkdir(mode=0o700, parents=True)
    about = root.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise InputError(f"{root} is not yours alone; remove it, or set TMPDIR to another folder")
    lock = os.fdopen(os.open(root / ".lock", os.O_CREAT | os.O_WRONLY, 0o600), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"another server uses {root}; choose another --port") from error
    return lock


def restore_job(folder: Path) -> Job | None:
    """The finished job that a killed server left in a folder; an unfinished one is deleted."""
    about, result = (read_json(folder / name) for name in ("job.json", "result.json"))
    if set(about) == set(KEPT) and result:
        shutil.rmtree(folder / "input", ignore_errors=True)
        job = Job(folder, **about, state="done", progress=1.0, result=result)
        tell_corrections(job)
        return job
    shutil.rmtree(folder, ignore_errors=True)
    return None


def tell_corrections(job: Job) -> None:
    """Bring what is told of a job's result in line with the corrections of its mask."""
    entries = read_json(job.folder / f"{STEM}.json").get("corrections", [])
    entries = [{key: value for key, value in e.items() if key != "scan"} for e in entries]
    if entries != job.result.get("corrections", []):
        job.result = job.result | {"corrections": entries}
        write_json(job.folder / "result.json", job.result)
