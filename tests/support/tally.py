"""A second processor, which the product does not have: three inputs, deadlines, its own state.

It counts the records of each key and input. A record of the third input, `due_ms` in its JSON, asks
for a tally of its key at that time, which is published when event time has passed it: with the
first later record of any input, or by the clock where none comes.
"""

from __future__ import annotations

import hashlib
import heapq
import json

from streamgauge.stream.align import merge
from streamgauge.stream.records import Output
from streamgauge.stream.snapshot import pack, unpack

INPUTS = ("predictions", "labels", "status")


class Tally:
    """See `streamgauge.stream.processor.Processor`."""

    inputs = INPUTS
    config_digest = "tally"

    def __init__(self, partition=0):
        self.partition = partition
        self.digest = ""
        self._counts = {}
        self._due = []
        self._n_published = 0
        self._touched = set()
        self._outputs = []

    def process(self, batch):
        outputs = []
        for i, record in merge(batch):
            while self._due and self._due[0][0] < record.timestamp_ms:
                outputs += self._publish_next()
            key = (record.key or b"").decode()
            self._counts.setdefault(key, [0] * len(self.inputs))[i] += 1
            self._touched.add(key)
            if i == 2:
                try:
                    due_ms = int(json.loads(record.value)["due_ms"])
                except (ValueError, KeyError, TypeError):
                    outputs.append(Output("dead_letters", record.key, record.value or b"", (), 0))
                else:
                    heapq.heappush(self._due, (due_ms, key))
        self._outputs += outputs
        return outputs

    def next_deadline_ms(self):
        return self._due[0][0] if self._due else None

    def on_deadline(self, deadline_ms):
        outputs = []
        while self._due and self._due[0][0] <= deadline_ms:
            outputs += self._publish_next()
        self._outputs += outputs
        return outputs

    def _publish_next(self):
        due_ms, key = heapq.heappop(self._due)
        self._n_published += 1
        value = {"n": self._n_published, "key": key, "due_ms": due_ms, "counts": self._counts[key]}
        return [Output("metrics", key.encode(), json.dumps(value).encode(), (), due_ms)]

    def drain_chunks(self):
        chunks = {f"key/{key}": pack(self._counts[key]) for key in sorted(self._touched)}
        chunks["due"] = pack([self._n_published, sorted(self._due)])
        self._touched = set()
        told = repr((self.digest, self._outputs, sorted(chunks.items())))
        self.digest = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self._outputs = []
        return chunks

    def restore(self, chunks, digest):
        self.digest = digest
        for name, chunk in chunks.items():
            if name == "due":
                self._n_published, due = unpack(name, chunk)
                self._due = [tuple(item) for item in due]
            else:
                self._counts[name.removeprefix("key/")] = unpack(name, chunk)
        return []
