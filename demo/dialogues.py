"""The corpus as conversations, for training and evaluating the demo model.

A `Dialogue` is a list of chat messages and its only correct reply. All randomness comes from the `random.Random` that
the caller passes, so a seed determines the whole stream.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tool_tasks import Forms, Task, Tool, Tools

CORPUS = Path(__file__).parent / "corpus"
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The expected output: the reasoning, used when reasoning is on, and the answer."""

    think: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages up to the turn that asks, whether reasoning is on, the correct reply, and the tools on offer."""

    messages: list[Message]
    thinking: bool
    reply: Reply
    tools: list[Tool] | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the kinds of conversations; the others are ordinary questions, of which `sums` are sums."""

    calls: float = 0.0  # a tool is to be called
    results: float = 0.0  # a tool has answered
    idle: float = 0.0  # tools are on offer and none is needed
    forms: float = 0.0  # an answer as JSON
    repeats: float = 0.0  # names and numbers are to be repeated
    pieced: float = 0.0  # share of names that are put together from pieces of words
    sums: float = 0.22
    system: float = 0.3  # share with a system message
    earlier: float = 0.2  # share with earlier turns


PLAIN = Mix()
COPYING = Mix(repeats=1, pieced=0.5, system=0, earlier=0)
TOOLS_MOSTLY = Mix(
    calls=0.3, results=0.08, idle=0.08, forms=0.2, repeats=0.06, pieced=0.5, sums=0.3, system=0.2, earlier=0.12
)
EVERYTHING = Mix(
    calls=0.2, results=0.06, idle=0.09, forms=0.13, repeats=0.02, pieced=0.5, sums=0.33, system=0.33, earlier=0.24
)
MORE_TOPICS = Mix(
    calls=0.18, results=0.05, idle=0.1, forms=0.1, repeats=0.01, pieced=0.5, sums=0.28, system=0.36, earlier=0.28
)


class Corpus:
    """All questions with their replies, and the templates that turn them into conversations."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.frames: dict[str, Any] = _read(folder / "frames.yaml")
        topics: list[dict[str, Any]] = _read(folder / "topics.yaml")
        unknown: dict[str, Any] = _read(folder / "unknown.yaml")
        self.topics: dict[str, list[tuple[str, Reply]]] = {}
        self.held_out: list[tuple[str, Reply]] = []
        for topic in topics:
            reply = Reply(topic["think"], topic["answer"])
            self.topics[topic["id"]] = [(question, reply) for question in self._questions(topic)]
            self.held_out += [(question, reply) for question in topic["held_out"]]
            for kind in ("subject", "task"):
                names = topic.get(kind, [])[:1]
                self.held_out += [(_fill(f, names[0]), reply) for f in self.frames[f"{kind}_held_out"] if names]
        reply = Reply(unknown["think"], unknown["answer"])
        self.unknown = [(question, reply) for question in unknown["ask"]]
        self.unknown_reply = reply
        self.held_out += [(question, reply) for question in unknown["held_out"]]
        texts = [*self.frames["filler"], *unknown["ask"], *(topic["answer"] for topic in topics)]
        words = {word for text in texts for word in re.findall(r"\b[a-z]{4,9}\b", text)}
        self.tools = Tools(_read(folder / "tools.yaml"), sorted(words))
        self.forms = Forms(_read(folder / "forms.yaml"), self.tools.values)

    def _questions(self, topic: dict[str, Any]) -> list[str]:
        questions = list(topic.get("ask", []))
        for kind in ("subject", "task"):
            questions += [_fill(frame, name) for frame in self.frames[kind] for name in topic.get(kind, [])]
        return questions

    # -- sums ---------------------------------------------------------------------------------------------------------

    def sums(self) -> Iterator[tuple[int, str, int]]:
        """Every sum that the model should know, as (a, sign, b)."""
        limit = self.frames["arithmetic"]["limit"]
        for a in range(limit + 1):
            for b in range(limit + 1):
                yield a, "+", b
                yield a, "*", b
                if a >= b:
                    yield a, "-", b

    def sum_reply(self, a: int, sign: str, b: int) -> Reply:
        """The correct reply to a sum within the limit."""
        arithmetic = self.frames["arithmetic"]
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        parts = {"a": a, "b": b, "c": result, "sign": sign, "word": arithmetic["words"][sign]}
        return Reply(arithmetic["think"].format(**parts), arithmetic["answer"].format(**parts))

    def sum_question(self, rng: random.Random, a: int, sign: str, b: int) -> str:
        kind = {"+": "add", "-": "subtract", "*": "multiply"}[sign]
        return str(rng.choice(self.frames["arithmetic"][kind]).format(a=a, b=b))

    def _any_sum(self, rng: random.Random) -> tuple[str, Reply]:
        arithmetic = self.frames["arithmetic"]
        if rng.random() < 0.15:
            kind = rng.choice(["add", "subtract", "multiply", "divide"])
            a, b = rng.choice([rng.randint(11, 99), rng.randint(100, 9999)]), rng.randint(2, 120)
            if rng.random() < 0.3:
                a, b = b, a
            question = rng.choice(arithmetic[kind]).format(a=a, b=b)
            return question, Reply(arithmetic["think_beyond"], arithmetic["answer_beyond"])
        a, sign, b = rng.choice(self._known_sums)
        return self.sum_question(rng, a, sign, b), self.sum_reply(a, sign, b)

    @property
    def _known_sums(self) -> list[tuple[int, str, int]]:
        if not hasattr(self, "_sums"):
            self._sums = list(self.sums())
        return self._sums

    # -- conversations ------------------------------------------------------------------------------------------------

    def any_question(self, rng: random.Random, sums: float = PLAIN.sums) -> tuple[str, Reply]:
        """A question of any kind; topics are equally likely, whatever the number of their wordings."""
        draw = rng.random()
        if draw < sums:
            return self._any_sum(rng)
        if draw < sums + 0.1:
            return rng.choice(self.unknown)
        questions = self.topics[rng.choice(self._ids)]
        return rng.choice(questions)

    @property
    def _ids(self) -> list[str]:
        return list(self.topics)

    def dialogue(self, rng: random.Random, mix: Mix = EVERYTHING, *, notes: tuple[int, int] | None = None) -> Dialogue:
        """A random conversation; `notes` gives the number of filler sentences before the question, from and to."""
        self.tools.values.pieced = mix.pieced
        system = rng.choice(self.frames["system"]) if rng.random() < mix.system else ""
        turns: list[Message] = []
        for _ in range(rng.choice([1, 1, 2, 3]) if rng.random() < mix.earlier else 0):
            earlier, past_reply = self.any_question(rng, mix.sums)
            turns.append({"role": "user", "content": self._reword(rng, earlier)})
            turns.append({"role": "assistant", "content": past_reply.answer})
        draw = rng.random() - mix.calls
        tools: list[Tool] | None = None
        if draw < 0:
            asked, reply, tools = self.call(rng)
        elif (draw := draw - mix.results) < 0:
            asked, reply, tools = self.result(rng)
            if rng.random() < 0.25:
                question, next_reply = self.any_question(rng, mix.sums)
                asked.append({"role": "assistant", "content": reply.answer})
                asked.append({"role": "user", "content": self._reword(rng, question)})
                reply = next_reply
        elif (draw := draw - mix.idle) < 0:
            asked, reply, tools = self._idle(rng, mix)
        elif (draw := draw - mix.repeats) < 0:
            text, reply = self.repeat(rng)
            asked = [{"role": "user", "content": text}]
        elif draw - mix.forms < 0:
            asked, reply = self.form(rng)
            if asked[0]["role"] == "system":
                system = f"{system} {asked.pop(0)['content']}".strip()
        else:
            question, reply = self.any_question(rng, mix.sums)
            asked = [{"role": "user", "content": self._reword(rng, question)}]
        if notes:
            sentences = " ".join(rng.choices(self.frames["filler"], k=rng.randint(*notes)))
            if rng.random() < 0.25:
                system = f"{system} {sentences}".strip()
            else:
                text = rng.choice(self.frames["note"]).format(notes=sentences, question=asked[0]["content"])
                asked[0] = {"role": "user", "content": text}
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        return Dialogue(messages + turns + asked, rng.random() < 0.5, reply, tools)

    # -- tools and JSON -----------------------------------------------------------------------------------------------

    def call(
        self, rng: random.Random, *, held_out: bool = False, new_tool: bool = False
    ) -> tuple[list[Message], Reply, list[Tool]]:
        """A question that needs one of the tools; the reply calls it."""
        task = self.tools.task(rng, held_out=held_out, new_tool=new_tool)
        tools = self.tools.offer(rng, task, rng.choice([0, 0, 1, 1, 2]), new_tool=new_tool)
        return [{"role": "user", "content": self._polite(rng, task.question)}], self._call_reply(task), tools

    def result(self, rng: random.Random, *, held_out: bool = False) -> tuple[list[Message], Reply, list[Tool]]:
        """A question, the call and the tool's message; the reply reports the result."""
        task = self.tools.task(rng, held_out=held_out)
        content, answer = self.tools.result(rng, task, held_out=held_out)
        asked = [{"role": "user", "content": self._polite(rng, task.question)}, task.call]
        asked.append({"role": "tool", "content": content})
        tools = self.tools.offer(rng, task, rng.choice([0, 0, 0, 1]))
        return asked, Reply(self.tools.corpus["think_result"], answer), tools

    def _idle(self, rng: random.Random, mix: Mix) -> tuple[list[Message], Reply, list[Tool] | None]:
        """Tools that do not help: an ordinary question, or one that would need a tool that is not on offer."""
        if rng.random() < 0.7:
            question, reply = self.any_question(rng, mix.sums)
            asked: list[Message] = [{"role": "user", "content": self._reword(rng, question)}]
            return asked, reply, self.tools.offer(rng, None, rng.choice([1, 1, 2]))
        task = self.tools.task(rng)
        while task.sums:
            task = self.tools.task(rng)
        tools = [tool for tool in self.tools.offer(rng, task, rng.choice([0, 1, 1, 2])) if tool is not task.tool]
        return [{"role": "user", "content": self._polite(rng, task.question)}], self.unknown_reply, tools or None

    def _call_reply(self, task: Task) -> Reply:
        return Reply(self.tools.corpus["think"].format(name=task.name), task.call_text)

    def form(self, rng: random.Random, *, held_out: bool = False) -> tuple[list[Message], Reply]:
        """A question whose answer is a JSON object: stated facts, the result of a sum, or an ordinary answer.

        The request for JSON is in the user's message or in a system message.
        """
        corpus, draw = self.forms.corpus, rng.random()
        wanted: dict[str, Any]
        if held_out or draw < 0.7:
            text, wanted = self.forms.facts(rng, held_out=held_out)
            think = corpus["think"]
        elif draw < 0.85:
            a, sign, b = rng.choice(self._known_sums)
            text, think = self.sum_question(rng, a, sign, b), self.sum_reply(a, sign, b).think
            wanted = {rng.choice(corpus["result_keys"]): {"+": a + b, "-": a - b, "*": a * b}[sign]}
        else:
            text, reply = self.any_question(rng)
            think, wanted = reply.think, {rng.choice(corpus["text_keys"]): reply.answer}
        request, answer = self.forms.request(rng, list(wanted)), Reply(think, json.dumps(wanted))
        if rng.random() < 0.3:
            return [{"role": "system", "content": request}, {"role": "user", "content": text}], answer
        return [{"role": "user", "content": self.forms.joined(rng, text, request)}], answer

    def repeat(self, rng: random.Random, *, held_out: bool = False) -> tuple[str, Reply]:
        """Names and numbers to be repeated: the shortest lesson in copying from the prompt."""
        corpus, values = self.forms.corpus["repeat"], self.tools.values
        kinds = rng.choices(["city", "person", "number"], k=rng.randint(2, 6))
        words = rng.choice([" ", ", "]).join(str(values.draw(rng, kind, held_out=held_out)) for kind in kinds)
        return rng.choice(corpus["ask"]).format(words=words), Reply(corpus["think"], words)

    def _polite(self, rng: random.Random, question: str) -> str:
        """Polite words around a question whose names must stay as they are."""
        text = rng.choice(self.frames["before"]) + question if rng.random() < 0.1 else question
        if rng.random() < 0.2:
            text = text.rstrip("?.!")
        elif rng.random() < 0.1:
            text += rng.choice([" Thanks.", ", please", "!", "?"])
        return text

    def _reword(self, rng: random.Random, question: str) -> str:
        """Small changes that must not change the answer: case, punctuation, polite words, a typing error."""
        text = question
        if rng.random() < 0.15:
            text = rng.choice(self.frames["before"]) + text
        if rng.random() < 0.15:
            text += rng.choice(self.frames["after"])
        if rng.random() < 0.2:
            text = text.lower()
        if rng.random() < 0.2:
            text = text.rstrip("?.!")
        elif rng.random() < 0.1:
            text += rng.choice(["?", "!", ".", "??"])
        if rng.random() < 0.06 and len(text) > 12 and not any(c.isdigit() for c in text):
            at = rng.randrange(1, len(text) - 2)
            text = text[:at] + rng.choice([text[at + 1] + text[at], "", text[at] * 2]) + text[at + 2 :]
        return text

    # -- for the tokenizer and the record -----------------------------------------------------------------------------

    def texts(self, rng: random.Random, count: int) -> Iterator[str]:
        """Texts in about the distribution of training, to learn the tokenizer."""
        for _ in range(count):
            dialogue = self.dialogue(rng)
            yield from (message["content"] for message in dialogue.messages)
            for tool in dialogue.tools or []:
                function = tool["function"]
                properties = function["parameters"]["properties"]
                listed = ", ".join(f"{name}: {schema['type']}" for name, schema in properties.items())
                yield f"{function['name']}({listed}) {function.get('description', '')}"
            yield dialogue.reply.think
            yield dialogue.reply.answer
        for _ in range(4):
            yield from self.frames["filler"]


def digest(folder: Path = CORPUS) -> str:
    """SHA-256 over all corpus files, by name and content."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.yaml")):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _fill(frame: str, name: str) -> str:
    text = frame.format(x=name)
    return text[0].upper() + text[1:] if frame.startswith("{") else text
