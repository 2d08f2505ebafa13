"""Ports that belong to one test, and go when it goes."""

from __future__ import annotations

import socket

from tests.support.kafka.wire import HOST


def hold_port(port: int = 0) -> socket.socket:
    """A bound socket that never listens: its port (any free one for 0) stays ours.

    Linux gives a bound port to nobody who asks for any port, and yet lets a second socket that
    reuses addresses, as Java's and the proxy's do, listen on it time and again.

    Raises:
        OSError: somebody listens on the port.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, port))
    except OSError:
        held.close()
        raise
    return held
