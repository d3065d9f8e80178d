"""The window on a stream: nothing leaves that was not read, and no more is held back than one window.

Text is kept in lanes: content, reasoning and each tool call of each choice. A lane is judged when `size` tokens wait in
it. What was judged leaves, but for a tail of `overlap` tokens that is judged again together with what follows. So of
any phrase of up to `overlap` tokens not even a part leaves before the whole was judged. A lane has ended when its
answer did, or went on in another lane; an answer that pauses holds the others back, for events leave in their order.

The engine sends a token an event, so a piece of text is a token. A piece that is too long for one is several (a tool's
arguments at once, or speculative decoding) and counts as one for each four characters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from time import monotonic

from hybridserve.gateway.requests.api_formats import ChannelKey, Texts
from hybridserve.guards.base import GuardVerdict

# English text has about four characters to a token; its longest words that are one token have some sixteen.
_CHARS, _LONGEST = 4, 16


class StreamBlocked(Exception):
    """The guard did not allow what came."""

    def __init__(self, verdict: GuardVerdict) -> None:
        super().__init__(verdict.outcome)
        self.verdict = verdict


class _Channel:
    """One text in tokens. Positions count from its beginning; `tokens` starts at `start`."""

    __slots__ = ("answer", "cleared", "judged", "start", "tokens")

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.tokens: list[str] = []
        self.start = 0
        self.judged = 0
        self.cleared = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class ModerationBuffer:
    """Holds the events of one stream until their text is allowed.

    Args:
        judge: a verdict on a piece of text.
        size: tokens; the most that waits in a lane.
        overlap: tokens judged twice, at most half of `size`.
        hold_s: text that waits longer is judged when the next event comes, however little it is.
    """

    def __init__(
        self,
        judge: Callable[[str], Awaitable[GuardVerdict]],
        size: int,
        overlap: int,
        hold_s: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._judge = judge
        self._size = size
        self._overlap = overlap
        self._hold = hold_s
        self._clock = clock
        self._lanes: dict[ChannelKey, _Channel] = {}
        self._finished: set[object] = set()
        self._held: deque[tuple[bytes, list[tuple[_Channel, int]]]] = deque()
        self._fresh = 0
        self._since = 0.0

    async def feed(self, event: bytes, texts: Texts, finished: Collection[object] = ()) -> bytes:
        """Take an event and the text it carries; give the events that may leave now, in their order.

        Args:
            finished: answers that end with this event.

        Raises:
            StreamBlocked: the verdict was not allow. What is still held must not leave.
        """
        self._finished.update(finished)
        if not texts and not self._held:
            return event
        marks = []
        for key, text in texts:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = _Channel(key[0])
            if not self._fresh:
                self._since = self._clock()
            tokens = _tokens(text)
            lane.tokens += tokens
            self._fresh += len(tokens)
            marks.append((lane, lane.end))
        self._held.append((event, marks))
        if self._fresh >= self._size - self._overlap or (self._fresh and self._clock() - self._since >= self._hold):
            await self._settle(final=False)
        return self._release()

    async def finish(self) -> bytes:
        """Judge what is left and give it. Raises StreamBlocked."""
        await self._settle(final=True)
        return self._release()

    @property
    def held_tokens(self) -> int:
        """Tokens that have come and have not left, in the fullest lane."""
        return max((lane.end - lane.cleared for lane in self._lanes.values()), default=0)

    async def _settle(self, *, final: bool) -> None:
        moved = {lane.answer for lane in self._lanes.values() if lane.end > lane.judged} | self._finished
        for lane in self._lanes.values():
            if lane.end == lane.judged:
                if final or lane.answer in moved:
                    lane.cleared = lane.end
                continue
            await self._judge_lane(lane)
            lane.judged = lane.end
            lane.cleared = lane.end if final else max(lane.cleared, lane.end - self._overlap)
            keep = min(len(lane.tokens), self._overlap)
            lane.start, lane.tokens = lane.end - keep, lane.tokens[len(lane.tokens) - keep :]
        self._fresh = 0

    async def _judge_lane(self, lane: _Channel) -> None:
        # One huge delta is more than a guard may take at once: it is read in windows, too.
        step = self._size - self._overlap
        for begin in range(0, max(1, len(lane.tokens) - self._overlap), step):
            verdict = await self._judge("".join(lane.tokens[begin : begin + self._size]))
            if not verdict.allowed:
                raise StreamBlocked(verdict)

    def _release(self) -> bytes:
        out = []
        while self._held and all(end <= lane.cleared for lane, end in self._held[0][1]):
            out.append(self._held.popleft()[0])
        return b"".join(out)


def _tokens(text: str) -> list[str]:
    if len(text) <= _LONGEST:
        return [text] if text else []
    return [text[begin : begin + _CHARS] for begin in range(0, len(text), _CHARS)]
