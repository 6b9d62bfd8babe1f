"""Sequences packed give the padded forward and gradient; packed weights do too, up to rounding."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from slow_attention import attend_slowly
from tiny_architectures import tiny_architecture
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from updating import make_policy

from ppo_pipeline.compute.native.attention import attends
from ppo_pipeline.compute.native.library import kernels
from ppo_pipeline.models import packed
from ppo_pipeline.models.loading import hidden_width
from ppo_pipeline.models.packed import FEW_KEYS, _FewKeys, can_branch, can_pack
from ppo_pipeline.models.policy import PAD_MULTIPLE, Policy, model_logprobs, pack, pack_tree
from ppo_pipeline.models.prefix import by_shared_tokens, common_prefix, prefix_tree
from ppo_pipeline.models.prepacked import PrepackedLinear, can_prepack, prepack_policy
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.optimizer import trained_parameters

pytestmark = pytest.mark.usefixtures("either_kernels")

CPU = torch.device("cpu")


def data(length: int, prefix: int | None, count: int = 6, longest: int = 12) -> Sampled:
    """Return samples whose prompts share `length` tokens; the first `prefix` of them are to run once.

    prefix None: the samples are not packed but padded.
    """
    rng = np.random.default_rng(1)
    start = rng.integers(0, 256, length)
    prompts = [
        torch.tensor([*start, i, *rng.integers(0, 256, rng.integers(0, 6))], dtype=torch.int32) for i in range(count)
    ]
    responses = [torch.tensor(rng.integers(0, 256, rng.integers(1, longest)), dtype=torch.int32) for _ in range(count)]
    return Sampled([f"s{i}" for i in range(count)], prompts, responses, prefix is not None, prefix or 0)


def family(packed: bool) -> Sampled:
    """Return samples of prompts that share much: a group of one, two that differ late, one that begins another."""
    rng = np.random.default_rng(2)
    start, example, other = (rng.integers(0, 256, n).tolist() for n in (9, 11, 4))
    prompts = [
        [*start, *example, 1, 2],
        [*start, *other, 3],
        [*start, *example, 1, 2],
        [*start, *example, 4, 5, 6],
        [*start, *example],
        [9, *other],
        [*start, *example, 1, 2],
        [*start, *other, 8, 8],
    ]
    answers = [rng.integers(0, 256, rng.integers(1, 12)).tolist() for _ in prompts]
    columns = ([torch.tensor(ids, dtype=torch.int32) for ids in rows] for rows in (prompts, answers))
    return Sampled([f"s{i}" for i in range(8)], *columns, packed=packed, tree=packed)


def scores_and_gradients(policy: Policy, samples: Sampled) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    scores = policy.score(samples.sequences(np.arange(len(samples.sample_ids)), 0, CPU), 0.8)
    weights = torch.sin(torch.arange(len(scores.logprobs)))
    ((scores.logprobs + scores.values + 0.1 * scores.entropy) * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in trained_parameters(policy).items()}
    return [scores.logprobs, scores.entropy, scores.values, scores.bootstrap], gradients


def assert_same(
    laid: tuple[list[torch.Tensor], dict[str, torch.Tensor]], plain: tuple[list[torch.Tensor], dict[str, torch.Tensor]]
) -> None:
    """Compare two results of scores_and_gradients."""
    for expected, found in zip(plain[0], laid[0], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for name, expected in plain[1].items():
        torch.testing.assert_close(laid[1][name], expected, atol=5e-4, rtol=5e-3, msg=name)


CASES = [(0, 0, 12), (8, 8, 12), (21, 21, 12), (21, 8, 12), (9, 9, FEW_KEYS + 40)]


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize(("length", "prefix", "longest"), CASES)
def test_scores_and_gradients_are_those_of_padded_batches(
    architecture: str, length: int, prefix: int, longest: int, tuning: str, critic: str
) -> None:
    policies = [make_policy(architecture, tuning=tuning, critic=critic) for _ in range(2)]
    assert can_pack(policies[1].model)
    plain = scores_and_gradients(policies[0], data(length, None, longest=longest))
    laid = scores_and_gradients(policies[1], data(length, prefix, longest=longest))
    assert any(gradient.abs().max() > 1e-3 for gradient in plain[1].values())
    assert_same(laid, plain)


@pytest.mark.parametrize("way", ["branch by branch", "all at once", "by flash"])
@pytest.mark.parametrize(("tuning", "critic"), [("lora", "separate"), ("full", "shared")])
def test_scores_and_gradients_of_a_tree_are_those_of_padded_batches(
    architecture: str, tuning: str, critic: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = [make_policy(architecture, tuning=tuning, critic=critic) for _ in range(2)]
    plain = scores_and_gradients(policies[0], family(packed=False))
    assert can_pack(policies[1].model)
    monkeypatch.setattr(packed.flash, "attend", attend_slowly)
    if way != "branch by branch":  # as on a GPU
        layouts: list[packed.Layout] = []

        def attention(
            module: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: object, **more: Any
        ) -> Any:
            layouts.append(more["sequence_layout"])
            q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
            scale = more.get("scaling") or q.shape[-1] ** -0.5
            if way == "by flash":
                return packed._end_to_end(q, k, v, layouts[-1], scale)[None], None
            return packed._tree_at_once(q, k, v, layouts[-1], q.shape[1] // k.shape[1], scale)[None], None

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, packed.NAME, attention)
    laid = scores_and_gradients(policies[1], family(packed=True))
    assert_same(laid, plain)


def test_the_backward_pass_for_few_keys_is_that_of_torch_s_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 9, 9))
    seen = torch.ones(5, 9, dtype=torch.bool).tril(4)
    weights = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    gradients = []
    for attend in (
        lambda: _FewKeys.apply(q, k, v, seen, 0.3),
        lambda: torch.softmax((q @ k.mT * 0.3).masked_fill(~seen, -torch.inf), -1) @ v,
    ):
        gradients.append(torch.autograd.grad((attend() * weights).sum(), (q, k, v)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_reference_logprobs_are_the_base_s(architecture: str) -> None:
    policy = make_policy(architecture)
    found, expected = (policy.reference_logprobs(data(12, p).sequences(np.arange(6), 0, CPU), 0.8) for p in (12, None))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [data(13, 0, 20, 60), data(13, 13, 20, 60)])
def test_a_sequence_scores_the_same_bits_in_bf16_in_every_batch(samples: Sampled) -> None:
    """The first ratio of an update is 1 because of it, however its minibatches are cut."""
    policy, count = in_bf16("llama"), len(samples.sample_ids)
    prepack_policy(policy)
    with torch.no_grad():
        alone = [policy.score(samples.sequences(np.array([i]), 0, CPU), 1.0).logprobs for i in range(count)]
        together = policy.score(samples.sequences(np.arange(count), 0, CPU), 1.0).logprobs
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("size", [8, 16])
def test_a_sequence_scores_the_same_bits_in_every_tree_where_trees_may_be(size: int) -> None:
    """Else an update's first ratio would not be 1; torch's attention on a CPU rounds by the number of queries."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", **{**SMALL, "head_dim": size})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    assert can_pack(model)
    assert can_branch(model) == attends(torch.empty(1, size)) == (size == 16 and kernels() is not None)
    if not can_branch(model):
        return
    samples = family(packed=True)
    alone, together = (
        [model_logprobs(model, samples.sequences(batch, 0, CPU), 1.0) for batch in batches]
        for batches in (np.arange(8)[:, None], np.arange(8)[None])
    )
    assert torch.equal(torch.cat(alone), together[0])


def test_a_batch_is_one_row_without_padding_but_up_to_a_multiple() -> None:
    prompts = [torch.tensor([7, 8, 1]), torch.tensor([7, 8, 2, 3])]
    responses = [torch.tensor([4]), torch.tensor([5, 6])]
    batch = pack(prompts, responses, 0, CPU, prefix=2)
    assert batch.ids.tolist() == [[7, 8, 1, 4, 2, 3, 5, 6, *[0] * (PAD_MULTIPLE - 8)]]
    assert (batch.starts.tolist(), batch.prompt_lengths.tolist()) == ([2, 4], [1, 2])
    assert batch.response_lengths.tolist() == [1, 2]
    assert batch.layout is not None
    assert batch.layout.positions[0, :8].tolist() == [0, 1, 2, 3, 2, 3, 4, 5]
    assert batch.layout.padded[:, :4].tolist() == [[0, 1, 0, 0], [2, 3, 4, 5]]
    assert batch.layout.padded.shape[1] + 2 == PAD_MULTIPLE


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # each keeps a token of its own: the state before the response is in its row
        ([[1, 2, 3], [1, 2]], 1),
        ([[5], [5]], 0),
        ([[1, 2], [2, 2]], 0),
        ([[1, 2, 3, 4]], 3),
    ],
)
def test_the_common_prefix_by_hand(prompts: list[list[int]], length: int) -> None:
    assert common_prefix(prompts) == length


def test_a_tree_by_hand() -> None:
    """[7 8] begins three prompts, [7 8 1] two of them, which are the same and keep a token of their own each."""
    prompts = [torch.tensor(ids) for ids in ([7, 8, 1, 2], [9], [7, 8, 3], [7, 8, 1, 2])]
    batch = pack_tree(prompts, [torch.tensor(ids) for ids in ([10], [11, 12], [13], [14])], 0, CPU)
    assert batch.ids.tolist() == [[7, 8, 1, 2, 10, 2, 14, 3, 13, 9, 11, 12, *[0] * (PAD_MULTIPLE - 12)]]
    assert (batch.starts.tolist(), batch.prompt_lengths.tolist()) == ([3, 9, 7, 5], [1, 1, 1, 1])
    assert batch.layout is not None
    assert batch.layout.positions[0, :12].tolist() == [0, 1, 2, 3, 4, 3, 4, 2, 3, 0, 1, 2]
    assert batch.layout.branches.parents.tolist() == [-1, 0, 1, 1, 0, -1]
    assert batch.layout.branches.ends.tolist() == [5, 4, 3, 4, 5, 6]
    assert batch.layout.tokens == 12


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9)


@given(PROMPTS)
def test_a_tree_has_each_prompt_and_each_of_its_starts_once(prompts: list[list[int]]) -> None:
    tree = prefix_tree(prompts)
    texts: list[list[int]] = []
    for place, branch in enumerate(tree):
        assert branch.parent < place
        before = texts[branch.parent] if branch.parent >= 0 else []
        assert len(before) == branch.begin < branch.end
        texts.append([*before, *prompts[branch.prompt][branch.begin : branch.end]])
    leaves = {branch.prompt: text for branch, text in zip(tree, texts, strict=True) if branch.leaf}
    assert leaves == dict(enumerate(prompts))
    starts = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt))}
    once = sum(branch.end - branch.begin for branch in tree if not branch.leaf)
    own = sum(branch.end - branch.begin for branch in tree if branch.leaf)
    shared = {
        start for start in starts if sum(tuple(p[: len(start)]) == start and len(p) > len(start) for p in prompts) > 1
    }
    assert once == len(shared)
    assert once + own == len(starts) + len(prompts)


@given(PROMPTS, st.integers(1, 20), st.data())
def test_batches_of_a_tree_keep_to_their_budget(prompts: list[list[int]], budget: int, data: st.DataObject) -> None:
    answers = [data.draw(st.integers(1, 4)) for _ in prompts]
    lengths = np.array([len(p) + n for p, n in zip(prompts, answers, strict=True)])
    batches = by_shared_tokens(prompts, lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(prompts)))
    for batch in batches:
        tree = prefix_tree([prompts[i] for i in batch])
        tokens = sum(branch.end - branch.begin for branch in tree) + sum(answers[i] for i in batch)
        assert tokens <= budget or len(batch) == 1


SMALL = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("qwen3", {"head_dim": 8}, True),
        ("gemma", {"head_dim": 8}, True),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 16}, False),
        ("gemma2", {"head_dim": 8}, False),  # caps attention scores
        ("bloom", {"n_layer": 2, "n_head": 4}, False),  # ALiBi, and attention of its own
        ("qwen3_next", {"head_dim": 8}, False),  # some layers are no attention
    ],
)
def test_what_cannot_be_laid_end_to_end_is_found_out(kind: str, more: dict[str, object], expected: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **more})).eval()
    before, ids = model.config._attn_implementation, torch.arange(20)[None]
    logits = model(ids, use_cache=False).logits
    for dtype in (torch.float32, torch.bfloat16):
        assert can_pack(model.to(dtype)) == expected
    assert (model.config._attn_implementation == before) != expected
    after = model.float()(ids, use_cache=False).logits  # bf16 rounded the weights
    torch.testing.assert_close(after, logits, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("std", [0.0, 0.3, 1.5])
def test_training_does_not_change_whether_a_model_can(architecture: str, std: float) -> None:
    assert can_pack(in_bf16(architecture, std).model)


def in_bf16(architecture: str, std: float = 0.05) -> Policy:
    policy = make_policy(architecture, std)
    policy.model.to(torch.bfloat16)
    for parameter in policy.policy_parameters().values():
        parameter.data = parameter.data.float()
    return policy


@pytest.mark.parametrize("prefix", [None, 0, 12])
def test_packed_weights_give_the_gradients_of_plain_ones(architecture: str, prefix: int | None) -> None:
    """bf16 against fp32: with packed weights no further from it than with plain ones."""
    plain, packed = in_bf16(architecture), in_bf16(architecture)
    if not can_prepack(packed.model):
        pytest.skip("no bf16 kernels with packed weights on this machine")
    prepack_policy(packed)
    count = sum(isinstance(m, PrepackedLinear) for m in packed.model.modules())
    assert count == (0 if architecture == "gpt2" else 14)  # GPT-2 has Conv1D layers, which stay
    exact = scores_and_gradients(make_policy(architecture), data(12, prefix))[1]
    errors = []
    for policy in (plain, packed):
        found = scores_and_gradients(policy, data(12, prefix))[1]
        errors.append(sum((found[n].float() - exact[n]).square().sum() for n in exact).sqrt())
    norm = sum(g.square().sum() for g in exact.values()).sqrt()
    assert errors[0] < 0.5 * norm
    assert errors[1] < 1.3 * errors[0]


def test_the_state_of_training_is_untouched_by_packing() -> None:
    policy = in_bf16("llama")
    names = list(trained_parameters(policy))
    prepack_policy(policy)
    assert list(trained_parameters(policy)) == names


def test_what_looks_back_beside_attention_is_not_laid_end_to_end() -> None:
    """A short convolution is wrong for the first token of a sequence alone, which a median over tokens would hide."""
    model = tiny_model("llama")
    assert can_pack(model)
    mlp = model.model.layers[-1].mlp
    old = mlp.forward
    mlp.forward = lambda x: old(x) + 0.5 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    assert not can_pack(model)


def test_positions_that_a_model_does_not_take_are_not_laid_end_to_end() -> None:
    """BART's decoder counts positions through the whole row: only the first sequence is right."""
    assert not can_pack(tiny_architecture("bart"))


@pytest.mark.parametrize("fault", [KeyError("x"), RuntimeError("shape"), AttributeError("y"), IndexError("z")])
def test_whatever_a_model_raises_it_is_padded_then(fault: Exception) -> None:
    model = tiny_model("llama")
    old = model.model.forward

    def forward(*args: object, **kwargs: object) -> object:
        if "sequence_layout" in kwargs:
            raise fault
        return old(*args, **kwargs)

    model.model.forward = forward
    assert not can_pack(model)
    assert model.config._attn_implementation == "sdpa"


def test_layers_that_ask_for_a_window_are_not_laid_end_to_end() -> None:
    model = tiny_model("llama")
    attend = model.model.layers[1].self_attn
    old = attend.forward
    attend.forward = lambda *args, **kwargs: old(*args, **kwargs, sliding_window=64)
    assert not can_pack(model)


def test_windows_of_a_model_that_sees_images_too_are_those_of_its_text_part() -> None:
    """Gemma 3 holds them in the config of one of its parts; a few tokens alone would fit into them."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "sliding_window": 32}
    vision = {**sizes, "image_size": 16, "patch_size": 8, "vision_use_head": False}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", text_config=text, vision_config=vision))
    assert not can_pack(model.eval())
    assert hidden_width(model) == 32


@pytest.mark.parametrize(("length", "prefix"), [(0, 0), (21, 8)])
def test_the_flash_kernels_are_given_each_sequence_with_what_is_above_it(
    architecture: str, length: int, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without kernels of our own, as on a GPU; a slow loop stands for the flash kernels."""
    monkeypatch.setattr(packed, "attends", lambda q: False)
    monkeypatch.setattr(packed.flash, "serves", lambda *_: True)
    monkeypatch.setattr(packed.flash, "attend", attend_slowly)
    policies = [make_policy(architecture) for _ in range(2)]
    plain = scores_and_gradients(policies[0], data(length, None))
    assert can_pack(policies[1].model)
    laid = scores_and_gradients(policies[1], data(length, prefix))
    assert_same(laid, plain)
