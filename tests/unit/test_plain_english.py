"""Every module has a docstring, and texts avoid words for which the field has a plainer term.

The glossary (docs/reference/glossary.md) and CONTRIBUTING.md name the terms. Of the tests, names and docstrings are
checked; of everything else the whole text.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BANNED = re.compile(
    r"(?<![a-z])(doors?|laws?|houses?|rooms?|visit(s|ed)?|told|papers|silent(ly)?|rubbish|stands|shall|sick|wicked|errands?"
    r"|insiders?|lanes?|readings|whoever|without a word|says? nothing|hand(s|ed|ing)? over"
    r"|licences?|catalogues?|behaviours?|colours?|neighbours?|quantis(ed|ation))(?![a-z])",
    re.IGNORECASE,
)
CHECKED = (
    "*.md", "Makefile", "docker-compose.yml", ".env.example", "docs", "src", "helm", "deploy", "loadtests", "scripts",
    "benchmarks", "demo", "tests",
)  # fmt: skip
SUFFIXES = {"", ".py", ".md", ".yaml", ".yml", ".tpl", ".txt", ".sh", ".example", ".cpu", ".gpu", ".control", ".baked"}
# Texts of others, and the corpus that the demo model was trained on.
SKIPPED = re.compile(
    r"demo/corpus/|tests/chart/crds/|demo_model/(tokenizer|TRAINING)|tests/unit/test_plain_english.py|LICENSE$"
)
# (path, phrase): why it is right there.
ALLOWED: dict[tuple[str, str], str] = {
    ("src/hybridserve/catalog/licenses/mit.yaml", "shall"): "a quotation of the license",
}


def _files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", *CHECKED], cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        name
        for name in listed.stdout.splitlines()
        if (ROOT / name).suffix in SUFFIXES and (ROOT / name).is_file() and not SKIPPED.search(name)
    ]


def _text(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name in ("CHANGELOG.md", "helm/hybridserve/UPGRADE.md"):  # their tables list old names
        return re.sub(r"^\|.*", "", text, flags=re.MULTILINE)
    if not name.startswith("tests/"):
        return text
    if not name.endswith(".py"):
        return ""
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, named)]
    return "\n".join(f"{getattr(node, 'name', '')}\n{ast.get_docstring(node) or ''}" for node in nodes)


def test_texts_avoid_banned_words() -> None:
    found = [
        f"{name}: {phrase}"
        for name in _files()
        for phrase in sorted({match[1].lower() for match in BANNED.finditer(_text(name))})
        if (name, phrase) not in ALLOWED
    ]
    assert found == []


def test_every_module_has_a_docstring() -> None:
    modules = sorted((ROOT / "src").rglob("*.py"))
    assert modules
    missing = [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert missing == []
