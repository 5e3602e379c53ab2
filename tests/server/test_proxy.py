"""The page behind deploy/nginx.conf and deploy/Caddyfile, below a path, with sign-in and TLS.

These run as they stand, but for names, ports and files; each is skipped where its server is not
installed. What the page itself believes of a proxy is asked without one.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from ask import Site, raw_nifti

from app import PageSettings, clean_prefix, create_app, parse
from server.serve import make_server, open_socket

DEPLOY = Path(__file__).parents[2] / "deploy"
PREFIX = "/brain"
LOGIN = "reader", "secret"
PATIENCE = 30  # s, until a server listens
NGINX = """
daemon off; pid {folder}/pid; {user} events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""


@pytest.fixture(scope="module")
def app(around, sample):
    """The page below /brain, whose jobs are the same by every way that leads to it."""
    settings = PageSettings(
        folder=around / "ours", sample=sample, workers=1, prefix=PREFIX, proxy="127.0.0.1"
    )
    made = create_app(settings)
    yield made
    made.extensions["jobs"].close()


@contextlib.contextmanager
def serving(app, prefix=PREFIX, proxy=""):
    """The port of a server that trusts the proxy at this address."""
    listener = open_socket("127.0.0.1", 0)
    server = make_server(app, listener, app.config["PAGE"].limit, prefix, proxy)
    threading.Thread(target=server.run, daemon=True).start()
    yield listener.getsockname()[1]
    server.close()


# ---------------------------------------------------------------- through nginx and Caddy


class Proxied(Site):
    """The page as people reach it: https://localhost:PORT/brain/, with a password."""

    def __init__(self, port: int, certificate: Path):
        super().__init__(port, None)
        self.context = ssl.create_default_context(cafile=certificate)
        self.login = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()

    def ask(self, method, path, body=None, **headers):
        path = path if path.startswith(PREFIX) else PREFIX + path
        return super().ask(method, path, body, **{"Authorization": self.login} | headers)

    def connect(self):
        return http.client.HTTPSConnection("localhost", self.port, context=self.context)


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def site(request, app, tmp_path_factory):
    program = shutil.which(request.param) or shutil.which(f"/usr/sbin/{request.param}")
    if not (program and shutil.which("openssl")):
        pytest.skip(f"{request.param} or openssl is not installed")
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    make_certificate(folder)
    with serving(app, proxy="127.0.0.1") as inner:
        command = {"nginx": set_up_nginx, "caddy": set_up_caddy}[request.param](folder, port, inner)
        places = {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(
                [program, *command], stdout=log, stderr=log, env=os.environ | places
            )
        try:
            wait_for(port, process, folder / "log")
            yield Proxied(port, folder / "reader.clinic.crt")
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def make_certificate(folder: Path) -> None:
    """A certificate for localhost, as reader.clinic.crt and .key."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "reader.clinic.key", "-out", folder / "reader.clinic.crt"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made = ["openssl", "req", *kind, *names, *files]
    subprocess.run(made, check=True, capture_output=True)


def set_up_nginx(folder: Path, port: int, inner: int) -> list[str]:
    """Write nginx's files; return the arguments that start it."""
    (folder / "brain.users").write_text("{}:{{PLAIN}}{}\n".format(*LOGIN))
    site = (DEPLOY / "nginx.conf").read_text().replace("reader.clinic;", "localhost;")
    site = site.replace("listen 443", f"listen 127.0.0.1:{port}").replace(":8000", f":{inner}")
    site = re.sub("/etc/(ssl|nginx)/(?=[a-z.]+;)", f"{folder}/", site)
    (folder / "site.conf").write_text(site)
    user = "user root;" if os.getuid() == 0 else ""  # else its workers could not read the folder
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
    return ["-p", str(folder), "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")]


def set_up_caddy(folder: Path, port: int, inner: int) -> list[str]:
    """Write Caddy's file; return the arguments that start it."""
    hashing = ["caddy", "hash-password", "--plaintext", LOGIN[1]]
    hashed = subprocess.run(hashing, capture_output=True, text=True, check=True).stdout.strip()
    tls = f"bind 127.0.0.1\n\ttls {folder}/reader.clinic.crt {folder}/reader.clinic.key\n"
    site = (DEPLOY / "Caddyfile").read_text().replace("HASH", hashed).replace(":8000", f":{inner}")
    site = site.replace("reader.clinic {", f"https://localhost:{port} {{\n\t{tls}", 1)
    alone = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(alone + site)
    return ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args[0]} does not listen: {log.read_text()[-2000:]}")


def test_nobody_enters_without_the_password(site):
    for login in ("", "Basic " + base64.b64encode(b"reader:guessed").decode()):
        assert site.ask("GET", "/api/about", Authorization=login)[0] == 401


def test_the_page_and_what_it_asks_for_are_found_below_the_path(site):
    status, _, page = site.ask("GET", "/")
    asked = re.findall(r'(?:href|src)="([^"#]+)"', page.decode())
    assert status == 200 and "page/page.js" in asked
    assert not any(address.startswith("/") for address in asked)
    assert {site.ask("GET", f"/{address}")[0] for address in asked} == {200}


def test_the_path_without_its_slash_leads_to_the_page(site):
    status, headers, _ = site.ask("GET", PREFIX)
    assert status in (301, 302)
    assert headers["Location"] in (f"{PREFIX}/", f"https://localhost:{site.port}{PREFIX}/")


def test_an_upload_gives_its_result_below_the_path(site, cta):
    small = raw_nifti(cta.hu[:, :, 40:42].astype("int16"), srow_x=(2.5, 0, 0, 0))
    job = site.send(("scan.nii", small))
    assert job["state"] == "done", job["error"]
    assert job["scan"].startswith(f"{PREFIX}/api/jobs/{job['id']}/")
    assert site.file(job, "mask.nii.gz")[:2] == b"\x1f\x8b"
    assert [found["id"] for found in site.get("/api/jobs")["jobs"]][:1] == [job["id"]]


def test_the_sample_gives_its_result_below_the_path(site):
    job = site.send("sample=1")
    assert job["state"] == "done" and site.file(job, "overlay.png")[1:4] == b"PNG"


def test_another_sites_page_is_refused_and_the_page_itself_is_not(site):
    own = f"https://localhost:{site.port}"
    others = ("https://evil.example", "null", f"http://localhost:{site.port}", "https://localhost")
    assert {site.post("sample=1", Origin=origin)[0] for origin in others} == {403}
    status, job = site.post("sample=1", Origin=own, Sec_Fetch_Site="same-origin")
    assert status == 202 and site.over(job)["state"] == "done"


def test_the_cookie_is_for_the_path_and_never_sent_in_the_clear(site):
    form = b"--x\r\nContent-Disposition: form-data; name=sample\r\n\r\n1\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    status, headers, body = site.ask("POST", "/api/jobs", form, Content_Type=kind)
    assert status == 202
    assert {"Secure", "HttpOnly", f"Path={PREFIX}/"} <= set(headers["Set-Cookie"].split("; "))
    site.over(json.loads(body))


def test_more_than_a_proxys_own_limit_passes(site):
    status, answer = site.post(("x.bin", b"x" * (2 << 20)))  # nginx stops at 1 MB unless it is told
    assert status == 415 and "by its content" in answer["error"]


# ---------------------------------------------------------------- whom the page believes


def ask_from(source: str, port: int, path="/healthz", **headers) -> int:
    """The status of a request that comes from this address."""
    line = http.client.HTTPConnection("127.0.0.1", port, source_address=(source, 0))
    try:
        line.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return line.getresponse().status
    finally:
        line.close()


def test_only_the_proxys_word_for_the_name_counts(app):
    forged = {"Host": "evil.example", "X_Forwarded_Host": "localhost"}
    named = {"Host": "inner", "X_Forwarded_Host": "reader.clinic"}
    with serving(app, proxy="127.0.0.2") as port:
        assert ask_from("127.0.0.2", port, **named) == 200
        assert ask_from("127.0.0.1", port, **named) == 403
        assert ask_from("127.0.0.1", port, **forged) == 403
        assert ask_from("127.0.0.1", port) == 200, "by its own name it answers all"
        assert ask_from("127.0.0.2", port, Host="evil.example") == 403, "the proxy named nobody"
    with serving(app) as port:  # without --behind-proxy
        assert ask_from("127.0.0.1", port, **named) == 403


@pytest.mark.parametrize("path", ["/brain/healthz", "/healthz"])
def test_a_proxy_may_cut_the_path_off_or_leave_it(app, path):
    with serving(app) as port:
        assert ask_from("127.0.0.1", port, path) == 200
        assert ask_from("127.0.0.1", port, "/brainstorm/healthz") == 404


@pytest.mark.parametrize(
    "given, prefix",
    [("brain", "/brain"), ("/brain/", "/brain"), ("/a/b.c", "/a/b.c"), ("/", ""), ("", "")],
)
def test_a_prefix_is_taken_with_and_without_slashes(given, prefix):
    assert clean_prefix(given) == prefix


@pytest.mark.parametrize("given", ["/br ain", "a//b", "../x", "/a?b", "https://x/brain", "/a;b"])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(ArgumentTypeError, match="no path"):
        clean_prefix(given)


def test_the_proxy_is_on_this_machine_unless_it_is_named():
    assert parse([]).proxy == "" and parse(["--behind-proxy"]).proxy == "127.0.0.1"
    assert parse(["--behind-proxy", "10.0.0.7", "--prefix", "brain"]).proxy == "10.0.0.7"
