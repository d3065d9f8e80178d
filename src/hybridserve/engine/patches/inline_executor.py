"""One CPU worker in the process of the engine core."""

from __future__ import annotations

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from hybridserve.engine.patches.preload import ENVIRONMENT, apply_environment


class InlineExecutor(UniProcExecutor):
    """vLLM's single-process executor, under a name of its own.

    vLLM turns `uni` into `mp` on CPU, because the OpenMP environment must stand before a process starts. Here it
    does: the server process sets it while it makes the engine's configuration and spawns the engine core after that.
    What is saved is one process that imports torch and vLLM again (about 9 s of start-up and 0.7 GiB).
    """

    def _init_executor(self) -> None:
        apply_environment(self.vllm_config.additional_config[ENVIRONMENT])
        super()._init_executor()
