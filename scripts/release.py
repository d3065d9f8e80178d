#!/usr/bin/env python3
"""Build and push the images (`make images`), and collect what a release consists of in dist/ (`make release`).

    REGISTRY=registry.example/team make images        # every image, or KINDS="cpu control"
    make images REGISTRY=... BUILD_OPTIONS="--secret id=pip_conf,src=pip.conf"
    make release                                      # wheel, chart, digests and SHA256SUMS

`images` writes the digests to dist/images.txt, and a values file of the chart for each engine image.
Needs Docker, logged in to the registry.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from chart_tools import HELM_4

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# Image to its Dockerfile and stage.
KINDS = {"cpu": "cpu", "gpu": "gpu", "control": "control --target control", "loadtest": "control --target loadtest"}
SUMS = "SHA256SUMS"


class ReleaseError(Exception):
    """Something is missing; the message says what to do."""


def run(*words: str) -> str:
    """Standard output of a command, whose errors go to the terminal.

    Raises:
        ReleaseError: it failed, or is not installed.
    """
    try:
        return subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    except FileNotFoundError:
        raise ReleaseError(f"{words[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"{' '.join(words)}: exit code {error.returncode}") from None


def version() -> str:
    """Version of the package, which is the tag of its images."""
    text = (ROOT / "src" / "hybridserve" / "__init__.py").read_text(encoding="utf-8")
    return text.partition('__version__ = "')[2].partition('"')[0]


def images(registry: str, kinds: list[str], options: list[str]) -> dict[str, str]:
    """Build and push images; their names by digest. Options are those of `docker build`.

    Raises:
        ReleaseError: a build or a push failed.
    """
    revision = run("git", "rev-parse", "HEAD")
    pushed = {}
    for kind in kinds:
        tag = f"{registry}/hybridserve:{version()}-{kind}"
        arguments = [*options, "--build-arg", f"REVISION={revision}", "--build-arg", f"VERSION={version()}"]
        run("docker", "build", *arguments, "--tag", tag, "--file", *f"deploy/Dockerfile.{KINDS[kind]}".split(), ".")
        run("docker", "push", "--quiet", tag)
        pushed[kind] = run("docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", tag)
    return pushed


def chart_values(engine: str, control: str) -> str:
    """Values of the chart that name both images by digest."""

    def image(name: str) -> dict[str, str]:
        repository, _, digest = name.partition("@")
        registry, _, path = repository.partition("/")
        return {"registry": registry, "repository": path, "digest": digest}

    return yaml.safe_dump({"image": image(engine), "check": {"image": image(control)}}, sort_keys=False)


def write_images(pushed: dict[str, str]) -> None:
    """Write dist/images.txt and the values files, and print the digests."""
    DIST.mkdir(exist_ok=True)
    lines = "".join(f"{kind} {name}\n" for kind, name in pushed.items())
    (DIST / "images.txt").write_text(lines, encoding="utf-8")
    for kind in ("cpu", "gpu"):
        if kind in pushed and "control" in pushed:
            values = chart_values(pushed[kind], pushed["control"])
            (DIST / f"images-{kind}.yaml").write_text(values, encoding="utf-8")
    print(lines, end="")


def release() -> None:
    """Write the wheel, the chart and SHA256SUMS beside the digests of the images.

    Raises:
        ReleaseError: the images have not been pushed, or a tool failed.
    """
    digests = DIST / "images.txt"
    if not digests.is_file():
        raise ReleaseError("dist/images.txt is missing: run `make images REGISTRY=...` first")
    # The same commit gives the same wheel.
    os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(DIST))
    run(str(HELM_4), "package", "helm/hybridserve", "--destination", str(DIST))
    chart = yaml.safe_load((ROOT / "helm" / "hybridserve" / "Chart.yaml").read_text(encoding="utf-8"))
    wheel, package = f"hybridserve-{version()}-py3-none-any.whl", f"hybridserve-{chart['version']}.tgz"
    files = [DIST / wheel, DIST / package, digests, *sorted(DIST.glob("images-*.yaml"))]
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (DIST / SUMS).write_text(sums, encoding="utf-8")
    print(sums, end="")


def main() -> int:
    """Returns the exit code: 2 when something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["images", "release"])
    parser.add_argument("--registry", default="", help="registry and path, such as registry.example/team")
    parser.add_argument("--options", default="", help="options of docker build, such as a base image or secrets")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), help="images to build; all when empty")
    args = parser.parse_args()
    try:
        if args.step == "release":
            release()
        elif not args.registry:
            raise ReleaseError("no registry: make images REGISTRY=registry.example/team")
        else:
            write_images(images(args.registry.rstrip("/"), args.kinds or list(KINDS), shlex.split(args.options)))
    except ReleaseError as problem:
        print(f"release: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
