"""License and attribution: every license is known, reviewed and accepted, and its obligations are met."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate

from hybridserve.catalog.licenses import License, license_ids
from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.overrides import alterations
from hybridserve.compliance.placeholders import is_placeholder
from hybridserve.compliance.reviews import accepted_on, last_review
from hybridserve.compliance.rules.base import RuleFamily, clause, duties
from hybridserve.compliance.view import DeploymentView
from hybridserve.settings.license import Waiver

LICENSE = RuleFamily("license")

LONGEST_WAIVER = timedelta(days=366)
# Names by which users recognize the models of other vendors.
VENDOR_MARKS = ("gpt", "chatgpt", "openai", "claude", "anthropic", "gemini", "gemma", "grok", "mistral", "mixtral",
                "llama", "qwen", "deepseek", "kimi", "nemotron", "nvidia", "granite", "falcon", "jamba", "cohere",
                "phi", "glm", "lfm", "copilot", "minimax", "hunyuan", "sonnet", "ministral", "magistral", "codestral",
                "devstral", "pixtral", "dbrx")  # fmt: skip
# These occur in other words; the rest is a mark wherever it is.
_SHORT_MARKS = ("phi", "lfm")
# Digits that are written for letters; 1 is an i or an l.
_DIGITS = tuple(str.maketrans("013457@$|!", f"o{one}eastasli") for one in "il")
# Letters that look like others: cIaude, gernini, qvven.
_LOOK_ALIKES = (("I", "l"), ("rn", "m"), ("vv", "w"))
# NVIDIA's Open Model License allows a substitute guardrail since this version; before, that is not certain.
SUBSTITUTE_SINCE = date(2025, 9, 23)


@LICENSE.rule(
    "known",
    "Every model's license is in the registry and was reviewed",
    basis="policy: duties that nobody has read cannot be met",
    remedy="serve a model whose license was reviewed, or, in the repository, add its license with clauses and source "
    "to src/hybridserve/catalog/licenses and src/hybridserve/catalog/model_licenses.yaml",
)
def known(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None:
            yield unknown("the registry has no license for this model", part.id)
            continue
        open_licenses = [license.id for license in part.licenses if license.status == "unknown"]
        if part.entry.status == "unknown" or open_licenses:
            names = ", ".join(open_licenses or part.entry.licenses)
            evidence = f"not reviewed, or not certain to be the model's license: {names}"
            yield unknown(evidence if names else f"the registry names no license: {part.entry.source}", part.id)
        else:
            names = ", ".join(f"{license.id} ({license.status})" for license in part.licenses)
            yield passed(f"{names}; {part.entry.source}, reviewed {part.entry.read}", part.id)
    draft = (view.engine.args.get("speculative_config") or {}).get("model")
    if draft and draft not in (view.model.id, view.model.repository, view.settings.model.source):
        yield unknown("a draft model is a further model, whose license nobody has reviewed here", draft)


@LICENSE.rule(
    "source",
    "The weights come from the repository whose license was reviewed",
    basis="policy: a copy in another repository may be changed and may have other terms",
    remedy="leave model.source empty, or set model.id to the name of that repository",
)
def source(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry and part.entry.repository and part.repository:
            evidence = f"reviewed for {part.entry.repository}, fetched from {part.repository}"
            yield require(fnmatch.fnmatchcase(part.repository, part.entry.repository), evidence, part.id)


@LICENSE.rule(
    "revision",
    "The license was reviewed at the revision that is deployed",
    basis="https://huggingface.co/nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16 changed its license in place in 2026",
    remedy="deploy the revision of the registry, or review the card at yours and record it in "
    "src/hybridserve/catalog/model_licenses.yaml",
    severity="warning",
)
def revision(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None or part.repository is None:
            continue
        reviewed = part.entry.revision
        if reviewed is None:
            yield passed(f"the card was reviewed on {part.entry.read}, at no fixed revision", part.id)
        elif part.revision == reviewed:
            yield passed(f"reviewed at {reviewed[:12]}", part.id)
        else:
            deployed = part.revision or "at a branch that can move"
            yield failed(f"reviewed at {reviewed[:12]}, deployed {deployed}", part.id)


@LICENSE.dated_rule(
    "accepted",
    "A person accepted each license in this version",
    basis="policy: litigation, indemnity, export and use-policy terms bind the operator, so a person must accept them",
    remedy="read the text, whose address `hybridserve explain LICENSE` shows, then add license.accepted: "
    "[{license: LICENSE, by: NAME, accepted: DATE}]",
)
def accepted(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.license.max_review_age_days
    for license in _licenses(view):
        records = [record for record in view.license.accepted if record.license == license.id]
        if not records:
            record = f"license.accepted: [{{license: {license.id}, by: NAME, accepted: {today}}}]"
            parts = [f"the {part.role} {part.id}" for part in view.parts if license in part.licenses]
            evidence = f"nobody accepted it; it is the license of {' and of '.join(parts)}"
            fix = f"read {license.url} and add {record}"
            if wrong := _wrong_ids(view, license):
                evidence += f"; license.accepted has {wrong}, which the registry does not have"
                fix = f"write {license.id} there if that is the text that was read; else {fix}"
            yield failed(evidence, license.id, remedy=fix)
            continue
        latest = max(records, key=lambda record: record.accepted)
        age = (today - latest.accepted).days
        evidence = f"accepted by {latest.by} on {latest.accepted}"
        if is_placeholder(latest.by):
            fix = "write the name of the person who read it in `by` of license.accepted"
            yield failed(f"{evidence}: that is a placeholder, not a person", license.id, remedy=fix)
        elif age < 0:
            fix = f"set `accepted` of license.accepted to the day on which it was read, not after {today}"
            yield failed(f"{evidence}, which is after {today}", license.id, remedy=fix)
        elif age > limit:
            fix = f"read {license.url} again and set `accepted` of license.accepted to that day"
            yield failed(f"{evidence}, {age} days ago; the limit is {limit}", license.id, remedy=fix)
        else:
            yield passed(evidence, license.id)


def _wrong_ids(view: DeploymentView, license: License) -> str:
    """The accepted ids that no license has and that may mean this one."""
    known = license_ids()
    given = dict.fromkeys(record.license for record in view.license.accepted if record.license not in known)
    meant = {name: difflib.get_close_matches(name.casefold(), known, n=1) for name in given}
    return ", ".join(repr(name) for name, close in meant.items() if close in ([], [license.id]))


@LICENSE.dated_rule(
    "review-age",
    "Each license was reviewed recently",
    basis="NVIDIA Open Model License Agreement (2025-10-24) section 2.1: the text may be updated at any time",
    remedy="read the license again, at the address that `hybridserve explain LICENSE` shows, and set `accepted` of "
    "license.accepted to that day; or install a newer hybridserve, or raise license.max_review_age_days",
)
def review_age(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.license.max_review_age_days
    for license in _licenses(view):
        reviewed = f"reviewed {license.read} in the registry"
        if day := accepted_on(view.license, license.id, today):
            reviewed += f", read and accepted {day} by you"
        age = (today - last_review(view.license, license.id, license.read, today)).days
        evidence = f"{reviewed}: {age} days ago; the limit is {limit}"
        if age <= limit:
            yield passed(evidence, license.id)
        else:
            fix = f"read {license.url} again and set `accepted` of license.accepted to that day; or install a newer "
            fix += "hybridserve, or raise license.max_review_age_days"
            yield failed(evidence, license.id, remedy=fix)


@LICENSE.rule(
    "limits",
    "The operator is within the licenses' limits on revenue and users",
    basis="LFM Open License v1.0; Llama 3.1 Community License Agreement section 2",
    remedy="set license.annual_revenue_usd or license.monthly_users truthfully, or agree with the licensor and list "
    "the license in license.commercial",
)
def limits(view: DeploymentView) -> Iterator[Outcome]:
    # Revenue must be below its limit; users may reach theirs.
    for _, license, duty in duties(view, "revenue_limit"):
        revenue, limit = view.license.annual_revenue_usd, duty.limit or 0
        if duty.non_profit and view.license.non_profit:
            yield passed("a non-profit organization, which is exempt", license.id, clause(license, duty))
        else:
            yield _limit(view, license, clause(license, duty), "annual revenue in USD", revenue, limit, limit - 1)
    for _, license, duty in duties(view, "user_limit"):
        users, limit = view.license.monthly_users, duty.limit or 0
        yield _limit(view, license, clause(license, duty), f"monthly users in {duty.counted}", users, limit, limit)


@LICENSE.rule(
    "domicile",
    "No license excludes the operator's country",
    basis="Llama 4 Acceptable Use Policy: no rights in multimodal models for residents of the European Union",
    remedy="set license.domicile truthfully; if your country is excluded, use a model under another license, or agree "
    "with the licensor and list the license in license.commercial",
)
def domicile(view: DeploymentView) -> Iterator[Outcome]:
    country = view.license.domicile
    for part, license, duty in duties(view, "domicile"):
        where = clause(license, duty)
        if license.id in view.license.commercial:
            yield passed("a separate agreement is declared", part.id, where)
        elif country is None:
            yield unknown("license.domicile is not declared", part.id, where)
        else:
            excluded = country in duty.countries
            yield require(not excluded, f"{country} is {'excluded' if excluded else 'not excluded'}", part.id, where)


@LICENSE.rule(
    "guardrail",
    "The model's guardrails are unchanged, or replaced as the license allows",
    basis="NVIDIA Open Model License Agreement section 2.1: rights terminate automatically",
    remedy="undo the change; or keep a guard on input and output, have a person judge it as substantially similar for "
    "your use, and record that in a waiver of this rule that names the guard",
)
def guardrail(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    both_stages = guard.kind in ("model", "nemo") and guard.input != "off" and guard.output
    for part, license, duty in duties(view, "guardrail"):
        where = clause(license, duty)
        # The guard model runs elsewhere; all that is known of it here is its pinned revision.
        changes = "; ".join(alterations(view)) if part.role == "model" else ""
        if not changes:
            yield passed("none of its guardrails was changed", part.id, where)
        elif not duty.substitute:
            yield failed(f"changed, and this version of the license allows no substitute: {changes}", part.id, where)
        elif not both_stages:
            yield failed(f"changed, without a guard on both input and output: {changes}", part.id, where)
        else:
            question = f"a person must judge whether {guard.model or guard.kind} is substantially similar"
            if part.entry and part.entry.other_versions:
                question += f"; {_obtained(view, license)}"
            yield unknown(f"changed: {changes}; {question}", part.id, where)


@LICENSE.rule(
    "special-purpose",
    "A special-purpose model is not offered as a general one",
    basis="NVIDIA Open Model License Agreement (2025-10-24) sections 1.5 and 2.1",
    remedy="serve a general model; serve a special-purpose one only for the purpose in its documentation",
)
def special_purpose(view: DeploymentView) -> Iterator[Outcome]:
    entry = view.model.entry
    offered = entry is not None and (entry.special_purpose or entry.guard) and view.chat
    evidence = "a special-purpose model offered for general chat" if offered else "not a special-purpose model"
    for part, license, duty in duties(view, "special_purpose", [view.model]):
        yield require(not offered, evidence, part.id, clause(license, duty))


@LICENSE.rule(
    "model-name",
    "The served name suggests no other vendor's model, and that of a changed model respects its licensor's marks",
    basis="NVIDIA Open Model License Agreement section 5; Llama Community License Agreements section 1.b.i",
    remedy="set model.served_name to a name without such marks; for a model based on Llama the name must "
    "begin with Llama",
)
def model_name(view: DeploymentView) -> Iterator[Outcome]:
    name = view.model.served_name or view.model.id
    last = name.lower().split("/")[-1]
    own = f"{view.model.id} {view.model.repository}".lower()
    foreign = [mark for mark in VENDOR_MARKS if mark not in own and _carries(name, mark)]
    evidence = f"served as {name!r}{', a mark of another model: ' + foreign[0] if foreign else ''}"
    if not name.isascii():
        evidence += ", with letters that look like others"
    yield require(
        not foreign and name.isascii(),
        evidence,
        view.model.id,
        "policy: a name must not suggest another vendor's model",
    )
    for part, license, duty in duties(view, "trademark", [view.model]):
        marked = any(_carries(name, mark) for mark in duty.names)
        yield require(not marked, f"served as {name!r}", part.id, clause(license, duty))
    for part, license, duty in duties(view, "name_prefix", [view.model]):
        yield require(last.startswith(duty.names), f"served as {name!r}", part.id, clause(license, duty))


@LICENSE.dated_rule(
    "waivers",
    "Waivers are granted by a person, are current and end within a year",
    basis="policy: a waiver is a decision for a limited time",
    remedy="remove the waiver, or decide again and set a new `until`",
)
def waivers(view: DeploymentView, today: date) -> Iterator[Outcome]:
    for waiver in view.waivers:
        when = "expired on" if waiver.until < today else "valid until"
        endless = waiver.until - today > LONGEST_WAIVER
        limit = f", more than {LONGEST_WAIVER.days} days ahead" if endless else ""
        evidence = f"{when} {waiver.until}{limit} ({waiver.by}: {waiver.reason})"
        if blank := _placeholder(waiver):
            fix = f"write in `{blank}` of the waiver who grants it and why; a placeholder waives nothing"
            yield failed(f"{evidence}: `{blank}` is a placeholder", waiver.rule, remedy=fix)
        else:
            yield require(is_current(waiver, today), evidence, waiver.rule)


def is_current(waiver: Waiver, today: date) -> bool:
    """Whether the waiver counts on this day: a person granted it, it is not over, and it ends within a year."""
    return timedelta(0) <= waiver.until - today <= LONGEST_WAIVER and _placeholder(waiver) is None


def _placeholder(waiver: Waiver) -> str | None:
    """The field of a waiver that still has the text of an example."""
    return next((field for field in ("by", "reason") if is_placeholder(getattr(waiver, field))), None)


def _obtained(view: DeploymentView, license: License) -> str:
    """What is known of the version of a license that the model's card names without one."""
    days = [record.obtained for record in view.license.accepted if record.license == license.id and record.obtained]
    if not days:
        return "the card names no version: license.accepted.obtained must say when the weights were obtained"
    before = min(days) < SUBSTITUTE_SINCE
    clause = "may not be" if before else "is"
    return f"weights obtained {min(days)}, when the clause on a substitute {clause} in the license"


def _carries(name: str, mark: str) -> bool:
    """Whether a name has the mark: in a word, over the ends of words, or with digits or letters that look alike."""
    names = [name, *(name.replace(*pair) for pair in _LOOK_ALIKES)]
    spellings = [spelled for one in names for spelled in (one.lower(), *(one.lower().translate(d) for d in _DIGITS))]
    return any(_in_words(re.findall(r"[a-z]+", spelling), mark) for spelling in spellings)


def _in_words(words: list[str], mark: str) -> bool:
    joined = "".join(words)
    if mark not in joined:
        return False
    # A short mark may be there by chance, unless it is whole words or all in one.
    ends = {0, *accumulate(map(len, words))}
    whole = any(joined.startswith(mark, begin) and begin + len(mark) in ends for begin in ends)
    return whole or len(mark) > 4 or (mark not in _SHORT_MARKS and any(mark in word for word in words))


def _licenses(view: DeploymentView) -> list[License]:
    return list({license.id: license for part in view.parts for license in part.licenses}.values())


def _limit(
    view: DeploymentView, license: License, where: str, what: str, value: int | None, limit: int, largest: int
) -> Outcome:
    if license.id in view.license.commercial:
        return passed("a separate agreement is declared", license.id, where)
    if value is None:
        return unknown(f"{what} not declared; the limit is {limit:,}", license.id, where)
    return require(value <= largest, f"{what} {value:,}, the limit is {limit:,}", license.id, where)
