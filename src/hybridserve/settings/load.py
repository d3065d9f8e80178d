"""Load `Settings` from file, environment and flags, and record where each value came from.

Precedence, highest first: flags, environment, file, default.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.settings.root import ENV_DELIMITER, ENV_PREFIX, Settings

Tree: TypeAlias = dict[str, Any]

SETTINGS_JSON = f"{ENV_PREFIX}SETTINGS_JSON"
"""Not a setting but all of them, as JSON: how a parent process passes its settings to the server it starts."""


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
        assignments: ``section.key=value`` pairs, as `--set` takes them; the value is YAML.
        environ: variables ``HYBRIDSERVE_SECTION__KEY``; the process's environment if None.

    Raises:
        ConfigError: unknown key, wrong value or unreadable file; `where` is the dotted path.
    """
    layers = [
        ("env", _read_environ(os.environ if environ is None else environ)),
        ("flag", _read_assignments(assignments)),
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
        raise _config_error(error, origin) from None
    return Loaded(settings, {path: origin.get(path, "default") for path in _paths(settings.model_dump())})


def _read_yaml(file: Path) -> Tree:
    tree = yamlio.read(file)
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(str(file), "the top level is not a mapping of sections", f"use {', '.join(_known_keys())}")
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
            close = _closest(section, _known_keys())
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
            raise ConfigError(where, "is not an assignment", "write --set section.key=value")
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


def _config_error(error: ValidationError, origin: Mapping[str, str]) -> ConfigError:
    """The first fault in full; the others by name, so that one run shows them all."""
    (path, first), *others = ((".".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False))
    source = origin.get(path, "the configuration")
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        known = _known_keys(*parents)
        close = _closest(str(key), known)
        what = "is not a setting"
        fix = f"did you mean {'.'.join(map(str, (*parents, close)))}?" if close else f"known here: {', '.join(known)}"
    elif first["type"] == "model_type":
        what, fix = f"{first['input']!r} is not a mapping", f"write its settings below it, as KEY: VALUE: {path} has "
        fix += ", ".join(_known_keys(*first["loc"]))
    else:
        what, fix = _wrong_value(path, first["input"], first["msg"])
    if source != "flag" or first["type"] != "extra_forbidden":
        fix += f"; it was set by {_SOURCES.get(source, source)}"
    if others:
        fix += f"; also wrong: {', '.join(other for other, _ in others)}"
    return ConfigError(path or "settings", what, fix)


# How an error calls the layer that set a value.
_SOURCES = {"flag": "a flag"}


def _wrong_value(path: str, value: Any, message: str) -> tuple[str, str]:
    """What is wrong with a value, and what to set instead, from pydantic's message."""
    wanted = message.removeprefix("Input should be ").partition(", unable to parse")[0]
    if wanted == message:
        return f"{message}, got {value!r}", f"correct {path}"
    kind = "a number " if wanted.startswith(("greater", "less")) else ""
    return f"{value!r} is not {wanted}", f"set {path} to {kind}{wanted}"


def _known_keys(*parents: str | int) -> list[str]:
    """The sections, or the fields of one section."""
    if not parents:
        return list(Settings.model_fields)
    section = Settings.model_fields[str(parents[0])].annotation
    assert isinstance(section, type)
    assert issubclass(section, BaseModel)
    return list(section.model_fields) if len(parents) == 1 else []


def _closest(word: str, words: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=0.5)), None)
