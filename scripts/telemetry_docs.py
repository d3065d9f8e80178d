"""Write the tables of docs/reference/metrics.md, and the list of runbooks, from the code: `make telemetry-files`.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; everything else is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hybridserve.observability.dashboards import dashboards
from hybridserve.observability.metrics import all_metrics
from hybridserve.observability.rules.alerts import Alert, alerts
from hybridserve.observability.rules.files import RECORDINGS
from hybridserve.settings.telemetry import TelemetrySection

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = (DOCS / "reference" / "metrics.md", DOCS / "runbooks" / "README.md")
TABLE = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SECTION = TelemetrySection()


def rows(heads: str, lines: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown; `heads` are parted by bars."""
    cells = [tuple(heads.split("|")), *lines]
    told = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    return "\n".join([told[0], "|" + "---|" * len(cells[0]), *told[1:]])


def metrics() -> str:
    """Every metric of ours."""
    return rows(
        "metric|kind|labels|from|",
        (
            (f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels) or "-", one.source, one.help)
            for one in all_metrics()
        ),
    )


def by_name() -> dict[str, list[Alert]]:
    """Alerts; those of one name differ in severity."""
    found: dict[str, list[Alert]] = {}
    for one in alerts(SECTION):
        found.setdefault(one.name, []).append(one)
    return found


def alert_table() -> str:
    """Every alert with its page."""
    return rows(
        "alert|severity|after|says",
        (
            (
                f"[{name}](../runbooks/{same[0].runbook}.md)",
                ", ".join(one.severity for one in same),
                "immediately" if same[0].hold == "0m" else same[0].hold,
                re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", same[0].summary),
            )
            for name, same in by_name().items()
        ),
    )


def recording_table() -> str:
    """Recording rules that are not sloth's."""
    return rows("name|is", ((f"`{name}`", f"`{expr}`") for name, expr in RECORDINGS.items()))


def dashboard_section() -> str:
    """Every dashboard with its picture."""
    told = []
    for board in dashboards(SECTION):
        panels = sum(len(row.panels) for row in board.rows)
        told.append(
            f"### {board.title.removeprefix('hybridserve / ')}\n\n{board.description} {panels} panels, "
            f"[{board.slug}.json](../../helm/hybridserve/files/dashboards/{board.slug}.json).\n\n"
            f"![{board.title}](../dashboards/{board.slug}.png)\n"
        )
    return "\n".join(told)


def runbooks() -> str:
    """Every page, by alert."""
    return "\n".join(f"- [{name}]({same[0].runbook}.md)" for name, same in sorted(by_name().items()))


TABLES = {
    "metrics": metrics,
    "alerts": alert_table,
    "recordings": recording_table,
    "dashboards": dashboard_section,
    "runbooks": runbooks,
}


def filled(page: str) -> str:
    """The page with every table made anew."""
    return TABLE.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n\n{match[3]}", page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
