"""Private names of Ray 2.60 and Ray Serve. The contract tests are in tests/engine/test_ray_contract.py.

- `dead_head_processes` reads `ray._private.worker._global_node`. Not needed once Ray reports the death of its own
  processes to the driver.
- `keep_serve_log_files` restores the targets of Ray Serve's `MemoryHandler`s. Not needed once vLLM no longer configures
  logging when it is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


def dead_head_processes() -> list[str]:
    """Names of the processes that Ray cannot run without and that have died."""
    from ray._private import worker

    node = worker._global_node
    vital = ("gcs_server", "raylet")
    return [kind for kind, _ in node.dead_processes() if kind in vital] if node is not None else []


@contextmanager
def keep_serve_log_files() -> Iterator[None]:
    """Keep the files behind Ray Serve's log handlers while vLLM is imported.

    vLLM configures logging at import, and Python then closes every handler; a closed `MemoryHandler` forgets its file.
    A restarted Serve controller requests the name of that file from each replica. It takes the failure for a broken
    replica and ends them all, with every open stream.
    """
    handlers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, MemoryHandler)]
    files = [(handler, handler.target) for handler in handlers]
    try:
        yield
    finally:
        for handler, file in files:
            handler.setTarget(file)  # the file is opened again with the next line
