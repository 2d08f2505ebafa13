"""A cluster that stays when the command that starts it ends: `make kafka` and `make kafka-stop`."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.kafka.cluster import POLL_S, Cluster, ClusterError
from tests.support.kafka.jars import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Run a command of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.kafka.cluster", description=__doc__
    )
    commands = {"start": start, "stop": stop, "serve": serve}
    parser.add_argument("command", choices=commands, help="serve is start in the foreground")
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    parser.add_argument("--dir", type=Path, default=ROOT / ".streamgauge" / "kafka")
    parser.add_argument("--port", type=int, default=9092, help="of the first broker")
    arguments = parser.parse_args()
    arguments.dir = arguments.dir.absolute()
    try:
        commands[arguments.command](arguments)
    except (ClusterError, KafkaUnavailableError) as error:
        sys.exit(f"error: {error}")


def start(arguments: argparse.Namespace) -> None:
    """Start a cluster unless it runs already, and print its address."""
    arguments.dir.mkdir(parents=True, exist_ok=True)
    if not _runs(arguments.dir):
        _address(arguments.dir).unlink(missing_ok=True)
        _start_service(arguments)
    served = json.loads(_address(arguments.dir).read_text())
    if served["n_brokers"] != arguments.brokers:
        raise ClusterError(f"a cluster of {served['n_brokers']} runs in {arguments.dir}: stop it")
    print(served["bootstrap"])


def stop(arguments: argparse.Namespace) -> None:
    """Stop the cluster, if it runs; what it has stored stays."""
    if not _runs(arguments.dir):
        print(f"No Kafka runs in {arguments.dir}.")
        return
    with _lock_file(arguments.dir) as file:
        os.kill(int(file.read()), signal.SIGTERM)
        # It gives this back when it has ended.
        fcntl.flock(file, fcntl.LOCK_EX)


def serve(arguments: argparse.Namespace) -> None:
    """Run a cluster until this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    arguments.dir.mkdir(parents=True, exist_ok=True)
    with _lock_file(arguments.dir) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate()
        print(os.getpid(), file=file, flush=True)
        with Cluster(arguments.dir, arguments.brokers, first_port=arguments.port) as cluster:
            served = {"bootstrap": cluster.bootstrap, "n_brokers": arguments.brokers}
            new = arguments.dir / "address.new"
            new.write_text(json.dumps(served))
            new.replace(_address(arguments.dir))
            while True:
                signal.pause()


def _start_service(arguments: argparse.Namespace) -> None:
    log = arguments.dir / "service.log"
    options = {"--brokers": arguments.brokers, "--dir": arguments.dir, "--port": arguments.port}
    words = [str(word) for option in options.items() for word in option]
    with log.open("w") as out:
        service = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kafka.cluster", "serve", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # The cluster has a time limit of its own.
    while not _address(arguments.dir).exists():
        if service.poll() is not None:
            raise ClusterError(log.read_text().strip().removeprefix("error: "))
        time.sleep(POLL_S)


def _address(folder: Path) -> Path:
    return folder / "address.json"


@contextmanager
def _lock_file(folder: Path) -> Iterator[TextIO]:
    """The file that the serving process has locked, with its id in it."""
    path = folder / "service.lock"
    path.touch()
    with path.open("r+") as file:
        yield file


def _runs(folder: Path) -> bool:
    if not folder.exists():
        return False
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
