#!/usr/bin/env python3
"""The chart's quality score, measured on what Helm renders: `make chart-score` writes docs/evidence/chart-score.md.

For comparison, two other charts were measured on 2026-11-23 with the same tools: vLLM production-stack's vllm-stack
0.1.12 and NVIDIA's nim-llm 1.1.2. checkov is large (340 MB), so it has a separate environment under .cache.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "chart"))

from chart_cases import CASES, values_of  # noqa: E402
from chart_helm import CHART, HelmError, Object, chart_tools, helm, template  # noqa: E402
from pod_security import pods, violations  # noqa: E402

CHECKOV = ROOT / ".cache" / "checkov"
CHECKOV_VERSION = "3.3.30"
SHEET = ROOT / "docs/evidence/chart-score.md"
WANTED_SHARE = 0.97
# Rules of checkov that are skipped, and why.
SKIPPED = {
    "CKV_K8S_11": "a CPU limit throttles the engine in the middle of a step; requests share CPUs fairly",
}
DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class Line:
    """One check: measured here, copied for the other charts."""

    what: str
    ours: Callable[[], str]
    production_stack: str
    nim: str


def rendered(case: str, **changes: Any) -> list[Object]:
    """Objects of one values file with values changed; images are pinned by digest."""
    values = values_of(case)
    values.setdefault("image", {})["digest"] = DIGEST
    values.get("settings", {}).get("license", {}).pop("image", None)
    values.setdefault("check", {}).setdefault("image", {"repository": "check"})["digest"] = DIGEST
    return template({**values, **changes})


def restricted() -> str:
    """Pods of every values file that meet the restricted standard."""
    found = [violations(spec) for case in CASES for manifest in rendered(case) for _, spec in pods(manifest)]
    return cell(not any(found), f"{sum(not listed for listed in found)}/{len(found)} pods of {len(CASES)} values files")


def checkov() -> str:
    """Share of checkov's rules that pass, on every values file, images pinned by digest."""
    return scanned([as_pods for case in CASES for manifest in rendered(case) for as_pods in projected(manifest, case)])


def checkov_untouched() -> str:
    """The same for the default values without a digest, as the other charts were measured."""
    return scanned([as_pods for manifest in template({}) for as_pods in projected(manifest, "defaults")])


def scanned(documents: list[Object]) -> str:
    """Share of checkov's rules that these objects pass; RayServices are split into pods."""
    file = CHECKOV / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    words = [str(CHECKOV / "venv/bin/checkov"), "-f", str(file), "--framework", "kubernetes", "--quiet", "--compact"]
    words += ["--skip-download", "--skip-check", ",".join(SKIPPED), "-o", "json"]
    report = json.loads(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    summary = report["summary"]
    passed, failed = summary["passed"], summary["failed"]
    for failure in report["results"]["failed_checks"]:
        print(f"  checkov {failure['check_id']} {failure['resource']}: {failure['check_name']}", file=sys.stderr)
    share = passed / (passed + failed)
    return cell(share >= WANTED_SHARE, f"{passed}/{passed + failed} = {share:.1%}")


def projected(thing: Object, case: str) -> Iterator[Object]:
    """The object, or the pods of a RayService with KubeRay's additions, because checkov does not know RayServices."""
    thing = copy.deepcopy(thing)
    thing["metadata"]["name"] = f"{case}-{thing['metadata']['name']}"
    if thing["kind"] != "RayService":
        yield thing
        return
    for where, spec in pods(thing):
        metadata = {"name": f"{case}-{where.rpartition(' ')[2]}", "namespace": thing["metadata"]["namespace"]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def refused(*sets: str) -> str:
    """How many of these values Helm refuses."""
    count = 0
    for assignment in sets:
        try:
            helm("template", "x", str(CHART), "--set", assignment)
        except HelmError:
            count += 1
    return cell(count == len(sets), f"{count}/{len(sets)} refused")


def selectors_stay() -> str:
    """A changed label leaves every immutable field as it was."""
    before, after = rendered("defaults"), rendered("defaults", commonLabels={"team": "x"}, podLabels={"team": "x"})
    same = [
        manifest["spec"]["selector"] == other["spec"]["selector"]
        for manifest, other in zip(before, after, strict=True)
        if manifest["kind"] in ("Deployment", "Service")
    ]
    return cell(all(same) and bool(same), "selectors hold no value")


def storage_grows() -> str:
    """Storage is a plain claim, whose size may grow."""
    kinds = [manifest["kind"] for manifest in rendered("nemotron-nano-9b-v2-l40s")]
    return cell("PersistentVolumeClaim" in kinds and "StatefulSet" not in kinds, "a plain claim")


def names_fit() -> str:
    """The longest name of an object for the longest release name."""
    objects = [manifest for case in CASES for manifest in template(values_of(case), release="a" * 53)]
    longest = max(len(manifest["metadata"]["name"]) for manifest in objects)
    return cell(longest <= 63, f"longest name {longest} characters for a release of 53")


def apart() -> str:
    """Two releases share no object and no selector."""
    names, selectors = [], []
    for release in ("first", "second"):
        objects = template(values_of("standalone-secrets"), release=release)
        names.append({(manifest["kind"], manifest["metadata"]["name"]) for manifest in objects})
        selectors.append([manifest["spec"]["selector"] for manifest in objects if manifest["kind"] == "Service"])
    return cell(not names[0] & names[1] and selectors[0] != selectors[1], "no shared object or selector")


def has(kind: str, case: str = "standalone-production") -> Callable[[], str]:
    """Whether an object of this kind is rendered."""

    def measure() -> str:
        count = sum(manifest["kind"] == kind for manifest in rendered(case))
        return cell(count > 0, f"{count} of kind {kind}")

    return measure


def drains() -> str:
    """The grace period is longer than hook and drain together."""
    good = []
    for case in CASES:
        drain = values_of(case).get("drainSeconds", 60)
        for manifest in rendered(case):
            for where, spec in pods(manifest):
                if where.startswith("Deployment/"):
                    good.append("preStop" in spec["containers"][0]["lifecycle"])
                    good.append(spec["terminationGracePeriodSeconds"] > drain)
    return cell(all(good) and bool(good), "grace > preStop + drain, from one number")


def probes() -> str:
    """Every serving container has the three probes."""
    wanted = {"startupProbe", "readinessProbe", "livenessProbe"}
    good = [
        wanted <= set(spec["containers"][0])
        for case in CASES
        for manifest in rendered(case)
        for where, spec in pods(manifest)
        if where.startswith(("Deployment/", "RayService/"))
    ]
    return cell(all(good), f"{sum(good)}/{len(good)} serving pods")


def no_token() -> str:
    """Only the Ray head, whose autoscaler needs it, gets a token of the API server."""
    tokens = [where for case in CASES for manifest in rendered(case) for where, spec in pods(manifest)
              if spec["automountServiceAccountToken"]]  # fmt: skip
    return cell(all(where.endswith(" head") for where in tokens), "none but the Ray head's")


def no_plain_secret() -> str:
    """No environment variable contains a secret."""
    text = json.dumps([spec for manifest in template(values_of("rayservice")) for _, spec in pods(manifest)])
    return cell("hf_example" not in text, "Secrets are mounted as files")


def unit_tests() -> str:
    """Cases of this repository's chart tests."""
    words = [sys.executable, "-m", "pytest", "tests/chart", "--collect-only", "-q"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return f"{ran.stdout.strip().splitlines()[-1].split()[0]} cases"


def cell(good: bool, detail: str) -> str:
    """One cell of the table."""
    return f"{'pass' if good else 'FAIL'}: {detail}"


def restarts() -> str:
    """A changed setting changes the pod template, so that it is rolled out."""
    hashes = set()
    for settings in ({}, {"engine": {"max_num_seqs": 2}}):
        (pod,) = [
            manifest["spec"]["template"]
            for manifest in rendered("defaults", settings=settings)
            if manifest["kind"] == "Deployment"
        ]
        hashes.add(pod["metadata"]["annotations"]["checksum/settings"])
    return cell(len(hashes) == 2, "checksum of the settings on the pods")


def one_target() -> str:
    """Endpoints of the PodMonitor, without duplicates."""
    objects = rendered("standalone-production")
    (monitor,) = [manifest["spec"] for manifest in objects if manifest["kind"] == "PodMonitor"]
    ports = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    others = [manifest for manifest in objects if manifest["kind"] == "ServiceMonitor"]
    return cell(len(ports) == len(set(ports)) and not others, f"{len(ports)} ports, one PodMonitor")


def notes_and_test() -> str:
    """The notes depend on the values; the test sends what a client would."""
    words = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "serving")
    notes = helm(*words).partition("NOTES:")[2]
    script = (CHART / "files" / "smoke.py").read_text(encoding="utf-8")
    routes = [route for route in ("/v1/models", "/v1/chat/completions", "/compliance") if route in script]
    warned = notes.count("\n  - ")
    good = warned > 0 and len(routes) == 3
    return cell(good, f"{warned} warnings for the defaults; the test requests {', '.join(routes)}")


def table_is_generated() -> str:
    """README's table equals the generator's output."""
    words = [sys.executable, str(ROOT / "scripts" / "chart_files.py"), "--check"]
    return cell(subprocess.run(words, capture_output=True, check=False).returncode == 0, "and compared in a test")


def annotated(*keys: str) -> Callable[[], str]:
    """Keys that Chart.yaml has to have."""

    def measure() -> str:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
        return cell(set(keys) <= set(chart), ", ".join(keys))

    return measure


def labelled() -> str:
    """Standard labels on every object."""
    wanted = {"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}
    good = [wanted <= set(manifest["metadata"].get("labels", {})) for manifest in rendered("defaults")]
    return cell(all(good), f"{sum(good)}/{len(good)} objects")


def image_pinned() -> str:
    """`latest` is refused, a digest is accepted."""
    digest = any(DIGEST in json.dumps(spec) for manifest in rendered("defaults") for _, spec in pods(manifest))
    return cell(digest and refused("image.tag=latest").startswith("pass"), "version tag by default, digest supported")


LINES = [
    Line("pods meet `restricted`", restricted, "FAIL 0/2", "FAIL 0/4"),
    Line("checkov, default values", checkov_untouched, "159/194 = 82.0%", "280/357 = 78.4%"),
    Line("checkov, every values file", checkov, "", ""),
    Line("upgrade after a changed label", selectors_stay, "FAIL", "FAIL"),
    Line("upgrade after growing storage", storage_grows, "pass", "FAIL"),
    Line("names of long releases", names_fit, "FAIL", "FAIL, 65 to 81 characters"),
    Line("two releases in one namespace", apart, "FAIL", "pass"),
    Line("typos are refused", lambda: refused("replicaCout=2", "replicaCounts=2", "image.tagg=x"), "FAIL", "FAIL"),
    Line(
        "invalid values are refused",
        lambda: refused("resources.limits.nvidia\\.com/gpu=abc", "replicaCount=-3", "service.type=Foo",
                        "service.port=99999999"),
        "FAIL 0/4",
        "FAIL 0/5",
    ),
    Line("network policies", has("NetworkPolicy"), "none", "none"),
    Line("pod disruption budget", has("PodDisruptionBudget"), "off, minAvailable 0", "none"),
    Line("drain", drains, "FAIL", "part: 60 s, no preStop"),
    Line("three probes", probes, "pass", "pass"),
    Line("image pinned, digest", image_pinned, "FAIL", "tag, no digest"),
    Line("kubeVersion and appVersion", annotated("kubeVersion", "appVersion"), "FAIL", "pass"),
    Line("standard labels", labelled, "FAIL", "pass"),
    Line("NOTES.txt and `helm test`", notes_and_test, "none, none", "static, 3 pods"),
    Line("table of values generated", table_is_generated, "by hand, 550 lines", "by hand"),
    Line("changed configuration is rolled out", restarts, "FAIL", "FAIL"),
    Line("one target for each port", one_target, "pass", "FAIL, scraped twice"),
    Line("unit tests of the chart", unit_tests, "144 cases", "none"),
    Line("no secret as plain environment", no_plain_secret, "FAIL", "pass"),
    Line("no service account token", no_token, "FAIL", "FAIL"),
    Line(
        "renders offline, no remote dependency",
        lambda: cell("dependencies" not in (CHART / "Chart.yaml").read_text(encoding="utf-8"), "no dependency"),
        "FAIL, 2 OCI charts",
        "pass",
    ),
    Line(
        "no RuntimeClass needed",
        lambda: cell("runtimeClassName" not in json.dumps(rendered("nemotron-nano-9b-v2-l40s")), "none by default"),
        "FAIL",
        "pass",
    ),
]  # fmt: skip


def sheet() -> str:
    """The score as Markdown."""
    rows = ["| check | hybridserve | production-stack 0.1.12 | nim-llm 1.1.2 |", "| --- | --- | --- | --- |"]
    rows += [f"| {line.what} | {line.ours()} | {line.production_stack} | {line.nim} |" for line in LINES]
    skips = [f"- {rule}: {why}" for rule, why in SKIPPED.items()]
    return "\n".join(
        [
            "# Chart score",
            "",
            "Made by `make chart-score`. The column hybridserve is measured on every values file of the chart, with",
            "images pinned by digest unless noted. The default values of the other charts were measured on 2026-11-23",
            "with the same tools. Tests with a real API server: [kubernetes.md](kubernetes.md).",
            "",
            *rows,
            "",
            f"checkov {CHECKOV_VERSION}, RayServices split into their pods. Skipped:",
            "",
            *skips,
            "",
        ]
    )


def main() -> int:
    """Measure and write; exit code 1 when a check of this chart fails."""
    chart_tools.fetch()
    if not (CHECKOV / "venv/bin/checkov").exists():
        print("installing checkov into .cache/checkov (340 MB, a minute or two)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(CHECKOV / "venv")], check=True)
        pip = [str(CHECKOV / "venv/bin/python"), "-m", "pip", "install", "--quiet", f"checkov=={CHECKOV_VERSION}"]
        subprocess.run(pip, check=True)
    text = sheet()
    SHEET.write_text(text, encoding="utf-8")
    print(text)
    return 1 if "FAIL: " in text else 0


if __name__ == "__main__":
    sys.exit(main())
