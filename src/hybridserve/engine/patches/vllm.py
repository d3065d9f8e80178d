"""Private names of vLLM 0.29. The contract tests are in tests/engine/test_vllm_contract.py.

- `InlineExecutor` overrides `UniProcExecutor._init_executor`. vLLM replaces `uni` by `mp` on a CPU, because the OpenMP
  variables must be set before a process starts. Here they are: the server sets them before it starts the engine core.
  This saves one process that imports torch and vLLM (about 9 s of start-up and 0.7 GiB). Not needed once vLLM accepts
  `uni` on a CPU.
- `core_from_forkserver` replaces `vllm.v1.engine.utils.get_mp_context`, which creates the engine core's process. Not
  needed once vLLM has an option for the start method `forkserver`.
- `on_finished` wraps `OutputProcessor._update_stats_from_finished`, the only place with the tokens of a finished
  request and the number that came from the cache, and `add_request`, which has the cache salt. Not needed once vLLM's
  `FinishedRequestStats` has them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vllm.v1.engine import utils
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from hybridserve.engine.preload import ENVIRONMENT

PR_SET_PDEATHSIG = 1


class InlineExecutor(UniProcExecutor):
    """vLLM's single-process executor, under a name that vLLM does not replace on a CPU."""

    def _init_executor(self) -> None:
        apply_environment(self.vllm_config.additional_config[ENVIRONMENT])
        super()._init_executor()


@contextmanager
def core_from_forkserver() -> Iterator[None]:
    """Within this context vLLM forks its engine core from the fork server instead of spawning it."""
    original = utils.get_mp_context
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        utils.get_mp_context = original


def changed_environment(begun: Mapping[str, str]) -> dict[str, str]:
    """Variables that were set or changed since the fork server started with `begun`."""
    return {name: value for name, value in os.environ.items() if begun.get(name) != value}


def apply_environment(environment: Mapping[str, str]) -> None:
    """In the engine core: set these variables, and end when the parent process ends.

    The parent is the fork server, which itself ends with the replica.
    """
    os.environ.update(environment)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def on_finished(client: Any, finished: Callable[[Sequence[int], Sequence[int], int, str], None]) -> None:
    """Call `finished` with prompt tokens, output tokens, cached prompt tokens and scope of every request that ends.

    Requests share cached prefixes only within a scope: a cache salt and a LoRA adapter.

    Args:
        client: vLLM's `AsyncLLM`.
    """
    processor = client.output_processor
    add, update = processor.add_request, processor._update_stats_from_finished

    def add_request(request: Any, *rest: Any, **named: Any) -> None:
        add(request, *rest, **named)
        state = processor.request_states.get(request.request_id)
        if state is not None:
            state.cache_scope = f"{request.cache_salt or ''}{state.lora_name or ''}"

    def update_stats(state: Any, *rest: Any) -> None:
        update(state, *rest)
        if state.prompt_token_ids is not None and state.detokenizer is not None:  # not an embedding, in or out
            tokens = state.prompt_token_ids, state.detokenizer.output_token_ids
            finished(*tokens, state.num_cached_tokens, getattr(state, "cache_scope", ""))

    processor.add_request, processor._update_stats_from_finished = add_request, update_stats
