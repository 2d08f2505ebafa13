"""From the command line's words to a configuration, a broker and a key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from stream.config import Config, ConfigError, load_config

if TYPE_CHECKING:
    from consumers.broker import Broker

STATE_KEY_VARIABLE = "STREAMGAUGE_STATE_KEY"


def read_config(path: Path | None = None, data_dir: Path | None = None) -> Config:
    """The configuration in a YAML file, or the defaults without one.

    Args:
        path: the file.
        data_dir: the embedded broker's folder, whatever the file says.

    Raises:
        ConfigError: no such file, not YAML, or not a configuration.
    """
    config = load_config(None if path is None else _parse(path))
    if data_dir is not None:
        broker = config.broker.model_copy(update={"data_dir": str(data_dir)})
        config = config.model_copy(update={"broker": broker})
    return config


def _parse(path: Path) -> object:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def open_broker(config: Config) -> Broker:
    """The broker that the configuration names.

    Raises:
        BrokerError: it cannot be opened.
    """
    from consumers.embedded import EmbeddedBroker

    return EmbeddedBroker(config)


def state_key(config: Config) -> bytes:
    """The key that seals learners: from the environment, else kept in the broker's folder.

    A folder that can be written to needs no secret from elsewhere: who can change the state in it
    can change the program as well.
    """
    given = os.environ.get(STATE_KEY_VARIABLE)
    if given:
        return given.encode()
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
