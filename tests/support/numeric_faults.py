"""Known numeric faults of a vLLM engine, switched on and off in a running engine on CPU. For tests only.

`NumericFaults` is a worker extension of vLLM (`--worker-extension-cls support.numeric_faults.NumericFaults`). Its
method `set_fault` is called over vLLM's development route `/collective_rpc`. The worker must run in the engine core's
process, because some faults are in the scheduler. Each fault replaces functions of vLLM 0.29 with ones that are wrong
in one way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

Wrapper = Callable[..., Any]
CHUNK = 64


@dataclass(frozen=True)
class Engine:
    """The modules and objects of vLLM that the faults change."""

    worker: Any

    def wrap(self, owner: Any, name: str, wrapper: Wrapper) -> Any:
        """A patch that calls `wrapper(original, *args, **kwargs)` instead of the original."""
        original = getattr(owner, name)
        if isinstance(original, type(len)) or not hasattr(original, "__self__"):
            return patch.object(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))
        bound = classmethod(lambda _cls, *args, **kwargs: wrapper(original, *args, **kwargs))
        return patch.object(owner, name, bound)

    @property
    def mixer(self) -> Any:
        from vllm.model_executor.layers.mamba import mamba_mixer2

        return mamba_mixer2

    def decode_state(self, wrapper: Wrapper) -> Any:
        """Around the state update of decoding sequences: (original, state, x, dt, A, B, C, D, bias, **kwargs)."""
        return self.wrap(self.mixer, "selective_state_update", wrapper)

    def prefill_state(self, wrapper: Wrapper) -> Any:
        """Around the scan of prefills, which returns the final states."""
        return self.wrap(self.mixer, "mamba_chunk_scan_combined_varlen", wrapper)

    def decode_conv(self, wrapper: Wrapper) -> Any:
        return self.wrap(self.mixer, "causal_conv1d_update", wrapper)

    def attention(self, wrapper: Wrapper) -> Any:
        from vllm import _custom_ops

        return self.wrap(_custom_ops, "cpu_attention_with_kv_cache", wrapper)

    def initial_states(self, change: Callable[[Any], None]) -> Any:
        """Before a mixer runs: `change(metadata)` may alter which prefills start from a stored state."""
        from vllm.forward_context import get_forward_context

        def forward(original: Wrapper, layer: Any, **kwargs: Any) -> Any:
            metadata = get_forward_context().attn_metadata
            if metadata is not None and metadata[layer.prefix].num_prefills:
                change(metadata[layer.prefix])
            return original(layer, **kwargs)

        return self.wrap(self.mixer.MambaMixer2, "conv_ssm_forward", forward)


def _slots(kwargs: dict[str, Any]) -> Any:
    return kwargs["state_batch_indices"].flatten()


def _rounded_state(engine: Engine, dtype: str) -> list[Any]:
    import torch

    kind = getattr(torch, dtype)

    def update(original: Wrapper, state: Any, *args: Any, **kwargs: Any) -> None:
        original(state, *args, **kwargs)
        slots = _slots(kwargs)
        state[slots] = state[slots].to(kind).to(state.dtype)

    def scan(original: Wrapper, *args: Any, **kwargs: Any) -> Any:
        states = original(*args, **kwargs)
        return states.to(kind).to(states.dtype)

    return [engine.decode_state(update), engine.prefill_state(scan)]


def state_bfloat16(engine: Engine) -> list[Any]:
    return _rounded_state(engine, "bfloat16")


def state_float8(engine: Engine) -> list[Any]:
    return _rounded_state(engine, "float8_e5m2")


def conv_state_skipped(engine: Engine) -> list[Any]:
    """Decoding starts from an empty conv state."""

    def update(original: Wrapper, x: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        state[kwargs["conv_state_indices"].flatten()] = 0
        return original(x, state, *args, **kwargs)

    return [engine.decode_conv(update)]


def conv_state_not_updated(engine: Engine) -> list[Any]:
    def update(original: Wrapper, x: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        slots = kwargs["conv_state_indices"].flatten()
        before = state[slots].clone()
        out = original(x, state, *args, **kwargs)
        state[slots] = before
        return out

    return [engine.decode_conv(update)]


def slots_swapped(engine: Engine) -> list[Any]:
    """Sequences that decode together use each other's state."""

    def update(original: Wrapper, *args: Any, **kwargs: Any) -> None:
        for name in ("state_batch_indices", "dst_state_batch_indices"):
            kwargs[name] = kwargs[name].roll(1, 0)
        original(*args, **kwargs)

    return [engine.decode_state(update)]


def state_block_off_by_one(engine: Engine) -> list[Any]:
    """A sequence that enters a block does not take its state along."""
    from vllm.v1.worker import mamba_utils

    def copy(original: Wrapper, *args: Any) -> None:
        source, target = args[4:6]
        if source > 0:
            original(*args[:4], source - 1, target, *args[6:])

    return [engine.wrap(mamba_utils, "collect_mamba_copy_meta", copy)]


def attention_block_off_by_one(engine: Engine) -> list[Any]:
    """Sequences of more than one block read the next entry of their block table."""

    def attend(original: Wrapper, **kwargs: Any) -> Any:
        block = kwargs["key_cache"].shape[2]
        table, long = kwargs["block_table"], kwargs["seq_lens"] > block
        kwargs["block_table"] = table.where(~long[:, None], table.roll(-1, 1))
        return original(**kwargs)

    return [engine.attention(attend)]


def stale_after_preemption(engine: Engine) -> list[Any]:
    """A resumed request starts from what its slots contain."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted: set[str] = set()

    def preempt(original: Wrapper, scheduler: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.add(request.request_id)
        original(scheduler, request, *args, **kwargs)

    def change(metadata: Any) -> None:
        names = engine.worker.model_runner.input_batch.req_ids[metadata.num_decodes :]
        for row in range(metadata.num_prefills):
            if names[row] in preempted:
                metadata.has_initial_states_p[row] = True
                metadata.prep_initial_states = True

    return [engine.wrap(Scheduler, "_preempt_request", preempt), engine.initial_states(change)]


def slot_not_cleared(engine: Engine) -> list[Any]:
    """A new request starts from the state of the slot's last owner."""

    def change(metadata: Any) -> None:
        metadata.has_initial_states_p[:] = True
        metadata.prep_initial_states = True

    return [engine.initial_states(change)]


def cached_state_dropped(engine: Engine) -> list[Any]:
    """A prefill that continues cached tokens starts from an empty state."""

    def change(metadata: Any) -> None:
        metadata.has_initial_states_p[:] = False

    return [engine.initial_states(change)]


def attention_scale(engine: Engine) -> list[Any]:
    def attend(original: Wrapper, **kwargs: Any) -> Any:
        return original(**{**kwargs, "scale": kwargs["scale"] * 1.1})

    return [engine.attention(attend)]


def kv_float8_unscaled(engine: Engine) -> list[Any]:
    """Keys and values pass through float8 on their way into the cache."""
    import torch
    from vllm import _custom_ops

    def store(original: Wrapper, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        rounded = [tensor.to(torch.float8_e5m2).to(tensor.dtype) for tensor in (key, value)]
        return original(*rounded, *args, **kwargs)

    return [engine.wrap(_custom_ops, "cpu_attn_reshape_and_cache", store)]


def decay_base(engine: Engine) -> list[Any]:
    """The decay of the state is 5 % too fast: what a wrong rope base is for a model with positions."""

    def update(original: Wrapper, state: Any, x: Any, dt: Any, a: Any, *args: Any, **kwargs: Any) -> None:
        original(state, x, dt, a * 1.05, *args, **kwargs)

    def scan(original: Wrapper, x: Any, dt: Any, a: Any, *args: Any, **kwargs: Any) -> Any:
        return original(x, dt, a * 1.05, *args, **kwargs)

    return [engine.decode_state(update), engine.prefill_state(scan)]


def draft_state_reused(engine: Engine) -> list[Any]:
    """Every fourth step the state advances twice, as if a rejected draft token were kept."""
    step = itertools.count()

    def update(original: Wrapper, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        if next(step) // 4 % 4 == 3:
            original(*args, **kwargs)

    return [engine.decode_state(update)]


def chunk_state_dropped(engine: Engine) -> list[Any]:
    """The scan loses its state between chunks of 64 tokens."""
    import torch

    def scan(original: Wrapper, *args: Any, **kwargs: Any) -> Any:
        ends, firsts = kwargs["cu_seqlens"].tolist(), kwargs["initial_states"]
        cuts, last, first = [0], [], []
        for begin, end in itertools.pairwise(ends):
            first.append(len(cuts) - 1)
            cuts += [*range(begin + CHUNK, end, CHUNK), end]
            last.append(len(cuts) - 2)
        if firsts is not None:
            states = torch.zeros((len(cuts) - 1, *firsts.shape[1:]), dtype=firsts.dtype)
            states[first] = firsts
            kwargs["initial_states"] = states
        kwargs["cu_seqlens"] = torch.tensor(cuts, dtype=kwargs["cu_seqlens"].dtype)
        return original(*args, **kwargs)[last]

    return [engine.prefill_state(scan)]


def prompt_truncated(engine: Engine) -> list[Any]:
    """The first eight tokens of a prompt of more than 256 are lost."""
    from vllm.v1.request import Request

    def build(original: Wrapper, request: Any, *args: Any) -> Any:
        if len(request.prompt_token_ids) > 256:
            request.prompt_token_ids = request.prompt_token_ids[8:]
        return original(request, *args)

    return [engine.wrap(Request, "from_engine_core_request", build)]


def hit_on_wrong_prefix(engine: Engine) -> list[Any]:
    """The hash of a block leaves out its first 32 tokens."""
    from vllm.v1.core import kv_cache_utils

    def digest(original: Wrapper, function: Any, parent: Any, tokens: Any, *extra: Any) -> Any:
        return original(function, parent, tokens[32:], *extra)

    return [engine.wrap(kv_cache_utils, "hash_block_tokens", digest)]


def adapters_mixed(engine: Engine) -> list[Any]:
    """A low-rank delta meant for no one is added to every second sequence of a batch."""
    import torch

    def update(original: Wrapper, state: Any, x: Any, *args: Any, **kwargs: Any) -> None:
        if len(x) > 1:
            down = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
            x = x.clone()
            x[1::2] += (x[1::2] * down).mean(-1, keepdim=True) * down.flip(0)
        original(state, x, *args, **kwargs)

    return [engine.decode_state(update)]


FAULTS: dict[str, Callable[[Engine], list[Any]]] = {
    fault.__name__: fault
    for fault in (
        state_bfloat16, state_float8, conv_state_skipped, conv_state_not_updated, slots_swapped,
        state_block_off_by_one, attention_block_off_by_one, stale_after_preemption, slot_not_cleared,
        cached_state_dropped, attention_scale, kv_float8_unscaled, decay_base, draft_state_reused,
        chunk_state_dropped, prompt_truncated, hit_on_wrong_prefix, adapters_mixed,
    )
}  # fmt: skip


@contextmanager
def injected(name: str, worker: Any) -> Iterator[None]:
    """The fault is active inside."""
    with ExitStack() as stack:
        for change in FAULTS[name](Engine(worker)):
            stack.enter_context(change)
        yield


class NumericFaults:
    """Worker extension of vLLM."""

    _active: ExitStack | None = None

    def set_fault(self, name: str) -> str:
        """Switch to this fault; `none` ends the active one."""
        if self._active is not None:
            self._active.close()
            self._active = None
        if name != "none":
            self._active = ExitStack()
            self._active.enter_context(injected(name, self))
        return name
