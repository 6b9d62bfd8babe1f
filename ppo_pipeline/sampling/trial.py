"""A trial of a base model: the decoder and the training forward must say of a text what a plain forward of it says.

A model whose attention takes another kind of mask, counts its positions otherwise or keeps a state that is no keys and
values would be sampled from wrongly, in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import PipelineError
from ..errors.machine_faults import is_machines
from ..models.loading import check_supported, text_config
from ..models.packed import serves_flash
from ..models.policy import model_logprobs, pad
from ..models.prefix import LEAST_PREFIX
from .decoder import Decoder
from .request import Request
from .response import Response
from .streams import uniforms

LENGTHS, BEHIND_PREFIX = (3, 14, 6, 10), (1, 7, 4)  # tokens of prompts; tokens of others that start alike
SHARED = 3  # of those behind that start
NEW_TOKENS, SLOTS, STOP_EVERY, SEED = 6, 2, 4, 0  # few slots, many stop tokens: slots are freed and taken again
# Shares of the spread of a token's logits, which a wrong mask or position changes by a half and more. In fp32 every
# token keeps within the first. In bf16 single tokens may not, of a trained model some by 0.1: hence the mean there,
# which was 0.01 to 0.02 for SmolLM2-135M, and with a wrong mask 0.09 to 0.26.
EXACT_LIMIT, MEAN_LIMIT = 0.002, 0.06
SMALL = 700_000_000  # parameters up to which half precision is tried in fp32, in three times the model's memory


class Deviation(NamedTuple):
    """decoder, training: (n,) by how much log probabilities of n tokens differ from a plain forward's. below: (m,) how
    far the m greedy ones among them are from the likeliest. spread: the mean standard deviation of a token's logits."""

    decoder: Tensor
    training: Tensor
    below: Tensor
    spread: float


@torch.no_grad()
def check_model(model: Any) -> None:
    """Raise PipelineError, in one line with the architecture's name, for a model that cannot be used rightly here."""
    name = type(model).__name__
    try:
        check_supported(model)
        with _in_fp32(model) as exact:
            trials = [(exact, deviation(model))]
        if exact and serves_flash(model):
            trials.append((False, deviation(model)))  # the flash kernels take half precision alone
    except Exception as error:
        if isinstance(error, PipelineError) or is_machines(error):
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = own_state(model) or f"the decoder and its layers do not fit together ({text:.200})"
        raise PipelineError(f"base.model: {name} cannot be decoded here: {reason}; choose another model.") from None
    for exact, found in trials:
        limit = (EXACT_LIMIT if exact else MEAN_LIMIT) * found.spread
        for what, numbers in zip(("sampled with", "trained on", "taken as likeliest with"), found[:3], strict=True):
            differ = (numbers.max() if exact else numbers.mean()).item()
            if not differ <= limit:
                raise PipelineError(
                    f"base.model: {name} cannot be decoded rightly here{own_state(model, ', for ')}: tokens would be "
                    f"{what} log probabilities that differ from a plain forward's by {differ:.2g} nats "
                    f"{'at most' if exact else 'on average'}, with a limit of {limit:.2g}; choose another model."
                )


def own_state(model: Any, before: str = "") -> str:
    """Return `before` and what layers of the model have, by transformers' own cache, besides keys and values; or ''."""
    try:
        layers = DynamicCache(config=text_config(model)).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    recurrent = any("Linear" in type(layer).__name__ for layer in layers)
    return f"{before}its recurrent layers keep a state that is no keys and values" if recurrent else ""


def deviation(model: Any) -> Deviation:
    """Decode, several prompts at a time, some greedily, and compare with a plain forward of each response alone.

    Prompts are run as a tree where they can be, and the other way too: other devices take that.
    """
    attention, found = model.config._attn_implementation, []
    for trees in (True, False):
        stop = range(0, text_config(model).vocab_size, STOP_EVERY)
        decoder = Decoder(model, stop, NEW_TOKENS, 1.0, SLOTS, trees=trees)
        if decoder.in_trees == trees:
            found.append(_deviation(model, decoder))
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
    decoded, training, below = (torch.cat(numbers) for numbers in zip(*(each[:3] for each in found), strict=True))
    return Deviation(decoded, training, below, max(each.spread for each in found))


def _deviation(model: Any, decoder: Decoder) -> Deviation:
    prompts = prompts_to_try(model)
    drawn = [Request(ids, uniforms(0, str(i), NEW_TOKENS)) for i, ids in enumerate(prompts[: len(LENGTHS)])]
    greedy = [Request(ids, None) for ids in prompts[len(LENGTHS) :]]
    responses = [*decoder.decode(drawn), *decoder.decode(greedy)]
    answers = [torch.tensor(c.ids) for c in responses]
    batch = pad([torch.tensor(ids) for ids in prompts], answers, 0, model.device)
    training = model_logprobs(model, batch, 1.0).cpu()
    rows = torch.cat([_plain(model, ids, c) for ids, c in zip(prompts, responses, strict=True)])
    expected = rows.gather(1, torch.cat(answers)[:, None])[:, 0]
    decoded = torch.tensor([x for c in responses for x in c.logprobs])
    count = sum(len(c.ids) for c in responses[: len(drawn)])
    below = (rows.amax(-1) - expected)[count:]
    return Deviation((decoded - expected).abs(), (training - expected).abs(), below, rows.std(-1).mean().item())


def _plain(model: Any, prompt: list[int], response: Response) -> Tensor:
    """Return log probabilities (n, V) at each token of a response, by a forward of it alone."""
    ids = torch.tensor([prompt + response.ids], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).cpu()


def prompts_to_try(model: Any) -> list[list[int]]:
    """Return random prompts: of LENGTHS, and then some that start alike, the longer two for more tokens than all.

    Special tokens of the config are left out.
    """
    config = text_config(model)
    numbers = {**model.config.to_dict(), **config.to_dict()}
    special = {x for name, x in numbers.items() if name.endswith(("_token_id", "_token_index")) and isinstance(x, int)}
    ordinary = torch.tensor([i for i in range(config.vocab_size) if i not in special])
    generator = torch.Generator().manual_seed(SEED)

    def draw(count: int) -> list[int]:
        drawn: list[int] = ordinary[torch.randint(len(ordinary), (count,), generator=generator)].tolist()
        return drawn

    start, more = draw(LEAST_PREFIX), draw(SHARED)
    behind = [draw(n) if n <= SHARED else more + draw(n - SHARED) for n in BEHIND_PREFIX]
    return [*(draw(n) for n in LENGTHS), *(start + tokens for tokens in behind)]


@contextmanager
def _in_fp32(model: Any) -> Iterator[bool]:
    """Within the block a small model's half-precision numbers are fp32; tell whether all are."""
    tensors = [*model.parameters(), *model.buffers()]
    half = [(x, x.data) for x in tensors if x.dtype in (torch.bfloat16, torch.float16)]
    if sum(x.numel() for x in tensors) > SMALL:
        yield not half
        return
    try:
        for x, data in half:
            x.data = data.float()
        yield True
    finally:
        for x, data in half:
            x.data = data
