"""One broker for all processes of a test run, started by the first that asks for it.

The broker is run by a process of its own, which ends when the last process of the run has: by then
nobody has the run's pipe open any more, be it after Ctrl-C, a crash or kill -9.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.kafka.addresses import Addresses
from tests.support.kafka.cluster import POLL_S, Cluster, ClusterError
from tests.support.kafka.jars import KafkaUnavailableError
from tests.support.kafka.security import Security
from tests.support.kafka.settings import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Protocol

    class Startable(Protocol):
        def start(self) -> object: ...


ROOT = Path(__file__).resolve().parents[3]
# Most tests make a group of their own, and each would wait for Kafka's default of 3 s. Those of
# the group itself (D10) and the fault harness keep the default.
SETTINGS = {"group.initial.rebalance.delay.ms": "0"}


class SharedBroker(Addresses):
    """One broker with listeners for SASL and TLS, and a proxy's place for each process.

    Args:
        folder: the run's; all its processes have it in common.
        n_processes: how many processes there are.
    """

    def __init__(self, folder: Path, n_processes: int) -> None:
        cluster = folder / "kafka-1"
        super().__init__(cluster, 1, Security(cluster / "security"))
        self._shared = folder
        self._n_processes = n_processes
        self._service: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._place: IO[str] | None = None

    def __enter__(self) -> Self:
        """Hold the pipe from the beginning, so that the broker outlives whoever starts it."""
        pipe = self._shared / "kafka-users"
        with _locked(self._shared):
            if not pipe.exists():
                os.mkfifo(pipe)
            self._pipe = os.open(pipe, os.O_RDWR)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        if self._place is not None:
            self._place.close()
        if self._service is not None:
            # When the others have ended too.
            self._service.wait()

    def start(self) -> None:
        """Start it, unless another process has.

        Raises:
            KafkaUnavailableError: this machine cannot run a broker.
            ClusterError: it does not come up.
        """
        started = self._shared / "kafka.json"
        with _locked(self._shared):
            if not started.exists():
                self._start_service(started)
        told = json.loads(started.read_text())
        if "lacking" in told:
            raise KafkaUnavailableError(told["lacking"])
        if "wrong" in told:
            raise ClusterError(told["wrong"])
        ports, number = told["ports"], self._take_place()
        ours = dict(zip(proxied(0), map(ports.get, proxied(number)), strict=True))
        self.ports = {1: {**ports, **ours}}

    def _start_service(self, started: Path) -> None:
        words = [str(self._shared), str(self._n_processes)]
        log = self._shared / "kafka-service.log"
        with log.open("w") as out:
            self._service = subprocess.Popen(
                [sys.executable, "-m", "tests.support.kafka.shared", *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests, which may want the broker to come to their end.
                start_new_session=True,
            )
        # The cluster has a time limit of its own.
        while not started.exists():
            if self._service.poll() is not None:
                raise ClusterError(log.read_text())
            time.sleep(POLL_S)

    def _take_place(self) -> int:
        """The number of a proxy's place that no other process has."""
        for number in range(self._n_processes):
            place = (self._shared / f"kafka-place-{number}").open("w")
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                place.close()
                continue
            self._place = place
            return number
        raise ClusterError(f"more than {self._n_processes} processes share a broker")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "kafka.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_or_skip(cluster: Startable) -> None:
    """Start a cluster; where this machine cannot, the tests that want it are skipped.

    With CI=true they fail: a skip there would hide that nobody has tried Kafka.
    """
    try:
        cluster.start()
    except KafkaUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and {error}", pytrace=False)
        pytest.skip(f"{error}; or set STREAMGAUGE_KAFKA=HOST:PORT")


def _serve(folder: Path, n_processes: int) -> None:
    """Run the broker until every process of the test run has ended."""
    cluster = Cluster(folder / "kafka-1", secured=True, n_proxies=n_processes, settings=SETTINGS)
    with (folder / "kafka-users").open("rb") as users:
        try:
            cluster.start()
        except KafkaUnavailableError as error:
            _tell(folder, {"lacking": str(error)})
            return
        except ClusterError as error:
            _tell(folder, {"wrong": str(error)})
            return
        try:
            _tell(folder, {"ports": cluster.ports[1]})
            users.read()
        finally:
            cluster.stop()


def _tell(folder: Path, told: dict[str, object]) -> None:
    new = folder / "kafka.json.new"
    new.write_text(json.dumps(told))
    new.replace(folder / "kafka.json")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
