"""`hybridserve explain`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hybridserve.catalog.licenses import license, license_ids, licensed_models, model_license
from hybridserve.catalog.models import model_ids
from hybridserve.cli.options import AsJson
from hybridserve.compliance.evaluate import RULES
from hybridserve.compliance.evidence import LIVE_RULES
from hybridserve.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Explain a rule or a license of the registry.")


@app.command()
def explain(
    name: Annotated[
        str | None,
        typer.Argument(metavar="RULE|LICENSE", help="Id of a rule or of a license; lists all rules when empty."),
    ] = None,
    licenses: Annotated[bool, typer.Option("--licenses", help="List licenses and the models under them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a rule requires, what it is based on and how to satisfy it; or the duties of a license.

    Example: hybridserve explain engine.seqs-over-blocks
    """
    rules = {rule.id: {"rule": rule.id, **{key: value for key, value in asdict(rule).items() if key != "id"}}
             for rule in (*RULES, *LIVE_RULES)}  # fmt: skip
    if licenses and name is not None:
        raise ConfigError(
            "--licenses",
            f"lists every license, so {name} would not be used",
            f"hybridserve explain {name}, or --licenses alone",
        )
    if licenses:
        models, others = _models_by_license(), [model for model in model_ids() if not _reviewed(model)]
        document = {name: {"status": license(name).status, "models": ids} for name, ids in models.items()}
        _print({"licenses": document, "not_reviewed": others}, _license_table(models, others), as_json=as_json)
    elif name is None:
        width = max(map(len, rules))
        lines = [f"{row['rule']:<{width}}  {row['severity']:<7}  {row['title']}" for row in rules.values()]
        _print(list(rules.values()), lines, as_json=as_json)
    elif name in rules:
        _print(rules[name], [f"{key + ':':<10} {value}" for key, value in rules[name].items()], as_json=as_json)
    elif name in license_ids():
        _print(license(name).model_dump(mode="json"), _license_lines(name), as_json=as_json)
    else:
        ids = [*rules, *license_ids()]
        # The beginning of an id, or the part of a rule behind its family, is more than a similar spelling.
        begun = [each for each in ids if each.startswith(name)] or [each for each in rules if f".{name}" in each]
        similar = begun or difflib.get_close_matches(name, ids, n=1, cutoff=0.4)
        hint = f"did you mean {' or '.join(similar[:3])}?" if similar else "`hybridserve explain` lists them"
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


def _license_table(models: Mapping[str, Sequence[str]], others: Sequence[str]) -> list[str]:
    return [
        f"{'license':<40} {'review':<10} models",
        *(f"{name:<40} {license(name).status:<10} {', '.join(ids) or '-'}" for name, ids in models.items()),
        "",
        "review: verified, the license's own text was read; secondary, a quotation of it was; unknown, nobody read it.",
        "Of these models, and of every model that is not named here, no license was reviewed: rule license.known is",
        f"UNKNOWN, and production does not start. {', '.join(others)}",
    ]


def _reviewed(model: str) -> bool:
    """Whether rule license.known passes for a model."""
    entry = model_license(model)
    if entry is None or entry.status == "unknown" or not entry.licenses:
        return False
    return all(license(name).status != "unknown" for name in entry.licenses)


def _license_lines(license_id: str) -> list[str]:
    entry = license(license_id)
    lines = [
        f"{entry.title}, version {entry.version} ({entry.spdx})",
        f"text:     {entry.url}",
        f"reviewed: {entry.read} ({entry.status}), from {entry.source}",
    ]
    for duty in entry.obligations:
        only = f"; only for {duty.only} models" if duty.only else ""
        lines.append(f"{duty.term:<18} when {', '.join(duty.when)}; section {duty.clause}{only}")
        lines += [f"{'':<18}   {text}" for text in (duty.quote, duty.line, duty.policy) if text]
    lines.append("when:     host, serving it to others; image, distributing the weights; derivative, distributing a")
    lines.append("          changed copy; hosted_derivative, serving a changed copy")
    return [*lines, f"note:     {entry.note}"] if entry.note else lines
