"""From a configuration to a broker and a key."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config

log = logging.getLogger(__name__)

STATE_KEY_VARIABLE = "STREAMGAUGE_STATE_KEY"


def open_broker(config: Config) -> Broker:
    """Return the broker that the configuration names.

    Raises:
        BrokerError: it cannot be opened.
    """
    if config.broker.kind == "kafka":
        from streamgauge.consumers.kafka.broker import KafkaBroker

        return KafkaBroker(config)
    from streamgauge.consumers.embedded.broker import EmbeddedBroker

    return EmbeddedBroker(config)


def open_existing_broker(config: Config) -> Broker:
    """Return the broker, to read what it holds; a folder that does not exist is not made.

    Raises:
        BrokerError: there is nothing to read, or it cannot be opened.
    """
    from streamgauge.consumers.broker import BrokerError
    from streamgauge.consumers.embedded.database import DATABASE_NAME

    if config.broker.kind == "embedded":
        folder = Path(config.broker.data_dir)
        if not (folder / DATABASE_NAME).exists():
            raise BrokerError(
                f"there is nothing at {folder}: no {DATABASE_NAME}; `streamgauge run`, `replay`"
                " and `produce` make it, and --data-dir or -c says where"
            )
    return open_broker(config)


def warn_of_local_metrics(config: Config) -> None:
    """Say so where the sinks of several machines would each write to a file of their own."""
    if config.broker.kind == "kafka" and config.mlflow.tracking_uri is None:
        log.warning(
            "mlflow.tracking_uri is not set: what is logged from here goes to mlflow.db in %s, on "
            "this machine alone; where there are several, give all of them the same MLflow server",
            config.broker.data_dir,
        )


def state_key(config: Config) -> bytes | None:
    """Return the key that seals learners: of the environment, else of the embedded broker's folder.

    On Kafka there is no key but the one of the environment: every worker must have the same, and
    without it learners are not stored, and start afresh where a partition is taken over. A folder
    that can be written to needs no secret from elsewhere: who can change the state in it can
    change the program as well.
    """
    given = os.environ.get(STATE_KEY_VARIABLE)
    if given:
        return given.encode()
    if config.broker.kind == "kafka":
        return None
    path = Path(config.broker.data_dir) / "state.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made whole under another name first: two processes may start at once.
        draft = path.with_name(f"state.key.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
