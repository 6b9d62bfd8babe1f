"""What goes wrong with vLLM, or nearly: damaged policies, broken-off calls, little room, odd models."""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from served_models import (
    assert_same_draws,
    needs_vllm,
    opened,
    random_requests,
    save_adapter,
    save_served,
    served_adapter,
    served_base,
)

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.settings.sections import Vllm

pytestmark = needs_vllm
TESTS = Path(__file__).parent.parent
REQUESTS = random_requests()
PREFIX = "base_model.model.model.layers.1.self_attn.q_proj"


base = pytest.fixture(scope="module")(served_base)
adapter = pytest.fixture(scope="module")(served_adapter)


@pytest.fixture(scope="module")
def kept(base: Path, adapter: Path) -> Any:
    """Keep an engine, whose vLLM others of these tests share."""
    return opened("vllm", base, adapter)


def changed(adapter: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Return a copy of an adapter with other tensors, and no checksum of them, as PEFT writes it."""
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def without_a_layer(tensors: dict[str, torch.Tensor]) -> None:
    for part in ("lora_A", "lora_B"):
        del tensors[f"{PREFIX}.{part}.weight"]


def with_a_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 64)
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.ones(261, 4)


def with_embeddings(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.ones(4, 261)
    tensors["base_model.model.model.embed_tokens.lora_embedding_B"] = torch.ones(64, 4)


def cut_narrower(tensors: dict[str, torch.Tensor]) -> None:
    name = f"{PREFIX}.lora_A.weight"
    tensors[name] = tensors[name][:, :8].contiguous()


@pytest.mark.parametrize("change", [without_a_layer, with_a_head, with_embeddings, cut_narrower])
def test_an_adapter_that_vllm_would_serve_in_part_is_refused(
    base: Path, adapter: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    """vLLM leaves out in silence what finds no place, and takes what is too narrow."""
    with pytest.raises(PipelineError, match=r"missing or of another shape|unexpected tensor"):
        opened("vllm", base, changed(adapter, tmp_path / "policy", change))


def test_a_changed_bit_of_an_adapter_is_told(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "policy")
    file = tmp_path / "policy/adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(PipelineError, match="damaged"):
        opened("vllm", base, tmp_path / "policy")


def test_an_adapter_without_numbers_is_told(base: Path, kept: Any, adapter: Path, tmp_path: Path) -> None:
    broken = changed(adapter, tmp_path / "policy", lambda tensors: tensors[f"{PREFIX}.lora_B.weight"].fill_(torch.nan))
    with pytest.raises(PipelineError, match="logits that are no numbers"):
        opened("vllm", base, broken).generate(REQUESTS)


def test_an_adapter_of_a_model_without_lora_in_vllm_is_refused(tmp_path: Path) -> None:
    base = save_served(tmp_path / "base", "gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn"])
    with pytest.raises(PipelineError, match=r"vLLM cannot serve .*GPT2LMHeadModel does not support LoRA"):
        opened("vllm", base, adapter)


def test_pickled_weights_are_not_loaded(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    (tmp_path / "base/model.safetensors").unlink()
    torch.save(tensors, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(PipelineError, match="vLLM cannot serve this model here"):
        opened("vllm", tmp_path / "base")


def test_a_model_that_vllm_fails_over_at_last_is_told(tmp_path: Path) -> None:
    """Its attention on CPUs has no heads of 8, which it notices at the first tokens."""
    engine = opened("vllm", save_served(tmp_path / "base", hidden_size=16, head_dim=8))
    with pytest.raises(PipelineError, match=r"vLLM cannot answer .*set the engine to own: .*head_dim=8"):
        engine.generate(REQUESTS)


def test_a_response_cut_short_of_its_limit_is_no_response(base: Path) -> None:
    """As where a prompt is longer than was said: vLLM has room for no more."""
    with pytest.raises(RuntimeError, match="other tokens than were drawn"):
        opened("vllm", base, max_prompt_tokens=10).generate(random_requests(4, 15, 29))


def test_a_call_that_is_broken_off_leaves_nothing_behind(base: Path, adapter: Path) -> None:
    class CtrlC:
        def advanced(self, counter: Counter, done: int) -> None:
            raise KeyboardInterrupt

    engine = opened("vllm", base, adapter, batch_size=4)
    counter = Counter(len(REQUESTS))
    counter.watchers = [CtrlC()]
    with pytest.raises(KeyboardInterrupt):
        engine.generate(REQUESTS[::-1], counter)
    assert engine.served.llm is None, "its memory is given back at once"
    with pytest.raises(RuntimeError, match="broken off"):
        engine.generate(REQUESTS)
    again = opened("vllm", base, adapter, batch_size=4)
    assert_same_draws(again.generate(REQUESTS), opened("own", base, adapter).generate(REQUESTS))


def test_an_engine_outlives_the_one_before_it(base: Path, adapter: Path) -> None:
    """vLLM keeps some of its state by process: what is closed must not take it from another."""
    first = opened("vllm", base, batch_size=3)
    second = opened("vllm", base, adapter, batch_size=3)
    assert first.served is not second.served, "the first one has no room for an adapter"
    del first
    assert_same_draws(second.generate(REQUESTS), opened("own", base, adapter).generate(REQUESTS))


@pytest.mark.parametrize(
    ("less", "requests"),
    [
        ({"max_num_batched_tokens": 16}, random_requests(16, 5, 60)),  # a prompt is read in parts
        ({"kv_cache_memory_bytes": 8 << 16}, random_requests(16, 110, 128)),  # 8 blocks of 128 tokens, two by sequence
    ],
)
def test_little_room_changes_no_draw(
    base: Path, monkeypatch: pytest.MonkeyPatch, less: dict[str, int], requests: list[Any]
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    import vllm
    from vllm.v1.core.sched.scheduler import Scheduler

    real, preempt, preempted = vllm.LLM, Scheduler._preempt_request, []
    monkeypatch.setattr(vllm, "LLM", lambda **arguments: real(**{**arguments, **less}))
    monkeypatch.setattr(
        Scheduler, "_preempt_request", lambda *each, **more: (preempted.append(each), preempt(*each, **more))
    )
    found = opened("vllm", base, temperature=0.9).generate(requests)
    assert bool(preempted) == ("kv_cache_memory_bytes" in less)
    assert_same_draws(found, opened("own", base, temperature=0.9).generate(requests))


@pytest.mark.parametrize(
    ("architecture", "tied", "sizes", "lora"),
    [
        ("gpt2", True, {}, None),
        ("qwen2", False, {"vocab_size": 320}, {"rank": 3, "use_rslora": True}),  # its vocabulary is padded
        ("mistral", False, {"sliding_window": 80}, {"rank": 9, "target_modules": r".*layers\.1\.mlp\.(up|down)_proj"}),
    ],
)
def test_odd_models_draw_as_with_our_decoder(
    tmp_path: Path, architecture: str, tied: bool, sizes: dict[str, int], lora: dict[str, Any] | None
) -> None:
    base = save_served(tmp_path / "base", architecture, tied, **sizes)
    own = {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 3.0, "eos_token_id": [*range(9)]}
    (base / "generation_config.json").write_text(json.dumps(own))  # of these the end tokens alone act
    policy = None if lora is None else save_adapter(base, tmp_path / "policy", **lora)
    expected = opened("own", base, policy).generate(REQUESTS)
    assert {r.finish_reason for r in expected} == {"stop", "length"}
    assert_same_draws(opened("vllm", base, policy).generate(REQUESTS), expected)


def test_two_processes_share_a_model(base: Path, adapter: Path) -> None:
    """Tensor-parallel, on GPUs one each; the draws come back from the first of them."""
    how = {"vllm": Vllm(tensor_parallel=2, gpu_memory=0.9)}
    found = opened("vllm", base, adapter, **how).generate(REQUESTS)
    assert_same_draws(found, opened("own", base, adapter).generate(REQUESTS))


def test_the_first_engine_of_a_process_gives_its_memory_back(base: Path) -> None:
    """In a process of its own: what vLLM keeps at its import must not keep the engine that imports it."""
    program = f"""
import sys
sys.path[:0] = {[str(TESTS.parent), str(TESTS)]!r}
from pathlib import Path
from sampling.test_vllm_faults import given_back
given_back(Path({str(base)!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def given_back(base: Path) -> None:
    """Open an engine and drop it; then open one that the process ends with."""
    from ppo_pipeline.sampling.engines.vllm_engine.served import _in_use

    engine = opened("vllm", base)
    engine.generate(REQUESTS)
    del engine
    gc.collect()
    assert not [*_in_use.values()]
    global last
    last = opened("vllm", base)
