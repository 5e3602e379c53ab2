"""app.py: from an upload to its files, and what is refused and how.

One server for the tests of a file, at a real socket; its working folder, home and temporary folder
are empty ones, in which afterwards nothing may lie.
"""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from ask import MOST_MB, dicom, png, raw_nifti, small_nifti, zipped
from make import egg, layers, write_dicom

import app
import pred
import synthetic
from app import parse
from common.card import read_card
from common.errors import InputError
from common.files import read_json
from predict.network import MODEL, Network
from predict.result import FOR_SCANS, Wanted, plan
from predict.signs import GRADES, SIGNS
from predict.work import predict_files
from server.jobs import STAGES, name_tasks
from server.samples import Samples
from server.serve import open_socket
from server.worker import FILES
from synthesis.tumour import Tumour

STEP = 2.5  # mm: the fixture's cubes


# ---------------------------------------------------------------- from an upload to its files


@pytest.fixture(scope="module")
def series(cta, tmp_path_factory):
    """Five slices of the head as DICOM files, by the names of a folder."""
    folder = tmp_path_factory.mktemp("dicom")
    hu = cta.hu[:, :, 40:45].transpose(2, 1, 0)[:, ::-1, ::-1]
    places = np.array([[-100, -100, STEP * k] for k in range(len(hu))])
    write_dicom(folder, hu, places, spacing=(STEP, STEP), PatientPosition="HFS")
    return {f"study/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def nifti(content: bytes, suffix: str, folder: Path) -> nib.Nifti1Image:
    path = folder / f"read{suffix}"
    path.write_bytes(content)
    return nib.load(path)


@pytest.fixture(scope="module")
def plain(cta_file, tmp_path_factory):
    """The folder of pred.py's own result of that scan, and what it told of its progress."""
    told, out = [], tmp_path_factory.mktemp("plain")
    network = Network(tell=lambda stage, share: told.append((stage, share)))
    (target,) = plan([cta_file], out)
    (work,) = predict_files([target], lambda: network, Wanted(brain=True), network.card)
    assert work.error is None
    return target.folder, told


def test_a_scan_gives_what_pred_gives(site, done, plain):
    folder, about = plain[0], read_json(plain[0] / "cta.json")
    assert done["state"] == "done" and done["progress"] == 1 and done["error"] == ""
    for key in ("volume_ml", "verdict", "reasons", "signs", "affine", "shape", "model"):
        assert done["result"][key] == about[key]
    assert site.file(done, "mask.nii.gz") == (folder / "cta_predicted_mask.nii.gz").read_bytes()
    assert site.file(done, "brain.nii.gz") == (folder / "cta_brain.nii.gz").read_bytes()
    assert site.file(done, "overlay.png") == (folder / "cta_overlay.png").read_bytes()


def test_pred_tells_every_stage_but_reading_and_writing(plain):
    stages = list(dict.fromkeys(stage for stage, _ in plain[1]))
    assert stages == [stage for stage in STAGES if stage not in ("reading", "writing")]
    assert all(0 <= share < 1 for _, share in plain[1])


def test_the_result_says_what_the_page_shows(done):
    result = done["result"]
    assert result["kind"] == "scan" and result["name"] == "Doe_Jane cta.nii.gz"
    assert result["labels"] == [
        {"value": 1, "name": "brain", "ml": result["volume_ml"], "colour": "#40e0ff"}
    ]
    assert result["volume_ml"] > 500 and result["seconds"] > 0
    assert set(result["files"]) == {
        "scan.nii.gz",
        "mask.nii.gz",
        "brain.nii.gz",
        "overlay.png",
        "result.json",
    }


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
    assert job["result"]["notes"] == [], "nobody asked for what is for scans"
    for name in ("picture.png", "mask.png", "overlay.png"):
        seen = cv2.imdecode(np.frombuffer(site.file(job, name), np.uint8), cv2.IMREAD_UNCHANGED)
        assert seen.shape[:2] == picture.shape


def test_a_dicom_image_without_geometry_gives_a_mask_of_its_size(site):
    job = site.send(("im.dcm", dicom(ImageOrientationPatient=None, PixelSpacing=None)))
    assert job["state"] == "done" and job["result"]["kind"] == "slice", job["error"]
    assert "taken as a slice" in job["result"]["notes"][0]
    assert FOR_SCANS not in job["result"]["notes"]
    mask = cv2.imdecode(np.frombuffer(site.file(job, "mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (8, 8) and "mask.dcm" not in job["result"]["files"]


# ---------------------------------------------------------------- MRI cases


@pytest.fixture(scope="module")
def modalities(tumour_case):
    """The files of the case without its labels, by name."""
    return {
        path.name: path.read_bytes()
        for path in sorted(tumour_case.iterdir())
        if "_seg" not in path.name
    }


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
    assert list(name_tasks([tumour_model, MODEL, tumour_model])) == ["tumour", "brain", "tumour 2"]


def test_a_case_gives_what_pred_gives(site, tumour_case, tumour_model, modalities, tmp_path):
    job = site.send(*modalities.items(), "task=tumour")
    truth = nib.load(tumour_case / "BraTS_7_seg.nii.gz")
    np.testing.assert_array_equal(labels_in(site, job, tmp_path), np.asarray(truth.dataobj))
    assert pred.main([str(tumour_case), "--model", str(tumour_model), "--out", str(tmp_path)]) == 0
    made, result = tmp_path / "BraTS_7_prediction", job["result"]
    for name in ("mask.nii.gz", "overlay.png"):
        ours = made / FILES[name].replace("scan", "BraTS_7", 1)
        assert site.file(job, name) == ours.read_bytes()
    about = read_json(made / "BraTS_7.json")
    assert all(result[key] == about[key] for key in ("volume_ml", "volumes_ml", "affine", "model"))
    assert (job["name"], job["task"], result["kind"]) == ("BraTS_7", "tumour", "case")
    seen = {"scan.nii.gz", "channel_t1ce.nii.gz"}
    assert set(result["files"]) == seen | {"mask.nii.gz", "overlay.png", "result.json"}
    assert result["channels"] == {"flair": "scan.nii.gz", "t1ce": "channel_t1ce.nii.gz"}
    for channel, name in result["channels"].items():
        shown = nifti(site.file(job, name), ".nii.gz", tmp_path)
        assert shown.shape == truth.shape and np.array_equal(shown.affine, truth.affine)
        stored = nib.load(tumour_case / f"BraTS_7_{channel}.nii.gz").get_fdata()
        assert np.corrcoef(shown.get_fdata()[stored > 0], stored[stored > 0])[0, 1] > 0.99


def test_a_cases_labels_and_regions_have_values_volumes_and_colours(site, modalities):
    result = site.send(*modalities.items(), "task=tumour")["result"]
    assert [(label["name"], label["value"]) for label in result["labels"]] == [
        ("necrotic core", 1),
        ("oedema", 2),
        ("enhancing tumour", 4),
    ]
    assert [(region["name"], region["values"]) for region in result["regions"]] == [
        ("whole tumour", [1, 2, 4]),
        ("tumour core", [1, 4]),
    ]
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


@pytest.mark.parametrize(
    "names, words",
    [
        (["x_flair.nii.gz"], "x_flair.nii.gz: no t1ce volume in case, only flair"),
        (["x_flair.nii.gz", "x_t1.nii.gz"], "x: no t1ce volume in case, only flair"),
        (
            ["in/a_flair.nii.gz", "in/b_flair.nii.gz", "in/t1ce.nii.gz"],
            "in holds 3 cases; give a folder with one",
        ),
        (["a.nii.gz", "b.nii.gz"], "case holds no NIfTI file that is named as a modality"),
        (["x_flair.nii.gz", "x_t1ce.nii.gz", "other grid"], "register them to one grid"),
        (["study.zip"], "study.zip is one file, and this model looks at flair, t1ce"),
    ],
)
def test_what_pred_refuses_of_a_case_is_the_jobs_error(site, modalities, names, words):
    contents = dict.fromkeys(names, modalities["BraTS_7_flair.nii.gz"])
    if contents.pop("other grid", None):
        contents["x_t1ce.nii.gz"] = small_nifti(np.arange(6**3).reshape(6, 6, 6))
    if "study.zip" in contents:
        contents = {"study.zip": zipped(contents)}
    job = site.send(*contents.items(), "task=tumour")
    assert job["state"] == "failed" and words in job["error"], job["error"]
    assert str(site.folder) not in job["error"] and job["id"] not in os.listdir(site.folder)


def test_the_sample_of_a_case_is_one_request_away(site, tumour_case, tmp_path):
    job = site.send("sample=1", "task=tumour")
    truth = nib.load(tumour_case / "BraTS_7_seg.nii.gz")
    np.testing.assert_array_equal(labels_in(site, job, tmp_path), np.asarray(truth.dataobj))
    assert job["name"] == tumour_case.name and len(list(tumour_case.iterdir())) == 3
    assert [task["sample"] for task in site.get("/api/about")["tasks"]] == [True, True]
    settings = site.app.config["PAGE"]
    site.app.config["PAGE"] = replace(settings, sample_case=tmp_path / "none")
    status, said = site.post("sample=1", "task=tumour")
    assert [task["sample"] for task in site.get("/api/about")["tasks"]] == [True, False]
    site.app.config["PAGE"] = settings
    assert status == 400 and "no sample for this task" in said["error"]


def test_the_sample_case_is_made_once_and_where_a_network_takes_it(
    tmp_path, cta_file, tumour_model, monkeypatch, capsys
):
    made = []
    small = Tumour({"flair": layers(), "t1ce": layers()}, layers(), egg(), np.eye(4), {})
    monkeypatch.setattr(synthetic, "make_tumour", lambda *_, **__: made.append(1) or small)
    monkeypatch.setattr(app, "serve", lambda settings: None)

    def start(case, *models):
        settings = partial(app.PageSettings, sample=cta_file, sample_case=case)
        monkeypatch.setattr(app, "PageSettings", settings)
        app.main(["--model", *map(str, models)])
        monkeypatch.setattr(app, "PageSettings", settings.func)

    case = tmp_path / "case"
    start(case, MODEL)
    assert not made and not case.exists()
    start(case, MODEL, tumour_model)
    start(case, MODEL, tumour_model)
    assert len(made) == 1
    assert len(Samples(case=case).find(read_card(tumour_model))) == 2
    start(cta_file / "case", tumour_model)
    assert "no sample of MRI" in capsys.readouterr().err, "and the page is served without one"


def test_what_a_verdict_means_is_told_of_every_grade_and_sign(site, done):
    words = site.get("/api/words")
    assert set(words["grades"]) == set(GRADES) and set(words["signs"]) == set(SIGNS)
    assert set(done["result"]["signs"]) <= set(words["signs"])
    volume = words["signs"]["volume_ml"]
    assert volume["limits"] == "check below 700 or above 1950, failed below 300 or above 2600"
    assert words["signs"]["tail_mm"]["limits"] == "check above 20", "it never fails"
    assert all(sign["means"].endswith(".") and sign["limits"] for sign in words["signs"].values())


@pytest.mark.parametrize(
    "field, words",
    [
        ("task=../evil", "there is no task ../evil; choose brain or tumour"),
        ("channels=[]", "channels must be a JSON object"),
        ("channels={", "must be a JSON object"),
        ('channels={"x": "../evil"}', "name and flair or t1ce"),
        ('channels={"x": {}}', "name and fl"),
        ("channels=" + "[" * 10**5, "channels must be a JSON object"),
    ],
    ids=lambda value: value[:20],
)
def test_a_task_that_cannot_be_is_refused(site, modalities, field, words):
    task = [] if field.startswith("task") else ["task=tumour"]
    status, said = site.post(*modalities.items(), field, *task)
    assert status == 400 and words in said["error"]


def test_a_slice_of_several_modalities_gives_its_labels(site, tumour_case):
    case = {
        kind: np.asarray(nib.load(tumour_case / f"BraTS_7_{kind}.nii.gz").dataobj)[..., 16]
        for kind in ("flair", "t1ce", "seg")
    }
    seen = [
        np.where(case[kind], (case[kind] - 100.0) * (254 / 800) + 1, 0)
        for kind in ("t1ce", "flair")
    ]
    picture = np.rint(np.dstack([np.zeros_like(seen[0]), *seen])).astype(np.uint8)
    job = site.send(("s.png", cv2.imencode(".png", picture)[1].tobytes()), "task=tumour")
    mask = cv2.imdecode(np.frombuffer(site.file(job, "mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, case["seg"])
    assert job["result"]["kind"] == "slice"
    assert job["result"]["labelled_pixels"] == np.count_nonzero(mask)


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


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_another_sites_page_cannot_ask(site, done, headers):
    assert site.post("sample=1", **headers)[0] == 403
    assert site.ask("DELETE", f"/api/jobs/{done['id']}", **headers)[0] == 403
    assert site.ask("GET", f"/api/jobs/{done['id']}")[0] == 200


def test_the_page_itself_may_ask(site):
    own = {"Origin": f"http://127.0.0.1:{site.port}", "Sec_Fetch_Site": "same-origin"}
    status, job = site.post(("a.png", png(64, 64)), **own)
    assert status == 202 and site.over(job)["state"] == "done"


def test_a_strange_host_gets_nothing(site, done):
    for path in ("/", "/api/about", f"/api/jobs/{done['id']}"):
        status, _, body = site.ask("GET", path, Host="evil.example")
        assert status == 403 and "address" in json.loads(body)["error"]


def test_unknown_jobs_and_files_are_404(site, done):
    own = f"/api/jobs/{done['id']}"
    for path in (
        "/api/jobs/x",
        f"{own}/job.json",
        f"{own}/scan.json",
        f"{own}/../job.json",
        f"{own}/mask.dcm",
        "/api/none",
        "/page/none.js",
    ):
        status, _, body = site.ask("GET", path)
        assert status == 404 and json.loads(body)["error"], path
    assert site.ask("DELETE", "/api/jobs/x")[0] == 404
    assert site.ask("PUT", "/api/jobs")[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/page/..\\app.py",
        "/../../etc/passwd",
        "//etc/passwd",
        "/page/%00",
        "/api/jobs/../about",
    ],
)
def test_no_path_leads_out_of_the_page(site, path):
    status, answer = site.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    assert status in (400, 404) and b"import" not in answer and b"root:" not in answer


def test_too_many_jobs_and_a_full_disk_are_said(site, monkeypatch):
    monkeypatch.setattr(app, "MOST_WAITING", 0)
    status, said = site.post("sample=1")
    assert status == 429 and "too many jobs" in said["error"]
    monkeypatch.undo()
    monkeypatch.setattr(app.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    status, said = site.post("sample=1")
    assert status == 507 and "disk" in said["error"]


def test_an_upload_over_the_cap_is_413_in_words(site):
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MOST_MB * 2**20 + 2}"
        "\r\nContent-Type: multipart/form-data; boundary=XxXxX\r\n\r\n"
    ).encode()
    status, answer = site.raw(head)
    assert status == 413 and f"one upload may have {MOST_MB} MB".encode() in answer


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("half.nii.gz", "half", "half.nii.gz is truncated or damaged"),
        ("several.nii", "several", "several.nii holds 2 volumes"),
        ("study.zip", "zip", "study.zip holds no DICOM image"),
        ("<b>.dcm", "dicom", "<b>.dcm is neither a NIfTI nor a readable DICOM image"),
        ("x.png", "photo", "x.png is a colour picture"),
    ],
)
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
    assert "no password" in capsys.readouterr().err and served[0].limit.bytes == 10 << 20
    app.main([])
    assert capsys.readouterr().err == "" and served[1].host == "127.0.0.1"
    with pytest.raises(SystemExit):
        parse(["--workers", "0"])


def test_an_address_that_is_taken_is_one_line(site):
    with pytest.raises(InputError, match="choose another --port"):
        open_socket("127.0.0.1", site.port)
