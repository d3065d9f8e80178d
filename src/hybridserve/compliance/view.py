"""A deployment as the rules see it: plain data, no files to open, no settings classes to follow.

`adapter.deployment_view` makes it from settings, catalogue and files; tests make it by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from hybridserve.catalog.licenses import License, ModelLicense, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """What the planner found, for the low end of its memory band.

    Attributes:
        block_size: tokens of one attention block after alignment.
        prefix_unit: tokens of the smallest prefix that can be found again; None without prefix caching.
        longest_context: largest max_model_len that would start.
        exact: the bytes of the pool are given, not estimated.
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
    """A model that is served or judges: the main one or the guard.

    Attributes:
        triggers: why its licenses' duties apply: it is hosted, handed on in an image, or a changed copy.
        entry: the registry's record; None when nothing is recorded for it.
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
    """The small files in the model's folder, by name, as sha256. `pinned` is what they must be, where known."""

    present: Mapping[str, str] | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The attribution that ships with the weights: text of NOTICE, texts of the other files, hashes of all."""

    notice: str | None
    texts: Mapping[str, str]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AcceptanceRecord:
    """Somebody answers for a license."""

    license: str
    by: str
    accepted: date


@dataclass(frozen=True, slots=True)
class WaiverRecord:
    """Somebody answers for a broken rule, until a day."""

    rule: str
    by: str
    reason: str
    until: date
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """What ships beside the weights and what the operator declares. Texts are None where no file is named."""

    weights: Literal["baked", "pulled", "mounted"]
    image: str | None = None
    bundle: Bundle | None = None
    about: str | None = None
    terms_of_use: str | None = None
    accepted: tuple[AcceptanceRecord, ...] = ()
    annual_revenue_usd: int | None = None
    monthly_users: int | None = None
    commercial: frozenset[str] = frozenset()
    max_reading_age_days: int = 180
    waivers: tuple[WaiverRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardView:
    """The guard's settings, as far as a rule looks at them."""

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
        """A guard that was made for it checks prompts and answers."""
        return self.kind in ("model", "nemo") and self.input in ("before", "overlap") and self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """Engine arguments under vLLM's names, and what the catalogue and the planner say about them.

    Attributes:
        args: arguments that are set, underscores in names.
        hybrid: the model has state layers; None when its config is not known.
        cache: None when nothing could be planned; `refusal` then says why, in the engine's words.
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
    """Who can reach what. `values` is every setting by its dotted path, for the search for secrets.

    Attributes:
        metrics_port_host: address of the replicas' metrics ports, which ask for no key; None without such ports.
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
    """Everything a rule may ask."""

    model: Part
    guard_model: Part | None
    declared: Declarations
    files: ModelFiles
    guard: GuardView
    engine: EngineView
    exposure: ExposureView

    @property
    def parts(self) -> tuple[Part, ...]:
        """The models in the deployment, the main one first."""
        return (self.model,) if self.guard_model is None else (self.model, self.guard_model)
