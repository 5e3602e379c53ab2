"""The socket and the server (waitress) behind the page.

server = make_server(app, open_socket("127.0.0.1", 8000), SizeLimit(mb=2048))
server.run()
"""

from __future__ import annotations

import json
import logging
import socket

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from common.errors import InputError
from server.uploads import SizeLimit

FORWARDED = {"x-forwarded-host", "x-forwarded-proto"}  # by which the page knows its own origin


class Refusal(ErrorTask):
    """An error of waitress itself, in JSON like every other answer of the API."""

    def execute(self) -> None:
        error = self.request.error
        reason = self.channel.server.limit.reason if error.code == 413 else error.body
        content = json.dumps({"error": reason}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.content_length = len(content)
        self.set_close_on_finish()
        self.write(content)


class Channel(HTTPChannel):
    error_task_class = Refusal


def make_server(
    app: Flask, listener: socket.socket, limit: SizeLimit, prefix: str = "", proxy: str = ""
):
    """The server of the app at a socket; it reads no more of a request than the limit allows.

    `prefix` is the path at which the page is shown, also where the proxy has cut it off already.
    FORWARDED is taken over from the proxy at the address `proxy` (* for any), and dropped from
    every other request.
    """
    trusted = {"trusted_proxy": proxy, "trusted_proxy_headers": FORWARDED} if proxy else {}
    logging.getLogger("waitress").setLevel(logging.ERROR)
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=8,
        ident=None,
        channel_timeout=60,  # s
        max_request_body_size=limit.bytes + 1,
        url_prefix=prefix,
        **trusted,
    )
    server.channel_class, server.limit = Channel, limit
    return server


def open_socket(host: str, port: int) -> socket.socket:
    """A socket at the address; InputError when it is taken or no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        failed = f"cannot serve at {host}:{port}: {reason}"
        raise InputError(f"{failed}; choose another --port or --host") from error
