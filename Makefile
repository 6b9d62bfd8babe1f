# Two commands do everything: `make repro` (set up, then a first training) and `make test`.
# Without make: the same commands stand in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACTIVATE := . $(BIN)/activate

.PHONY: repro test lint deps bench architectures coverage mutation install clean

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

coverage: install
	$(ACTIVATE) && coverage erase && coverage run -m pytest --ignore tests/test_dvc_warm.py
	$(ACTIVATE) && coverage combine --quiet && coverage report

# Not in constraints.txt: nothing else needs mutmut. A survivor's change: mutmut show NAME.
mutation: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'mutmut>=3.8,<4'
	rm -rf mutants
	$(ACTIVATE) && OMP_NUM_THREADS=1 mutmut run && mutmut results

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,trl]'
	test -d data/base || ($(ACTIVATE) && dvc repro base)
	$(ACTIVATE) && python -m benchmarks

# Every causal language model type of the installed transformers, tiny, through a round; writes docs/architectures.md.
architectures: install
	$(ACTIVATE) && python scripts/architectures.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage* mutants
