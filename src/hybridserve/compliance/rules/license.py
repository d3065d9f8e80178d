"""License and attribution: is every license known, read, accepted; does everything it asks for ship or show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from hybridserve.catalog.licenses import License, normalise, text_sha256
from hybridserve.compliance.findings import Outcome, failed, passed, unknown
from hybridserve.compliance.overrides import alterations
from hybridserve.compliance.rules.base import RuleBook, clause, duties
from hybridserve.compliance.view import DeploymentView

LICENSE = RuleBook("license")

# A copy with fewer words than this share of the license's is not whole.
WHOLE = 0.9
COMMIT = re.compile(r"[0-9a-f]{40}")
# Files of a checkpoint that carry notices: licenses, notices and the subcards NVIDIA's cards point to.
NOTICE_FILE = re.compile(r"(?i)(licen[cs]e|notice|copying)[^/]*|(bias|safety|privacy|explainability)\.md")


@LICENSE.rule(
    "known",
    "Every model's license is in the registry and has been read",
    basis="policy: what was not read cannot be kept",
    remedy="serve a model of the registry, or add its license with clauses and source to catalog/licenses and "
    "catalog/model_licenses.yaml",
)
def known(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None:
            yield unknown("no license is recorded for it", part.id)
            continue
        unread = [license.id for license in part.licenses if license.status == "unknown"]
        if part.entry.status == "unknown" or unread:
            yield unknown(f"not read or not established: {', '.join(unread or part.entry.licenses)}", part.id)
        else:
            told = ", ".join(f"{license.id} ({license.status})" for license in part.licenses)
            yield passed(f"{told}; {part.entry.source}, read {part.entry.read}", part.id)


@LICENSE.rule(
    "source",
    "The weights come from the repository whose license was read",
    basis="policy: another repository's copy may be changed, and under other terms",
    remedy="leave model.source empty, or name the model by its own repository in model.id",
)
def source(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None or part.repository is None or part.entry.repository is None:
            continue
        told = f"read for {part.entry.repository}, fetched from {part.repository}"
        yield passed(told, part.id) if part.repository == part.entry.repository else failed(told, part.id)


@LICENSE.rule(
    "revision",
    "The license was read at the revision that is deployed",
    basis="https://huggingface.co/nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16 changed its license in place in 2026",
    remedy="deploy the revision of the registry, or read the card at yours and record it in model_licenses.yaml",
    severity="warning",
)
def revision(view: DeploymentView) -> Iterator[Outcome]:
    for part in view.parts:
        if part.entry is None or part.repository is None:
            continue
        read_at = part.entry.revision
        if read_at is None:
            yield passed(f"the card was read on {part.entry.read}, at no fixed revision", part.id)
        elif part.revision == read_at:
            yield passed(f"read at {read_at[:12]}", part.id)
        else:
            yield failed(f"read at {read_at[:12]}, deployed {part.revision or 'at a moving branch'}", part.id)


@LICENSE.dated_rule(
    "accepted",
    "Somebody accepted each license, in this version",
    basis="policy: litigation, indemnity, export and use-policy terms bind the operator and need a person",
    remedy="add license.accepted: [{license: ID, by: NAME, accepted: DATE}] after reading the text",
)
def accepted(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.declared.max_reading_age_days
    for license in _licenses(view):
        records = [record for record in view.declared.accepted if record.license == license.id]
        if not records:
            yield failed("nobody accepted it", license.id)
            continue
        latest = max(records, key=lambda record: record.accepted)
        age = (today - latest.accepted).days
        told = f"accepted by {latest.by} on {latest.accepted}"
        if age < 0:
            yield failed(f"{told}, which is in the future", license.id)
        elif age > limit:
            yield failed(f"{told}, {age} days ago; the limit is {limit}", license.id)
        else:
            yield passed(told, license.id)


@LICENSE.dated_rule(
    "reading-age",
    "The reading of each license is recent",
    basis="NVIDIA Open Model License Agreement (2025-10-24) section 2.1: the text may be updated at any time",
    remedy="read the license's page again, set `read` in the registry, or raise license.max_reading_age_days",
)
def reading_age(view: DeploymentView, today: date) -> Iterator[Outcome]:
    limit = view.declared.max_reading_age_days
    for license in _licenses(view):
        # A person who accepted this version has read it then.
        reads = [record.accepted for record in view.declared.accepted if record.license == license.id]
        last = max([license.read, *(day for day in reads if day <= today)])
        age = (today - last).days
        told = f"last read {last}, {age} days ago; the limit is {limit}"
        yield failed(told, license.id) if age > limit else passed(told, license.id)


@LICENSE.rule(
    "copy",
    "A whole copy of each license ships with the weights",
    basis="the licenses' redistribution clauses",
    remedy="put the text into the folder of license.bundle; `hybridserve notice` says which and where it is",
)
def copy(view: DeploymentView) -> Iterator[Outcome]:
    for _, license, duty in duties(view, "license_copy"):
        where = clause(license, duty)
        bundle = view.declared.bundle
        if bundle is None:
            yield failed("license.bundle names no folder", license.id, where)
            continue
        found = [name for name, text in bundle.texts.items() if _is_copy(text, license)]
        if found:
            exact = text_sha256(bundle.texts[found[0]]) == license.text_sha256
            yield passed(f"{found[0]}{', identical to the text that was read' if exact else ''}", license.id, where)
        else:
            marks = " and ".join(repr(mark) for mark in license.markers)
            size = f" and about {license.words} words" if license.words else ""
            yield failed(f"no file with {marks}{size} in the bundle", license.id, where)


@LICENSE.rule(
    "notice",
    "NOTICE has the exact lines the licenses ask for",
    basis="the licenses' redistribution clauses",
    remedy="run `hybridserve notice DIR` and set license.bundle to DIR",
)
def notice(view: DeploymentView) -> Iterator[Outcome]:
    for _, license, duty in duties(view, "notice_line"):
        where, line = clause(license, duty), normalise(duty.line or "")
        text = view.declared.bundle.notice if view.declared.bundle else None
        if text is None:
            yield failed("the bundle has no NOTICE file", license.id, where)
        elif any(normalise(row) == line for row in text.splitlines()):
            yield passed(f"NOTICE has: {line}", license.id, where)
        else:
            yield failed(f"NOTICE has no line: {line}", license.id, where)


@LICENSE.rule(
    "retained",
    "Notices that came with the weights ship unchanged",
    basis="the licenses' clauses on retaining notices",
    remedy="copy the named files from the checkpoint into the folder of license.bundle, byte for byte",
)
def retained(view: DeploymentView) -> Iterator[Outcome]:
    owed = [(license, duty) for part, license, duty in duties(view, "retain_notices") if part.role == "model"]
    if not owed:
        return
    where = "; ".join(dict.fromkeys(clause(license, duty) for license, duty in owed))
    present = view.files.present
    if present is None:
        yield unknown("the checkpoint's folder is not here, so its notices cannot be listed", view.model.id, where)
        return
    shipped = set(view.declared.bundle.hashes.values()) if view.declared.bundle else set()
    notices = {name: digest for name, digest in present.items() if NOTICE_FILE.fullmatch(name)}
    lost = sorted(name for name, digest in notices.items() if digest not in shipped)
    if lost:
        yield failed(f"missing or changed in the bundle: {', '.join(lost)}", view.model.id, where)
    else:
        yield passed(f"{len(notices)} notice files retained", view.model.id, where)


@LICENSE.rule(
    "service-line",
    "Lines that users must see are on the about page",
    basis="Llama 3.1 Community License Agreement (2024-07-23) section 1.b.i and like clauses",
    remedy="put the line on the page of license.about; /licenses and a response header carry it as well",
)
def service_line(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "service_line"):
        where, line = clause(license, duty), normalise(duty.line or "")
        if view.declared.about is None:
            yield failed(f"license.about names no page; it must say: {line}", part.id, where)
        elif line in normalise(view.declared.about):
            yield passed(f"the page says: {line}", part.id, where)
        else:
            yield failed(f"the page does not say: {line}", part.id, where)


@LICENSE.rule(
    "flow-down",
    "Your terms of use pass on the use policies that must be passed on",
    basis="Gemma Terms of Use (2025-03-24) section 3.1 and like clauses",
    remedy="make the policy an enforceable part of your terms, name its address there, and set license.terms_of_use",
)
def flow_down(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "policy_flow_down"):
        where, address = clause(license, duty), (duty.policy or "").removeprefix("https://")
        if view.declared.terms_of_use is None:
            yield failed(f"license.terms_of_use names no file; it must name {address}", part.id, where)
        elif address in view.declared.terms_of_use:
            yield passed(f"the terms name {address}", part.id, where)
        else:
            yield failed(f"the terms do not name {address}", part.id, where)


@LICENSE.rule(
    "limits",
    "The operator is within the limits of revenue and users",
    basis="LFM Open License v1.0; Llama 3.1 Community License Agreement section 2",
    remedy="set license.annual_revenue_usd or license.monthly_users truthfully, or agree with the licensor and list "
    "the license in license.commercial",
)
def limits(view: DeploymentView) -> Iterator[Outcome]:
    declared = view.declared
    for _, license, duty in duties(view, "revenue_limit"):
        yield _within(license, clause(license, duty), "annual revenue in USD", declared.annual_revenue_usd, duty.limit,
                      agreed=license.id in declared.commercial, inclusive=False)  # fmt: skip
    for _, license, duty in duties(view, "user_limit"):
        yield _within(license, clause(license, duty), "users a month", declared.monthly_users, duty.limit,
                      agreed=license.id in declared.commercial, inclusive=True)  # fmt: skip


@LICENSE.rule(
    "guardrail",
    "What guards the model is unchanged, or replaced as the license allows",
    basis="NVIDIA Open Model License Agreement section 2.1: rights terminate automatically",
    remedy="undo the change; or keep a guard on input and output, have it judged as substantially similar for your "
    "use, and record that as a waiver of this rule that names the guard",
)
def guardrail(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "guardrail"):
        where = clause(license, duty)
        # The guard model runs elsewhere; what we can see of it is its pinned revision.
        changes = alterations(view) if part.role == "model" else []
        if not changes:
            yield passed("nothing that guards it was changed", part.id, where)
        elif not duty.substitute:
            yield failed(f"changed, and this version knows no substitute: {'; '.join(changes)}", part.id, where)
        elif not view.guard.both_stages:
            yield failed(f"changed, with no guard on input and output: {'; '.join(changes)}", part.id, where)
        else:
            yield unknown(
                f"changed: {'; '.join(changes)}. Whether {view.guard.model or view.guard.kind} is substantially "
                "similar is for a person to judge",
                part.id,
                where,
            )


@LICENSE.rule(
    "special-purpose",
    "A special-purpose model is not offered as a general one",
    basis="NVIDIA Open Model License Agreement (2025-10-24) sections 1.5 and 2.1",
    remedy="serve a general model; a special-purpose one only for what its documentation names",
)
def special_purpose(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "special_purpose"):
        if part.role != "model" or part.entry is None:
            continue
        if (part.entry.special_purpose or part.entry.guard) and view.engine.chat:
            yield failed("a special-purpose model behind a general chat interface", part.id, clause(license, duty))
        else:
            yield passed("not marked as special-purpose", part.id, clause(license, duty))


@LICENSE.rule(
    "name",
    "A changed model's public name respects the licensor's marks",
    basis="NVIDIA Open Model License Agreement section 5; Llama Community License Agreements section 1.b.i",
    remedy="set model.served_name to a name of your own; one built on Llama begins with Llama",
)
def name(view: DeploymentView) -> Iterator[Outcome]:
    for term, must in (("trademark", False), ("name_prefix", True)):
        for part, license, duty in duties(view, "trademark" if term == "trademark" else "name_prefix"):
            if part.role != "model":
                continue
            served = (part.served_name or part.id).lower().split("/")[-1]
            begins = served.startswith(duty.names)
            told = f"served as {part.served_name or part.id!r}"
            where = clause(license, duty)
            yield passed(told, part.id, where) if begins == must else failed(told, part.id, where)


@LICENSE.dated_rule(
    "waivers",
    "Waivers are current",
    basis="policy: a waiver is a decision for a time",
    remedy="remove the waiver, or decide again and set a new `until`",
)
def waivers(view: DeploymentView, today: date) -> Iterator[Outcome]:
    for waiver in view.declared.waivers:
        if waiver.until < today:
            yield failed(f"expired on {waiver.until} ({waiver.by}: {waiver.reason})", waiver.rule)
        else:
            yield passed(f"until {waiver.until} by {waiver.by}", waiver.rule)


def _licenses(view: DeploymentView) -> list[License]:
    return list({license.id: license for part in view.parts for license in part.licenses}.values())


def _is_copy(text: str, license: License) -> bool:
    plain = normalise(text)
    marked = bool(license.markers) and all(normalise(mark) in plain for mark in license.markers)
    return marked and len(plain.split()) >= WHOLE * (license.words or 100)


def _within(
    license: License, where: str, what: str, value: int | None, limit: int | None, *, agreed: bool, inclusive: bool
) -> Outcome:
    if agreed:
        return passed("a separate agreement is declared", license.id, where)
    if value is None:
        return unknown(f"{what} not declared; the limit is {limit:,}", license.id, where)
    fits = limit is not None and (value <= limit if inclusive else value < limit)
    told = f"{what} {value:,}, the limit is {limit:,}"
    return passed(told, license.id, where) if fits else failed(told, license.id, where)
