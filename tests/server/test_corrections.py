"""server/corrections.py: the mask of a job, corrected over the API, and taken back."""

import json
import threading

import nibabel as nib
import numpy as np
import pytest
from ask import Site
from flask import Flask

from app import PageSettings, page
from common.files import read_json, write_json
from server import corrections
from server.access import rules
from server.jobs import Job, restore_job
from server.serve import make_server, open_socket

MASK = "scan_predicted_mask.nii.gz"


class FinishedJobs:
    """What the routes need of a queue, of which all jobs are over."""

    def __init__(self, root):
        self.root, self.lock = root, threading.RLock()
        self.jobs = {job.id: job for job in [restore_job(path) for path in root.iterdir()]}


def make_job(root, **about):
    folder = root / "one"
    folder.mkdir()
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[2:4, 2:4, 1:3] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([-1.0, 2, 3, 1])), folder / MASK)
    said = {"input": "/secret/x", "input_version": "1 2", "mask": MASK, "wanted": {}}
    write_json(folder / "scan.json", said | about)
    write_json(folder / "result.json", {"files": ["mask.nii.gz", "result.json"], "volume_ml": 1})
    write_json(folder / "job.json", {"name": "x", "task": "brain", "owner": "me", "created": 1.0})
    return folder


@pytest.fixture
def served(tmp_path):
    """A server of one finished job; its folder."""
    folder = make_job(tmp_path)
    settings = PageSettings()
    app = Flask("app")
    app.config["PAGE"] = settings
    app.register_blueprint(rules)
    app.register_blueprint(page)
    app.register_blueprint(corrections.corrections)
    app.extensions["jobs"] = FinishedJobs(tmp_path)
    listener = open_socket("127.0.0.1", 0)
    server = make_server(app, listener, settings.limit)
    threading.Thread(target=server.run, daemon=True).start()
    yield Site(listener.getsockname()[1], tmp_path, app), folder
    server.close()


def corrected(folder, *places):
    image = nib.load(folder / MASK)
    voxels = np.asarray(image.dataobj).copy()
    for place in places:
        voxels[place] = 1 - voxels[place]
    return nib.Nifti1Image(voxels, image.affine).to_bytes()


def send(site, body, query="who=AB&seen=", method="POST", **headers):
    status, _, said = site.ask(method, f"/api/jobs/one/correction?{query}", body, **headers)
    return status, json.loads(said)


def test_a_correction_is_saved_offered_and_taken_back(served):
    site, folder = served
    assert site.get("/api/jobs/one")["result"]["correction"] == "/api/jobs/one/correction"
    status, entry = send(site, corrected(folder, (0, 0, 0), (2, 2, 1)))
    assert status == 200 and (entry["who"], entry["slices"]) == ("AB", 2)
    assert (entry["added_ml"], entry["removed_ml"]) == (0.006, 0.006)
    job = site.get("/api/jobs/one")
    (told,) = job["result"]["corrections"]
    assert told["sha256"] == entry["sha256"] and "scan" not in told
    assert b"secret" not in site.file(job, "result.json")
    assert json.loads(site.file(job, "result.json"))["corrections"] == [told]
    (folder / "got.nii.gz").write_bytes(site.file(job, "corrected_mask.nii.gz"))
    got, old = nib.load(folder / "got.nii.gz"), nib.load(folder / MASK)
    differs = np.argwhere(np.asarray(got.dataobj) != np.asarray(old.dataobj)).tolist()
    assert differs == [[0, 0, 0], [2, 2, 1]] and got.header == old.header
    status, said = send(site, corrected(folder, (1, 1, 1)))
    assert status == 409 and "somebody" in said["error"]
    assert send(site, None, f"seen={entry['sha256']}", "DELETE")[0] == 200
    result = site.get("/api/jobs/one")["result"]
    assert result["corrections"] == [] and "corrected_mask.nii.gz" not in result["files"]
    assert site.ask("GET", "/api/jobs/one/corrected_mask.nii.gz")[0] == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"Origin": "http://evil.example"}}, 403),
        ({"headers": {"Sec_Fetch_Site": "cross-site"}}, 403),
        ({"body": b"no mask"}, 400),
        ({"body": b"x" * 5000}, 413),
        ({"method": "DELETE", "body": None}, 400),
    ],
)
def test_what_must_not_be_is_refused(served, monkeypatch, change, status):
    site, folder = served
    monkeypatch.setattr(corrections, "MOST_BYTES", 4096)
    headers = change.pop("headers", {})
    before = sorted(folder.iterdir())
    assert send(site, **{"body": corrected(folder, (0, 0, 0))} | change, **headers)[0] == status
    assert sorted(folder.iterdir()) == before
    assert site.ask("POST", "/api/jobs/none/correction", b"x")[0] == 404


def test_a_killed_servers_corrections_are_told_by_the_next(tmp_path):
    """It was killed after the mask and its JSON were written, before result.json was."""
    folder = make_job(tmp_path)
    (folder / "scan_corrected_mask.nii.gz").write_bytes(corrected(folder, (0, 0, 0)))
    entry = {"file": "scan_corrected_mask.nii.gz", "sha256": "x", "scan": ["1 2", None, None]}
    write_json(folder / "scan.json", read_json(folder / "scan.json") | {"corrections": [entry]})
    job = restore_job(folder)
    assert isinstance(job, Job) and job.find_file("corrected_mask.nii.gz").exists()
    assert read_json(folder / "result.json")["corrections"] == [
        {"file": "scan_corrected_mask.nii.gz", "sha256": "x"}
    ]
