"""Write the generated tables of README.md, docs/reference and docs/runbooks from the code: `make reference-docs`.

A table is between ``<!-- table: NAME -->`` and ``<!-- end -->``; the rest of a page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import supported_models
import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from hybridserve.catalog.engines import EngineTable, RaySupport, engine_tables
from hybridserve.cli.app import app
from hybridserve.compliance.evaluate import RULES
from hybridserve.observability.dashboards import dashboards
from hybridserve.observability.metrics import all_metrics
from hybridserve.observability.rules.alerts import alerts, by_text, without_templates
from hybridserve.observability.rules.files import RECORDINGS
from hybridserve.settings import Settings
from hybridserve.settings.live import LIVE_SETTINGS
from hybridserve.settings.schema import json_schema
from hybridserve.settings.telemetry import TelemetrySection

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = [
    DOCS / "reference" / f"{name}.md"
    for name in ("cli", "metrics", "alerts", "dashboards", "settings", "rules", "supported-models", "engines")
] + [DOCS / "runbooks/README.md", DOCS.parent / "README.md"]
TABLE = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SECTION = TelemetrySection()


def markdown_table(headings: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown; `headings` are separated by bars."""
    cells = [tuple(headings.split("|")), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def metrics() -> str:
    """hybridserve's own metrics."""
    return markdown_table(
        "metric|kind|labels|from|description",
        (
            (
                f"`{spec.name}`",
                spec.kind,
                ", ".join(f"`{label}`" for label in spec.labels) or "-",
                spec.source,
                spec.help,
            )
            for spec in all_metrics()
        ),
    )


def alert_table() -> str:
    """Alerts with their runbooks."""
    return markdown_table(
        "alert|severity|after|summary",
        (
            (
                f"[{name}](../runbooks/{same[0].runbook}.md)",
                ", ".join(alert.severity for alert in same),
                same[0].after,
                without_templates(summary, lambda label: f"*{label}*"),
            )
            for (name, summary), same in by_text(SECTION).items()
        ),
    )


def recording_table() -> str:
    """Recording rules other than sloth's."""
    return markdown_table("name|expression", ((f"`{name}`", f"`{expr}`") for name, expr in RECORDINGS.items()))


def dashboard_section() -> str:
    """Dashboards with their pictures."""
    sections = []
    for board in dashboards(SECTION):
        panels = sum(len(row.panels) for row in board.rows)
        sections.append(
            f"## {board.title.removeprefix('hybridserve / ')}\n\n{board.description} {panels} panels, "
            f"[{board.slug}.json](../../helm/hybridserve/files/dashboards/{board.slug}.json).\n\n"
            f"![{board.title}](../dashboards/{board.slug}.png)\n"
        )
    return "\n".join(sections)


def runbooks() -> str:
    """Runbooks by alert."""
    pages = {alert.name: alert.runbook for alert in alerts(SECTION)}
    return "\n".join(f"- [{name}]({page}.md)" for name, page in sorted(pages.items()))


def settings() -> str:
    """One table for each section of the settings."""
    schema = json_schema()
    defaults = Settings().model_dump(mode="json")
    sections = []
    for name, reference in schema["properties"].items():
        section = schema["$defs"][reference["$ref"].rpartition("/")[2]]
        rows = (
            (
                f"`{field}`",
                _type(part, schema),
                _default(defaults[name][field]),
                _one_line(part["description"]) + (" *Live.*" if field in LIVE_SETTINGS.get(name, ()) else ""),
            )
            for field, part in section["properties"].items()
        )
        sections.append(f"## {name}\n\n" + markdown_table("setting|type|default|description", rows))
    return "\n\n".join(sections)


def _type(part: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in part:
        return part["$ref"].rpartition("/")[2]
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "anyOf" in part:
        return " or ".join(_type(option, schema) for option in part["anyOf"] if option.get("type") != "null")
    if part.get("type") == "array" and "items" in part:
        return f"list of {_type(part['items'], schema)}"
    return str(part.get("type", "any"))


def _default(value: object) -> str:
    return "*unset*" if value is None else f"`{json.dumps(value)}`"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def rules() -> str:
    """Compliance rules."""
    return markdown_table("rule|severity|passes when", ((f"`{r.id}`", r.severity, r.title) for r in RULES))


def engines() -> str:
    """What each engine release requires, and what of it can be used."""
    return markdown_table(
        "vLLM|compared with its allocator|transformers|torch|Ray Serve LLM|MTP with prefix caching|KV connectors",
        (
            (
                table.version,
                _compared(table),
                f"`{table.pins.transformers}`",
                f"`{table.pins.torch}`",
                "; ".join(map(_ray, table.ray)),
                "yes" if table.lookahead_block_hashes else "no",
                ", ".join(sorted(table.hybrid_kv_connectors)),
            )
            for table in engine_tables()
        ),
    )


def _compared(table: EngineTable) -> str:
    if not table.verified:
        return "no"
    page = f"evidence/engines/{table.version}.md"
    return f"[yes, {table.read}](../{page})" if (DOCS / page).exists() else f"yes, {table.read}"


def _ray(ray: RaySupport) -> str:
    broken = f", without {', '.join(f'`{name}`' for name in ray.broken)}" if ray.broken else ""
    return f"{ray.version}: {'yes' + broken if ray.works else 'no'}"


def engine_faults() -> str:
    """Known faults, and what a release ignores."""
    rows = [(table.version, fault.id, fault.what) for table in engine_tables() for fault in table.known_faults]
    drafts = [(table.version, table.cpu_speculation) for table in engine_tables() if table.cpu_speculation]
    rows += [(version, "speculation on CPU", known.found) for version, known in drafts]
    copies = "copies only the state's part of a block; our plugin corrects it ([measurement](../evidence/cache.md))"
    rows += [
        (table.version, "hits inside a block", copies) for table in engine_tables() if not table.copies_whole_blocks
    ]
    for table in engine_tables():
        ignored = {**table.ignored_arguments, **table.ignored_environment}
        rows += [(table.version, f"`{name}` is ignored", why) for name, why in ignored.items()]
        gone = {**table.removed_arguments, **table.removed_speculation}
        rows += [(table.version, f"`{name}` is not there", why) for name, why in gone.items()]
    return markdown_table("vLLM|fault|what", rows)


def cli() -> str:
    """Every command as its `--help` shows it, without what all have in common."""
    root = get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    context = typer.Context(root, info_name="hybridserve")
    verbs = [root.get_command(context, verb) for verb in root.list_commands(context)]
    text = "\n".join(get_docs_for_click(obj=verb, ctx=context, indent=1, call_prefix="hybridserve") for verb in verbs)
    text = re.sub(r"^\* `--(install-completion|show-completion|help)`.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*(Options\*\*:\n\n(?!\*)|Commands\*\*:\n\n(\*.*\n)+)", "", text)
    text = re.sub(r"^(Examples?):\n((?:  .*\n)+)", r"\1:\n\n```console\n\2```\n", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^  hybridserve", "$ hybridserve", text, flags=re.MULTILINE)).strip()


TABLES = {
    "cli": cli,
    "metrics": metrics,
    "alerts": alert_table,
    "recordings": recording_table,
    "dashboards": dashboard_section,
    "runbooks": runbooks,
    "settings": settings,
    "rules": rules,
    "families": lambda: markdown_table("family|in the catalog", supported_models.families()),
    "models": lambda: markdown_table("model|vLLM class|precision|weights|proved by", supported_models.models()),
    "classes": lambda: markdown_table("vLLM class|proved by", supported_models.classes()),
    "precisions": lambda: markdown_table("precision|size from|proved by", supported_models.precisions()),
    "logs": lambda: markdown_table("log|model|vLLM|source|not compared", supported_models.logs()),
    "devices": lambda: markdown_table("id|device|memory|capability|status", supported_models.devices()),
    "engines": engines,
    "faults": engine_faults,
}


def filled(page: str) -> str:
    """The page with its tables written again."""
    return TABLE.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n\n{match[3]}", page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
