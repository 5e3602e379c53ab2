"""A process with the networks loaded, which predicts one job after another until it is killed.

worker = Worker({"brain": Path("files/model.keras")})
worker.first_word()                                    # ("ready", "") or ("failed", why)
worker.pipe.send(("brain", path, folder, name))        # its files come into `folder`
worker.pipe.recv()                                     # stages, then "done" or "failed"
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

from common.card import Card
from common.errors import InputError
from common.files import write_json
from common.report import CYAN, label_colour, to_hex
from predict import work
from predict.network import Network
from predict.result import Result, Target, Wanted
from predict.tumour import name_shown
from scan.dicom_seg import write_dicom_seg
from server.uploads import make_patterns

FILES = {  # what a job gives out, and what it is called in its folder
    "scan.nii.gz": "scan.nii.gz",
    "mask.nii.gz": "scan_predicted_mask.nii.gz",
    "brain.nii.gz": "scan_brain.nii.gz",
    "mask.dcm": "mask.dcm",
    "picture.png": "picture.png",
    "mask.png": "scan_predicted_mask.png",
    "overlay.png": "scan_overlay.png",
    "result.json": "result.json",
}
# Of pred.py's JSON
PRIVATE = ("input", "input_version", "label", "mask", "masks", "brain", "thumbnail", "wanted")
INPUT_NAMES = {False: "scan", True: "case"}  # in the API, of an input; by `Card.is_mri`
SPAWN = multiprocessing.get_context("spawn")


class Worker:
    """The process, as the server sees it."""

    def __init__(self, tasks: dict[str, Path]):
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=run_worker, args=(theirs, tasks), daemon=True)
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


def die_with_parent() -> None:
    """Wait for the parent process to end, then end this one: it may have been killed outright."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run_worker(pipe, tasks: dict[str, Path]) -> None:
    """Answer each (task, path, folder, name) with stages, then "done" or "failed"."""
    limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        networks = {
            task: Network(model, tell=lambda *told: pipe.send(told))
            for task, model in tasks.items()
        }
        for kind in ("brain", "tumour"):  # else the first scan would wait for them
            importlib.import_module(f"predict.{kind}")
        pipe.send(("ready", ""))
    except InputError as error:
        pipe.send(("failed", str(error)))
        pipe.recv()  # the server may still send a task, and then reads why
        return
    while True:
        try:
            task, *job = pipe.recv()
        except EOFError:
            return
        pipe.send(run_job(*job, networks[task]))


def limit_memory() -> None:
    """Let this process fail, or be the first that the system ends, before memory runs out."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = most if limit == resource.RLIM_INFINITY else min(most, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def run_job(path: Path, folder: Path, name: str, network: Network) -> tuple[str, str]:
    """Predict and return ("done", ""), or ("failed", why)."""
    try:
        write_result(path, folder, name, network)
        return "done", ""
    except InputError as error:
        return "failed", " ".join(str(error).split())
    except MemoryError:
        return "failed", "there is not memory enough for this scan; send a smaller part of it"
    except Exception:
        traceback.print_exc()
        return "failed", "this file could not be used; the server's output says why"


def write_result(path: Path, folder: Path, name: str, network: Network) -> None:
    """Do what pred.py does with a path; write its files into `folder`, and result.json last."""
    start, card = time.perf_counter(), network.card
    is_slice = work.choose_kind(path, card) is work.picture
    wanted = Wanted(brain=not (card.is_mri or is_slice))
    job = work.Work(Target(path, "scan", folder))
    network.tell("reading", 0)
    work.read(job, wanted, replace(card, names=make_patterns(card.channels)))
    job.kind.show(job.source, folder, card)
    work.predict(job, network, wanted)
    source, result = job.source, job.result  # `write` lets go of them
    network.tell("writing", 0)
    job.seconds = time.perf_counter() - start
    work.write(job, card, wanted)
    job.about["notes"] += write_seg(source, result, folder, card)
    write_json(folder / "result.json", summarise(job.about, name, folder, card))


def write_seg(source, result: Result, folder: Path, card: Card) -> list[str]:
    """Write the DICOM SEG of a DICOM scan; return a note when it cannot be made."""
    if getattr(source, "slices", None) is None:  # no Volume, or not of DICOM
        return []
    try:
        write_dicom_seg(result.mask, source, folder / "mask.dcm", card.sha256)
    except InputError as error:
        return [f"no DICOM SEG: {str(error).split(';')[0]}"]
    return []


def summarise(about: dict, name: str, folder: Path, card: Card) -> dict:
    """The content of result.json: pred.py's JSON, and what the page needs to show it."""
    files = [name for name, file in FILES.items() if (folder / file).exists()]
    kind = INPUT_NAMES[card.is_mri] if "volume_ml" in about else "slice"
    channels = name_shown(card) if kind == "case" else {}
    return {
        "name": name,
        "kind": kind,
        **describe_areas(about, card),
        "channels": channels,
        "files": [*dict.fromkeys([*files, *channels.values()]), "result.json"],
        **{key: value for key, value in about.items() if key not in PRIVATE},
    }


def describe_areas(about: dict, card: Card) -> dict[str, list[dict]]:
    """The labels and the regions: name, value(s) in the mask, mL and colour of each."""
    values = card.label_values or {label: label for label in card.labels}
    ml = about.get("volumes_ml") or dict.fromkeys(card.labels.values(), about.get("volume_ml"))
    areas = [
        {
            "values": [values[label] for label in area],
            "name": name,
            "ml": ml.get(name),
            "colour": to_hex(label_colour(number) if card.is_mri else CYAN),
        }
        for number, (name, area) in enumerate(card.areas.items(), 1)
    ]
    count = len(card.labels)
    labels = [{"value": area.pop("values")[0]} | area for area in areas[:count]]
    return {"labels": labels, "regions": areas[count:]}
