"""One question to one broker, on a connection of its own: no client, no thread, no retry."""

from __future__ import annotations

import socket
import struct
from typing import Any

from kafka.protocol.api_header import ResponseClassRegistry

HOST = "127.0.0.1"
SIZE = struct.Struct(">i")


def read_exactly(connection: socket.socket, n_bytes: int) -> bytes:
    """The next bytes of a connection; fewer only when the peer has closed it."""
    chunks = []
    while n_bytes:
        chunk = connection.recv(min(n_bytes, 1 << 20))
        if not chunk:
            break
        chunks.append(chunk)
        n_bytes -= len(chunk)
    return b"".join(chunks)


def read_frame(connection: socket.socket) -> bytes | None:
    """The next request or response without its size; None when the peer has closed."""
    head = read_exactly(connection, SIZE.size)
    if len(head) < SIZE.size:
        return None
    (size,) = SIZE.unpack(head)
    frame = read_exactly(connection, size)
    return frame if len(frame) == size else None


def ask(port: int, request: Any, *, timeout_s: float = 5.0) -> Any:
    """The broker's answer to a versioned request such as `MetadataRequest[12](...)`.

    Raises:
        OSError: nobody listens there, or it does not answer in time.
    """
    request.with_header(correlation_id=1, client_id="streamgauge-tests")
    with socket.create_connection((HOST, port), timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(request.encode(header=True, framed=True))
        frame = read_frame(connection)
    if frame is None:
        raise ConnectionResetError(f"port {port} closed the connection instead of answering")
    response = ResponseClassRegistry.get_response_class(request.header)
    return response.decode(frame, header=True)
