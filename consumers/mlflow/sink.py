"""The MLflow sink: metric points, alarms and retrain requests become runs in MLflow.

The topics are the spool: the sink's place in them is committed only after MLflow has taken the
records, so an MLflow outage delays a chart and loses nothing. What a crash makes the sink read
again is told by the places that each run carries in a tag. MLflow's stores write metrics before
tags, so a crash between the two sends the metrics once more, and the store keeps one of each.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.broker import BrokerTimeoutError
from streamgauge.consumers.mlflow.entries import Entry, RunKey, read_entry
from streamgauge.consumers.mlflow.runs import RunLog
from streamgauge.consumers.published import UnreadableRecordError

if TYPE_CHECKING:
    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config

RECORDS_MAX = 2000

log = logging.getLogger(__name__)


class MLflowSink:
    """Logs what the worker publishes to MLflow, each record once.

    Attributes:
        n_logged: records dealt with, those included that were logged before a crash.
        n_unreadable: records that are not what their topic holds; they are skipped.
    """

    def __init__(self, config: Config, broker: Broker) -> None:
        """Follow the topics of metrics, alarms and retrain requests.

        Raises:
            BrokerError: the topics cannot be read, or another sink is at work.
        """
        self.n_logged = 0
        self.n_unreadable = 0
        self._config = config
        self._runs = RunLog(config, broker)
        self._pending: dict[RunKey, list[Entry]] = {}
        self._n_uncommitted = 0
        self._reader = broker.reader(
            [config.topics.metrics, config.topics.alarms, config.topics.retrain],
            group=f"{config.app}-mlflow",
        )

    @property
    def n_refused(self) -> int:
        """Records and artifacts that could not be read, or that MLflow refused for good."""
        return self.n_unreadable + self._runs.n_refused

    def step(self, timeout_s: float) -> int:
        """Log the next records, commit the place after them, and return how many they were.

        Waits up to `timeout_s` for the first one. After an error the next call goes on with what
        is not logged yet.

        Raises:
            MLflowDownError: MLflow does not take them now.
            BrokerTimeoutError: the broker was busy.
        """
        if not self._n_uncommitted:
            self._poll(timeout_s)
        while self._pending:
            key = next(iter(self._pending))
            self._runs.write(key, self._pending[key])
            del self._pending[key]
        n, self._n_uncommitted = self._n_uncommitted, 0
        if n:
            self._commit(n)
        return n

    def n_waiting(self) -> int:
        """Count what is not logged; it reads the topics to their end, so it comes last."""
        n = self._n_uncommitted
        while records := self._reader.poll(0.0, RECORDS_MAX):
            n += len(records)
        return n

    def close(self) -> None:
        """End the runs and let another sink in; what is not committed is the next one's."""
        self._runs.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _poll(self, timeout_s: float) -> None:
        records = self._reader.poll(timeout_s, RECORDS_MAX)
        self._n_uncommitted = len(records)
        for record in records:
            try:
                entry = read_entry(record, self._config)
            except UnreadableRecordError as error:
                self.n_unreadable += 1
                log.error("skipped an unreadable record: %s", error)  # noqa: TRY400
            else:
                self._pending.setdefault(entry.run, []).append(entry)

    def _commit(self, n: int) -> None:
        try:
            self._reader.commit()
        except BrokerTimeoutError:
            self._n_uncommitted = n
            raise
        self.n_logged += n
