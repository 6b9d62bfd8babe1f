"""What prompts.parquet says of the samples' prompts: their turns, and the columns that their author put beside them."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from ..errors import PipelineError
from ..project.paths import Paths
from ..tables.joined import json_ready
from ..tables.prompts import PROMPTS
from .run import Run

FEW = 30  # values of a column that people can choose from
Turn = tuple[str, str]  # role and text


class Conversations:
    """The prompts of a run, read once; none of them, and a note, where the table is missing or cannot be read."""

    def __init__(self, run: Run) -> None:
        path = Paths(root=run.root).prompts
        self._messages: dict[str, list[dict[str, str]]] = {}
        self._columns: dict[str, dict[str, Any]] = {}
        if not path.is_file():
            return
        try:
            table = PROMPTS.read(path)
        except PipelineError as error:
            run.notes.append(str(error.message).replace(f"{run.root}/", ""))
            return
        ids = table.column("prompt_id").to_pylist()
        self._messages = dict(zip(ids, table.column("messages").to_pylist(), strict=True))
        for name in table.column_names[len(PROMPTS.arrow) :]:
            values = [json_ready(value) for value in table.column(name).to_pylist()]
            self._columns[name] = dict(zip(ids, values, strict=True))

    def turns(self, table: pa.Table) -> list[list[Turn]]:
        """Return the conversation of each row's prompt; its whole text, of nobody, where that cannot be told.

        The prompts may have changed since these samples were drawn: only what the model saw is taken.
        """
        ids, texts = (table.column(name).to_pylist() for name in ("prompt_id", "prompt_text"))
        return [self._seen(prompt_id, text) for prompt_id, text in zip(ids, texts, strict=True)]

    def _seen(self, prompt_id: str, text: str) -> list[Turn]:
        turns = [(m["role"], m["content"].strip()) for m in self._messages.get(prompt_id, [])]
        if turns and all(said in text for _, said in turns):
            return turns
        asked = [turn for turn in turns if turn[0] == "user" and turn[1] in text]
        return asked[-1:] or [("", text)]

    def columns(self, prompt_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return {name, numeric, few, values: {prompt_id: value}} of the columns with a value for one of the prompts.

        few: at most FEW values, that come back, so that people can choose one. A list or a map is told as JSON.
        """
        wanted, found = set(prompt_ids), []
        for name, of_prompt in self._columns.items():
            values = {key: _plain(value) for key, value in of_prompt.items() if key in wanted and value is not None}
            different = len({str(value) for value in values.values()})
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values.values())
            few = different <= min(FEW, max(2, len(values) // 2))
            if values:
                found.append({"name": name, "numeric": numeric, "few": few, "values": values})
        return found


def asked(turns: list[Turn]) -> str:
    """Return what the user said last; the whole text where that is all that is known."""
    return next((said for role, said in reversed(turns) if role == "user"), turns[-1][1])


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
