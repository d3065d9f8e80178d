"""Tools that a request offers, the calls that answer a question, and JSON answers: everything copied from the prompt.

The names and numbers of the held-out sets are never drawn for training: held-out numbers are those from 10 on with
rest 3 when divided by 7.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

Value = str | int
Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A question, the tool that it needs with its arguments, and what to say about a result."""

    question: str
    tool: Tool
    arguments: dict[str, Value]
    answer: str  # with {result}, where the answer repeats the tool's result
    key: str  # the result's name in a JSON object
    sums: bool

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])

    @property
    def call(self) -> dict[str, Any]:
        """The message of the assistant that calls the tool."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}

    @property
    def call_text(self) -> str:
        return f'<tool_call>{{"name": "{self.name}", "arguments": {json.dumps(self.arguments)}}}</tool_call>'


class Values:
    """Names and numbers, from the training set or from the held-out set."""

    def __init__(self, corpus: dict[str, Any], words: list[str]) -> None:
        self.lists: dict[str, dict[str, list[str]]] = corpus["values"]
        self.syllables: list[str] = corpus["syllables"]
        self.new = {name for names in self.lists.values() for name in names["held_out"]}
        self.words = words
        self.pieced = 0.0
        """Share of the names that are put together from pieces of words, so that every token occurs in a name."""

    def draw(self, rng: random.Random, kind: str, *, held_out: bool = False) -> Value:
        if kind in self.lists:
            if held_out:
                return rng.choice(self.lists[kind]["held_out"])
            if kind != "gpu" and self.pieced and rng.random() < self.pieced:
                name = "".join(self._piece(rng) for _ in range(rng.choice([1, 2, 2, 3])))[:11].capitalize()
                return name if name not in self.new else self.draw(rng, kind)
            if kind != "gpu" and rng.random() < 0.5:
                name = "".join(rng.choices(self.syllables, k=rng.choice([2, 2, 3]))).capitalize()
                return name if name not in self.new else self.draw(rng, kind)
            return rng.choice(self.lists[kind]["known"])
        return self._number(rng, kind, held_out)

    def _piece(self, rng: random.Random) -> str:
        word = rng.choice(self.words)
        at = rng.randrange(len(word) - 2)
        return word[at : at + rng.choice([2, 3, 3, 4, 5])]

    def _number(self, rng: random.Random, kind: str, held_out: bool) -> int:
        high = {"hour": 23, "small": 99, "replica": 40}.get(kind) or rng.choice([99, 999, 9999])
        while True:
            number = rng.randint(1, high)
            if (number >= 10 and number % 7 == 3) == held_out:
                return number


class Tools:
    """Tasks of all kinds from `tools.yaml`."""

    def __init__(self, corpus: dict[str, Any], words: list[str]) -> None:
        self.corpus = corpus
        new_tools = {lookup["noun"] for lookup in corpus["lookups_held_out"]}
        self.values = Values(corpus, [word for word in words if word not in new_tools])

    def task(self, rng: random.Random, *, held_out: bool = False, new_tool: bool = False) -> Task:
        if new_tool or rng.random() < 0.65:
            return self._lookup(rng, held_out, new_tool)
        return self._action(rng, held_out)

    def _lookup(self, rng: random.Random, held_out: bool, new_tool: bool) -> Task:
        lookup = rng.choice(self.corpus["lookups_held_out" if new_tool else "lookups"])
        kind = self.corpus["kinds"][lookup["kind"]]
        if self.values.pieced and not new_tool and rng.random() < 0.3:
            # Any word may name a tool.
            lookup = {**lookup, "noun": rng.choice(self.values.words), "ask": None}
        parameter, noun = rng.choice(kind["parameters"]), lookup["noun"]
        name = rng.choice(self.corpus["prefixes"]) + noun
        words = {"noun": noun, "of": lookup["of"], "thing": rng.choice(kind["things"])}
        tool = _tool(name, rng.choice(self.corpus["descriptions"]).format(**words), {parameter: kind["type"]})
        value = self.values.draw(rng, lookup["kind"], held_out=held_out)
        shown = rng.choice(kind["text"]).format(v=value)
        asks = lookup.get("ask") if rng.random() < 0.3 else None
        question = rng.choice(asks or self.corpus["ask"]).format(noun=noun, of=lookup["of"], v=shown)
        answer = self.corpus["answer_result"].format(noun=noun, of=lookup["of"], v=shown, result="{result}")
        return Task(question[0].upper() + question[1:], tool, {parameter: value}, answer, noun, sums=False)

    def _action(self, rng: random.Random, held_out: bool) -> Task:
        action = rng.choice(self.corpus["actions"])
        kinds: dict[str, str] = action["parameters"]
        arguments = {name: self.values.draw(rng, kind, held_out=held_out) for name, kind in kinds.items()}
        types = {name: "string" if kind in self.values.lists else "integer" for name, kind in kinds.items()}
        tool = _tool(rng.choice(action["names"]), rng.choice([*action["descriptions"], ""]), types)
        question = rng.choice(action["ask"]).format(**arguments)
        answer = action["answer"].format(**arguments, result="{result}")
        return Task(question, tool, arguments, answer, "result", sums=action.get("sums", False))

    def offer(self, rng: random.Random, task: Task | None, others: int, *, new_tool: bool = False) -> list[Tool]:
        """The task's tool among `others` more, none of which answers the question."""
        tools = {task.key + task.name if task.key == "result" else task.key: task.tool} if task else {}
        names = {task.name} if task else set()
        while len(tools) < others + (task is not None):
            other = self.task(rng, new_tool=new_tool and rng.random() < 0.5)
            both_sums = other.sums and (task is None or task.sums)
            key = other.key + other.name if other.key == "result" else other.key
            if key not in tools and other.name not in names and not both_sums:
                tools[key] = other.tool
                names.add(other.name)
        offered = list(tools.values())
        rng.shuffle(offered)
        return offered

    def result(self, rng: random.Random, task: Task, *, held_out: bool = False) -> tuple[str, str]:
        """Content of the tool's message, and the answer to the user."""
        number = self.values.draw(rng, "number", held_out=held_out)
        draw = rng.random()
        value: Value
        if "{result}" not in task.answer:
            return rng.choice(["ok", "done", '{"status": "ok"}', '{"ok": true}']), task.answer
        if task.sums or draw < 0.2 or (task.key == "result" and draw < 0.5):
            value = number
        elif draw < 0.5 or task.key == "result":
            value = f"{number} {rng.choice(self.corpus['units'])}"
        elif draw < 0.75:
            value = self.values.draw(rng, rng.choice(["city", "person"]), held_out=held_out)
        else:
            value = rng.choice(self.corpus["words"])
        content = str(value)
        if rng.random() < 0.5:
            content = json.dumps({rng.choice([task.key, task.key, "result"]): value})
        return content, task.answer.format(result=value)


def _tool(name: str, description: str, types: dict[str, str]) -> Tool:
    properties = {parameter: {"type": kind} for parameter, kind in types.items()}
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = {"type": "object", "properties": properties, "required": list(types)}
    return {"type": "function", "function": function}


class Forms:
    """Questions for JSON from `forms.yaml`."""

    def __init__(self, corpus: dict[str, Any], values: Values) -> None:
        self.corpus, self.values = corpus, values

    def request(self, rng: random.Random, keys: list[str]) -> str:
        """The wish for JSON with these keys."""
        listed = ", ".join(keys[:-1]) + (" and " if len(keys) > 1 else "") + keys[-1]
        if len(keys) > 2 and rng.random() < 0.2:
            listed = ", ".join(keys)
        return str(rng.choice(self.corpus["requests" if len(keys) > 1 else "request_one"]).format(keys=listed))

    def joined(self, rng: random.Random, text: str, request: str) -> str:
        """One message with the text and the request, which is before or after it."""
        if rng.random() < 0.25:
            return f"{request.rstrip('.')}: {text}"
        between = rng.choice([" ", " ", "\n"])
        if text[-1] not in ".?!" and rng.random() < 0.7:
            between = "." + between
        return text + between + request

    def facts(self, rng: random.Random, *, held_out: bool = False) -> tuple[str, dict[str, Value]]:
        """Facts, and the object with some of them."""
        group = rng.choice(self.corpus["facts"])
        text = rng.choice(group["texts"])
        fields = {name: field for name, field in group["fields"].items() if f"{{{name}}}" in text}
        values = {name: self.values.draw(rng, field["kind"], held_out=held_out) for name, field in fields.items()}
        chosen = rng.sample(
            list(fields), rng.choice([1, 2, 2, 3, 3]) if len(fields) > 2 else rng.randint(1, len(fields))
        )
        wanted = {rng.choice(fields[name]["keys"]): values[name] for name in chosen}
        return text.format(**values), wanted
