"""pred.py --dicomweb: against a small archive that fails as asked, and against a real Orthanc."""

import argparse
import base64
import copy
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pacs import (
    GIVEN_UP,
    Fake,
    Orthanc,
    need_orthanc,
    read_files,
    wait_for,
    write_head,
    write_study,
)
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, JPEG2000Lossless, generate_uid

from common.card import Card
from common.errors import InputError
from common.files import read_json, write_json
from pred import main, parse
from predict import dicomweb, studies
from predict.dicomweb import ArchiveError, list_filters, read_pages, save_header
from predict.studies import Masking, check_patient, mask_studies, watch
from scan.nifti import read_mask
from scan.read import read_volume

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nothing of this machine's own: no sign-in, no proxy; no pauses."""
    for name in list(os.environ):
        if name.startswith("DICOMWEB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(dicomweb, "PAUSE", 0)


@pytest.fixture(scope="module")
def folder(cta, tmp_path_factory):
    """The files of a study: a scout, a coarse reconstruction, and a fine one, number 3."""
    folder = tmp_path_factory.mktemp("study")
    write_study(cta, folder)
    return folder


@pytest.fixture(scope="module")
def uid(folder):
    return str(read_files(folder)[0].StudyInstanceUID)


@pytest.fixture
def fake(folder):
    archive = Fake(read_files(folder))
    yield archive
    archive.shutdown()
    archive.server_close()


@pytest.fixture(scope="module")
def result(folder, uid, tmp_path_factory):
    """The study's result, its mask stored: --out, and the archive. Both are to be copied."""
    out, archive = tmp_path_factory.mktemp("out"), Fake(read_files(folder))
    assert main(["--dicomweb", archive.url, "--study", uid, "--store", "--out", str(out)]) == 0
    return out, archive


@pytest.fixture
def ask(fake, tmp_path, uid, capsys):
    """Masks the study, or does what else is asked for; the exit code, and the lines said."""

    def ask(*words, url=fake.url):
        words = words or ("--study", uid, "--store")
        try:
            code = main(["--dicomweb", url, *words, "--out", str(tmp_path / "out")])
            return code, capsys.readouterr().err.splitlines()
        except InputError as error:
            return 2, [*capsys.readouterr().err.splitlines(), str(error)]

    return ask


@pytest.fixture
def done(result, fake, tmp_path, uid):
    """The study's result in `ask`'s --out, as if the fake archive had it; the path of its JSON."""
    shutil.copytree(result[0], tmp_path / "out")
    path = json_of(tmp_path / "out", uid)
    write_json(path, read_json(path) | {"stored": fake.url})
    return path


def json_of(out, uid):
    return Path(out) / f"{uid}_prediction" / f"{uid}.json"


def failed_alone(archive, answer, uid, out, *words):
    """Whether a study failed with a line that has these words, and nothing was stored."""
    code, lines = answer
    assert code == 2 and len(lines) == 1 and uid in lines[0]
    assert all(word in lines[0] for word in words), lines
    assert "study_" not in lines[0], "a temporary path"
    assert not archive.count("POST")
    about = read_json(json_of(out, uid))
    assert "mask" not in about and about["error"] in lines[0]
    return True


# ---------------------------------------------------------------- what is fetched and written


def test_the_head_ct_alone_is_fetched_and_masked_as_from_a_folder(result, folder, uid, tmp_path):
    out, archive = result
    about = read_json(json_of(out, uid))
    assert main([str(folder), "--out", str(tmp_path)]) == 0
    name = folder.name
    alone = read_json(tmp_path / f"{name}_prediction" / f"{name}.json")
    for key in ("volume_ml", "verdict", "shape", "affine"):
        assert about[key] == alone[key]
    assert any("took series 3" in note for note in about["notes"])
    assert about["verdict"] == "ok" and about["input"] == f"urn:oid:{uid}"
    fine = [str(d.SOPInstanceUID) for d in archive.of("SeriesNumber", "3")]
    fetched = [n for n, asked in enumerate(archive.asked) if is_instance(asked)]
    assert sorted(archive.asked[n].split("/")[-1] for n in fetched) == sorted(fine)
    headers = [n for n, asked in enumerate(archive.asked) if asked.endswith("/metadata")]
    assert len(headers) == 3 and max(headers) < min(fetched)


def is_instance(asked):
    """Whether one instance was asked for."""
    return asked.startswith("GET") and "/instances/" in asked


def test_what_is_done_is_neither_fetched_nor_stored_again(result, fake, done, ask, uid):
    fake.datasets = dict(result[1].datasets)  # the SEG in it does not change the study
    code, lines = ask()
    assert code == 0 and "done before, stored" in lines[0]
    about = read_json(done)
    del about["stored"]
    write_json(done, about)  # as if killed after it was sent
    assert ask()[0] == 0
    assert not fake.count("POST") and not any(map(is_instance, fake.asked))
    assert read_json(done)["stored"] == fake.url


def test_what_is_masked_but_not_stored_is_stored(fake, done, ask):
    about = read_json(done)
    write_json(done, {key: value for key, value in about.items() if key != "stored"})
    code, lines = ask()
    assert code == 0 and fake.count("POST") == 2 and not any(map(is_instance, fake.asked))
    assert len(fake.of("Modality", "SEG")) == len(fake.of("Modality", "SR")) == 1


def test_a_mask_whose_verdict_is_failed_is_not_stored(fake, done, ask, uid):
    about = read_json(done) | {"verdict": "failed"}
    del about["stored"]
    write_json(done, about)
    code, lines = ask("--study", uid, "--store", "--strict")
    assert code == 3 and "not stored" in lines[0] and not fake.count("POST")


def test_a_study_that_has_changed_is_masked_again(fake, done, ask, folder, tmp_path, monkeypatch):
    gone = fake.of("SeriesNumber", "2")[0]
    del fake.datasets[str(gone.SOPInstanceUID)]
    monkeypatch.setattr(Masking, "fetch", fail_with(InputError("looked at again")))
    assert "looked at again" in ask()[1][0]
    assert "mask" not in read_json(done) and not list(done.parent.glob("*mask*"))
    assert not list(done.parent.glob("*.png"))


def fail_with(error):
    def fail(*_):
        raise error

    return fail


def test_the_patient_is_named_in_the_seg_alone(result):
    for path in result[0].rglob("*"):
        if path.suffix == ".json":
            content = path.read_text().lower()
            assert not [word for word in ("doe", "jane", "mrn4711") if word in content]


# ---------------------------------------------------------------- a study that cannot be masked


def test_a_scout_alone_is_no_head_ct(fake, ask, uid, tmp_path):
    fake.datasets = {str(d.SOPInstanceUID): d for d in fake.of("SeriesNumber", "1")}
    out = tmp_path / "out"
    assert failed_alone(fake, ask(), uid, out, "no head CT", "a localizer", "--series")
    assert not any(map(is_instance, fake.asked))


def test_an_mri_is_no_ct_and_its_headers_are_not_asked_for(fake, ask, uid, tmp_path):
    for data in fake.datasets.values():
        data.Modality = "MR"
    assert failed_alone(fake, ask(), uid, tmp_path / "out", "holds no CT, but MR")
    assert not [asked for asked in fake.asked if "/metadata" in asked or is_instance(asked)]


@pytest.mark.parametrize("tag", ["PatientName", "PatientID"])
def test_a_study_of_two_patients_is_refused_and_none_is_named(fake, ask, uid, tmp_path, tag):
    setattr(fake.of("SeriesNumber", "3")[5], tag, "Roe^Richard")
    answer = ask()
    assert failed_alone(fake, answer, uid, tmp_path / "out", "2 patients", tag)
    assert not any(word in answer[1][0].lower() for word in ("roe", "doe", "mrn4711"))
    assert not any(map(is_instance, fake.asked))


def test_a_name_in_other_letters_is_the_same_patients():
    spelled = ("Doe^Jane", "DOE^JANE^^", {"Alphabetic": "doe^jane ", "Ideographic": "x"})
    names = [{"00100010": {"Value": [name]}} for name in spelled]
    check_patient("1.2", [*names, {}, {"00100020": {"Value": ["7"]}}])


@pytest.mark.parametrize("kind", ["cut", "another", "gone", "garbage"])
def test_one_broken_instance_fails_the_study(fake, ask, uid, tmp_path, kind):
    first, second = fake.of("SeriesNumber", "3")[3:5]
    broken = str(first.SOPInstanceUID)
    if kind == "cut":
        fake.datasets[broken].PixelData = first.PixelData[:-100]
    elif kind == "another":
        fake.parts[broken] = second
    elif kind == "gone":
        fake.parts[broken] = None
    else:
        fake.answer = lambda path, body: b"\0" * 999 if path.endswith(broken) else body
    words = ["HTTP 404"] if kind == "gone" else [f"instance {broken} cannot be read"]
    assert failed_alone(fake, ask(), uid, tmp_path / "out", *words)


def test_headers_that_are_none_fail_the_study(fake, ask, uid, tmp_path):
    def spoil(path, body):
        return body.replace(b'"UI"', b'"??"') if path.endswith("/metadata") else body

    fake.answer = spoil
    assert failed_alone(fake, ask(), uid, tmp_path / "out", "cannot be read")


def test_a_full_disk_is_not_the_studys_fault(ask, uid, tmp_path, monkeypatch):
    error = InputError("cannot write: the disk is full")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr(Masking, "fetch", fail_with(error))
    assert ask()[1] == [str(error)]
    assert not json_of(tmp_path / "out", uid).exists()


def test_an_archive_that_refuses_the_mask_is_told_and_asked_again(fake, done, ask):
    about = read_json(done)
    write_json(done, {key: value for key, value in about.items() if key != "stored"})
    fake.refuses = True
    code, lines = ask()
    assert code == 2 and len(lines) == 1 and "refuses" in lines[0]
    assert "stored" not in read_json(done)
    fake.refuses = False
    assert ask()[0] == 0 and len(fake.of("Modality", "SEG")) == 1


# ---------------------------------------------------------------- an archive that cannot be asked


SECRET = "S3cret"


@pytest.mark.parametrize("where", ["variable", "file"])
@pytest.mark.parametrize("names", [("TOKEN",), ("USER", "PASSWORD")])
def test_sign_in_by_variables_or_files(fake, ask, tmp_path, monkeypatch, names, where):
    basic = base64.b64encode(f"{SECRET}:{SECRET}".encode()).decode()
    fake.wanted = f"Bearer {SECRET}" if names == ("TOKEN",) else f"Basic {basic}"
    for name in names:
        if where == "file":
            (tmp_path / name).write_text(f"{SECRET}\n")
            monkeypatch.setenv(f"DICOMWEB_{name}_FILE", str(tmp_path / name))
        else:
            monkeypatch.setenv(f"DICOMWEB_{name}", SECRET)
    assert "no such study" in ask("--study", "1.2.3")[1][0]
    fake.wanted = "something else"
    code, lines = ask()
    assert code == 2 and len(lines) == 1 and "refuses the sign-in" in lines[0]
    assert SECRET not in lines[0] and not fake.count("POST")
    assert not (tmp_path / "out").exists()


def test_no_sign_in_and_one_that_cannot_be_read_are_told(fake, ask, tmp_path, monkeypatch):
    fake.wanted = "something"
    assert "DICOMWEB_TOKEN" in ask()[1][0]
    monkeypatch.setenv("DICOMWEB_TOKEN_FILE", str(tmp_path / "none"))
    assert ask()[1] == [f"{tmp_path / 'none'}, which DICOMWEB_TOKEN_FILE names, cannot be read"]
    words = ask(url=fake.url.replace("//", f"//user:{SECRET}@"))[1]
    assert "DICOMWEB_USER" in words[0] and SECRET not in words[0]


def test_an_address_where_nobody_answers_is_one_line(ask, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"
    code, lines = ask(url=nobody)
    assert code == 2 and lines == [
        f"{nobody} cannot be reached: check the address, and whether it runs"
    ]
    monkeypatch.setattr(socket, "getaddrinfo", fail_with(socket.gaierror(-2, "unknown")))
    code, lines = ask(url="http://no.such.host/dicom-web")
    assert code == 2 and len(lines) == 1 and "cannot be reached" in lines[0]
    for odd in ("ftp://host/x", "host/dicom-web"):
        code, lines = ask(url=odd)
        assert code == 2 and len(lines) == 1 and odd in lines[0]


def test_a_busy_archive_is_asked_again_with_patience(fake, ask):
    fake.statuses = [503, 429, 500]
    assert "no such study" in ask("--study", "1.2.3")[1][0]
    fake.asked.clear()
    fake.statuses = [503] * 50
    code, lines = ask()
    assert code == 2 and len(lines) == 1 and "not ready (HTTP 503)" in lines[0]
    assert len(fake.asked) == dicomweb.TRIES + 1


@pytest.mark.parametrize(("status", "told"), [(404, "often ends in"), (400, "--query")])
def test_an_answer_that_is_no_dicomweb_is_told(fake, ask, status, told):
    fake.statuses = [status]
    code, lines = ask()
    assert code == 2 and len(lines) == 1 and told in lines[0] and fake.url in lines[0]
    fake.answer = lambda *_: b"<html>"
    assert "no DICOMweb service" in ask()[1][0]


def test_all_pages_are_read_and_an_archive_that_knows_none_ends(fake):
    others = copy.deepcopy(list(fake.datasets.values())[:2])
    for n, data in enumerate(others):
        data.StudyInstanceUID = data.SOPInstanceUID = f"1.2.{n}"
        fake.datasets[f"1.2.{n}"] = data
    fake.most = 2
    found = dicomweb.Archive(fake.url).find_studies({})
    assert len(found) == 3 and found["1.2.0"] == 1
    page = [{"0020000D": {"Value": [uid]}} for uid in "12"]
    assert list(read_pages(lambda **_: page, dicomweb.STUDY)) == page


def test_without_the_package_a_line_says_how_to_install_it(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    assert "requirements-dicomweb.txt" in ask()[1][0]


# ---------------------------------------------------------------- options, headers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("scan.nii.gz --store", "add --dicomweb"),
        ("scan.nii.gz --dicomweb http://h --study 1.2", "not both"),
        ("--dicomweb http://h", "which studies"),
        ("--dicomweb http://h --store", "which studies"),
        ("--dicomweb http://h --since yesterday", "YYYY-MM-DD"),
        ("--dicomweb http://h --query Accession", "KEY=VALUE"),
        ("--dicomweb http://h --study ../x", "no DICOM UID"),
        ("--dicomweb http://h --watch 0", "seconds"),
        ("", "give a scan"),
    ],
)
def test_options_that_say_no_studies_are_refused(words, told):
    with pytest.raises(InputError, match=told):
        main(words.split())


def test_a_network_of_mri_is_refused():
    with pytest.raises(InputError, match="head CT"):
        mask_studies(argparse.Namespace(), Card(normalise="minmax"), None)


def test_options_become_searches():
    def searches(words):
        return list_filters(parse(["--dicomweb", "http://h", *words.split()]))

    assert searches("--study 1.2 1.3") == [{"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "1.3"}]
    assert searches("--watch 30") == [{"ModalitiesInStudy": "CT"}]
    words = "--patient A7 --since 2026-01-31 --modality PT --query AccessionNumber=7 00080050=8"
    assert searches(words) == [
        {
            "PatientID": "A7",
            "StudyDate": "20260131-",
            "ModalitiesInStudy": "PT",
            "AccessionNumber": "7",
            "00080050": "8",
        }
    ]


def test_decimals_of_json_fit_into_a_header(tmp_path):
    inner = {"00180050": {"vr": "DS", "Value": [1 / 3]}}
    item = {
        "00080016": {"vr": "UI", "Value": [str(CTImageStorage)]},
        "00080018": {"vr": "UI", "Value": ["1.2"]},
        "00200032": {"vr": "DS", "Value": [-100.12345678901234, 2, 1 / 3]},
        "00289145": {"vr": "SQ", "Value": [inner]},
        "00104000": {"vr": "LT", "Value": ["not asked for"]},
    }
    save_header(item, [0x00080016, 0x00080018, 0x00200032, 0x00289145], tmp_path / "a.dcm")
    data = pydicom.dcmread(tmp_path / "a.dcm")
    np.testing.assert_allclose(data.ImagePositionPatient, [-100.12345678901234, 2, 1 / 3], 1e-12)
    assert abs(data[0x00289145][0].SliceThickness - 1 / 3) < 1e-12 and 0x00104000 not in data


# ---------------------------------------------------------------- watching


def look(monkeypatch, *looks, anew=False):
    """Watch through these answers of the archive; the studies masked, as (look, study, anew)."""
    finished, at = [], [0]

    class Recorded:
        def finish(self, study, anew):
            finished.append((at[0], study, anew))

    def search():
        found = looks[at[0]]
        at[0] += 1
        if isinstance(found, Exception):
            raise found
        return found

    def sleep(_):
        if at[0] == len(looks):
            raise KeyboardInterrupt

    monkeypatch.setattr(studies.time, "sleep", sleep)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        watch(Recorded(), search, 1, anew)
    return finished


def test_a_study_that_still_arrives_is_waited_for(monkeypatch):
    assert look(monkeypatch, {"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}) == [(3, "a", False)]
    grown = look(monkeypatch, {"a": 2}, {"a": 2}, {"a": 3}, {"a": 3}, {"a": 3}, anew=True)
    assert grown == [(2, "a", True), (4, "a", False)]
    unknown = look(monkeypatch, {"a": 0}, {"a": 0}, {"a": 0})
    assert unknown == [(2, "a", False), (3, "a", False)]


def test_an_archive_that_goes_is_waited_for_and_told_once(monkeypatch, capsys):
    gone, refused = ArchiveError("gone", passing=True), ArchiveError("refused")
    looks = (gone, gone, {"a": 1}, refused, gone, gone, {"a": 1})
    assert look(monkeypatch, *looks) == [(7, "a", False)]
    told = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"{what}; trying again" for what in ("gone", "refused", "gone")]
    with pytest.raises(ArchiveError, match="refused"):
        look(monkeypatch, refused)


def test_a_study_at_which_the_archive_gives_up_does_not_keep_others_waiting(monkeypatch):
    tried = []

    class Stuck:
        def finish(self, study, anew):
            tried.append(study)
            if study == "a":
                raise ArchiveError("gone", passing=True)

    pauses = iter(range(3))

    def sleep(_):
        if next(pauses, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(studies.time, "sleep", sleep)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        watch(Stuck(), lambda: {"a": 1, "b": 1}, 1)
    assert tried == ["a", "b", "a", "a"]


def test_a_failure_is_remembered_until_the_study_changes(fake, folder, uid, tmp_path, capsys):
    fake.datasets = {str(d.SOPInstanceUID): d for d in fake.of("SeriesNumber", "1")}
    masking = Masking(dicomweb.Archive(fake.url), tmp_path, Card(), studies.Wanted(), None, True)
    for again, lines in ((False, 1), (False, 0), (True, 1)):
        assert masking.finish(uid, again=again) is None
        assert capsys.readouterr().err.count("no head CT") == lines
    first = next(iter(fake.datasets))
    del fake.datasets[first]
    masking.finish(uid)
    assert capsys.readouterr().err.count("no head CT") == 1


# ---------------------------------------------------------------- Debian's Orthanc


@pytest.fixture
def orthanc(tmp_path):
    need_orthanc()
    folder = tmp_path / "orthanc"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    archive = Orthanc(folder, port)
    archive.start()
    yield archive
    archive.kill()


def test_orthanc_gets_the_seg_of_the_head_voxel_for_voxel(orthanc, folder, uid, tmp_path, capsys):
    orthanc.upload_folder(folder)
    words = ["--dicomweb", orthanc.url, "--store", "--out", str(tmp_path / "out")]
    assert main([*words, "--study", uid]) == 0
    (stored,) = orthanc.find(uid, "SEG")
    stored.save_as(tmp_path / "seg.dcm")
    (report,) = orthanc.find(uid, "SR")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referred = {str(i.ReferencedSOPInstanceUID) for e in evidence for i in e.ReferencedSOPSequence}
    assert str(stored.SOPInstanceUID) in referred
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    scan = read_volume(folder / "3")
    sources = {str(d.SOPInstanceUID) for d in read_files(folder / "3")}
    assert {str(found[2]) for found in seg.get_source_image_uids()} == sources
    assert referred == {str(stored.SOPInstanceUID), *sources}
    mask = read_mask(json_of(tmp_path / "out", uid).parent / f"{uid}_predicted_mask.nii.gz", scan)
    volume = seg.get_volume(combine_segments=True).to_patient_orientation("RAS")
    assert mask.any()
    np.testing.assert_array_equal(volume.array > 0, mask)
    capsys.readouterr()
    asked = ["--patient MRN4711 --since 2026-01-31", "--query AccessionNumber=77", "--modality CT"]
    for more in asked:
        assert main([*words, *more.split()]) == 0
        assert capsys.readouterr().err.count("done before, stored") == 1
    for none in ("--patient nobody", "--since 2026-02-01", "--query AccessionNumber=8"):
        with pytest.raises(InputError, match="no such study"):
            main([*words, *none.split()])
    assert len(orthanc.find(uid, "SEG")) == len(orthanc.find(uid, "SR")) == 1
    other = read_files(folder / "3")[0]
    other.PatientID, other.SOPInstanceUID = "another", generate_uid()
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.save_as(tmp_path / "other.dcm")
    orthanc.upload(tmp_path / "other.dcm")
    assert main([*words, "--study", uid]) == 2
    assert "2 patients" in capsys.readouterr().err and len(orthanc.find(uid, "SEG")) == 1


def spoil(path):
    """Put nonsense in the place of a file's compressed pixels."""
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(range(256)) * 4])
    data["PixelData"].VR = "OB"
    data.save_as(path)


class Tool:
    """pred.py --watch in a process of its own, and its log."""

    def __init__(self, archive, out):
        self.archive, self.out = archive, out

    def start(self):
        words = ["--dicomweb", self.archive.url, "--watch", "0.3", "--store", "--out", self.out]
        command = [sys.executable, "pred.py", *map(str, words)]
        self.log = self.out.parent / f"log{len(list(self.out.parent.glob('log*')))}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)

    def wait(self, *words):
        """Wait for a line of the log that has all the words."""

        def said():
            assert self.process.poll() is None, self.log.read_text()
            lines = self.log.read_text().splitlines()
            return any(all(word in line for word in words) for line in lines)

        wait_for(said)

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(GIVEN_UP)


def test_each_head_gets_one_seg_whoever_is_killed(orthanc, cta, folder, uid, tmp_path):
    """A head, no head and a broken study; then Orthanc is killed, then the tool at its work."""
    no_head, broken, late = generate_uid(), generate_uid(), generate_uid()
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_head(cta, tmp_path / "no_head", no_head, 1, slice(3), **scout)
    write_head(cta, tmp_path / "broken", broken, 1, slice(6), coding=JPEG2000Lossless)
    spoil(sorted((tmp_path / "broken" / "1").iterdir())[0])
    write_head(cta, tmp_path / "late", late)
    tool = Tool(orthanc, tmp_path / "out")
    tool.start()
    try:
        for place in (folder, tmp_path / "no_head", tmp_path / "broken"):
            orthanc.upload_folder(place)
        tool.wait(no_head, "no head CT")
        tool.wait(broken, "cannot be read")
        tool.wait(uid, "stored")
        orthanc.kill()
        tool.wait("cannot be reached")
        orthanc.start()
        orthanc.upload_folder(tmp_path / "late")
        wait_for(json_of(tmp_path / "out", late).exists)
        assert tool.stop(signal.SIGKILL) < 0
        tool.start()
        tool.wait(late, "stored")
        assert tool.stop(signal.SIGTERM) == 130
    finally:
        tool.process.kill()
    lines = tool.log.read_text().splitlines()
    assert len(lines) == 2 and "interrupted" in lines[1], "what failed or was done is told again"
    assert [len(orthanc.find(study, "SEG")) for study in (uid, late, no_head, broken)] == [
        1,
        1,
        0,
        0,
    ]
