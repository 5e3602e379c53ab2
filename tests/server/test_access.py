"""server/access.py: by which names a server may be asked."""

import pytest

from server.access import names_this_server


@pytest.mark.parametrize(
    "bound, host, ours",
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:80", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[x", False),
        ("0.0.0.0", "192.168.0.7:8000", True),
        ("0.0.0.0", "evil.example", False),
        ("reader.clinic", "reader.clinic:8000", True),
        ("reader.clinic", "evil.example", False),
    ],
)
def test_only_the_servers_own_names_lead_to_it(bound, host, ours):
    assert names_this_server(host, bound) == ours
