"""The commands of the getting-started page for Kubernetes: each `helm install` renders and passes the check."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from chart_cases import check_exit_code
from chart_helm import ROOT, helm, only, parse
from typer.testing import CliRunner

from hybridserve.cli import render

sys.path.insert(0, str(ROOT / "scripts"))
import release

PAGE = (ROOT / "docs" / "getting-started" / "first-kubernetes-deployment.md").read_text(encoding="utf-8")
DIGEST = "registry.example/team/hybridserve@sha256:" + "ab" * 32


def commands(section: str) -> list[list[str]]:
    """Words of each indented command of one section."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0].replace("\\\n", " ")
    found = re.findall(r"^ {4,}((?:cp|printf|helm|hybridserve|docker|kind|make|kubectl) .*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def test_the_demo_needs_five_commands() -> None:
    """To build, load, install and test. The first request needs one more."""
    assert len([words for words in commands("One node, no GPU") if words[0] != "kubectl"]) == 5


@pytest.mark.parametrize("section", ["One node, no GPU", "One GPU node", "Production"])
def test_documented_commands_install(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, with `template` for `install` and the digests that `make images` would have written."""
    for name in ("helm", "deploy"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "images-gpu.yaml").write_text(release.chart_values(DIGEST, DIGEST))
    monkeypatch.chdir(tmp_path)
    installed = 0
    for words in commands(section):
        if words[0] == "cp":  # and the name that the page asks for
            Path(words[2]).write_text(Path(words[1]).read_text().replace("YOUR NAME", "Ada Lovelace"))
        if words[0] == "printf":  # appends to the settings
            with Path(words[words.index(">>") + 1]).open("a") as file:
                file.write(words[1].replace("\\n", "\n"))
        if words[:3] == ["hybridserve", "render", "helm"]:
            done = CliRunner().invoke(render.app, words[2 : words.index(">")])
            assert done.exit_code == 0, done.output
            Path(words[words.index(">") + 1]).write_text(done.output)
        if words[:2] == ["helm", "install"] and os.sep in words[3] and Path(words[3]).exists():
            objects = parse(helm("template", "--kube-version", "1.33.0", *words[2:]))
            settings = only(objects, "ConfigMap", f"{words[2]}-check")["data"]["hybridserve.yaml"]
            assert check_exit_code(settings, tmp_path) == 0
            installed += 1
    assert installed == (2 if section == "One GPU node" else 1)
