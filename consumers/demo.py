"""`streamgauge demo`: a stream whose true changes are known, watched from end to end."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamgauge.consumers.child_process import SinkProcess
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import open_broker, state_key
from streamgauge.consumers.terminal.format import before_after, sparkline
from streamgauge.consumers.terminal.tables import plain_table
from streamgauge.consumers.traffic.demo_stream import MODEL, demo_stream
from streamgauge.consumers.worker import Observer, Worker
from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.contracts import AlarmEvent, MetricPoint, RetrainRequest
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.broker import Broker, Commit, Producer
    from streamgauge.consumers.config import Config
    from streamgauge.consumers.traffic.demo_stream import DemoStream, TrueChange

_MARKER = "demo.json"
_CHUNK = 400
_SHOWN_S = 12.0
_LINES = 8  # alarms and requests shown while it runs
# An alarm later than this after a change is not about it.
_LATE = 1000


class DemoError(StreamgaugeError, ValueError):
    """The demo cannot run here; the message says why."""


@dataclass
class Findings(Observer):
    """Alarms, requests and errors that the worker has published so far."""

    alarms: list[AlarmEvent] = field(default_factory=list)
    requests: list[RetrainRequest] = field(default_factory=list)
    lines: list[Text] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def on_commit(self, partition: int, commit: Commit) -> None:  # noqa: ARG002 - an observer
        """Take the outputs of a commit."""
        for output in commit.outputs:
            if output.role == "alarms":
                self.alarms.append(AlarmEvent.read(output.value))
                self.lines.append(_alarm_line(self.alarms[-1]))
            elif output.role == "retrain":
                self.requests.append(RetrainRequest.read(output.value))
                self.lines.append(_request_line(self.requests[-1]))
            elif output.role == "metrics":
                values = MetricPoint.read(output.value).values
                if "accuracy_window" in values:
                    self.errors.append(1 - values["accuracy_window"])


@dataclass(frozen=True)
class Judged:
    """One true change and what was found of it."""

    change: TrueChange
    alarms: list[AlarmEvent]
    n_requests: int


def judge(
    changes: Sequence[TrueChange], findings: Findings
) -> tuple[list[Judged], list[AlarmEvent], int]:
    """Hold what was found against what is true.

    Returns:
        Each true change with its alarms; the alarms that are about none (false alarms); and the
        number of retrain requests that are about no degradation.
    """
    judged = []
    false = list(findings.alarms)
    n_stray = len(findings.requests)
    for change in changes:
        kind = "drift" if change.kind == "degradation" else "improvement"
        alarms = [a for a in false if a.kind == kind and 0 <= a.index - change.outcome <= _LATE]
        false = [alarm for alarm in false if alarm not in alarms]
        n_requests = sum(
            0 <= r.window.outcome_to - 1 - change.outcome <= _LATE
            for r in findings.requests
            if change.kind == "degradation"
        )
        n_stray -= n_requests
        judged.append(Judged(change, alarms, n_requests))
    return judged, false, n_stray


def run_demo(directory: Path, *, seed: int, progress: bool) -> None:
    """Run the demo and print what it found.

    Args:
        directory: for all of its data; an earlier demo's is replaced.
        seed: decides the stream.
        progress: show it live, slowly enough to follow.

    Raises:
        DemoError: the folder holds something else.
    """
    from streamgauge.consumers.mlflow.history import charts_url, mlflow_ui_command

    console = Console()
    _prepare(directory)
    config = load_config({"broker": {"data_dir": str(directory)}})
    findings = Findings()
    started_s = time.monotonic()
    with open_broker(config) as broker:
        sink = SinkProcess(config)
        try:
            if progress:
                console.print("Training a model and making its traffic ...", style="dim")
            stream = demo_stream(seed, end_ms=int(time.time()) * 1000)
            _watch(stream, broker, config, findings, console if progress else None)
        finally:
            if progress:
                console.print("Writing the last metrics to MLflow ...", style="dim")
            sink.close()
    seconds = time.monotonic() - started_s
    console.print(_result(stream, findings, seconds))
    charts = f"{mlflow_ui_command(config)}\n  {charts_url(config, MODEL)}"
    _print_next_steps(console, directory, charts)


def _prepare(directory: Path) -> None:
    marker = directory / _MARKER
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        raise DemoError(f"{directory} holds something that no demo has made; give another --dir")
    if marker.exists():
        for path in sorted(directory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text("{}\n", encoding="utf-8")


def _watch(
    stream: DemoStream,
    broker: Broker,
    config: Config,
    findings: Findings,
    console: Console | None,
) -> None:
    """Send the traffic and watch it, a chunk at a time."""
    with broker.producer() as producer, broker.join_group(MONITOR_INPUTS) as assignment:
        make_engine = partial(Engine, config, state_key=state_key(config))
        worker = Worker(make_engine, assignment, observers=[findings])
        worker.start()
        if console is None:
            _send(stream, 0, len(stream.events), producer, config)
        else:
            _show(stream, producer, worker, config, findings, console)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)


def _show(
    stream: DemoStream,
    producer: Producer,
    worker: Worker[Engine],
    config: Config,
    findings: Findings,
    console: Console,
) -> None:
    n_chunks = -(-len(stream.events) // _CHUNK)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for chunk in range(n_chunks):
            _send(stream, chunk * _CHUNK, (chunk + 1) * _CHUNK, producer, config)
            worker.step(0.0, wall_clock_ms())
            live.update(_progress((chunk + 1) / n_chunks, findings), refresh=True)
            time.sleep(_SHOWN_S / n_chunks)


def _send(stream: DemoStream, start: int, stop: int, producer: Producer, config: Config) -> None:
    topics = {"prediction": config.topics.predictions, "label": config.topics.labels}
    for event in stream.events[start:stop]:
        producer.send(topics[event.kind], event.value, key=event.key)
    producer.flush()


def _progress(share: float, findings: Findings) -> Group:
    latest = findings.errors[-1] if findings.errors else 0.0
    bar = Table.grid()  # a bar by itself ends no line
    bar.add_row(ProgressBar(total=1.0, completed=share, width=60))
    lines: list[RenderableType] = [
        bar,
        Text.assemble(
            ("error, last 500 outcomes  ", "dim"),
            sparkline(findings.errors, 40),
            f"  {latest:.3f}",
        ),
    ]
    return Group(*lines, *findings.lines[-_LINES:])


def _request_line(request: RetrainRequest) -> Text:
    return Text(
        f"→ retrain request {request.sequence}: {request.severity},"
        f" {request.window.n_outcomes:,} outcomes to retrain on",
        style="bold",
    )


def _alarm_line(alarm: AlarmEvent) -> Text:
    style = "green" if alarm.kind == "improvement" else "red"
    return Text.assemble(
        (f"{alarm.kind} ", style),
        f"found by {alarm.detector} at outcome {alarm.index:,}:"
        f" error {before_after(alarm.mean_before, alarm.mean_after)}",
    )


def _result(stream: DemoStream, findings: Findings, seconds: float) -> Group:
    judged, false, n_stray = judge(stream.changes, findings)
    table = plain_table("true change", "outcome", "error", "found by", "retrains asked")
    for item in judged:
        change = item.change
        style = "red" if change.kind == "degradation" else "green"
        table.add_row(
            Text(change.kind, style=style),
            f"{change.outcome:,}",
            f"{change.error_before:.3f} → {change.error_after:.3f}",
            _found_by(item) or Text("not found", style="bold red"),
            str(item.n_requests),
        )
    counts = Text(
        f"{stream.n_predictions:,} predictions, {stream.n_labels:,} labels"
        f" ({stream.n_duplicates:,} sent twice, {stream.n_missing:,} never)\n"
        f"{len(false)} false alarms, {n_stray} needless retrain requests, {seconds:.0f} s"
    )
    return Group(Text(), table, Text(), counts)


def _found_by(item: Judged) -> str:
    first: dict[str, int] = {}
    for alarm in item.alarms:
        first.setdefault(alarm.detector, alarm.index - item.change.outcome)
    return "\n".join(f"{detector} after {delay:,}" for detector, delay in first.items())


def _print_next_steps(console: Console, directory: Path, charts: str) -> None:
    folder = shlex.quote(_short(directory.absolute()))
    steps = {}
    if shutil.which("streamgauge") is None:
        activate = Path(sys.prefix) / "bin" / "activate"
        steps["To have these commands at hand"] = f"source {shlex.quote(_short(activate))}"
    steps |= {
        f"MLflow's data is {directory / 'mlflow.db'}; start MLflow, then open its charts": charts,
        "See the alarms and the retrain requests": (
            f"streamgauge tail --data-dir {folder} --topic alarms --from-start --no-follow\n"
            f"  streamgauge tail --data-dir {folder} --topic retrain --from-start --no-follow"
        ),
        "List the metrics in MLflow": (
            f"streamgauge metrics list --data-dir {folder} --model {MODEL}"
        ),
        "Do it all again from the journal, and compare": (
            f"streamgauge verify --data-dir {folder}"
        ),
    }
    for about, command in steps.items():
        # Unwrapped: these lines are there to be copied.
        console.print(f"\n{about}:\n  [bold]{command}[/bold]", soft_wrap=True, highlight=False)


def _short(path: Path) -> str:
    """Return a path as a person in this folder would write it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
