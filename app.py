"""A page for this machine's browser: drop a head CT, look at its brain, take the mask away.

    python app.py                       # then open http://127.0.0.1:8000
    python app.py --port 9000 --keep-hours 1
    python app.py --model files/model.keras files/tumour_net/model.keras   # tumours in MRI, too

What is sent goes into a folder that only you can read, is predicted by pred.py in a process of its
own, and is deleted after --keep-hours and when the page is stopped. README describes the API.
"""

import argparse
import errno
import hashlib
import ipaddress
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import waitress
from flask import (
    Blueprint,
    Flask,
    Request,
    Response,
    current_app,
    jsonify,
    request,
    send_file,
)
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

import cases
import data
import mri
import pred
import uploads
from cases import card_of
from errors import InputError, run, warn
from jobs import FILES, STAGES, Job, Jobs, source_kind
from uploads import Refused

SAMPLE = Path(__file__).parent / "results" / "demo" / "sample_cta.nii.gz"
MOST_WAITING, MOST_KEPT = 50, 500  # jobs
SPARE = 256 << 20  # bytes of the disk
FULL = "the server's disk is nearly full; delete some results, or free some space"


@dataclass(frozen=True)
class Settings:
    """What the command line says; `folder` is where jobs lie, `sample` the scan behind a button."""

    models: tuple[Path, ...] = (pred.MODEL,)
    host: str = "127.0.0.1"
    port: int = 8000
    max_mb: int = 2048
    keep_hours: float = 24
    workers: int = os.cpu_count() or 1
    folder: Path | None = None
    sample: Path = SAMPLE

    @property
    def most_bytes(self) -> int:
        return self.max_mb << 20

    @property
    def too_much(self) -> str:
        return (f"one upload may have {self.max_mb} MB and {uploads.MOST_FILES} files; send one "
                "series alone, or start the page with a larger --max-mb")  # fmt: skip

    @property
    def root(self) -> Path:
        """One folder a user and port, so that what a killed server left is found again."""
        name = f"brain_page_{os.getuid()}_{self.port}"
        return self.folder or Path(tempfile.gettempdir(), name).absolute()


# ---------------------------------------------------------------- the page and its API

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageRequest(Request):
    """A request whose files are written into a job's own folder as they arrive."""

    folder: Path | None = None

    def _get_file_stream(self, total_content_length, content_type, filename=None,
                         content_length=None):  # fmt: skip
        self.count = getattr(self, "count", 0) + 1
        return uploads.Part(self.folder / "input" / f"{self.count:05}")


page = Blueprint("page", __name__)


def create_app(settings: Settings = Settings()) -> Flask:
    """The page, its API and its queue, which stands in `app.extensions["jobs"]`.

    Raises InputError when a network cannot be loaded or the folder is not ours alone.
    """
    app = Flask(__name__, static_folder="page", static_url_path="/page")
    app.request_class = PageRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.most_bytes
    app.config["MAX_FORM_PARTS"] = uploads.MOST_FILES
    app.config["PAGE"] = settings
    app.url_map.merge_slashes = False
    app.json.sort_keys = False
    app.register_blueprint(page)
    jobs = Jobs(settings.models, settings.root, settings.workers, settings.keep_hours)
    app.extensions["jobs"] = jobs
    return app


def here() -> tuple[Settings, Jobs]:
    """The settings and the queue of the app that answers."""
    return current_app.config["PAGE"], current_app.extensions["jobs"]


@page.before_app_request
def check() -> None:
    """Refuse what other sites' pages ask, by our name or by one that leads here."""
    if not is_ours(request.host, here()[0].host):
        raise Refused("this address is not the page's own; open it as it was printed", 403)
    if request.method not in ("GET", "HEAD", "OPTIONS") and not is_same_origin(request):
        raise Refused("only the page itself may ask for this", 403)


@page.after_app_request
def protect(response: Response) -> Response:
    """The answer with what keeps a browser from doing more with it than the page does."""
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-store" if "/api/" in request.path else "no-cache"
    return response


@page.app_errorhandler(HTTPException)
def explain(error: HTTPException):
    words = here()[0].too_much if error.code == 413 else error.description
    return jsonify(error=words), error.code


@page.app_errorhandler(InputError)
def refuse(error: InputError):
    return jsonify(error=str(error)), getattr(error, "status", 400)


@page.get("/")
def index():
    return current_app.send_static_file("index.html")


@page.get("/api/about")
def about():
    """What the page must know before anything is sent."""
    settings, jobs = here()
    return {
        "max_mb": settings.max_mb, "keep_hours": settings.keep_hours, "formats": uploads.FORMATS,
        "stages": list(STAGES), "tasks": [about_task(*task) for task in jobs.tasks.items()],
    }  # fmt: skip


def about_task(name: str, model: Path) -> dict:
    """What the card of a task's model says of it."""
    card = card_of(model)
    told = {key: card.get(key) for key in ("labels", "sha256", "training_data", "licence")}
    return {"name": name, "kind": source_kind(card), "channels": cases.channels(card),
            "model": {"name": model.name} | told}  # fmt: skip


@page.get("/api/channels")
def recognise():
    """Which channel of a task each name says it is, of those that say so."""
    card = card_of(here()[1].tasks[chosen_task(request.args)])
    names = request.args.getlist("name")
    found = {name: mri.channel_of(uploads.last(name), card) for name in names}
    return {"channels": {name: channel for name, channel in found.items() if channel}}


@page.get("/api/jobs")
def list_jobs():
    owner = digest(request.cookies.get("owner", ""))
    return {"jobs": [job.public() for job in here()[1].of(owner)]}


@page.post("/api/jobs")
def add_job():
    """Put what is sent into the queue; the browser gets a cookie by which it lists its jobs."""
    settings, jobs = here()
    make_room(jobs, request.content_length or 0)
    cookie = request.cookies.get("owner") or secrets.token_urlsafe(16)
    job = receive(jobs, settings.sample, digest(cookie))
    jobs.add(job)
    response = jsonify(job.public())
    response.set_cookie("owner", cookie, max_age=round(3600 * settings.keep_hours),
                        httponly=True, samesite="Strict")  # fmt: skip
    return response, 202


@page.get("/api/jobs/<job_id>")
def show_job(job_id: str):
    return find(job_id).public()


@page.delete("/api/jobs/<job_id>")
def drop_job(job_id: str):
    job = find(job_id)
    here()[1].drop(job)
    return job.public()


@page.get("/api/jobs/<job_id>/<name>")
def give_file(job_id: str, name: str):
    """A file of a job that is done, or its scan as soon as that is there."""
    job = find(job_id)
    path = job.folder / FILES.get(name, "no such file")
    if not (path.exists() and (job.state == "done" or name == "scan.nii.gz")):
        if name in FILES and job.state in ("queued", "running"):
            raise Refused("the job is not done yet", 409)
        raise Refused("there is no such file of this job", 404)
    kinds = {".gz": "application/gzip", ".dcm": "application/dicom"}
    return send_file(path, kinds.get(path.suffix), as_attachment=True,
                     download_name=f"{plain_stem(job.name)}_{name}")  # fmt: skip


def find(job_id: str) -> Job:
    """The job of an id; Refused when there is none (any more)."""
    job = here()[1].jobs.get(job_id)
    if job is None:
        raise Refused("there is no such job; results are deleted after a time", 404)
    return job


def plain_stem(name: str) -> str:
    """The start of a download's name: what is plain ASCII of the upload's, without its ending."""
    stem = data.stem(name).removesuffix(".zip").removesuffix(".dcm")
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60].strip("_") or "scan"


def make_room(jobs: Jobs, sent: int) -> None:
    """Refuse a job of so many bytes while too many wait or stand, or the disk is too full."""
    if jobs.waiting() >= MOST_WAITING or len(jobs.jobs) >= MOST_KEPT:
        raise Refused("too many jobs wait or are kept; send this one later, or delete some", 429)
    if shutil.disk_usage(jobs.root).free < 2 * sent + SPARE:
        raise Refused(FULL, 507)


def receive(jobs: Jobs, sample: Path, owner: str) -> Job:
    """A job of what this request sends, in its folder; nothing is left of what is refused."""
    folder = request.folder = jobs.new_folder()
    try:
        task = chosen_task(request.form)
        card = card_of(jobs.tasks[task])
        if request.form.get("sample") == "1":
            upload = take_sample(sample, card)
        else:
            parts = request.files.getlist("files")
            channels = channels_of(parts, card) if source_kind(card) == "case" else None
            upload = uploads.take(parts, folder / "input", channels)
        return Job(folder, upload.name, task, owner, upload.path, upload.given)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(FULL, 507) from error
        raise


def chosen_task(form: MultiDict) -> str:
    """The task that is asked for, or the first one; Refused when there is no such task."""
    tasks = here()[1].tasks
    task = form.get("task") or next(iter(tasks))
    if task not in tasks:
        raise Refused(f"there is no task {uploads.shown(task)}; choose {' or '.join(tasks)}")
    return task


def take_sample(sample: Path, card: dict) -> uploads.Upload:
    if source_kind(card) == "case":
        raise Refused("the sample is a head CTA; choose another task for it")
    return uploads.Upload(sample, sample.name)


def channels_of(parts: Sequence, card: dict) -> dict[str, str]:
    """The channel of each file of an MRI case: as `channels` says, where that is sent, or by name.

    Raises Refused when that is no JSON object of the card's channels.
    """
    names = [uploads.shown(part.filename) for part in parts]
    try:
        said = json.loads(request.form.get("channels", "null"))
    except (ValueError, RecursionError):
        said = ""
    if said is None:
        return {name: mri.channel_of(uploads.last(name), card) for name in names}
    wanted = cases.channels(card)
    if not isinstance(said, dict) or not all(channel in wanted for channel in said.values()):
        raise Refused(f"channels must be a JSON object: each file's name and {' or '.join(wanted)}")
    return {uploads.shown(name): channel for name, channel in said.items()}


def digest(cookie: str) -> str:
    """What is kept of a browser's cookie: enough to know it again."""
    return hashlib.sha256(cookie.encode()).hexdigest() if cookie else ""


def is_ours(host: str, bound: str) -> bool:
    """Whether a Host header names this server, so that no other site's name can lead here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", bound) or is_loopback(name):
        return True
    return not is_loopback(bound) and (is_address(name) or name == socket.gethostname().lower())


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def is_loopback(name: str) -> bool:
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def is_same_origin(asked: Request) -> bool:
    """Whether a request comes from the page, or from no page at all, as of a script."""
    site, origin = asked.headers.get("Sec-Fetch-Site"), asked.headers.get("Origin")
    return site in (None, "same-origin") and origin in (None, asked.host_url.rstrip("/"))


# ---------------------------------------------------------------- serving


class Refusal(ErrorTask):
    """What waitress itself refuses, said as the API says everything."""

    def execute(self) -> None:
        error = self.request.error
        words = self.channel.server.too_much if error.code == 413 else error.body
        content = json.dumps({"error": words}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.content_length = len(content)
        self.set_close_on_finish()
        self.write(content)


class Channel(HTTPChannel):
    error_task_class = Refusal


def serve(settings: Settings) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then delete every result."""
    os.umask(0o077)
    listener = listen(settings.host, settings.port)
    app = create_app(settings)
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda *_: sys.exit())
    try:
        server = server_of(app, settings, listener)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listener.getsockname()[1]}/"
        print(f"{address}  (Ctrl-C ends it and deletes all results)", flush=True)
        server.run()
    finally:
        app.extensions["jobs"].close()


def server_of(app: Flask, settings: Settings, listener: socket.socket):
    """The server of the app at a socket, which reads no more of a request than is allowed."""
    logging.getLogger("waitress").setLevel(logging.ERROR)
    server = waitress.create_server(
        app, sockets=[listener], threads=8, ident=None, channel_timeout=60,
        max_request_body_size=settings.most_bytes + 1,
    )  # fmt: skip
    server.channel_class, server.too_much = Channel, settings.too_much
    return server


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address; InputError when it is taken or no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot serve at {host}:{port}: {reason}; choose another --port or "
                         "--host") from error  # fmt: skip


def above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, Settings()
    add("--host", default=default.host, help="the address to serve at (default: %(default)s, which "
        "only this machine reaches)")
    add("--port", type=int, default=default.port, help="(default: %(default)s)")
    add("--model", type=Path, nargs="+", default=default.models, dest="models",
        help="networks of train.py, each a task to choose (default: the shipped one)")
    add("--max-mb", type=above_zero, default=default.max_mb,
        help="of one upload (default: %(default)s)")
    add("--keep-hours", type=float, default=default.keep_hours, help="until a result is deleted "
        "(default: %(default)s)")
    add("--workers", type=above_zero, default=default.workers,
        help="jobs at a time (default: one a core)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    settings = Settings(**vars(parse(argv)))
    if not is_loopback(settings.host):
        warn(f"{settings.host} is open to your network: whoever reaches it can send scans, with no "
             "password, and what travels is not encrypted")  # fmt: skip
    if not settings.sample.exists():
        import synthetic

        print("making the sample scan, once ...", flush=True)
        synthetic.write_sample(settings.sample)
    serve(settings)
    return 0


if __name__ == "__main__":
    run(main)
