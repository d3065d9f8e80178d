"""SSE decoding, and the moderation buffer: no unchecked text leaves, and at most a window waits."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridserve.gateway.requests.api_formats import CHAT
from hybridserve.gateway.responses.moderation_buffer import ModerationBuffer, StreamBlocked
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


def run_buffer(pieces: list[tuple[str, str]], buffer: ModerationBuffer) -> tuple[list[bytes], bool, list[int]]:
    """Feed (channel, text) pieces; what left, whether it was blocked, and the tokens held after each piece."""

    async def go() -> tuple[list[bytes], bool, list[int]]:
        out, waiting = [], []
        try:
            for number, (channel, text) in enumerate(pieces):
                event = f"data: {json.dumps([number, channel, text])}\n\n".encode()
                out.append(await buffer.feed(event, [((0, channel), text)] if text else []))
                waiting.append(buffer.held_tokens)
            out.append(await buffer.finish())
        except StreamBlocked:
            return out, True, waiting
        return out, False, waiting

    return asyncio.run(go())


def delivered(out: list[bytes]) -> list[tuple[str, str]]:
    return [tuple(json.loads(event_data(event) or "")[1:]) for event in split_events(b"".join(out))]


words = st.text("abcdefgh ", max_size=30)
pieces_of_channels = st.lists(st.tuples(st.sampled_from(["content", "reasoning"]), words), max_size=30)


@given(pieces_of_channels, st.integers(4, 40), st.data())
def test_allowed_text_arrives_in_order_and_at_most_a_window_waits(
    pieces: list[tuple[str, str]], size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size // 2))
    check = WordCheck()
    out, blocked, waiting = run_buffer(pieces, ModerationBuffer(check, size, overlap, max_hold_s=1e9))
    assert not blocked
    assert delivered(out) == pieces
    assert all(held < size for held in waiting)
    assert check.longest <= size * LONGEST


@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 20), st.integers(6, 60), st.data())
@settings(max_examples=300)
def test_no_part_of_a_banned_phrase_leaves(before: list[str], after: int, size: int, data: st.DataObject) -> None:
    """Z does not occur elsewhere: no letter of the phrase may leave, however the text is split."""
    overlap = data.draw(st.integers(1, size // 2))
    phrase = "Z" * data.draw(st.integers(1, overlap))
    text = "".join(before) + phrase + "x" * after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=15)))
    pieces = [("content", text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out, blocked, _ = run_buffer(pieces, ModerationBuffer(WordCheck(phrase), size, overlap, max_hold_s=1e9))
    assert blocked
    # Pieces are whole events: none that left contains a part of the phrase.
    assert "Z" not in "".join(piece for _, piece in delivered(out))


@given(st.lists(words, max_size=20), st.integers(1, 12), st.integers(0, 8), st.data())
def test_no_token_of_a_banned_phrase_leaves(before: list[str], length: int, more: int, data: st.DataObject) -> None:
    """As many tokens as the overlap, each of the maximum length: the buffer counts tokens, not letters."""
    phrase = [f"{number:X}" * LONGEST for number in range(length)]
    pieces = [("content", text) for text in [*before, *phrase, *"x" * data.draw(st.integers(0, 30))]]
    out, blocked, _ = run_buffer(
        pieces, ModerationBuffer(WordCheck("".join(phrase)), 2 * length + more, length, max_hold_s=1e9)
    )
    assert blocked
    assert not {piece for _, piece in delivered(out)} & set(phrase)


def run_choices(
    buffer: ModerationBuffer, pieces: list[tuple[int, str | None]]
) -> tuple[list[tuple[int, str | None]], bool]:
    """Feed (choice, text) pieces, None for its end; those that left, and whether the stream was blocked."""

    async def go() -> tuple[list[bytes], bool]:
        out = []
        try:
            for answer, text in pieces:
                event = f"data: {json.dumps([answer, text])}\n\n".encode()
                texts = [((answer, "content"), text)] if text else []
                out.append(await buffer.feed(event, texts, {answer} if text is None else ()))
            out.append(await buffer.finish())
        except StreamBlocked:
            return out, True
        return out, False

    out, blocked = asyncio.run(go())
    return [tuple(json.loads(event_data(event) or "")) for event in split_events(b"".join(out))], blocked


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(words, st.none())), max_size=40), st.integers(2, 12))
def test_choices_arrive_in_order(pieces: list[tuple[int, str | None]], overlap: int) -> None:
    assert run_choices(ModerationBuffer(WordCheck(), 2 * overlap, overlap, max_hold_s=1e9), pieces) == (pieces, False)


def test_paused_choice_holds_its_tail() -> None:
    """A preempted sequence pauses and has not ended."""
    pause: list[tuple[int, str | None]] = [(1, "x")] * 50
    left, blocked = run_choices(
        ModerationBuffer(WordCheck("ZZ"), 8, 4, max_hold_s=1e9), [(0, "Z"), *pause, (0, "Z"), (0, None), (1, None)]
    )
    assert blocked
    assert left == []


def test_finished_choice_holds_nothing_back() -> None:
    buffer = ModerationBuffer(WordCheck(), 8, 4, max_hold_s=1e9)

    async def go() -> int:
        left = await buffer.feed(b"data: a\n\n", [((0, "content"), "a")])
        left += await buffer.feed(b"data: end\n\n", [], {0})
        for _ in range(20):
            left += await buffer.feed(b"data: b\n\n", [((1, "content"), "b")])
        return len(split_events(left))

    assert asyncio.run(go()) > 22 - 8


def test_huge_delta_is_checked_in_windows() -> None:
    check = WordCheck("BAD")
    out, blocked, _ = run_buffer([("content", "x" * 10_000 + "BAD" + "y" * 10_000)], ModerationBuffer(check, 100, 20))
    assert blocked
    assert check.longest <= 100 * 4
    assert b"".join(out) == b""


def test_slow_stream_is_checked_before_the_window_is_full() -> None:
    now = [0.0]
    buffer = ModerationBuffer(WordCheck(), 100, 0, max_hold_s=1.0, clock=lambda: now[0])

    async def go() -> list[int]:
        sizes = []
        for text in ("a", "b", "c"):
            sizes.append(len(await buffer.feed(f"data: {text}\n\n".encode(), [((0,), text)])))
            now[0] += 0.6
        return sizes

    first, second, third = asyncio.run(go())
    assert (first, second) == (0, 0)
    assert third > 0


def test_reasoning_that_ended_does_not_hold_the_answer_back() -> None:
    pieces = [("reasoning", "r" * 5)] * 6 + [("content", "c" * 5)] * 20
    buffer = ModerationBuffer(WordCheck(), 8, 4, max_hold_s=1e9)

    async def go() -> int:
        left = 0
        for channel, text in pieces:
            left += len(split_events(await buffer.feed(f"data: {text}\n\n".encode(), [((0, channel), text)])))
        return left

    assert asyncio.run(go()) > len(pieces) - 8


def test_unknown_fields_of_a_delta_are_text() -> None:
    delta = {
        "role": "assistant",
        "content": "a",
        "reasoning": "b",
        "new_field": {"deep": ["c"]},
        "tool_calls": [{"index": 1, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    found = CHAT.event_texts({"choices": [{"index": 0, "delta": delta}]})
    assert [text for _, text in found] == ["a", "b", "c", "f", "{}"]
    again = CHAT.event_texts(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": "1"}}]}}]}
    )
    assert again[0][0] == found[4][0], "pieces of one tool call continue one channel"


def test_finished_choices() -> None:
    ends = [{"index": 0, "delta": {}, "finish_reason": None}, {"index": 1, "delta": {}, "finish_reason": "stop"}]
    assert CHAT.finished_choices({"choices": ends}) == {1}
    assert CHAT.finished_choices({"usage": {}}) == set()
