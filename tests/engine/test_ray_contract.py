"""Contract: the private names of Ray 2.60 and Ray Serve LLM that `engine.patches` uses exist and mean the same."""

from __future__ import annotations

import inspect
import logging
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import pytest

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.planning.render import llm_config
from hybridserve.settings import load

pytestmark = pytest.mark.engine

DEPLOYMENTS = [
    [],
    ["model.id=nemotron-nano-9b-v2", "accelerator.name=a10g"],
    ["model.id=nemotron-nano-9b-v2", "accelerator.name=h100", "engine.tensor_parallel_size=2"],
    ["model.id=qwen3-8b", "accelerator.name=l40s", "engine.pipeline_parallel_size=2", "engine.tensor_parallel_size=2"],
]


@pytest.mark.parametrize("assignments", DEPLOYMENTS, ids=lambda words: " ".join(words) or "demo")
def test_bundles_equal_those_of_rays_builder(assignments: list[str]) -> None:
    from ray.llm._internal.serve.core.server.llm_server import _merge_replica_actor_and_child_actor_bundles
    from ray.serve.llm import LLMConfig

    from hybridserve.runtime.ray_app import deployment_options

    spec = resolve_deployment(load(assignments=assignments, environ={}).settings)
    engine = LLMConfig(**llm_config(spec.settings, spec.engine_args)).get_engine_config()
    theirs = _merge_replica_actor_and_child_actor_bundles(engine.placement_bundles, {"CPU": 1, "GPU": 0})
    ours = deployment_options(spec)
    assert [nonzero(bundle) for bundle in ours["placement_group_bundles"]] == [nonzero(bundle) for bundle in theirs]
    assert ours["placement_group_strategy"] == engine.placement_strategy


def nonzero(bundle: dict[str, float]) -> dict[str, float]:
    return {name: float(amount) for name, amount in bundle.items() if amount}


def test_node_reports_its_dead_processes() -> None:
    from ray._private import ray_constants, worker
    from ray._private.node import Node

    from hybridserve.engine.patches.ray import dead_head_processes

    assert worker._global_node is None
    assert dead_head_processes() == []
    assert callable(Node.dead_processes)
    assert (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET) == ("gcs_server", "raylet")


def test_serve_log_file_survives_closing_of_all_handlers(tmp_path: Path) -> None:
    """Ray Serve puts a `MemoryHandler` before its file, and closing one drops its target."""
    from ray.serve._private.common import ServeComponentType
    from ray.serve._private.logging_utils import configure_component_logger
    from ray.serve.schema import LoggingConfig

    from hybridserve.engine.patches.ray import keep_serve_log_files

    logger = logging.getLogger("ray.serve")
    before = list(logger.handlers)
    try:
        configure_component_logger(
            component_name="engine", component_id="r", component_type=ServeComponentType.REPLICA, max_bytes=10**6,
            backup_count=1, logging_config=LoggingConfig(logs_dir=str(tmp_path)),
        )  # fmt: skip
        memory = [handler for handler in logger.handlers if isinstance(handler, MemoryHandler)]
        assert memory
        with keep_serve_log_files():
            for handler in memory:
                handler.close()
        assert all(handler.target is not None for handler in memory)
    finally:
        logger.handlers[:] = before


def test_overridden_methods_exist_with_the_same_parameters() -> None:
    from hybridserve.engine.patches.ray_llm import LocalWeights, PatchedLLMServer, PreloadedEngine

    parent: Any = PreloadedEngine.__mro__[1]
    names = ["self", "vllm_engine_args", "vllm_engine_config", "placement_group"]
    assert list(inspect.signature(parent._start_async_llm_engine).parameters) == names
    server: Any = PatchedLLMServer.__mro__[1]
    for name in ("_start_engine", "__serve_build_asgi_app__", "sync_init", "start", "check_health"):
        assert hasattr(server, name)
    assert hasattr(LocalWeights.__mro__[1], "on_before_node_init")
