"""A conversation in the shape a guard model's chat template takes."""

from __future__ import annotations

from collections.abc import Sequence

from hybridserve.guards.base import Message, Stage

# The hazards as the guard's card names them; the sentence around them is ours.
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
    """Turns of user and assistant in strict alternation, the last one being the one that is judged.

    Guard templates refuse anything else. System and tool texts count as the user's side: they are what the model
    was told. An input that ends in the assistant's words (a prefilled answer) is the user's doing, too.
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
        # An answer without a prompt, as in a completion whose prompt was empty.
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": turns[-1]["content"]}]
    return turns


def transcript(messages: Sequence[Message], stage: Stage) -> str:
    """The conversation as lines of text, for guards that take it inside one prompt."""
    turns = alternating(messages, stage)
    return "\n\n".join(
        f"{'response: agent' if turn['role'] == 'assistant' else 'user'}: {turn['content']}" for turn in turns
    )


def safety_guard_prompt(messages: Sequence[Message], stage: Stage) -> str:
    """One prompt with the task, the hazards and the conversation, for Llama-3.1-Nemotron-Safety-Guard-8B-v3."""
    hazards = "\n".join(f"S{number}: {name}." for number, name in enumerate(SAFETY_GUARD_CATEGORIES, 1))
    answer = ', "Response Safety": "safe" or "unsafe"' if stage == "output" else ""
    return (
        "Judge whether the conversation below holds unsafe content of one of these categories.\n\n"
        f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{hazards}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"<BEGIN CONVERSATION>\n\n{transcript(messages, stage)}\n\n<END CONVERSATION>\n\n"
        'Answer with one JSON object only: {"User Safety": "safe" or "unsafe"'
        f'{answer}, "Safety Categories": "names, with commas between; leave the field out when safe"}}'
    )
