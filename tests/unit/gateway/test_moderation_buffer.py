"""SSE decoding, and the moderation buffer: no unchecked text leaves, and at most a window waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridserve.gateway.responses.moderation_buffer import ModerationBuffer, StreamBlocked
from hybridserve.gateway.responses.response_fields import Texts, finished_choices, read_event
from hybridserve.guards import GuardVerdict
from hybridserve.sse import EventTooLarge, SSEDecoder, event_data, split_events

LONGEST = 16  # characters of a piece that counts as one token
texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=40)


@given(st.lists(texts, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_decoder_accepts_any_chunks_and_line_ends(lines: list[str], newline: str, data: st.DataObject) -> None:
    stream = "".join(f"data: {line}{newline}{newline}" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = SSEDecoder()
    out = b"".join(decoder.feed(piece) for piece in pieces)
    out += decoder.feed(b"\n") if newline == "\r" else b""
    assert [event_data(event) for event in split_events(out)] == lines


def test_decoder_keeps_a_split_character() -> None:
    event = 'data: {"t":"ü€😀"}\n\n'.encode()
    for cut in range(1, len(event)):
        decoder = SSEDecoder()
        first = decoder.feed(event[:cut])
        assert first == b""
        assert decoder.feed(event[cut:]) == event


def test_event_data() -> None:
    assert event_data(b"data: a\ndata:b\n\n") == "a\nb"
    assert event_data(b": data: no\n\n") is None
    assert event_data(b"event: x\nid: 1\ndata\n\n") == ""


def test_decoder_rejects_too_large_event() -> None:
    decoder = SSEDecoder(limit=100)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data: " + b"x" * 200)


class WordCheck:
    """Blocks text with a word, and records the longest text that it was given."""

    def __init__(self, word: str | None = None) -> None:
        self.word = word
        self.longest = 0
        self.calls = 0

    async def __call__(self, text: str) -> GuardVerdict:
        self.calls += 1
        self.longest = max(self.longest, len(text))
        bad = self.word is not None and self.word in text
        return GuardVerdict("block" if bad else "allow", "test")


Piece = tuple[Any, str, str | None]
"""Choice, channel and text; no text for the end of the choice."""


@dataclass
class Outcome:
    """The pieces that left, how many of them before the end, if the stream was blocked, and tokens held after each."""

    left: list[Piece]
    before_end: int
    blocked: bool
    held: list[int]


def moderate(pieces: Sequence[Piece], check: WordCheck, window: int, overlap: int) -> Outcome:
    """Feed the pieces to a buffer, each as one event."""
    buffer, blocked = ModerationBuffer(check, window, overlap, max_hold_s=1e9), False
    out: list[bytes] = []
    held: list[int] = []

    async def run() -> None:
        for choice, channel, text in pieces:
            event = f"data: {json.dumps([choice, channel, text])}\n\n".encode()
            texts: Texts = [((choice, channel), text)] if text else []
            out.append(await buffer.feed(event, texts, {choice} if text is None else ()))
            held.append(buffer.held_tokens)
        out.append(await buffer.finish())

    try:
        asyncio.run(run())
    except StreamBlocked:
        blocked = True
    left = [tuple(json.loads(event_data(event) or "")) for event in split_events(b"".join(out))]
    return Outcome(left, len(split_events(b"".join(out[:-1]))), blocked, held)  # type: ignore[arg-type]


def content(*texts: str) -> list[Piece]:
    return [(0, "content", text) for text in texts]


words = st.text("abcdefgh ", max_size=30)
channels = st.sampled_from(["content", "reasoning"])


@given(st.lists(st.tuples(st.just(0), channels, words), max_size=30), st.integers(4, 40), st.data())
def test_allowed_text_arrives_in_order_and_at_most_a_window_waits(
    pieces: list[Piece], window: int, data: st.DataObject
) -> None:
    check = WordCheck()
    overlap = data.draw(st.integers(0, window // 2))
    outcome = moderate(pieces, check, window, overlap)
    assert (outcome.left, outcome.blocked) == (pieces, False)
    assert all(held < window + 3 * overlap for held in outcome.held)
    assert check.longest <= window * LONGEST


@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 20), st.integers(6, 60), st.data())
@settings(max_examples=300)
def test_no_part_of_a_banned_phrase_leaves(before: list[str], after: int, window: int, data: st.DataObject) -> None:
    """Z does not occur elsewhere: no letter of the phrase may leave, however the text is split."""
    overlap = data.draw(st.integers(1, window // 2))
    phrase = "Z" * data.draw(st.integers(1, overlap))
    text = "".join(before) + phrase + "x" * after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=15)))
    pieces = content(*(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)))
    outcome = moderate(pieces, WordCheck(phrase), window, overlap)
    assert outcome.blocked
    # Pieces are whole events: none that left contains a part of the phrase.
    assert "Z" not in "".join(text or "" for _, _, text in outcome.left)


@given(st.lists(words, max_size=20), st.integers(1, 12), st.integers(0, 8), st.data())
def test_no_token_of_a_banned_phrase_leaves(before: list[str], length: int, more: int, data: st.DataObject) -> None:
    """As many tokens as the overlap, each of the maximum length: the buffer counts tokens, not letters."""
    phrase = [f"{number:X}" * LONGEST for number in range(length)]
    pieces = content(*before, *phrase, *"x" * data.draw(st.integers(0, 30)))
    outcome = moderate(pieces, WordCheck("".join(phrase)), 2 * length + more, length)
    assert outcome.blocked
    assert not {text for _, _, text in outcome.left} & set(phrase)


@given(st.integers(5, 20), st.integers(0, 30), st.integers(0, 30))
def test_phrase_in_single_letters_does_not_leave(overlap: int, before: int, after: int) -> None:
    phrase = "".join(f"{number:04d}" for number in range(overlap))
    pieces = content(*"x" * before, *phrase, *"x" * after)
    outcome = moderate(pieces, WordCheck(phrase), 2 * overlap, overlap)
    assert outcome.blocked
    assert "0" not in "".join(text or "" for _, _, text in outcome.left)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.just("content"), st.one_of(words, st.none())), max_size=40),
    st.integers(2, 12),
)
def test_choices_arrive_in_order(pieces: list[Piece], overlap: int) -> None:
    outcome = moderate(pieces, WordCheck(), 2 * overlap, overlap)
    assert (outcome.left, outcome.blocked) == (pieces, False)


def test_paused_choice_holds_its_tail() -> None:
    """A preempted sequence pauses and has not ended."""
    pause: list[Piece] = [(1, "content", "x")] * 50
    outcome = moderate([*content("Z"), *pause, *content("Z"), (0, "", None), (1, "", None)], WordCheck("ZZ"), 8, 4)
    assert (outcome.left, outcome.blocked) == ([], True)


@pytest.mark.parametrize(
    "pieces",
    [
        [*content("a"), (0, "content", None), *[(1, "content", "b" * 5)] * 20],
        [*[(0, "reasoning", "r" * 5)] * 6, *content(*["c" * 5] * 20)],
    ],
)
def test_finished_choice_or_channel_holds_nothing_back(pieces: list[Piece]) -> None:
    assert moderate(pieces, WordCheck(), 8, 4).before_end > len(pieces) - 8


def test_huge_delta_is_checked_in_windows() -> None:
    check = WordCheck("BAD")
    outcome = moderate(content("x" * 10_000 + "BAD" + "y" * 10_000), check, 100, 20)
    assert (outcome.left, outcome.blocked) == ([], True)
    assert check.longest <= 100 * 4


@pytest.mark.parametrize("window", [4, 6, 20])
def test_windows_advance_over_a_long_token_before_short_ones(window: int) -> None:
    pieces = content(*["a" * LONGEST, *"b" * 30, "c" * 100, *"d" * 30] * 3)
    outcome = moderate(pieces, WordCheck(), window, window // 2)
    assert (outcome.left, outcome.blocked) == (pieces, False)


def test_slow_stream_is_checked_before_the_window_is_full() -> None:
    now = [0.0]
    buffer = ModerationBuffer(WordCheck(), 100, 0, max_hold_s=1.0, clock=lambda: now[0])

    async def run() -> list[bool]:
        released = []
        for text in ("a", "b", "c"):
            released.append(bool(await buffer.feed(f"data: {text}\n\n".encode(), [((0,), text)])))
            now[0] += 0.6
        return released

    assert asyncio.run(run()) == [False, False, True]


def test_unknown_fields_of_a_delta_are_text() -> None:
    delta = {
        "role": "assistant",
        "content": "a",
        "reasoning": "b",
        "new_field": {"deep": ["c"]},
        "tool_calls": [{"index": 1, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    kept, found = read_event("chat", {"choices": [{"index": 0, "delta": delta}]})
    assert [text for _, text in found] == ["a", "b", "x", "f", "{}"]
    assert kept["choices"][0]["delta"] == {key: value for key, value in delta.items() if key != "new_field"}
    again = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": "1"}}]}}]}
    assert read_event("chat", again)[1][0][0] == found[4][0], "pieces of one tool call continue one channel"


def test_finished_choices() -> None:
    ends = [{"index": 0, "delta": {}, "finish_reason": None}, {"index": 1, "delta": {}, "finish_reason": "stop"}]
    assert finished_choices({"choices": ends}) == {1}
    assert not finished_choices({"usage": {}})
