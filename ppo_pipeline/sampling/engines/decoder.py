"""The project's own decoder as an engine: continuous batching in this process, the same bits from the same seed."""

from ...models.loading import stop_ids_of
from ...observe.counter import Counter
from ...resume.snapshots import Snapshots
from ..batch_invariant import load_sampler
from ..request import Request
from ..response import Response, check_numbers
from .engine import Model, Sampling


class DecoderEngine:
    """An Engine; the model is loaded here, with its LoRA merged unless no batch may change a bit."""

    def __init__(self, model: Model, sampling: Sampling) -> None:
        s, policy = sampling, model.policy or model.base
        self.folder = policy
        loaded, kind = load_sampler(model.base, policy, model.device, model.dtype, s.batch_invariant)
        stop_ids = stop_ids_of(loaded, model.tokenizer, s.stop_tokens)
        self.decoder = kind(loaded, stop_ids, s.max_new_tokens, s.temperature, s.batch_size, s.truncation)
        self.stop_ids = self.decoder.stop_ids

    def generate(
        self, requests: list[Request], counter: Counter | None = None, snapshots: Snapshots | None = None
    ) -> list[Response]:
        """Return the response to each request, in their order."""
        counter = counter or Counter(len(requests))
        found = self.decoder.decode(
            requests, lambda tokens, done: counter.advance(done, tokens) if tokens else counter.skip(done), snapshots
        )
        check_numbers((response.logprobs for response in found), self.folder)
        return found
