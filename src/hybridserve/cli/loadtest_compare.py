"""`--compare A B`: two runs side by side, or two operating curves point by point."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from hybridserve.cli.loadtest_modes import console
from hybridserve.errors import ConfigError, HybridServeError
from hybridserve.loadtest import charts, report
from hybridserve.loadtest.compare import Row, compare
from hybridserve.loadtest.runner import Result, judge_run
from hybridserve.loadtest.slo import EXIT_CODES
from hybridserve.loadtest.statistics import Interval

_CURVE = "operating-curve.json"
_SWEPT = ("output throughput", "ttft p50", "tpot p50")


def compare_folders(a: Path, b: Path, out: Path, as_json: bool) -> int:
    """Two folders of runs, or two of sweeps; the exit code."""
    names = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    if names[0] == names[1]:
        raise ConfigError("--compare", f"{names[0]!r} against itself", "give two folders")
    swept = [(side / _CURVE).exists() for side in (a, b)]
    if any(swept) and not all(swept):
        raise ConfigError("--compare", "one folder is of a sweep, the other of a run", "two of a kind")
    out.mkdir(parents=True, exist_ok=True)
    return _compare_sweeps(a, b, names, out, as_json) if all(swept) else _compare_runs(a, b, names, out, as_json)


def _compare_runs(a: Path, b: Path, names: tuple[str, str], out: Path, as_json: bool) -> int:
    sides = {name: _judged(folder) for name, folder in zip(names, (a, b), strict=True)}
    rows = compare(sides[names[0]].records, sides[names[1]].records)
    notes = _notes(sides)
    why = report.write_comparison(rows, sides, notes, out)
    tree = {"a": str(a), "b": str(b), "notes": notes, "rows": [row.as_dict() for row in rows]}
    (out / "compare.json").write_text(json.dumps(tree, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps({**tree, "out": str(out)}, indent=2))
    else:
        _show(rows, names)
        for one in notes:
            typer.echo(one)
        typer.echo(f"{out / 'compare.html'}" + (f" ({why})" if why else ""))
    return _exit_code(sides)


def _compare_sweeps(a: Path, b: Path, names: tuple[str, str], out: Path, as_json: bool) -> int:
    """Each point that both curves have: the ratio of what was measured there."""
    points = [_points(folder) for folder in (a, b)]
    shared = [key for key in points[0] if key in points[1]]
    if not shared:
        raise ConfigError(
            "--compare", "the two sweeps have no point in common", "the same scenario, --scale and --levels"
        )
    found: dict[tuple[str, int], tuple[Row, ...]] = {}
    sides: dict[str, Result] = {}
    for kind, count in shared:
        pair = [_judged(folder / points[at][kind, count]) for at, folder in enumerate((a, b))]
        sides |= {f"{name} {kind} x{count}": one for name, one in zip(names, pair, strict=True)}
        rows = compare(pair[0].records, pair[1].records)
        found[kind, count] = tuple(row for name in _SWEPT for row in rows if row.name == name)
    ratios: dict[str, dict[str, dict[float, Interval]]] = {}
    for (kind, count), rows in found.items():
        for row in rows:
            if row.quotient is not None:
                unsure = Interval(row.quotient, math.nan, math.nan)
                ratios.setdefault(row.name, {}).setdefault(kind, {})[float(count)] = row.ratio or unsure
    notes = [f"{name} is void: the client was at fault" for name, one in sides.items() if one.verdict == "void"]
    tree = {
        "a": str(a),
        "b": str(b),
        "notes": notes,
        "points": [
            {"kind": kind, "concurrency": count, "rows": [row.as_dict() for row in rows]}
            for (kind, count), rows in found.items()
        ],
    }
    (out / "compare.json").write_text(json.dumps(tree, indent=2) + "\n")
    cells = [[f"{kind} x{count}", *(report.ratio_words(row) for row in rows)] for (kind, count), rows in found.items()]
    head = ["prompt/output, concurrency", *(f"{name}, {names[0]}/{names[1]}" for name in _SWEPT)]
    _write_page(out, names, head, cells, notes, ratios)
    if as_json:
        typer.echo(json.dumps({**tree, "out": str(out)}, indent=2))
    else:
        table = Table(*head)
        for line in cells:
            table.add_row(*line)
        console().print(table)
        for one in notes:
            typer.echo(one)
        typer.echo(f"{out / 'compare.html'}")
    return _exit_code(sides)


def _write_page(
    out: Path,
    names: tuple[str, str],
    head: list[str],
    cells: list[list[str]],
    notes: list[str],
    ratios: Mapping[str, Mapping[str, Mapping[float, Interval]]],
) -> None:
    parts = [*map(report.note, notes), report.table(head, cells)]
    try:
        drawings: dict[str, Any] = charts.ratio_charts(ratios, names)
        charts.save(drawings, out / "charts")
        parts.append(report.gallery(drawings))
    except HybridServeError as fault:
        parts.append(report.note(f"{fault.what}: {fault.fix}"))
    (out / "compare.html").write_text(report.page(f"{names[0]} against {names[1]}", parts))


def _points(folder: Path) -> dict[tuple[str, int], str]:
    """Prompt/output and concurrency of each point of a sweep, and the folder of its records.

    By its lengths, not by its name: the same scenario at another --scale asks for something else.
    """
    try:
        rows = json.loads((folder / _CURVE).read_text())["points"]
        return {(f"{row['prompt_tokens']}/{row['output_tokens']}", row["concurrency"]): row["folder"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(str(folder / _CURVE), f"cannot be read ({error})", "give the --out of a sweep") from None


def _judged(folder: Path) -> Result:
    result = judge_run(folder)
    if not result.records:
        raise ConfigError("--compare", f"{str(folder)!r} has no requests", "give the --out of a run")
    return result


def _notes(sides: Mapping[str, Result]) -> list[str]:
    """What makes a comparison worth less."""
    found = [f"{name} is void: {one.health.faults[0]}" for name, one in sides.items() if one.verdict == "void"]
    first, second = (one.scenario.model_dump(exclude={"about", "slo", "client"}) for one in sides.values())
    if different := [name for name in first if first[name] != second[name]]:
        found.append(f"the two runs were not of one scenario: {', '.join(different)} differ")
    return found


def _exit_code(sides: Mapping[str, Result]) -> int:
    return EXIT_CODES["void"] if any(one.verdict == "void" for one in sides.values()) else 0


def _show(rows: tuple[Row, ...], names: tuple[str, str]) -> None:
    left, right = names
    table = Table(title=f"{left} against {right}", title_justify="left")
    for name in ("measure", left, right, f"{left}/{right}, 95 % interval", "more than luck"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for row in rows:
        cells = ["" if value is None else f"{value:.4g}" for value in (row.a, row.b)]
        table.add_row(f"{row.name} ({row.unit})", *cells, report.ratio_words(row), "yes" if row.differs else "")
    console().print(table)
