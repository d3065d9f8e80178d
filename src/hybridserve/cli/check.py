"""`hybridserve check`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import urlsplit

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile
from hybridserve.compliance.documents import compliance_document, digest
from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.findings import Finding, Profile, Status, compliance_status
from hybridserve.compliance.rules.guard import behaviour_files
from hybridserve.compliance.view import DeploymentView
from hybridserve.compliance.view_builder import evidence_sha256
from hybridserve.errors import ConfigError, ServiceError
from hybridserve.runtime.view import build_view
from hybridserve.settings import Settings, load

if TYPE_CHECKING:
    from hybridserve.compliance.canary_prompts import Canary
    from hybridserve.compliance.evidence import CanaryObservation

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Judge a deployment: license, guard, engine settings, exposure."
)

PROFILES: tuple[Profile, ...] = get_args(Profile)
STYLE: Mapping[Status, str] = {"PASS": "green", "FAIL": "red", "WAIVED": "yellow", "UNKNOWN": "magenta"}


@app.command()
def check(
    config: ConfigFile = None,
    assign: Assignments = None,
    profile: Annotated[
        str | None,
        typer.Option(help="production, staging or demo; server.profile of the settings when not given."),
    ] = None,
    day: Annotated[
        datetime | None,
        typer.Option("--date", formats=["%Y-%m-%d"], help="Judge as of this day: shows what expires until then."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show passed rules as well.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit 1 on every finding that fails or is unknown.")] = False,
    pins: Annotated[
        bool, typer.Option("--pins", help="Print the hashes of the model's files for license.pinned_files, and stop.")
    ] = False,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write SARIF 2.1.0 for code review.")
    ] = None,
    live: Annotated[
        str | None, typer.Option(metavar="URL", help="Send canaries to the service at URL as well.")
    ] = None,
    guard_down: Annotated[
        str | None, typer.Option(metavar="URL", help="With --live: a replica whose guard is off on purpose.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="With --live: file with the API key.")] = None,
    evidence: Annotated[Path, typer.Option(metavar="FILE", help="With --live: where the record goes.")] = Path(
        "evidence.json"
    ),
    as_json: AsJson = False,
) -> None:
    """Judge a deployment before, or while, it serves. Exit 0: ready; 1: a finding refuses it; 2: a mistake.

    Example: hybridserve check -c hybridserve.yaml --profile production --sarif check.sarif
    """
    if live is None and (guard_down is not None or key_file is not None):
        raise ConfigError("--guard-down" if guard_down else "--key-file", "is for a running service", "add --live URL")
    settings = load(config, assign or ()).settings
    judged = _profile(profile) or settings.server.profile
    today = day.date() if day is not None else datetime.now(UTC).date()
    view = build_view(settings, judged)
    if pins:
        _print_pins(view)
        return
    findings = evaluate(view, today)
    kept, record = None, None
    if live is None:
        kept = evidence_sha256(settings.guard.evidence_file)
    else:
        live_found, record = _live(settings, findings, live, guard_down, key_file, quiet=as_json)
        findings += live_found
        _write(evidence, json.dumps(record, indent=2) + "\n")
    if sarif_file is not None:
        from hybridserve.compliance.sarif import sarif

        _write(sarif_file, json.dumps(sarif(findings, config.as_posix() if config else None), indent=2) + "\n")
    if as_json:
        document = compliance_document(findings, judged, today, record["sha256"] if record else kept)
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(findings, judged, today, everything=everything)
        if record is not None:
            typer.echo(f"evidence: {evidence} sha256 {record['sha256']}")
    refused = compliance_status(findings, judged) == "refuse" or (strict and any(finding.open for finding in findings))
    raise typer.Exit(1 if refused else 0)


def _print_pins(view: DeploymentView) -> None:
    if view.files.present is None:
        raise ConfigError("model.source", "the model's folder is not here", "set it to the folder with the weights")
    typer.echo("license:\n  pinned_files:")
    for name, sha256 in behaviour_files(view.files.present).items():
        typer.echo(f"    {name}: {sha256}")


def _profile(text: str | None) -> Profile | None:
    if text is None:
        return None
    for known in PROFILES:
        if text == known:
            return known
    raise ConfigError("--profile", f"{text!r} is not a profile", f"one of {', '.join(PROFILES)}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}", "give a writable path") from None


def _print(findings: Sequence[Finding], profile: Profile, today: date, *, everything: bool) -> None:
    shown = [one for one in findings if one.applies and (everything or one.status != "PASS")]
    if sys.stdout.isatty():
        _print_table(shown)
    else:
        for one in shown:
            typer.echo(f"{one.status:<7} {one.severity:<7} {one.rule:<26} {_about(one)}")
            if one.status in ("FAIL", "UNKNOWN"):
                typer.echo(f"        fix: {one.remedy}")
    counts = Counter(one.status for one in findings if one.applies)
    told = ", ".join(f"{counts[status]} {status}" for status in STYLE if counts[status])
    idle = sum(not one.applies for one in findings)
    typer.echo(f"{profile} on {today}: {compliance_status(findings, profile)} ({told}; {idle} rules do not apply)")


def _print_table(shown: Sequence[Finding]) -> None:
    # rich costs a third of the start-up time: only a terminal pays for it.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "rule", "finding", "fix"):
        table.add_column(name, overflow="fold")
    for one in shown:
        fix = one.remedy if one.status in ("FAIL", "UNKNOWN") else ""
        table.add_row(f"[{STYLE[one.status]}]{one.status}[/]", one.rule, escape(_about(one)), escape(fix))
    if shown:
        Console().print(table)


def _about(one: Finding) -> str:
    subject = f"{one.subject}: " if one.subject else ""
    return f"{subject}{one.evidence}{f' (waived {one.waiver})' if one.waiver else ''}"


def _live(
    settings: Settings,
    offline: Sequence[Finding],
    url: str,
    guard_down: str | None,
    key_file: Path | None,
    *,
    quiet: bool,
) -> tuple[list[Finding], dict[str, Any]]:
    import asyncio

    from hybridserve.compliance.canary_prompts import canary_set, guard_down_canary
    from hybridserve.compliance.evidence import evidence_record, live_findings

    _check_address("--live", url)
    if guard_down is not None:
        _check_address("--guard-down", guard_down)
    # Patterns are written for one language; a guard model has to hold in more.
    languages = ("en",) if settings.guard.kind in ("none", "rules") else ("en", "es")
    canaries = canary_set(languages)
    key = _key(key_file)
    model = settings.model.served_name or settings.model.id
    started = datetime.now(UTC)
    seen = asyncio.run(_send(url, key, canaries, model, quiet=quiet))
    if all(one.status == 0 for one in seen):
        raise ServiceError(url, f"does not answer: {seen[0].fault}", "start the service, or give its address")
    if guard_down is not None:
        probe = guard_down_canary()
        canaries, seen = [*canaries, probe], [*seen, *asyncio.run(_send(guard_down, key, [probe], model, quiet=quiet))]
    findings = live_findings(canaries, seen)
    record = evidence_record(
        canaries,
        seen,
        findings,
        url=url,
        started=started,
        finished=datetime.now(UTC),
        about={
            "model": {"id": settings.model.id, "revision": settings.model.revision, "served_name": model},
            "guard": {
                "kind": settings.guard.kind,
                "model": settings.guard.model,
                "revision": settings.guard.revision,
            },
            "settings_sha256": digest(settings.model_dump(mode="json")),
            "findings_sha256": digest([finding.as_dict() for finding in offline]),
        },
    )
    return findings, record


async def _send(
    url: str, key: str | None, canaries: Sequence[Canary], model: str, *, quiet: bool
) -> list[CanaryObservation]:
    import httpx

    from hybridserve.guards.canaries.client import send_canaries

    headers = {"authorization": f"Bearer {key}"} if key else {}
    count = iter(range(1, len(canaries) + 1))

    def progress(canary: Canary) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\rcanary {next(count)}/{len(canaries)} {canary.id:<24}", end="", file=sys.stderr, flush=True)

    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0) as client:
            return await send_canaries(client, canaries, model, progress)
    except httpx.InvalidURL as error:
        raise ConfigError("--live", f"{url!r} is not an address: {error}", "as http://127.0.0.1:8000") from None
    finally:
        if not quiet and sys.stderr.isatty():
            print(file=sys.stderr)


def _check_address(flag: str, url: str) -> None:
    parts = urlsplit(url)
    try:
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no port
        right = False
    if not right:
        raise ConfigError(flag, f"{url!r} is not an address", "as http://127.0.0.1:8000")


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError("--key-file", f"{file} cannot be read: {error.strerror}", "give an existing file") from None
