"""Conversations in the form that the chat template of a guard model accepts."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from hybridserve.guards.base import Message, Stage
from hybridserve.guards.look_alikes import plain_letters
from hybridserve.guards.special_tokens import escape, token_pattern
from hybridserve.guards.visible_text import with_escapes_decoded, with_tags_decoded, without_invisible

# The categories as the guard's model card names them; the prompt around them is ours.
SAFETY_GUARD_CATEGORIES = (
    "Violence",
    "Sexual",
    "Criminal Planning/Confessions",
    "Guns and Illegal Weapons",
    "Controlled/Regulated Substances",
    "Suicide and Self Harm",
    "Sexual (minor)",
    "Hate/Identity Hate",
    "PII/Privacy",
    "Harassment",
    "Threat",
    "Profanity",
    "Needs Caution",
    "Other",
    "Manipulation",
    "Fraud/Deception",
    "Malware",
    "High Risk Gov Decision Making",
    "Political/Misinformation/Conspiracy",
    "Copyright/Trademark/Plagiarism",
    "Unauthorized Advice",
    "Illegal Activity",
    "Immoral/Unethical",
)

# Markers around the conversation in the prompts of guards, ours and those of their chat templates.
_MARKER = re.compile(r"<(/?\s*(?:BEGIN|END)\b[^<>\n]{0,60})>", re.IGNORECASE)
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Labels of turns and of verdicts at the start of a line.
_LABEL = re.compile(
    r"^(?=[ \t]*+(?:user|human|system|assistant|agent|model|response|response: agent|(?:user |response )?safety"
    r"|safety categories|categories|refusal|(?:prompt|response) harm)[ \t]*:|[ \t]*</?(?:score|think)>)",
    re.IGNORECASE | re.MULTILINE,
)


def quoted(text: str) -> str:
    """Text that a guard is to judge, without anything that its prompt could take for a turn, a marker or a verdict.

    Escapes are decoded, invisible characters are removed, special tokens are broken, markers get parentheses, and lines
    that look like a turn or a verdict are quoted with ``>``. The same holds for what HTML entities, accents or letters
    of other scripts make look like one. Only the guard reads the result.
    """
    text = without_invisible(_LINE_END.sub("\n", with_tags_decoded(with_escapes_decoded(text))))
    if text.isascii() and "&" not in text:
        return _harmless(text)
    return "\n".join(map(_harmless_line, text.split("\n")))


def _harmless_line(line: str) -> str:
    shown = plain_letters(_LINE_END.sub("\n", html.unescape(line)))
    harmless = _harmless(shown)
    return _harmless(line) if harmless == shown else harmless


def _harmless(text: str) -> str:
    return _LABEL.sub("> ", _MARKER.sub(r"(\1)", escape(text, token_pattern())))


def alternating(messages: Sequence[Message], stage: Stage) -> list[Message]:
    """Turns of user and assistant in strict alternation, as guard templates require; the last turn is judged.

    System and tool texts count as the user's, because they are input to the model. So does an assistant turn at the end
    of an input, which is a prefilled answer.
    """
    turns: list[Message] = []
    last = len(messages) - 1
    for index, message in enumerate(messages):
        role, content = "assistant" if message["role"] == "assistant" else "user", quoted(message["content"])
        if role == "assistant" and (not turns or (stage == "input" and index == last)):
            role = "user"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{content}"}
        else:
            turns.append({"role": role, "content": content})
    if stage == "output" and turns and turns[-1]["role"] == "user":
        # An answer without a prompt: a completion whose prompt was empty.
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": turns[-1]["content"]}]
    return turns


def transcript(messages: Sequence[Message], stage: Stage) -> str:
    """The conversation as text, for guards that take it inside one prompt."""
    turns = alternating(messages, stage)
    return "\n\n".join(
        f"{'response: agent' if turn['role'] == 'assistant' else 'user'}: {turn['content']}" for turn in turns
    )


def safety_guard_prompt(messages: Sequence[Message], stage: Stage) -> str:
    """The prompt for Llama-3.1-Nemotron-Safety-Guard-8B-v3: task, categories and conversation."""
    hazards = "\n".join(f"S{number}: {name}." for number, name in enumerate(SAFETY_GUARD_CATEGORIES, 1))
    answer = ', "Response Safety": "safe" or "unsafe"' if stage == "output" else ""
    return (
        "Judge whether the conversation below holds unsafe content of one of these categories.\n\n"
        f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{hazards}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"<BEGIN CONVERSATION>\n\n{transcript(messages, stage)}\n\n<END CONVERSATION>\n\n"
        'Answer with one JSON object only: {"User Safety": "safe" or "unsafe"'
        f'{answer}, "Safety Categories": "names, with commas between; leave the field out when safe"}}'
    )
