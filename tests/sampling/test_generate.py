"""One door to sampling: the decoder behind it, and another engine in its place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny, tiny_model, tiny_tokenizer
from stage_runs import Stages

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.loading import load_model
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.sampling import generate
from ppo_pipeline.sampling.decoder import Decoder
from ppo_pipeline.sampling.generate import Model, Sampling, open_engine
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation

CPU, END = torch.device("cpu"), 257
REQUESTS = [Request([65, 66 + i], uniforms(0, str(i), 8)) for i in range(5)]


def test_the_base_model_itself_is_sampled_from_where_no_policy_is_named(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    tiny_model("llama", scale=0.7).save_pretrained(base)
    counter = Counter(len(REQUESTS))
    sampling = Sampling(8, 2, 0.9, Truncation(top_k=50), stop_tokens=("a",))
    engine = open_engine(Model(base, tiny_tokenizer(), None, CPU, torch.float32), sampling)
    found = engine.generate(REQUESTS, counter)
    stops = {END, *tiny_tokenizer()("a")["input_ids"]}
    assert engine.stop_ids == stops
    plain = Decoder(load_model(base, CPU, torch.float32), stops, 8, 0.9, 2, Truncation(top_k=50)).decode(REQUESTS)
    assert [c.ids for c in found] == [c.ids for c in plain]
    assert (counter.done, counter.tokens) == (5, sum(len(c.ids) for c in found))
    assert engine.generate(REQUESTS[:1])[0].ids == found[0].ids, "it answers again"


class Echo:
    """An engine of another kind: it answers with the prompt."""

    made: list[tuple[Model, Sampling]] = []  # noqa: RUF012
    stop_ids = frozenset({END})

    def __init__(self, model: Model, sampling: Sampling) -> None:
        self.made.append((model, sampling))

    def generate(self, requests: list[Request], counter: Any = None, snapshots: Any = None) -> list[Response]:
        found = []
        for request in requests:
            ids = request.prompt_ids[:3]
            counter.advance(1, len(ids))
            found.append(Response(ids, [-1.0] * len(ids), [1.0] * len(ids)))
        return found


def test_another_engine_is_a_class_behind_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Stages(tmp_path, lambda params: None)
    project.run("init")
    monkeypatch.setitem(generate.ENGINES, "own", Echo)
    project.run("rollout", "r001")
    project.run("baseline")
    ids, prompts = (project.column("r001/rollouts.parquet", name) for name in ("response_ids", "prompt_ids"))
    assert ids == [row[:3] for row in prompts]
    assert project.metrics("r001")["val/response_length"] == 3
    (sampled, how), (evaluated, greedy) = Echo.made
    assert sampled.policy == evaluated.policy == Path("data/rounds/r000/policy")
    assert (how.max_new_tokens, greedy.temperature) == (6, 1.0)


def test_a_policy_without_numbers_is_told(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    model = tiny_model("llama")
    model.model.norm.weight.data.fill_(torch.nan)
    model.save_pretrained(base)
    with pytest.raises(PipelineError, match="base: the policy gives logits that are no numbers"):
        open_engine(Model(base, tiny_tokenizer(), None, CPU, torch.float32), Sampling(4, 2)).generate(REQUESTS)
