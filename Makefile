# Everything a person or CI does, one word each. `make help` lists it.
PYTHON ?= python3
LOCK ?= cpu
BIN := .venv/bin
SERVE_ARGS ?=
AGREEMENT ?= 1,8,32
.DEFAULT_GOAL := help

.PHONY: help install serve test test-fast test-planner-032 test-loadtest-agreement test-loadtest-scenarios test-guidellm test-scale fuzz test-fuzz test-faults sbom audit soak soak-tokens lint format demo-model bench-cli bench-hybrid bench-loadtest bench-start bench-overhead bench-scaling calibrate chart-tools chart-files telemetry-files telemetry-pictures prometheus-tools test-chart chart-score test-cluster lock clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

install: ## create .venv from the lock (LOCK=cpu, gpu, base or dev); a second run is a no-op
	@$(PYTHON) scripts/install.py $(LOCK)

serve: install ## serve the demo model on this CPU (SERVE_ARGS="--port 8080")
	@exec $(BIN)/hybridserve serve $(SERVE_ARGS)

test: LOCK = dev
test: install lint ## the tests, with the real engine and the real stack (scaling on Ray: make test-scale)
	$(BIN)/pytest -m "not scale and not fault and not agreement" --durations=15

test-fast: LOCK = dev
test-fast: install ## the tests that need no engine, in under a minute
	$(BIN)/pytest -m "not engine and not stack and not chart"

test-planner-032: LOCK = dev
test-planner-032: install ## the planner against the allocator of vLLM 0.32.0, in an environment of its own
	$(BIN)/python scripts/planner_032.py

lint: LOCK = dev
lint: install ## format, lint, types, and the one direction of imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: LOCK = dev
format: install ## rewrite the code in the one format
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

demo-model: LOCK = dev
demo-model: install ## train the demo model again, in minutes
	$(BIN)/python demo/train.py --out src/hybridserve/demo_model

bench-cli: LOCK = dev
bench-cli: install ## time of plan and check from a cold start
	$(BIN)/python benchmarks/cli.py

bench-hybrid: LOCK = dev
bench-hybrid: install ## hybrid against transformer on one engine (HYBRID_ARGS="--shapes published" on a GPU)
	$(BIN)/python benchmarks/hybrid.py $(HYBRID_ARGS)

bench-loadtest: LOCK = dev
bench-loadtest: install ## what the load-test client costs per token, and where one worker begins to distort
	$(BIN)/python benchmarks/loadtest_client.py

bench-start: LOCK = dev
bench-start: install ## time to ready, ours and vLLM's own, in pairs
	$(BIN)/python benchmarks/start.py

bench-scaling: LOCK = dev
bench-scaling: install ## every scaling policy on every workload, in the simulator
	$(BIN)/python benchmarks/scaling.py

calibrate: LOCK = dev
calibrate: install ## fit the simulator to a server that runs (CALIBRATE_ARGS="--url ... --start-up 45 --out my.yaml")
	$(BIN)/python benchmarks/calibrate.py $(CALIBRATE_ARGS)

test-loadtest-agreement: LOCK = dev
test-loadtest-agreement: install ## our load test against vllm bench serve, at concurrency 1, 8 and 32 (AGREEMENT=8 for one)
	LOADTEST_AGREEMENT=$(AGREEMENT) LOADTEST_AGREEMENT_ROUNDS=12 $(BIN)/pytest tests/stack/test_loadtest_agreement.py

test-loadtest-scenarios: LOCK = dev
test-loadtest-scenarios: install ## every load-test scenario for some seconds on the real service, with guard and tools
	$(BIN)/pytest -v tests/stack/loadtest_scenarios_suite.py

test-guidellm: LOCK = dev
test-guidellm: install ## the load test's measures against GuideLLM's own code, unpacked beside the environment
	$(BIN)/python scripts/guidellm_definitions.py

test-fuzz: LOCK = dev
test-fuzz: install ## schemathesis over every route, and broken HTTP, a hundred times what `make test` sends
	FUZZ_EXAMPLES=400 $(BIN)/pytest -s tests/stack/test_openapi_fuzz.py tests/stack/test_http_mutator.py

fuzz: LOCK = dev
fuzz: install ## ten thousand broken settings files, and as many of each other kind (FUZZ_FILES, FUZZ_SEED)
	FUZZ_FILES=$${FUZZ_FILES:-10000} $(BIN)/pytest -s tests/unit/fuzz

test-faults: LOCK = dev
test-faults: install ## kill, stop and break parts under a steady load, and count what was lost
	@rm -f .cache/faults.jsonl; mkdir -p .cache
	FAULT_ROWS=.cache/faults.jsonl $(BIN)/pytest -s tests/faults --ignore tests/faults/test_soak.py
	$(BIN)/python scripts/fault_table.py .cache/faults.jsonl docs/evidence/faults.md

sbom: ## a CycloneDX list of what a lock installs (LOCK=cpu), into dist/
	@$(PYTHON) scripts/lock_sbom.py requirements/$(LOCK).txt dist/sbom-$(LOCK).cdx.json

audit: LOCK = dev
audit: install ## known vulnerabilities of every pin of what is served; needs PyPI's JSON interface
	for lock in base cpu gpu; do $(BIN)/uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip -r requirements/$$lock.txt || exit 1; done

soak: LOCK = dev
soak: install ## 64 streams for SOAK_S seconds (600): nothing is lost, nothing grows
	$(BIN)/pytest -s tests/faults/test_soak.py

soak-tokens: LOCK = dev
soak-tokens: install ## TOKEN_SOAK_S seconds (1800) of preemption, prefix hits and sixteen at once: every greedy token is right
	TOKEN_SOAK_S=$${TOKEN_SOAK_S:-1800} $(BIN)/pytest -s tests/stack/test_correct_tokens.py -k pressure

test-scale: LOCK = dev
test-scale: install ## scaling on real Ray: 1, 2, 1 and 1, 0, 1 replicas under load
	$(BIN)/pytest tests/stack/test_scale_real.py

bench-overhead: LOCK = dev
bench-overhead: install ## what the control layer costs, by itself and end to end (OVERHEAD_ARGS="--parts haproxy --seconds 300")
	$(BIN)/python benchmarks/middleware.py
	$(BIN)/python benchmarks/overhead.py $(OVERHEAD_ARGS)
	$(BIN)/python benchmarks/overhead_table.py .cache/overhead docs/reference/http-api.md

chart-tools: ## fetch the pinned helm and kubectl into .cache/chart-tools
	$(PYTHON) scripts/chart_tools.py

chart-files: LOCK = dev
chart-files: install ## write what the chart takes from elsewhere: schema of the settings, README table, profiles, dashboards
	$(BIN)/python scripts/chart_files.py

telemetry-files: LOCK = dev
telemetry-files: install ## write rules and dashboards into deploy/ and the chart, and the tables of docs/reference/metrics.md
	$(BIN)/hybridserve alerts export --out deploy/prometheus/rules
	$(BIN)/hybridserve dashboards export --out deploy/grafana/dashboards
	$(BIN)/python scripts/telemetry_docs.py
	$(BIN)/python scripts/chart_files.py

telemetry-pictures: LOCK = dev
telemetry-pictures: install ## draw the dashboards of docs/ from a real service and a real Prometheus: minutes
	TELEMETRY_PICTURES=docs/dashboards TELEMETRY_TRAFFIC_S=150 $(BIN)/pytest tests/stack/test_telemetry_live.py

prometheus-tools: ## fetch Debian's prometheus and promtool into .cache/prometheus
	$(PYTHON) scripts/prometheus_tools.py

test-chart: LOCK = dev
test-chart: install ## the chart, with both majors of Helm
	$(BIN)/pytest tests/chart

chart-score: LOCK = dev
chart-score: install ## the chart's score sheet beside other charts, checkov included, into docs/evidence/chart-score.md
	$(BIN)/python scripts/chart_score.py

test-cluster: LOCK = dev
test-cluster: install chart-tools ## the chart on a real Kubernetes 1.20, built from Debian's source: minutes, needs root
	tests/chart/cluster/run.sh $(PART)

test-compose: LOCK = dev
test-compose: install ## images and compose under a real Docker engine, got from Debian's packages; needs root
	$(BIN)/pytest -v -p no:cacheprovider tests/compose/docker_images.py tests/compose/docker_stack.py
	$(BIN)/python scripts/container_figures.py .cache/docker/figures.json docs/how-to/run-in-containers.md

lock: LOCK = dev
lock: install ## resolve pyproject.toml into requirements/*.txt again
	$(BIN)/python scripts/lock.py

clean: ## remove the environment and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
