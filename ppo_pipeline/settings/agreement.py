"""Settings of different sections that exclude each other: one sentence each, which says the cure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .estimators import learns_values, misfit

if TYPE_CHECKING:
    from .params import Params


def disagreements(p: "Params") -> Iterator[str]:
    """Yield what does not go together in params.yaml; nothing where all does."""
    yield from _of_the_estimator(p)
    yield from _of_names(p)
    yield from _of_trained_rewards(p)
    yield from _of_full_tuning(p)
    yield from _of_quantization(p)
    yield from _of_vllm(p)
    yield from _of_samples(p)
    yield from _of_right_answers(p)
    yield from _of_the_critic_s_warmup(p)


def _of_the_estimator(p: "Params") -> Iterator[str]:
    smallest = p.samples // p.update.minibatches if p.whiten_minibatches else None
    text = misfit(p.advantage.estimator, p.policy.critic, p.rollout.samples_per_prompt, smallest)
    if text is not None:
        yield text


def _of_names(p: "Params") -> Iterator[str]:
    name = p.policy.start.removeprefix("data/sft/")
    if name != p.policy.start and name not in p.sft:
        yield f"policy.start: {p.policy.start}: no '{name}' in `sft`; write its settings there, or set it to data/base"
    for section in ("sft", "reward_model"):
        for name in getattr(p, section):
            if name == "r000" or name in p.all_rounds:  # DVC calls the stages of both by it
                yield f"{section}.{name} has a round's name; give it another"
    fetched = [f"data/datasets/{name}.parquet" for name in p.datasets]
    for source in p.read_files:
        if source not in (*fetched, *p.data_files):
            yield f"no entry of `datasets` makes the source '{source}'; they make: {', '.join(fetched) or 'none'}"
    for name, entry in p.reward_model.items():
        if entry.preferences not in p.preferences:
            yield f"reward_model.{name}.preferences: no '{entry.preferences}' in `preferences`; name one that is there"


def _of_trained_rewards(p: "Params") -> Iterator[str]:
    """Compare reward components with the entries of `reward_model` whose models they load."""
    for component in p.reward.components:
        folder = (component.loaded_model() or "").removeprefix("./").rstrip("/")
        name, _, member = folder.removeprefix("data/reward_model/").partition("/")
        if not folder.startswith("data/reward_model/"):
            continue
        where = f"reward '{component.name}'"
        if name not in p.reward_model:
            yield f"{where}: model: no '{name}' in `reward_model`; write its settings there, or load another folder"
            continue
        entry = p.reward_model[name]
        if component.input != entry.input:
            yield f"{where}: input: {component.input}, but reward_model.{name} learns by {entry.input}; let both be one"
        several = entry.members > 1 and not member
        if several != (component.ensemble is not None):
            cure = "mean or worst" if several else "null"
            yield f"{where}: ensemble: reward_model.{name} has {entry.members} members; set it to {cure}"


def _of_full_tuning(p: "Params") -> Iterator[str]:
    for section in ("sft", "reward_model"):
        for name, entry in getattr(p, section).items():
            if entry.tuning == "full" and p.compute.dtype == "fp16":
                yield f"{section}.{name}.tuning full trains in bf16 or fp32; set compute.dtype to one of them"
    if p.policy.tuning != "full":
        return
    if p.compute.dtype == "fp16":
        yield "policy.tuning full trains in bf16 or fp32; set compute.dtype to one of them"
    if p.update.average_rounds > 1:
        yield "update.average_rounds averages LoRA adapters; with policy.tuning full set it to 1"


def _of_quantization(p: "Params") -> Iterator[str]:
    if p.policy.quantization is None:
        return
    what = f"policy.quantization: {p.policy.quantization}"
    if p.policy.tuning == "full":
        yield f"{what} freezes the base, and policy.tuning full trains it; set quantization to null, or tuning to lora"
    for name in ("rollout", "evaluate"):
        if getattr(p, name).engine == "vllm":
            yield f"{what}: engine vllm would sample from the base in its own format; set {name}.engine to own"
    if p.compute.device == "mps":
        yield f"{what} is not there for compute.device mps; set it to null"


def _of_vllm(p: "Params") -> Iterator[str]:
    asks = [name for name in ("rollout", "evaluate") if getattr(p, name).engine == "vllm"]
    if not asks:
        return
    engine = f"{asks[0]}.engine: vllm"
    if p.compute.batch_invariant:
        yield (
            f"{engine} has not the training forward's own products, which compute.batch_invariant samples with; set "
            "that to false, or the engine to own"
        )
    if p.compute.head == "fp32":
        yield f"{engine} computes the head in the model's dtype; set compute.head to auto, or the engine to own"
    if p.compute.device == "mps":
        yield f"{engine} is not there for compute.device mps; set it to own"


def _of_samples(p: "Params") -> Iterator[str]:
    if p.evaluate.samples_per_prompt and p.rollout.greedy:
        yield (
            "evaluate.samples_per_prompt: answers are drawn as in the rollout, and rollout.greedy draws none; set it "
            "to 0, or greedy to false"
        )
    if p.update.minibatches > p.samples:
        yield (
            f"update.minibatches: {p.update.minibatches} for {p.samples} samples a round; a minibatch without a sample "
            "would make no step. Lower it, or sample more"
        )
    buffer, limit = p.advantage.overlong_buffer, p.rollout.max_new_tokens
    if buffer is not None and buffer > limit:
        yield (
            f"advantage.overlong_buffer: {buffer} tokens before the end of responses of at most "
            f"rollout.max_new_tokens = {limit}; lower it, or let them be longer"
        )
    horizon = p.advantage.kl_horizon
    if p.advantage.kl_target is not None and p.samples >= 5 * horizon:  # it moves by a fifth of samples / horizon
        yield (
            f"advantage.kl_horizon: {horizon} for {p.samples} samples a round lets kl_coef fall to 0 or below; set it "
            f"above {p.samples // 5}"
        )


def _of_right_answers(p: "Params") -> Iterator[str]:
    if p.tells_correct and p.reward.correct is None:
        yield "update.likelihood_coef needs reward.correct, which says what answers are right; set that, or it to 0"
    if p.rollout.prompt_choice == "informative":
        needs = "rollout.prompt_choice: informative goes by the share of right answers"
        if p.reward.correct is None:
            yield f"{needs}; say in reward.correct which are right, or set it to shuffle"
        if p.advantage.memory_discount is None:
            yield f"{needs}; set advantage.memory_discount, such as 0.9, or it to shuffle"


def _of_the_critic_s_warmup(p: "Params") -> Iterator[str]:
    rounds, cure = f"update.critic_warmup_rounds: {p.update.critic_warmup_rounds}", "or set it to 0"
    if not p.update.critic_warmup_rounds:
        return
    if p.policy.critic == "none":
        yield f"{rounds} needs a critic; set policy.critic to shared or separate, {cure}"
    if not learns_values(p.advantage.estimator):
        yield f"{rounds} needs returns; set advantage.estimator to gae, {cure}"
    if not p.update.value_coef:
        yield f"{rounds} needs a value loss; set update.value_coef above 0, {cure}"
