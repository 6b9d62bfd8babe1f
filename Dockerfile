# The package, DVC and a C compiler for the CPU kernels; the project is a folder of the host:
#   make docker                      (or: docker build -t ppo-pipeline .)
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD/my-task:/project" ppo-pipeline dvc repro
# GPUs: `--gpus all`, with a torch build for them. Another package index: --build-arg PIP_INDEX_URL=...
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY constraints.txt dvc.yaml LICENSE params.schema.json params.yaml pyproject.toml README.md setup.py .dvcignore ./
COPY .dvc ./.dvc
COPY data/demonstrations ./data/demonstrations
COPY data/pairs ./data/pairs
COPY data/prompts ./data/prompts
COPY params ./params
COPY ppo_pipeline ./ppo_pipeline
COPY reward_functions ./reward_functions
COPY stages ./stages
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[live]' && rm -rf /source/*
# Any user id may run it: `-u` keeps the project's files its owner's.
ENV HOME=/home/ppo DVC_NO_ANALYTICS=1
RUN mkdir -m 1777 /home/ppo
WORKDIR /project
CMD ["ppo-pipeline", "--help"]
