"""Faults that pydantic finds have the words of the settings file, never in those of Python or pydantic."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_core._pydantic_core import list_all_errors

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.settings import Settings, load
from hybridserve.settings.faults import config_error, known_keys
from hybridserve.validation import describe, from_validation, refused

FOREIGN = re.compile(
    r"Input should|[Vv]alue error|required|\bvalid|unable to|dictionary|tuple|boolean|datetime|correct |\^"
)
PATHS = [f"{section}.{key}" for section in known_keys() for key in known_keys(section)]
WRONG: tuple[Any, ...] = (
    {"0": {"by": "Bob"}},
    {"a": [1]},
    [{"a": 1}],
    "two words",
    -1e12,
    1e12,
    3.5,
    True,
    None,
    date(2026, 1, 2),
)


def faults(tree: dict[str, Any]) -> list[ConfigError]:
    """The errors of settings; none where they are good."""
    try:
        Settings.model_validate(tree)
    except ValidationError as error:
        first = config_error(error, {})
        return [first, *cast("tuple[ConfigError, ...]", first.others)]
    return []


@pytest.mark.parametrize("path", PATHS)
def test_no_error_about_a_value_has_pydantics_words(path: str) -> None:
    section, _, key = path.partition(".")
    for value in WRONG:
        for fault in faults({section: {key: value}}):
            assert not FOREIGN.search(f"{fault.what} | {fault.fix}"), str(fault)
            assert fault.where.startswith(section)
            assert (
                "set " in fault.fix or "write" in fault.fix or "did you mean" in fault.fix or "known here" in fault.fix
            )


def test_every_error_of_pydantic_has_words_of_its_own() -> None:
    for known in list_all_errors():
        context = known.get("example_context") or {}
        said = known["example_message_python"]
        fault = {"type": known["type"], "msg": said, "input": "text", "loc": (), "ctx": context}
        error = describe(cast("ErrorDetails", fault))
        assert error.what
        assert not re.search(r"Input should|Value error|Assertion failed|unable to parse|\{", error.what), error


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        (
            "guard: {kind: model}",
            "kind model needs model and format",
            "set guard.model and guard.format, or another guard.kind",
        ),
        (
            "guard: {kind: nemo, url: http://g}",
            "kind nemo needs config_id",
            "set guard.config_id, or another guard.kind",
        ),
        (
            "scaling: {min_replicas: 4, max_replicas: 2}",
            "min_replicas 4 is above max_replicas 2",
            "set scaling.max_replicas to 4 or more, or scaling.min_replicas to 2 or less",
        ),
        (
            "guard: {overlap_tokens: 60}",
            "overlap_tokens 60 is more than half of the window of 100",
            "set guard.overlap_tokens to 50 or less, or guard.window_tokens to 120 or more",
        ),
        (
            "guard: {overlap_tokens: 20000}",
            "overlap_tokens 20000 is more than half of the window of 100",
            "set guard.overlap_tokens to 50 or less",
        ),
        ("telemetry: {slo_ttft_s: 3}", "slo_ttft_s 3 is not a bucket", "set telemetry.slo_ttft_s to 2.5 or 5"),
        (
            "access: {refused_fields: priority}",
            "'priority' is not a list",
            "set access.refused_fields to a list: [priority]",
        ),
        (
            "license: {accepted: {license: mit}}",
            "a mapping is not a list",
            "set license.accepted to a list: [{license: ..., by: ..., accepted: ..., obtained: ...}]",
        ),
        (
            "license: {accepted: {'0': {by: Bob}}}",
            "a mapping is not a list",
            "set license.accepted to the whole list: [{license: ...",
        ),
        (
            "license: {accepted: [{license: mit, by: A, accepted: yesterday}]}",
            "'yesterday' is not a date",
            "set license.accepted.0.accepted to a date, such as 2026-11-28",
        ),
        ("license: {accepted: [{license: mit, by: A}]}", "is missing", "set license.accepted.0.accepted"),
        (
            "license: {waivers: [{rule: a, by: B, until: 2026-12-01, reason: internaluse}]}",
            "'internaluse' has fewer than three different words",
            "give the reason in at least three different words",
        ),
        (
            "guard: {url: 'guard:8002/v1'}",
            "'guard:8002/v1' has no scheme",
            "write http://guard:8002/v1 or https://guard:8002/v1",
        ),
        (
            "guard: {url: https//guard/v1}",
            "'https//guard/v1' has no scheme",
            "write http://guard/v1 or https://guard/v1",
        ),
        ("guard: {url: httpd/v1}", "'httpd/v1' has no scheme", "write http://httpd/v1 or https://httpd/v1"),
        ("engine: {max_num_seqs: 3.5}", "3.5 is not a whole number", "set engine.max_num_seqs to a whole number"),
        ("guard: {output: maybe}", "'maybe' is neither true nor false", "set guard.output to true or false"),
        ("engine: {extra_args: fp8}", "'fp8' is not a mapping", "set engine.extra_args to a mapping, {KEY: VALUE}"),
        (
            "guard: {revision: main}",
            "'main' is not the 40",
            "set guard.revision to the 40 lowercase hex digits of a commit",
        ),
        ("server: {port: 0}", "0 is below 1", "set server.port to a number of 1 or more"),
        ("guard: {timeout_s: 0}", "0 is not above 0", "set guard.timeout_s to a number above 0"),
        (
            "engine: {tensor_parallel_size: null}",
            "null is not a whole number",
            "set engine.tensor_parallel_size to a whole",
        ),
    ],
)
def test_a_wrong_value_says_what_to_write(text: str, what: str, fix: str) -> None:
    [error] = faults(yamlio.parse(text, "here"))
    assert error.what.startswith(what)
    assert error.fix.startswith(fix)


def test_a_contradiction_names_the_source_of_its_fields_only(tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("guard:\n  input: before\n  kind: model\n  max_tokens: 200\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert caught.value.fix.endswith(f"it was set by file {file}, line 3")


def test_the_fix_of_a_validator_is_kept_for_other_files() -> None:
    class Entry(BaseModel):
        low: int

        @model_validator(mode="after")
        def _check(self) -> Entry:
            raise refused("low {is} wrong", "write {another}")

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[Entry]).validate_python([{"low": 1}])
    error = from_validation(caught.value, "a.yaml", "correct the file")
    assert (error.where, error.what, error.fix) == ("a.yaml: 0", "low {is} wrong", "write {another}")
