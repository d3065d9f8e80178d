"""`hybridserve explain`."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hybridserve.catalog.licenses import license, license_ids, licensed_models, model_license
from hybridserve.cli.options import AsJson
from hybridserve.compliance.evaluate import RULES
from hybridserve.compliance.evidence import LIVE_RULES
from hybridserve.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Explain a rule or a license of the registry.")


@app.command()
def explain(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RULE|LICENSE]", help="Id of a rule or of a license; lists all rules when empty."),
    ] = None,
    licenses: Annotated[bool, typer.Option("--licenses", help="List licenses and the models under them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a rule requires, what it is based on and how to satisfy it; or the duties of a license.

    Example: hybridserve explain engine.seqs-over-blocks
    """
    rules = {rule.id: {"rule": rule.id, **{key: value for key, value in asdict(rule).items() if key != "id"}}
             for rule in (*RULES, *LIVE_RULES)}  # fmt: skip
    if licenses:
        models = _models_by_license()
        _print(
            {name: {"status": license(name).status, "models": ids} for name, ids in models.items()},
            [f"{name:<40} {license(name).status:<10} {', '.join(ids) or '-'}" for name, ids in models.items()],
            as_json=as_json,
        )
    elif name is None:
        width = max(map(len, rules))
        lines = [f"{row['rule']:<{width}}  {row['severity']:<7}  {row['title']}" for row in rules.values()]
        _print(list(rules.values()), lines, as_json=as_json)
    elif name in rules:
        _print(rules[name], [f"{key + ':':<10} {value}" for key, value in rules[name].items()], as_json=as_json)
    elif name in license_ids():
        _print(license(name).model_dump(mode="json"), _license_lines(name), as_json=as_json)
    else:
        similar = difflib.get_close_matches(name, [*rules, *license_ids()], n=1, cutoff=0.4)
        hint = f"did you mean {similar[0]}?" if similar else "`hybridserve explain` lists them"
        raise ConfigError(name, "is neither a rule nor a license", hint)


def _print(document: Any, lines: list[str], *, as_json: bool) -> None:
    typer.echo(json.dumps(document, indent=2) if as_json else "\n".join(lines))


def _models_by_license() -> dict[str, list[str]]:
    models: dict[str, list[str]] = {license_id: [] for license_id in license_ids()}
    for model in licensed_models():
        entry = model_license(model)
        for license_id in entry.licenses if entry else ():
            models[license_id].append(model)
    return models


def _license_lines(license_id: str) -> list[str]:
    entry = license(license_id)
    lines = [
        f"{entry.title}, version {entry.version} ({entry.spdx})",
        f"text:     {entry.url}",
        f"reviewed: {entry.read} ({entry.status}), from {entry.source}",
    ]
    for duty in entry.obligations:
        lines.append(f"{duty.term:<18} when {', '.join(duty.when)}; section {duty.clause}")
        lines += [f"{'':<18}   {text}" for text in (duty.quote, duty.line, duty.policy) if text]
    return [*lines, f"note:     {entry.note}"] if entry.note else lines
