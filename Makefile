# The targets that people need; `make help` lists them from their own comments.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEEDS ?= 2000
FIRST ?= 0
RUNS ?= 100000
FOR ?= 120
CHROMIUM ?= chromium

.DEFAULT_GOAL := help
.PHONY: help demo test check format boot-test sim sim-for fuzz log-exactness failpoints network chaos bench bench-peers bench-dispatch bench-fanout images recording clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(READY) ## run one sweep on a mesh of four processes, and show what came out
	@$(BIN)/meshtrain demo

test: $(READY) ## run all tests (under 6 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 3 --dist loadgroup

check: $(READY) ## lint, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## put the code into its form
	@$(BIN)/ruff check --fix -q . || true
	@$(BIN)/ruff format .

boot-test: $(READY) ## boot a container with the systemd units, and hurt it (root, 3 minutes)
	@$(BIN)/python tests/boot/boot.py

sim: $(READY) ## simulate SEEDS meshes from seed FIRST on
	@MESHTRAIN_SIM_SEEDS=$(SEEDS) MESHTRAIN_SIM_FIRST=$(FIRST) $(BIN)/python -m pytest -n 2 --timeout 3600 tests/sim

sim-for: $(READY) ## simulate for FOR seconds (two minutes, as CI does), from seeds that nobody has seen
	@MESHTRAIN_SIM_S=$(FOR) $(BIN)/python -m pytest -n 2 --timeout 3600 -rP tests/sim/test_sim_long.py

fuzz: $(READY) ## give RUNS inputs to all that reads bytes from outside, guided by coverage
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/python -m pip install -q -e '.[fuzz]'
	@$(BIN)/python tests/fuzz/fuzz_run.py --runs $(RUNS)

log-exactness: $(READY) ## a million lines of a log through cut links and a master that dies
	@MESHTRAIN_LOG_LINES=1000000 $(BIN)/python -m pytest -rP tests/e2e/test_e2e_logs.py

failpoints: $(READY) ## kill a daemon at every point where a crash may part two steps (4 minutes)
	@MESHTRAIN_FAILPOINTS=all $(BIN)/python -m pytest -n 2 tests/e2e/test_e2e_failpoints.py

network: $(READY) ## cut a mesh of four hosts apart, each in a network namespace (needs root)
	@$(BIN)/python -m pytest -rs tests/network

chaos: $(READY) ## hurt a mesh for ten minutes while it works, and see that all holds
	@$(BIN)/meshtrain chaos --for 10m

bench: bench-dispatch ## measure what the README claims, beside the peers

bench-peers: $(READY) ## install the systems that we measure ourselves against
	@$(BIN)/python benchmarks/setup_peers.py

bench-dispatch: bench-peers ## durable jobs per second, ours and theirs, in one run
	@$(BIN)/python benchmarks/dispatch.py

# A peer that can't be had leaves its row out, and nothing else.
bench-fanout: $(READY) ## how fast a file reaches N hosts behind limited links (needs root)
	-@$(BIN)/python benchmarks/setup_peers.py
	@$(BIN)/python benchmarks/fanout.py --tls --faults --stream

images: $(READY) ## draw the pictures and the film of the README anew (CHROMIUM names a browser)
	@$(BIN)/python docs/make_images.py
	@$(BIN)/python docs/make_recording.py
	@$(BIN)/python docs/make_web_image.py $(CHROMIUM)

recording: $(READY) ## record the run anew that the film and the web view show (2 minutes)
	@$(BIN)/python docs/record_run.py

clean: ## remove the environment and what the demo left
	@rm -rf $(VENV) .peers demo-output

# Made once, and again when what it is made from changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "meshtrain needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "making the environment in $(VENV)"; $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) can't make environments: install its venv package (Debian: python3-venv)"; exit 1; }; }
	@echo "installing into $(VENV) (a few minutes the first time)"
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/python -m pip install -q -e '.[train,plots,parquet,tui,archive,dev]'
	@touch $(READY)
