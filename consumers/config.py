"""The application's configuration: the core's, and how to reach brokers and MLflow; from YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from streamgauge.stream.config import ConfigError, CoreConfig, DurationMs, Section, validate_config

_ADDRESSES = r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$"


def _addresses(value: str) -> str:
    if re.match(_ADDRESSES, value) is None:
        raise ValueError(f"write HOST:PORT[,HOST:PORT...], such as localhost:9092, got {value!r}")
    return value


class RetentionSettings(Section):
    """The time and size that records are kept for; unprocessed ones the embedded broker keeps.

    On Kafka it is what `topics create` sets, whether or not a record has been processed.
    """

    age: DurationMs = Field("7d", description="since the record was appended")  # type: ignore[assignment]
    size_mb: int = Field(1024, ge=1, description="for each topic, in megabytes")


class EmbeddedSettings(Section):
    """The broker in a folder: SQLite, no server, several processes on one machine."""

    kind: Literal["embedded"] = "embedded"
    data_dir: str = ".streamgauge"
    partitions: int = Field(1, ge=1, le=256)
    timeout: DurationMs = Field("10s", description="before a busy database is an error")  # type: ignore[assignment]
    retention: RetentionSettings = RetentionSettings()


class Secret(Section):
    """The place of a secret; the configuration never holds the secret itself."""

    env: str | None = Field(None, description="name of an environment variable")
    file: str | None = Field(
        None, description="path of a file; a line break at its end is left out"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env and file")
        return self


class KafkaSecurity(Section):
    """The way to speak to the brokers: encryption, and who we are."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: str | None = Field(None, description="PEM; the system's authorities when not given")
    ssl_certfile: str | None = Field(None, description="PEM; our certificate, for mutual TLS")
    ssl_keyfile: str | None = Field(None, description="PEM; its key")
    ssl_key_password: Secret | None = None
    ssl_check_hostname: bool = True
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    sasl_token: Secret | None = Field(
        None, description="for OAUTHBEARER; read anew for every connection"
    )

    @model_validator(mode="after")
    def _relations(self) -> KafkaSecurity:
        is_sasl = self.protocol.startswith("SASL")
        if is_sasl != (self.sasl_mechanism is not None):
            raise ValueError("sasl_mechanism goes with protocol SASL_PLAINTEXT or SASL_SSL")
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token is None:
                raise ValueError("sasl_mechanism OAUTHBEARER needs sasl_token")
        elif is_sasl and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(
                f"sasl_mechanism {self.sasl_mechanism} needs sasl_username and sasl_password"
            )
        if "SSL" not in self.protocol.split("_") and (self.ssl_cafile or self.ssl_certfile):
            raise ValueError("ssl_cafile and ssl_certfile go with protocol SSL or SASL_SSL")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        return self


class KafkaSettings(Section):
    """Apache Kafka, 3.6 or newer."""

    kind: Literal["kafka"]
    bootstrap_servers: Annotated[str, AfterValidator(_addresses)] = Field(
        json_schema_extra={"pattern": _ADDRESSES}, description="HOST:PORT[,HOST:PORT...]"
    )
    security: KafkaSecurity = KafkaSecurity()
    partitions: int = Field(6, ge=1, le=1024, description="of every topic, when they are made")
    replication: int | None = Field(
        None,
        ge=1,
        description="of every topic, when they are made; 3, or as many as there are brokers",
    )
    timeout: DurationMs = Field("10s", description="before brokers that do not answer are an error")  # type: ignore[assignment]
    session_timeout: DurationMs = Field(
        "10s",  # type: ignore[assignment]
        description="until the partitions of a worker that has gone silent go to another",
    )
    lost_input: Literal["stop", "skip"] = Field(
        "stop", description="where Kafka has deleted input that no worker had processed yet"
    )
    retention: RetentionSettings = RetentionSettings()
    data_dir: str = Field(
        ".streamgauge", description="local folder of `mlflow.db`, without a tracking_uri"
    )


def _with_kind(broker: Any) -> Any:
    return {"kind": "embedded", **broker} if isinstance(broker, dict) else broker


class MLflowSettings(Section):
    """The place that the MLflow sink writes to."""

    tracking_uri: str | None = Field(
        None, description="default: a database `mlflow.db` in the broker's folder"
    )
    experiment: str = "model-monitoring"


class WorkerSettings(Section):
    """The sizes that the worker cuts its work into."""

    batch_max: int = Field(10_000, ge=1, description="records of each input topic in one commit")


class Config(CoreConfig):
    """The whole configuration. An empty file is a valid one."""

    broker: Annotated[
        EmbeddedSettings | KafkaSettings, Field(discriminator="kind"), BeforeValidator(_with_kind)
    ] = EmbeddedSettings()
    mlflow: MLflowSettings = MLflowSettings()
    worker: WorkerSettings = WorkerSettings()


def load_config(data: Any) -> Config:
    """Return a checked configuration from parsed YAML or JSON; None and {} give the defaults.

    Raises:
        ConfigError: one line for each error, with the path of its field.
    """
    return validate_config(data, Config)


def read_config(
    path: Path | str | None = None,
    data_dir: Path | str | None = None,
    kafka: str | None = None,
) -> Config:
    """Return the configuration in a YAML file, or the defaults without one.

    Args:
        path: the file.
        data_dir: the broker's local folder, whatever the file says.
        kafka: `HOST:PORT[,...]` of Kafka, whatever broker the file says; where that is Kafka as
            well, its other settings hold.

    Raises:
        ConfigError: no such file, not YAML, or not a configuration.
    """
    data = None if path is None else _parse(Path(path))
    config = load_config(data if kafka is None else _on_kafka(data, kafka))
    if data_dir is not None:
        broker = config.broker.model_copy(update={"data_dir": str(data_dir)})
        config = config.model_copy(update={"broker": broker})
    return config


def _on_kafka(data: object, bootstrap_servers: str) -> object:
    """Return a parsed configuration with Kafka as its broker."""
    if not isinstance(data, dict | None):
        return data
    broker = (data or {}).get("broker")
    kept = broker if isinstance(broker, dict) and broker.get("kind") == "kafka" else {}
    chosen = {**kept, "kind": "kafka", "bootstrap_servers": bootstrap_servers}
    return {**(data or {}), "broker": chosen}


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
