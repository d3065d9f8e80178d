"""Recorded requests, as JSON lines, for `hybridserve cache explain`.

A line has tokens (``{"prompt": [1, 2], "output": [3]}``) or, from a live server, only the hashes of `reuse.chain`:
``{"step": 16, "chain": ["9f..."], "prompt_tokens": 40, "total_tokens": 52, "hit": 32}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.reuse import STEP, chain

_BITS = 1 << 64
_FORMS = '{"prompt": [token ids], "output": [token ids]} or a line that the server recorded'


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One finished request.

    Attributes:
        step: tokens of one hash.
        chain: hashes of prompt and output.
        prompt: prompt tokens.
        total: prompt and output tokens.
        hit: prompt tokens that the engine took from its cache; None if not recorded.
    """

    step: int
    chain: list[int]
    prompt: int
    total: int
    hit: int | None

    def to_json(self) -> str:
        hashes = [f"{value % _BITS:x}" for value in self.chain]
        sizes = {"prompt_tokens": self.prompt, "total_tokens": self.total, "hit": self.hit}
        return json.dumps({"step": self.step, "chain": hashes, **sizes})


def read_trace(lines: Iterable[str], name: str) -> list[TracedRequest]:
    """Read a trace.

    Raises:
        ConfigError: a line has another form; or the lines have no request, or hashes of different steps.
    """
    requests = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                requests.append(_request(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                what = f"is not a recorded request ({type(error).__name__}: {error})"
                raise ConfigError(f"{name}:{number}", what, f"write {_FORMS}") from None
    if not requests:
        raise ConfigError(name, "has no request", f"write one line per request: {_FORMS}")
    if len({request.step for request in requests}) > 1:
        raise ConfigError(name, "mixes hashes of different steps", "give the files of one server at a time")
    return requests


def _request(tree: dict[str, object]) -> TracedRequest:
    if "chain" not in tree:
        prompt, output = _ids(tree["prompt"]), _ids(tree.get("output", []))
        hit = tree.get("hit")
        hashes = [value % _BITS for value in chain(prompt + output)]
        return TracedRequest(STEP, hashes, len(prompt), len(prompt) + len(output), _count(hit))
    recorded, step = tree["chain"], _count(tree["step"])
    prompt_tokens, total = _count(tree["prompt_tokens"]), _count(tree["total_tokens"])
    if not isinstance(recorded, list) or not step or prompt_tokens is None or total is None:
        raise ValueError("chain, step, prompt_tokens and total_tokens are needed")
    if total < prompt_tokens or len(recorded) != total // step:
        raise ValueError(f"{len(recorded)} hashes of {step} tokens for {total} tokens, {prompt_tokens} of the prompt")
    return TracedRequest(step, [int(value, 16) for value in recorded], prompt_tokens, total, _count(tree.get("hit")))


def _ids(value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError("prompt and output are lists of token ids")
    return value


def _count(value: object) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{value!r} is not a number of tokens")
    return value
