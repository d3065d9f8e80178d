"""scripts/release.py with a recorded docker, uv and Helm; and the workflow that runs it for a public repository."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from compose_file import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
DIGEST = "sha256:" + "ab" * 32
# Writes its words to the file DOCKER_LOG; `image inspect` prints the digest of a push, as Docker does.
DOCKER = f"""#!/bin/sh
echo "$*" >> "$DOCKER_LOG"
case "$*" in "push --quiet broken/"*) exit 1 ;; esac
[ "$1" != image ] || for name; do :; done
[ "$1" != image ] || echo "${{name%:*}}@{DIGEST}"
"""


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("release_script", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(module, "DIST", tmp_path / "dist")
    return module


def call(release: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["release.py", *words])
    return int(release.main())


def test_images_are_built_pushed_and_named_by_digest(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(release, monkeypatch, "images", "--registry", "registry.example:5000/team") == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "dist" / "images.txt").read_text()
    kinds = ("cpu", "gpu", "control", "loadtest")
    name = "registry.example:5000/team/hybridserve"
    assert printed.splitlines() == [f"{kind} {name}@{DIGEST}" for kind in kinds]
    log = (tmp_path / "log").read_text().splitlines()
    for kind, build, push in zip(kinds, log[::3], log[1::3], strict=True):
        tag = f"{name}:{release.version()}-{kind}"
        assert push == f"push --quiet {tag}"
        assert build.startswith("build --build-arg REVISION=")
        assert f"--tag {tag} --file deploy/Dockerfile." in build
        dockerfile = build.split("--file ")[1].split()[0]
        assert (ROOT / dockerfile).is_file()
    values = yaml.safe_load((tmp_path / "dist" / "images-gpu.yaml").read_text())
    image = {"registry": "registry.example:5000", "repository": "team/hybridserve", "digest": DIGEST}
    assert values == {"image": image, "check": {"image": image}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images"], "no registry: make images REGISTRY="),
        (["images", "--registry", "broken", "--kinds", "control"], "docker push --quiet broken/hybridserve"),
        (["release"], "dist/images.txt is missing: run `make images REGISTRY=...` first"),
    ],
)
def test_what_is_missing_is_one_line(
    release: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    assert call(release, monkeypatch, *words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1


def test_release_has_wheel_chart_digests_and_their_sums(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """uv and Helm are replaced: they would download their own tools. `make release` was run by hand."""
    dist = tmp_path / "dist"
    commands = []

    def record(*words: str) -> str:
        commands.append(words)
        if "build" in words:
            (dist / f"hybridserve-{release.version()}-py3-none-any.whl").write_text("wheel")
        if "package" in words:
            chart = yaml.safe_load((ROOT / "helm" / "hybridserve" / "Chart.yaml").read_text())
            (dist / f"hybridserve-{chart['version']}.tgz").write_text("chart")
        return "1"

    monkeypatch.setattr(release, "run", record)
    release.write_images({"cpu": f"r/hybridserve@{DIGEST}", "control": f"r/hybridserve@{DIGEST}"})
    assert call(release, monkeypatch, "release") == 0
    sums = dict(reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {file.name for file in dist.iterdir()} - {"SHA256SUMS"}
    assert {Path(name).suffix for name in sums} == {".whl", ".tgz", ".txt", ".yaml"}
    assert all(hashlib.sha256((dist / name).read_bytes()).hexdigest() == value for name, value in sums.items())


def test_workflow_is_valid_and_runs_the_make_targets() -> None:
    """actionlint 1.7 passes, too; its package is not on PyPI as a wheel."""
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    made = {word for step in steps for line in re.findall(r"make (.*)", step.get("run", "")) for word in line.split()}
    assert {word for word in made if "=" not in word} <= targets
    assert {"images", "release"} <= made
    for step in steps:
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step
    assert jobs["release"]["needs"] == "test"
    assert jobs["release"]["permissions"] == {"contents": "write", "packages": "write"}
