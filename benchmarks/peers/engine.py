"""This project's engines on the same prompts, logprobs included: `own` or `vllm`, by the one door of both."""

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.sampling.engines.engine import Model, Sampling
from ppo_pipeline.sampling.generate import open_engine
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.sections import Compute, Vllm

from ..prompts import prompt_ids
from .answering import Sampler, Work, answer


def load(work: Work, name: str, threads: str = "0") -> Sampler:
    """Return the engine of this name with the base model loaded; threads: as compute.threads."""
    import torch

    compute = Compute(
        device="auto", dtype="auto", threads=int(threads), kernels="auto", batch_invariant=False, head="auto"
    )
    tokenizer = load_tokenizer(work.base)
    ids = prompt_ids(tokenizer, work.count)
    model = Model(work.base, tokenizer, None, set_up(compute).device, getattr(torch, work.dtype))
    shared = Vllm(tensor_parallel=1, gpu_memory=0.3)  # its peers are on the same GPU
    engine = open_engine(model, Sampling(work.new_tokens, work.count, 1.0, vllm=shared), name)

    def sample(number: int) -> int:
        requests = [Request(p, uniforms(number, str(i), work.new_tokens)) for i, p in enumerate(ids)]
        return sum(len(response.ids) for response in engine.generate(requests))

    return Sampler(sum(map(len, ids)), sample)


if __name__ == "__main__":
    answer(load)
