# Two commands do everything: `make repro` (set up, then a first training) and `make test`.
# Without make: the same commands stand in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACTIVATE := . $(BIN)/activate

.PHONY: repro test lint deps bench install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	test -d .dvc || $(BIN)/dvc init --quiet
	touch $@

repro: install
	$(ACTIVATE) && dvc repro
	$(ACTIVATE) && dvc metrics show && dvc plots show

test: install
	$(ACTIVATE) && scripts/check

lint: install
	$(ACTIVATE) && ruff check . && ruff format --check . && mypy

deps: install
	$(ACTIVATE) && python scripts/params_doc.py --write

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,trl]'
	test -d data/base || ($(ACTIVATE) && dvc repro base)
	$(ACTIVATE) && python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
