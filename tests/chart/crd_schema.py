"""Custom resources against their CRDs: the CRD's own schema as JSON schema, strict. Rules in CEL are not covered."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent / "crds"


@cache
def validators() -> dict[tuple[str, str], Draft202012Validator]:
    """(apiVersion, kind) to its validator."""
    found = {}
    for file in sorted(FOLDER.glob("*.json")):
        crd = json.loads(file.read_text(encoding="utf-8"))
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = json_schema(version["schema"]["openAPIV3Schema"])
            for name in ("apiVersion", "kind", "metadata"):
                schema["properties"][name] = {}
            key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[key] = Draft202012Validator(schema)
    return found


def json_schema(node: Any) -> Any:
    """One node of a structural OpenAPI schema; unknown fields are refused where the CRD does not keep them."""
    if isinstance(node, list):
        return [json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: json_schema(value) for key, value in node.items() if not key.startswith("x-") and key != "properties"}
    if "properties" in node:
        made["properties"] = {name: json_schema(value) for name, value in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            made["additionalProperties"] = False
        if "required" in made:  # the server fills defaults in before it validates
            made["required"] = [name for name in made["required"] if "default" not in node["properties"].get(name, {})]
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    # Formats are the server's business; those of OpenAPI (int32) mean nothing here.
    made.pop("format", None) if isinstance(made.get("format"), str) else None
    return made


def errors(thing: dict[str, Any]) -> list[str]:
    """What the CRD of this object finds wrong in it.

    Raises:
        KeyError: no CRD of this kind is here.
    """
    validator = validators()[thing["apiVersion"], thing["kind"]]
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(thing)]
