"""What runs on an NVIDIA GPU alone; skipped where there is none, as in CI. `make gpu-test` runs what a GPU decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from models.test_native_layers import IDS, LAYERS, model_of, replaced
from sampling.test_decoder_speedups import STOP, with_prefix
from slow_attention import attend_slowly
from updating import TEMPERATURE, make_data, make_policy, make_targets, update_settings

from ppo_pipeline.compute import flash
from ppo_pipeline.compute.device import device_and_format, gradients_in_one_order
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.native_layers import use_native_layers
from ppo_pipeline.models.packed import can_pack
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.resume.snapshots import INTERVAL, Snapshots
from ppo_pipeline.sampling import graphs
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.optimizer import trained_parameters
from ppo_pipeline.training.ppo import PPO

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
GPU = torch.device("cuda")
NEW = 20


@pytest.fixture(autouse=True)
def as_stages_do(monkeypatch: pytest.MonkeyPatch) -> None:
    device_and_format("cuda", "bf16", "compute")
    monkeypatch.setenv(INTERVAL, "0")
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)


def spans_of(queries: list[int], before: list[int], used: list[int] | None = None) -> flash.Spans:
    keys = [q + b for q, b in zip(queries, before, strict=True)]
    begins = (torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32, device=GPU) for counts in (queries, keys))
    seen = None if used is None else torch.tensor(used, dtype=torch.int32, device=GPU)
    return flash.Spans(*begins, max(queries), max(keys), seen)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    wide = found.double().cpu()
    return float(torch.linalg.vector_norm(wide.detach() - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("size", [8, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_flash_kernels_attend_as_by_definition(size: int, dtype: torch.dtype) -> None:
    """Sequences with and without keys before them, and one without a token; forward and gradients."""
    spans = spans_of([3, 0, 17, 1, 40], [0, 0, 9, 30, 11])
    torch.manual_seed(0)
    shapes = ((61, 6, size), (111, 2, size), (111, 2, size))
    inputs = [torch.randn(shape, device=GPU).to(dtype).requires_grad_() for shape in shapes]
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    out, wanted = flash.attend(*inputs, spans, 0.3), attend_slowly(*exact, spans, 0.3)
    grad = torch.randn(61, 6, size, device=GPU).to(dtype)
    found = [out, *torch.autograd.grad(out, inputs, grad)]
    for one, other in zip(found, [wanted, *torch.autograd.grad(wanted, exact, grad.double().cpu())], strict=True):
        assert error(one, other.detach()) < 0.01


def test_a_step_sees_as_many_keys_as_it_is_told() -> None:
    spans = spans_of([1] * 5, [63] * 5, used=[1, 64, 7, 33, 50])
    torch.manual_seed(0)
    q = torch.randn(5, 6, 64, device=GPU).bfloat16()
    k, v = (torch.randn(5 * 64, 2, 64, device=GPU).bfloat16() for _ in range(2))
    found = flash.attend(q, k, v, spans, 0.2)
    assert error(found, attend_slowly(q.double().cpu(), k.double().cpu(), v.double().cpu(), spans, 0.2)) < 0.01
    k.view(5, 64, 2, 64)[0, 1:] = torch.nan  # what lies behind is not looked at
    assert torch.equal(flash.attend(q, k, v, spans, 0.2), found)


@pytest.mark.parametrize("how", ["flash", "masked bf16", "masked fp32", "causal bf16"])
def test_attention_gives_the_same_gradients_each_time(how: str) -> None:
    """Of sequences so long that the kernels would add up parts of them as they come."""
    torch.manual_seed(0)
    dtype = torch.float32 if "fp32" in how else torch.bfloat16
    length, heads = 4096, 2
    inputs = [torch.randn(1, heads, length, 64, device=GPU).to(dtype).requires_grad_() for _ in range(3)]
    mask = torch.ones(length, length, dtype=torch.bool, device=GPU).tril() if "masked" in how else None
    grad = torch.randn(1, heads, length, 64, device=GPU).to(dtype)

    def gradients() -> list[torch.Tensor]:
        if how == "flash":
            rows = [x[0].transpose(0, 1) for x in inputs]
            out = flash.attend(*rows, spans_of([length], [0]), 0.1).transpose(0, 1)[None]
        else:
            attend = torch.nn.functional.scaled_dot_product_attention
            out = gradients_in_one_order(attend(*inputs, attn_mask=mask, is_causal=mask is None))
        return list(torch.autograd.grad(out, inputs, grad))

    first = gradients()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, gradients(), strict=True))
    assert torch.get_deterministic_debug_mode() == 1, "the mode is as it was"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_layers_of_fewer_kernels_give_what_the_plain_ones_do(kind: str, dtype: torch.dtype) -> None:
    """Logits and the gradient by the embeddings, against the model in fp32 on a CPU: no further off than the plain."""
    exact, plain, fast = (model_of(kind) for _ in range(3))
    fast, plain = (model.to(GPU, dtype) for model in (fast, plain))
    use_native_layers(fast)
    assert replaced(fast)["Attention"] == LAYERS and replaced(fast)["Norm"] >= 2 * LAYERS + 1
    far = []
    for model in (fast, plain):
        found = []
        for each in (model, exact):
            embedded = each.get_input_embeddings()(IDS.to(each.device)).detach().requires_grad_()
            logits = each(inputs_embeds=embedded).logits
            weights = torch.sin(torch.arange(logits.numel(), dtype=torch.float64)).view(logits.shape)
            (logits * weights.to(logits)).sum().backward()
            found.append((logits.detach(), embedded.grad))
        far.append([error(one, other.double().cpu()) for one, other in zip(*found, strict=True)])
    limit = 1e-5 if dtype == torch.float32 else 0.0
    assert all(ours < max(1.5 * theirs, limit) for ours, theirs in zip(*far, strict=True)), far


def requests(prefix: int, sampled: bool = True, samples: int = 3) -> list[Request]:
    return [
        Request(p, uniforms(0, f"{i}-{k}", NEW) if sampled else None)
        for i, p in enumerate(with_prefix(prefix, count=9))
        for k in range(samples)
    ]


def decoder(model: Any, slots: int = 8, trees: bool = True) -> Decoder:
    return Decoder(model, [STOP, *range(0, 256, 30)], NEW, 0.9, slots, trees=trees)


def bf16(architecture: str) -> Any:
    return tiny_model(architecture).bfloat16().to(GPU)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[graphs.StepGraphs]:
    """Return a list to which each StepGraphs is added as it is made."""
    made: list[graphs.StepGraphs] = []
    keep = graphs.StepGraphs.__init__
    monkeypatch.setattr(graphs.StepGraphs, "__init__", lambda self, *a: (made.append(self), keep(self, *a))[1])
    return made


@pytest.mark.parametrize("prefix", [0, 20])
@pytest.mark.parametrize("kind", ["flash", "masked", "fp32", "fewer kernels"])
def test_graphs_give_the_bits_of_the_steps_that_they_stand_for(
    architecture: str, kind: str, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trees = bf16(architecture) if kind != "fp32" else tiny_model(architecture).to(GPU), kind != "masked"
    if kind == "fewer kernels":
        use_native_layers(model)
    by_graphs = decoder(model, trees=trees)
    assert by_graphs.by_flash == (kind in ("flash", "fewer kernels"))
    made = noted(monkeypatch)
    found = by_graphs.decode(requests(prefix))
    assert all(each.captured and each.can_capture for each in made)
    monkeypatch.setattr(graphs, "PLAIN_STEPS", 10**9)
    assert decoder(model, trees=trees).decode(requests(prefix)) == found
    assert not made[-1].captured and len(made) == 2
    ends = {response.finish_reason for response in found}
    assert ends == {"stop", "length"}


def test_fp32_decodes_what_a_cpu_decodes(architecture: str) -> None:
    model = tiny_model(architecture)
    wanted = decoder(model).decode(requests(20))
    found = decoder(model.to(GPU)).decode(requests(20))
    alike = [one.ids == other.ids for one, other in zip(found, wanted, strict=True)]
    assert np.mean(alike) > 0.9, "tf32 is off; a text may part at a border"


def test_flash_and_masks_decode_alike_in_bf16(architecture: str) -> None:
    """Greedy, and of the first token alone: later ones part where two logits are nearly equal."""
    model = bf16(architecture)
    one, other = (decoder(model, trees=trees).decode(requests(20, sampled=False)) for trees in (True, False))
    firsts = [(a.logprobs[0], b.logprobs[0]) for a, b in zip(one, other, strict=True)]
    assert np.median([abs(a - b) for a, b in firsts]) < 0.05


def test_a_model_whose_step_waits_for_the_gpu_is_decoded_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bf16("llama")
    wanted = decoder(model).decode(requests(0))
    model.model.layers[0].register_forward_hook(lambda module, args, out: (out.sum().item(), out)[1])
    for _ in range(2):
        assert decoder(model).decode(requests(0)) == wanted
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.empty_cache()
    made = noted(monkeypatch)
    assert decoder(bf16("llama")).decode(requests(0)) == wanted
    assert made[0].captured, "another model's steps are captured in the same process"


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("prefix", [0, 20])
def test_stopped_anywhere_the_decoder_goes_on_to_the_same_bits(prefix: int, tmp_path: Path) -> None:
    model = bf16("llama")
    wanted = decoder(model).decode(requests(prefix))
    for stop in (2, 7, 15, 30):
        left = stop

        def step(tokens: int, done: int) -> None:
            nonlocal left
            left -= tokens > 0
            if not left:
                raise Killed

        snapshots = tmp_path / str(stop)
        with pytest.raises(Killed):
            decoder(model).decode(requests(prefix), step, Snapshots(snapshots, "rollout"))
        assert decoder(model).decode(requests(prefix), snapshots=Snapshots(snapshots, "rollout")) == wanted


def on_gpu(critic: str = "separate", tuning: str = "lora") -> Policy:
    policy = make_policy(critic=critic, tuning=tuning)
    models = [policy.model, *([policy.separate.model] if policy.separate else ())]
    for model in models:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        model.to(GPU)
    if policy.value_head is not None:
        policy.value_head.to(GPU)
    return policy


def laid() -> tuple[Sampled, Any]:
    plain = make_data(24)
    targets = make_targets(make_policy(critic="separate"), plain)
    return Sampled(plain.sample_ids, plain.prompts, plain.responses, packed=True, tree=True), targets


def update(tuning: str, tmp_path: Path | None = None, stop: int = 0) -> dict[str, torch.Tensor]:
    policy = on_gpu(tuning=tuning)
    assert can_pack(policy.model)
    from ppo_pipeline.training.optimizer import make_optimizer

    settings = update_settings(lr=0.001, minibatches=4)
    ppo = PPO(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, pad_id=0)
    left = stop

    def step(samples: int, tokens: int) -> None:
        nonlocal left
        left -= tokens > 0
        if stop and not left:
            raise Killed

    data, targets = laid()
    ppo.run(data, targets, ("seed", "r001"), step, Snapshots(tmp_path, "update") if tmp_path else None)
    assert ppo.optimizer.defaults["fused"]
    return {name: parameter.detach().cpu() for name, parameter in trained_parameters(policy).items()}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_an_update_gives_the_same_bits_each_time_and_after_a_kill(tuning: str, tmp_path: Path) -> None:
    wanted = update(tuning)
    with pytest.raises(Killed):
        update(tuning, tmp_path / "s", stop=3)
    for found in (update(tuning), update(tuning, tmp_path / "s")):
        assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_the_fused_step_is_the_plain_one() -> None:
    torch.manual_seed(0)
    start = [torch.randn(n, device=GPU) for n in (1000, 77)]
    moved = []
    for fused in (True, False):
        weights = [torch.nn.Parameter(w.clone()) for w in start]
        optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1, fused=fused, foreach=False)
        for step in range(5):
            for weight in weights:
                weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()
        moved.append([w.detach() for w in weights])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
