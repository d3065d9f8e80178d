"""What a release needs beside its values: secrets, operators, peers and volumes, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybridserve.catalog.licenses import model_license
from hybridserve.cli.helm_files import SECRET_FILES, pod_files
from hybridserve.cli.helm_values import has_baked_weights
from hybridserve.cli.key_files import has_limits
from hybridserve.planning.resolve import ResolvedPlan

SCALERS = {
    "keda": "KEDA in the cluster",
    "hpa": "Prometheus and an adapter for the external metric, and monitoring.monitor.enabled "
    "(docs/how-to/autoscale.md)",
}

PEER = "[{podSelector: {}}]"


def needs(values: Mapping[str, Any], planned: ResolvedPlan) -> list[str]:
    """One line for everything that Helm or the cluster would miss; empty where the values are complete.

    Args:
        values: as `helm_values` returns them for this plan.
    """
    return [
        *_images(values),
        *_operator(values),
        *_secrets(values, planned),
        *_scaling(values, planned),
        *_guard(values),
        *_limits(values, planned),
        *_weights(values),
        *_pool(values, planned),
        *_evidence(values),
        *_files(values),
    ]


def about(values: Mapping[str, Any], planned: ResolvedPlan) -> list[str]:
    """What of the values is not obvious: the profile where its check refuses nothing, and the numbers of `plan`."""
    engine, limits = values["settings"]["engine"], values["plan"]
    lines = []
    if (profile := planned.settings.server.profile) == "demo":
        lines.append(f"settings.server.profile: {profile}, whose check only warns; staging and production refuse")
    names = {"maxModelLen": "max_model_len", "maxNumSeqs": "max_num_seqs"}
    most = [f"{name} {limits[name]} ({key} is {engine.get(key)})" for name, key in names.items() if name in limits]
    pool = "the pool" if limits["poolKnown"] else "the low end of the estimated pool"
    lines.append(f"plan: the most with which the engine starts in {pool}, {', '.join(most)}; the chart refuses more")
    return lines


def _images(values: Mapping[str, Any]) -> Iterator[str]:
    kind = "cpu" if values["settings"]["accelerator"]["name"] == "cpu" else "gpu"
    if has_baked_weights(values["settings"]):
        if "image" not in values:
            yield "image.repository, image.digest: the image with the weights, which deploy/Dockerfile.baked makes"
        return  # the check runs in it, too
    missing = "check.image" if "image" in values else "image, check.image"
    yield (
        f'{missing}: the chart\'s own names are on no registry; `make images REGISTRY=... KINDS="{kind} control"` '
        f"writes dist/images-{kind}.yaml, a second --values"
    )


def _operator(values: Mapping[str, Any]) -> Iterator[str]:
    if values["mode"] == "rayservice":
        yield "mode: a RayService, which needs the operator of KubeRay 1.7 in the cluster"


def _secrets(values: Mapping[str, Any], planned: ResolvedPlan) -> Iterator[str]:
    local = planned.settings.model_dump(mode="json")
    for path, (value, secret, key) in SECRET_FILES.items():
        part, name = value.split(".")
        if values.get(part, {}).get(name) == secret:
            section, setting = path.split(".")
            file = local[section][setting]
            yield f"{value}: kubectl -n NAMESPACE create secret generic {secret} --from-file={key}={file}"


def _scaling(values: Mapping[str, Any], planned: ResolvedPlan) -> Iterator[str]:
    scaling = planned.settings.scaling
    least, most = scaling.min_replicas, scaling.max_replicas
    if scaler := values.get("autoscaling", {}).get("scaler"):
        yield f"autoscaling.scaler: {least} to {most} pods by {scaler}, which needs {SCALERS[scaler]}"
    elif values["mode"] == "standalone" and least < most:
        yield f"replicaCount: {most} pods at all times, not {least} to {most}; --scaler keda or hpa scales them"


def _guard(values: Mapping[str, Any]) -> Iterator[str]:
    settings = values["settings"]
    guard = settings.get("guard", {})
    if (url := guard.get("url")) and guard.get("kind") in ("model", "nemo"):
        yield f"networkPolicy.guard: the peers behind {url} (settings.guard.url), such as {PEER}"
    if not values.get("guard", {}).get("deploy"):
        return
    known = model_license(guard["model"])
    accepted = {record["license"] for record in settings.get("license", {}).get("accepted", ())}
    missing = [name for name in known.licenses if name not in accepted] if known else []
    if missing:
        yield (
            f"license.accepted: the chart runs {guard['model']} only when a person accepted "
            f"{' and '.join(missing)}: {{license: ID, by: NAME, accepted: DATE}}"
        )


def _limits(values: Mapping[str, Any], planned: ResolvedPlan) -> Iterator[str]:
    access = planned.settings.access
    url = access.limits_url or ""
    scaled = values.get("autoscaling", {}).get("scaler")
    pods = planned.settings.scaling.max_replicas if scaled else values.get("replicaCount", 1)
    limits = (access.requests_per_minute, access.tokens_per_minute, access.max_streams)
    if values["mode"] == "standalone" and pods > 1 and not url and (any(limits) or has_limits(access.keys_file)):
        yield (
            f"settings.access.limits_url: each pod counts by itself, so a key gets up to {pods} times its limit; "
            "a Redis or Valkey server shares the limits (docs/how-to/keys-and-limits.md)"
        )
    if url and not url.startswith("unix:"):  # a socket is no network peer
        yield f"networkPolicy.redis: the peers behind {url} (settings.access.limits_url), such as {PEER}"


def _weights(values: Mapping[str, Any]) -> Iterator[str]:
    model = values["settings"]["model"]
    if values.get("weights", {}).get("download") and "revision" not in model:
        yield (
            f"hybridserve render helm --set model.revision=COMMIT: the commit of {model['source']} to download, which "
            f"nothing pins; `hybridserve fetch {model['source']} --revision main` asks the hub and names it"
        )
    if str(path := model.get("source", "")).startswith("/models/"):
        yield f"weights.cache.existingClaim: the claim that has {path}"
    elif str(path).startswith("/") and not has_baked_weights(values["settings"]):
        yield f"extraVolumes, extraVolumeMounts: a volume that has {path} (settings.model.source)"


def _pool(values: Mapping[str, Any], planned: ResolvedPlan) -> Iterator[str]:
    plan, file = planned.advice.plan, planned.settings.accelerator.calibration
    known = file is not None and plan.cache is not None and values["plan"]["poolKnown"]
    if known and plan.cache is not None and plan.deployment.kv_cache_memory_bytes is None:
        pool = plan.cache.num_blocks * plan.layout.bytes_per_block
        option = f"--set engine.kv_cache_memory_bytes={pool}"
        yield f"hybridserve render helm {option}: the cache pool in {file}, a file that no pod has"


def _evidence(values: Mapping[str, Any]) -> Iterator[str]:
    """A record is valid for the settings that it was made with, and those of a release are its own."""
    for section in ("guard", "verify"):
        if values["settings"].get(section, {}).get("evidence_file"):
            yield f"settings.{section}.evidence_file: collect it with the settings of these values, not with your file"


def _files(values: Mapping[str, Any]) -> Iterator[str]:
    for line in pod_files(values["settings"]):
        yield f"extraVolumes, extraVolumeMounts: a volume that has settings.{line}"
