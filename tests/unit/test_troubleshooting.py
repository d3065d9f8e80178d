"""docs/troubleshooting.md shows lines that vLLM, Ray and hybridserve print, and documents name existing settings."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybridserve.compliance.evaluate import RULES
from hybridserve.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- line: (?P<source>\S+) -->\n```text\n(?P<lines>.*?)```", re.DOTALL)
INSTALLED = ("vllm", "ray", "transformers")
# What is not installed here.
UNCHECKED = {"Kubernetes", "KubeRay", "Docker", "PyTorch"}
LINES = [(match["source"], line) for match in BLOCK.finditer(PAGE) for line in match["lines"].splitlines()]
VALUE = re.compile(r"\0|%[-+ #0-9.]*[sdrfgxi]|<[^>]*>|\{[^{}]*\}|\$\(\(?[^)]*\)+|\$\w+|\d[\d.,]*\d|\d")


def _plain(text: str) -> str:
    """The text with one mark for each value, and one space for each gap."""
    return re.sub(r"\0+", "\0", VALUE.sub("\0", re.sub(r"\s+", " ", text.replace("%%", "%"))))


@cache
def _source(name: str) -> str:
    """Every string of a Python file, one a line; the whole text of another file."""
    package = name.partition("/")[0]
    spec = find_spec(package) if package in INSTALLED else None
    path = Path(spec.origin).parents[1] / name if spec is not None and spec.origin else ROOT / name
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return f"{_plain(text)}\n{text}"
    return "\n".join(_plain(string) for node in ast.walk(ast.parse(text)) if (string := _string(node)))


def _string(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_string(part) or "\0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize(("source", "line"), [pair for pair in LINES if pair[0] not in UNCHECKED])
def test_line_is_printed_by_its_source(source: str, line: str) -> None:
    assert _plain(line.removeprefix("event=")) in _source(source)


def test_most_lines_are_checked() -> None:
    assert sum(source not in UNCHECKED for source, _ in LINES) > 0.8 * len(LINES)


def test_documents_name_existing_settings() -> None:
    values = json.loads((ROOT / "helm/hybridserve/values.schema.json").read_text(encoding="utf-8"))["properties"]
    sections = {name: set(field.annotation.model_fields) for name, field in Settings.model_fields.items()}
    known = {f"{section}.{key}" for section, keys in sections.items() for key in keys}
    known |= {rule.id for rule in RULES}
    known |= {f"{name}.{key}" for name, value in values.items() for key in value.get("properties", ())}
    written = re.compile(rf"`((?:{'|'.join(sections)})\.(?!py|yaml|log|safetensors|effort\b|uncertain)[a-z_-]+)[.:`]")
    unknown = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        if page.name != "CHANGELOG.md"
        for name in written.findall(page.read_text(encoding="utf-8"))
        if name not in known
    }
    assert unknown == set()
