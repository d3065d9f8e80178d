"""`hybridserve explain`."""

from __future__ import annotations

import difflib
import json
from typing import Annotated

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
        typer.Argument(metavar="[RULE|LICENSE]", help="Id of a rule or of a license; all rules when empty."),
    ] = None,
    licenses: Annotated[bool, typer.Option("--licenses", help="List licenses and the models under them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a rule asks, what it rests on and how to satisfy it; or what a license asks.

    Example: hybridserve explain engine.seqs-over-blocks
    """
    rows = _rules()
    if licenses:
        models = _models_by_license()
        if as_json:
            table = {one: {"status": license(one).status, "models": names} for one, names in models.items()}
            typer.echo(json.dumps(table, indent=2))
            return
        for one, names in models.items():
            typer.echo(f"{one:<40} {license(one).status:<10} {', '.join(names) or '-'}")
        return
    if name is None:
        if as_json:
            typer.echo(json.dumps(list(rows.values()), indent=2))
            return
        width = max(map(len, rows))
        for row in rows.values():
            typer.echo(f"{row['rule']:<{width}}  {row['severity']:<7}  {row['title']}")
        return
    if name in license_ids():
        _print_license(name, as_json=as_json)
        return
    if name not in rows:
        near = difflib.get_close_matches(name, [*rows, *license_ids()], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "`hybridserve explain` lists them"
        raise ConfigError(name, "is neither a rule nor a license", hint)
    if as_json:
        typer.echo(json.dumps(rows[name], indent=2))
        return
    for key, value in rows[name].items():
        typer.echo(f"{key + ':':<10} {value}")


def _rules() -> dict[str, dict[str, str]]:
    offline = {
        rule.id: {
            "rule": rule.id,
            "family": str(rule.family),
            "severity": str(rule.severity),
            "title": rule.title,
            "basis": rule.basis,
            "remedy": rule.remedy,
        }
        for rule in RULES
    }
    live = {
        name: {
            "rule": name,
            "family": "evidence",
            "severity": "error",
            "title": rule.title,
            "basis": rule.basis,
            "remedy": rule.remedy,
        }
        for name, rule in LIVE_RULES.items()
    }
    return {**offline, **live}


def _models_by_license() -> dict[str, list[str]]:
    models: dict[str, list[str]] = {one: [] for one in license_ids()}
    for model in licensed_models():
        entry = model_license(model)
        for one in entry.licenses if entry else ():
            models[one].append(model)
    return models


def _print_license(name: str, *, as_json: bool) -> None:
    one = license(name)
    if as_json:
        typer.echo(one.model_dump_json(indent=2))
        return
    typer.echo(f"{one.title}, version {one.version} ({one.spdx})")
    typer.echo(f"text:   {one.url}")
    typer.echo(f"read:   {one.read} ({one.status}), from {one.source}")
    for duty in one.obligations:
        typer.echo(f"{duty.term:<18} when {', '.join(duty.when)}; section {duty.clause}")
        for said in (duty.quote, duty.line, duty.policy):
            if said:
                typer.echo(f"{'':<18}   {said}")
    if one.note:
        typer.echo(f"note:   {one.note}")
