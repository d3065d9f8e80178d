"""Files that settings name, for a release of the chart: a pod has none of the files of this machine.

The text of most files goes into the values (`files`), and the settings name the path at which the chart mounts it. The
values name Secrets for files with keys and passwords.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.settings import Settings
from hybridserve.verify.reference import read_reference

FOLDER = "/etc/hybridserve-files"

# Read when a process starts. Their names have a digest, so that another text is another setting and restarts replicas.
START_FILES = (
    "engine.chat_template",
    "engine.extra_args.tool_parser_plugin",
    "engine.extra_args.reasoning_parser_plugin",
    "guard.rules_file",
    "guard.prompt_file",
)
# Read again with every compliance check of a running replica.
CHECKED_FILES = (
    "guard.evidence_file",
    "license.about",
    "license.terms_of_use",
    "license.waivers_file",
    "verify.evidence_file",
)
# Setting to the chart's value with the name of a Secret, that name, and the key of the file in it.
SECRET_FILES = {
    "access.keys_file": ("auth.existingSecret", "hybridserve-keys", "keys"),
    "access.limits_password_file": ("auth.limitsSecret", "hybridserve-limits", "password"),
    "guard.api_key_file": ("guard.keySecret", "hybridserve-guard-key", "key"),
}
# Written by a pod.
WRITTEN = ("telemetry.cache_trace_dir", "verify.record_file")
# The chart has a value for its text.
REFERENCE = "verify.reference_file"
# What licenses and notices are written in; no keys, settings or pictures.
BUNDLE_TEXTS = ("", ".txt", ".md", ".html")
# A ConfigMap holds 1 MiB; the one of the check has the settings and the notices, too.
MOST_BYTES = 700_000


def carry_files(tree: dict[str, Any]) -> dict[str, str]:
    """The texts of the files that settings name, by their name below `FOLDER`; the settings then name that path.

    An absolute path without a file on this machine is one in the pod, which the user mounts.

    Args:
        tree: settings by section. It is changed.

    Raises:
        ConfigError: a file cannot be read, is too large, or the path can be none in a pod.
    """
    texts: dict[str, str] = {}
    for path in (*START_FILES, *CHECKED_FILES):
        if (found := _named(tree, path)) is None or _in_pod(named := found[0][found[1]]):
            continue
        section, key = found
        text = read_text(Path(named), path)
        digest = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if path in START_FILES else ""
        suffix = re.sub(r"[^.A-Za-z0-9]", "", Path(named).suffix)
        name = f"{path.replace('.extra_args', '')}{digest}{suffix}"
        texts[name] = text
        section[key] = f"{FOLDER}/{name}"
        if sum(len(one.encode()) for one in texts.values()) > MOST_BYTES:
            raise ConfigError(
                path,
                f"{named}: the files of the settings have more than {MOST_BYTES:,} bytes, and a ConfigMap holds 1 MiB",
                "mount it from a volume (extraVolumes, extraVolumeMounts), and set the path in the pod",
            )
    for path in WRITTEN:
        if (found := _named(tree, path)) is not None and not Path(named := found[0][found[1]]).is_absolute():
            raise ConfigError(path, f"{named} is a path of this machine", f"a path in the pod, such as /tmp/{named}")
    for where, path in _other_paths(tree):
        raise ConfigError(
            where,
            f"{path} is a path of this machine",
            "the absolute path in the pod, with a volume that has it (extraVolumes, extraVolumeMounts)",
        )
    return texts


def take_reference(tree: dict[str, Any]) -> str | None:
    """The text of the reference that every replica compares itself with; the setting is removed.

    Raises:
        ConfigError: the file cannot be read, or is no reference.
    """
    section = tree.get("verify", {})
    if not section.get("at_start"):
        section.pop("reference_file", None)  # nothing in a pod reads it
        return None
    if (named := section.get("reference_file")) is None or _in_pod(named):
        return None
    file = Path(section.pop("reference_file"))
    read_reference(file)
    return read_text(file, REFERENCE)


def bundle_files(folder: Path | None) -> dict[str, str]:
    """Texts of an attribution folder on this machine, such as copies of licenses that a person added.

    A ConfigMap has no folders: `licenses/a.txt` is `licenses-a.txt`. Rules find a license by its words. Hidden
    files and other kinds of files stay here.

    Raises:
        ConfigError: the folder is that of the work, which may have keys; a file cannot be read; two get one name; or
            they are too large.
    """
    if folder is None or not folder.is_dir():
        return {}
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(
            "license.bundle",
            f"{folder} is the working folder or above it, and the chart gets every text in it",
            "a folder with nothing but notices, as `hybridserve notice attribution` writes it",
        )
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or path.suffix.lower() not in BUNDLE_TEXTS or any(part.startswith(".") for part in parts):
            continue
        name = re.sub(r"[^-._A-Za-z0-9]", "-", "-".join(parts))
        if name in texts:
            raise ConfigError("license.bundle", f"two files get the name {name} in a ConfigMap", "rename one of them")
        texts[name] = read_text(path, "license.bundle")
    if (count := sum(len(text.encode()) for text in texts.values())) > MOST_BYTES:
        raise ConfigError("license.bundle", f"{folder} has {count:,} bytes of text", f"keep it below {MOST_BYTES:,}")
    return texts


def take_secrets(tree: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The chart's values that name the Secrets of key files; the settings are removed.

    A key that nothing here uses gets no Secret: of a guard without an endpoint, of limits without a server.
    """
    values: dict[str, dict[str, str]] = {}
    unused = set()
    if tree.get("guard", {}).get("kind") not in ("model", "nemo"):
        unused.add("guard.api_key_file")
    if not tree.get("access", {}).get("limits_url"):
        unused.add("access.limits_password_file")
    for path, (value, secret, _) in SECRET_FILES.items():
        if (found := _named(tree, path)) is not None:
            del found[0][found[1]]
            if path in unused:
                continue
            part, key = value.split(".")
            values.setdefault(part, {})[key] = secret
    return values


def pod_files(tree: dict[str, Any]) -> list[str]:
    """Settings with a path that the user mounts in the pods, as "setting: path"."""
    named = ((path, _named(tree, path)) for path in (*START_FILES, *CHECKED_FILES, REFERENCE))
    paths = ((path, str(found[0][found[1]])) for path, found in named if found is not None)
    return [f"{path}: {where}" for path, where in paths if not where.startswith(f"{FOLDER}/")]


def with_local_files(settings: Settings, local: Settings) -> Settings:
    """Settings of a release with the files of this machine, for rules that read them here; a pod's own are left out."""
    changes: dict[str, dict[str, Any]] = {}
    for path in CHECKED_FILES:
        section, key = path.split(".")
        file = getattr(getattr(local, section), key)
        absent = file is not None and _in_pod(str(file))
        changes.setdefault(section, {})[key] = None if absent else file
    return settings.model_copy(
        update={section: getattr(settings, section).model_copy(update=change) for section, change in changes.items()}
    )


def _named(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str] | None:
    """The mapping and the key that hold the setting of this path; None where it is not set."""
    *parents, key = path.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent) or {}
    # vLLM's arguments may be written with dashes.
    for written in (key, key.replace("_", "-")):
        if isinstance(node.get(written), str):
            return node, written
    return None


def _in_pod(path: str) -> bool:
    return Path(path).is_absolute() and not Path(path).is_file()


def _other_paths(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Relative paths in free-form engine arguments: adapters, tokenizers, a draft model."""
    engine = tree.get("engine", {})
    for section in ("extra_args", "speculative_config"):
        for key, value in (engine.get(section) or {}).items():
            for word in value if isinstance(value, list) else [value]:
                path = word.rpartition("=")[2] if isinstance(word, str) else ""
                if path.startswith(("./", "../", "~")):
                    yield f"engine.{section}.{key}", path
