"""Bodies of requests, built with little work when they are due."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.loadtest.request_record import Outcome
from hybridserve.loadtest.scenario import ChatKind, FileKind, Scenario, TokenKind

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_POOL = 16
_EXCERPT = 100
"""Characters of a prompt that a record shows."""
_UNIQUE = 6
"""Random token ids at the start of a prompt, so that nothing after them is a cached prefix."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A request, ready to send."""

    path: str
    body: bytes
    kind: str
    expected: Outcome = Outcome.OK
    exact: int | None = None
    """Required number of tokens of the answer."""
    budget: int | None = None
    """Maximum number of reasoning tokens."""
    tool: bool = False
    conversation: int = -1
    turn: int = 0

    @property
    def excerpt(self) -> str:
        """The start of the prompt; of a chat, of its last message."""
        body = json.loads(self.body)
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return str(prompt)[:_EXCERPT]


@dataclass(slots=True)
class Conversation:
    """The messages so far."""

    kind: ChatKind
    number: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    turn: int = 0

    @property
    def over(self) -> bool:
        return self.turn >= self.kind.turns

    def answered(self, text: str) -> None:
        """Add the model's answer."""
        self.messages.append({"role": "assistant", "content": text})
        self.turn += 1


class Prompts:
    """Generates requests from one seed.

    Args:
        scenario: the mix.
        model: the served name.
        token_ids: first and last id of random prompts.
        worker: index of this worker; workers generate different prompts.

    Raises:
        ConfigError: a file of prompts cannot be read.
    """

    def __init__(self, scenario: Scenario, model: str, token_ids: tuple[int, int], worker: int = 0) -> None:
        self._scenario = scenario
        self._model = model
        self._low, self._high = token_ids
        self._random = random.Random(f"{scenario.seed}/{worker}")
        self._shared = random.Random(scenario.seed)
        self._weights = [kind.weight for kind in scenario.mix]
        self._count = worker * 1_000_000
        self._tails = {kind.name: self._tokens(kind) for kind in scenario.mix if isinstance(kind, TokenKind)}
        self._files = {kind.name: read_prompts(kind) for kind in scenario.mix if isinstance(kind, FileKind)}
        self._conversations = 0

    def next(self, index: int | None = None) -> PromptRequest | Conversation:
        """The next request or conversation; `index` is the line of a file of prompts."""
        kind = self._random.choices(self._scenario.mix, self._weights)[0]
        if isinstance(kind, TokenKind):
            return self.completion(kind)
        if isinstance(kind, FileKind):
            rows = self._files[kind.name]
            self._count += 1
            row = rows[(self._count - 1 if index is None else index) % len(rows)]
            output = int(row.get("output_tokens", kind.output))
            head = json.dumps({"prompt": row["prompt"]})[1:-1]
            return self._completion(kind.name, kind.expect, head, output)
        self._conversations += 1
        return Conversation(kind, self._conversations)

    def completion(self, kind: TokenKind) -> PromptRequest:
        """A completion of random token ids."""
        prefix, tails = self._tails[kind.name]
        front = self._random.choices(range(self._low, self._high + 1), k=min(_UNIQUE, kind.prompt - kind.shared_prefix))
        ids = ",".join([*prefix, *map(str, front), *([tail] if (tail := self._random.choice(tails)) else [])])
        return self._completion(kind.name, kind.expect, f'"prompt":[{ids}]', kind.output)

    def lengths(self, prompt: int, output: int) -> PromptRequest:
        """A request of a trace."""
        ids = ",".join(map(str, self._random.choices(range(self._low, self._high + 1), k=prompt)))
        return self._completion("trace", Outcome.OK, f'"prompt":[{ids}]', output)

    def turn(self, conversation: Conversation) -> PromptRequest:
        """The next question of a conversation, with all earlier messages."""
        kind = conversation.kind
        if not conversation.messages and kind.system is not None:
            conversation.messages.append({"role": "system", "content": "\n".join([kind.system] * kind.repeat_system)})
        question = (
            kind.questions[conversation.turn] if kind.turns > 1 and conversation.turn < len(kind.questions) else None
        )
        conversation.messages.append({"role": "user", "content": question or self._random.choice(kind.questions)})
        body = self._options(kind.max_tokens, kind.fixed_length) | {"messages": conversation.messages}
        if kind.budget is not None:
            body["reasoning"] = {"budget": kind.budget}
        elif kind.reasoning != "default":
            body["reasoning"] = kind.reasoning
        if kind.tools:
            body["tools"] = list(kind.tools)
        if kind.tool_choice is not None:
            body["tool_choice"] = kind.tool_choice
        return PromptRequest(
            CHAT,
            json.dumps(body).encode(),
            kind.name,
            kind.expect,
            exact=kind.max_tokens if kind.fixed_length else None,
            budget=None if kind.budget is None else kind.budget + kind.budget_slack,
            tool=bool(kind.tools) and kind.tool_choice not in (None, "none", "auto"),
            conversation=conversation.number,
            turn=conversation.turn,
        )

    def pause(self, kind: ChatKind) -> float:
        """Seconds before the next turn."""
        return self._random.expovariate(1 / kind.think_s) if kind.think_s else 0.0

    def _tokens(self, kind: TokenKind) -> tuple[list[str], list[str]]:
        """The shared prefix, and a few tails. Only the ids between them are drawn for every prompt."""
        prefix = self._shared.choices(range(self._low, self._high + 1), k=kind.shared_prefix)
        rest = max(0, kind.prompt - kind.shared_prefix - _UNIQUE)
        draws = [self._random.choices(range(self._low, self._high + 1), k=rest) for _ in range(_POOL)]
        return [str(number) for number in prefix], [",".join(map(str, draw)) for draw in draws]

    def _options(self, tokens: int, fixed_length: bool) -> dict[str, Any]:
        """The fields that both APIs share."""
        options: dict[str, Any] = {
            "model": self._model,
            "max_tokens": tokens,
            "temperature": self._scenario.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return options | ({"ignore_eos": True, "min_tokens": tokens} if fixed_length else {})

    def _completion(self, name: str, expected: Outcome, prompt: str, output: int) -> PromptRequest:
        rest = self._options(output, fixed_length=True)
        body = f"{{{prompt},{json.dumps(rest)[1:]}"
        return PromptRequest(COMPLETIONS, body.encode(), name, expected, exact=output)


def read_prompts(kind: FileKind) -> Sequence[Mapping[str, Any]]:
    """Read a file of prompts.

    Raises:
        ConfigError: not readable, or a line has no prompt.
    """
    where = f"mix.{kind.name}.path"
    text = read_text(kind.path, where, "give an existing file; the path is relative to the scenario file")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise ConfigError(where, f"{str(kind.path)!r}: {error}", 'JSON lines with "prompt"') from None
    if not rows or not all(isinstance(row, dict) and "prompt" in row for row in rows):
        raise ConfigError(where, f"{str(kind.path)!r} has lines without a prompt", 'JSON lines with "prompt"')
    return rows
