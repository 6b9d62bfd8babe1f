"""What rewards read of the base model's tokenizer, for `ppo-pipeline score`: prompts as the policy saw them, token ids.

The model's weights are never loaded, and its tokenizer only where a reward may ask for it. Where it is not here,
rewards that do without are computed all the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import PipelineError
from ..project.policies import BASE
from ..prompts.rendering import Renderer, plain_text
from ..prompts.special_text import SpecialText
from ..settings.params import Params
from ..storage.files import read_json
from .handwritten import Handwritten


class PolicyView(NamedTuple):
    """prompt_texts and response_ids of each response, as in Samples, or Absent.

    why: why something is absent that a function may read. absent_read: the errors of what was read of it.
    """

    prompt_texts: Any
    response_ids: Any
    why: str
    absent_read: list[str]


class Absent(Sequence[Any]):
    """Stands for `count` values that are not here: reading one raises PipelineError with the words `why`.

    They go to `read` as well: a function may catch the error, and score as if there were nothing to read.
    """

    def __init__(self, count: int, why: str, read: list[str]) -> None:
        self._count, self._why, self._read = count, why, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self._count)[index]
        if isinstance(index, slice):
            return Absent(len(chosen), self._why, self._read)
        self._read.append(self._why)
        raise PipelineError(self._why)


def policy_view(params: Params, components: Sequence[Any], given: Handwritten) -> PolicyView:
    """Return the prompts' texts, and the responses' token ids with the end token behind them.

    Raises PipelineError, with the component named, where one cannot do without a text that is not to be had.
    """
    plain = params.chat_template == "plain"
    readers = [] if plain else [component for component in components if component.reads_policy_view()]
    may_read = bool(readers) or any(component.reads_policy_view() is None for component in components)
    why = _why_absent(params) if may_read else "no reward of these reads it"
    if readers and why:
        raise PipelineError(f"reward '{readers[0].name}': {_needs('the prompt as the policy saw it', why)}")
    count, read = len(given.responses), list[str]()
    texts: Any = Absent(count, _needs("prompts, as the policy saw them", why), read)
    ids: Any = Absent(count, _needs("completion_ids", why), read)
    conversations = given.prompts.column("messages").to_pylist()
    if plain:
        texts = [plain_text(conversations[row]) for row in given.rows]
    if not why:
        from ..models.loading import load_tokenizer, vocabulary_of

        tokenizer = load_tokenizer(BASE)
        if not plain:
            how: dict[str, Any] = {"date": params.date, "special_tokens": params.special_tokens}
            renderer = Renderer(tokenizer, params.chat_template, vocabulary=vocabulary_of(BASE), **how)
            rendered, _ = renderer.texts_and_ids(conversations, given.prompts.column("prompt_id").to_pylist())
            texts = [rendered[row] for row in given.rows]
        ids = response_ids(tokenizer, given.responses, given.sample_ids)
    return PolicyView(texts, ids, why, read)


def response_ids(tokenizer: Any, responses: list[str], names: list[str]) -> list[list[int]]:
    """Return the token ids of each response's text, and behind them the tokenizer's end token where it has one.

    The text of a special token is taken as text. A sampled response of the same text may have other ids: a policy can
    put a text together from other tokens than the tokenizer does. Raises PipelineError, with the response's name,
    where the tokenizer cannot take special tokens' text as text.
    """
    special = SpecialText(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    found = []
    for response, name in zip(responses, names, strict=True):
        talk = [{"role": "assistant", "content": response}]
        if (hit := special.found(talk)) is None:
            ids = tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        else:
            ids = special.encode(special.marked(talk)[0]["content"], add_special_tokens=False)
        if ids is None:
            raise PipelineError(f"{name}: this tokenizer can only take {hit!r} for the special token; remove it.")
        found.append([*ids, *end])
    return found


def _why_absent(params: Params) -> str:
    """Return why the tokenizer of base.model is not to be had; empty where it is."""
    makes = "`dvc repro base` makes it, `dvc pull` fetches it"
    if not (BASE / "tokenizer_config.json").is_file():
        return f"{BASE} is not here; {makes}"
    source = BASE / "source.json"
    found = read_json(source, "`dvc repro base` makes it anew") if source.is_file() else {}
    if found != params.base.model_dump():
        wanted, other = params.base.model, found.get("model", "an unknown model")
        settings = "other settings" if other == wanted else f"'{other}'"
        return f"{BASE} was made of {settings}, base.model of params.yaml is '{wanted}'; {makes}"
    return ""


def _needs(what: str, why: str) -> str:
    return f"it reads {what}, for which the base model's tokenizer is needed: {why}."
