"""Whether the harness would notice: runs with one safeguard off, and a fault that it is for.

Each has to end with something lost, repeated or diverging. With the safeguard on, the same fault
is one of those that `tests.faults.run` survives.
"""

from __future__ import annotations

import signal
import time
import uuid
from typing import TYPE_CHECKING

from tests.faults.kinds import REACH_TIMEOUT_S, UNKNOWN_PRODUCER
from tests.faults.points import arm
from tests.faults.stage import HarnessError, Stage, say, wait_for
from tests.support.kafka.rules import Api, Rule, refuse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.oracle import Verdict
    from tests.faults.points import Event
    from tests.support.kafka.cluster import Cluster
    from tests.support.kafka.proxy import FaultProxy
    from tests.support.kafka.rules import Request


def without_resolving(stage: Stage) -> None:
    """A broker refuses records while the commit is pending; the client says it is committed."""
    topic = stage.config.topics.retrain

    def has_requests(request: Request) -> bool:
        return topic in {data.name for data in request.decode().topic_data}

    for partition in (0, 1):
        client = f"{stage.app}-worker-{partition}-"
        action = refuse(UNKNOWN_PRODUCER)
        rule = Rule(action, Api.PRODUCE, client=client, when=has_requests)
        stage.proxy.add(rule)
        if not rule.happened.wait(REACH_TIMEOUT_S):
            raise HarnessError(f"not within {REACH_TIMEOUT_S:.0f} s: {rule}")
        _wait_for_consequences(stage, partition, time.time() + 1)


def without_fencing(stage: Stage) -> None:
    """A worker is suspended with a batch in hand, and goes on when others have done it."""
    stopped = _stop_at(stage, "before_begin")
    _wait_taken_over(stage, stopped)
    stage.workers.resume(stopped.pid)
    _wait_for_consequences(stage, stopped.partition, time.time() + 2)


def without_restoring_after_init(stage: Stage) -> None:
    """The last owner commits once more between the new one's restore and its fencing."""
    owner = _stop_at(stage, "before_begin")
    successor = _stop_at(stage, "between_restore_and_init", partition=owner.partition)
    # Not awake for longer: the group would give the partition back before it is committed.
    since = time.time()
    arm(stage.folder, "after_commit", signal.SIGSTOP, partition=owner.partition)
    stage.workers.resume(owner.pid)
    wait_for("a last commit", lambda: stage.events.fault_after(since), REACH_TIMEOUT_S)
    since = time.time()
    stage.workers.resume(successor.pid)
    _wait_for_consequences(stage, owner.partition, since, not_by=owner.pid)
    stage.workers.resume(owner.pid)


ATTEMPTS_MAX = 3
COMPLAINT_TIMEOUT_S = 5.0
CONTROLS = {
    "resolve": without_resolving,
    "fencing": without_fencing,
    "restore": without_restoring_after_init,
}


def _stop_at(stage: Stage, point: str, partition: int | None = None) -> Event:
    since = time.time()
    arm(stage.folder, point, signal.SIGSTOP, partition=partition)
    return wait_for(point, lambda: stage.events.fault_after(since), REACH_TIMEOUT_S)


def _wait_taken_over(stage: Stage, stopped: Event) -> None:
    stage.wait_committed({stopped.partition}, stopped.time, 60, not_by=stopped.pid)


def _wait_for_consequences(stage: Stage, partition: int, since: float, *, not_by: int = 0) -> None:
    """Wait for a commit, or for a complaint: what is broken by then may never be committed to."""

    def has_any() -> bool:
        committed = stage.events.next_commits(since, not_by=not_by)
        return bool(stage.watcher.problems) or partition in committed

    wait_for(f"a commit of {partition} or a complaint", has_any, 60)


def run_control(cluster: Cluster, proxy: FaultProxy, folder: Path, name: str, seed: int) -> Verdict:
    """What becomes of a run without a safeguard."""
    app = f"control-{name}-{uuid.uuid4().hex[:8]}"
    with Stage(cluster, proxy, folder, app, seed, workers=("w1", "w2"), off=(name,)) as stage:
        is_done, last = False, None
        for _ in range(ATTEMPTS_MAX):
            try:
                CONTROLS[name](stage)
                is_done = True
                wait_for("a complaint", lambda: stage.watcher.problems, COMPLAINT_TIMEOUT_S)
                break
            except HarnessError as error:
                last = error
                say(f"   not yet noticed: {error}")
        if not is_done:
            raise HarnessError(f"{name}: no attempt came to its end: {last}") from last
        return stage.finish(is_patient=False)


def is_noticed(verdict: Verdict) -> bool:
    """Whether the harness has found the damage, and not only that the run came to no end."""
    return verdict.lost.total() + verdict.repeated.total() > 0


def describe(name: str, verdict: Verdict) -> str:
    """One line on what the harness has found."""
    found = (
        f"lost {verdict.lost.total()}, repeated {verdict.repeated.total()}, "
        f"problems {len(verdict.problems)}"
    )
    if not is_noticed(verdict):
        return f"control {name!r} off: NOT NOTICED ({found}): {verdict.problems[:1]}"
    return f"control {name!r} off: failed as it must ({found}), first: {verdict.problems[0]}"


def run_controls(cluster: Cluster, proxy: FaultProxy, folder: Path, seed: int) -> int:
    """All of them; 1 if one was not noticed."""
    lines = []
    n_missed = 0
    for name in CONTROLS:
        say(f"without {name}, seed {seed}")
        try:
            verdict = run_control(cluster, proxy, folder / name, name, seed)
        except HarnessError as error:
            lines.append(f"control {name!r} off: could not be tried: {error}")
            n_missed += 1
        else:
            lines.append(describe(name, verdict))
            n_missed += not is_noticed(verdict)
        say(lines[-1])
    print("\n".join(lines))
    return 1 if n_missed else 0
