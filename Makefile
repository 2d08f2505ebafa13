# A fresh clone needs Python 3.11 or newer, and nothing else: each target makes its environment.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BROKERS ?= 1
# The others' pins contradict ours and each other's, so they have an environment of their own.
PEERS := .venv-bench
PEERS_OR_OURS = $(firstword $(wildcard $(PEERS)/bin/python) $(BIN)/python)

.DEFAULT_GOAL := help
.PHONY: help demo test lint check bench bench-takeover bench-detectors peers quality quality-short quality-defaults faults faults-short faults-controls docs kafka kafka-stop clean

help: ## Show the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV) (one to three minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Watch a synthetic stream with three known changes, end to end.
	@$(BIN)/streamgauge demo

test: $(INSTALLED) ## Run every test, but for those that hurt a cluster.
	@# So that not each process compiles the detectors where that has not been done yet.
	@$(BIN)/streamgauge warmup >/dev/null
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations 20 --durations-min 3

lint: $(INSTALLED) ## Lint, format and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test ## Everything that must hold before a commit: lint, types, import rules, tests.

bench: $(INSTALLED) ## Compare the whole path and each stage with the loop most people write.
	@$(BIN)/python -m tests.bench.bench_embedded
	@$(BIN)/python -m tests.bench.bench_kafka

bench-takeover: $(INSTALLED) ## Time until another worker goes on where one was killed.
	@$(BIN)/python -m tests.bench.bench_takeover

quality-defaults: $(INSTALLED) ## How often a configuration without settings asks, for nothing and for something.
	@$(BIN)/python -m tests.quality.defaults --outcomes $(or $(N),1000000) --seed $(or $(SEED),0)

bench-detectors: $(INSTALLED) ## What a value costs each detector, ours and River's: make bench-detectors BANK=100000000 SEED=1.
	@$(PEERS_OR_OURS) -m tests.bench.bench_detectors --bank-values $(or $(BANK),10000000) --seed $(or $(SEED),1)

quality: $(INSTALLED) ## False alarms and delays of each detector, into docs/: make quality N=20000000 SEED=1.
	@$(PEERS_OR_OURS) -m tests.quality.run --values $(or $(N),20000000) --seed $(or $(SEED),1)

quality-short: $(INSTALLED) ## Whether the promised false-alarm rates hold, in a minute.
	@$(BIN)/python -m tests.quality.run --short --seed $(or $(SEED),1)

peers: ## Install CapyMOA (Java 17) and Frouros beside ours, for the two above to compare with.
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps frouros==0.9.0

faults: $(INSTALLED) ## Hurt a Kafka of three brokers and its workers: make faults N=300 SEED=1.
	@$(BIN)/python -m tests.faults.run --faults $(or $(N),20) --seed $(or $(SEED),0)

faults-short: $(INSTALLED) ## About 20 faults and the negative controls, as tests.
	@$(BIN)/python -m pytest -m faults tests/faults tests/consumers/kafka

faults-controls: $(INSTALLED) ## Show that the faults are noticed where a safeguard is off.
	@$(BIN)/python -m tests.faults.run --controls --seed $(or $(SEED),0)

docs: $(INSTALLED) ## Write the schemas of what is published to docs/.
	@$(BIN)/python docs/generate.py

kafka: $(INSTALLED) ## Start Apache Kafka on this machine (Java 17, Maven); BROKERS=3 for three.
	@$(BIN)/python -m tests.support.kafka.cluster start --brokers $(BROKERS)

kafka-stop: $(INSTALLED) ## Stop it; what it has stored stays.
	@$(BIN)/python -m tests.support.kafka.cluster stop

clean: ## Remove what the targets above have made.
	@rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis streamgauge-demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
