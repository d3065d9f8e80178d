"""The Dockerfiles keep their rules, by hadolint and by ours."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from compose_file import ROOT

FILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
ENGINES = [ROOT / "deploy" / f"Dockerfile.{kind}" for kind in ("cpu", "gpu")]
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
LABELS = ("title", "description", "source", "licenses", "version", "revision")


def last_stage(text: str) -> str:
    return re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]


def ids(file: Path) -> str:
    return file.name


def test_there_are_images_for_gpu_cpu_and_control() -> None:
    assert {file.name for file in FILES} >= {"Dockerfile.cpu", "Dockerfile.gpu", "Dockerfile.control"}


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_hadolint(file: Path, tmp_path: Path) -> None:
    ran = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout == ""
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(file.read_text() + "RUN sudo true\n")
    assert subprocess.run([HADOLINT, wrong], capture_output=True).returncode == 1


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_bases_are_arguments_and_pinned(file: Path) -> None:
    text = file.read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE):
        assert base in {"${BASE_IMAGE}", "scratch"} | stages
    (default,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", text, flags=re.MULTILINE)
    assert re.search(r":v?\d+\.\d+\.\d+", default), default
    # A frontend or a heredoc is what the engines of some build machines do not have.
    assert "# syntax=" not in text
    assert "<<" not in text


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_runs_as_nobody(file: Path) -> None:
    assert re.findall(r"^USER (\S+)$", file.read_text(), flags=re.MULTILINE)[-1] == "10001:10001"


@pytest.mark.parametrize("file", [*ENGINES, ROOT / "deploy" / "Dockerfile.control"], ids=ids)
def test_what_an_image_carries(file: Path) -> None:
    text = file.read_text()
    final = last_stage(text)
    for label in LABELS:
        assert f"org.opencontainers.image.{label}=" in final, label
    assert 'ENTRYPOINT ["tini", "--",' in final
    assert re.search(r"^HEALTHCHECK ", final, flags=re.MULTILINE)
    assert "hybridserve notice /opt/hybridserve/notice" in text
    assert "sbom.py /opt/hybridserve/sbom.cdx.json" in text
    assert "LICENSE NOTICE" in text


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_secrets_stay_out_of_layers(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|PASSWORD|INDEX_URL)", text, flags=re.MULTILINE)
    for step in re.findall(r"^RUN .*(?:\\\n.*)*", text, flags=re.MULTILINE):
        if "pip install" in step or "install.py" in step:
            assert "--mount=type=secret,id=pip_conf" in step
            assert "--mount=type=secret,id=ca" in step


def test_the_context_is_a_list_of_what_is_copied() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for entry in allowed:
        assert (ROOT / entry).exists(), entry
    for file in FILES:
        if file.name == "Dockerfile.baked":
            continue  # its context is the folder that was baked
        for words in re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), flags=re.MULTILINE):
            for source in [word for word in words.split() if not word.startswith("--")][:-1]:
                assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source
