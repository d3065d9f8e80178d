"""Build the view that rules check from settings, catalog and files. Only this module reads the deployment's files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hybridserve import yamlio
from hybridserve.catalog.licenses import License, ModelLicense, Trigger, license, model_license
from hybridserve.catalog.models import ResolvedModel
from hybridserve.catalog.shards import shards
from hybridserve.compliance.evaluate import RULES
from hybridserve.compliance.evidence import LIVE_RULES, read_evidence, read_verification
from hybridserve.compliance.findings import Profile
from hybridserve.compliance.rules.attribution import NOTICE_FILE
from hybridserve.compliance.view import Bundle, DeploymentView, ModelFiles, Part, PlannedEngine
from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.settings import Settings
from hybridserve.settings.license import LicenseSection, Waiver
from hybridserve.validation import from_validation

# Files of a checkpoint that shape its behavior or contain notices. Weights are not hashed here.
HASHED_FILES = re.compile(r".*\.(json|jinja|py|md|txt|model)")
MAX_HASHED_BYTES = 64 * 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024


def deployment_view(
    settings: Settings, model: ResolvedModel, planned: PlannedEngine, profile: Profile
) -> DeploymentView:
    """The view of a deployment.

    Raises:
        ConfigError: a file that the settings name cannot be read, or a waiver names an unknown rule.
        CatalogError: a registry entry is broken.
    """
    section, serving = settings.license, model.card.serving if model.card else None
    main = _served_model(settings, model)
    pinned = _pinned(settings, main.entry)
    return DeploymentView(
        settings=settings,
        model=main,
        guard_model=_guard_model(settings),
        engine=replace(planned, args={name.replace("-", "_"): value for name, value in planned.args.items()}),
        serving=serving,
        reasoning=bool(main.entry and main.entry.reasoning) or bool(serving and "reasoning" in serving.sampling),
        files=_files(model.folder, pinned),
        anonymous=frozenset(settings.access.scopes_without_key(profile)),
        bundle=_bundle(section.bundle) if section.bundle else None,
        about=read_text(section.about, "license.about") if section.about else None,
        terms_of_use=read_text(section.terms_of_use, "license.terms_of_use") if section.terms_of_use else None,
        waivers=_waivers(section),
        evidence=read_evidence(settings.guard.evidence_file) if settings.guard.evidence_file else None,
        verification=read_verification(settings.verify.evidence_file) if settings.verify.evidence_file else None,
    )


def _served_model(settings: Settings, model: ResolvedModel) -> Part:
    card, section = model.card, settings.license
    repository = _repository(settings, model)
    # A folder's name does not identify its content: only a catalog card or the repository gives the license.
    named = card is not None or (model.folder is None and settings.model.config is None)
    entry = (model_license(model.id) if named else None) or (model_license(repository) if repository else None)
    if repository is None and entry is not None and model.folder is None and settings.model.source is None:
        repository = entry.repository
    triggers: set[Trigger] = {"host"}
    if section.weights == "baked":
        triggers.add("image")
    if section.derivative:
        triggers |= {"hosted_derivative", "derivative"} if section.weights == "baked" else {"hosted_derivative"}
    return Part(
        role="model",
        id=entry.id if entry else model.id,
        repository=repository,
        revision=settings.model.revision or (card.revision if card and not model.folder else None),
        served_name=settings.model.served_name or model.id,
        triggers=frozenset(triggers),
        entry=entry,
        licenses=_licenses(entry, section),
    )


def _repository(settings: Settings, model: ResolvedModel) -> str | None:
    """The repository that the weights are fetched from; None for a local folder or an unpublished model."""
    source = settings.model.source
    if source is not None:
        return None if Path(source).is_dir() or Path(source).is_absolute() else source
    if model.card is not None:
        return model.card.repository
    return model.id if model.folder is None and "/" in model.id else None


def _guard_model(settings: Settings) -> Part | None:
    guard = settings.guard
    if guard.kind not in ("model", "nemo"):
        return None
    name = guard.model or f"NeMo Guardrails {guard.config_id}"
    entry = model_license(name) or model_license(name.lower().split("/")[-1])
    # A repository with the name of a reviewed one is not that one, and that of a family is a pattern.
    reviewed = entry.repository if entry else None
    repository = name if "/" in name else (None if reviewed and "*" in reviewed else reviewed)
    return Part(
        role="guard",
        id=entry.id if entry else name,
        repository=repository,
        revision=guard.revision,
        served_name=guard.served_name or name,
        triggers=frozenset({"host", "image"} if guard.weights == "baked" else {"host"}),
        entry=entry,
        licenses=_licenses(entry, settings.license),
    )


def _waivers(section: LicenseSection) -> tuple[Waiver, ...]:
    waivers = section.waivers
    if section.waivers_file is not None:
        where = f"license.waivers_file {section.waivers_file}"
        tree = yamlio.read(section.waivers_file, where) or []
        try:
            waivers += TypeAdapter(tuple[Waiver, ...]).validate_python(tree)
        except ValidationError as error:
            raise from_validation(error, where, "give a list of waivers") from None
    known = {rule.id for rule in (*RULES, *LIVE_RULES)}
    for waiver in waivers:
        if waiver.rule not in known:
            raise ConfigError("license.waivers", f"{waiver.rule!r} is not a rule", "`hybridserve explain` lists them")
    return waivers


def _licenses(entry: ModelLicense | None, section: LicenseSection) -> tuple[License, ...]:
    if entry is None:
        return ()
    first, *others = entry.licenses or (None,)
    accepted = {record.license for record in section.accepted}
    if first not in accepted:
        first = next((other for other in entry.other_versions if other in accepted), first)
    return tuple(license(license_id) for license_id in (first, *others) if license_id)


def _pinned(settings: Settings, entry: ModelLicense | None) -> Mapping[str, str]:
    deployed = settings.model.revision
    registry = entry.files if entry and deployed in (None, entry.revision) else {}
    # An operator may add hashes, but not replace those that were reviewed.
    return {**settings.license.pinned_files, **registry}


def _files(folder: Path | None, pinned: Mapping[str, str]) -> ModelFiles:
    if folder is None:
        return ModelFiles(pinned=pinned)
    present = _hashes(folder, pinned)
    return ModelFiles(present=present, weights=shards(folder, present), pinned=pinned)


def _hashes(folder: Path, pinned: Container[str]) -> Mapping[str, str]:
    """sha256 by name of the files of a folder that are hashed: small ones, and all with a recorded hash."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        hashed = HASHED_FILES.fullmatch(path.name) or NOTICE_FILE.fullmatch(path.name)
        if path.is_file() and (path.name in pinned or (hashed and path.stat().st_size <= MAX_HASHED_BYTES)):
            hashes[path.name] = sha256_of(path)
    return hashes


def sha256_of(path: Path) -> str:
    """sha256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bundle(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise ConfigError(
            "license.bundle", f"{folder} is not a folder", "create it with `hybridserve notice DIR -c FILE`"
        )
    texts, hashes = {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
            content = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            hashes[name] = hashlib.sha256(content).hexdigest()
            texts[name] = content.decode("utf-8", errors="replace")
    notice = next((texts[name] for name in texts if name.upper() in ("NOTICE", "NOTICE.TXT")), None)
    return Bundle(notice=notice, texts=texts, hashes=hashes)
