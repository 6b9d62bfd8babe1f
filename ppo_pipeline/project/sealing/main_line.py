"""Sealing puts rounds before others, and of two that start from one round the first goes on with the line."""

from collections.abc import Iterable

from ...errors import PipelineError
from ...settings.lines import main_line, span
from ...settings.params import Params


def refuse_another_main_line(params: Params, order: Iterable[str]) -> None:
    """Raise PipelineError where the rounds in this order, params.all_rounds' then, have another main line."""
    now = main_line(params.parents, params.marked)
    then = main_line({name: params.parents[name] for name in order}, params.marked)
    if then != now:
        place = next(place for place, pair in enumerate(zip(now, then, strict=False)) if pair[0] != pair[1])
        raise PipelineError(
            f"{then[place]} would stand before {now[place]}, and so be what the main line goes on with, which is "
            f"{span(now)} now. Write `main: true` into rounds.{now[place]} of params.yaml first, or seal that with it. "
            "Nothing was changed."
        )
