"""A rule, and the small tools rules are written with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from hybridserve.catalog.licenses import License, Obligation, Term
from hybridserve.compliance.findings import Family, Outcome, Severity
from hybridserve.compliance.view import DeploymentView, Part

Check = Callable[[DeploymentView, date], Iterable[Outcome]]
TimelessCheck = Callable[[DeploymentView], Iterable[Outcome]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        title: what holds when it passes.
        basis: clause, public issue or measurement it rests on.
        remedy: what to do when it fails.
        check: yields an outcome per subject; nothing where the rule does not apply. It gets the day to judge by.
    """

    id: str
    family: Family
    severity: Severity
    title: str
    basis: str
    remedy: str
    check: Check


class RuleBook(list[Rule]):
    """The rules of one family, in the order they are written."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def rule(
        self, name: str, title: str, *, basis: str, remedy: str, severity: Severity = "error"
    ) -> Callable[[TimelessCheck], TimelessCheck]:
        """Add the decorated check as rule ``family.name``."""

        def add(check: TimelessCheck) -> TimelessCheck:
            self._add(name, title, basis, remedy, severity, lambda view, _: check(view))
            return check

        return add

    def dated_rule(
        self, name: str, title: str, *, basis: str, remedy: str, severity: Severity = "error"
    ) -> Callable[[Check], Check]:
        """The same for a check that depends on the day."""

        def add(check: Check) -> Check:
            self._add(name, title, basis, remedy, severity, check)
            return check

        return add

    def _add(self, name: str, title: str, basis: str, remedy: str, severity: Severity, check: Check) -> None:
        self.append(Rule(f"{self.family}.{name}", self.family, severity, title, basis, remedy, check))


def duties(view: DeploymentView, term: Term) -> Iterator[tuple[Part, License, Obligation]]:
    """Duties of one kind that are triggered in this deployment."""
    for part in view.parts:
        family = part.entry.family if part.entry else None
        for license in part.licenses:
            for duty in license.terms(term):
                if part.triggers & set(duty.when) and duty.only in (None, family):
                    yield part, license, duty


def clause(license: License, duty: Obligation) -> str:
    """Where a duty stands: ``NVIDIA Open Model License Agreement (2025-10-24) section 3.1``."""
    return f"{license.title} ({license.version}) section {duty.clause}"
