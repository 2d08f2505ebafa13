"""The way from topics to tail over every way of saying who we are, and no secret anywhere in it."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from tests.support.kafka.apps import app_settings
from tests.support.kafka.security import Authority

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

ROOT = Path(__file__).resolve().parents[3]
KEY_PASSWORD = "secret-of-the-key"
VARIABLE = "TESTS_KAFKA_SECRET"


@pytest.fixture
def streamgauge(streamgauge):
    """As everywhere, and sockets that the client has left are collected while that is no error."""
    yield streamgauge
    gc.collect()


class Way:
    """A way of saying who we are.

    Args:
        name: for messages.
        listener: where the brokers ask for it.
        security: the section `broker.security` without the secret.
        field: the name of the secret in it.
        secret: its value.
    """

    def __init__(self, name, listener, security, field, secret):
        self.name = name
        self.listener = listener
        self.security = {"protocol": listener, **security}
        self.field = field
        self.secret = secret

    def __str__(self):
        return self.name


def token(user, valid_s):
    """A bearer token that nobody has signed; brokers of tests believe it."""
    now_s = time.time()
    claims = {"sub": user, "iat": now_s - 10, "exp": now_s + valid_s}
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, claims)
    )
    return ".".join(part.decode().rstrip("=") for part in parts) + "."


def locked(key_path):
    """A copy of a private key that can only be used with a password."""
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(KEY_PASSWORD.encode())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    path = key_path.with_name("client-locked.key")
    path.write_bytes(pem)
    return str(path)


def ways(security):
    certificate, key = security.client
    tls = {"ssl_cafile": str(security.ca)}
    user = {"sasl_username": security.user}
    oauth = {"sasl_mechanism": "OAUTHBEARER"}
    mutual = {**tls, "ssl_certfile": str(certificate), "ssl_keyfile": locked(key)}
    scram = {"sasl_mechanism": "SCRAM-SHA-512", **user}
    plain = {"sasl_mechanism": "PLAIN", **user}
    bearer = token(security.user, 3600)
    return {
        way.name: way
        for way in (
            Way("mTLS", "SSL", mutual, "ssl_key_password", KEY_PASSWORD),
            Way("PLAIN", "SASL_PLAINTEXT", plain, "sasl_password", security.password),
            Way("SCRAM", "SASL_PLAINTEXT", scram, "sasl_password", security.password),
            Way("OAUTHBEARER", "SASL_PLAINTEXT", oauth, "sasl_token", bearer),
            Way("PLAIN over TLS", "SASL_SSL", {**tls, **plain}, "sasl_password", security.password),
            Way("SCRAM over TLS", "SASL_SSL", {**tls, **scram}, "sasl_password", security.password),
            Way("OAUTHBEARER over TLS", "SASL_SSL", {**tls, **oauth}, "sasl_token", bearer),
        )
    }


@pytest.fixture(
    params=[
        "mTLS",
        "PLAIN",
        "SCRAM",
        "OAUTHBEARER",
        "PLAIN over TLS",
        "SCRAM over TLS",
        "OAUTHBEARER over TLS",
    ]
)
def way(request, kafka_secured):
    return ways(kafka_secured.security)[request.param]


@pytest.fixture
def configure(kafka_secured, kafka_prefix, tmp_path, monkeypatch):
    """Writes a configuration with the secret in the environment or a file; its path."""

    def write(way, where="env", *, secret=None, timeout="20s", **security):
        secret = way.secret if secret is None else secret
        if where == "env":
            monkeypatch.setenv(VARIABLE, secret)
            kept = {"env": VARIABLE}
        else:
            path = tmp_path / "secret"
            path.write_text(secret + "\n")
            kept = {"file": str(path)}
        settings = app_settings(
            kafka_secured.addresses(way.listener),
            kafka_prefix,
            partitions=1,
            timeout=timeout,
            security={**way.security, way.field: kept, **security},
        )
        settings["defaults"] = {"metrics": {"every": 10}}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


def outcomes(n):
    """Labels that carry their predictions, a line each."""
    return "".join(
        json.dumps(
            {
                "prediction_id": f"{i}",
                "model": "m",
                "version": "1",
                "label": i % 2,
                "prediction": 0,
                "timestamp": 1_767_225_600_000 + i,
            }
        )
        + "\n"
        for i in range(n)
    )


def test_a_secret_from_a_file(streamgauge, configure, way, caplog):
    caplog.set_level(logging.DEBUG)
    config = configure(way, "file")
    said = [
        streamgauge(*command, "-c", config)
        for command in (("topics", "create"), ("config", "show"))
    ]
    assert [ended.err for ended in said if ended.status] == []
    assert said[0].out.startswith("made ")
    for text in (*(ended.out + ended.err for ended in said), caplog.text):
        assert way.secret not in text


def test_from_topics_to_tail(streamgauge, configure, way, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = configure(way)
    labels = tmp_path / "labels.jsonl"
    labels.write_text(outcomes(30))
    said = [
        streamgauge(*arguments, "-c", config)
        for arguments in (
            ("topics", "create"),
            ("topics", "check"),
            ("produce", "--topic", "labels", labels),
            ("run", "--until-idle", "--no-sink"),
            ("tail", "--topic", "metrics", "--json", "--from-start", "--no-follow"),
            ("config", "show"),
        )
    ]
    assert [ended.err for ended in said if ended.status] == []
    made, checked, sent, worked, told, _ = said
    assert made.out.startswith("made ")
    assert checked.out == "every topic is right, with 1 partitions\n"
    assert sent.out.startswith("30 records to ")
    assert "30 outcomes, 0 dead letters" in worked.err
    points = [json.loads(line) for line in told.out.splitlines()]
    assert max(point["step"] for point in points) == 30
    assert "partition 0: at commit 0" in caplog.text
    for text in (*(ended.out + ended.err for ended in said), caplog.text):
        assert way.secret not in text
    # The client itself would tell it.
    assert "kafka" not in {record.name.partition(".")[0] for record in caplog.records}


def refused(ended, *words):
    """Check that a command was refused in one clear line; the line."""
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    return line


def test_a_secret_that_is_wrong(streamgauge, configure, way, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = token("streamgauge", -3600) if way.field == "sasl_token" else "wrong-secret"
    ended = streamgauge("topics", "check", "-c", configure(way, secret=wrong, timeout="2s"))
    line = refused(ended)
    if way.field == "ssl_key_password":
        assert ended.status == 2
        assert "ssl_key_password is not its password" in line
    else:
        assert ended.status == 1
        assert "does not accept our credentials" in line
        assert "see broker.security" in line
    assert wrong not in ended.err + caplog.text


@pytest.mark.parametrize("field", ["ssl_cafile", "ssl_certfile", "ssl_keyfile"])
@pytest.mark.parametrize("content", [None, b"no certificate", b"\xff"])
def test_a_certificate_that_is_none(
    streamgauge, configure, kafka_secured, tmp_path, field, content
):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    way = ways(kafka_secured.security)["mTLS"]
    ended = streamgauge("topics", "check", "-c", configure(way, **{field: str(path)}))
    assert ended.status == 2
    line = refused(ended, str(path))
    if content == b"no certificate":
        assert "in PEM" in line
    else:
        assert line.startswith(f"error: broker.security.{field}: {path}: cannot be read: ")


@pytest.mark.parametrize("name", ["mTLS", "PLAIN over TLS"])
def test_a_broker_of_another_authority(streamgauge, configure, kafka_secured, tmp_path, name):
    path = tmp_path / "other.pem"
    path.write_bytes(Authority().certificate)
    way = ways(kafka_secured.security)[name]
    config = configure(way, timeout="2s", ssl_cafile=str(path))
    ended = streamgauge("topics", "check", "-c", config)
    assert ended.status == 1
    refused(ended, "certificate verify failed", "broker.security")
    assert way.secret not in ended.err


def test_a_client_without_a_certificate(streamgauge, configure, kafka_secured):
    way = ways(kafka_secured.security)["mTLS"]
    config = configure(way, timeout="2s", ssl_certfile=None, ssl_keyfile=None)
    ended = streamgauge("topics", "check", "-c", config)
    assert ended.status == 1
    refused(ended, "broker.security")


@pytest.mark.parametrize("mistake", ["wrong", "missing", "no broker"])
def test_a_traceback_holds_no_secret(configure, kafka_secured, tmp_path, mistake):
    way = ways(kafka_secured.security)["PLAIN"]
    secret = "wrong-secret" if mistake == "wrong" else way.secret
    config = configure(way, "file", secret=secret, timeout="1s")
    options = []
    if mistake == "missing":
        (tmp_path / "secret").rename(tmp_path / "other")
    if mistake == "no broker":
        options = ["--kafka", "127.0.0.1:1"]
    ended = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-P",
            "-m",
            "streamgauge.consumers.cli",
            "topics",
            "check",
            "-c",
            config,
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, "STREAMGAUGE_TRACEBACK": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback (most recent call last):" in ended.stderr
    assert secret not in ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["topics check", "run", "tail", "produce --topic labels"])
def test_a_secret_that_is_not_there(streamgauge, configure, way, command, monkeypatch, tmp_path):
    config = configure(way)
    monkeypatch.delenv(VARIABLE)
    ended = streamgauge(*command.split(), "-c", config)
    assert ended.status == 2
    refused(ended, f"broker.security.{way.field}.env: the environment variable {VARIABLE}")
    config = configure(way, "file")
    (tmp_path / "secret").unlink()
    ended = streamgauge(*command.split(), "-c", config)
    assert ended.status == 2
    refused(ended, f"broker.security.{way.field}.file", "secret: cannot be read: No such file")
