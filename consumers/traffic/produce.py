"""`streamgauge produce`: one record a line, bytes as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamgauge.stream.events import model_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase

    from streamgauge.consumers.broker import Producer

_READ_MAX = 1 << 20


def produce(source: BufferedIOBase, producer: Producer, topic: str) -> int:
    """Send each line as a record, keyed by its event's model where that can be read.

    A line that is no event is sent as well: what is wrong with it will be said in dead letters.
    Empty lines are left out. A pipe that is fed slowly is sent line by line.

    Returns:
        The number of records.
    """
    n = 0
    for lines in _lines(source):
        for line in lines:
            value = line.rstrip(b"\r\n")
            if value:
                model = model_of(value)
                producer.send(topic, value, key=None if model is None else model.encode())
                n += 1
        producer.flush()
    return n


def _lines(source: BufferedIOBase) -> Iterator[list[bytes]]:
    """Return the lines of the source, those that are at hand together; waits only for the first."""
    rest = b""
    while read := source.read1(_READ_MAX):
        *lines, rest = (rest + read).split(b"\n")
        yield lines
    yield [rest]
