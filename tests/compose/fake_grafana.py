"""What Grafana does first with its provisioning, for a container without Grafana (no registry is reachable).

Runs inside the compose service `grafana`, as its user, on its networks, with its mounts and secrets. Prints whether the
data source answers, the dashboards in the provider's folder, and the length of the password.
"""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import yaml


def provisioned(kind: str) -> dict[str, Any]:
    (file,) = Path(os.environ["GF_PATHS_PROVISIONING"], kind).glob("*.yaml")
    (found,) = yaml.safe_load(file.read_text())[{"dashboards": "providers"}.get(kind, kind)]
    return dict(found)


source, provider = provisioned("datasources"), provisioned("dashboards")
boards = [json.loads(file.read_text()) for file in sorted(Path(provider["options"]["path"]).rglob("*.json"))]
with urllib.request.urlopen(f"{source['url']}/api/v1/query?query=up", timeout=10) as answer:
    up = json.load(answer)
print(
    json.dumps(
        {
            "uid": os.getuid(),
            "status": up["status"],
            "series": len(up["data"]["result"]),
            "boards": sorted(board["title"] for board in boards),
            "password": len(Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip()),
        }
    )
)
