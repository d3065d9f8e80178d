#!/usr/bin/env python3
"""Write the generated files of the chart: `make chart-files`; --check only reports what differs.

- values.schema.json: the settings' own schema, and every description from the comments of values.yaml
- README.md: the table of values
- profiles/*.yaml: values for the profiles of helm/profiles, as `hybridserve render helm` makes them
- files/: license and notice of the project (Helm reads no file outside of the chart), and facts.yaml: Ray's version,
  accelerators, guard models and live settings, for rules and templates
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hybridserve.catalog.accelerators import accelerators
from hybridserve.catalog.licenses import licensed_models, model_license
from hybridserve.cli.helm_values import helm_values
from hybridserve.cli.render import dump
from hybridserve.compliance.rules.guard import guard_format
from hybridserve.settings import load
from hybridserve.settings.live import LIVE_SETTINGS
from hybridserve.settings.schema import json_schema

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "hybridserve"
TABLE = ("<!-- values: made by `make chart-files` -->", "<!-- end of values -->")
KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(.*)$")


def comments(text: str) -> dict[str, str]:
    """Dotted path to the comment right above each value of values.yaml; a blank line ends a comment."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip()[1:].strip())
            continue
        if match := KEY.match(line):
            del path[len(match[1]) // 2 :]
            path.append(match[2])
            if above:
                found[".".join(path)] = " ".join(above)
        above = []
    return found


def schema(text: str, values: str) -> str:
    """values.schema.json with the settings' schema and the descriptions put in."""
    tree = json.loads(text)
    settings = json_schema()
    inner = settings.pop("$defs")
    for key in ("$schema", "title"):
        settings.pop(key)
    ours = {name: part for name, part in tree["$defs"].items() if name[0].islower() and name != "settings"}
    tree["$defs"] = ours | {"settings": settings} | inner
    described = comments(values)
    for path, node in nodes(tree):
        if path in described:
            node["description"] = described[path]
        else:
            node.pop("description", None)
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def nodes(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value of ours in the schema: dotted path and its node."""
    for name, node in tree.get("properties", {}).items():
        yield f"{prefix}{name}", node
        yield from nodes(node, f"{prefix}{name}.")


def leaves(tree: dict[str, Any], described: dict[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values that have a line of their own in the table: those that are documented."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if path in described:
            yield path, value
        elif isinstance(value, dict):
            yield from leaves(value, described, f"{path}.")


def table(values: str) -> str:
    """The Markdown table of values, their defaults and what they are."""
    described = comments(values)
    lines = ["| value | default | |", "| --- | --- | --- |"]
    for path, value in leaves(yaml.safe_load(values), described):
        lines.append(f"| `{path}` | `{json.dumps(value)}` | {described[path]} |".replace("\\|", "|"))
    return "\n".join(lines)


def readme(text: str, values: str) -> str:
    """README.md with the table between its two marks."""
    before, _, rest = text.partition(TABLE[0])
    _, _, after = rest.partition(TABLE[1])
    return f"{before}{TABLE[0]}\n\n{table(values)}\n\n{TABLE[1]}{after}"


def profile(file: Path) -> str | None:
    """Values of one profile, under the comment of its settings; None when the commit to download is not known."""
    settings = load(file, environ={}).settings
    values = helm_values(settings)
    if values.get("weights", {}).get("download") and "revision" not in values["settings"]["model"]:
        return None
    title = file.read_text(encoding="utf-8").splitlines()[0]
    made = (
        f"# Made from helm/profiles/{file.name} by `make chart-files`; the same as `hybridserve render helm -c` prints."
    )
    return f"{title}\n{made}\n{dump(values)}"


def facts() -> str:
    """What templates and rules need from the package."""
    tree = {
        "ray": importlib.metadata.version("ray"),
        "accelerators": {device.id: device.ray_accelerator_type or "" for device in accelerators()},
        "guards": {
            known.repository: {
                "format": guard_format(name),
                "licenses": [] if known.other_versions else list(known.licenses),
            }
            for name in licensed_models()
            if (known := model_license(name)) and known.guard and guard_format(name) and "*" not in known.repository
        },
        "liveSettings": {section: list(names) for section, names in LIVE_SETTINGS.items()},
    }
    return "# Made by `make chart-files`.\n" + yaml.safe_dump(tree, sort_keys=False)


def wanted() -> dict[Path, str]:
    """Content of every made file."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    files = {
        CHART / "values.schema.json": schema((CHART / "values.schema.json").read_text(encoding="utf-8"), values),
        CHART / "README.md": readme((CHART / "README.md").read_text(encoding="utf-8"), values),
    }
    for file in sorted((ROOT / "helm" / "profiles").glob("*.yaml")):
        if (content := profile(file)) is not None:
            files[CHART / "profiles" / file.name] = content
    files[CHART / "files" / "facts.yaml"] = facts()
    for name in ("LICENSE", "NOTICE"):
        files[CHART / "files" / name] = (ROOT / name).read_text(encoding="utf-8")
    return files


def surplus(files: dict[Path, str]) -> list[Path]:
    """Files in made folders that nothing makes any more."""
    return [file for file in sorted((CHART / "profiles").glob("*")) if file not in files]


def main() -> int:
    """Write or check; exit code 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    asked = parser.parse_args()
    files = wanted()
    stale = [file for file, text in files.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    stale += surplus(files)
    for file in stale:
        print(f"{'differs' if asked.check else 'wrote'}: {file.relative_to(ROOT)}")
        if not asked.check and file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(files[file], encoding="utf-8")
        elif not asked.check:
            file.unlink()
    return 1 if asked.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
