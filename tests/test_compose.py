"""The compose file: nobody can start it here, so what it says is held against what is tested."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from streamgauge.consumers.cli.main import cli
from streamgauge.consumers.config import read_config
from streamgauge.stream.check import check_components

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if s.get("image", "").startswith("streamgauge")}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ONCE = {"topics", "demo"}


def parsed(arguments):
    """The context of the command that the arguments name, or click's error."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, list(arguments))
        context = click.Context(command, parent=context, info_name=name)
    command.parse_args(context, list(arguments))
    return context


def test_the_services_are_there():
    assert {"kafka", "mlflow", "postgres", "worker", "sink", "demo"} <= SERVICES.keys()


@pytest.mark.parametrize("name", [n for n, s in OURS.items() if "command" in s])
def test_every_command_is_one_of_ours(name):
    parsed(OURS[name]["command"])


def test_a_command_that_is_not_ours_is_found():
    for wrong in (["run", "--no-such-option"], ["work"]):
        with pytest.raises(click.UsageError):
            parsed(wrong)


@pytest.mark.parametrize("name", [n for n, s in OURS.items() if "-c" in s.get("command", ())])
def test_every_configuration_is_in_the_image_and_valid(name):
    command = OURS[name]["command"]
    path = Path(command[command.index("-c") + 1])
    assert "COPY configs /etc/streamgauge" in DOCKERFILE
    assert path.parent == Path("/etc/streamgauge")
    config = read_config(ROOT / "configs" / path.name)
    check_components(config)
    assert config.broker.bootstrap_servers == "kafka:9092"
    assert "kafka:9092" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert config.mlflow.tracking_uri == "http://mlflow:5000"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(path, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "x")
    check_components(read_config(path))


@pytest.mark.parametrize("name", SERVICES)
def test_services_restart_and_those_that_others_wait_for_tell_their_health(name):
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    for other in SERVICES.values():
        if other.get("depends_on", {}).get(name, {}).get("condition") == "service_healthy":
            assert "healthcheck" in service


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_the_file(name):
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|KEY$|SECRET|TOKEN|URI$", key):
            assert re.search(r"\$\{[A-Z_]+:\?", value), f"{key} of {name} is in the file"


def test_the_image_is_not_run_by_root_and_versions_are_fixed():
    assert re.search(r"^USER (?!root)\w+$", DOCKERFILE, re.MULTILINE)
    for image in [s["image"] for s in SERVICES.values()]:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image), f"{image} has no fixed version"


def test_the_image_starts_with_compiled_detectors():
    steps = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    folder = re.search(r"NUMBA_CACHE_DIR=(\S+)", steps)[1]
    # Under no volume, made for the user who fills it, and for processors other than the builder's.
    assert not any(v.split(":")[1] == folder for s in OURS.values() for v in s.get("volumes", ()))
    order = (
        f"--owner streamgauge {folder}",
        "USER ",
        "NUMBA_CPU_NAME=generic",
        "RUN streamgauge warmup",
    )
    places = [steps.index(step) for step in order]
    assert places == sorted(places)
    parsed(["warmup"])


def test_kafka_is_the_version_that_is_tested():
    from tests.support.kafka import jars  # noqa: PLC0415 - beside the one thing that is asked of it

    assert SERVICES["kafka"]["image"].removeprefix("apache/kafka:") in Path(
        jars.__file__
    ).read_text(encoding="utf-8")


def test_compose_itself_finds_nothing_wrong():
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is not installed")
    subprocess.run(
        [compose, "config", "-q"],
        cwd=ROOT,
        check=True,
        env={"STREAMGAUGE_STATE_KEY": "x", "POSTGRES_PASSWORD": "y", "PATH": "/usr/bin:/bin"},
    )
