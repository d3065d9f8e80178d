"""The init container's own script, run: it downloads at a commit, verifies, and believes nothing that was damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart_helm import only, template
from fake_hub import COMMIT, REPOSITORY, Hub, serve_hub


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    values = {
        "settings": {"model": {"source": REPOSITORY, "revision": COMMIT}},
        "weights": {"download": True, "cache": {"persistent": True}},
    }
    pod = only(template(values), "Deployment")["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    engine = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert engine["HF_HUB_OFFLINE"] == "1"
    return dict(init)


def run(container: dict[str, Any], hub: Hub, folder: Path) -> subprocess.CompletedProcess[str]:
    given = {one["name"]: one["value"] for one in container["env"]}
    here = {
        "HF_HOME": str(folder),
        "HOME": str(folder),
        "HF_ENDPOINT": hub.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [*container["command"], *container["args"]], env={**given, **here}, capture_output=True, text=True, timeout=120
    )


def test_downloads_verifies_and_asks_no_more(container: dict[str, Any], tmp_path: Path) -> None:
    with serve_hub() as hub:
        first = run(container, hub, tmp_path)
        assert first.returncode == 0, first.stderr
        snapshot = tmp_path / "hub/models--someone--tiny/snapshots" / COMMIT
        assert {file.name: file.read_bytes() for file in snapshot.iterdir()} == hub.files
        asked = hub.asked
        second = run(container, hub, tmp_path)
        assert second.returncode == 0, second.stderr
        assert "was verified before" in second.stdout
        assert hub.asked == asked


def test_a_damaged_file_is_not_believed(container: dict[str, Any], tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.files["model.safetensors"] = b"WEIGHTS" * 1000
        damaged = run(container, hub, tmp_path)
        assert damaged.returncode != 0
        assert "model.safetensors" in damaged.stdout + damaged.stderr
        assert not list(tmp_path.glob("verified-*"))


def test_a_missing_file_is_not_believed(container: dict[str, Any], tmp_path: Path) -> None:
    with serve_hub() as hub:
        del hub.files["config.json"]
        assert run(container, hub, tmp_path).returncode != 0
