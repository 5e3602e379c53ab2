"""Who may ask the page for something.

Requests from other sites' pages are refused, and requests whose Host is not the server's own name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from urllib.parse import urlsplit

from flask import Request

HEADERS = {  # what keeps a browser from doing more with an answer than the page does
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


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
