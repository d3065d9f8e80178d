"""The prompts of a numeric check, built in or the user's own, and the texts that right answers contain.

Lengths follow the engine's block size, because a hybrid's faults are at its grid: a state is copied when a sequence
enters a block, cached at a block's end, and read again by the next prompt with the same start.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.files import read_text

# Output tokens of a probe.
TOKENS = 24
# Words of which long prompts are made: common ones, a token or two each in any vocabulary.
_WORDS = (  # noqa: SIM905 - a list of a hundred words is unreadable
    "the a of and to in is that it was for on are as with his they at be this from have or one had by but not what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know get through back"
).split()
_CHATS = (
    ("hello", "Hello!", None),
    ("who", "Who are you?", None),
    ("sum", "What is 3 + 4?", "7"),
    ("times", "What is 6 times 7?", "42"),
    ("minus", "What is 9 minus 5?", "4"),
    ("repeat", "Repeat this word: block", "block"),
    ("mamba", "What is Mamba?", None),
    ("cache", "What is the KV cache?", None),
)
# Tokens by which two long prompts differ at their start, while the rest is equal.
DIFFERENT_START = 24
# The longest prompt is a few blocks, but not longer than a small model's context.
_LONGEST = 6000


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat to be turned into tokens by the engine's own template."""

    id: str
    messages: tuple[dict[str, str], ...]
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt of exactly `tokens` tokens, cut from `text`.

    Attributes:
        start: text whose first 24 tokens replace the prompt's own.
        follow_ups: further turns, each appended to prompt and answer before it.
    """

    id: str
    group: str
    text: str
    tokens: int | None = None
    start: str | None = None
    follow_ups: tuple[str, ...] = ()


def chats() -> list[Chat]:
    """The short chats, some with an exact answer."""
    return [Chat(name, ({"role": "user", "content": text},), expect) for name, text, expect in _CHATS]


def texts(block: int, context: int) -> list[Text]:
    """Plain prompts around the block size.

    Args:
        block: attention block size in tokens.
        context: longest prompt plus output in tokens.
    """
    longest = min(context - TOKENS, _LONGEST)
    lengths = (block - 16, block - 12, block - 8, block, block + 1, 2 * block + 7)
    found = [Text(f"grid-{tokens}", "grid", _text(tokens, tokens), tokens) for tokens in lengths]
    body, tokens = _text(20, 3 * block), 2 * block + block // 3
    found.append(Text("long", "long", body, tokens))
    # Equal from token 24 on: a hit on the other prompt's blocks is a hit on the wrong prefix.
    found.append(Text("long-other-start", "long", body, tokens, start=_text(21, DIFFERENT_START)))
    opening = _text(30, block)
    turns = (_text(31, block // 2), _text(32, block))
    found.append(Text("talk", "turns", opening, block - 2 * TOKENS // 3, follow_ups=turns))
    found = [text for text in found if _needed(text) <= longest]
    return found or [Text("whole", "long", _text(40, longest), longest)]


def own_prompts(file: Path) -> list[Chat | Text]:
    """Prompts of the user: JSON Lines with `prompt` or `messages`, and optionally `expect`.

    Raises:
        ConfigError: the file cannot be read, or a line is not such an object.
    """
    found: list[Chat | Text] = []
    for number, line in enumerate(read_text(file, "--prompts").splitlines(), 1):
        if not line.strip():
            continue
        where, name = f"{file}:{number}", f"own-{number}"
        try:
            value: Any = json.loads(line)
        except ValueError as error:
            raise ConfigError(where, f"is not JSON: {error}", 'write {"prompt": "..."} on each line') from None
        expect = value.get("expect") if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(value.get("prompt"), str) and value["prompt"] and expect is None:
            found.append(Text(name, "own", value["prompt"]))
        elif isinstance(value, dict) and _is_chat(value.get("messages")) and isinstance(expect, str | None):
            found.append(Chat(name, tuple(value["messages"]), expect))
        else:
            fix = '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}], "expect": "..."}'
            raise ConfigError(where, "is neither a prompt nor a chat", f"write {fix}")
    if not found:
        raise ConfigError(str(file), "has no prompts", "write one JSON object on each line, or omit --prompts")
    return found


def _is_chat(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(item, dict) and isinstance(item.get("content"), str) and "role" in item for item in messages)
    )


def _needed(text: Text) -> int:
    return (text.tokens or 0) + sum(TOKENS + 2 * len(turn.split()) for turn in text.follow_ups)


def _text(seed: int, words: int) -> str:
    """Words in a fixed order for each seed; at least one token each."""
    source = random.Random(seed)
    return " ".join(source.choice(_WORDS) for _ in range(words))
