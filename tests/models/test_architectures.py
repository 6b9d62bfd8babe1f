"""The decoder with architectures of many kinds, against plain forwards of each prompt alone; and what is refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_native_layers import model_of
from tiny_models import WINDOW, byte_tokenizer, tiny_model

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import policy
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.packed import can_branch
from ppo_pipeline.sampling import trial
from ppo_pipeline.sampling.cache import SlotCache
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.masks import Masks
from ppo_pipeline.sampling.trial import check_model
from ppo_pipeline.settings.sections import Base

NEW = 6
STOP = range(0, 272, 5)
# Eager attention, sinks, soft capping, ALiBi, learned positions with an offset, a projection behind the blocks, a
# composite config, attention in chunks, latent attention, a backbone that is not where the class says, scaled logits.
KINDS: dict[str, dict[str, Any]] = {
    "gpt_neo": {}, "gptj": {}, "codegen": {}, "xglm": {}, "gpt_oss": {}, "gemma2": {"final_logit_softcapping": None},
    "mpt": {}, "bloom": {}, "falcon": {"alibi": True}, "opt": {"word_embed_proj_dim": 32}, "gemma3": {},
    "llama4_text": {}, "deepseek_v3": {}, "granite": {"logits_scaling": 8.0}, "cohere": {}, "llama": {},
}  # fmt: skip
REFUSED = ("mamba", "mamba2", "rwkv", "jamba", "qwen3_next", "lfm2", "bart", "bert-generation", "openai-gpt", "bert")


def made(kind: str, **changes: Any) -> Any:
    return tiny_model(kind, **{**KINDS.get(kind, {}), **changes})


def prompts(same: int) -> list[list[int]]:
    """Prompts of different lengths whose first `same` tokens are the same."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randint(0, 256, (same,), generator=generator).tolist()
    return [start + torch.randint(0, 256, (n,), generator=generator).tolist() for n in (3, 21, 9, 1, 14, 5)]


@torch.no_grad()
def alone(model: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log probabilities, by plain forwards of the whole text so far."""
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < NEW and not (ids and ids[-1] in STOP):
        row = torch.log_softmax(model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -1], -1)
        ids.append(int(row.argmax()))
        logprobs.append(row.max().item())
    return ids, logprobs


def greedy(model: Any, wanted: list[list[int]], slots: int = 3) -> Any:
    return Decoder(model, STOP, NEW, 1.0, slots).decode([Request(p, None) for p in wanted])


@pytest.mark.parametrize("same", [0, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_each_prompt_is_answered_as_if_alone(kind: str, same: int) -> None:
    model = made(kind)
    check_model(model)
    for prompt, found in zip(prompts(same), greedy(model, prompts(same)), strict=True):
        ids, logprobs = alone(model, prompt)
        assert found.ids == ids
        assert found.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decoded_rightly_is_refused_in_one_line_by_name(kind: str) -> None:
    model = made(kind)
    with pytest.raises(PipelineError) as caught:
        check_model(model)
    text = caught.value.format_message()
    assert text.startswith("base.model: ")
    assert type(model).__name__ in text
    assert "\n" not in text


def test_a_recurrent_layer_is_named_as_the_reason() -> None:
    with pytest.raises(PipelineError, match="its recurrent layers keep a state that is no keys and values"):
        check_model(made("jamba"))


def test_nothing_is_written_of_a_refused_model(tmp_path: Path) -> None:
    made("rwkv").save_pretrained(tmp_path / "source")
    byte_tokenizer().save_pretrained(tmp_path / "source")
    settings = Base(model=str(tmp_path / "source"), revision=None, trust_remote_code=False)
    with pytest.raises(PipelineError, match="RwkvForCausalLM"):
        acquire_base(settings, tmp_path / "base", check_model)
    assert not (tmp_path / "base").exists()


def everything_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Masks.of
    monkeypatch.setattr(Masks, "of", lambda self, seen, rows: of(self, torch.ones_like(seen), rows))


def positions_are_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Decoder._run

    def shifted(self: Decoder, cache: SlotCache, **inputs: Any) -> Any:
        moved = {name: x + 1 for name, x in inputs.items() if name == "position_ids"}
        return run(self, cache, **{**inputs, **moved})

    monkeypatch.setattr(Decoder, "_run", shifted)


def slots_are_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlotCache, "copy_slot", lambda *_: None)


def the_prefix_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Decoder._behind_prefix

    def unseen(self: Decoder, before: int, rows: int, width: int) -> Any:
        inputs = behind(self, before, rows, width)
        mask = inputs["attention_mask"].clone()
        mask[..., : before - 1] = False
        return inputs | {"attention_mask": mask}

    monkeypatch.setattr(Decoder, "_behind_prefix", unseen)


def branches_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What prompts share is left out of what each attends to."""
    layout = policy.tree_layout
    monkeypatch.setattr(
        policy, "tree_layout", lambda lengths, parents, *rest: layout(lengths, [-1] * len(parents), *rest)
    )


FAULTS = [everything_is_seen, positions_are_one_off, slots_are_not_moved, the_prefix_is_not_kept]


@pytest.mark.parametrize(
    ("fault", "make"),
    [
        *((fault, partial(made, "llama")) for fault in FAULTS),
        *((fault, partial(model_of, "llama")) for fault in (*FAULTS, branches_are_not_seen)),  # it is run in trees too
    ],
)
def test_the_trial_finds_a_broken_decoder(fault: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault is branches_are_not_seen and not can_branch(make()):
        pytest.skip("no C compiler here")
    check_model(make())
    fault(monkeypatch)
    with pytest.raises(
        PipelineError, match=r"LlamaForCausalLM cannot be decoded rightly here: tokens would be sampled"
    ):
        check_model(make())


def test_the_trial_finds_boolean_masks_given_to_eager_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Masks, "of", lambda self, seen, rows: seen[:, None])
    with pytest.raises(PipelineError, match="GPTNeoForCausalLM cannot be decoded rightly"):
        check_model(made("gpt_neo"))


def test_the_trial_finds_a_training_forward_of_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pad = trial.pad
    monkeypatch.setattr(trial, "pad", lambda prompts, *rest: pad([(ids + 1) % 256 for ids in prompts], *rest))
    with pytest.raises(PipelineError, match="tokens would be trained on log probabilities that differ"):
        check_model(made("llama"))


@pytest.mark.parametrize("in_fp32", [True, False])
def test_a_model_in_half_precision_is_tried_and_left_as_it_was(in_fp32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_fp32:
        monkeypatch.setattr(trial, "SMALL", 0)
    model = made("llama").to(torch.bfloat16)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    check_model(model)
    after = model.state_dict()
    assert all(x.dtype == after[name].dtype and torch.equal(x, after[name]) for name, x in before.items())
    everything_is_seen(monkeypatch)
    with pytest.raises(PipelineError, match="at most" if in_fp32 else "on average"):
        check_model(model)


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8,
    "original_max_position_embeddings": 64,
}  # fmt: skip
BORDERS = {
    "longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
        64,
        r"64 up to where its rotary embedding \(longrope\) changes",
    ),
    "dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}, "max_position_embeddings": 64},
        64,
        "the model has 64; lower",
    ),
    "local": ("gpt_neo", {}, WINDOW, "the model has 96 in its attention window"),
    "sliding": ("mistral", {}, WINDOW, "the model has 96 in its attention window"),
    "sinks": ("gpt_oss", {}, WINDOW, "the model has 96 in its attention window"),
    "chunks": ("llama4_text", {}, WINDOW, "the model has 96 in its attention window"),
}


@pytest.mark.parametrize("name", BORDERS)
def test_up_to_a_border_it_is_right_and_beyond_refused(name: str) -> None:
    kind, changes, border, message = BORDERS[name]
    model = made(kind, **changes)
    longest = torch.randint(0, 256, (border - NEW,), generator=torch.Generator().manual_seed(1)).tolist()
    for prompt, found in zip([longest, longest[:7]], greedy(model, [longest, longest[:7]]), strict=True):
        assert found.ids == alone(model, prompt)[0]
    with pytest.raises(PipelineError, match=message):
        greedy(model, [[1, 2], [5, *longest]])


def test_the_config_of_the_saved_base_is_not_touched_by_the_trial(tmp_path: Path) -> None:
    made("gemma3").save_pretrained(tmp_path / "source")
    byte_tokenizer().save_pretrained(tmp_path / "source")
    settings = Base(model=str(tmp_path / "source"), revision=None, trust_remote_code=False)
    for name, check in (("plain", lambda model: None), ("tried", check_model)):
        acquire_base(settings, tmp_path / name, check)
    plain, tried = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "tried"))
    assert plain == tried
