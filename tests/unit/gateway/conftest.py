"""Keys of each scope, in a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from hybridserve.gateway.auth.api_keys import key_line, new_key


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A key file with one key for each scope; `file` is its path."""
    secrets = {name: new_key() for name in ("user", "scraper", "root", "old", "tiny")}
    lines = [
        "# keys of the test",
        key_line("user", secrets["user"]),
        key_line("scraper", secrets["scraper"], ("metrics",)),
        key_line("root", secrets["root"], ("inference", "metrics", "admin")),
        key_line("old", secrets["old"], expires=date(2020, 1, 1)),
        key_line("tiny", secrets["tiny"], rpm=2, tpm=400, streams=1),
    ]
    file = tmp_path / "keys.txt"
    file.write_text("\n".join(lines))
    return {**secrets, "file": str(file)}
