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


def write(connection: socket.socket, request: Any, correlation_id: int = 1) -> None:
    """Send a versioned request such as `MetadataRequest[12](...)`."""
    request.with_header(correlation_id=correlation_id, client_id="streamgauge-tests")
    connection.sendall(request.encode(header=True, framed=True))


def exchange(connection: socket.socket, request: Any) -> Any:
    """The answer to a request on a connection where no other one is expected.

    Raises:
        OSError: it does not come in the connection's time, or the peer closes instead.
    """
    write(connection, request)
    frame = read_frame(connection)
    if frame is None:
        raise ConnectionResetError("the connection was closed in place of an answer")
    response = ResponseClassRegistry.get_response_class(request.header)
    return response.decode(frame, header=True)


def ask(port: int, request: Any, *, timeout_s: float = 5.0) -> Any:
    """The answer to a request on a connection of its own.

    Raises:
        OSError: nobody listens there, or there is no answer in time.
    """
    with socket.create_connection((HOST, port), timeout_s) as connection:
        return exchange(connection, request)
