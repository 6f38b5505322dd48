# Two commands: `make quickstart` (set up, run the whole chain on a small drawn data set) and `make test`
# (the quick tests; `make test-all` for every one).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test test-all lint setup clean

quickstart: $(READY)
	$(BIN)/compress run recipes/quickstart.yaml

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# the bench's tests start processes and servers: apart from those that train
test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/bench
	$(BIN)/python -m pytest -n auto --dist loadfile tests/bench

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy compress bench deploy export

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" \
		|| { echo "Python 3.10 to 3.13 is needed; found $$($(PYTHON) --version). Try make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info

.PHONY: tables
tables: $(READY)
	$(BIN)/python docs/results/tables.py
