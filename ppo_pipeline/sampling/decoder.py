"""The decoder: samples responses to many prompts with continuous batching.

Finished sequences leave the batch at once and waiting prompts take their slots. Samples of one prompt share its
prefill; what all prompts start with runs once, and where the model can be run so, what any prompts of a batch start
with: they are run as a tree. Each sample has its own uniform numbers, so that neither batch size nor order
chooses its text (but for the rounding of the machine's matrix products).
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute import crowd, flash, head
from ..errors import PipelineError
from ..models.loading import backbone_of, logit_divisor
from ..models.packed import can_branch, can_pack, serves_flash, tree_layout
from ..models.policy import pack_tree
from ..models.prefix import LEAST_PREFIX, by_shared_tokens, causal_mask, common_prefix
from ..models.reach import borders, check_reach
from ..resume.snapshots import Snapshots
from .cache import SlotCache, cache_name
from .decoder_state import load_state, save_state
from .draw import Drawn, draw, pick_greedy
from .graphs import WIDTH, StepGraphs, in_graphs, rows_of_a_step
from .masks import Masks
from .request import Request
from .response import Response
from .truncation import Truncation

PREFILL_TOKENS = 4096


@dataclass
class _Active:
    index: int
    request: Request
    response: Response

    @property
    def length(self) -> int:
        """Tokens that have keys and values: all but the newest."""
        return len(self.request.prompt_ids) + len(self.response.ids) - 1


class Decoder:
    """Decodes with a model whose LoRA is merged. All requests of a call are greedy, or all sampled."""

    def __init__(
        self,
        model: Any,
        stop_ids: Iterable[int],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        truncation: Truncation | None = None,
        trees: bool = True,
    ) -> None:
        self.model = model
        self.backbone = backbone_of(model)
        self.cache_name = cache_name(self.backbone)
        self.in_trees = trees and self._runs_trees()
        self.by_flash = self.in_trees and serves_flash(model)
        self.masks = Masks(model)
        self.head = model.get_output_embeddings()
        self.wide = head.widens(model.dtype)
        if self.wide:
            self.head = copy.deepcopy(self.head).float()
        self.stop_ids = frozenset(stop_ids)
        self.max_new_tokens = max_new_tokens
        self.temperature = logit_divisor(model) * temperature
        self.batch_size = batch_size
        self.truncation = truncation
        self.device = model.device

    def _runs_trees(self) -> bool:
        """Tell whether prompts are run as a tree, in which what any of them start with is there once."""
        model = self.model
        return (model.device.type == "cpu" or serves_flash(model)) and can_branch(model) and can_pack(model)

    @crowd.sharing()
    @torch.inference_mode()
    def decode(
        self,
        requests: list[Request],
        on_tokens: Callable[[int, int], None] = lambda tokens, done: None,
        snapshots: Snapshots | None = None,
    ) -> list[Response]:
        """Return the response to each request, in their order.

        on_tokens(tokens, finished) is called after each step with the numbers of new tokens and of sequences
        that just ended. snapshots: goes on from the newest one, to the same bits as if it had never stopped, and
        makes further ones. Raises PipelineError where a prompt and its response exceed the model's positions.
        """
        responses = [Response() for _ in requests]
        if not requests:
            return responses
        capacity = max(len(r.prompt_ids) for r in requests) + self.max_new_tokens
        check_reach(borders(self.model), capacity, self.max_new_tokens)
        slots = min(self.batch_size, len(requests))
        cache = SlotCache(slots, capacity, counts=self.masks.by_key, by_token=self.by_flash)
        step = self._steps(cache)
        # Long prompts first: the cache is then widest at the start, and steps get cheaper.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
        waiting = [_Active(i, requests[i], responses[i]) for i in order][::-1]
        active: list[_Active] = []
        logits = torch.empty(0)
        resumed = load_state(snapshots, responses, cache, self.device) if snapshots else None
        if resumed is None:
            self._prefill_prefix(cache, [r.prompt_ids for r in requests])
        else:
            waiting = waiting[: resumed.waiting]
            active = [_Active(i, requests[i], responses[i]) for i in resumed.active]
            on_tokens(0, len(requests) - len(waiting) - len(active))
            logits = step(active) if active else logits
        while waiting or active:
            crowd.look()
            # Fill free slots once enough of them are free: a prefill of a few rows is as dear as one of many.
            free = slots - len(active)
            if waiting and (not active or free >= max(1, slots // 8)):
                started = [waiting.pop() for _ in range(min(free, len(waiting)))]
                logits = (
                    torch.cat([logits, self._prefill(cache, started, len(active))])
                    if active
                    else self._prefill(cache, started, 0)
                )
                active += started
            before = len(active)
            keep = self._extend(active, logits)
            on_tokens(before, before - len(keep))
            active = self._compact(cache, active, keep)
            if snapshots and snapshots.due():
                used = max((a.length for a in active), default=0)
                save_state(snapshots, responses, cache, len(waiting), [a.index for a in active], used)
            logits = step(active) if active else torch.empty(0)
        return responses

    def _prefill_prefix(self, cache: SlotCache, prompts: list[list[int]]) -> None:
        """Run what all prompts start with, a system prompt for instance, once for all of them."""
        same = common_prefix(prompts)
        if len(prompts) > 1 and same >= LEAST_PREFIX:
            cache.prefill_prefix(same)
            inputs: dict[str, Any] = {"input_ids": torch.tensor([prompts[0][:same]], device=self.device)}
            if self.in_trees:  # so that attention adds in one order throughout
                layout = tree_layout([same], [-1], same, self.device)
                inputs |= {"position_ids": layout.positions, "sequence_layout": layout}
            self._run(cache, **inputs)

    def _prefill(self, cache: SlotCache, started: list[_Active], first_slot: int) -> Tensor:
        """Run the prompts of `started` into the slots from `first_slot` on; return their last logits."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for offset, sequence in enumerate(started):
            groups.setdefault(tuple(sequence.request.prompt_ids), []).append(first_slot + offset)
        by_slot: dict[int, Tensor] = {}
        for batch in self._batches(sorted(groups, key=len), cache.prefix_length):
            rows = [groups[p][0] for p in batch]
            logits = self._logits(self._run_prompts(cache, batch, torch.tensor(rows, device=self.device)))
            for prompt, row in zip(batch, logits, strict=True):
                for slot in groups[prompt][1:]:
                    cache.copy_slot(groups[prompt][0], slot, len(prompt))
                by_slot |= dict.fromkeys(groups[prompt], row)
        return torch.stack([by_slot[slot] for slot in sorted(by_slot)])

    def _batches(self, prompts: list[tuple[int, ...]], start: int) -> Iterator[list[tuple[int, ...]]]:
        """Yield the prompts, the shortest of which is the first, in batches of at most PREFILL_TOKENS.

        start: tokens of each that need not be run.
        """
        if self.in_trees:
            rows = [list(prompt[start:]) for prompt in prompts]
            for chosen in by_shared_tokens(rows, np.array([len(row) for row in rows]), PREFILL_TOKENS):
                yield [prompts[i] for i in chosen]
            return
        while prompts:
            count = max(1, min(len(prompts), PREFILL_TOKENS // (len(prompts[-1]) - start)))
            yield prompts[-count:]
            prompts = prompts[:-count]

    def _run_prompts(self, cache: SlotCache, prompts: list[tuple[int, ...]], rows: Tensor) -> Tensor:
        """Run prompts into the slots `rows`, and return their last hidden states (n, H)."""
        if self.in_trees:
            return self._run_tree(cache, prompts, rows)
        start = cache.prefix_length
        lengths = torch.tensor([len(p) - start for p in prompts], device=self.device)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p[start:]) for p in prompts], batch_first=True)
        cache.prefill(rows)
        inputs: dict[str, Tensor] = {"input_ids": ids.to(self.device)}
        if start:
            inputs |= self._behind_prefix(start, *ids.shape)
        hidden = self._run(cache, **inputs)
        return hidden[torch.arange(len(prompts), device=self.device), lengths - 1]

    def _run_tree(self, cache: SlotCache, prompts: list[tuple[int, ...]], rows: Tensor) -> Tensor:
        ids, nothing = [torch.tensor(p) for p in prompts], torch.empty(0, dtype=torch.int64)
        before = cache.prefix_length
        batch = pack_tree(ids, [nothing] * len(ids), 0, self.device, before)
        layout = batch.layout
        assert layout is not None
        leaves = torch.searchsorted(layout.branches.starts, before + batch.starts)
        cache.prefill(rows, layout.keys_seen[leaves, : max(map(len, prompts))])
        positions = layout.positions[:, before:]
        hidden = self._run(cache, input_ids=batch.ids, position_ids=positions, sequence_layout=layout)
        return hidden[0, batch.starts + batch.prompt_lengths - 1]

    def _behind_prefix(self, before: int, rows: int, width: int) -> dict[str, Tensor]:
        """Return position_ids and the causal attention_mask of `width` tokens a row that follow `before` tokens."""
        seen = causal_mask(width, before + width, self.device)
        places = torch.arange(before, before + width, device=self.device)
        return {"position_ids": places[None], "attention_mask": self.masks.of(seen[None], rows)}

    def _steps(self, cache: SlotCache) -> Callable[[list[_Active]], Tensor]:
        """Return what runs each active sequence's newest token, to the logits of the next one (n, V)."""

        def forward(ids: Tensor, positions: Tensor, width: int) -> Tensor:
            try:
                return self._step(cache, ids, positions, width)
            except NotImplementedError:  # attention makes keys of its own of the cache's, as latent attention does
                if not self.by_flash:
                    raise
            self.by_flash = False
            return self._step(cache, ids, positions, width)

        graphs = StepGraphs(forward, self.device) if in_graphs(self.device) else None

        def step(active: list[_Active]) -> Tensor:
            ids, lengths = [a.response.ids[-1] for a in active], [a.length for a in active]
            multiple = WIDTH if graphs else 1
            width = min(cache.capacity, (max(lengths) // multiple + 1) * multiple)
            if self.by_flash:  # its kernels are told where each row's keys end
                width = cache.capacity
            if graphs:
                free = [0] * (rows_of_a_step(len(ids), cache.slots) - len(ids))
                return graphs(ids + free, lengths + free, width)[: len(ids)]
            inputs = torch.tensor([ids, lengths], device=self.device)
            return forward(inputs[0][:, None], inputs[1], width)

        return step

    def _step(self, cache: SlotCache, ids: Tensor, positions: Tensor, width: int) -> Tensor:
        """Run a token of each row, ids (n, 1) at positions (n,), all below `width`; return the next one's logits."""
        cache.step(positions, width)
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions[:, None]}
        if self.by_flash:
            begins = torch.arange(len(ids) + 1, dtype=torch.int32, device=self.device)
            used = (positions + 1).int()
            inputs["sequence_layout"] = flash.Spans(begins, begins * width, 1, width, used)
        else:
            seen = torch.arange(width, device=self.device) <= positions[:, None]
            inputs["attention_mask"] = self.masks.of(seen[:, None], len(ids))
        return self._logits(self._run(cache, **inputs)[:, -1])

    def _run(self, cache: SlotCache, **inputs: Any) -> Tensor:
        hidden: Tensor = self.backbone(use_cache=True, **{self.cache_name: cache}, **inputs).last_hidden_state
        if not cache.keys and not cache.prefix:
            raise PipelineError(
                f"base.model: the layers of {type(self.model).__name__} gave the decoder's cache no keys and values, "
                "so that it cannot sample from this model; choose another."
            )
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (n, V) of hidden states (n, H)."""
        logits: Tensor = self.head(hidden.float() if self.wide else hidden)
        return logits

    def _extend(self, active: list[_Active], logits: Tensor) -> list[int]:
        """Choose each active sequence's next token; return the places of those that go on."""
        drawn = self._draw(active, logits)
        keep = []
        for place, (sequence, token, logprob, kept) in enumerate(
            zip(active, *(column.tolist() for column in drawn.on_host()), strict=True)
        ):
            response = sequence.response
            response.ids.append(token)
            response.logprobs.append(logprob)
            response.kept_mass.append(kept)
            if token in self.stop_ids:
                response.finish_reason = "stop"
            elif len(response.ids) < self.max_new_tokens:
                keep.append(place)
        return keep

    def _draw(self, active: list[_Active], logits: Tensor) -> Drawn:
        if active[0].request.uniforms is None:
            return pick_greedy(logits, self.temperature)
        numbers = [a.request.uniforms[len(a.response.ids)] for a in active]  # type: ignore[index]
        return draw(logits, torch.tensor(numbers, dtype=torch.float64), self.temperature, self.truncation)

    @staticmethod
    def _compact(cache: SlotCache, active: list[_Active], keep: list[int]) -> list[_Active]:
        """Move the last sequences into the slots that became free, so that the active slots are the first ones."""
        kept = [active[place] for place in keep]
        result = list(active[: len(keep)])
        holes = sorted(set(range(len(keep))) - set(keep))
        movers = [place for place in keep if place >= len(keep)]
        for hole, place in zip(holes, movers, strict=True):
            mover = active[place]
            cache.copy_slot(place, hole, len(mover.request.prompt_ids) + len(mover.response.ids))
            result[hole] = mover
        assert len(result) == len(kept)
        return result
