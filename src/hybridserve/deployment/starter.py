"""The first settings file of a deployment, as commented YAML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import yaml

from hybridserve.catalog.licenses import license, model_license, pinned_commit
from hybridserve.planning.resolve import ResolvedPlan, stated_types
from hybridserve.planning.workload import ASSUMED

# Longest context of the guard below: a prompt that it cannot read whole cannot be checked (rule guard.context).
_GUARD_CONTEXT = 32768
# Reviewed as a guard, see model_licenses.yaml.
_GUARD_MODEL = "Qwen/Qwen3Guard-Gen-4B"
_GUARD = f"""\
kind: model
url: http://127.0.0.1:8002/v1    # OpenAI endpoint of the guard; on Kubernetes remove it: the chart runs the guard
model: {_GUARD_MODEL}
revision: 6ec42827da0c1ff11e7a49dc269d2e810d27e108
format: qwen3guard
"""


def starter_yaml(planned: ResolvedPlan, given: Mapping[str, Mapping[str, Any]], day: date) -> str:
    """The text of a settings file for a planned deployment.

    Sections and keys of `given` are active. What a person must decide, and what the plan chooses by itself, is in
    comments that are valid settings without their number sign.

    Args:
        planned: the plan of the settings in `given`.
        given: settings by section.
        day: for the header, and the date of an acceptance.
    """
    model, device = planned.model, planned.advice.plan.deployment.accelerator
    name = model.card.name if model.card else model.id
    active: dict[str, dict[str, Any]] = {section: dict(values) for section, values in given.items()}
    commit = pinned_commit(model, active["model"].get("source"))
    if commit is not None:
        active["model"].setdefault("revision", commit)
    if model.folder is None:
        active.setdefault("license", {}).setdefault("weights", "pulled")
    active.setdefault("server", {}).setdefault("profile", "demo")
    active.setdefault("engine", {}).setdefault("version", planned.settings.engine.version)

    optional: dict[str, list[str]] = {"model": ["served_name: assistant    # the name that clients send as `model`"]}
    if model.folder is None and commit is None:
        # The repository also for a catalog id: the hub's answer is about it.
        repository = active["model"].get("source") or (model.card and model.card.repository) or model.id
        optional["model"].append(
            f"revision: COMMIT    # 40 hex digits; `hybridserve fetch {repository} --revision main` names it"
        )
    chosen, lengths = planned.advice.values, planned.advice.workload
    # Its type decides accuracy, and the check of production may refuse what the engine takes by itself.
    notes = {flag.name: flag.reason for flag in planned.advice.flags if flag.name == "mamba_ssm_cache_dtype"}
    active["engine"] |= {name: value for name, value in stated_types(planned).items() if _open(active["engine"], name)}
    if lengths is not ASSUMED:  # the plan of a start would be for the assumed lengths
        active["engine"] = {**chosen, **active["engine"]}
    choices = {key: value for key, value in chosen.items() if key not in active["engine"]}
    optional["engine"] = [
        f"Planned for {lengths.source}.",
        *(["The plan chooses these at every start; without the number sign they are fixed."] if choices else []),
        *_lines(choices, notes),
        *(  # rule engine.prefix-cache-granularity asks for it
            f"{option.name}: {option.value}    # to decide: {option.gain}; {option.price}"
            for option in planned.advice.alternatives
            if option.name == "prefix_match_unit"
        ),
    ]
    parser = model.card.serving.reasoning_parser if model.card else None
    if parser:
        active["engine"].setdefault("reasoning_parser", parser)
    optional["server"] = [
        "staging and production do not start while `hybridserve check` has an error.",
        "host: 0.0.0.0    # the default is 127.0.0.1, this machine only",
    ]
    optional["access"] = ["keys_file: keys.txt    # made by `hybridserve key new NAME --file keys.txt`"]
    optional["license"] = _acceptance(planned, day)
    optional["guard"] = [
        "A guard model checks prompts and answers; docs/how-to/enable-a-guard.md.",
        *_GUARD.splitlines(),
    ]
    if planned.advice.plan.low is None or planned.advice.plan.low.max_model_len > _GUARD_CONTEXT:
        optional["guard"].insert(
            1, f"This one reads {_GUARD_CONTEXT:,} tokens: set engine.max_model_len to {_GUARD_CONTEXT}."
        )
    decided = {"license": "accepted", "guard": "kind", "access": "keys_file", "server": "host"}
    for section, key in decided.items():
        if key in given.get(section, {}):
            del optional[section]

    lines = [
        f"# {name} on {device.name}, written by `hybridserve init` on {day}.",
        "# A setting that is missing here has its default, or the plan chooses it: docs/reference/settings.md.",
    ]
    for section in dict.fromkeys(
        [*("model", "accelerator", "engine", "server", "access", "license", "guard"), *active]
    ):
        values, comments = active.get(section, {}), optional.get(section, [])
        if not values and not comments:
            continue
        lines += ["", f"{section}:" if values else f"# {section}:"]
        lines += [f"  {line}" for line in _lines(values, notes if section == "engine" else {})]
        lines += [f"  # {line}" if values else f"#   {line}" for line in comments]
    return "\n".join(lines) + "\n"


def _open(engine: Mapping[str, Any], name: str) -> bool:
    """Whether a type is left to the engine, whose choice depends on the release."""
    return engine.get(name) in (None, "auto")


def _lines(values: Mapping[str, Any], notes: Mapping[str, str]) -> list[str]:
    """Values as YAML, with a comment after those keys that have a note."""
    lines = yaml.safe_dump(dict(values), sort_keys=False, width=100).splitlines() if values else []
    return [f"{line}    # {note}" if (note := notes.get(line.partition(":")[0])) else line for line in lines]


def _acceptance(planned: ResolvedPlan, day: date) -> list[str]:
    """A line for each license that a person accepts: of the model, and of the guard (by default the one below)."""
    lines, owners = [], dict[str, list[str]]()
    if (known := model_license(planned.model.id)) is None:
        lines = ["This model's license is not in the registry: `hybridserve explain --licenses` lists those that are."]
    for name in known.licenses if known else ():
        owners[name] = [planned.model.id]
    guard = planned.settings.guard.model or _GUARD_MODEL
    for name in entry.licenses if (entry := model_license(guard)) else ():
        owners.setdefault(name, []).append(f"the guard {guard}")
    texts = [f"{license(name).url} ({' and '.join(whose)})" for name, whose in owners.items()]
    texts[-1:] = [f"{text}, then:" for text in texts[-1:]]
    lines += [f"{'and' if number else 'Read'} {text}" for number, text in enumerate(texts)]
    lines.append("accepted:")
    lines += [
        f"  - {{license: {name}, by: YOUR NAME, accepted: {day}}}    # of {' and of '.join(whose)}"
        for name, whose in owners.items()
    ]
    return lines
