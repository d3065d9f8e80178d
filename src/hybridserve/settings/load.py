"""From file, environment and flags to one `Settings`, remembering who set what.

Precedence, strongest first: flags, environment, file, default.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.records import dataclass
from hybridserve.settings.tree import ENV_DELIMITER, ENV_PREFIX, Settings

Tree: TypeAlias = dict[str, Any]

SETTINGS_JSON = f"{ENV_PREFIX}SETTINGS_JSON"
"""Not a setting but all of them, as JSON: how a parent hands its settings to the server it starts."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the origin of each value.

    `sources` maps a dotted path (``engine.max_num_seqs``) to ``flag``, ``env NAME``, ``file PATH`` or
    ``default``.
    """

    settings: Settings
    sources: Mapping[str, str]


def load(
    file: Path | None = None,
    assignments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read settings.

    Args:
        file: YAML file with the sections as top-level keys.
        assignments: ``section.key=value`` pairs (the value is YAML), as flags give them.
        environ: variables ``HYBRIDSERVE_SECTION__KEY``; the process's own when None.

    Raises:
        ConfigError: unknown key, wrong value, unreadable file; `where` is the dotted path.
    """
    environ = os.environ if environ is None else environ
    layers: list[tuple[str, Tree]] = []
    if file is not None:
        layers.append((f"file {file}", _read_yaml(file)))
    layers.append(("env", _read_environ(environ)))
    layers.append(("flag", _read_assignments(assignments)))

    merged: Tree = {}
    origin: dict[str, str] = {}
    for name, tree in layers:
        _merge(merged, tree)
        for path in _leaves(tree, Settings):
            origin[path] = f"env {_env_name(path)}" if name == "env" else name
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _explain(error, origin) from None
    paths = _leaves(settings.model_dump(), Settings)
    return Loaded(settings, {path: origin.get(path, "default") for path in paths})


def _read_yaml(file: Path) -> Tree:
    tree = yamlio.read(file)
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(str(file), "the top level is not a mapping of sections", f"use {', '.join(_sections())}")
    return tree


def _read_environ(environ: Mapping[str, str]) -> Tree:
    ours = {
        name: value
        for name, value in environ.items()
        if name.upper().startswith(ENV_PREFIX) and name.upper() != SETTINGS_JSON
    }
    for name in ours:
        section, _, key = name[len(ENV_PREFIX) :].lower().partition(ENV_DELIMITER)
        if section not in Settings.model_fields or not key:
            close = _nearest(section, _sections())
            hint = f"did you mean {ENV_PREFIX}{close.upper()}{ENV_DELIMITER}...?" if close else "unset it"
            raise ConfigError(name, "is not a setting", f"{hint} The form is {ENV_PREFIX}SECTION{ENV_DELIMITER}KEY")

    if not ours:
        return {}
    # Imported only here: it costs more than all the rest of this package together.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class FromEnvironment(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER)

    class Source(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {name.lower(): value for name, value in ours.items()}

    return Source(FromEnvironment)()


def _read_assignments(assignments: Sequence[str]) -> Tree:
    tree: Tree = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        parts = path.strip().split(".")
        if not equals or len(parts) < 2 or not all(parts):
            raise ConfigError(f"--set {assignment}", "is not an assignment", "write --set section.key=value")
        try:
            value = yamlio.parse(text, f"--set {assignment}")
        except ConfigError:
            value = text
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment}", f"{part} was already set to a plain value", "set it once")
        node[parts[-1]] = value
    return tree


def _merge(into: Tree, tree: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _leaves(tree: Mapping[str, Any], model: type[BaseModel] | None, prefix: str = "") -> Iterator[str]:
    """Dotted paths down to the settings' own fields; a free-form mapping counts as one value."""
    for key, value in tree.items():
        child = _section_type(model, key)
        if isinstance(value, Mapping) and child is not None:
            yield from _leaves(value, child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _section_type(model: type[BaseModel] | None, key: str) -> type[BaseModel] | None:
    field = model.model_fields.get(key) if model is not None else None
    kind = field.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _explain(error: ValidationError, origin: Mapping[str, str]) -> ConfigError:
    """The first mistake in full; the others by name, so that one run shows them all."""
    first, *others = error.errors(include_url=False)
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        close = _nearest(str(first["loc"][-1]), known)
        parent = ".".join(str(part) for part in first["loc"][:-1])
        right = f"{parent}.{close}" if parent else close
        fix = f"did you mean {right}?" if close else f"known here: {', '.join(known)}"
        what = "is not a setting"
    else:
        what = f"{first['msg']}, got {first['input']!r}"
        fix = f"correct it; it was set by {origin.get(path, 'the configuration')}"
    if others:
        fix += "; also wrong: " + ", ".join(".".join(str(part) for part in other["loc"]) for other in others)
    return ConfigError(path or "settings", what, fix)


def _known_keys(parents: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Settings
    for parent in parents:
        child = _section_type(model, str(parent))
        if child is None:
            return []
        model = child
    return list(model.model_fields)


def _sections() -> list[str]:
    return list(Settings.model_fields)


def _nearest(word: str, words: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return close[0] if close else None


def _env_name(path: str) -> str:
    return ENV_PREFIX + path.upper().replace(".", ENV_DELIMITER)
