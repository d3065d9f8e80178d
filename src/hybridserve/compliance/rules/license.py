"""License and attribution: every license is known, reviewed and accepted, and its obligations are met."""

from __future__ import annotations

import fnmatch
import html
import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from hybridserve.catalog.licenses import License, Term, normalize
from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.overrides import alterations
from hybridserve.compliance.rules.base import RuleFamily, clause, duties
from hybridserve.compliance.view import DeploymentView
from hybridserve.settings.license import Waiver

LICENSE = RuleFamily("license")

LONGEST_WAIVER = timedelta(days=366)
# Names by which users recognize the models of other vendors.
VENDOR_MARKS = ("gpt", "chatgpt", "openai", "claude", "anthropic", "gemini", "gemma", "grok", "mistral", "mixtral",
                "llama", "qwen", "deepseek", "kimi", "nemotron", "nvidia", "granite", "falcon", "jamba", "cohere",
                "phi", "glm", "lfm")  # fmt: skip
# NVIDIA's Open Model License allows a substitute guardrail since this version; before, that is not certain.
SUBSTITUTE_SINCE = date(2025, 9, 23)
CHANGES_FILE = re.compile(r"(?i)(notice|change(s|log)|modifications)(\.(md|txt))?")
CHANGED = re.compile(r"(?i)\b(changed|modified|altered|adapted|fine-?tuned|quanti[sz]ed|merged|pruned|converted)\b")
# Files of a checkpoint that contain notices: licenses, notices and the subcards that NVIDIA's cards refer to.
NOTICE_FILE = re.compile(r"(?i)(licen[cs]e|notice|copying)[^/]*|(bias|safety|privacy|explainability)\.md")


@LICENSE.rule(
    "known",
    "Every model's license is in the registry and was reviewed",
    basis="policy: duties that nobody has read cannot be met",
    remedy="serve a model of the registry, or add its license with clauses and source to catalog/licenses and "
    "catalog/model_licenses.yaml",
)
def known(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None:
            yield unknown("the registry has no license for this model", part.id)
            continue
        open_licenses = [license.id for license in part.licenses if license.status == "unknown"]
        if part.entry.status == "unknown" or open_licenses:
            names = ", ".join(open_licenses or part.entry.licenses)
            yield unknown(f"not reviewed, or not certain to be the model's license: {names}", part.id)
        else:
            names = ", ".join(f"{license.id} ({license.status})" for license in part.licenses)
            yield passed(f"{names}; {part.entry.source}, reviewed {part.entry.read}", part.id)


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
    remedy="deploy the revision of the registry, or review the card at yours and record it in model_licenses.yaml",
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
    remedy="read the text, then add license.accepted: [{license: ID, by: NAME, accepted: DATE}]",
)
def accepted(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.license.max_review_age_days
    for license in _licenses(view):
        records = [record for record in view.license.accepted if record.license == license.id]
        if not records:
            yield failed("nobody accepted it", license.id)
            continue
        latest = max(records, key=lambda record: record.accepted)
        age = (today - latest.accepted).days
        evidence = f"accepted by {latest.by} on {latest.accepted}"
        if age < 0:
            yield failed(f"{evidence}, which is in the future", license.id)
        elif age > limit:
            yield failed(f"{evidence}, {age} days ago; the limit is {limit}", license.id)
        else:
            yield passed(evidence, license.id)


@LICENSE.dated_rule(
    "review-age",
    "Each license was reviewed recently",
    basis="NVIDIA Open Model License Agreement (2025-10-24) section 2.1: the text may be updated at any time",
    remedy="review the license's page, set `read` in the registry, or raise license.max_review_age_days",
)
def review_age(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.license.max_review_age_days
    for license in _licenses(view):
        # A person who accepted this version reviewed it on that day.
        accepted_on = [record.accepted for record in view.license.accepted if record.license == license.id]
        last = max([license.read, *(day for day in accepted_on if day <= today)])
        age = (today - last).days
        yield require(age <= limit, f"last reviewed {last}, {age} days ago; the limit is {limit}", license.id)


@LICENSE.rule(
    "copy",
    "A complete copy of each license ships with the weights",
    basis="the licenses' redistribution clauses",
    remedy="put the text into the folder of license.bundle; `hybridserve notice` lists the texts and their addresses",
)
def copy(view: DeploymentView) -> Iterator[Outcome]:
    bundle = view.bundle
    for _, license, duty in duties(view, "license_copy"):
        where = clause(license, duty)
        if bundle is None:
            yield failed("license.bundle is not set", license.id, where)
            continue
        copies = {name: text for name, text in bundle.texts.items() if _is_marked(text, license)}
        if not copies:
            markers = " and ".join(repr(marker) for marker in license.markers)
            yield failed(f"no file with {markers} in the bundle", license.id, where)
        elif license.text is None:
            yield unknown(f"{', '.join(copies)}: the registry has no text to compare with", license.id, where)
        else:
            differences = {name: license.text.first_difference(text) for name, text in copies.items()}
            complete = next((name for name, difference in differences.items() if difference is None), None)
            evidence = f"{complete} has the reviewed terms" if complete else "; ".join(
                f"{name}: {difference}" for name, difference in differences.items()
            )  # fmt: skip
            yield require(complete is not None, evidence, license.id, where)


@LICENSE.rule(
    "notice",
    "NOTICE contains the exact lines that the licenses require",
    basis="the licenses' redistribution clauses",
    remedy="run `hybridserve notice DIR` and set license.bundle to DIR",
)
def notice(view: DeploymentView) -> Iterator[Outcome]:
    text = view.bundle.notice if view.bundle else None
    rows = [normalize(row) for row in (text or "").splitlines()]
    for _, license, duty in duties(view, "notice_line"):
        where, line = clause(license, duty), normalize(duty.line or "")
        if text is None:
            yield failed("the bundle has no NOTICE file", license.id, where)
        else:
            found = _has_line(rows, line)
            yield require(found, f"NOTICE {'contains' if found else 'has no line'}: {line}", license.id, where)


@LICENSE.rule(
    "retained-notices",
    "Notices that came with the weights ship unchanged",
    basis="the licenses' clauses on retaining notices",
    remedy="copy the named files from the checkpoint into the folder of license.bundle, byte for byte",
)
def retained_notices(view: DeploymentView) -> Outcome | None:
    present = view.files.present
    terms: list[Term] = ["retain_notices"]
    if present is not None:
        terms.append("third_party_notices")  # there may be none, so only a folder can show what is missing
    clauses = [clause(license, duty) for term in terms for _, license, duty in duties(view, term, [view.model])]
    if not clauses:
        return None
    where = "; ".join(dict.fromkeys(clauses))
    if present is None:
        return unknown("the checkpoint's folder is not here, so its notices cannot be listed", view.model.id, where)
    shipped = set(view.bundle.hashes.values()) if view.bundle else set()
    notices = {name: digest for name, digest in present.items() if NOTICE_FILE.fullmatch(name)}
    missing = sorted(name for name, digest in notices.items() if digest not in shipped)
    if missing:
        return failed(f"missing or changed in the bundle: {', '.join(missing)}", view.model.id, where)
    return passed(f"{len(notices)} notice files retained", view.model.id, where)


@LICENSE.rule(
    "service-line",
    "Lines that users must see are on the about page",
    basis="Llama 3.1 Community License Agreement (2024-07-23) section 1.b.i and similar clauses",
    remedy="put the line on the page of license.about; /licenses and a response header contain it as well",
)
def service_line(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "service_line"):
        page, line = view.about and normalize(view.about), normalize(duty.line or "")
        yield _contains(page, line, "the page of license.about", part.id, clause(license, duty))


@LICENSE.rule(
    "flow-down",
    "The terms of use include the use policies that must be passed on",
    basis="Gemma Terms of Use (2025-03-24) section 3.1 and similar clauses",
    remedy="make the policy an enforceable part of your terms, give its address there, and set license.terms_of_use",
)
def flow_down(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "policy_flow_down"):
        address = (duty.policy or "").removeprefix("https://")
        yield _contains(view.terms_of_use, address, "the text of license.terms_of_use", part.id, clause(license, duty))
    for part, license, duty in duties(view, "user_notice"):
        pages = " ".join(filter(None, (view.terms_of_use, view.about))) or None
        address = (duty.policy or "").removeprefix("https://")
        yield _contains(pages, address, "what users can read", part.id, clause(license, duty))


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
    "changes",
    "A changed copy comes with a notice of the changes",
    basis="Apache License 2.0 section 4(b) and similar clauses",
    remedy="state in NOTICE or CHANGES.md of license.bundle that you changed the files, and how",
)
def changes(view: DeploymentView) -> Iterator[Outcome]:
    texts = view.bundle.texts if view.bundle else {}
    stated = next((name for name, text in texts.items() if CHANGES_FILE.fullmatch(name) and CHANGED.search(text)), None)
    for part, license, duty in duties(view, "mark_changes", [view.model]):
        evidence = f"{stated} states the changes" if stated else "nothing in the bundle states that files were changed"
        yield require(stated is not None, evidence, part.id, clause(license, duty))


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
    words = re.findall(r"[a-z]+", name.lower())
    foreign = [mark for mark in VENDOR_MARKS if mark not in own and any(_carries(word, mark) for word in words)]
    evidence = f"served as {name!r}{', a mark of another model: ' + foreign[0] if foreign else ''}"
    yield require(not foreign, evidence, view.model.id, "policy: a name must not suggest another vendor's model")
    for part, license, duty in duties(view, "trademark", [view.model]):
        marked = any(mark in name.lower() for mark in duty.names)
        yield require(not marked, f"served as {name!r}", part.id, clause(license, duty))
    for part, license, duty in duties(view, "name_prefix", [view.model]):
        yield require(last.startswith(duty.names), f"served as {name!r}", part.id, clause(license, duty))


@LICENSE.dated_rule(
    "waivers",
    "Waivers are current and end within a year",
    basis="policy: a waiver is a decision for a limited time",
    remedy="remove the waiver, or decide again and set a new `until`",
)
def waivers(view: DeploymentView, today: date) -> Iterator[Outcome]:
    for waiver in view.waivers:
        when = "expired on" if waiver.until < today else "valid until"
        endless = waiver.until - today > LONGEST_WAIVER
        limit = f", more than {LONGEST_WAIVER.days} days ahead" if endless else ""
        evidence = f"{when} {waiver.until}{limit} ({waiver.by}: {waiver.reason})"
        yield require(is_current(waiver, today), evidence, waiver.rule)


def is_current(waiver: Waiver, today: date) -> bool:
    """Whether the waiver counts on this day: it is not over, and ends within a year."""
    return timedelta(0) <= waiver.until - today <= LONGEST_WAIVER


def _obtained(view: DeploymentView, license: License) -> str:
    """What is known of the version of a license that the model's card names without one."""
    days = [record.obtained for record in view.license.accepted if record.license == license.id and record.obtained]
    if not days:
        return "the card names no version: license.accepted.obtained must say when the weights were obtained"
    before = min(days) < SUBSTITUTE_SINCE
    clause = "may not be" if before else "is"
    return f"weights obtained {min(days)}, when the clause on a substitute {clause} in the license"


def _carries(word: str, mark: str) -> bool:
    """Whether a word of a name is the mark, or contains one that is long enough not to occur by chance."""
    return word == mark or (len(mark) > 4 and mark in word)


def _licenses(view: DeploymentView) -> list[License]:
    return list({license.id: license for part in view.parts for license in part.licenses}.values())


def _is_marked(text: str, license: License) -> bool:
    plain = normalize(html.unescape(text))
    return bool(license.markers) and all(normalize(marker) in plain for marker in license.markers)


def _has_line(rows: Sequence[str], line: str) -> bool:
    """Whether successive rows make up the line. A text may be wrapped, and end with a full stop or without."""
    wanted = line.rstrip(".")
    for first in range(len(rows)):
        joined = ""
        for row in rows[first:]:
            joined = f"{joined} {row}".strip()
            if joined.rstrip(".") == wanted:
                return True
            if not row or not wanted.startswith(joined):
                break
    return False


def _contains(text: str | None, required: str, where: str, subject: str, basis: str) -> Outcome:
    if text is None:
        return failed(f"{where} is missing; it must contain: {required}", subject, basis)
    found = required in text
    return require(found, f"{where} {'contains' if found else 'does not contain'}: {required}", subject, basis)


def _limit(
    view: DeploymentView, license: License, where: str, what: str, value: int | None, limit: int, largest: int
) -> Outcome:
    if license.id in view.license.commercial:
        return passed("a separate agreement is declared", license.id, where)
    if value is None:
        return unknown(f"{what} not declared; the limit is {limit:,}", license.id, where)
    return require(value <= largest, f"{what} {value:,}, the limit is {limit:,}", license.id, where)
