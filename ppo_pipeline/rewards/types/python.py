"""Rewards from a Python function with the signature of TRL's reward functions."""

import inspect
from collections.abc import Iterable, Mapping, Set
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ...errors import PipelineError
from ...prompts.column_kinds import columns_told
from ...resume.kept_batches import KeptBatches
from ...resume.snapshots import Snapshots
from ...settings.as_before import AsBefore
from ..component import Component, Finite
from ..looked_at import Looked, Seen, row_of
from ..samples import MissingColumn, Samples, is_reward, shown
from ..user_function import RAISED, Function, line_of, load_function, refuse_arguments

FUNCTIONS = Path("reward_functions")
RESERVED = ("prompt", "prompts", "completion", "completions", "completion_ids")
NO_LISTS = (str, bytes, bytearray, memoryview, Mapping, Set)  # would be read as characters, numbers, keys, in any order


class PythonComponent(Component):
    """A reward computed by a Python function with TRL's signature."""

    type: Literal["python"]
    function: str = Field(
        description="module:function, called as function(prompts=..., completions=..., completion_ids=..., **columns) "
        "-> list of float; in the folder reward_functions/ an edit reruns the reward",
        pattern=r"^[\w.]+:\w+$",
    )
    format: Literal["text", "messages"] = Field(
        description="text: prompts and completions are texts; messages: lists of {role, content}"
    )
    columns: Annotated[dict[str, str], AsBefore({})] = Field(
        description="Arguments that the prompts' columns have other names for: {solution: answer} gives the function "
        "the column `answer` as `solution`. {}: none; each column is given by its own name in any case"
    )
    none_as: Annotated[Finite | None, AsBefore(None)] = Field(
        description="Reward where the function returns None, TRL's `does not apply`; 0 is what TRL counts. "
        "null: None is an error"
    )

    @field_validator("columns")
    @classmethod
    def _columns_have_names_of_arguments(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if not name.isidentifier() or name in RESERVED:
                raise ValueError(f"'{name}' cannot be an argument of its own; write {{argument: column}}")
        return columns

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return what `function(prompts=..., completions=..., completion_ids=..., **columns)` returns, as plain floats.

        format text: prompts and completions are texts, the prompt as the model saw it. messages: conversations, as
        TRL gives them for conversational data; a completion is [{"role": "assistant", "content": ...}].
        completion_ids: the response's token ids, the stop token included. The prompts' further columns (`expected`,
        `split`, ...) are keyword arguments, lists with one entry per sample, and so are those of `columns`. All are the
        function's own: what it changes in them no other component sees. Truth values and numbers of numpy and torch
        count as TRL counts them; None, there "does not apply", becomes `none_as`. An `async def` is awaited.
        Source: TRL's GRPOTrainer, "Using a custom reward function". Its trainer_state, log_extra and log_metric are
        not given: there is no trainer.
        snapshots: where the rewards of a slow function are kept, so that a killed stage does not ask for them again.
        Raises PipelineError where the function cannot be imported, raises, or returns no list; the line that raised is
        named, and the sample that it looked at.
        """
        function = load_function(self.function, self.name)
        found = np.zeros(len(samples))
        kept = KeptBatches(snapshots, {"rewards": found}, [slice(None)])
        for rows in kept.remaining():
            rewards = _scored(function, self, samples)
            if len(rewards) != len(samples) or not all(map(is_reward, rewards)):
                return rewards  # which the caller refuses
            found[rows] = rewards
        return [float(reward) for reward in found]

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError where `columns` names one that is not there, or the function cannot be called."""
        for column in self.columns.values():
            if column not in prompts.columns:
                raise MissingColumn(f"reward '{self.name}': columns", column, prompts.columns)
        function = load_function(self.function, self.name)
        columns = [name for name in {**prompts.columns, **self.columns} if name not in RESERVED]
        given = ["prompts", "completions", "completion_ids", *columns]
        refuse_arguments(function, self.function, self.name, given, prompts.columns)

    def files(self) -> list[Path]:
        """Return the folder of the project's functions."""
        return [FUNCTIONS]


class _NoList(Exception):
    """What a function returned is no list of rewards; the words say what it is."""


def _scored(function: Function, settings: PythonComponent, samples: Samples) -> list[Any]:
    seen = Seen()
    given = _given(settings, samples, seen)
    try:
        return _call(function, settings, given)
    except _NoList as error:
        raise PipelineError(
            f"reward '{settings.name}': {settings.function} returned {error}, expected a list with one number per "
            "sample."
        ) from None
    except PipelineError as error:  # what the function reads is not here: no fault of its own
        raise PipelineError(f"reward '{settings.name}': {settings.function}: {error.message}") from None
    except RAISED as error:
        about = ""
        if isinstance(error, (KeyError, TypeError)):  # mostly an argument that no column has the name of
            about = f" The prompts' columns are: {columns_told(samples.columns)}."
        place = line_of(error)
        row = row_of(error, seen, [each for each in given.values() if isinstance(each, Looked)])
        at = "for the batch, at no single sample"
        if row is not None:
            at = f"at sample '{samples.sample_ids[row]}', response {shown(samples.responses[row])}"
        raise PipelineError(
            f"reward '{settings.name}': {settings.function} raised {type(error).__name__}: {error} "
            f"({f'{place}, ' if place else ''}{at}).{about}"
        ) from error


def _given(settings: PythonComponent, samples: Samples, seen: Seen) -> dict[str, Any]:
    """Return the function's arguments: copies, which tell `seen` what it looks at."""
    prompts: Any = samples.prompt_texts
    completions: list[Any] = samples.responses
    if settings.format == "messages":
        prompts = samples.messages
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    named = {**samples.columns, **{name: samples.columns[column] for name, column in settings.columns.items()}}
    columns = {name: values for name, values in named.items() if name not in RESERVED}
    given = {"prompts": prompts, "completions": completions, "completion_ids": samples.response_ids, **columns}
    return {
        name: Looked(_copy(values), seen, values) if isinstance(values, list) else _copy(values)
        for name, values in given.items()
    }


def _call(function: Function, settings: PythonComponent, given: dict[str, Any]) -> list[Any]:
    """Return the function's rewards; a change of folder ends with it."""
    import asyncio

    with chdir("."):
        found = function(**given)
        found = asyncio.run(_result(found)) if inspect.isawaitable(found) else found
        return [_plain(reward, settings.none_as) for reward in _listed(found)]


async def _result(found: Any) -> Any:
    return await found


def _copy(value: Any) -> Any:
    """Return a copy of lists and maps all the way down; what else a table holds cannot be changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _listed(found: Any) -> list[Any]:
    """Return the items of a list, a tuple, a generator, or an array with one dimension."""
    dimensions = getattr(found, "ndim", 1)
    if dimensions != 1:
        raise _NoList(f"{type(found).__name__} with {dimensions} dimensions")
    if isinstance(found, NO_LISTS) or not isinstance(found, Iterable):
        raise _NoList(type(found).__name__)
    return list(found)


def _plain(reward: Any, none_as: float | None) -> Any:
    """Return a number of numpy or torch, or a truth value, as a plain number; anything else as it is."""
    if reward is None:
        return none_as
    if reward is np.ma.masked:
        return float("nan")  # its item() is 0
    if hasattr(reward, "item") and getattr(reward, "ndim", 0) == 0:
        reward = reward.item()
    return float(reward) if isinstance(reward, bool) else reward
