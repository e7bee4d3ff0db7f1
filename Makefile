# `make demo` and `make test` are all the set-up there is; both make .venv on their first call.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo deploy-demo soak test lint format clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/cardiofed simulate configs/quickstart.toml

# Three hospitals and a coordinator; over real records where DATA names PTB-XL (or a part of it).
deploy-demo: $(VENV)/.installed
	$(BIN)/python -m simulations.deploy_demo $(if $(DATA),--data $(DATA)) --out runs/deploy-demo-$$(date +%Y%m%d-%H%M%S)

# Two workers with one thread each, a file to a worker. Three took as long, with the longest files first, too: the cores are busy.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# A campaign over a network that breaks at random; the whole day: python benchmarks/flaky_network.py --help.
soak: $(VENV)/.installed
	CARDIOFED_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/deployment/test_flaky_network.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
