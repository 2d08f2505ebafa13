"""A proxy before each broker that knows where Kafka's messages begin, so that faults hit whole ones.

With no rule and no fault it passes on whatever comes, in both directions, and takes note of it.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.kafka.rules import Action, HangUp, Mute, Request, Rule
from tests.support.kafka.wire import HOST, SIZE, read_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.kafka.addresses import Addresses

PASS = Rule(Action(), times=None)
CORRELATION_ID = struct.Struct(">i")
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 1.0


class Seen(NamedTuple):
    """A request that came by, and what was to become of it."""

    node: int
    api: int
    version: int
    client_id: str
    action: Action


class FaultProxy:
    """Proxies before the nodes of a cluster, with one list of rules for all of them.

    Args:
        routes: for each node the port to listen on, and the broker's port behind it.

    Attributes:
        seen: the requests that came by, in the order in which they came.
    """

    def __init__(self, routes: Mapping[int, tuple[int, int]]) -> None:
        self.seen: list[Seen] = []
        self._routes = dict(routes)
        self._rules: list[Rule] = []
        self._listeners: dict[int, socket.socket] = {}
        self._connections: set[_Connection] = set()
        self._gates = {node: threading.Event() for node in routes}
        self._lock = threading.Lock()

    @classmethod
    def before(cls, cluster: Addresses) -> Self:
        """For the clients that start at a cluster's `proxy_bootstrap`."""
        ports = ("PROXIED", "PROXY")
        return cls({node: tuple(cluster.port(node, p) for p in ports) for node in cluster.nodes})

    def __enter__(self) -> Self:
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything."""
        self.refuse()
        for gate in self._gates.values():
            gate.set()
        for connection in self._of():
            connection.close()
            connection.join()

    # Faults by request

    def add(self, rule: Rule) -> Rule:
        """Obey a rule from now on; where several take a request, the first one added does."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget every rule, and what has been seen."""
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    def n_seen(self, api: int, client: str = "") -> int:
        """How many requests of an API came from clients whose id begins so."""
        with self._lock:
            return sum(s.api == api and s.client_id.startswith(client) for s in self.seen)

    def judge(self, request: Request) -> Rule:
        """Take note of a request, and find the rule that it goes by."""
        with self._lock:
            # Every rule counts every request, whether or not another one takes it.
            takers = [rule for rule in self._rules if rule.takes(request)]
            rule = takers[0] if takers else PASS
            seen = (request.node, request.api, request.version, request.client_id, rule.action)
            self.seen.append(Seen(*seen))
        return rule

    # Faults of the network, each of some nodes or of all

    def black_hole(self, *nodes: int) -> None:
        """Let nothing through in either direction; what is held back gets through at `heal`."""
        for node in nodes or self._routes:
            self._gates[node].clear()

    def disconnect(self, *nodes: int) -> None:
        """Break the connections that there are."""
        for connection in self._of(*nodes):
            connection.close()

    def refuse(self, *nodes: int) -> None:
        """Refuse new connections."""
        for node in nodes or self._routes:
            with self._lock:
                listener = self._listeners.pop(node, None)
            if listener is not None:
                # Closing alone would not wake the thread that waits in accept.
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()

    def heal(self, *nodes: int) -> None:
        """End `black_hole` and `refuse`. Rules stay."""
        for node in nodes or self._routes:
            self._gates[node].set()
            if node not in self._listeners:
                self._listen(node)

    def wait_passable(self, node: int) -> None:
        """Wait while a node is in a black hole."""
        self._gates[node].wait()

    def _listen(self, node: int) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self._routes[node][0]))
        listener.listen()
        with self._lock:
            self._listeners[node] = listener
        threading.Thread(target=self._accept, args=(node, listener), daemon=True).start()

    def _accept(self, node: int, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            connection = _Connection(self, node, client, self._routes[node][1])
            with self._lock:
                self._connections = {c for c in self._connections if c.alive()} | {connection}
            connection.start()

    def _of(self, *nodes: int) -> list[_Connection]:
        with self._lock:
            return [c for c in self._connections if c.node in (nodes or self._routes)]


class _Pending(NamedTuple):
    """A request that its client has no answer to yet."""

    request: Request
    rule: Rule
    answer: bytes | None  # ours; None where the broker's is awaited


class _Connection:
    """One client's connection to one broker, with a thread for each direction."""

    def __init__(self, proxy: FaultProxy, node: int, client: socket.socket, port: int) -> None:
        self.node = node
        self._proxy = proxy
        self._port = port
        self._client = client
        self._broker = socket.socket()
        self._pending: dict[int, _Pending] = {}
        self._client_muted = False
        self._lock = threading.Lock()  # of the three above: what the client gets, and when
        self._up = threading.Thread(target=self._run_requests, daemon=True)
        self._down = threading.Thread(target=self._run_responses, daemon=True)

    def start(self) -> None:
        self._up.start()

    def alive(self) -> bool:
        return self._up.is_alive() or self._down.is_alive()

    def close(self) -> None:
        for side in (self._client, self._broker):
            # Closing alone would not wake a thread that waits for it.
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def join(self) -> None:
        for thread in (self._up, self._down):
            if thread.is_alive():
                thread.join(JOIN_TIMEOUT_S)

    def _run_requests(self) -> None:
        try:
            self._connect()
            self._down.start()
            self._pump(self._client, self._on_request)
        except (OSError, HangUp):
            pass
        finally:
            self.close()

    def _run_responses(self) -> None:
        try:
            self._pump(self._broker, self._on_response)
        except (OSError, HangUp):
            pass
        finally:
            self.close()

    def _connect(self) -> None:
        self._broker.settimeout(CONNECT_TIMEOUT_S)
        try:
            self._broker.connect((HOST, self._port))
        except OSError:
            # The client is to see a reset, which is as near to a refusal as one can come here.
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise
        self._broker.settimeout(None)
        for side in (self._client, self._broker):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _pump(self, source: socket.socket, handle: Callable[[bytes], None]) -> None:
        """Handle one message after another; once muted, read and forget them."""
        muted = False
        while (frame := read_frame(source)) is not None:
            if not muted:
                try:
                    handle(frame)
                except Mute:
                    muted = True

    def _on_request(self, frame: bytes) -> None:
        request = Request.parse(self.node, frame)
        rule = self._proxy.judge(request)
        self._proxy.wait_passable(self.node)
        answer = rule.on_request(request)
        with self._lock:
            self._pending[request.correlation_id] = _Pending(request, rule, answer)
            if answer is not None:
                self._release()
        if answer is None:
            self._broker.sendall(SIZE.pack(len(frame)) + frame)

    def _on_response(self, frame: bytes) -> None:
        (correlation_id,) = CORRELATION_ID.unpack_from(frame)
        self._proxy.wait_passable(self.node)
        pending = self._pending[correlation_id]
        try:
            frame = pending.rule.on_response(pending.request, frame)
        except Mute:
            self._client_muted = True
            raise
        with self._lock:
            self._release(before=correlation_id)
            self._send_client(frame)
            del self._pending[correlation_id]
            self._release()

    def _release(self, before: int | None = None) -> None:
        """Send the answers of ours whose turn it is: a client wants them in order.

        Args:
            before: the broker has come as far as this request; what is older and has no answer
                is one that asked for none.
        """
        for correlation_id, pending in list(self._pending.items()):
            if correlation_id == before or (before is None and pending.answer is None):
                return
            del self._pending[correlation_id]
            if pending.answer is not None:
                self._send_client(pending.answer)

    def _send_client(self, frame: bytes) -> None:
        if not self._client_muted:
            self._client.sendall(SIZE.pack(len(frame)) + frame)
