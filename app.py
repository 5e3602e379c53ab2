"""A page for this machine's browser: drop a head CT, look at its brain, take the mask away.

    python app.py                       # then open http://127.0.0.1:8000
    python app.py --port 9000 --keep-hours 1
    python app.py --model files/model.keras files/tumour_net/model.keras   # tumours in MRI, too
    python app.py --behind-proxy --prefix /brain         # for a proxy that adds sign-in and TLS
    python app.py --review results      # look at what pred.py has masked, and rate it

A scan that you send goes into a folder that only you can read. A process of its own predicts it as
pred.py does. It is deleted after --keep-hours, and when the page is stopped. server/README.md
describes the API.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask import (
    Blueprint,
    Flask,
    Request,
    current_app,
    jsonify,
    redirect,
    request,
    send_file,
)
from werkzeug import formparser
from werkzeug.datastructures import MultiDict
from werkzeug.sansio.multipart import MultipartDecoder

from common.card import Card, read_card
from common.errors import run, warn
from predict.inputs import find_channel
from predict.network import MODEL
from scan.cases import get_stem
from server import uploads
from server.access import digest, is_loopback, rules
from server.corrections import corrections
from server.jobs import STAGES, Job, Jobs
from server.review import create_review, make_address
from server.samples import SAMPLE, SAMPLE_CASE, Samples
from server.serve import make_server, open_socket
from server.uploads import Refused, SizeLimit, clean_name, last_part
from server.words import words
from server.worker import FILES, INPUT_NAMES

MOST_WAITING, MOST_KEPT = 50, 500  # jobs: round numbers
NO_COOKIE = (
    "only your own jobs are listed, by the cookie that POST /api/jobs gives and that was not sent: "
    "with curl, -c jar.txt keeps it and -b jar.txt sends it; a job's id needs no cookie"
)
TYPES = {".gz": "application/gzip", ".dcm": "application/dicom"}  # of a download, by its ending


@dataclass(frozen=True)
class PageSettings:
    """What the command line says; `folder` is where jobs lie, `sample` and `sample_case` are the
    scan and the case of MRI behind a button.

    `proxy` is whose X-Forwarded-Host and -Proto are believed, and `prefix` the path of the page.
    """

    models: tuple[Path, ...] = (MODEL,)
    host: str = "127.0.0.1"
    port: int = 8000
    max_mb: int = 2048
    keep_hours: float = 24
    workers: int = os.cpu_count() or 1
    folder: Path | None = None
    sample: Path = SAMPLE
    sample_case: Path = SAMPLE_CASE
    proxy: str = ""  # its address, or * for any
    prefix: str = ""  # as in /brain
    review: Path | None = None  # a folder of results, which is served in place of the queue

    @property
    def limit(self) -> SizeLimit:
        return SizeLimit(self.max_mb)

    @property
    def samples(self) -> Samples:
        return Samples(self.sample, self.sample_case)

    @property
    def root(self) -> Path:
        """One folder for each user and port, so that what a killed server left is found again."""
        name = f"brain_page_{os.getuid()}_{self.port}"
        return self.folder or Path(tempfile.gettempdir(), name).absolute()


# ---------------------------------------------------------------- the page and its API


class PageRequest(Request):
    """A request whose files are written into a job's own folder as they arrive."""

    folder: Path | None = None
    count: int = 0

    def _get_file_stream(
        self, total_content_length, content_type, filename=None, content_length=None
    ):
        self.count += 1
        return uploads.Part(self.folder / "input" / f"{self.count:05}")


class FormDecoder(MultipartDecoder):
    """Werkzeug's reader of forms, which also takes names that are not UTF-8, as curl sends them."""

    def _parse_headers(self, data: bytes):
        return super()._parse_headers(bytes(data).decode(errors="replace").encode())


formparser.MultipartDecoder = FormDecoder  # Werkzeug has no other place to name it
page = Blueprint("page", __name__)


def create_app(settings: PageSettings) -> Flask:
    """The page, its API and its queue, which stands in `app.extensions["jobs"]`.

    Raises InputError when a network cannot be loaded or the folder is not ours alone.
    """
    app = Flask(__name__, static_folder="page", static_url_path="/page")
    app.request_class = PageRequest
    app.config["MAX_FORM_PARTS"] = uploads.MOST_FILES
    app.config["PAGE"] = settings
    app.url_map.merge_slashes = False
    app.json.sort_keys = False
    app.register_blueprint(rules)
    app.register_blueprint(page)
    app.register_blueprint(words)
    app.register_blueprint(corrections)
    jobs = Jobs(settings.models, settings.root, settings.workers, settings.keep_hours)
    app.extensions["jobs"] = jobs
    return app


def get_settings() -> PageSettings:
    """The settings of the app that answers."""
    return current_app.config["PAGE"]


def get_jobs() -> Jobs:
    """The queue of the app that answers."""
    return current_app.extensions["jobs"]


@page.get("/")
def show_page():
    if not request.environ["PATH_INFO"]:  # /brain: what the page asks for would lie beside it
        return redirect(f"{request.script_root}/")
    return current_app.send_static_file("index.html")


@page.get("/healthz")
def show_health():
    """For whatever watches over this process: that it answers."""
    return {"state": "ok"}


@page.get("/api/about")
def show_about():
    """What the page must know before anything is sent."""
    settings = get_settings()
    return {
        "max_mb": settings.max_mb,
        "most_waiting": MOST_WAITING,
        "keep_hours": settings.keep_hours,
        "formats": uploads.FORMATS,
        "stages": list(STAGES),
        "tasks": [describe_task(*task) for task in get_jobs().tasks.items()],
    }


def describe_task(name: str, model: Path) -> dict:
    """What the card of a task's model says of it."""
    card = read_card(model)
    told = {key: getattr(card, key) for key in ("labels", "sha256", "training_data", "licence")}
    return {
        "name": name,
        "kind": INPUT_NAMES[card.is_mri],
        "channels": card.channels,
        "sample": get_settings().samples.find(card) is not None,
        "model": {"name": model.name} | told,
    }


@page.get("/api/channels")
def show_channels():
    """The channel of a task that each name means; names that mean none are left out."""
    card = read_card(get_jobs().tasks[get_task(request.args)])
    names = request.args.getlist("name")
    found = {name: find_channel(last_part(name), card) for name in names}
    return {"channels": {name: channel for name, channel in found.items() if channel}}


@page.get("/api/jobs")
def list_jobs():
    """The jobs of whoever sends the cookie that POST gave; without one, why there are none."""
    cookie = request.cookies.get("owner")
    if cookie is None:
        return {"jobs": [], "note": NO_COOKIE}
    return {"jobs": [job.public(request.script_root) for job in get_jobs().of(digest(cookie))]}


@page.post("/api/jobs")
def add_job():
    """Put an upload into the queue; the browser gets a cookie by which it lists its jobs."""
    settings, jobs = get_settings(), get_jobs()
    if jobs.count_waiting() >= MOST_WAITING or len(jobs.jobs) >= MOST_KEPT:
        raise Refused("too many jobs wait or are kept; send this one later, or delete some", 429)
    uploads.check_disk(jobs.root, request.content_length or 0)
    cookie = request.cookies.get("owner") or secrets.token_urlsafe(16)
    job = receive_job(jobs, digest(cookie))
    jobs.add(job)
    response = jsonify(job.public(request.script_root))
    response.set_cookie(
        "owner",
        cookie,
        max_age=round(3600 * settings.keep_hours),
        path=f"{request.script_root}/",
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response, 202


@page.get("/api/jobs/<job_id>")
def show_job(job_id: str):
    return get_job(job_id).public(request.script_root)


@page.delete("/api/jobs/<job_id>")
def drop_job(job_id: str):
    job = get_job(job_id)
    get_jobs().drop(job)
    return job.public(request.script_root)


@page.get("/api/jobs/<job_id>/<name>")
def give_file(job_id: str, name: str):
    """A file of a job that is done, or its scan as soon as that is there."""
    job = get_job(job_id)
    path = job.find_file(name)
    if not (path.exists() and (job.state == "done" or name == "scan.nii.gz")):
        if name in FILES and job.state in ("queued", "running"):
            raise Refused("the job is not done yet", 409)
        raise Refused("there is no such file of this job", 404)
    saved = f"{make_plain(job.name)}_{name}"
    return send_file(path, TYPES.get(path.suffix), as_attachment=True, download_name=saved)


def get_job(job_id: str) -> Job:
    """The job of an id; Refused when there is none (any more)."""
    job = get_jobs().jobs.get(job_id)
    if job is None:
        raise Refused("there is no such job; results are deleted after a time", 404)
    return job


def make_plain(name: str) -> str:
    """The start of a download's name: the plain ASCII of the upload's, without its ending."""
    stem = get_stem(name).removesuffix(".zip").removesuffix(".dcm")
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60].strip("_") or "scan"


def receive_job(jobs: Jobs, owner: str) -> Job:
    """A job of what this request sends, in its folder; nothing is left of what is refused."""
    folder = request.folder = jobs.new_folder()
    try:
        task = get_task(request.form)
        card = read_card(jobs.tasks[task])
        if request.form.get("sample") == "1":
            upload = get_settings().samples.take(folder / "input", card)
        else:
            parts = request.files.getlist("files")
            channels = match_channels(parts, card) if card.is_mri else None
            upload = uploads.take_upload(parts, folder / "input", channels)
        return Job(folder, upload.name, task, owner, upload.path, upload.given)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(uploads.DISK_FULL, 507) from error
        raise


def get_task(form: MultiDict) -> str:
    """The task that is asked for, or the first one; Refused when there is no such task."""
    tasks = get_jobs().tasks
    task = form.get("task") or next(iter(tasks))
    if task not in tasks:
        raise Refused(f"there is no task {clean_name(task)}; choose {' or '.join(tasks)}")
    return task


def match_channels(parts: Sequence, card: Card) -> dict[str, str]:
    """The channel of each file of an MRI case: from the field `channels`, if sent, or by name.

    Raises Refused when the field is not a JSON object of the card's channels.
    """
    names = [clean_name(part.filename) for part in parts]
    try:
        said = json.loads(request.form.get("channels", "null"))
    except (ValueError, RecursionError):
        said = ""
    if said is None:
        return {name: find_channel(last_part(name), card) for name in names}
    known = card.channels
    if not isinstance(said, dict) or not all(channel in known for channel in said.values()):
        raise Refused(f"channels must be a JSON object: each file's name and {' or '.join(known)}")
    return {clean_name(name): channel for name, channel in said.items()}


# ---------------------------------------------------------------- serving


def serve(settings: PageSettings) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then delete every result; none of --review's."""
    if not settings.review:  # whose folder may be shared
        os.umask(0o077)
    listener = open_socket(settings.host, settings.port)
    app = create_review(settings) if settings.review else create_app(settings)
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda *_: sys.exit())
    try:
        limit = app.config["PAGE"].limit
        server = make_server(app, listener, limit, settings.prefix, settings.proxy)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listener.getsockname()[1]}{settings.prefix}/"
        end = "Ctrl-C ends it" if settings.review else "Ctrl-C ends it and deletes all results"
        print(f"{make_address(app, address)}  ({end})", flush=True)
        server.run()
    finally:
        if jobs := app.extensions.get("jobs"):
            jobs.close()


def above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def clean_prefix(text: str) -> str:
    """A path with a slash before it and none behind it; "" for the whole site."""
    prefix = f"/{text.strip('/')}".rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9_.~-]*)*", prefix):
        raise argparse.ArgumentTypeError(f"{text} is no path of letters and digits, as in /brain")
    return prefix


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default, shown = parser.add_argument, PageSettings(), "(default: %(default)s)"
    address = "the address to serve at (default: %(default)s, which only this machine reaches)"
    add("--host", default=default.host, help=address)
    add("--port", type=int, default=default.port, help=shown)
    networks = "networks of train.py, each a task to choose (default: the shipped one)"
    add("--model", type=Path, nargs="+", default=default.models, dest="models", help=networks)
    add("--max-mb", type=above_zero, default=default.max_mb, help=f"of one upload {shown}")
    hours = f"until a result is deleted {shown}"
    add("--keep-hours", type=float, default=default.keep_hours, help=hours)
    workers = "jobs at a time (default: one a core)"
    add("--workers", type=above_zero, default=default.workers, help=workers)
    add(
        "--behind-proxy",
        nargs="?",
        const="127.0.0.1",
        default=default.proxy,
        dest="proxy",
        metavar="ADDRESS",
        help="believe the X-Forwarded-Host and X-Forwarded-Proto of the proxy at this address "
        "(default: %(const)s; * for any)",
    )
    prefix = "the path at which the proxy shows the page, such as /brain (default: none)"
    add("--prefix", type=clean_prefix, default=default.prefix, metavar="PATH", help=prefix)
    review = "serve a folder of pred.py's results, to look at them and rate them, and nothing else"
    add("--review", type=Path, metavar="DIR", help=review)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    settings = PageSettings(**vars(parse(argv)))
    if not is_loopback(settings.host):
        warn(
            f"{settings.host} is open to your network: whoever reaches it can send scans, with no "
            "password, and what travels is not encrypted"
        )
    if not (settings.review or settings.sample.exists()):
        from synthetic import write_sample  # a second, for this alone; each worker would wait, too

        print("making the sample scan, once ...", flush=True)
        write_sample(settings.sample)
    is_mri = any(read_card(model).is_mri for model in settings.models)
    if is_mri and settings.samples.lacks_case:
        from synthetic import write_sample_case  # as above

        settings.samples.make_case(write_sample_case)
    serve(settings)
    return 0


if __name__ == "__main__":
    run(main)
