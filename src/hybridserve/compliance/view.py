"""The deployment that rules check: its settings, and what the catalog, the planner and files say about it.

`view_builder.deployment_view` builds it. Rules read nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from hybridserve.catalog.licenses import License, ModelLicense, Trigger
from hybridserve.catalog.models import ServingFacts
from hybridserve.catalog.shards import Shard
from hybridserve.fast_dataclass import dataclass
from hybridserve.settings import Settings
from hybridserve.settings.guard import GuardSection
from hybridserve.settings.license import LicenseSection, Waiver


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """The planner's results, for the low end of its memory estimate.

    Attributes:
        block_size: tokens of one attention block after alignment.
        prefix_unit: tokens of the smallest prefix that can be cached; None without prefix caching.
        longest_context: largest max_model_len with which the engine starts.
        pool_known: the size of the pool is set or was measured, not estimated.
        finer_unit: a prefix_match_unit that the plan does not set, with its cost.
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
    pool_known: bool
    finer_unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEngine:
    """The engine as it is planned. The caller plans: this package does not import the planner.

    Attributes:
        args: engine arguments under vLLM's names, as they are passed.
        rounds_stochastically: the device rounds an SSM state stochastically without a backend that does.
        hybrid: the model has state layers; None where its config is not known.
        mixer: kind of its state layers, as the engine table names them.
        takes_ssm_dtype: `mamba_ssm_cache_dtype` sets the type of their states; without effect for a short convolution.
        converts: the method by which the engine quantizes the checkpoint's weights while it loads; None if it does not.
        cache: None where no plan could be computed; `refusal` then gives the engine's reason.
    """

    platform: str
    args: Mapping[str, Any]
    rounds_stochastically: bool = False
    hybrid: bool | None = None
    mixer: str | None = None
    takes_ssm_dtype: bool = True
    converts: str | None = None
    cache: CacheFacts | None = None
    refusal: str | None = None


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
    """sha256 of the small files in the model's folder, by name, and the recorded hashes that they must have.

    `present` and `weights`, the shards with what is known of their identity, are None where the folder is not on this
    machine.
    """

    present: Mapping[str, str] | None = None
    weights: tuple[Shard, ...] | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The attribution files that ship with the weights: the text of NOTICE, and the texts and hashes of all files."""

    notice: str | None
    texts: Mapping[str, str]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """Everything that a rule can check.

    Attributes:
        serving: the catalog's facts about serving the model.
        reasoning: the model writes reasoning before its answer.
        anonymous: scopes of a request without a key.
        about, terms_of_use: texts of the files in section `license`; None where no file is set.
        waivers: those of the settings and of `license.waivers_file`.
        evidence: the record of `guard.evidence_file`; None where no file is set.
        verification: the record of `verify.evidence_file`; None where no file is set.
    """

    settings: Settings
    model: Part
    guard_model: Part | None
    engine: PlannedEngine
    serving: ServingFacts | None
    reasoning: bool
    files: ModelFiles
    anonymous: frozenset[str]
    bundle: Bundle | None
    about: str | None
    terms_of_use: str | None
    waivers: tuple[Waiver, ...]
    evidence: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None

    @property
    def guard(self) -> GuardSection:
        return self.settings.guard

    @property
    def license(self) -> LicenseSection:
        return self.settings.license

    @property
    def parts(self) -> tuple[Part, ...]:
        """The models of the deployment, the served one first."""
        return (self.model,) if self.guard_model is None else (self.model, self.guard_model)

    @property
    def chat(self) -> bool:
        """Whether the model is served for chat: all are but base models."""
        return self.serving is None or self.serving.kind != "base"
