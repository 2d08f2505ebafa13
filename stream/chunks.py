"""The chunks that a model is stored in: what a commit changes, and the names of all there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamgauge.stream.snapshot import (
    JoinLog,
    chunk_name,
    encode_changes,
    incomplete,
    pack,
    split_name,
    unpack,
)
from streamgauge.stream.versions import VersionsState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.stream.join import ModelJoin

# By name; None means that one is gone.
Chunks = dict[str, bytes | None]


@dataclass(slots=True)
class ChunkChanges:
    """The chunks that a commit changes, and what a digest of the state covers of them.

    Attributes:
        plain: chunks that are the same bytes for the same state; covered.
        others: learners' pickles and the joins' logs, whose bytes also tell how they came about.
        join_changes: what has changed in the joins, encoded, however it is laid out; covered.
    """

    plain: Chunks = field(default_factory=dict)
    others: Chunks = field(default_factory=dict)
    join_changes: list[bytes] = field(default_factory=list)

    def extend(self, later: ChunkChanges) -> None:
        """Take in what has changed after these."""
        self.plain.update(later.plain)
        self.others.update(later.others)
        self.join_changes += later.join_changes

    def chunks(self) -> Chunks:
        """Return all the chunks."""
        return {**self.plain, **self.others}


@dataclass(slots=True)
class StoredModel:
    """The state that the chunks of a model hold besides its join.

    Attributes:
        header: of its versions.
        monitors: plain state by version.
        learners: sealed state by version.
    """

    header: VersionsState
    monitors: dict[str, Any]
    learners: dict[str, bytes]


class ModelChunks:
    """The stored chunks of one model, which are deleted by their names when it is forgotten.

    Args:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._join_log = JoinLog(model)
        self._plain: set[str] = set()
        self._learners: set[str] = set()

    def _name(self, kind: str, *version: str) -> str:
        return chunk_name(kind, self._model, *version)

    def write(
        self,
        join: ModelJoin,
        header: VersionsState | None,
        monitors: Mapping[str, Any],
        learners: Mapping[str, bytes | None],
    ) -> ChunkChanges:
        """Return what to write for what has changed since the last call.

        Args:
            join: whose changes are drained.
            header: state of the versions, None where it is as it was.
            monitors: plain state by version, None for one that is gone.
            learners: sealed state by version, None for one that is not to be kept.
        """
        groups = encode_changes(join.drain_changes())
        plain: Chunks = {
            self._name("monitor", version): None if state is None else pack(state)
            for version, state in monitors.items()
        }
        if header is not None:
            plain[self._name("model")] = pack(header)
        sealed = {self._name("learner", version): chunk for version, chunk in learners.items()}
        sealed = {
            n: chunk for n, chunk in sealed.items() if chunk is not None or n in self._learners
        }
        _note(self._plain, plain)
        _note(self._learners, sealed)
        return ChunkChanges(plain, {**self._join_log.write(groups, join), **sealed}, groups)

    def deletions(self) -> ChunkChanges:
        """Return what to write when the model is forgotten."""
        names = [*self._learners, *self._join_log.names()]
        return ChunkChanges(dict.fromkeys(self._plain), dict.fromkeys(names))

    def read(self, chunks: Mapping[str, bytes], join: ModelJoin) -> StoredModel:
        """Take note of a model's chunks, restore its join, and return what the others hold.

        Raises:
            SnapshotError: a chunk cannot be read, or is missing.
        """
        found: dict[str, dict[str, bytes]] = {"model": {}, "join": {}, "monitor": {}, "learner": {}}
        for name in sorted(chunks):
            found[split_name(name)[0]][name] = chunks[name]
        for kind in ("model", "join"):
            if not found[kind]:
                raise incomplete(self._name(kind))
        self._join_log.read(found["join"], join)
        self._plain = {*found["model"], *found["monitor"]}
        self._learners = {*found["learner"]}
        header = self._name("model")
        return StoredModel(
            unpack(header, found["model"][header], VersionsState),
            {_version(name): unpack(name, chunk) for name, chunk in found["monitor"].items()},
            {_version(name): chunk for name, chunk in found["learner"].items()},
        )


def by_model(chunks: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the chunks of each model, in the order of the models' names; all others left out."""
    models: dict[str, dict[str, bytes]] = {}
    for name, chunk in chunks.items():
        _, names = split_name(name)
        if names:
            models.setdefault(names[0], {})[name] = chunk
    return dict(sorted(models.items()))


def _version(name: str) -> str:
    return split_name(name)[1][1]


def _note(stored: set[str], chunks: Chunks) -> None:
    for name, chunk in chunks.items():
        if chunk is None:
            stored.discard(name)
        else:
            stored.add(name)
