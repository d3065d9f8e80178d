"""`DeploymentSpec`: everything computed for a deployment before it starts, as one value that can be sent as JSON.

`resolve_deployment` computes it. This module imports neither the planner nor the compliance rules, so a process that
only receives a spec starts without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.settings import Settings
from hybridserve.settings.load import SETTINGS_JSON
from hybridserve.validation import from_validation


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """What the plan promises about one replica.

    Attributes:
        cache: the planned cache under the engine's names; ``GET /plan`` shows it as "plan". Sizes are tokens, blocks
            and bytes.
        weight_bytes: weights on all devices of the replica.
        cache_bytes: cache pool on all devices of the replica.
        model_folder: folder with the weights; None for a remote repository.
        profile_key: model, accelerator and settings of the memory profile that a start completes; None where the pool
            is given, so that nothing is profiled.
    """

    cache: Mapping[str, Any]
    weight_bytes: int
    cache_bytes: int
    model_folder: str | None = None
    profile_key: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """One deployment: the settings and everything computed from them.

    A spec made from settings alone has neither plan nor engine arguments. It is enough for the gateway in front of an
    engine that something else starts.

    Attributes:
        engine_args: vLLM's arguments under the names of `vllm serve`.
        engine_environment: variables of the engine's processes, unless the user has set them.
        scaling: bounds, targets and the capacity of one replica.
        documents: JSON bodies by route, such as ``/licenses`` and ``/compliance``.
        headers: added to every response, such as the attribution that a license requires.
        refusals: findings that keep this profile from becoming ready, as "rule: evidence".
    """

    settings: Settings
    plan: PlanSummary | None = None
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    scaling: ScalingSpec | None = None
    documents: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    @property
    def served_name(self) -> str:
        """The name that clients put into `model`."""
        return self.settings.model.served_name or self.settings.model.id

    @property
    def devices(self) -> int:
        """Accelerators of one replica."""
        return self.settings.engine.tensor_parallel_size * self.settings.engine.pipeline_parallel_size

    @property
    def capacity(self) -> ReplicaCapacity:
        """Capacity of one replica. Only a resolved spec has it."""
        assert self.scaling is not None
        return self.scaling.capacity

    def to_json(self) -> str:
        """JSON text for another process: an argument of the Ray application, or a file."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> DeploymentSpec:
        """The spec that `to_json` wrote; nothing is loaded, planned or judged again.

        Raises:
            pydantic.ValidationError: the text is not a spec.
        """
        return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[DeploymentSpec]:
    return TypeAdapter(DeploymentSpec)


def spec_from_environ(environ: Mapping[str, str] | None = None) -> DeploymentSpec:
    """Read the spec, or plain settings, from ``HYBRIDSERVE_SETTINGS_JSON`` or from the file that it names.

    Plain settings give a spec without a plan.

    Raises:
        ConfigError: the variable is not set, cannot be read or is not valid. There is no default.
    """
    text = (os.environ if environ is None else environ).get(SETTINGS_JSON, "").strip()
    if not text:
        raise ConfigError(SETTINGS_JSON, "is not set", "set it to the settings as JSON, or to a file with them")
    if not text.startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(SETTINGS_JSON, f"{text} cannot be read: {error}", "name a readable file") from None
    fix = "write it with DeploymentSpec.to_json, or as settings in JSON"
    try:
        tree = json.loads(text)
        if "settings" in tree:
            return DeploymentSpec.from_json(text)
        return DeploymentSpec(settings=Settings.model_validate(tree))
    except ValidationError as error:
        raise from_validation(error, SETTINGS_JSON, fix) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(SETTINGS_JSON, f"contains no settings: {error}", fix) from None
