"""The page of a folder of results: `app.py --review DIR`.

    app = create_review(settings)      # settings.review is the folder
    print(make_address(app, "http://127.0.0.1:8000/"))

It gives out what server/results.py finds, and writes ratings (predict/ratings.py) and corrections
(predict/correction.py), nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
import secrets
from dataclasses import replace
from pathlib import Path

from flask import Blueprint, Flask, current_app, jsonify, make_response, request, send_file

from common.card import read_card
from common.errors import printable
from predict.correction import save_correction, undo_correction
from predict.ratings import Rating
from predict.summary import Row
from server.access import rules
from server.results import MADE, Results
from server.uploads import Refused
from server.words import words

PAGE = Path(__file__).parents[1] / "page"
MOST_SAID = 1 << 14  # bytes of a rating, which is a few words. A round number
MOST_MB = 64  # of a request: a mask that was corrected, packed. A round number
TYPES = {".nii": "application/octet-stream", ".gz": "application/gzip"}

review = Blueprint("review", __name__)


def create_review(settings) -> Flask:
    """The page of `settings.review`. Raises InputError where there is no such folder.

    Whoever opens the page needs the key that `make_address` shows, since other users of this
    machine reach it, too. A proxy asks for a password of its own.
    """
    app = Flask("review", static_folder=PAGE, static_url_path="/page")
    app.config["PAGE"] = replace(settings, max_mb=MOST_MB)
    app.config["KEY"] = "" if settings.proxy else secrets.token_urlsafe(16)
    app.config["MAX_CONTENT_LENGTH"] = MOST_MB << 20
    app.url_map.merge_slashes = False
    app.json.sort_keys = False
    app.register_blueprint(rules)
    app.register_blueprint(review)
    app.register_blueprint(words)
    app.extensions["results"] = Results(settings.review, list(map(read_card, settings.models)))
    return app


def make_address(app: Flask, address: str) -> str:
    """An address as a person opens it: with the key, where the page has one."""
    key = app.config.get("KEY")
    return f"{address}?key={key}" if key else address


def get_results() -> Results:
    """The folder of the app that answers."""
    return current_app.extensions["results"]


@review.before_request
def check_key() -> None:
    """Refuse whoever has not the key: in the address at first, then in a cookie."""
    key = current_app.config["KEY"]
    given = request.args.get("key") or request.cookies.get(name_cookie(), "")
    if key and not hmac.compare_digest(given.encode(), key.encode()):
        raise Refused("open this page by the whole address that app.py printed, with its key", 403)


def name_cookie() -> str:
    """The cookie's name: browsers share cookies between the ports of a machine."""
    return f"key_{request.environ['SERVER_PORT']}"


@review.get("/")
def show_page():
    response = make_response(make_page())
    if key := current_app.config["KEY"]:
        path = f"{request.script_root}/"
        response.set_cookie(name_cookie(), key, path=path, httponly=True, samesite="Strict")
    return response


def make_page() -> str:
    """The page of app.py with the list of results in place of its list of jobs."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    sections = (PAGE / "review.html").read_text(encoding="utf-8")
    page = re.sub(r'<section id="intake".*?</section>', lambda _: sections, page, flags=re.S)
    style = '<link rel="stylesheet" href="page/page.css">'
    page = page.replace(style, f"{style}\n{style.replace('page.css', 'review.css')}")
    return page.replace("page/page.js", "page/review.js").replace("Brain masks", "Review of masks")


@review.get("/api/results")
def list_results():
    """Every result, in short, and its rating, and the inputs that failed; nothing where the asker
    has seen this `version`."""
    found = get_results().list_rows()
    said = {
        "folder": printable(get_results().root.name),
        "results": [describe_row(key, *parts) for key, parts in found.items()],
        "failed": [
            {"name": printable(row.name), "error": printable(row.error)}
            for row in get_results().failures
        ],
    }
    version = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    if request.args.get("seen") == version:
        return {"version": version}
    return {"version": version} | said


def describe_row(result_id: str, row: Row, rating: Rating | None) -> dict:
    """What the list says of a result."""
    return {
        "id": result_id,
        "name": printable(row.name),
        "verdict": row.verdict,
        "ml": row.ml,
        "said": list(row.said),
        "corrected": row.newest != row.mask,
        "rating": describe_rating(rating),
    }


def describe_rating(rating: Rating | None) -> dict | None:
    if rating is None:
        return None
    return {key: getattr(rating, key) for key in ("rating", "who", "note", "when")}


@review.get("/api/results/<result_id>")
def show_result(result_id: str):
    """What the viewer shows of a result."""
    said = get_results().describe(result_id)
    url = f"{request.script_root}/api/results/{result_id}/"
    is_whole = {"scan.nii", "scan.nii.gz"} & set(said["files"]) and "mask.nii.gz" in said["files"]
    correction = {"correction": f"{url}correction"} if is_whole else {}
    return said | {"files": {name: url + name for name in said["files"]}} | correction


@review.get("/api/results/<result_id>/<name>")
def give_file(result_id: str, name: str):
    """A file of a result, or of the scan that was masked."""
    results = get_results()
    if name in MADE:  # as a file, since waitress would write bytes to a disk first
        content = io.BytesIO(results.make_file(result_id, name))
        return send_file(content, "image/png" if name == "picture.png" else TYPES[".nii"])
    path = results.find_file(result_id, name)
    saved = f"{path.parent.name}_{name}" if name == "scan.nii.gz" else path.name
    is_picture = name in ("thumbnail", "overlay.png", "mask.png")
    return send_file(
        path, TYPES.get(path.suffix), as_attachment=not is_picture, download_name=saved
    )


@review.post("/api/results/<result_id>/rating")
def rate_result(result_id: str):
    """Write a rating; the answer comes when it is on the disk."""
    if (request.content_length or MOST_SAID + 1) > MOST_SAID:
        raise Refused("a rating is a few words; shorten the note", 413)
    said = request.get_json(silent=True)
    names = ("rating", "who", "note", "mask_sha256")
    if not isinstance(said, dict) or not all(isinstance(said.get(n, ""), str) for n in names):
        raise Refused("a rating is a JSON object of texts: rating, who, note, mask_sha256")
    words = {name: said.get(name, "") for name in ("rating", "who", "note")}
    rating = get_results().rate(result_id, said.get("mask_sha256", ""), words)
    return jsonify(describe_rating(rating))


@review.post("/api/results/<result_id>/correction")
def add_correction(result_id: str):
    """Write a corrected mask, which is the body, beside the mask; `who` and `seen` say the rest."""
    mask, who, seen = request.get_data(cache=False), request.args.get("who", ""), get_seen()
    return get_results().correct(result_id, lambda path: save_correction(path, mask, who, seen))


@review.delete("/api/results/<result_id>/correction")
def drop_correction(result_id: str):
    """Take the newest correction back."""
    seen = get_seen()
    return get_results().correct(result_id, lambda path: undo_correction(path, seen))


def get_seen() -> str | None:
    """Checksum of the newest correction that the asker knows."""
    return request.args.get("seen")
