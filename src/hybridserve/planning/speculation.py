"""When speculative decoding stops paying: its speed-up from the roofline, by batch size.

With `k` drafts, of which each is accepted with probability `a` if those before it were, a step yields
``1 + a + ... + a^k`` tokens for each sequence (Leviathan et al., arXiv 2211.17192, equation 1). It costs one pass of
the model over ``k + 1`` tokens of each sequence, which reads weights and keys once and writes ``k + 1`` states, and
``k`` passes of the MTP module with the model's head. N-gram drafts cost nothing here. Like the roofline itself this
leaves out kernels and sampling. A large batch is limited by compute, where each rejected draft costs time; a small
batch of a mixture of experts reads more experts when it checks drafts.
"""

from __future__ import annotations

from dataclasses import replace

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.memory.weights import mtp_bytes
from hybridserve.planning.roofline import Cost, DevicePeaks, ServedModel, decode_step
from hybridserve.units import DTYPE_BYTES

# Acceptance rates to report: drafts of a module on text like its training's, and on other text.
RATES = (0.5, 0.7, 0.9)
LARGEST_BATCH = 4096


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Batch sizes, from and to, at which drafting is faster at this acceptance rate; both None where it never is."""

    acceptance: float
    first: int | None
    last: int | None


def break_even(served: ServedModel, device: DevicePeaks, drafts: int, context: float) -> tuple[BreakEven, ...]:
    """The paying batch sizes up to 4,096 for `drafts` draft tokens at a context of `context` tokens."""
    gains = {
        batch: device.seconds(decode_step(_without_module(served), batch, context))
        / _step_seconds(served, device, batch, drafts, context)
        for batch in _batches()
    }
    found = []
    for rate in RATES:
        paying = [batch for batch, gain in gains.items() if gain * tokens_per_step(rate, drafts) > 1]
        found.append(BreakEven(rate, paying[0] if paying else None, paying[-1] if paying else None))
    return tuple(found)


def tokens_per_step(acceptance: float, drafts: int) -> float:
    """Expected tokens of one step for each sequence."""
    return sum(acceptance**position for position in range(drafts + 1))


def _batches() -> list[int]:
    """Every size up to 64, then steps of about 3 %."""
    sizes = list(range(1, 65))
    while sizes[-1] < LARGEST_BATCH:
        sizes.append(min(LARGEST_BATCH, sizes[-1] + max(1, sizes[-1] // 32)))
    return sizes


def _without_module(served: ServedModel) -> ServedModel:
    """The model as it runs without drafts."""
    if not served.arch.uses_mtp:
        return served
    weights = replace(served.weights, bytes=served.weights.bytes - mtp_bytes(served.arch) // served.devices)
    return replace(served, weights=weights)


def _step_seconds(served: ServedModel, device: DevicePeaks, batch: int, drafts: int, context: float) -> float:
    """Duration of one step with drafts."""
    base = _without_module(served)
    tokens = drafts + 1
    # decode_step counts keys and states once for each of `batch * tokens` rows; a sequence reads its keys once.
    wide = decode_step(base, batch * tokens, context)
    repeated = batch * drafts * (context * base.kv_bytes_per_token + base.state_bytes)
    seconds = device.seconds(Cost(wide.bytes - repeated, wide.flops))
    if not served.arch.uses_mtp:
        return seconds
    arch, size = served.arch, DTYPE_BYTES[served.arch.dtype]
    module = (mtp_bytes(arch) + arch.vocab * arch.hidden * size) / served.devices
    return seconds + drafts * device.seconds(Cost(module, batch * 2.0 * module / size))
