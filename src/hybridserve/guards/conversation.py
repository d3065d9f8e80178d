"""Conversations in the form that the chat template of a guard model accepts."""

from __future__ import annotations

from collections.abc import Sequence

from hybridserve.guards.base import Message, Stage

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


def alternating(messages: Sequence[Message], stage: Stage) -> list[Message]:
    """Turns of user and assistant in strict alternation, as guard templates require; the last turn is judged.

    System and tool texts count as the user's, because they are input to the model. So does an assistant turn at the end
    of an input, which is a prefilled answer.
    """
    turns: list[Message] = []
    last = len(messages) - 1
    for index, message in enumerate(messages):
        role = "assistant" if message["role"] == "assistant" else "user"
        if role == "assistant" and (not turns or (stage == "input" and index == last)):
            role = "user"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append({"role": role, "content": message["content"]})
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
