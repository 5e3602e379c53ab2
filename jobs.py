"""Predictions in the background: a queue, one process a job, and a private folder for the results.

    jobs = Jobs([model, other], root, workers=2, keep_hours=24)
    folder = jobs.new_folder()                      # put the scan into folder / "input"
    jobs.add(Job(folder, "scan.nii.gz", "brain", owner, path))
    jobs.close()                                    # everything is deleted

A process can be killed at any moment, which is how a job is cancelled, and may die of a scan that
is too large for it; neither touches the server. A result counts once result.json stands in the
job's folder, written last: after a kill of the server itself, the next one finds it there.
"""

import fcntl
import importlib
import itertools
import json
import multiprocessing
import os
import re
import resource
import secrets
import shutil
import signal
import stat
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import cases
import data
import pred
import report
import uploads
from cases import card_of, read_json
from errors import InputError, replacing

STAGES = {"reading": 0.0, "finding the head": 0.15, "segmenting": 0.25, "refining": 0.6,
          "writing": 0.85}  # where each begins, as a share of the whole time  # fmt: skip
FILES = {  # what a job gives out, and what it is called in its folder
    "scan.nii.gz": "scan.nii.gz", "mask.nii.gz": "scan_predicted_mask.nii.gz",
    "brain.nii.gz": "scan_brain.nii.gz", "mask.dcm": "mask.dcm", "picture.png": "picture.png",
    "mask.png": "scan_predicted_mask.png", "overlay.png": "scan_overlay.png",
    "result.json": "result.json",
}  # fmt: skip
KEPT = ("name", "task", "owner", "created")  # of a job, in job.json
MOST_SECONDS = 600  # of one job
SPAWN = multiprocessing.get_context("spawn")


# ---------------------------------------------------------------- what there is to find


def source_kind(card: dict) -> str:
    """What a network looks at: a scan (HU), or a case of an MRI's modalities."""
    return "case" if cases.is_mri(card) else "scan"


def tasks_of(models: Sequence[Path]) -> dict[str, Path]:
    """The networks by what their cards say that they find: brain, tumour, a second one tumour 2."""
    tasks = {}
    for model in models:
        card = card_of(model)
        name = next(iter([*card.get("regions", ()), *cases.areas(card)])).removeprefix("whole ")
        names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        tasks[next(name for name in names if name not in tasks)] = Path(model)
    return tasks


# ---------------------------------------------------------------- a process that predicts


class Worker:
    """A process with the networks loaded, which predicts one scan after another until killed."""

    def __init__(self, tasks: dict[str, Path]):
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(theirs, tasks), daemon=True)
        self.process.start()
        theirs.close()

    def first_word(self) -> tuple[str, str]:
        """Wait until the networks are loaded: ("ready", "") or ("failed", why)."""
        try:
            return self.pipe.recv()
        except EOFError:
            return "failed", "the process that predicts died at its start; its output says why"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def work(pipe, tasks: dict[str, Path]) -> None:
    """A worker's life: answer each (task, path, folder, name) with stages, then "done" or "failed".
    """
    stay_small()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=data.die_with_parent, daemon=True).start()
    try:
        predictors = {task: pred.Predictor(model, tell=lambda *told: pipe.send(told))
                      for task, model in tasks.items()}  # fmt: skip
        for module in ("border", "mri", "volume"):  # which the first scan would wait for
            importlib.import_module(module)
        pipe.send(("ready", ""))
    except InputError as error:
        pipe.send(("failed", str(error)))
        pipe.recv()  # who sends a task must find somebody there, to read why
        return
    while True:
        try:
            task, *job = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome(job, predictors[task]))


def stay_small() -> None:
    """Let this process fail, and be the first that the system ends, before memory runs out."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = most if limit == resource.RLIM_INFINITY else min(most, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def outcome(job: Sequence, predictor: pred.Predictor) -> tuple[str, str]:
    """("done", "") or ("failed", why) of a job; a result stands in its folder."""
    try:
        predict(*job, predictor)
        return "done", ""
    except InputError as error:
        return "failed", " ".join(str(error).split())
    except MemoryError:
        return "failed", "there is not memory enough for this scan; send a smaller part of it"
    except Exception:
        traceback.print_exc()
        return "failed", "this file could not be used; the server's output says why"


def predict(path: Path, folder: Path, name: str, predictor: pred.Predictor) -> None:
    """What pred.py does with a path, its files in `folder`; last of all result.json."""
    start, card = time.perf_counter(), predictor.card
    wanted = pred.Wanted(brain=source_kind(card) == "scan")
    todo = pred.Work(pred.Job(path, "scan", folder))
    predictor.tell("reading", 0)
    pred.read(todo, wanted, card | {"names": uploads.patterns(cases.channels(card))})
    source = todo.source
    write_shown(source, folder)
    pred.predict(todo, predictor)
    result = todo.result
    predictor.tell("writing", 0)
    todo.seconds = time.perf_counter() - start
    pred.write(todo, predictor, wanted)
    about = todo.about
    about["notes"] += write_seg(source, result, folder, card["sha256"])
    with replacing(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(summary(about, name, folder, card), indent=2))


def write_shown(source, folder: Path) -> None:
    """What the viewer shows below the mask: a slice as a grey picture, the scan, or the MRI."""
    if isinstance(source, np.ndarray):
        pred.write_image(folder / "picture.png", pred.grey(source))
    else:
        from volume import write_scan

        write_scan(getattr(source, "shown", source), folder / "scan.nii.gz")


def write_seg(source, result: pred.Result, folder: Path, version: str) -> list[str]:
    """Write the DICOM SEG of a DICOM scan; a note when it cannot be made."""
    if getattr(source, "slices", None) is None:
        return []
    from volume import write_dicom_seg

    try:
        write_dicom_seg(result.mask, source, folder / "mask.dcm", version)
    except InputError as error:
        return [f"no DICOM SEG: {str(error).split(';')[0]}"]
    return []


def summary(about: dict, name: str, folder: Path, card: dict) -> dict:
    """What result.json says: pred.py's JSON, and what the page needs to show it."""
    files = [name for name, file in FILES.items() if (folder / file).exists()]
    private = ("input", "input_version", "mask", "masks", "brain", "wanted")
    kept = {key: about[key] for key in about if key not in private}
    return {"name": name, "kind": source_kind(card) if "volume_ml" in about else "slice",
            **areas(about, card), "files": [*files, "result.json"]} | kept  # fmt: skip


def areas(about: dict, card: dict) -> dict[str, list[dict]]:
    """The labels and their regions: name, value(s) in the mask, mL and colour of each."""
    values = card.get("label_values") or {label: int(label) for label in card["labels"]}
    ml = about.get("volumes_ml") or dict.fromkeys(card["labels"].values(), about.get("volume_ml"))
    colours = {"scan": itertools.repeat(report.CYAN),
               "case": map(report.label_colour, itertools.count(1))}[source_kind(card)]  # fmt: skip
    regions = [
        {"values": [values[str(label)] for label in area], "name": name, "ml": ml.get(name),
         "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
        for (name, area), colour in zip(cases.areas(card).items(), colours, strict=False)
    ]  # fmt: skip
    labels = [regions.pop(0) for _ in card["labels"]]
    return {"labels": [{"value": label.pop("values")[0]} | label for label in labels],
            "regions": regions}  # fmt: skip


# ---------------------------------------------------------------- jobs


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

    def in_words(self, error: str) -> str:
        """An error with what the sender calls things instead of where they lie here."""
        error = error.replace(str(self.path), self.name).replace(f"{self.folder}/", "")
        file = r"[\w-]+(\.[\w-]+)+"
        return re.sub(file, lambda found: self.given.get(found[0], found[0]), error)

    def public(self) -> dict:
        """What the API says of the job."""
        url = f"/api/jobs/{self.id}/"
        result = self.result
        if result:
            result = result | {"files": {name: url + name for name in result["files"]}}
        return {
            "id": self.id, "name": self.name, "task": self.task, "state": self.state,
            "stage": self.stage, "progress": round(self.progress, 3), "error": self.error,
            "created": round(self.created, 1), "result": result,
            "scan": url + "scan.nii.gz" if (self.folder / FILES["scan.nii.gz"]).exists() else None,
        }  # fmt: skip


class Jobs:
    """The queue, one job a worker, and the folder where the jobs lie.

    Raises InputError when a network cannot be loaded or the folder is not ours alone.
    """

    def __init__(self, models: Sequence[Path], root: Path, workers: int, keep_hours: float):
        self.tasks, self.root, self.keep_hours = tasks_of(models), root, keep_hours
        self.lock, self.closed = threading.RLock(), threading.Event()
        self.idle = [Worker(self.tasks)]
        said, words = self.idle[0].first_word()
        if said == "failed":
            raise InputError(words)
        self.guard = open_folder(root)
        left = map(left_by_last_run, [path for path in root.iterdir() if path.is_dir()])
        self.jobs = {job.id: job for job in left if job}
        self.pool = ThreadPoolExecutor(workers)
        threading.Thread(target=self.sweep, daemon=True).start()

    def new_folder(self) -> Path:
        """A folder for an upload, of a name that nobody can guess."""
        folder = self.root / secrets.token_urlsafe(16)
        (folder / "input").mkdir(parents=True, mode=0o700)
        return folder

    def waiting(self) -> int:
        return sum(job.state == "queued" for job in list(self.jobs.values()))

    def add(self, job: Job) -> None:
        """Put a job into the queue."""
        content = {key: getattr(job, key) for key in KEPT}
        with replacing(job.folder / "job.json") as temporary:
            temporary.write_text(json.dumps(content))
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
        state, words = follow(job)
        with self.lock:
            worker, job.worker = job.worker, None
            self.settle(job, state, words)
            self.release(worker)

    def settle(self, job: Job, state: str, words: str) -> None:
        """Note how a job ended, unless it was cancelled, and delete what nobody needs any more."""
        shutil.rmtree(job.folder / "input", ignore_errors=True)
        if job.state == "running":
            job.result = read_json(job.folder / "result.json") or None
            job.state, job.error = state, job.in_words(words)
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
        """Forget, every half minute, what has been kept long enough."""
        while not self.closed.wait(30):
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


def follow(job: Job) -> tuple[str, str]:
    """What a job's worker answers in the end; its stages are noted."""
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


def open_folder(root: Path):
    """Make the folder private and lock it; the open lock file.

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


def left_by_last_run(folder: Path) -> Job | None:
    """The finished job that a killed server left in a folder; what is unfinished is deleted."""
    about, result = (read_json(folder / name) for name in ("job.json", "result.json"))
    if set(about) == set(KEPT) and result:
        shutil.rmtree(folder / "input", ignore_errors=True)
        return Job(folder, **about, state="done", progress=1.0, result=result)
    shutil.rmtree(folder, ignore_errors=True)
    return None
