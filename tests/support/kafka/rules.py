"""Which requests of Kafka's protocol meet a fault on their way, and which fault."""

from __future__ import annotations

import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from kafka.protocol.api_header import ResponseClassRegistry
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.data_container import DataContainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HEADER = struct.Struct(">hhih")  # API, version, correlation id, length of the client id


class Api(IntEnum):
    """Requests by their number in the protocol, as far as tests speak of them."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32


@dataclass(frozen=True)
class Request:
    """A request on its way to a node."""

    node: int
    api: int
    version: int
    correlation_id: int
    client_id: str
    frame: bytes = field(repr=False)

    @classmethod
    def parse(cls, node: int, frame: bytes) -> Request:
        api, version, correlation_id, n_bytes = HEADER.unpack_from(frame)
        client_id = frame[HEADER.size : HEADER.size + max(n_bytes, 0)].decode()
        return cls(node, api, version, correlation_id, client_id, frame)

    def decode(self) -> Any:
        """The request in kafka-python's classes."""
        of_api = (c for c in ApiMessage.__subclasses__() if c.is_request())
        return next(c for c in of_api if self.api == c.API_KEY)[self.version].decode(
            self.frame, header=True
        )

    def response_class(self) -> Any:
        """kafka-python's class of the response in the request's version."""
        return ResponseClassRegistry._response_class_registry[self.api][self.version]


class Mute(Exception):
    """From here on nothing gets through in this direction of the connection.

    A connection cannot lose one message and deliver the next, so a loss lasts until it is closed.
    """


class HangUp(Exception):
    """The connection is closed here."""


class Action:
    """What becomes of one request and of its response; by itself, both get through."""

    def on_request(self, request: Request) -> bytes | None:
        """An answer in the broker's place, or None to pass the request on.

        Raises:
            Mute, HangUp: instead of either.
        """

    def on_response(self, request: Request, frame: bytes) -> bytes:
        """What the client gets.

        Raises:
            Mute, HangUp: instead.
        """
        return frame


class DropRequest(Action):
    """The broker never sees it, and the client waits."""

    def on_request(self, request):
        raise Mute


class DropResponse(Action):
    """The broker has acted, and the client waits."""

    def on_response(self, request, frame):
        raise Mute


class CloseBefore(Action):
    """The connection breaks before the broker sees the request."""

    def on_request(self, request):
        raise HangUp


class CloseAfter(Action):
    """The broker has acted, and the connection breaks before the client hears of it."""

    def on_response(self, request, frame):
        raise HangUp


@dataclass(frozen=True)
class DelayRequest(Action):
    """Late to the broker, and with it all that comes after it on the connection."""

    delay_s: float

    def on_request(self, request):
        time.sleep(self.delay_s)


@dataclass(frozen=True)
class DelayResponse(Action):
    """The broker acts at once; the client hears of it late."""

    delay_s: float

    def on_response(self, request, frame):
        time.sleep(self.delay_s)
        return frame


@dataclass(frozen=True)
class Call(Action):
    """A function runs before the request goes on, and may hurt whom it likes meanwhile."""

    function: Callable[[Request], None]

    def on_request(self, request):
        self.function(request)


@dataclass(frozen=True)
class CallAfter(Action):
    """A function runs when the broker has acted, before the client hears of it."""

    function: Callable[[Request], None]

    def on_response(self, request, frame):
        self.function(request)
        return frame


@dataclass(frozen=True)
class ChangeResponse(Action):
    """The broker has acted, and the client is told something else.

    The function changes the decoded response in place.
    """

    function: Callable[[Any], None]

    def on_response(self, request, frame):
        response = request.response_class().decode(frame, header=True)
        self.function(response)
        return bytes(response.encode(header=True))


@dataclass(frozen=True)
class Answer(Action):
    """The broker never sees it, and the client gets what the function makes of the request."""

    function: Callable[[Request], Any]

    def on_request(self, request):
        response = self.function(request)
        response.with_header(correlation_id=request.correlation_id)
        return bytes(response.encode(header=True))


def fail(code: int, partition: int | None = None) -> ChangeResponse:
    """The broker has acted, and the client is told of an error, for one partition or all of it."""

    def change(response: Any) -> None:
        for part in _parts(response):
            place = getattr(part, "index", getattr(part, "partition_index", None))
            if partition in (None, place):
                for name in part.fields:
                    if name in ("error_code", "partition_error_code"):
                        setattr(part, name, code)

    return ChangeResponse(change)


def _parts(part: Any) -> Iterator[Any]:
    """A decoded message and all that is in it."""
    yield part
    for name in part.fields:
        value = getattr(part, name)
        for inner in value if isinstance(value, list) else ():
            if isinstance(inner, DataContainer):
                yield from _parts(inner)


def refuse(code: int) -> Answer:
    """The broker never sees it, and the client is told of an error.

    For Produce, FindCoordinator, AddPartitionsToTxn, and what has one error for all of it.
    """
    return Answer(lambda request: _refusal(request, code))


def _refusal(request: Request, code: int) -> Any:
    response = request.response_class()
    if request.api == Api.PRODUCE:
        topics = request.decode().topic_data
        return response(responses=[_refused_produce(response, t, code) for t in topics])
    if request.api == Api.FIND_COORDINATOR and request.version >= 4:
        row = {"node_id": -1, "host": "", "port": -1, "error_code": code}
        keys = request.decode().coordinator_keys
        return response(coordinators=[response.Coordinator(key=key, **row) for key in keys])
    if request.api == Api.ADD_PARTITIONS_TO_TXN and request.version <= 3:
        topics = request.decode().v3_and_below_topics
        results = [_refused_partitions(response, topic, code) for topic in topics]
        return response(results_by_topic_v3_and_below=results)
    return response(error_code=code)


def _refused_produce(response: Any, topic: Any, code: int) -> Any:
    of_topic = response.TopicProduceResponse
    of_partition = of_topic.PartitionProduceResponse
    return of_topic(
        name=topic.name,
        topic_id=topic.topic_id,
        partition_responses=[
            of_partition(index=data.index, error_code=code, base_offset=-1)
            for data in topic.partition_data
        ],
    )


def _refused_partitions(response: Any, topic: Any, code: int) -> Any:
    of_topic = response.AddPartitionsToTxnTopicResult
    of_partition = of_topic.AddPartitionsToTxnPartitionResult
    return of_topic(
        name=topic.name,
        results_by_partition=[
            of_partition(partition_index=partition, partition_error_code=code)
            for partition in topic.partitions
        ],
    )


class Rule:
    """When an action happens.

    Args:
        action: what happens.
        api: to which requests; to all when None.
        client: what their client id begins with.
        node: on their way to which node; to all when None.
        nth: at which of those that match it begins, counted from 1.
        times: to how many of them it happens from there on; without end when None.
        when: what must be true of a request besides.

    Attributes:
        n_matched: the requests that have matched so far.
        happened: set once it has: a request is lost or delayed, say, or a response has come from
            the broker and is changed.
    """

    def __init__(
        self,
        action: Action,
        api: Api | None = None,
        *,
        client: str = "",
        node: int | None = None,
        nth: int = 1,
        times: int | None = 1,
        when: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        self.action = action
        self.n_matched = 0
        self.happened = threading.Event()
        self._api = api
        self._client = client
        self._node = node
        self._when = when
        self._nths = range(nth, sys.maxsize if times is None else nth + times)

    def takes(self, request: Request) -> bool:
        """Whether the action is to happen to this request, which is counted when it matches."""
        matches = (
            self._api in (None, request.api)
            and self._node in (None, request.node)
            and request.client_id.startswith(self._client)
            and self._when(request)
        )
        self.n_matched += matches
        return matches and self.n_matched in self._nths

    def on_request(self, request: Request) -> bytes | None:
        """The action's part on the way to the broker."""
        try:
            return self.action.on_request(request)
        finally:
            if type(self.action).on_request is not Action.on_request:
                self.happened.set()

    def on_response(self, request: Request, frame: bytes) -> bytes:
        """The action's part on the way back."""
        try:
            return self.action.on_response(request, frame)
        finally:
            if type(self.action).on_response is not Action.on_response:
                self.happened.set()
