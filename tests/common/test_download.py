"""Label maps from a server, which may be down, hold other files or fall silent."""

import hashlib
import http.server
import threading

import pytest

from common import download
from common.download import MAPS_URL, SHA256, fetch_label_maps
from common.errors import InputError
from synthesis.head import find_label_maps
from synthetic import main

FILES = {f"seg_{number:02d}.nii.gz": bytes([number]) * 5000 for number in (1, 2)}


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives server.files by the names they have at SynthSeg's; keeps what was asked for."""

    def do_GET(self):
        name = self.path.split("/")[-1]
        self.server.asked.append(self.path)
        content = self.server.files.get(name.removeprefix("training_"))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(5000 if content is None else len(content)))
        self.end_headers()
        self.wfile.write((content or b"")[: self.server.cut])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of two small files, which the download takes for SynthSeg's."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.cut = dict(FILES), [], None
    monkeypatch.setattr(download, "MAPS_URL", f"http://127.0.0.1:{server.server_port}/maps")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(download, "SHA256", sums)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield server
    server.shutdown()
    server.server_close()


def content_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_label_maps_come(server, tmp_path, capsys):
    assert main(["--download", str(tmp_path / "new")]) == 0
    assert content_of(tmp_path / "new") == FILES
    assert server.asked == [f"/maps/training_{name}" for name in FILES]
    assert capsys.readouterr().out == f"{tmp_path / 'new'}: 2 label maps\n"
    assert [p.name for p in find_label_maps(tmp_path / "new")] == list(FILES)


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "seg_01.nii.gz").write_bytes(FILES["seg_01.nii.gz"])
    (tmp_path / "mine.txt").write_text("kept")
    for _ in range(2):
        paths = fetch_label_maps(tmp_path)
        assert paths == [tmp_path / name for name in FILES]
    assert server.asked == ["/maps/training_seg_02.nii.gz"]
    assert content_of(tmp_path) == FILES | {"mine.txt": b"kept"}


def refused(folder, said):
    """Check that the download ends in one line that says so."""
    with pytest.raises(InputError, match=said) as caught:
        fetch_label_maps(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_wrong_file_is_not_kept_and_the_right_one_is(server, tmp_path):
    server.files["seg_02.nii.gz"] = b"other"
    refused(tmp_path, "seg_02.nii.gz .*wrong checksum")
    assert content_of(tmp_path) == {"seg_01.nii.gz": FILES["seg_01.nii.gz"]}
    server.files = FILES
    fetch_label_maps(tmp_path)
    assert content_of(tmp_path) == FILES


def test_a_file_that_breaks_off_is_not_kept(server, tmp_path):
    server.cut = 3000
    refused(tmp_path, "seg_01.nii.gz .*the connection failed.*run again")
    assert content_of(tmp_path) == {}


def test_a_file_that_is_gone_is_named(server, tmp_path):
    del server.files["seg_01.nii.gz"]
    refused(tmp_path, "seg_01.nii.gz .*404")


def test_without_network_one_plain_line(server, tmp_path, monkeypatch):
    server.shutdown()
    server.server_close()
    refused(tmp_path, "seg_01.nii.gz .*the connection failed.*check the network")
    assert content_of(tmp_path) == {}


def test_another_file_of_that_name_is_left_alone(server, tmp_path):
    (tmp_path / "seg_02.nii.gz").write_bytes(b"of the user's")
    refused(tmp_path, "seg_02.nii.gz is not SynthSeg's")
    assert (tmp_path / "seg_02.nii.gz").read_bytes() == b"of the user's"


def test_a_folder_that_cannot_be_made_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "in the way")


def test_twenty_label_maps_are_known():
    assert list(SHA256) == [f"seg_{number:02d}.nii.gz" for number in range(1, 21)]
    assert len(set(SHA256.values())) == 20
    assert MAPS_URL.startswith("https://raw.githubusercontent.com/BBillot/SynthSeg/")


def test_the_checksums_are_those_of_the_label_maps(shared):
    assert len(fetch_label_maps(shared("labelmaps"))) == 20
