"""The sections of params.yaml: every setting with its type, range, default-free meaning.

One class per section; a section is named after the stage that it steers. `reward` is in
reward_sections.py, `advantage` and `update` in learning_sections.py.
No setting has a hidden default: params.yaml holds them all, so that a reader of that file (and of dvc.lock) sees
what a run did.
"""

import datetime
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from .as_before import AsBefore

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1)]
Above1 = Annotated[float, Field(gt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


def _pattern_is_one(targets: list[str] | str) -> list[str] | str:
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression ({error})") from None
    return targets


TargetModules = Annotated[list[str] | str, Field(min_length=1), AfterValidator(_pattern_is_one)]


class Section(BaseModel):
    """A group of settings: unknown names, missing names and other types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True, allow_inf_nan=False)


class Base(Section):
    """Where the base model comes from."""

    model: str = Field(description="Packaged model's name, hub id, local folder, or path of a .gguf file", min_length=1)
    revision: str | None = Field(description="Commit or tag of a hub model; null for its default branch")
    trust_remote_code: bool = Field(description="Run Python code that a hub model brings along")


class Prompts(Section):
    """Which prompts there are, and how they are shown to the model."""

    source: str = Field(
        description="JSONL, JSON, CSV, TSV or Parquet file, or a folder of such files; a folder that save_to_disk of "
        "Hugging Face's datasets wrote; or data/datasets/NAME.parquet, an entry of `datasets`",
        min_length=1,
    )
    system: str | None = Field(
        description="System prompt put before each conversation that has none, of its own or in a column `system`; "
        "null for none"
    )
    heldout_fraction: UnitInterval = Field(
        description="Share held out of training, where the source has no split column; by hash of the prompt"
    )
    chat_template: Literal["auto", "plain"] = Field(
        description="auto: the model's own chat template, plain text where it has none; plain: always plain text"
    )
    continue_final_message: Annotated[bool, AsBefore(False)] = Field(
        description="true: where an assistant's message comes last, the model goes on with it; false: such a prompt is "
        "an error"
    )
    date: Annotated[str | None, AsBefore(None)] = Field(
        description="Today's date to a chat template that asks for it, as YYYY-MM-DD in quotes; null: such a template "
        "is an error"
    )
    special_tokens: Annotated[Literal["text", "tokens"], AsBefore("tokens")] = Field(
        description="What the text of a special token is within a prompt's own words: text as any other, or the token"
    )

    @field_validator("system")
    @classmethod
    def _system_says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("write a system prompt, or null for none")
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _date_is_one(cls, value: object) -> object:
        if isinstance(value, datetime.date):
            raise ValueError("YAML reads it as a date: write it in quotes")
        if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("must be a date of the form YYYY-MM-DD")
        if isinstance(value, str):
            datetime.date.fromisoformat(value)
        return value


class Policy(Section):
    """What is trained. LoRA's settings have no effect where the whole model is."""

    start: Annotated[str, AsBefore("data/base")] = Field(
        description="Folder of the model that r000 starts from and that the KL is measured to: data/base, or "
        "data/sft/NAME, what `sft` makes of it",
        pattern=r"^data/(base|sft/[A-Za-z][A-Za-z0-9_-]*)$",
    )
    tuning: Annotated[Literal["lora", "full"], AsBefore("lora")] = Field(
        description="lora: an adapter beside the frozen base; full: all of the model's weights"
    )
    quantization: Annotated[Literal["nf4"] | None, AsBefore(None)] = Field(
        description="nf4: the frozen base's linear layers, all but the head, are kept in 4 bits (QLoRA, "
        "arXiv:2305.14314): blocks of 64 weights, their scales quantized too, by bitsandbytes; policy, reference, "
        "sampler and critic are that base alike (memory.md). null: none"
    )
    critic: Annotated[Literal["shared", "separate", "none"], AsBefore("shared")] = Field(
        description="shared: a value head on the policy's last hidden state; separate: on a backbone of its own (with "
        "LoRA an adapter of its own over the same base, else a second model); none: for estimators without values"
    )
    value_head_init: Annotated[Literal["zero", "normal", "uniform"], AsBefore("zero")] = Field(
        description="First weights of the value head: zero, so that every value is 0 at first; normal with "
        "`value_head_std`, bias 0; uniform within 1/sqrt(hidden width), bias too, as torch's Linear"
    )
    value_head_std: Annotated[Positive | None, AsBefore(None)] = Field(
        description="Standard deviation with value_head_init: normal. null with any other"
    )
    rank: Count = Field(description="LoRA rank r")
    alpha: Positive = Field(description="LoRA alpha: the update is scaled by alpha / rank")
    use_rslora: Annotated[bool, AsBefore(False)] = Field(
        description="Rank-stabilised LoRA: scaled by alpha / sqrt(rank) instead (Kalajdzievski 2023)"
    )
    dropout: Below1 = Field(description="Dropout on LoRA's input; above 0 the first ratio is no longer 1")
    target_modules: TargetModules = Field(
        description="Names of the linear or Conv1D modules that get LoRA, each matching the end of a module's path; or "
        "one text: a regular expression for the whole path, or all-linear for all but the language-model head and "
        "layers that LoRA has no place on (some routers, parts that text does not reach), which `init` tells"
    )

    @model_validator(mode="after")
    def _std_belongs_to_normal(self) -> "Policy":
        if (self.value_head_init == "normal") != (self.value_head_std is not None):
            raise ValueError(
                "value_head_init: normal needs a value_head_std, such as 0.01, and every other needs value_head_std: "
                "null"
            )
        return self


class Compute(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto takes cuda, then mps, then cpu")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        description="Dtype of the base model; auto takes bf16 where the machine computes it fast, else fp32. "
        "fp16 scales the update's loss; for GPUs without bf16"
    )
    head: Annotated[Literal["auto", "fp32"], AsBefore("auto")] = Field(
        description="Dtype that the language-model head computes logits in, for sampling and training alike: auto "
        "takes the base model's; fp32 is closer to exact logprobs and slower. Engine own alone"
    )
    threads: int = Field(
        description="CPU threads; 0: torch's choice, and fewer while other processes want the processors, where that "
        "changes no bit",
        ge=0,
    )
    kernels: Annotated[Literal["auto", "torch"], AsBefore("torch")] = Field(
        description="What CPUs compute between matrix products: auto takes the project's own kernels, compiled at "
        "their first use, where there is a C compiler, and torch's operations elsewhere; torch takes these always. The "
        "two round differently"
    )
    batch_invariant: Annotated[bool, AsBefore(False)] = Field(
        description="Sample with the training forward's own products, attention and LoRA: the sampler's log "
        "probabilities are then exactly the training forward's, and no batch size changes a text; slower. For CPUs "
        "with the project's own kernels, and Llama-like models"
    )

    @model_validator(mode="after")
    def _kernels_are_there(self) -> "Compute":
        if self.batch_invariant and (self.kernels == "torch" or self.device in ("cuda", "mps")):
            raise ValueError("batch_invariant needs the CPU kernels: kernels auto and device auto or cpu")
        return self


class ComputeAnywhere(Compute):
    """The machine, and where on it or on a cluster the heavy stages run: no output depends on that."""

    engine: Annotated[Literal["local", "ray"], AsBefore("local")] = Field(
        description="local: in the stage's own process; ray: by workers on Ray, over this machine or a cluster "
        "(cluster.md). PPO_PIPELINE_ENGINE, where it is set, takes its place"
    )
    workers: Annotated[Count, AsBefore(1)] = Field(
        description="Processes of engine ray, one to a GPU where there are GPUs. PPO_PIPELINE_WORKERS, where it is "
        "set, takes its place"
    )

    def that_decides(self) -> Compute:
        """Return the settings that outputs depend on."""
        return Compute(**self.model_dump(exclude={"engine", "workers"}))


class Vllm(Section):
    """How engine vllm runs, in `rollout` and `evaluate`; no effect with engine own."""

    tensor_parallel: Annotated[Count, AsBefore(1)] = Field(description="GPUs that one vLLM spreads the model over")
    gpu_memory: Annotated[Share, AsBefore(0.9)] = Field(
        description="Share of each GPU's memory that vLLM takes for weights and cache"
    )


EngineName = Literal["own", "vllm"]
SharePrefix = bool | Literal["tree"]


class Rollout(Section):
    """Sampling of responses."""

    engine: Annotated[EngineName, AsBefore("own")] = Field(
        description="What samples: own, the project's decoder, or vllm, where it is installed (vllm.md). They draw "
        "from the same random numbers, and round differently"
    )
    prompts_per_round: Count = Field(description="Training prompts sampled in a round")
    prompt_choice: Annotated[Literal["shuffle", "informative"], AsBefore("shuffle")] = Field(
        description="shuffle: each pass over the prompts is shuffled and cut into rounds; informative: each round "
        "draws its prompts anew, by weight sqrt(p(1-p)) + 0.05, p being the share of right answers to it so far"
    )
    samples_per_prompt: Count = Field(description="Responses to each prompt")
    max_prompt_tokens: Count = Field(description="A longer prompt is an error")
    max_new_tokens: Count = Field(description="A response is cut at this length")
    temperature: float = Field(
        description="Logits are divided by it, in sampling and in every logprob; for the likeliest token: greedy",
        ge=1e-4,
    )
    top_k: Annotated[Count | None, AsBefore(None)] = Field(description="Sample from the k likeliest tokens; null: all")
    top_p: Annotated[Share | None, AsBefore(None)] = Field(
        description="Sample from the fewest tokens, likeliest first, that hold this share of what top_k left; null: all"
    )
    min_p: Annotated[Share | None, AsBefore(None)] = Field(
        description="Tokens less likely than this share of the likeliest go; null: none"
    )
    greedy: Annotated[bool, AsBefore(False)] = Field(description="Take the likeliest token instead of sampling")
    stop_tokens: Annotated[list[str], AsBefore([])] = Field(
        description="Tokens that end a response besides the model's own end tokens, each a single token of the "
        "tokenizer; here and in `evaluate`. The texts that rewards see end before it"
    )
    shard_samples: Annotated[int, AsBefore(0)] = Field(
        description="Samples in a shard, which one worker decodes at a time; 0: all in one. Another number can change "
        "rounding",
        ge=0,
    )
    batch_size: Count = Field(description="Sequences decoded at a time")

    @model_validator(mode="after")
    def _greedy_is_alone(self) -> "Rollout":
        if self.greedy and (self.top_k, self.top_p, self.min_p) != (None, None, None):
            raise ValueError("greedy takes the likeliest token; set top_k, top_p and min_p to null")
        if self.greedy and self.samples_per_prompt > 1:
            raise ValueError("greedy makes all samples of a prompt the same; set samples_per_prompt to 1")
        return self


class Reference(Section):
    """The training forward over sampled responses: policy and reference logprobs, values."""

    batch_tokens: Count = Field(description="Tokens of a batch; padding counts, which only few architectures need")
    share_prefix: Annotated[SharePrefix, AsBefore(False)] = Field(
        description="What all prompts of the round start with (chat template, system prompt) runs once a batch, here "
        "and in `update`; tree: what any prompts of a batch start with (an example, in a group the whole prompt)"
    )


class Evaluate(Section):
    """Answers to held-out prompts: greedy ones, and sampled ones besides."""

    engine: Annotated[EngineName, AsBefore("own")] = Field(description="What answers, as in `rollout`")
    max_prompts: int = Field(description="Held-out prompts answered, the first ones; 0 for all", ge=0)
    samples_per_prompt: Annotated[int, AsBefore(0)] = Field(
        description="Answers sampled to each prompt besides the greedy one, at the rollout's temperature, top_k, top_p "
        "and min_p: for eval/sampled_scores, pass@k and majority; 0: none",
        ge=0,
    )
    max_new_tokens: Count = Field(description="An answer is cut at this length")
    shard_samples: Annotated[int, AsBefore(0)] = Field(
        description="Answers in a shard, which one worker decodes at a time; 0: all in one. Another number can change "
        "rounding",
        ge=0,
    )
    batch_size: Count = Field(description="Sequences decoded at a time")
