"""What `serve` prints when it is ready."""

from __future__ import annotations

import json
import shlex

import pytest

from hybridserve.cli.serve import to_try


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("tools", [True, False])
def test_commands_to_try_are_valid_requests(tools: bool, keyed: bool) -> None:
    commands = to_try("http://127.0.0.1:8000", "it's", tools, keyed)
    assert len(commands) == (3 if tools else 2)
    for name, command in commands.items():
        program, *words = shlex.split(command)
        assert program == "curl"
        assert ("Authorization: Bearer $KEY" in words) == keyed
        # In double quotes: the shell puts the key in.
        assert ('"Authorization: Bearer $KEY"' in command) == keyed
        if "-d" in words:
            body = json.loads(words[-1])
            assert body["model"] == "it's"
            assert ("tools" in body) == (name == "a tool call")
