"""The deployment that rules check, as plain data without files or settings classes.

`view_builder.deployment_view` builds it from settings, catalog and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import date
from typing import Any, Literal

from hybridserve.catalog.licenses import License, ModelLicense, Trigger
from hybridserve.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """The planner's results, for the low end of its memory estimate.

    Attributes:
        block_size: tokens of one attention block after alignment.
        prefix_unit: tokens of the smallest prefix that can be cached; None without prefix caching.
        longest_context: largest max_model_len with which the engine starts.
        exact: the size of the pool is known, not estimated.
    """

    num_blocks: int
    block_size: int
    mode: Literal["none", "align", "all"]
    prefix_unit: int | None
    max_model_len: int
    longest_context: int
    max_num_seqs: int
    max_num_batched_tokens: int
    full_cudagraphs: bool
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of the deployment: the served model or the guard model.

    Attributes:
        triggers: why its licenses' duties apply: it is hosted, distributed in an image, or a changed copy.
        entry: the registry's record; None where there is none.
    """

    role: Literal["model", "guard"]
    id: str
    repository: str | None = None
    revision: str | None = None
    served_name: str = ""
    triggers: frozenset[Trigger] = frozenset({"host"})
    entry: ModelLicense | None = None
    licenses: tuple[License, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """sha256 of the small files in the model's folder, by name, and the recorded hashes that they must have."""

    present: Mapping[str, str] | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The attribution files that ship with the weights: the text of NOTICE, and the texts and hashes of all files."""

    notice: str | None
    texts: Mapping[str, str]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AcceptanceRecord:
    """A person accepted a license."""

    license: str
    by: str
    accepted: date


@dataclass(frozen=True, slots=True)
class WaiverRecord:
    """A person accepted a broken rule until a given day."""

    rule: str
    by: str
    reason: str
    until: date
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """What ships with the weights and what the operator declares. Texts are None where no file is set."""

    weights: Literal["baked", "pulled", "mounted"]
    image: str | None = None
    bundle: Bundle | None = None
    about: str | None = None
    terms_of_use: str | None = None
    accepted: tuple[AcceptanceRecord, ...] = ()
    annual_revenue_usd: int | None = None
    monthly_users: int | None = None
    commercial: frozenset[str] = frozenset()
    max_review_age_days: int = 180
    waivers: tuple[WaiverRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardView:
    """The guard settings that rules check."""

    kind: str
    input: str = "off"
    output: bool = False
    url: str | None = None
    model: str | None = None
    format: str | None = None
    revision: str | None = None
    max_tokens: int = 0
    overlap_tokens: int = 0
    timeout_s: float = 0.0
    controversial: str = "block"
    control_words: frozenset[str] = frozenset()

    @property
    def both_stages(self) -> bool:
        """Whether a guard model or service checks both prompts and answers."""
        return self.kind in ("model", "nemo") and self.input in ("before", "overlap") and self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """Engine arguments under vLLM's names, with facts from the catalog and the planner.

    Attributes:
        args: arguments that are set, with underscores in their names.
        hybrid: the model has state layers; None where its config is not known.
        cache: None where no plan could be computed; `refusal` then gives the engine's reason.
    """

    version: str
    platform: str
    args: Mapping[str, Any]
    blackwell: bool = False
    hybrid: bool | None = None
    chat: bool = True
    reasoning: bool = False
    min_version: str | None = None
    card_ssm_dtype: str | None = None
    card_reasoning_parser: str | None = None
    card_tool_call_parser: str | None = None
    needs_remote_code: bool = False
    cache: CacheFacts | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureView:
    """Who can reach what. `values` contains all settings, which are searched for secrets.

    Attributes:
        metrics_port_host: address of the replicas' metrics ports, which need no key; None without such ports.
    """

    host: str
    metrics_port_host: str | None = None
    keys: bool
    anonymous: frozenset[str]
    open_routes: tuple[str, ...] = ()
    refused_fields: frozenset[str] = frozenset()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """Everything that a rule can check."""

    model: Part
    guard_model: Part | None
    declared: Declarations
    files: ModelFiles
    guard: GuardView
    engine: EngineView
    exposure: ExposureView

    @property
    def parts(self) -> tuple[Part, ...]:
        """The models of the deployment, the served one first."""
        return (self.model,) if self.guard_model is None else (self.model, self.guard_model)
