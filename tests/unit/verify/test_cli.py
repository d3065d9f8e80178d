"""Wrong options of `hybridserve verify` are errors with exit code 2."""

from __future__ import annotations

import json

import pytest

from hybridserve.cli import main


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["127.0.0.1:8000"], "URL"),
        (["http://127.0.0.1:9", "--reference", "a", "--record", "b"], "--record"),
        (["http://127.0.0.1:9", "--reference", "a", "--prompts", "b"], "--prompts"),
        (["http://127.0.0.1:9", "--dtype", "fp8"], "--dtype"),
        (["http://127.0.0.1:9", "--reference", "/nowhere.json"], "--reference"),
        (["http://127.0.0.1:9"], "http://127.0.0.1:9"),
        ([".", "--record", "b"], "--model"),
    ],
)
def test_wrong_options_name_what_to_change(words: list[str], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *words, "--json"])
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["where"].startswith(where)
