"""A reference: the probes with the answers and log-probabilities of a trusted engine, and that engine's own noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hybridserve.compliance.evidence import is_intact, seal_record
from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.validation import from_validation
from hybridserve.verify.statistics import Noise

SCHEMA = "hybridserve.reference/1"
_FIX = "record it again with hybridserve verify URL --record FILE"


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt, in tokens.

    Attributes:
        group: short, long, grid, turns or own.
        expect: text that a right answer contains; None where no answer is judged.
    """

    id: str
    group: str
    prompt: tuple[int, ...]
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A probe with the trusted engine's greedy answer.

    Attributes:
        tokens: the answer.
        top: the likeliest tokens at each position of the answer, with log-probabilities.
        forced: log-probabilities of the answer's tokens when prompt and answer are read in one prefill; empty where the
            engine does not report them.
        right: whether the answer contains `probe.expect`.
    """

    probe: Probe
    tokens: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    forced: tuple[float, ...] = ()
    right: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """What an engine is compared with.

    Attributes:
        about: the engine that made it: model, release, data type, block size.
        noise: of each condition.
    """

    about: Mapping[str, Any]
    entries: tuple[Entry, ...]
    noise: Mapping[str, Noise]
    sha256: str = ""

    def to_json(self) -> str:
        """The file's content: one probe a line."""
        body = json.loads(json.dumps({"schema": SCHEMA, **{k: v for k, v in asdict(self).items() if k != "sha256"}}))
        sealed = seal_record(body)
        entries = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in sealed.pop("entries"))
        head = json.dumps(sealed, indent=1)[:-2]
        return f'{head},\n "entries": [\n{entries}\n]}}\n'


def read_reference(file: Path) -> Reference:
    """The reference in a file.

    Raises:
        ConfigError: the file cannot be read, is no reference, or was changed after it was written.
    """
    try:
        record = json.loads(read_text(file, "--reference"))
    except ValueError as error:
        raise ConfigError(str(file), f"is not JSON: {error}", _FIX) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ConfigError(str(file), f"is not a reference of schema {SCHEMA}", _FIX)
    if not is_intact(record):
        raise ConfigError(str(file), "was changed: its digest does not match its content", _FIX)
    try:
        reference = TypeAdapter(Reference).validate_python({k: v for k, v in record.items() if k != "schema"})
    except ValidationError as error:
        raise from_validation(error, f"{file} is not a reference", _FIX) from None
    if not reference.entries:
        raise ConfigError(str(file), "has no probes", _FIX)
    return reference


def conversations(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups that are sent in order: the turns of one conversation, or a single prompt."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        name = entry.probe.id.rsplit("-turn", 1)[0] if entry.probe.group == "turns" else entry.probe.id
        groups.setdefault(name, []).append(entry)
    return list(groups.values())
