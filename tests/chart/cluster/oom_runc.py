#!/usr/bin/env python3
"""runc for machines without CAP_SYS_RESOURCE, which the negative oom_score_adj that kubelet asks for would need."""

import json
import os
import sys
from pathlib import Path

if "create" in sys.argv and "--bundle" in sys.argv:
    file = Path(sys.argv[sys.argv.index("--bundle") + 1]) / "config.json"
    config = json.loads(file.read_text())
    score = config["process"].get("oomScoreAdj")
    if score is not None and score < 0:
        config["process"]["oomScoreAdj"] = 0
        file.write_text(json.dumps(config))
os.execvp("runc", ["runc", *sys.argv[1:]])
