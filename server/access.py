"""Who may ask a page for something, and how it says no.

    app.config["PAGE"] = settings          # its host, proxy and limit (server/uploads.py)
    app.register_blueprint(rules)

Requests from other sites' pages are refused, and requests whose Host is not the server's own name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from urllib.parse import urlsplit

from flask import Blueprint, Request, Response, current_app, jsonify, request
from werkzeug.exceptions import HTTPException

from common.errors import InputError
from server.uploads import Refused

HEADERS = {  # what keeps a browser from doing more with an answer than the page does
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

rules = Blueprint("rules", __name__)


@rules.before_app_request
def check_origin() -> None:
    """Refuse what other sites' pages ask, by our name or by one that leads here."""
    settings = current_app.config["PAGE"]
    # make_server drops the header of everybody but the proxy, which answers for the name
    is_forwarded = settings.proxy and "X-Forwarded-Host" in request.headers
    if not (is_forwarded or names_this_server(request.host, settings.host)):
        raise Refused("this address is not the page's own; open it as it was printed", 403)
    if request.method not in ("GET", "HEAD", "OPTIONS") and not is_same_origin(request):
        raise Refused("only the page itself may ask for this", 403)


@rules.after_app_request
def protect(response: Response) -> Response:
    """The answer with HEADERS; nothing of the API is kept by a browser."""
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-store" if "/api/" in request.path else "no-cache"
    return response


@rules.app_errorhandler(HTTPException)
def explain(error: HTTPException):
    limit = current_app.config["PAGE"].limit
    return jsonify(error=limit.reason if error.code == 413 else error.description), error.code


@rules.app_errorhandler(InputError)
def refuse(error: InputError):
    return jsonify(error=str(error)), getattr(error, "status", 400)


def names_this_server(host: str, bound: str) -> bool:
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


def is_same_origin(request: Request) -> bool:
    """Whether a request comes from the page, or from no page at all, such as from a script."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    return site in (None, "same-origin") and origin in (None, request.host_url.rstrip("/"))


def digest(cookie: str) -> str:
    """What is kept of a browser's cookie: enough to know it again."""
    return hashlib.sha256(cookie.encode()).hexdigest() if cookie else ""
