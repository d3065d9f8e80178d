"""Attribution: the license texts, notices and lines that must reach those who get the weights or use the service."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from hybridserve.catalog.licenses import License, Term, normalize
from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.rules.base import RuleFamily, clause, duties
from hybridserve.compliance.view import DeploymentView

ATTRIBUTION = RuleFamily("license")

CHANGES_FILE = re.compile(r"(?i)(notice|change(s|log)|modifications)(\.(md|txt))?")
CHANGED = re.compile(r"(?i)\b(changed|modified|altered|adapted|fine-?tuned|quanti[sz]ed|merged|pruned|converted)\b")
# Files of a checkpoint that contain notices: licenses, notices and the subcards that NVIDIA's cards refer to.
NOTICE_FILE = re.compile(r"(?i)(licen[cs]e|notice|copying)[^/]*|(bias|safety|privacy|explainability)\.md")


@ATTRIBUTION.rule(
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


@ATTRIBUTION.rule(
    "notice",
    "NOTICE contains the exact lines that the licenses require",
    basis="the licenses' redistribution clauses",
    remedy="run `hybridserve notice DIR -c FILE` with these settings and set license.bundle to DIR",
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


@ATTRIBUTION.rule(
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


@ATTRIBUTION.rule(
    "service-line",
    "Lines that users must see are on the about page",
    basis="Llama 3.1 Community License Agreement (2024-07-23) section 1.b.i and similar clauses",
    remedy="put the line on the page of license.about; /licenses and a response header contain it as well",
)
def service_line(view: DeploymentView) -> Iterator[Outcome]:
    for part, license, duty in duties(view, "service_line"):
        page, line = view.about and normalize(view.about), normalize(duty.line or "")
        yield _contains(page, line, "the page of license.about", part.id, clause(license, duty))


@ATTRIBUTION.rule(
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


@ATTRIBUTION.rule(
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
