"""Shell blocks of a documentation page, with what a comment before them says that they need.

    <!-- needs: docker, cluster; given: weights.safetensors -->

`needs` names what a test does not have (`NEEDS`): commands that need it are then checked and not carried out. `given`
names files that the reader brings. All other commands are carried out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NEEDS = {"docker", "cluster", "hub", "server", "guard", "prometheus", "index", "minutes"}
SHELL = {"sh", "bash", "shell", "console"}
COMMANDS = {
    *("hybridserve", ".venv/bin/hybridserve", "make", "pip", "env/bin/pip", "python3", "source", "curl", "prometheus"),
    *("docker", "kind", "helm", "kubectl", "locust", "vllm", "guidellm", "aiperf", "hf", "openssl"),
    *("git", "cd", "mkdir", "chmod", "echo", "cp", "export"),
}
_COMMENT = re.compile(r"<!-- (?:needs: (?P<needs>[^;]*?))?(?:; )?(?:given: (?P<given>.*?))? -->")


@dataclass(frozen=True)
class Block:
    """Commands of one block, as a script."""

    line: int
    script: str
    needs: frozenset[str]
    given: tuple[str, ...]


def shell_blocks(page: Path) -> list[Block]:
    """The shell blocks of a page in order, and the commands in its tables with a column `command`.

    Raises:
        ValueError: an indented block that is no command, or an unknown need.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    comment = re.fullmatch("x", "")
    number = 0
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        if match := _COMMENT.fullmatch(line.strip()):
            comment = match
            continue
        if fence := re.match(r"\s*```(\w*)", line):
            while not lines[number].strip().startswith("```"):
                number += 1
            body, number = lines[start + 1 : number], number + 1
            if fence[1] in SHELL:
                found.append(_block(start, body, comment))
        elif re.match(r" {4,}\S", line) and (start == 0 or not lines[start - 1].strip()):
            while number < len(lines) and re.match(r" {4,}\S", lines[number]):
                number += 1
            if _command(line) is None:
                raise ValueError(f"{page.name}:{start + 1}: not a command; use a fence with a language")
            found.append(_block(start, lines[start:number], comment))
        elif re.fullmatch(r"\|.*\| command \|", line):
            body = []
            while number < len(lines) and lines[number].startswith("|"):
                body += [code for code in re.findall(r"`([^`]+)`", lines[number].rsplit("|", 2)[1]) if _command(code)]
                number += 1
            found.append(_block(start, body, comment))
        elif not line.strip():
            continue
        comment = None
    return found


def _block(start: int, lines: list[str], comment: re.Match[str] | None) -> Block:
    if any(line.lstrip().startswith("$ ") for line in lines):  # commands with their output
        kept, going = [], False
        for line in lines:
            if line.lstrip().startswith("$ ") or going:
                kept.append(line.strip().removeprefix("$ "))
                going = line.rstrip().endswith("\\")
        lines = kept
    names = {name.strip() for name in ((comment and comment["needs"]) or "").split(",") if name.strip()}
    if unknown := names - NEEDS:
        raise ValueError(f"line {start}: unknown needs {unknown}")
    given = tuple(((comment and comment["given"]) or "").replace(",", " ").split())
    return Block(start + 1, "\n".join(line.strip() for line in lines), frozenset(names), given)


def _command(line: str) -> str | None:
    """The command that a line runs; None if its first word is none."""
    words = line.strip().removeprefix("$ ").split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words[0] if words and words[0] in COMMANDS else None
