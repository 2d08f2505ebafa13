"""The processor contract: pure code that the runtime feeds one partition's input topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamgauge.stream.records import Output, Record, TopicRole


class Processor(Protocol):
    """The code that turns the input of one partition into outputs, and its state.

    What it does depends on its configuration, on the records and on the deadlines that it is told
    of, in their order, and on nothing else: a replay of the journal's ranges gives the same outputs
    and digests. The runtime (`consumers/worker.py`) takes over,
    restores, polls and commits; after any error it drops the processor and restores another one.

    Attributes:
        inputs: the roles of its input topics; a record's input is the place of its topic here.
        digest: of everything it has done, chained from one `drain_chunks` to the next.
        config_digest: of all of its configuration that decides what it does.
    """

    inputs: tuple[TopicRole, ...]
    digest: str
    config_digest: str

    def process(self, batch: Sequence[Sequence[Record]]) -> list[Output]:
        """Take one batch and return what to write, in order.

        Args:
            batch: for each input its next records, in offset order; together they are the next
                ones of the merged order (see `stream/align.py`). Nothing is raised for any record
                whatsoever: one that cannot be used becomes a dead letter.
        """
        ...

    def next_deadline_ms(self) -> int | None:
        """Return the event time at which something falls due without input, None for never."""
        ...

    def on_deadline(self, deadline_ms: int) -> list[Output]:
        """Do what falls due at a deadline and return what to write, in order.

        It is called when the clock has passed `next_deadline_ms()` and no input is left unread;
        where input goes on coming it may never be called. So `process` does first what fell due
        before each record, by the record's time. Afterwards the next deadline is a later one.
        """
        ...

    def drain_chunks(self) -> dict[str, bytes | None]:
        """Return the state chunks that changed since the last call, and move `digest` on.

        None means that a chunk is gone.
        """
        ...

    def restore(self, chunks: Mapping[str, bytes], digest: str) -> list[str]:
        """Become the processor that wrote these chunks, all that are not gone.

        Returns:
            A sentence for each thing that could not be restored and starts afresh.

        Raises:
            SnapshotError: a chunk cannot be read, or is missing.
        """
        ...
