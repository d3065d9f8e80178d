"""Moderation buffer of a stream: no text is sent before the guard has checked it, and at most one window is held back.

Text is kept in channels: content, reasoning and each tool call of each choice. A channel is checked when `window`
tokens wait in it. Checked text is sent, except for a tail of `overlap` tokens, which is checked again together with the
text that follows. So no part of a phrase of up to `overlap` tokens is sent before the whole phrase was checked. A
channel ends with its choice, or when the choice continues in another channel; a choice that pauses delays the others,
because events are sent in their order.

The engine sends one token per event, so a piece of text is one token. A longer piece holds several tokens (arguments of
a tool call, or speculative decoding) and counts as one for each four characters. Where tokens have fewer than four
bytes, window and overlap have more of them: a model can be made to write single letters, by `logit_bias` or the prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import islice
from time import monotonic

from hybridserve.gateway.responses.response_fields import ChannelKey, Texts
from hybridserve.guards.base import GuardVerdict

# English text has about four characters per token; the longest common words that are one token have about sixteen.
_CHARS_PER_TOKEN, _MAX_TOKEN_CHARS = 4, 16


class StreamBlocked(Exception):
    """The guard's verdict on the stream was not `allow`."""

    def __init__(self, verdict: GuardVerdict) -> None:
        super().__init__(verdict.outcome)
        self.verdict = verdict


class _Channel:
    """The text of one channel in tokens.

    Positions count from its beginning: `tokens` starts at `start`, everything before `checked` was checked, and
    everything before `cleared` may leave.
    """

    __slots__ = ("checked", "choice", "cleared", "start", "tokens")

    def __init__(self, choice: object) -> None:
        self.choice = choice
        self.tokens: list[str] = []
        self.start = 0
        self.checked = 0
        self.cleared = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class ModerationBuffer:
    """Holds the events of one stream until the guard has allowed their text.

    Args:
        check: returns the guard's verdict on a text.
        window: tokens; the most that wait in a channel, and three times `overlap` more where tokens are short.
        overlap: tokens that are checked twice, at most half of `window`.
        max_hold_s: text that waits longer is checked when the next event arrives, however little it is.
    """

    def __init__(
        self,
        check: Callable[[str], Awaitable[GuardVerdict]],
        window: int,
        overlap: int,
        max_hold_s: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._check = check
        self._window = window
        self._overlap = overlap
        self._max_hold = max_hold_s
        self._clock = clock
        self._channels: dict[ChannelKey, _Channel] = {}
        self._finished: set[object] = set()
        self._events: deque[tuple[bytes, list[tuple[_Channel, int]]]] = deque()
        self._unchecked = 0
        self._waiting_since = 0.0

    async def feed(self, event: bytes, texts: Texts, finished: Collection[object] = ()) -> bytes:
        """Take an event with the text it adds, and return the events that may leave now, in their order.

        Args:
            finished: choices that end with this event.

        Raises:
            StreamBlocked: the verdict was not `allow`. The events still held must not leave.
        """
        self._finished.update(finished)
        if not texts and not self._events:
            return event
        ends = []
        for key, text in texts:
            channel = self._channels.get(key)
            if channel is None:
                channel = self._channels[key] = _Channel(key[0])
            if not self._unchecked:
                self._waiting_since = self._clock()
            tokens = _tokens(text)
            channel.tokens += tokens
            self._unchecked += len(tokens)
            ends.append((channel, channel.end))
        self._events.append((event, ends))
        full = self._unchecked >= self._window - self._overlap
        if full or (self._unchecked and self._clock() - self._waiting_since >= self._max_hold):
            await self._check_channels(final=False)
        return self._release()

    async def finish(self) -> bytes:
        """Check the remaining text and return its events.

        Raises:
            StreamBlocked: as `feed`.
        """
        await self._check_channels(final=True)
        return self._release()

    @property
    def held_tokens(self) -> int:
        """Tokens that arrived and have not left, in the fullest channel."""
        return max((channel.end - channel.cleared for channel in self._channels.values()), default=0)

    async def _check_channels(self, *, final: bool) -> None:
        advanced = {channel.choice for channel in self._channels.values() if channel.end > channel.checked}
        advanced |= self._finished
        for channel in self._channels.values():
            if channel.end == channel.checked:
                if final or channel.choice in advanced:
                    channel.cleared = channel.end
                continue
            await self._check_channel(channel)
            channel.checked = channel.end
            keep = _count(reversed(channel.tokens), self._overlap)
            channel.cleared = channel.end if final else max(channel.cleared, channel.end - keep)
            channel.start, channel.tokens = channel.end - keep, channel.tokens[len(channel.tokens) - keep :]
        self._unchecked = 0

    async def _check_channel(self, channel: _Channel) -> None:
        # One huge delta may be more than a guard accepts at once, so it is checked in windows too.
        tokens, begin, keep = channel.tokens, 0, 0
        while True:
            end = len(tokens)
            if end - begin > self._window:
                end = begin + _count(islice(tokens, begin, None), self._window)
                # One long token before many short ones: the overlap would be the whole window.
                while (keep := _count(reversed(tokens[begin:end]), self._overlap)) >= end - begin and end < len(tokens):
                    end = min(end + self._window, len(tokens))
            verdict = await self._check("".join(tokens[begin:end]))
            if not verdict.allowed:
                raise StreamBlocked(verdict)
            if end == len(tokens):
                return
            begin = end - keep

    def _release(self) -> bytes:
        released = []
        while self._events and all(end <= channel.cleared for channel, end in self._events[0][1]):
            released.append(self._events.popleft()[0])
        return b"".join(released)


def _count(tokens: Iterable[str], least: int) -> int:
    """How many of the tokens, from the first one, are at least `least` tokens with four bytes each; all if too few."""
    count, missing = 0, least * _CHARS_PER_TOKEN
    for token in tokens:
        if count >= least and missing <= 0:
            break
        count += 1
        missing -= len(token) if token.isascii() else len(token.encode("utf-8", "replace"))
    return count


def _tokens(text: str) -> list[str]:
    if len(text) <= _MAX_TOKEN_CHARS:
        return [text] if text else []
    return [text[begin : begin + _CHARS_PER_TOKEN] for begin in range(0, len(text), _CHARS_PER_TOKEN)]
