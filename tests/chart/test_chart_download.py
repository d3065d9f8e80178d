"""The script of the init container: it downloads at a commit, verifies, and refuses damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart_helm import only, template

from support.fake_hub import COMMIT, REPOSITORY, FakeHub, running


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    values = {
        "settings": {"model": {"source": REPOSITORY, "revision": COMMIT}},
        "strategy": "Recreate",
        "weights": {"download": True, "cache": {"persistent": True}},
    }
    pod = only(template(values), "Deployment")["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    engine = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
    assert engine["HF_HUB_OFFLINE"] == "1"
    return dict(init)


def run(container: dict[str, Any], hub: FakeHub, folder: Path) -> subprocess.CompletedProcess[str]:
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    here = {
        "HF_HOME": str(folder),
        "HOME": str(folder),
        "HF_ENDPOINT": hub.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [*container["command"], *container["args"]], env={**given, **here}, capture_output=True, text=True, timeout=120
    )


def test_second_start_downloads_nothing(container: dict[str, Any], tmp_path: Path) -> None:
    with running() as hub:
        first = run(container, hub, tmp_path)
        assert first.returncode == 0, first.stderr
        folder = tmp_path / f"hub/models--{REPOSITORY.replace('/', '--')}/snapshots" / COMMIT
        assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
        hub.requests.clear()
        second = run(container, hub, tmp_path)
        assert second.returncode == 0, second.stderr
        assert "was verified before" in second.stdout
        assert hub.requests == []


@pytest.mark.parametrize("fault", [{"flip": {"model.safetensors"}}, {"status": {"config.json": [404]}}])
def test_damaged_or_missing_file_is_refused(fault: dict[str, Any], container: dict[str, Any], tmp_path: Path) -> None:
    with running() as hub:
        for name, value in fault.items():
            setattr(hub, name, value)
        failed = run(container, hub, tmp_path)
        assert failed.returncode == 2
        assert not list(tmp_path.glob("verified-*"))
