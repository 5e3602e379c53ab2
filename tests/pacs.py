"""DICOMweb archives that tests ask: a small one made of http.server, and Debian's Orthanc."""

import io
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from make import write_dicom
from pydicom.uid import generate_uid

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STEP = 2.5  # mm: the fixture's cubes
GIVEN_UP = 240  # seconds, on a machine with much else to do


def write_head(cta, folder, study, series=1, part=slice(None), **tags):
    """One reconstruction of the phantom; a part of its slices."""
    hu = cta.hu.transpose(2, 1, 0)[
        part, ::-1, ::-1
    ]  # slices, rows to the back, columns to the left
    places = np.array([[-100, -100, STEP * k] for k in range(len(cta.hu[0, 0]))])[part]
    tags = {
        "PatientPosition": "HFS",
        "SeriesDescription": "Doe Jane CTA",
        "StudyDate": "20260131",
    } | tags
    about = {"StudyInstanceUID": study, "SeriesNumber": series, "AccessionNumber": "77"} | tags
    return write_dicom(folder / str(series), hu, places, spacing=(STEP, STEP), **about)


def write_study(cta, folder, study=None, **tags):
    """A study: a scout, a coarse reconstruction, and the one to take, number 3; its UID."""
    study = study or generate_uid()
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_head(cta, folder, study, 1, slice(2), ImageType=scout, **tags)
    write_head(cta, folder, study, 2, slice(None, None, 2), **tags)
    write_head(cta, folder, study, 3, **tags)
    return study


def read_files(folder):
    return [pydicom.dcmread(path) for path in sorted(Path(folder).rglob("im*"))]


# ---------------------------------------------------------------- the small one


class Fake(ThreadingHTTPServer):
    """Datasets behind QIDO, WADO and STOW, and a record of what was asked.

    statuses: given, one a request, in place of an answer; wanted: the Authorization that is
    demanded; most: studies a page; parts: what is sent in place of an instance, None for nothing;
    refuses: it takes nothing that is stored; answer: changes (path, body) before it is sent.
    """

    daemon_threads = True

    def __init__(self, datasets=()):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.datasets = {str(d.SOPInstanceUID): d for d in datasets}
        self.asked, self.statuses, self.wanted, self.most = [], [], None, 1000
        self.parts, self.refuses = {}, False
        self.answer = lambda path, body: body
        self.url = f"http://127.0.0.1:{self.server_port}/dicom-web"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, start):
        return sum(asked.startswith(start) for asked in self.asked)

    def of(self, tag, value):
        return [d for d in self.datasets.values() if str(d.get(tag)) == value]

    def search(self, datasets, tag, number):
        """QIDO's answer: an item for each value of a tag, with the number of instances."""
        found = {}
        for data in datasets:
            found.setdefault(str(data.get(tag)), []).append(data)
        items = []
        for group in found.values():
            item = pydicom.Dataset()
            for name in (tag, "Modality", "PatientName", "PatientID"):
                setattr(item, name, group[0].get(name))
            if number:
                setattr(item, number, len(group))
            items.append(item.to_json_dict())
        return items


class FakeHandler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, body, kind="application/dicom+json", status=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        body = self.server.answer(self.path, body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self):
        """Whether the request has had its answer already."""
        archive = self.server
        archive.asked.append(f"{self.command} {self.path.removeprefix('/dicom-web')}")
        if archive.wanted not in (None, self.headers["Authorization"]):
            self.reply(b"no", status=401)
        elif archive.statuses:
            self.reply(b"no", status=archive.statuses.pop(0))
        else:
            return False
        return True

    def do_GET(self):
        if self.refused():
            return
        path, _, query = self.path.removeprefix("/dicom-web").partition("?")
        query = dict(urllib.parse.parse_qsl(query))
        part = re.match(
            r"/studies(?:/([0-9.]+))?(?:/series/([0-9.]+))?(?:/instances/([0-9.]+))?", path
        )
        study, series, instance = part.groups()
        archive = self.server
        of_study = archive.of("StudyInstanceUID", study) if study else []
        if path.endswith("/metadata"):
            found = [d for d in of_study if str(d.SeriesInstanceUID) == series]
            items = [
                d.to_json_dict(bulk_data_threshold=1024, bulk_data_element_handler=str)
                for d in found
            ]
            self.reply(items)
        elif instance:
            data = archive.parts.get(instance, archive.datasets[instance])
            self.reply_parts(data) if data else self.reply(b"", status=404)
        elif path.endswith("/instances"):
            found = [d for d in of_study if str(d.SOPInstanceUID) == query["SOPInstanceUID"]]
            self.reply([d.to_json_dict(1 << 9, str) for d in found])
        elif study:
            number = "NumberOfSeriesRelatedInstances"
            page = archive.search(of_study, "SeriesInstanceUID", number)
            self.reply([] if int(query["offset"]) else page)
        else:
            found = archive.datasets.values()
            if uid := query.get("StudyInstanceUID"):
                found = archive.of("StudyInstanceUID", uid)
            page = archive.search(found, "StudyInstanceUID", "NumberOfStudyRelatedInstances")
            self.reply(page[int(query["offset"]) :][: archive.most])

    def reply_parts(self, data):
        content = io.BytesIO()
        data.save_as(content)
        start = b"--XxX\r\nContent-Type: application/dicom\r\n\r\n"
        body = start + content.getvalue() + b"\r\n--XxX--"
        self.reply(body, 'multipart/related; type="application/dicom"; boundary=XxX')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        part = body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")]
        data = pydicom.dcmread(io.BytesIO(part))
        answer = pydicom.Dataset()
        if self.server.refuses:
            item = pydicom.Dataset()
            item.ReferencedSOPInstanceUID, item.FailureReason = data.SOPInstanceUID, 0xA700
            answer.FailedSOPSequence = [item]
        else:
            self.server.datasets[str(data.SOPInstanceUID)] = data
        self.reply(answer.to_json_dict())


# ---------------------------------------------------------------- Debian's


class Orthanc:
    """An Orthanc on a port of this machine alone, in a folder that outlives it."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.port, self.process = folder, port, None
        self.url = f"http://127.0.0.1:{port}/dicom-web"
        about = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "Plugins": [str(PLUGIN)],
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": False,
        }
        (folder / "orthanc.json").write_text(json.dumps(about))

    def start(self):
        with open(self.folder / "log", "a") as log:
            command = ["Orthanc", str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self.ask("/system"))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, path, body=None):
        """What the archive's own interface says, as JSON; None where it cannot be reached."""
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
            with urllib.request.urlopen(request, timeout=GIVEN_UP) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            return None

    def upload(self, *files):
        for file in files:
            assert self.ask("/instances", Path(file).read_bytes())["Status"] in (
                "Success",
                "AlreadyStored",
            )

    def upload_folder(self, folder):
        self.upload(*sorted(Path(folder).rglob("im*")))

    def find(self, study, modality):
        """The instances of one modality in a study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study, "Modality": modality}}
        found = self.ask("/tools/find", json.dumps(query).encode())
        return [self.read(identity) for identity in found]

    def read(self, identity):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/instances/{identity}/file"
        ) as answer:
            return pydicom.dcmread(io.BytesIO(answer.read()))


def need_orthanc():
    if not shutil.which("Orthanc") or not PLUGIN.exists():
        pytest.skip("no Orthanc: apt-get install orthanc orthanc-dicomweb")


def wait_for(condition, most=GIVEN_UP):
    """Wait until a condition is true, and return what it gave."""
    end = time.monotonic() + most
    while not (found := condition()):
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)
    return found
