"""What we take from private corners of Ray Serve LLM and vLLM is still there and still means the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hybridserve.planning.render import llm_config
from hybridserve.planning.resolve import engine_args, plan_settings
from hybridserve.settings import load

pytestmark = pytest.mark.engine

DEPLOYMENTS = [
    [],
    ["model.id=nemotron-nano-9b-v2", "accelerator.name=a10g"],
    ["model.id=nemotron-nano-9b-v2", "accelerator.name=h100", "engine.tensor_parallel_size=2"],
    ["model.id=qwen3-8b", "accelerator.name=l40s", "engine.pipeline_parallel_size=2", "engine.tensor_parallel_size=2"],
]


@pytest.mark.parametrize("assignments", DEPLOYMENTS, ids=lambda words: " ".join(words) or "demo")
def test_our_bundles_are_those_of_rays_own_builder(assignments: list[str]) -> None:
    from ray.llm._internal.serve.core.server.llm_server import _merge_replica_actor_and_child_actor_bundles
    from ray.serve.llm import LLMConfig

    from hybridserve.runtime.ray_app import deployment_options

    settings = load(assignments=assignments, environ={}).settings
    config = LLMConfig(**llm_config(settings, engine_args(settings, plan_settings(settings))))
    engine = config.get_engine_config()
    theirs = _merge_replica_actor_and_child_actor_bundles(engine.placement_bundles, {"CPU": 1, "GPU": 0})
    ours = deployment_options(settings)
    assert [used(bundle) for bundle in ours["placement_group_bundles"]] == [used(bundle) for bundle in theirs]
    assert ours["placement_group_strategy"] == engine.placement_strategy


def used(bundle: dict[str, float]) -> dict[str, float]:
    return {name: float(amount) for name, amount in bundle.items() if amount}


def test_the_executor_is_found_by_its_name_and_the_name_taken_on_the_command_line() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from hybridserve.engine.patches.inline_executor import InlineExecutor
    from hybridserve.runtime.backends.standalone import inline_worker

    flags = inline_worker(load(environ={}).settings)
    taken = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(flags)
    assert resolve_obj_by_qualname(taken.distributed_executor_backend) is InlineExecutor
    several = load(assignments=["engine.tensor_parallel_size=2"], environ={}).settings
    assert inline_worker(several) == []


def test_rays_node_tells_which_of_its_processes_died() -> None:
    from ray._private import ray_constants, worker
    from ray._private.node import Node

    assert hasattr(worker, "_global_node")
    assert callable(Node.dead_processes)
    assert (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET) == ("gcs_server", "raylet")


def test_the_private_hooks_have_the_signatures_we_use() -> None:
    from vllm.v1.engine import utils
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    from hybridserve.engine.ray_replica import Engine, HybridServer, LocalWeights

    parent: Any = Engine.__mro__[1]
    names = ["self", "vllm_engine_args", "vllm_engine_config", "placement_group"]
    assert list(inspect.signature(parent._start_async_llm_engine).parameters) == names
    server: Any = HybridServer.__mro__[1]
    for hook in ("_start_engine", "__serve_build_asgi_app__", "sync_init", "start", "check_health"):
        assert hasattr(server, hook)
    assert hasattr(LocalWeights.__mro__[1], "on_before_node_init")
    assert callable(utils.get_mp_context)
    assert "get_mp_context()" in inspect.getsource(utils.CoreEngineProcManager.__init__)
    assert hasattr(UniProcExecutor, "_init_executor")


def test_the_openmp_library_we_preload_is_the_one_vllm_would() -> None:
    """vLLM looks in the same two folders for the same name; if that changes, `engine.patches.preload` must follow."""
    from vllm.platforms import cpu

    source = inspect.getsource(cpu.CpuPlatform.check_and_update_config)
    for part in ('"torch.libs"', '"lib"', '"libgomp*.so*"', '"libiomp" in ld_preload_str'):
        assert part in source
