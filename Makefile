# Development and CI targets. Run `make help` for a list.
PYTHON ?= python3
LOCK ?= cpu
BIN := .venv/bin
SERVE_ARGS ?=
REGISTRY ?=
KINDS ?=
BUILD_OPTIONS ?=
VERSION ?= 0.29.0
ENGINE_ARGS ?=
AGREEMENT ?= 1,8,32
SHORT := not scale and not fault and not agreement
.DEFAULT_GOAL := help

# Most targets run in the development environment.
DEV := test lint format test-fast test-chart test-scale test-faults test-compose test-cluster test-fuzz \
  test-loadtest-agreement test-loadtest-scenarios test-guidellm test-verify test-speculation test-planner engine fuzz soak \
  soak-tokens \
  bench-cli bench-cache bench-start bench-overhead bench-loadtest bench-hybrid bench-scaling calibrate \
  docs docs-output reference-docs plan-picture telemetry-files telemetry-pictures chart-files chart-score demo-model lock audit \
  release
$(DEV): LOCK = dev
$(DEV): install
.PHONY: install serve help sbom chart-tools prometheus-tools redis-tools images clean $(DEV)

##@ Everyday

install: ## create .venv from a lock (LOCK=cpu, gpu, dev, or base for all but serving); does nothing when it is up to date
	@$(PYTHON) scripts/install.py $(LOCK)

serve: install ## serve the demo model on this CPU (SERVE_ARGS="--port 8080")
	@exec $(BIN)/hybridserve serve $(SERVE_ARGS)

test: lint ## all tests but the long suites below, with the real engine and the real stack
	$(BIN)/pytest -n 2 --dist loadfile -m "not stack and $(SHORT)"; first=$$?; \
	  $(BIN)/pytest -m "stack and $(SHORT)" --durations=15 && exit $$first

lint: ## check formatting, lint, types and the direction of imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: ## format the code and apply safe lint fixes
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Test suites

test-fast: ## tests that need no engine
	$(BIN)/pytest -n 2 --dist loadfile -m "not engine and not stack and not chart"

test-chart: ## the Helm chart, with Helm 3 and Helm 4
	$(BIN)/pytest tests/chart

test-scale: ## autoscaling under load: on real Ray 1, 2, 1 and 1, 0, 1 replicas, and 1, 3, 1 pods without Ray
	$(BIN)/pytest tests/stack/test_scale_real.py tests/stack/test_scale_pods.py tests/stack/test_live_settings_on_ray.py

test-faults: ## kill, stop and break components under load; writes the table of docs/evidence/faults.md
	@rm -f .cache/faults.jsonl; mkdir -p .cache
	FAULT_ROWS=.cache/faults.jsonl $(BIN)/pytest -s tests/faults --ignore tests/faults/test_soak.py
	$(BIN)/python scripts/fault_table.py .cache/faults.jsonl docs/evidence/faults.md

test-compose: ## images and compose with a real Docker engine from Debian's packages; needs root
	$(BIN)/pytest -v -p no:cacheprovider tests/compose/docker_images.py tests/compose/docker_stack.py
	$(BIN)/python scripts/container_figures.py .cache/docker/figures.json docs/evidence/containers.md

test-cluster: chart-tools ## the chart on a Kubernetes 1.20 built from source (docs/evidence/kubernetes.md says why), both modes; PART=api, node, ray-settings, ...; needs root
	tests/chart/cluster/run.sh $(PART)

test-verify: ## known numeric faults and 200 clean runs of `hybridserve verify` on a real engine; writes docs/evidence/verify.md
	@rm -f .cache/verify.jsonl
	$(BIN)/pytest -s tests/engine/verify_suite.py
	$(BIN)/python scripts/verify_table.py .cache/verify.jsonl docs/evidence/verify.md

test-planner: ## the planner against vLLM's allocator with many drawn cases (CASES=1000 SEED=20261127)
	PLANNER_CASES=$(or $(CASES),1000) PLANNER_SEED=$(or $(SEED),20261127) $(BIN)/pytest tests/engine/test_planner_matches_vllm.py

engine: ## examine a vLLM release: planner, imports, flags, metrics, prefix cache (VERSION=0.34.0)
	nice $(BIN)/python scripts/engine_release $(VERSION) $(ENGINE_ARGS)

test-loadtest-agreement: ## the load test against vllm bench serve at concurrency 1, 8 and 32 (AGREEMENT=8)
	LOADTEST_AGREEMENT=$(AGREEMENT) LOADTEST_AGREEMENT_ROUNDS=12 $(BIN)/pytest tests/stack/test_loadtest_agreement.py

test-loadtest-scenarios: ## every load-test scenario for some seconds on the real service, with guard and tools
	$(BIN)/pytest -v tests/stack/loadtest_scenarios_suite.py

test-guidellm: ## the load test's metrics against GuideLLM's own code
	$(BIN)/python scripts/guidellm_definitions.py

##@ Fuzz and soak

test-speculation: ## 1,008 greedy requests with and without n-gram and MTP drafts, and the plan of each engine
	$(BIN)/pytest -s tests/engine/speculation_suite.py

test-fuzz: ## schemathesis over every route, and malformed HTTP, a hundred times what `make test` sends
	FUZZ_EXAMPLES=400 $(BIN)/pytest -s tests/stack/test_openapi_fuzz.py tests/stack/test_http_mutator.py

fuzz: ## ten thousand malformed files and messages of each kind (FUZZ_FILES, FUZZ_SEED)
	FUZZ_FILES=$${FUZZ_FILES:-10000} $(BIN)/pytest -s tests/unit/fuzz

soak: ## 64 concurrent streams for SOAK_S seconds (600): no stream lost, no memory growth
	$(BIN)/pytest -s tests/faults/test_soak.py

soak-tokens: ## correct greedy tokens under preemption and prefix hits for TOKEN_SOAK_S seconds (1800)
	TOKEN_SOAK_S=$${TOKEN_SOAK_S:-1800} $(BIN)/pytest -s tests/stack/test_correct_tokens.py -k pressure

##@ Benchmarks

bench-cli: ## cold-start time of plan and check
	$(BIN)/python benchmarks/cli.py

bench-cache: ## prefix reuse of the agent scenario: vllm serve against our settings, one and two replicas; minutes (CACHE_ARGS="off ours")
	$(BIN)/python benchmarks/cache.py $(CACHE_ARGS)

bench-start: ## time to ready, hybridserve and vllm serve in pairs
	$(BIN)/python benchmarks/start.py

bench-overhead: ## cost of the gateway, alone and end to end (OVERHEAD_ARGS="--parts haproxy --seconds 300")
	$(BIN)/python benchmarks/middleware.py
	$(BIN)/python benchmarks/overhead.py $(OVERHEAD_ARGS)
	$(BIN)/python benchmarks/overhead_table.py .cache/overhead docs/evidence/overhead.md

bench-loadtest: ## cost of the load-test client for each token
	$(BIN)/python benchmarks/loadtest_client.py

bench-hybrid: ## hybrid against transformer on one engine (HYBRID_ARGS="--shapes published" on a GPU)
	$(BIN)/python benchmarks/hybrid.py $(HYBRID_ARGS)

bench-scaling: ## every scaling policy on every traffic pattern, in the simulator
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/recorded.py

calibrate: ## fit the simulator to a running server (CALIBRATE_ARGS="--url ... --start-up 45 --out my.yaml")
	$(BIN)/python benchmarks/calibrate.py $(CALIBRATE_ARGS)

##@ Generated files

docs: ## build the documentation site in build/docs; a broken link or a page that the contents leave out fails
	$(BIN)/sphinx-build -c docs -W --keep-going -q . build/docs
	@echo build/docs/index.html

docs-output: ## refresh the command output shown in docs/
	$(BIN)/python scripts/docs_output.py docs/how-to/*.md docs/evidence/*.md

reference-docs: ## the tables of docs/reference: settings, metrics, alerts, compliance rules
	$(BIN)/python scripts/reference_docs.py

plan-picture: ## the memory of two plans, docs/images/plan-memory.svg
	$(BIN)/python scripts/plan_picture.py

telemetry-files: ## the chart's rules and dashboards, and the tables of docs/reference
	$(BIN)/hybridserve alerts export --out helm/hybridserve/files/rules
	$(BIN)/hybridserve dashboards export --out helm/hybridserve/files/dashboards
	$(BIN)/python scripts/reference_docs.py

telemetry-pictures: ## draw the dashboards of docs/ from a real service and a real Prometheus; minutes
	TELEMETRY_PICTURES=docs/dashboards TELEMETRY_TRAFFIC_S=150 $(BIN)/pytest tests/stack/test_telemetry_live.py

chart-files: ## the chart's values schema, README table and profiles
	$(BIN)/python scripts/chart_files.py

chart-score: ## the chart's quality score beside other charts, with checkov, into docs/evidence/chart-score.md
	$(BIN)/python scripts/chart_score.py

demo-model: ## train the demo model again, in about an hour on one core
	$(BIN)/python demo/train.py --out src/hybridserve/demo_model

##@ Release

# Any environment that is there has what the script imports.
$(BIN)/hybridserve:
	@$(PYTHON) scripts/install.py base

images: $(BIN)/hybridserve ## build and push the images and print their digests (REGISTRY=registry.example/team, KINDS="cpu control")
	$(BIN)/python scripts/release.py images --registry "$(REGISTRY)" --options="$(BUILD_OPTIONS)" --kinds $(KINDS)

release: chart-tools ## wheel, chart, image digests and SHA256SUMS in dist/; after `make images`
	$(BIN)/python scripts/release.py release

##@ Tools and maintenance

lock: ## resolve pyproject.toml into requirements/*.txt
	$(BIN)/python scripts/lock.py

sbom: ## write the CycloneDX bill of materials of a lock (LOCK=cpu) into dist/
	@$(BIN)/python scripts/sbom.py --lock requirements/$(LOCK).txt dist/sbom-$(LOCK).cdx.json

audit: ## known vulnerabilities of every served pin; needs PyPI's JSON API
	for lock in base cpu gpu; do $(BIN)/uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip -r requirements/$$lock.txt || exit 1; done

chart-tools: ## download the pinned helm and kubectl into .cache/chart-tools
	$(PYTHON) scripts/chart_tools.py

prometheus-tools redis-tools: ## download Debian's prometheus and promtool, or redis-server, into .cache
	$(PYTHON) scripts/debian_tools.py $(@:-tools=)

clean: ## remove the environment and all caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
