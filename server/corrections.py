"""Corrections of a job's mask: what the page sends is written beside the mask, or taken back.

app.register_blueprint(corrections)      # of an app with a queue, app.extensions["jobs"]

POST   /api/jobs/ID/correction?who=AB&seen=SHA256     the body is the mask, NIfTI
DELETE /api/jobs/ID/correction?seen=SHA256            the newest one counts no more
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, current_app, request

from predict.correction import save_correction, undo_correction
from server.jobs import STEM, tell_corrections
from server.uploads import Refused, check_disk

MOST_BYTES = 64 << 20  # of a corrected mask, packed: many times what one takes. A round number

corrections = Blueprint("corrections", __name__)


@corrections.post("/api/jobs/<job_id>/correction")
def add_correction(job_id: str):
    """Write the mask that was sent; the answer says what was corrected, once the disk has it."""
    mask, who = receive_mask(), request.args.get("who", "")
    check_disk(current_app.extensions["jobs"].root, len(mask))
    return correct(job_id, lambda path, seen: save_correction(path, mask, who, seen))


@corrections.delete("/api/jobs/<job_id>/correction")
def drop_correction(job_id: str):
    """Take the newest correction back; the answer says which one that was."""
    return correct(job_id, undo_correction)


def receive_mask() -> bytes:
    """The body of the request, which is a packed mask; Refused for a larger one."""
    size = request.content_length
    if size is None or size > MOST_BYTES:
        raise Refused(f"a corrected mask may have {MOST_BYTES >> 20} MB, packed", 413)
    return request.get_data(cache=False)


def correct(job_id: str, change: Callable[[Path, str | None], dict]) -> dict:
    """Do something with a job's corrections; nobody deletes the job meanwhile."""
    jobs = current_app.extensions["jobs"]
    with jobs.lock:
        job = jobs.jobs.get(job_id)
        if job is None or job.state != "done":
            raise Refused("there is no such job, or it is not done", 404)
        entry = change(job.folder / f"{STEM}.json", request.args.get("seen"))
        tell_corrections(job)
    return entry
