"""Apache Kafka's jars, fetched once with Maven into a cache outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

KAFKA_VERSION = "4.1.1"
LOG4J_VERSION = "2.24.3"
FETCH_TIMEOUT_S = 900.0

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>io.streamgauge</groupId>
  <artifactId>test-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class KafkaUnavailableError(Exception):
    """This machine cannot run a broker; the message says in one line what it lacks."""


def kafka_home() -> Path:
    """Where the jars are kept: $STREAMGAUGE_KAFKA_HOME, or a folder of the user's cache."""
    chosen = os.environ.get("STREAMGAUGE_KAFKA_HOME")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "streamgauge" / f"kafka-{KAFKA_VERSION}"


def fetch_jars() -> Path:
    """The folder of the jars, fetched first when they are not there yet.

    Raises:
        KafkaUnavailableError: they have to be fetched and Maven is missing or fails.
    """
    home = kafka_home()
    libs = home / "libs"
    if libs.is_dir():
        return libs
    mvn = shutil.which("mvn")
    if mvn is None:
        raise KafkaUnavailableError(f"no Kafka in {home}, and no Maven (mvn) to fetch it")
    home.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: the jars take their name only when all of them are there.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=home) as folder:
        _copy_jars(mvn, Path(folder))
        try:
            (Path(folder) / "libs").rename(libs)
        except OSError:
            # Another process was quicker, and its jars are as good.
            if not libs.is_dir():
                raise
    return libs


def _copy_jars(mvn: str, folder: Path) -> None:
    (folder / "pom.xml").write_text(POM, encoding="utf-8")
    command = [mvn, "-B", "-q", "-C", "-f", str(folder / "pom.xml"), COPY]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder / 'libs'}"]
    try:
        done = subprocess.run(
            command + options,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise KafkaUnavailableError(f"Maven took over {FETCH_TIMEOUT_S:.0f} s for Kafka") from None
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        says = (errors or done.stdout.splitlines() or ["it says nothing"])[0]
        raise KafkaUnavailableError(f"Maven cannot fetch Kafka {KAFKA_VERSION}: {says.strip()}")
