"""What an engine is: it answers requests with one policy. A new engine is a file beside this one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ...observe.counter import Counter
from ...resume.snapshots import Snapshots
from ...settings.sections import Vllm
from ..request import Request
from ..response import Response
from ..truncation import Truncation


@dataclass(frozen=True)
class Model:
    """The policy to sample from.

    base: the base model's folder, and tokenizer: what is loaded of it. policy: an adapter or a whole model; None: the
    base model itself.
    """

    base: Path
    tokenizer: Any
    policy: Path | None
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: what an engine must do, or refuse.

    stop_tokens: that end a response besides the model's own. truncation: which tokens can be drawn; a request without
    uniform numbers is greedy whatever it says. batch_invariant: whether no batch may change a bit of a response.
    max_prompt_tokens: no prompt has more; None: as many as the model takes. vllm: of that engine alone.
    """

    max_new_tokens: int
    batch_size: int
    temperature: float = 1.0
    truncation: Truncation = field(default_factory=Truncation)
    stop_tokens: tuple[str, ...] = ()
    batch_invariant: bool = False
    max_prompt_tokens: int | None = None
    vllm: Vllm | None = None

    @property
    def gpus(self) -> int:
        """GPUs that the engine takes, where there are some."""
        return self.vllm.tensor_parallel if self.vllm else 1


class Engine(Protocol):
    """Made of a Model and a Sampling; raises PipelineError there for what it cannot do.

    stop_ids: the tokens that end a response.
    """

    stop_ids: frozenset[int]

    def __init__(self, model: Model, sampling: Sampling) -> None: ...

    def generate(
        self, requests: list[Request], counter: Counter | None = None, snapshots: Snapshots | None = None
    ) -> list[Response]:
        """Return the response to each request, in their order: ids, logprobs, kept mass, and why it ended.

        Logprobs are of the full softmax of `logits / temperature`, in fp32. counter: is told of tokens and finished
        responses. snapshots: where to go on from, and to keep what is done, to the same bits.
        """
        ...
