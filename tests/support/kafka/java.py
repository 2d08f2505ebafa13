"""How Kafka's programs are run: which Java, and what it is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.kafka.jars import KafkaUnavailableError, fetch_jars

OLDEST_JAVA = 17
OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Java:
    """Makes the commands that run Kafka's programs.

    Args:
        logging: the log4j2 file that they log by.

    Raises:
        KafkaUnavailableError: this machine has no Java, or cannot fetch Kafka.
    """

    def __init__(self, logging: Path) -> None:
        self._java = find_java()
        self._libs = fetch_jars()
        self._logging = logging
        self._archive = self._libs.parent / "classes.jsa"
        self._new_archive = self._archive.with_suffix(f".{os.getpid()}")

    def command(self, main: str, *arguments: str, archive: bool = False) -> list[str]:
        """The command that runs a program.

        Args:
            main: its main class.
            arguments: its arguments.
            archive: whether it is to leave an archive of its classes, for `keep_archive`.
        """
        sharing = (
            f"-XX:ArchiveClassesAtExit={self._new_archive}"
            if archive
            else f"-XX:SharedArchiveFile={self._archive}"
        )
        log_by = f"-Dlog4j2.configurationFile={self._logging}"
        classpath = ("-cp", f"{self._libs}/*")
        return [
            self._java,
            *OPTIONS,
            sharing,
            "-Xlog:cds=off",
            log_by,
            *classpath,
            main,
            *arguments,
        ]

    def wants_archive(self) -> bool:
        """Whether there is no archive yet: with one, a broker starts at two thirds of the cost."""
        return not self._archive.exists()

    def keep_archive(self) -> None:
        """Use the archive that a program has left, if it could leave one."""
        if self._new_archive.exists():
            self._new_archive.rename(self._archive)


def find_java() -> str:
    """The command that runs Java.

    Raises:
        KafkaUnavailableError: there is none, or it is too old for Kafka.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise KafkaUnavailableError(f"no Java found: Kafka needs Java {OLDEST_JAVA} or newer")
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr)
    if not found or int(found[1]) < OLDEST_JAVA:
        says = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise KafkaUnavailableError(f"Kafka needs Java {OLDEST_JAVA} or newer; {java}: {says}")
    return java
