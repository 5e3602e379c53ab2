"""`app.py --review DIR`, asked as a program asks it: what is shown, written and refused."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from http.client import HTTPException

import cv2
import nibabel as nib
import numpy as np
import pytest
from ask import Site, raw_nifti
from make import make_result, save_nifti

from app import PageSettings, parse, serve
from common.card import read_card
from common.errors import InputError
from common.files import checksum, read_json
from predict.ratings import NAME, name_result, read_ratings
from predict.result import Target, find_json, input_version
from server import results
from server.review import create_review, make_address
from server.serve import make_server, open_socket

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -30], [0, 0, -5, 9], [0, 0, 0, 1]])


def add_result(out, scan, **about):
    """A result of a NIfTI scan, whose mask is its bright voxels, as pred.py leaves it."""
    image = nib.load(scan)
    stem = scan.name.removesuffix(".nii.gz")
    target = Target(scan, stem, out / f"{stem}_prediction")
    usual = {
        "input": str(scan),
        "input_version": input_version(target),
        "label": scan.name,
        "shape": list(image.shape),
        "affine": nib.as_closest_canonical(image).affine.tolist(),
        "wanted": {"series": None, "volume": None},
    }
    picture = np.full((40, 60, 3), 90, np.uint8)
    folder = make_result(out, scan.name, picture, **usual | about)
    mask = (image.get_fdata() > 0).astype(np.uint8)
    save_nifti(folder / f"{stem}_predicted_mask.nii.gz", mask, image.affine)
    return folder


@pytest.fixture
def out(tmp_path):
    return make_folder(tmp_path)


def make_folder(place):
    """A folder with two results, one of which lies deeper, and their scans beside it."""
    noise = np.random.default_rng(0)
    (place / "scans").mkdir()
    for name, inner in (("a", ""), ("b", "site 1")):
        hu = noise.integers(-900, 900, (9, 8, 7)).astype(np.int16)
        scan = save_nifti(place / "scans" / f"{name}.nii.gz", hu, AFFINE)
        add_result(place / "out" / inner, scan, notes=["tilt"])
    return place / "out"


@contextlib.contextmanager
def serving(out, **settings):
    """A server of the folder at a real socket, asked with its key."""
    app = create_review(PageSettings(review=out, **settings))
    page = app.config["PAGE"]
    listener = open_socket("127.0.0.1", 0)
    server = make_server(app, listener, page.limit, page.prefix, page.proxy)
    threading.Thread(target=run_until_closed, args=(server,), daemon=True).start()
    yield Reviewer(listener.getsockname()[1], app)
    server.close()


def run_until_closed(server):
    with contextlib.suppress(OSError):  # its socket is closed while it waits
        server.run()


class Reviewer(Site):
    """The server, as the page asks it."""

    def __init__(self, port, app):
        super().__init__(port, None, app)
        self.key = f"key_{port}={app.config['KEY']}"

    def ask(self, method, path, body=None, **headers):
        return super().ask(method, path, body, **{"Cookie": self.key} | headers)

    def id(self, name):
        return {row["name"]: row["id"] for row in self.get("/api/results")["results"]}[name]

    def rate(self, result_id, rating, **said):
        said = {"mask_sha256": "", "who": "AB", "rating": rating} | said
        kind = {"Content-Type": "application/json"}
        path = f"/api/results/{result_id}/rating"
        status, _, body = self.ask("POST", path, json.dumps(said), **kind)
        return status, json.loads(body)


@pytest.fixture
def site(out):
    with serving(out) as site:
        yield site


# ---------------------------------------------------------------- what is shown


def test_the_list_and_what_a_viewer_needs(site, out):
    said = site.get("/api/results")
    assert [row["name"] for row in said["results"]] == ["a.nii.gz", "b.nii.gz"]
    assert said["folder"] == "out" and said["results"][0]["said"] == ["tilt"]
    assert site.get(f"/api/results?seen={said['version']}") == {"version": said["version"]}
    result = site.get(f"/api/results/{site.id('b.nii.gz')}")
    assert result["kind"] == "scan" and result["labels"][0]["name"] == "brain"
    assert "input" not in result and result["no_scan"] == ""
    status, _, mask = site.ask("GET", result["files"]["mask.nii.gz"])
    path = out / "site 1/b_prediction/b_predicted_mask.nii.gz"
    assert status == 200 and mask == path.read_bytes() and result["mask_sha256"] == checksum(path)
    for name in ("overlay.png", "thumbnail"):
        assert site.ask("GET", result["files"][name])[2].startswith(b"\x89PNG")


def test_inputs_that_failed_are_named_until_they_have_a_result(out):
    said = {"error": "no scan", "time": "2026"}
    failed = [{"name": f"{n}.nii.gz", "input": f"/scans/{n}.nii.gz"} | said for n in "cd"]
    (out / "runs").mkdir()
    (out / "runs/run.json").write_text(json.dumps({"failed": failed}))
    path = find_json(out / "a_prediction")
    about = read_json(path) | {"input": "/scans/d.nii.gz", "finished": "2027"}
    path.write_text(json.dumps(about))
    with serving(out) as site:
        assert site.get("/api/results")["failed"] == [{"name": "c.nii.gz", "error": "no scan"}]
    (out / "runs").rename(out.parent / "runs")
    (out / "runs").symlink_to(out.parent / "runs")  # elsewhere: not looked at
    with serving(out) as site:
        assert site.get("/api/results")["failed"] == []


def test_the_scan_is_that_which_was_masked(site, out):
    result = site.get(f"/api/results/{site.id('a.nii.gz')}")
    status, _, content = site.ask("GET", result["files"]["scan.nii"])
    sent, scan = nib.Nifti1Image.from_bytes(content), out.parent / "scans/a.nii.gz"
    assert status == 200 and np.array_equal(sent.dataobj, nib.load(scan).dataobj)
    assert np.array_equal(sent.affine, AFFINE)
    os.utime(scan, (1, 1))
    assert site.ask("GET", result["files"]["scan.nii"])[0] == 404
    changed = site.get(f"/api/results/{site.id('a.nii.gz')}")
    assert "scan.nii" not in changed["files"] and "has changed" in changed["no_scan"]
    (out / "a_prediction/scan.nii.gz").write_bytes(scan.read_bytes())
    kept = site.get(f"/api/results/{site.id('a.nii.gz')}")
    assert site.ask("GET", kept["files"]["scan.nii.gz"])[2] == scan.read_bytes()


def test_a_large_scan_is_sent_coarse_first(site, monkeypatch):
    result_id = site.id("a.nii.gz")
    assert not set(results.COARSE) & set(site.get(f"/api/results/{result_id}")["files"])
    monkeypatch.setattr(results, "MOST_AT_ONCE", 100)
    files = site.get(f"/api/results/{result_id}")["files"]
    names = ("scan.nii", "coarse_scan.nii", "coarse_mask.nii")
    scan, *coarse = (nib.Nifti1Image.from_bytes(site.ask("GET", files[name])[2]) for name in names)
    whole = nib.as_closest_canonical(scan)
    assert np.array_equal(coarse[0].dataobj, whole.get_fdata()[::2, ::2, ::2])
    assert np.array_equal(coarse[1].dataobj, whole.get_fdata()[::2, ::2, ::2] > 0)
    for image in coarse:
        assert np.allclose(image.affine @ [1, 1, 1, 1], whole.affine @ [2, 2, 2, 1])


def test_labels_of_a_case_are_shown_where_the_network_is_known(tumour_case, tumour_model, tmp_path):
    card, folder = read_card(tumour_model), tmp_path / "case_prediction"
    ml = dict.fromkeys(card.areas, 1.5)
    about = {
        "input": str(tumour_case),
        "input_version": input_version(Target(tumour_case, "", folder)),
        "volumes_ml": ml,
        "label_values": {name: card.label_values[label] for label, name in card.labels.items()},
        "model": card.sha256,
    }
    make_result(tmp_path, "case", **about, shape=[9, 9, 9])
    with serving(tmp_path) as site:
        assert "no mask" in site.get(f"/api/results/{site.id('BraTS_7')}")["no_scan"]
    (folder / "case_predicted_mask.nii.gz").write_bytes(raw_nifti())
    with serving(tmp_path, models=(tumour_model,)) as site:
        result = site.get(f"/api/results/{site.id('BraTS_7')}")
        assert result["kind"] == "case" and [r["name"] for r in result["regions"]]
        status, _, content = site.ask("GET", result["files"]["scan.nii"])
        image = nib.Nifti1Image.from_bytes(content)
        assert status == 200 and image.shape == nib.load(*tumour_case.glob("*flair*")).shape
    with serving(tmp_path) as site:
        result = site.get(f"/api/results/{site.id('BraTS_7')}")
        assert "scan.nii" not in result["files"] and "--model" in result["no_scan"]
        assert [label["value"] for label in result["labels"]] == list(card.label_values.values())


def test_a_slice_is_sent_as_a_picture(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (160, 160), np.uint8)
    scan, folder = tmp_path / "x.png", tmp_path / "out" / "x_prediction"
    cv2.imwrite(str(scan), grey)
    version = input_version(Target(scan, "", folder))
    about = {"input": str(scan), "input_version": version, "mask": "x_predicted_mask.png"}
    make_result(tmp_path / "out", "x", **about, label="x.png")
    said = json.loads((folder / "x.json").read_text())
    del said["volume_ml"]
    (folder / "x.json").write_text(json.dumps(said | {"brain_pixels": 9}))
    cv2.imwrite(str(folder / "x_predicted_mask.png"), np.uint8(255) * (grey > 99))
    with serving(tmp_path / "out") as site:
        result = site.get(f"/api/results/{site.id('x.png')}")
        assert result["kind"] == "slice" and "mask.png" in result["files"]
        content = site.ask("GET", result["files"]["picture.png"])[2]
        assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), 0), grey)


# ---------------------------------------------------------------- what is written


def test_a_rating_is_on_the_disk_when_the_answer_comes(site, out):
    result_id = site.id("b.nii.gz")
    seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
    status, said = site.rate(result_id, "fix", mask_sha256=seen, note="leaks\tbelow\n<b>")
    assert status == 200 and (said["rating"], said["note"]) == ("fix", r"leaks\tbelow\n<b>")
    (row,) = read_ratings(out)
    assert (row.who, row.result, row.sha256) == ("AB", "site 1/b_prediction", seen)
    assert row.mask == "b_predicted_mask.nii.gz"
    rows = {row["name"]: row["rating"] for row in site.get("/api/results")["results"]}
    assert rows["a.nii.gz"] is None and rows["b.nii.gz"] == said


def test_a_rating_is_of_the_mask_that_was_seen(site, out):
    result_id = site.id("a.nii.gz")
    seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
    (out / "a_prediction/a_predicted_mask.nii.gz").write_bytes(b"another since")
    status, said = site.rate(result_id, "pass", mask_sha256=seen)
    assert status == 409 and "look at it again" in said["error"]
    assert not (out / NAME).exists()


def test_a_correction_lies_beside_the_mask_and_waits_for_a_rating(site, out):
    result_id = site.id("a.nii.gz")
    said = site.get(f"/api/results/{result_id}")
    site.rate(result_id, "fix", mask_sha256=said["mask_sha256"])
    path = out / "a_prediction/a_predicted_mask.nii.gz"
    before, drawn = path.read_bytes(), np.asarray(nib.load(path).dataobj).copy()
    drawn[4, 4, 3] ^= 1
    body = nib.Nifti1Image(drawn, AFFINE).to_bytes()
    evil = site.ask("POST", said["correction"], body, Origin="http://evil.example")
    assert evil[0] == 403 and site.ask("POST", said["correction"], b"no mask")[0] == 400
    status, _, answer = site.ask("POST", f"{said['correction']}?who=AB&seen=", body)
    assert status == 200 and json.loads(answer)["who"] == "AB"
    now = site.get(f"/api/results/{result_id}")
    (entry,) = now["corrections"]
    sent = site.ask("GET", now["files"]["corrected_mask.nii.gz"])[2]
    assert now["mask_sha256"] == entry["sha256"] == hashlib.sha256(sent).hexdigest()
    (out / "corrected.nii.gz").write_bytes(sent)
    assert np.array_equal(nib.load(out / "corrected.nii.gz").dataobj, drawn)
    assert path.read_bytes() == before
    row = site.get("/api/results")["results"][0]
    assert row["corrected"] and row["rating"] is None
    assert site.rate(result_id, "pass", mask_sha256=entry["sha256"])[0] == 200
    assert site.ask("DELETE", f"{said['correction']}?seen={entry['sha256']}")[0] == 200
    row = site.get("/api/results")["results"][0]
    assert not row["corrected"] and row["rating"]["rating"] == "fix"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"rating": "good"}, 400),
        ({"rating": ["pass"]}, 400),
        ({"who": 5}, 400),
        ({"note": "x" * 20_000}, 413),
    ],
)
def test_what_is_no_rating_is_refused(site, out, said, expected):
    result_id = site.id("a.nii.gz")
    seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
    status, answer = site.rate(result_id, **{"rating": "pass", "mask_sha256": seen} | said)
    assert status == expected and "\n" not in answer["error"]
    assert site.ask("POST", f"/api/results/{result_id}/rating", b"[")[0] == 400
    assert not (out / NAME).exists()


def test_two_people_at_once_lose_nothing(out):
    def rate(site, who):
        result_id = site.id("a.nii.gz")
        seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
        for number in range(20):
            assert (
                site.rate(result_id, "pass", mask_sha256=seen, who=who, note=str(number))[0] == 200
            )

    with serving(out) as one, serving(out) as other:  # two servers, as on two machines
        people = [(one, "AB"), (one, "CD"), (other, "EF")]
        threads = [threading.Thread(target=rate, args=person) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for _, who in people:
        assert [row.note for row in read_ratings(out) if row.who == who] == list(
            map(str, range(20))
        )


def run_server(app, listener):
    make_server(app, listener, app.config["PAGE"].limit).run()


def test_no_rating_is_lost_when_the_server_is_killed(out):
    rate_and_kill(out, 5)


def rate_and_kill(out, kills):
    """Kill a server, which runs in a process of its own, again and again while two people rate.

    Returns how many ratings were acknowledged, and how many are on the disk.
    """
    chance, told = random.Random(0), {"AB": [], "CD": []}
    app = create_review(PageSettings(review=out))

    def rate(site, who, result_id, seen):
        with contextlib.suppress(OSError, HTTPException):  # until it is killed
            while True:
                note = f"{len(told[who])} {'x' * 900}"
                if site.rate(result_id, "pass", mask_sha256=seen, who=who, note=note)[0] == 200:
                    told[who].append(note)

    for _ in range(kills):
        before = {who: len(notes) for who, notes in told.items()}
        with open_socket("127.0.0.1", 0) as listener:
            context = multiprocessing.get_context("fork")
            process = context.Process(target=run_server, args=(app, listener))
            process.start()
            site = Reviewer(listener.getsockname()[1], app)
        result_id = site.id("a.nii.gz")
        seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
        people = [threading.Thread(target=rate, args=(site, w, result_id, seen)) for w in told]
        for person in people:
            person.start()
        while any(len(notes) - before[who] < 3 for who, notes in told.items()):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for person in people:
            person.join()
    rows = read_ratings(out)
    for who, notes in told.items():
        mine = [row.note for row in rows if row.who == who]
        assert [note for note in mine if note in set(notes)] and set(notes) <= set(mine)
        assert all(len(note.split()[1]) == 900 for note in mine)
    lines = (out / NAME).read_bytes().split(b"\n")
    assert all(line.count(b"\t") == 6 for line in lines[:-1])
    return sum(map(len, told.values())), len(rows)


# ---------------------------------------------------------------- what is refused


def test_only_the_page_itself_may_rate(site, out):
    path = f"/api/results/{site.id('a.nii.gz')}/rating"
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert site.ask("POST", path, b"{}", **headers)[0] == 403
    assert site.ask("GET", "/api/results", Host="evil.example")[0] == 403
    assert not (out / NAME).exists()


def test_who_has_not_the_key_sees_nothing(site):
    for cookie in ("", f"key_{site.port}=x", f"key_{site.port}=\xe9"):
        status, _, body = site.ask("GET", "/api/results", Cookie=cookie)
        assert status == 403 and b"whole address" in body
        assert site.ask("GET", "/", Cookie=cookie)[0] == 403
    address = make_address(site.app, "/")
    status, said, body = site.ask("GET", address, Cookie="")
    assert status == 200 and b'id="results"' in body and b'id="intake"' not in body
    assert "HttpOnly" in said["Set-Cookie"] and "SameSite=Strict" in said["Set-Cookie"]
    assert site.ask("GET", "/api/results", Cookie=said["Set-Cookie"].split(";")[0])[0] == 200


def test_behind_a_proxy_its_password_is_the_key(out):
    with serving(out, proxy="127.0.0.1", prefix="/brain") as site:
        status, said, _ = site.ask("GET", "/brain/", Cookie="")
        assert status == 200 and "Set-Cookie" not in said
        row = json.loads(site.ask("GET", "/brain/api/results")[2])["results"][0]
        files = json.loads(site.ask("GET", f"/brain/api/results/{row['id']}")[2])["files"]
        assert files["mask.nii.gz"].startswith("/brain/api/")
        assert site.ask("GET", files["mask.nii.gz"])[0] == 200


def test_no_path_leads_out_of_the_folder(site, out):
    secret = out.parent / "secret.nii.gz"
    secret.write_bytes(raw_nifti())
    folder = out / "a_prediction"
    result_id = site.id("a.nii.gz")
    url = f"/api/results/{result_id}/"
    for path in ("/api/results/../secret", "/api/results/%2e%2e/result.json", url + "../../x"):
        assert site.ask("GET", path)[0] == 404
    for name in ("%2e%2e%2fsecret.nii.gz", "a.json", "/etc/passwd", "%00", "ratings.tsv"):
        assert site.ask("GET", url + name)[0] == 404
    for name in ("a_overlay.png", "scan.nii.gz"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
    assert [site.ask("GET", url + name)[0] for name in ("overlay.png", "scan.nii.gz")] == [404] * 2
    about = json.loads((folder / "a.json").read_text())
    about |= {"mask": "../../secret.nii.gz", "thumbnail": "../../secret.nii.gz"}
    (folder / "a.json").write_text(json.dumps(about))
    assert [site.ask("GET", url + name)[0] for name in ("mask.nii.gz", "thumbnail")] == [404] * 2
    assert site.rate(result_id, "pass", mask_sha256=checksum(secret))[0] == 409
    (folder / "a.json").rename(out.parent / "a.json")
    (folder / "a.json").symlink_to(out.parent / "a.json")
    assert site.ask("GET", url + "result.json")[0] == site.ask("GET", url[:-1])[0] == 404


def test_ratings_elsewhere_are_not_followed(site, out):
    (out / NAME).symlink_to(out.parent / "elsewhere.tsv")
    assert site.ask("GET", "/api/results")[0] == 400
    (out / NAME).unlink()
    result_id = site.id("a.nii.gz")
    seen = site.get(f"/api/results/{result_id}")["mask_sha256"]
    (out / NAME).symlink_to(out.parent / "elsewhere.tsv")
    status, said = site.rate(result_id, "pass", mask_sha256=seen)
    assert status == 400 and NAME in said["error"]
    assert not (out.parent / "elsewhere.tsv").exists()


def test_a_damaged_scan_is_one_line(site, out):
    scan = out.parent / "scans/a.nii.gz"
    about, result_id = json.loads((out / "a_prediction/a.json").read_text()), site.id("a.nii.gz")
    scan.write_bytes(b"\x1f\x8b no gzip")
    about["input_version"] = input_version(Target(scan, "", out))
    (out / "a_prediction/a.json").write_text(json.dumps(about))
    status, _, body = site.ask("GET", f"/api/results/{result_id}/scan.nii")
    assert status == 400 and "a.nii.gz" in json.loads(body)["error"]


def test_a_folder_that_is_none_is_one_line(tmp_path):
    settings = PageSettings(**vars(parse(["--review", str(tmp_path / "x"), "--port", "0"])))
    with pytest.raises(InputError, match="is no folder; give the --out of pred.py"):
        serve(settings)


def test_names_of_results_stay_apart(out):
    names = {name_result(path, out) for path in out.rglob("*_prediction")}
    assert names == {"a_prediction", "site 1/b_prediction"}
