"""A server that tests ask as a program would, and files to send to it."""

import gzip
import http.client
import io
import json
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from make import header_of, set_pixels

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
        line = self.connect()
        try:
            line.request(method, path, body, headers)
            answer = line.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            line.close()

    def connect(self) -> http.client.HTTPConnection:
        """A new connection to the server."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=GIVEN_UP)

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
        status, said, body = self.ask(
            "POST", "/api/jobs", multipart(*parts), **{"Content-Type": kind} | headers
        )
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


# ---------------------------------------------------------------- files to send


def zipped(files: dict, **options) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, inside in files.items():
            archive.writestr(name, inside)
    return content.getvalue()


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
