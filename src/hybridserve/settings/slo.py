"""The latency objective of one request: what scaling, the simulator and load tests judge by."""

from __future__ import annotations

from hybridserve.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class LatencySLO:
    """Limits of one request, in seconds; None is no limit.

    Attributes:
        ttft_s: time to first token, for an empty prompt.
        inter_token_s: mean time between the tokens of an answer.
        e2e_s: from request to last token.
        ttft_per_prompt_token_s: what each prompt token adds to `ttft_s`.
    """

    ttft_s: float | None = None
    inter_token_s: float | None = None
    e2e_s: float | None = None
    ttft_per_prompt_token_s: float = 0.0

    def late(self, queued_s: float, prefill_s: float, inter_token_s: float, prompt_tokens: int) -> bool:
        """Whether a request missed a limit. A first token that was late without any wait is not: no other replica
        would have been faster."""
        waited = self.ttft_met(prefill_s, prompt_tokens) and not self.ttft_met(queued_s + prefill_s, prompt_tokens)
        return waited or not self.inter_token_met(inter_token_s)

    def ttft_met(self, seconds: float, prompt_tokens: int = 0) -> bool:
        return self.ttft_s is None or seconds <= self.ttft_s + self.ttft_per_prompt_token_s * prompt_tokens

    def inter_token_met(self, seconds: float) -> bool:
        return self.inter_token_s is None or seconds <= self.inter_token_s

    def e2e_met(self, seconds: float) -> bool:
        return self.e2e_s is None or seconds <= self.e2e_s


NO_SLO = LatencySLO()
"""No limits."""
