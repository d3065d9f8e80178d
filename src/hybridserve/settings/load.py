"""Load `Settings` from file, environment and flags, and record where each value came from.

Precedence, highest first: flags, environment, file, default.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.settings.faults import closest, config_error, known_keys
from hybridserve.settings.root import ENV_DELIMITER, ENV_PREFIX, Settings

Tree: TypeAlias = dict[str, Any]

SETTINGS_JSON = f"{ENV_PREFIX}SETTINGS_JSON"
"""Not a setting but all of them, as JSON: how a parent process passes its settings to the server it starts."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the origin of each value.

    `sources` maps a dotted path (``engine.max_num_seqs``) to ``flag OPTION``, ``env NAME``, ``file PATH`` or
    ``default``.
    """

    settings: Settings
    sources: Mapping[str, str]


class Option(NamedTuple):
    """An option of a command that sets one setting: ``Option("--gpu", "accelerator.name", "a10g")``."""

    flag: str
    path: str
    value: Any
    """None: the option was not given."""


def load(
    file: Path | None = None,
    assignments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    options: Sequence[Option] = (),
) -> Loaded:
    """Read settings.

    Args:
        file: YAML file with the sections as top-level keys.
        assignments: ``section.key=value`` pairs, as `--set` takes them; the value is YAML.
        environ: variables ``HYBRIDSERVE_SECTION__KEY``; the process's environment if None.
        options: the command's own options for settings; `assignments` override them.

    Raises:
        ConfigError: unknown key, wrong value or unreadable file; `where` is the dotted path, and `others` has further
            ones.
    """
    layers = [
        ("env", _read_environ(os.environ if environ is None else environ)),
        *((f"flag {flag}", _tree(path, value)) for flag, path, value in options if value is not None),
        ("flag --set", _read_assignments(assignments)),
    ]
    if file is not None:
        layers.insert(0, (f"file {file}", _read_yaml(file)))
    merged: Tree = {}
    origin: dict[str, str] = {}
    for source, tree in layers:
        _merge(merged, tree)
        for path in _paths(tree):
            variable = ENV_PREFIX + path.upper().replace(".", ENV_DELIMITER)
            origin[path] = f"env {variable}" if source == "env" else source
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise config_error(error, origin) from None
    return Loaded(settings, {path: origin.get(path, "default") for path in _paths(settings.model_dump())})


def _read_yaml(file: Path) -> Tree:
    tree = yamlio.read(file)
    if tree is None:
        raise ConfigError(
            str(file), "has no settings", "write some, such as `model: {id: demo}`, or leave the file out"
        )
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(str(file), "the top level is not a mapping of sections", f"use {', '.join(known_keys())}")
    return tree


def _read_environ(environ: Mapping[str, str]) -> Tree:
    variables = {
        name: value
        for name, value in environ.items()
        if name.upper().startswith(ENV_PREFIX) and name.upper() != SETTINGS_JSON
    }
    for name in variables:
        section, _, key = name[len(ENV_PREFIX) :].lower().partition(ENV_DELIMITER)
        if section not in Settings.model_fields or not key:
            close = closest(section, known_keys())
            hint = f"did you mean {ENV_PREFIX}{close.upper()}{ENV_DELIMITER}...?" if close else "unset it."
            raise ConfigError(name, "is not a setting", f"{hint} The form is {ENV_PREFIX}SECTION{ENV_DELIMITER}KEY")
    if not variables:
        return {}
    # Imported here only: it takes longer than the rest of this package together.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class EnvironmentSettings(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER)

    class Source(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {name.lower(): value for name, value in variables.items()}

    return Source(EnvironmentSettings)()


def _read_assignments(assignments: Sequence[str]) -> Tree:
    tree: Tree = {}
    for assignment in assignments:
        where = f"--set {assignment}"
        path, equals, text = assignment.partition("=")
        *parents, key = path.strip().split(".")
        if not equals or not parents or not all((*parents, key)):
            sections = [section for section in known_keys() if path.strip() in known_keys(section)] if equals else []
            meant = [f"--set {section}.{path.strip()}={text}" for section in sections] or ["--set section.key=value"]
            what = f"{path.strip()} is without its section" if sections else "is not an assignment"
            raise ConfigError(where, what, f"write {' or '.join(meant)}")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(where, f"{parent} was already set to a plain value", "set it once")
        try:
            node[key] = yamlio.parse(text, where)
        except ConfigError:
            node[key] = text
    return tree


def _tree(path: str, value: Any) -> Tree:
    section, _, key = path.partition(".")
    return {section: {key: value}}


def _merge(into: Tree, tree: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _paths(tree: Tree) -> Iterator[str]:
    """Dotted paths of the settings in a tree: section and field. A free-form mapping is one setting."""
    for section, values in tree.items():
        if isinstance(values, Mapping) and section in Settings.model_fields:
            yield from (f"{section}.{key}" for key in values)
        else:
            yield section
