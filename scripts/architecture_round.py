"""One round of the real stages with a tiny model, and what came out compared with plain transformers and PEFT."""

import json
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from tiny_models import POSITIONS, byte_tokenizer, tiny_model

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.loading import text_config
from ppo_pipeline.project.stages import OF_A_ROUND, STAGES
from stages.__main__ import main

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = ("source", "settings", "base", "prompts", "init", *OF_A_ROUND)
TOLERANCE = 1e-3  # nats, and of logits by their spread; fp32, so that rounding is far below
LANGUAGE = r".*\b(language_model|text_model|decoder)\..*"  # of a model that sees images too
NEW, LONG = 12, 130  # LONG: a prompt beyond every window and every border of a tiny model
PROMPTS = (
    "a",
    "Name a colour",
    "Which number is bigger, 47 or 18? Answer with it",
    "Say b now",
    "cc",
    "opposite of rich",
)
HELDOUT = ("Answer in a word: x", "Answer in a word: what is it", "Answer in a word: yes")  # they start alike


@dataclass
class Outcome:
    """How a type fared: right, refused, wrong, traceback or cannot be built tiny.

    stage: where it ended. text: the error or the numbers. long: right or the refusal of prompts beyond its windows.
    """

    kind: str
    result: str
    stage: str = ""
    text: str = ""
    long: str = ""


class Wrong(Exception):
    """What came out differs from plain transformers or PEFT."""


def warm_up() -> None:
    """Import what every type needs: processes forked off later have it."""
    from peft import PeftModel  # noqa: F401

    tiny_model("llama")
    byte_tokenizer()


def try_architecture(kind: str, folder: Path) -> Outcome:
    """Build a tiny model of the type in `folder`, run a round with it, and tell how that went."""
    try:
        model = tiny_model(kind)
        model(input_ids=torch.arange(9)[None], use_cache=False)  # sizes fit
        model.save_pretrained(folder / "model")
        byte_tokenizer().save_pretrained(folder / "model")
    except Exception as error:
        return Outcome(kind, "cannot be built tiny", "build", told(error))
    composite = text_config(model) is not model.config
    write_project(folder, LANGUAGE if composite else "all-linear")
    stage = ""
    try:
        for stage in RUN:
            run_stage(folder, stage)
        stage = "decoder"
        check_responses(folder)
        stage = "ratio"
        check_ratio(folder)
        stage = "adapter"
        check_adapter(folder)
    except PipelineError as error:
        lines = error.format_message().splitlines()
        return Outcome(kind, "refused" if len(lines) == 1 else "traceback", stage, " / ".join(lines))
    except Wrong as error:
        return Outcome(kind, "wrong", stage, str(error))
    except Exception as error:
        return Outcome(kind, "traceback", stage, told(error))
    try:
        check_long(folder)
    except PipelineError as error:
        return Outcome(kind, "right", long=error.format_message())
    except Wrong as error:
        return Outcome(kind, "wrong", "long prompts", str(error))
    except Exception as error:
        return Outcome(kind, "traceback", "long prompts", told(error))
    return Outcome(kind, "right", long="right")


def told(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def write_project(folder: Path, targets: str) -> None:
    """Write prompts and params.yaml: the committed settings, small, on the CPU in fp32."""
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params/skills.yaml")
    params["base"]["model"] = str(folder / "model")
    params["sources"] = {"base": str(folder / "model")}
    params["prompts"]["source"] = "prompts.jsonl"
    params["policy"]["target_modules"] = targets
    params["compute"].update(device="cpu", dtype="fp32", threads=1)
    params["rollout"].update(prompts_per_round=len(PROMPTS), max_new_tokens=NEW, batch_size=4, temperature=1.0)
    params["update"].update(epochs=1, minibatches=2)
    params["evaluate"].update(max_new_tokens=NEW)
    params["rounds"] = {"r001": {"parent": "r000"}}
    yaml.dump(params, folder / "params.yaml")
    lines = [{"prompt": p, "expected": "x", "split": "train"} for p in PROMPTS]
    lines += [{"prompt": p, "expected": "x", "split": "heldout"} for p in HELDOUT]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_stage(folder: Path, stage: str) -> None:
    """Run a stage in this process, of the base model or of round r001 where it takes one."""
    given: list[str] = {"": [], "SOURCE": ["base"], "ROUND": ["r001"]}[STAGES[stage].takes]
    with chdir(folder):
        main([stage, *given], standalone_mode=False)


def plain_model(folder: Path) -> Any:
    """Return the base model by transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder / "data/base", dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).eval()


@torch.no_grad()
def plain_logprobs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Return the log probabilities (len(response), V) of each response token by forwards of that sequence alone."""
    rows = []
    for length in range(
        len(prompt), len(prompt) + len(response)
    ):  # a model may look ahead: give it no more than it had
        ids = torch.tensor([(prompt + response)[:length]])
        rows.append(torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, -1].float(), -1))
    return torch.stack(rows)


def compare(model: Any, prompt: list[int], ids: list[int], logprobs: list[float], what: str) -> None:
    """Raise Wrong unless the sampled ids have these log probabilities under the plain model."""
    expected = plain_logprobs(model, prompt, ids).gather(1, torch.tensor(ids)[:, None])[:, 0]
    error = (torch.tensor(logprobs) - expected).abs().max().item()
    if not error <= TOLERANCE:
        raise Wrong(f"{what}: logprobs differ by up to {error:.2g} nats")


def check_responses(folder: Path) -> None:
    """Compare the round's sampled responses, and greedy ones to prompts that start alike."""
    import pyarrow.parquet as pq

    model = plain_model(folder)
    table = pq.read_table(folder / "data/rounds/r001/rollouts.parquet")
    names = ("prompt_ids", "response_ids", "rollout_logprobs")
    for prompt, ids, logprobs in zip(*(table.column(n).to_pylist() for n in names), strict=True):
        compare(model, prompt, ids, logprobs, "sampled")
    decode_and_compare(folder, model, [list(p.encode()) for p in HELDOUT], "greedy behind a common start")


def check_long(folder: Path) -> None:
    """Prompts beyond every window of the model: right, or refused."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (LONG, LONG - 7, 5)]
    decode_and_compare(folder, plain_model(folder), prompts, "greedy behind a long prompt")


def decode_and_compare(folder: Path, plain: Any, prompts: list[list[int]], what: str) -> None:
    """Decode greedily as the stage `evaluate` does, and compare."""
    from ppo_pipeline.models.acceleration import accelerate_model
    from ppo_pipeline.models.loading import load_model
    from ppo_pipeline.sampling.decoder import Decoder, Request

    model = load_model(folder / "data/base", torch.device("cpu"), torch.float32)
    accelerate_model(model)
    found = Decoder(model, [], NEW, 1.0, 2).decode([Request(p, None) for p in prompts])
    for prompt, response in zip(prompts, found, strict=True):
        compare(plain, prompt, response.ids, response.logprobs, what)


def check_ratio(folder: Path) -> None:
    """The first ratio of the update is 1, and the round's logprobs are those of the plain model."""
    numbers: dict[str, Any] = {}
    for path in (folder / "metrics/stages/r001").glob("*.json"):
        numbers |= json.loads(path.read_text())
    for name in ("val/ratio_first_max_deviation", "val/rollout_logprob_difference_max", "objective/kl"):
        if name in numbers and not abs(numbers[name]) <= TOLERANCE:
            raise Wrong(f"{name} is {numbers[name]:.2g}")


@torch.no_grad()
def check_adapter(folder: Path) -> None:
    """PEFT reads the trained adapter and gives the logits of the policy as it is decoded with."""
    from peft import PeftModel

    from ppo_pipeline.models.checkpoint import load_merged

    policy = folder / "data/rounds/r001/policy"
    ids = torch.randint(0, 256, (2, min(24, POSITIONS)), generator=torch.Generator().manual_seed(1))
    plain = plain_model(folder)
    before = plain(input_ids=ids, use_cache=False).logits
    theirs = PeftModel.from_pretrained(plain, policy).eval()(input_ids=ids, use_cache=False).logits
    ours = load_merged(folder / "data/base", policy, torch.device("cpu"), torch.float32)
    error = (ours(input_ids=ids, use_cache=False).logits - theirs).abs().max() / before.std()
    moved = (theirs - before).abs().max() / before.std()
    if not error <= TOLERANCE:
        raise Wrong(
            f"PEFT's logits differ by {error.item():.2g} of their spread (training moved them by {moved.item():.2g})"
        )
