"""Everything that touches the world: brokers, MLflow, processes, the command line.

`open_broker` and `read_config` are what another program needs to follow the topics.
"""

from __future__ import annotations

from consumers.settings import open_broker, read_config

__all__ = ["open_broker", "read_config"]
