# Needs make, a Python of at least 3.11 with its venv module, and on the first use a package index.
# Variables may be given to make or stand in the environment: make run TICKS=ticks.parquet SPEED=10

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
HASHED := --require-hashes --only-binary :all:
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-header --no-annotate

.DELETE_ON_ERROR:
.PHONY: help run test chaos soak bench bench-quick bench-restore bench-serve requirements deploy sbom licences

help: ## show this
	@echo 'make run [TICKS=path] [DURATION=seconds] [SPEED=x] [RESUME=1] [MODEL=path]'
	@echo 'make chaos [DURATION=seconds] [SEED=n] [BROKERS=1|3] [CELL=gru|lstm] [CLIENT=name] [GUARANTEE=name] [RATE=ticks per second] [ONLY="kill -9"]'
	@echo 'make soak [DURATION=seconds]'
	@echo 'make bench [PARTS="throughput latency ..."] [SIZE=ticks] [CELLS=gru,lstm]'
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/run.stamp ## score ticks: simulated ones, or those of a file or folder, as fast as they come or at SPEED x real time
	@exec $(BIN)/tickwatch run $${TICKS:+--ticks "$$TICKS"} $${DURATION:+--duration "$$DURATION"} \
		$${SPEED:+--speed "$$SPEED"} $${MODEL:+--model "$$MODEL"} $(if $(filter-out 0,$(RESUME)),--resume)

test: $(VENV)/test.stamp ## formatter, linter, type checker and all tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile  # most wait for brokers, browsers and processes; a file's tests share theirs

bench: $(VENV)/test.stamp ## tickwatch against the floor and its peers, latency, growth, profile: 17 minutes, into docs/performance.md
	@exec $(BIN)/python -m benchmarks.bench $${PARTS:+--parts "$$PARTS"} $${SIZE:+--ticks "$$SIZE"} $${CELLS:+--cells "$$CELLS"}

bench-quick: $(VENV)/test.stamp ## what a tick costs, against the floor of the client, for three loads, both cells and both clients: two minutes
	PYTHONPATH=. $(BIN)/python benchmarks/speed.py

bench-restore: $(VENV)/test.stamp ## restore 1,000,000 streams from a Kafka changelog: seconds and bytes a stream
	PYTHONPATH=. $(BIN)/python benchmarks/restore.py

bench-serve: $(VENV)/test.stamp ## scoring over HTTP against a route that only echoes, and memory; needs wrk
	PYTHONPATH=. $(BIN)/python benchmarks/serve.py --requests 200000

chaos: $(VENV)/test.stamp ## hurt real workers and brokers at random while ticks flow, and verify that the guarantee held
	@exec $(BIN)/python -m tests.chaos $${DURATION:+--duration "$$DURATION"} $${SEED:+--seed "$$SEED"} \
		$${BROKERS:+--brokers "$$BROKERS"} $${CELL:+--cell "$$CELL"} $${CLIENT:+--client "$$CLIENT"} $${RATE:+--rate "$$RATE"} \
		$${ONLY:+--only "$$ONLY"} $${GUARANTEE:+--guarantee "$$GUARANTEE"}

soak: $(VENV)/test.stamp ## run a worker at full speed behind an endless backlog, and judge whether its memory stays flat
	@PYTHONPATH=. exec $(BIN)/python benchmarks/soak.py $${DURATION:+--seconds "$$DURATION"}

deploy: $(VENV)/test.stamp ## write the generated files again: dashboard, PrometheusRule, docs/settings.md
	$(BIN)/python -m deploy.generate

sbom: $(VENV)/test.stamp ## write sbom.cdx.json: what the image installs, as CycloneDX
	$(BIN)/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible --validate -o sbom.cdx.json

licences: $(VENV)/test.stamp ## write docs/licences.md: every package that the image installs, with its licence
	@(printf '# Licences\n\nWritten by `make licences`: what the image of the worker installs, by what each package says of itself.\n\n'; \
		$(BIN)/pip-licenses --format=markdown --from=mixed --no-version \
		--packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements.txt)) > docs/licences.md

requirements: $(VENV)/test.stamp ## write the requirement files again after a change in pyproject.toml; delete them first to upgrade
	$(COMPILE) pyproject.toml --all-extras -o requirements-dev.txt
	$(COMPILE) pyproject.toml --extra training -c requirements-dev.txt -o requirements-training.txt
	$(COMPILE) pyproject.toml --extra fast --extra signing --extra traces -c requirements-dev.txt -o requirements-extras.txt
	$(COMPILE) pyproject.toml -c requirements-dev.txt -o requirements.txt
	echo hatchling | $(COMPILE) - -c requirements-dev.txt -o requirements-build.txt

$(VENV)/run.stamp: requirements.txt requirements-build.txt pyproject.toml | $(BIN)/python
	@echo 'Installing tickwatch into $(VENV): about 150 MB, only now and when its requirements change'
	$(PIP_INSTALL) $(HASHED) -r requirements.txt -r requirements-build.txt
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: requirements-dev.txt $(VENV)/run.stamp
	@echo 'Installing what training and the tests need into $(VENV): PyTorch with its GPU libraries is 5 GB'
	$(PIP_INSTALL) $(HASHED) -r requirements-dev.txt
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python3.14; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if $$python -c 'import ensurepip, venv' 2>/dev/null; then exec $$python -m venv --clear $(VENV); fi; \
		bare=$$python; \
	done; \
	if [ "$$bare" ]; then echo "$$bare has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"; \
	else echo 'No Python of at least 3.11 found: install one, or name it: make run PYTHON=path'; fi >&2; exit 1
