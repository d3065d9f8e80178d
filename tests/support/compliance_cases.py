"""A production deployment that passes every rule, for tests to change: settings, planned engine, files of the model."""

from __future__ import annotations

import atexit
import copy
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridserve.catalog.licenses import License, ModelLicense, license, model_license, reviewed_text
from hybridserve.catalog.models import ModelCard, ResolvedModel
from hybridserve.compliance import DeploymentView, Finding, deployment_view, evaluate, view_builder
from hybridserve.compliance.view import CacheFacts, PlannedEngine
from hybridserve.settings import Settings

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "examples" / "nemotron-nano-9b-v2-production.yaml"


def _accepted() -> Path:
    """The example with a name where it has a place for one: it is refused as it is shipped."""
    file = Path(tempfile.mkdtemp(prefix="hybridserve-example-")) / SHIPPED.name
    file.write_text(SHIPPED.read_text(encoding="utf-8").replace("YOUR NAME", "Head of Legal"), encoding="utf-8")
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    return file


EXAMPLE = _accepted()
TODAY = date(2026, 11, 23)
FACTS = CacheFacts(
    num_blocks=1998,
    block_size=1312,
    mode="align",
    prefix_unit=16,
    max_model_len=32768,
    longest_context=131072,
    max_num_seqs=64,
    max_num_batched_tokens=4000,
    full_cudagraphs=True,
    pool_known=True,
)


def card(id: str = "nemotron-nano-9b-v2", **serving: Any) -> ModelCard:  # noqa: A002
    """A card like that of the example's model in the catalog."""
    source = {"source": "test", "read": TODAY}
    return ModelCard.model_validate(
        {
            "id": id,
            "name": "Nemotron Nano 9B v2",
            "repository": "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
            "revision": None,
            "config": {**source, "values": {}},
            "weights": source,
            "serving": {**source, "kind": "chat", "min_vllm": "0.10.1", "mamba_ssm_cache_dtype": "float32", **serving},
        }
    )


@dataclass(frozen=True)
class Case:
    """Everything that a view is built from. `files` are those of the model's folder; None: there is no folder."""

    tree: dict[str, Any]
    folder: Path
    files: Mapping[str, bytes] | None = None
    bundle: Mapping[str, str] | None = None
    about: str | None = None
    terms: str | None = None
    card: ModelCard | None = field(default_factory=card)
    facts: CacheFacts | None = FACTS
    refusal: str | None = None
    platform: str = "cuda"
    rounds_stochastically: bool = False
    hybrid: bool | None = True
    mixer: str | None = "mamba2"
    today: date = TODAY

    def set(self, path: str, value: Any) -> Case:
        tree = copy.deepcopy(self.tree)
        node = tree
        *parents, last = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
        return replace(self, tree=tree)

    def cache(self, **changes: Any) -> Case:
        return self if self.facts is None else replace(self, facts=replace(self.facts, **changes))

    def view(self) -> DeploymentView:
        case, folder = self, None
        if self.files is not None:
            folder = self._write("model", dict(self.files))
        if self.bundle is not None:
            path = self._write("bundle", {name: text.encode() for name, text in self.bundle.items()})
            case = case.set("license.bundle", str(path))
        for name, text in (("about", self.about), ("terms_of_use", self.terms)):
            if text is not None:
                where = self._write(name, {"page.md": text.encode()}) / "page.md"
                case = case.set(f"license.{name}", str(where))
        settings = Settings.model_validate(case.tree)
        model = ResolvedModel(id=settings.model.id, card=self.card, config={}, folder=folder)
        engine = settings.engine.model_dump(mode="json", exclude={"extra_args"}) | settings.engine.extra_args
        planned = PlannedEngine(platform=self.platform, args=engine, rounds_stochastically=self.rounds_stochastically,
                                hybrid=self.hybrid,
                                mixer=self.mixer, cache=self.facts, refusal=self.refusal)  # fmt: skip
        return deployment_view(settings, model, planned, "production")

    def findings(self) -> list[Finding]:
        return evaluate(self.view(), self.today)

    def status(self, rule: str) -> set[str]:
        statuses = {finding.status for finding in self.findings() if finding.rule == rule}
        assert statuses, f"no rule {rule}"
        return statuses

    def _write(self, name: str, files: Mapping[str, bytes]) -> Path:
        key = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
        folder = self.folder / f"{name}-{key}"
        if not folder.exists():
            for file, content in files.items():
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            folder.mkdir(exist_ok=True)
        return folder


TERMS = "The terms of this test begin here: " + " ".join(map("".join, itertools.product("abcdef", repeat=4)))


def license_text(entry: License) -> str:
    """A substitute for a license's text: its markers, and terms that count as reviewed in these tests."""
    return "\n".join(entry.markers) + "\n" + TERMS


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def example() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    tree["license"]["image"] = f"registry.example/hybridserve@sha256:{'ab' * 32}"
    return tree


@pytest.fixture
def case(example: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The example: weights are pulled at a commit, so there is no folder."""
    # License texts are not ours to copy, so these tests have terms of their own.
    terms = reviewed_text(TERMS)
    monkeypatch.setattr(view_builder, "license", lambda name: license(name).model_copy(update={"text": terms}))
    return Case(example, tmp_path)


MODEL_FILES = {
    "chat_template.jinja": b"{{ messages }}",
    "tokenizer.json": b'{"model": {}}',
    "tokenizer_config.json": b'{"chat_template": null}',
    "generation_config.json": b'{"temperature": 0.6}',
    "config.json": b"{}",
    "bias.md": b"bias",
    "safety.md": b"safety",
}


@pytest.fixture
def baked(case: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The example with its weights in the image: all duties of distribution apply, and all files are pinned."""
    pinned = {name: sha256(content) for name, content in MODEL_FILES.items() if not name.endswith(".md")}
    pinned |= {"special_tokens_map.json": sha256(b"{}")}

    # The registry has the hashes of the real files, which settings cannot replace; the files of the test get their own.
    def registered(model: str) -> ModelLicense | None:
        entry = model_license(model)
        return entry and entry.model_copy(update={"files": {name: pinned[name] for name in entry.files}})

    monkeypatch.setattr(view_builder, "model_license", registered)
    case = case.set("license.weights", "baked").set("license.pinned_files", pinned)
    return replace(
        case,
        files={**MODEL_FILES, "special_tokens_map.json": b"{}"},
        bundle={
            "NOTICE": "Notices\n\nLicensed by NVIDIA Corporation under the NVIDIA Open Model License\n",
            "licenses/nvidia-open-model-2025-10-24.txt": license_text(license("nvidia-open-model-2025-10-24")),
            "upstream/bias.md": "bias",
            "upstream/safety.md": "safety",
        },
    )


@pytest.fixture
def llama_guard(case: Case) -> Case:
    """The example with a guard model under two licenses, one of which requires a line that users see."""
    accepted = [*case.tree["license"]["accepted"], {"license": "llama-3.1", "by": "Legal", "accepted": "2026-11-20"}]
    return replace(
        case.set("guard.model", "llama-3.1-nemotron-safety-guard-8b-v3")
        .set("guard.format", "nemotron_safety_guard")
        .set("guard.revision", "a" * 40)
        .set("license.accepted", accepted)
        .set("license.monthly_users", 1000),
        about="# About\n\nBuilt with Llama.\n",
    )


@pytest.fixture
def gemma_guard(case: Case) -> Case:
    """The example with a guard model whose use policy must be part of the operator's terms."""
    gemma = {"license": "gemma-2025-03-24", "by": "Legal", "accepted": "2026-11-20"}
    accepted = [*case.tree["license"]["accepted"], gemma]
    return replace(
        case.set("guard.model", "nemotron-content-safety-reasoning-4b")
        .set("guard.format", "nemotron_reasoning")
        .set("guard.max_tokens", 512)
        .set("guard.revision", "b" * 40)
        .set("license.accepted", accepted),
        terms="You agree to https://ai.google.dev/gemma/prohibited_use_policy as part of these terms.",
        bundle={"licenses/gemma.txt": license_text(license("gemma-2025-03-24"))},
    )
