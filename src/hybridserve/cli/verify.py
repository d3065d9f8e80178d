"""`hybridserve verify`."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.cli.tables import print_table
from hybridserve.errors import ConfigError
from hybridserve.files import read_text, write_text
from hybridserve.settings.verify import VerifySection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybridserve.verify.probes import Chat, Text
    from hybridserve.verify.reference import Reference
    from hybridserve.verify.statistics import Result

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Check an engine's log-probabilities against a reference, and against itself.",
)

DTYPES = ("bfloat16", "float16", "float32")


@app.command()
def verify(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="The engine's address, as http://127.0.0.1:8000; with --record also a folder."
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare with this reference. Default: with itself only.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a reference; the engine must be one that you trust.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also your prompts: JSON Lines with prompt or messages, and expect."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Served name. Default: the first model of the service.")] = None,
    dtype: Annotated[str, typer.Option(help="The engine's data type, for rounding: " + ", ".join(DTYPES))] = "bfloat16",
    block_size: Annotated[
        int | None, typer.Option(min=1, help="Attention block size in tokens. Default: what /metrics says.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Requests at a time in the concurrent conditions.")
    ] = VerifySection.model_fields["concurrency"].default,
    pressure: Annotated[
        int, typer.Option(min=0, max=1024, help="Requests sent at once to cause preemptions; 0: none.")
    ] = VerifySection.model_fields["pressure"].default,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="How often a right engine may fail this run.")
    ] = VerifySection.model_fields["false_alarm_rate"].default,
    passes: Annotated[int, typer.Option(min=1, max=20, help="With --record: repeated runs that measure noise.")] = 2,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with an API key.")] = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a record for hybridserve check (verify.evidence_file).")
    ] = None,
    config: ConfigFile = None,
    assign: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Send fixed prompts alone, together, from the cache and after preemption, and compare log-probabilities.

    Exit 0: pass; 1: fail; 2: an error in the input, or no answer.

    Example: hybridserve verify http://127.0.0.1:8000 --reference reference.json
    """
    _check_options(url, reference, record, prompts, dtype, model)
    from hybridserve.verify.evidence import evidence_record, result_document
    from hybridserve.verify.probes import own_prompts
    from hybridserve.verify.reference import read_reference
    from hybridserve.verify.run import Load
    from hybridserve.verify.statistics import overall

    settings = read_settings(config, assign).settings
    known = read_reference(reference) if reference else None
    own = own_prompts(prompts) if prompts else []
    key = read_text(key_file, "--key-file").strip() if key_file else None
    started = datetime.now(UTC)
    given = {"model": model, "dtype": dtype, "block_size": block_size}
    show = _progress if sys.stderr.isatty() and not as_json else None
    made, results = asyncio.run(
        _run(url, key, known, own, given, Load(concurrency, pressure), alpha, passes if record else 1, show)
    )
    if show:
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
    if record is not None:
        write_text(record, made.to_json())
    document = result_document(results, made.about, alpha, known.sha256 if known else None)
    if evidence is not None:
        sealed = evidence_record(document, settings, url=url, started=started, finished=datetime.now(UTC))
        write_text(evidence, json.dumps(sealed, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    elif results:
        _print(results, document)
    if record is not None and not as_json:
        typer.echo(f"reference: {record}")
    raise typer.Exit(1 if overall(results) == "FAIL" else 0)


async def _run(
    url: str,
    key: str | None,
    known: "Reference | None",
    own: "Sequence[Chat | Text]",
    given: dict[str, Any],
    load_: Any,
    alpha: float,
    passes: int,
    progress: Any,
) -> "tuple[Reference, list[Result]]":
    """The reference that was used or made, and the results."""
    import httpx

    from hybridserve.verify.client import EngineClient
    from hybridserve.verify.run import check

    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    if not url.startswith("http"):
        from hybridserve.verify.offline import TransformersEngine
        from hybridserve.verify.run import record

        return await record(TransformersEngine(Path(url), given["model"]), own, given, load_, 0, progress), []
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, trust_env=False) as http:
        engine = EngineClient(http, given["model"] or await EngineClient(http, "").first_model())
        return await check(engine, known, own, given, load_, alpha, passes, progress)


def _check_options(
    url: str, reference: Path | None, record: Path | None, prompts: Path | None, dtype: str, model: str | None
) -> None:
    parts = urlsplit(url)
    if record is not None and Path(url).is_dir():
        if model is None:
            raise ConfigError("--model", "is needed with a folder", "give the name under which it is served")
    elif parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("URL", f"{url!r} is not a URL", "for example http://127.0.0.1:8000")
    if reference is not None and record is not None:
        raise ConfigError("--record", "cannot be used with --reference", "record first, then compare")
    if reference is not None and prompts is not None:
        raise ConfigError("--prompts", "belongs to --record: a reference has its own prompts", "record with --prompts")
    if dtype not in DTYPES:
        raise ConfigError("--dtype", f"{dtype!r} is not known", f"one of {', '.join(DTYPES)}")


def _progress(condition: str, done: int, total: int) -> None:
    print(f"\r{condition:<12} {done + 1}/{total}          ", end="", file=sys.stderr, flush=True)


def _print(results: "Sequence[Result]", document: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [
        ("condition", "verdict", "probes", "positions", "level", "limit", "worst", "limit", "flips", "note")
    ]
    for result in results:
        numbers = (result.level, result.level_limit, result.worst, result.worst_limit)
        shown = ("", "", "", "") if result.verdict == "SKIP" else tuple(f"{number:.4f}" for number in numbers)
        rows.append(
            (result.condition, result.verdict, str(result.probes), str(result.positions), *shown, str(result.flips),
             result.note)
        )  # fmt: skip
    print_table(rows, left=(0, 1, 9))
    what = f"reference {document['reference_sha256'][:12]}" if document["reference_sha256"] else "the engine itself"
    typer.echo(f"{document['verdict']}: {document['model']} on vLLM {document['vllm']} against {what}; "
               f"false-alarm rate {document['alpha']:g}, tolerance {document['tolerance']}")  # fmt: skip
