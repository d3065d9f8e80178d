"""`hybridserve check`."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import urlsplit

import typer

from hybridserve.cli.key_files import key_file_notes
from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.cli.sources import settings_from
from hybridserve.compliance.documents import compliance_document, digest
from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.evidence import subject
from hybridserve.compliance.findings import Finding, Profile, Result, compliance_status, result_counts
from hybridserve.compliance.rules.guard import behavior_files
from hybridserve.compliance.view import DeploymentView
from hybridserve.compliance.view_builder import sha256_of
from hybridserve.deployment.compliance_view import build_view
from hybridserve.errors import ConfigError, ServiceError
from hybridserve.files import read_text, write_text
from hybridserve.planning.resolve import find_model
from hybridserve.settings import Settings
from hybridserve.units import counted

if TYPE_CHECKING:
    from hybridserve.guards.canaries.judge import CanaryObservation
    from hybridserve.guards.canaries.prompts import Canary

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Check license, guard, engine settings and exposure."
)

PROFILES: tuple[Profile, ...] = get_args(Profile)
STYLE: Mapping[Result, str] = {
    "PASS": "green", "FAIL": "red", "WAIVED": "yellow", "UNKNOWN": "magenta", "NOTE": "cyan"
}  # fmt: skip


@app.command()
def check(
    config: ConfigFile = None,
    assign: Assignments = None,
    profile: Annotated[
        str | None, typer.Option(help="production, staging or demo. Default: server.profile of the settings.")
    ] = None,
    day: Annotated[
        datetime | None,
        typer.Option("--date", formats=["%Y-%m-%d"], help="Check as of this day, to see what expires until then."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show passed rules as well.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit 1 on every finding that fails or is unknown.")] = False,
    pins: Annotated[
        bool, typer.Option("--pins", help="Print the hashes of the model's files for license.pinned_files and exit.")
    ] = False,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write SARIF 2.1.0 for code review.")
    ] = None,
    live: Annotated[str | None, typer.Option(metavar="URL", help="Also send canaries to the service at URL.")] = None,
    guard_down: Annotated[
        str | None, typer.Option(metavar="URL", help="With --live: a replica whose guard is off on purpose.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="With --live: file with the API key.")] = None,
    evidence: Annotated[Path, typer.Option(metavar="FILE", help="With --live: file to write the record to.")] = Path(
        "evidence.json"
    ),
    as_json: AsJson = False,
) -> None:
    """Check a deployment before or while it serves. Exit 0: ready; 1: a finding refuses it; 2: an error in the input.

    Example: hybridserve check -c hybridserve.yaml --profile production --sarif check.sarif
    """
    if live is None and (guard_down is not None or key_file is not None):
        raise ConfigError("--guard-down" if guard_down else "--key-file", "needs a running service", "add --live URL")
    loaded = read_settings(config, assign)
    settings, origin = loaded.settings, settings_from(loaded.sources, config)
    checked = _profile(profile) or settings.server.profile
    today = day.date() if day is not None else datetime.now(UTC).date()
    if live is not None:
        # This run replaces the record, which may not exist yet.
        settings = settings.model_copy(update={"guard": settings.guard.model_copy(update={"evidence_file": None})})
    view = build_view(settings, checked)
    if pins:
        _print_pins(view)
        return
    key_files = key_file_notes(settings, today)
    findings = evaluate(view, today)
    record = view.evidence
    if live is not None:
        live_findings, record = _test_service(view.settings, findings, live, guard_down, key_file, quiet=as_json)
        findings += live_findings
        write_text(evidence, json.dumps(record, indent=2) + "\n")
    if sarif_file is not None:
        from hybridserve.compliance.sarif import sarif

        write_text(sarif_file, json.dumps(sarif(findings, config.as_posix() if config else None), indent=2) + "\n")
    if as_json:
        document = compliance_document(findings, checked, today, record)
        typer.echo(
            json.dumps({"model": view.model.id, "settings": origin, "key_files": key_files, **document}, indent=2)
        )
    else:
        about = f"{view.model.id}, settings from {origin}\nprofile"
        what = f"{about} {checked} on {today}, vLLM {settings.engine.version}"
        _print(findings, key_files, what, checked, everything=everything)
        if live is not None and record is not None:
            typer.echo(f"evidence: {evidence} sha256 {record['sha256']}")
    refused = compliance_status(findings, checked) == "refuse" or (strict and any(finding.open for finding in findings))
    raise typer.Exit(1 if refused else 0)


def _print_pins(view: DeploymentView) -> None:
    folder = find_model(view.settings).folder
    if view.files.present is None or folder is None:
        raise ConfigError("model.source", "is not a local folder", "set it to the folder with the weights")
    typer.echo("license:\n  pinned_files:")
    shards = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    for name, sha256 in (behavior_files(view.files.present) | shards).items():
        typer.echo(f"    {name}: {sha256}")


def _profile(text: str | None) -> Profile | None:
    if text is None:
        return None
    for profile in PROFILES:
        if text == profile:
            return profile
    raise ConfigError("--profile", f"{text!r} is not a profile", f"one of {', '.join(PROFILES)}")


def _print(findings: Sequence[Finding], notes: Sequence[str], what: str, profile: Profile, *, everything: bool) -> None:
    shown = [finding for finding in findings if finding.applies and (everything or finding.status != "PASS")]
    if sys.stdout.isatty():
        _print_table(shown)
    else:
        width = max((26, *(len(finding.rule) for finding in shown)))
        for finding in shown:
            typer.echo(f"{finding.result:<7} {finding.severity:<7} {finding.rule:<{width}} {_evidence(finding)}")
            if finding.status in ("FAIL", "UNKNOWN"):
                typer.echo(f"        fix: {finding.remedy}")
    for line in notes:
        typer.echo(f"note: {line}")
    counts = result_counts(findings)
    # A rule has a finding for each of its subjects, or one that says that it does not apply.
    others = counts.pop("NOT_APPLICABLE", 0)
    summary = ", ".join(f"{count} {result}" for result, count in counts.items())
    applied = len({finding.rule for finding in findings if finding.applies})
    rules = f"{counted(applied, 'rule')}; {others} of {applied + others} do not apply"
    typer.echo(f"{what}: {compliance_status(findings, profile)} ({summary} by {rules})")


def _print_table(shown: Sequence[Finding]) -> None:
    # Importing rich takes a third of the start-up time, so it is imported only for a terminal.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "rule", "finding", "fix"):
        table.add_column(name, overflow="fold")
    for finding in shown:
        fix = finding.remedy if finding.status in ("FAIL", "UNKNOWN") else ""
        result = f"[{STYLE[finding.result]}]{finding.result}[/]"
        table.add_row(result, finding.rule, escape(_evidence(finding)), escape(fix))
    if shown:
        Console().print(table)


def _evidence(finding: Finding) -> str:
    subject = f"{finding.subject}: " if finding.subject else ""
    return f"{subject}{finding.evidence}{f' (waived {finding.waiver})' if finding.waiver else ''}"


def _test_service(
    settings: Settings,
    offline: Sequence[Finding],
    url: str,
    guard_down: str | None,
    key_file: Path | None,
    *,
    quiet: bool,
) -> tuple[list[Finding], dict[str, Any]]:
    """Send the canaries to a running service; returns the findings and the evidence record."""
    import asyncio

    from hybridserve.guards.canaries.judge import evidence_record, live_findings
    from hybridserve.guards.canaries.prompts import canary_set, guard_down_canary

    _check_url("--live", url)
    if guard_down is not None:
        _check_url("--guard-down", guard_down)
    # The patterns are English; a guard model must work in other languages too.
    canaries = canary_set(("en",) if settings.guard.kind in ("none", "rules") else ("en", "es"))
    key = read_text(key_file, "--key-file").strip() if key_file else None
    model = settings.model.served_name or settings.model.id
    started = datetime.now(UTC)
    seen = asyncio.run(_send(url, key, canaries, model, quiet=quiet))
    if all(observation.status == 0 for observation in seen):
        raise ServiceError(url, f"does not answer: {seen[0].fault}", "start the service, or correct its address")
    if guard_down is not None:
        canary = guard_down_canary()
        canaries.append(canary)
        seen += asyncio.run(_send(guard_down, key, [canary], model, quiet=quiet))
    findings = live_findings(canaries, seen)
    record = evidence_record(
        canaries,
        seen,
        findings,
        url=url,
        started=started,
        finished=datetime.now(UTC),
        about={
            **subject(settings),
            "findings_sha256": digest([finding.as_dict() for finding in offline]),
        },
    )
    return findings, record


async def _send(
    url: str, key: str | None, canaries: "Sequence[Canary]", model: str, *, quiet: bool
) -> "list[CanaryObservation]":
    import httpx

    from hybridserve.guards.canaries.client import send_canaries, service_client

    visible = not quiet and sys.stderr.isatty()
    numbers = iter(range(1, len(canaries) + 1))

    def progress(canary: "Canary") -> None:
        if visible:
            print(f"\rcanary {next(numbers)}/{len(canaries)} {canary.id:<24}", end="", file=sys.stderr, flush=True)

    try:
        async with service_client(url, key) as client:
            return await send_canaries(client, canaries, model, progress)
    except httpx.InvalidURL as error:
        raise ConfigError("--live", f"{url!r} is not a URL: {error}", "for example http://127.0.0.1:8000") from None
    finally:
        if visible:
            print(file=sys.stderr)


def _check_url(flag: str, url: str) -> None:
    parts = urlsplit(url)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or too large
        valid = False
    if not valid:
        raise ConfigError(flag, f"{url!r} is not a URL", "for example http://127.0.0.1:8000")
