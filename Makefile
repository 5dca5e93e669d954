# Một Cửa. `make help` lists what there is; each target makes the virtual environment first when it has to.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PY := .venv/bin/python
BIN := .venv/bin
CODE := services graphql/gateway dev tests

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## make .venv from requirements.lock (uv when there, else pip); nothing when it is up to date
	@command -v python3 >/dev/null || { echo "setup: python3 is not on the path; Python 3.11 or newer is needed" >&2; exit 2; }
	@python3 -I dev/venv.py

run: setup ## start everything and stream its log; Ctrl-C stops it (GATEWAY_PORT=8000, DATA_DIR=.data)
	@exec $(PY) -m dev.run

demo: setup ## play the whole journey on the running stack, on one of its own, or on GATEWAY=http://…
	@exec $(PY) -m dev.demo

kind-up: setup ## the whole on a kind cluster: makes it, builds, loads, applies, waits, prints the addresses
	@exec $(PY) -m dev.cluster kind-up

kind-demo: setup ## play the whole journey on the kind cluster
	@CONTEXT=kind-motcua exec $(PY) -m dev.cluster demo

kind-forward: setup ## hold the addresses of the kind cluster on this machine until Ctrl-C
	@CONTEXT=kind-motcua exec $(PY) -m dev.cluster forward

kind-down: setup ## delete the kind cluster with all its data
	@exec $(PY) -m dev.cluster kind-down

k8s-up: setup ## the same as kind-up where kubectl points to (CONTEXT=… or CONFIRM=yes; OVERLAY=…, REGISTRY=…)
	@exec $(PY) -m dev.cluster up

k8s-demo: setup ## play the whole journey there
	@exec $(PY) -m dev.cluster demo

k8s-forward: setup ## hold its addresses on this machine until Ctrl-C
	@exec $(PY) -m dev.cluster forward

k8s-down: setup ## delete its namespace with all its data, after CONTEXT=… or CONFIRM=yes
	@exec $(PY) -m dev.cluster down

redeploy: setup ## build and replace only some services of the cluster: make redeploy SERVICE="dossier payment"
	@test -n "$(SERVICE)" || { echo "redeploy: say which service: make redeploy SERVICE=dossier" >&2; exit 2; }
	@exec $(PY) -m dev.cluster redeploy $(SERVICE)

import: setup ## load procedures from a JSONL file: make import FILE=procedures.jsonl.gz
	@test -n "$(FILE)" || { echo "import: say which file: make import FILE=procedures.jsonl.gz" >&2; exit 2; }
	@exec $(PY) -m dev.load_procedures "$(FILE)"

crawl: setup ## what an import of a crawl would read and flag, and why: make crawl FILE=procedures.jsonl.gz
	@test -n "$(FILE)" || { echo "crawl: say which file: make crawl FILE=procedures.jsonl.gz" >&2; exit 2; }
	@exec $(PY) -m dev.crawl "$(FILE)" $(ARGS)

test: setup ## all tests; make test ARGS="tests/unit -k calendar" runs some
	$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile)

load: setup ## requests per second, latencies and calls per query, on a stack of its own
	@exec $(PY) -m tests.load $(ARGS)

chaos: setup ## kill -9 every part in the middle of the journey, in turn (minutes); CHAOS_SEED=… plays it again
	$(BIN)/pytest tests/chaos -m "chaos or not chaos" -v $(ARGS)

cluster-test: setup ## disturb a whole installation on a cluster (half an hour): make cluster-test CONTEXT=kind-motcua
	$(BIN)/pytest tests/cluster -m "cluster or not cluster" -v -s --tb=short $(ARGS)

fuzz: setup ## requests that schemathesis makes up, as stranger, citizen and official: make fuzz ARGS="--minutes 5"
	@python3 -I dev/venv.py tests/fuzz/schemathesis.lock .venv-fuzz
	@exec $(PY) -m tests.fuzz $(ARGS)

turns: setup ## the worst CPU time of one turn of a loop, by work and input
	@exec $(PY) -m tests.load.turns

upload-test: setup ## 200 MB by tus over a line that breaks twice: SHA-256, memory of every process, throughput
	@exec $(PY) -m tests.load.upload $(ARGS)

proof: setup ## show that the tests of a change fail on the code before it: make proof BASE=<commit> [ONLY=9.12]
	@test -n "$(BASE)" || { echo "proof: say which commit: make proof BASE=<commit>" >&2; exit 2; }
	@exec $(PY) -m dev.proof "$(BASE)" --only "$(ONLY)"

lint: setup ## ruff, import rules, buf
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/buf lint

fmt: setup ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: setup ## mypy --strict
	$(BIN)/mypy $(CODE)

gen: setup ## generate protos/gen from the contracts
	@$(PY) -m dev.gen

gen-check: setup ## fail when protos/gen is not what the contracts say
	@$(PY) -m dev.gen --check

schema: setup ## export graphql/schema.graphql
	@$(PY) -m dev.schema

schema-check: setup ## fail when graphql/schema.graphql is not what the code says, or breaks clients
	@$(PY) -m dev.schema --check

dead: setup ## events that could not be handled: make dead, make dead ARGS="show 3", make dead ARGS="replay 3"
	@exec $(PY) -m dev.dead $(ARGS)

settings: setup ## every setting of every part: name, type, default, meaning
	@$(PY) -m dev.settings

manifests: setup ## render deploy/k8s and check it: Kubernetes' schemas, checkov, hadolint
	@python3 -I dev/venv.py deploy/checkov.lock .venv-checkov
	@$(PY) -m dev.manifests

RESOLVE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
WHEELS := uv pip compile --quiet --python-version 3.12 --only-binary :all: requirements-runtime.lock
lock: ## resolve pyproject.toml into the lock files: all, what the image needs, checkov, schemathesis (needs uv)
	@command -v uv >/dev/null || { echo "lock: uv is not on the path (pip install uv)" >&2; exit 2; }
	$(RESOLVE) pyproject.toml --extra dev -o requirements.lock
	$(RESOLVE) pyproject.toml --constraint requirements.lock -o requirements-runtime.lock
	$(RESOLVE) --group checkov -o deploy/checkov.lock
	$(RESOLVE) --group fuzz -o tests/fuzz/schemathesis.lock
	@echo "is there a wheel of everything in the image, for both machines?"
	$(WHEELS) --python-platform x86_64-manylinux_2_28 >/dev/null
	$(WHEELS) --python-platform aarch64-manylinux_2_28 >/dev/null

ci: ## what CI runs, from nothing
	@.ci/run

.PHONY: help setup run demo kind-up kind-demo kind-forward kind-down k8s-up k8s-demo k8s-forward k8s-down redeploy import crawl test load chaos cluster-test fuzz upload-test turns proof lint fmt types gen gen-check schema schema-check dead settings manifests lock ci
