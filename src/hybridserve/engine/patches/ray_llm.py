"""Private names of Ray Serve LLM 2.60. The contract tests are in tests/engine/test_ray_contract.py.

Importing this module imports torch and vLLM.

- `LocalWeights` sets `ctx.run_init_node`. Not needed once Ray LLM skips its download task for a local folder.
- `PreloadedEngine` overrides `VLLMEngine._start_async_llm_engine`. Not needed without `engine.preload`.
- `PatchedLLMServer` overrides `_start_engine`, which would also start Ray's telemetry actor, and opens vLLM's
  application for one more middleware. Not needed once `LLMServer` has a hook for a started engine and for middleware.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer

from hybridserve.engine.patches.vllm import InlineExecutor, changed_environment, core_from_forkserver
from hybridserve.engine.preload import ENVIRONMENT


class LocalWeights(CallbackBase):
    """Skips Ray's download task, which starts another worker and imports vLLM there, only to find a complete folder."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class PreloadedEngine(VLLMEngine):
    """Ray's vLLM engine; with a fork server, the core is forked from it and runs the worker in its own process."""

    forkserver_environment: ClassVar[dict[str, str] | None] = None
    """Environment of the fork server; None without one."""

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        arguments = (vllm_engine_args, vllm_engine_config, placement_group)
        if self.forkserver_environment is None:
            return super()._start_async_llm_engine(*arguments)
        vllm_engine_config.parallel_config.distributed_executor_backend = InlineExecutor
        vllm_engine_config.additional_config[ENVIRONMENT] = changed_environment(self.forkserver_environment)
        with core_from_forkserver():
            return super()._start_async_llm_engine(*arguments)


class PatchedLLMServer(LLMServer):
    """Ray's LLM server with two hooks: after the engine has started, and around vLLM's application."""

    @property
    def client(self) -> Any:
        """vLLM's `AsyncLLM`."""
        return self.engine._engine_client

    async def engine_started(self) -> None:
        """Called once, when the engine has started."""

    async def _start_engine(self) -> None:
        await self.engine.start()
        await self.engine_started()

    async def vllm_app(self) -> Any:
        """vLLM's own FastAPI application, to which middleware can still be added."""
        app = await super().__serve_build_asgi_app__()
        app.middleware_stack = None  # it is built again with the added middleware at the first request
        return app
