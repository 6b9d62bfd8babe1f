"""Small real models and tokenizers, made at test time."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CI"] = "true"  # no progress bars
# Two threads of a test wait for each other beside other tests: asleep, or each wait lasts a slice of the scheduler.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
LORA_TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
VOCABULARY = 261

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


LONGEST = ("test_killed.py", "test_dvc_installed.py", "test_ray_pool.py")


RARE = "PPO_PIPELINE_RARE_TESTS" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take minutes first, so that no process is left with one while the others have ended."""
    for item in items:
        if item.get_closest_marker("rare") and not RARE:
            item.add_marker(pytest.mark.skip(reason="takes long and rarely breaks: make rare-test"))
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def there_now(folder: Path, pattern: str) -> list[Path]:
    """Return what matches while another process writes; pathlib's own raises where a folder goes meanwhile."""
    return [Path(path) for path in glob(f"{folder}/{pattern}")]  # noqa: PTH207


def targets_of(architecture: str) -> list[str]:
    return LORA_TARGETS.get(architecture, LORA_TARGETS["llama"])


def write_letter_prompts(folder: Path, letters: str) -> None:
    """Write the committed settings' prompt file with a prompt per letter, every fourth held out."""
    from ruamel.yaml import YAML

    committed = YAML(typ="safe").load(Path(__file__).resolve().parents[1] / "params.yaml")
    lines = [
        {"prompt": f"Say {w}", "expected": w, "exact_case": False, "split": "heldout" if i % 4 == 3 else "train"}
        for i, w in enumerate(letters)
    ]
    (folder / committed["prompts"]["source"]).write_text("".join(json.dumps(line) + "\n" for line in lines))


def tell_apart(params: Any) -> None:
    """Let length count in the committed reward: else all that a random model writes gets the same score."""
    params["reward"]["components"][1]["length_penalty"] = 0.04


def policy_settings(**changes: Any) -> Any:
    """Return the `policy` section: LoRA of rank 4 on llama's projections, a shared critic."""
    from ppo_pipeline.settings.sections import Policy

    values = {
        "start": "data/base", "tuning": "lora", "quantization": None, "critic": "shared", "value_head_init": "zero",
        "value_head_std": None, "rank": 4, "alpha": 8, "use_rslora": False, "dropout": 0.0,
        "target_modules": targets_of("llama"),
    }  # fmt: skip
    return Policy(**{**values, **changes})


def tiny_model(architecture: str, seed: int = 0, scale: float = 1.0, tied: bool = True) -> Any:
    """Return a random model of the architecture: 2 layers, 32 wide, grouped-query attention where it has it.

    tied: the language-model head is the token embeddings.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
    else:
        sizes = {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        }  # fmt: skip
    config = AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY, bos_token_id=256, eos_token_id=257, pad_token_id=257,
        tie_word_embeddings=tied, **sizes,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # the default initialisation is so small that all tokens are nearly alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0 * scale)
    return model.eval()


def lora_policy(model: Any, targets: list[str] | str, std: float = 0.3, seed: int = 1) -> Any:
    """Return a policy of LoRA of rank 4 on a model, as after training: B is not 0."""
    import torch

    from ppo_pipeline.models.lora import add_lora, init_lora
    from ppo_pipeline.models.policy import Policy

    layers = add_lora(model.requires_grad_(False), targets, 4, 8, 0.0)
    init_lora(layers, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_(std=std)
    return Policy(model, layers)


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a byte-level tokenizer: 256 bytes and a few special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = chat_template
    return fast


def save_tiny(
    folder: Path, architecture: str = "llama", chat_template: str | None = CHAT_TEMPLATE, tied: bool = True
) -> Path:
    """Write a tiny model with its tokenizer as a plain transformers folder."""
    tiny_model(architecture, tied=tied).save_pretrained(folder)
    tiny_tokenizer(chat_template).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_project_s_reward_functions() -> Iterator[None]:
    """Forget a project's reward functions after the test: the next one's have the same name."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "reward_functions"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a small project with two rounds, to be copied: dvc_project.Project.copy_of."""
    from dvc_project import project_that_ran

    own = tmp_path_factory.getbasetemp()
    return project_that_ran(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that starts a server; the waits between attempts are 1000 times shorter."""
    from reward_server import TOKEN, Server

    from ppo_pipeline.rewards import service_post

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(service_post, "WAIT_FACTOR", service_post.WAIT_FACTOR / 1000)
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    started: list[Any] = []

    def start(answer: Callable[..., Any]) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(params=["native", "torch"])
def either_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test twice: with the CPU kernels of this project, and without."""
    from ppo_pipeline.compute.native import library

    library.allow(request.param == "native")
    if request.param == "native" and library.kernels() is None:
        pytest.skip("no C compiler here")
    yield
    library.allow(True)
