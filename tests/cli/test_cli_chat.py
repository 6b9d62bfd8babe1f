"""`ppo-pipeline chat`: a policy's answers beside the base's, against transformers' generate and an obvious loop."""

import json
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from test_cli_models import BASE, POLICY, project, run  # noqa: F401

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import checkpoint, four_bit, loading
from ppo_pipeline.models.adapter import attach_merged
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.tables.prompts import PROMPTS

SYSTEM = {"role": "system", "content": "Answer in one word, and let it be the right one, please."}
TALKS: list[list[dict[str, str]]] = [
    [SYSTEM, {"role": "user", "content": "say a"}],
    [
        SYSTEM, {"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"},
        {"role": "user", "content": "and 20 + 30?"},
    ],
    [SYSTEM, {"role": "user", "content": "你好 [red]x[/red]\ttab"}],
    [{"role": "user", "content": "no system message here"}],
]  # fmt: skip
EXPECTED = ["a", "50", "好", ""]
TEMPLATED = {"add_generation_prompt": True, "return_dict": True}
ASK = ("chat", "--round", "r001", "--max-new-tokens", "8")
TRAIN = (*ASK, "--split", "train", "--json")


@pytest.fixture(autouse=True)
def prompts() -> None:
    """Four training prompts, one held out between them."""
    held = [{"role": "user", "content": "held out"}]
    talks = [*TALKS[:2], held, *TALKS[2:]]
    columns = {
        "prompt_id": ["p", "q", "h", "r", "s"], "messages": talks,
        "split": ["train", "train", "heldout", "train", "train"], "expected": [*EXPECTED[:2], "out", *EXPECTED[2:]],
    }  # fmt: skip
    PROMPTS.write(pa.table(columns), Path("data/prompts.parquet"))


def edit(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))


def rows(*arguments: str) -> list[dict[str, Any]]:
    """Return what --json prints; nothing else may be on standard output."""
    return [json.loads(line) for line in run(*arguments).stdout.splitlines()]


def texts(*arguments: str) -> list[tuple[str, str]]:
    return [(row["base"], row["trained"]) for row in rows(*arguments)]


def models() -> list[Any]:
    base, policy = tiny_model("llama"), tiny_model("llama")
    attach_merged(policy, POLICY)
    return [base, policy]


def templated(messages: list[dict[str, str]]) -> list[int]:
    ids: list[int] = tiny_tokenizer().apply_chat_template(messages, **TEMPLATED)["input_ids"]
    return ids


def text_of(ids: list[int]) -> str:
    text: str = tiny_tokenizer().decode(ids, skip_special_tokens=True)
    return text


def greedy(model: Any, messages: list[dict[str, str]], tokens: int = 8) -> str:
    """Answer by transformers' own generate."""
    ids = templated(messages)
    out = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=257)
    return text_of(out[0, len(ids) :].tolist())


def sampled(model: Any, messages: list[dict[str, str]], stream: str, seed: int, top_p: float = 1.0) -> str:
    """Answer at temperature 0.7 by a forward of everything for each token."""
    ids, count = templated(messages), 0
    for number in uniforms(seed, stream, 8):
        with torch.no_grad():
            chances = (model(torch.tensor([ids])).logits[0, -1].double() / 0.7).softmax(-1)
        likeliest = chances.sort(descending=True)
        before = likeliest.values.cumsum(-1) - likeliest.values
        kept = torch.zeros_like(chances).index_fill(0, likeliest.indices[before < top_p], 1.0) * chances
        token = int((kept.cumsum(-1) <= number * kept.sum()).sum())
        if token == 257:
            break
        ids, count = [*ids, token], count + 1
    return text_of(ids[len(ids) - count :])


def test_answers_to_a_split_are_those_of_generate() -> None:
    found = rows(*TRAIN)
    assert [(row["prompt_id"], row["prompt"], row["expected"]) for row in found] == [
        (name, talk[-1]["content"], expected) for name, talk, expected in zip("pqrs", TALKS, EXPECTED, strict=True)
    ]
    for side, model in zip(("base", "trained"), models(), strict=True):
        assert [row[side] for row in found] == [greedy(model, talk) for talk in TALKS]
    assert all(row["base"] != row["trained"] and row["round"] == "r001" for row in found)


@pytest.mark.parametrize("likeliest", [("--top-k", "1"), ("--top-p", "1e-30")], ids=["top-k", "top-p"])
def test_sampling_among_the_likeliest_alone_is_greedy(likeliest: tuple[str, ...]) -> None:
    warm = ("--temperature", "1.5")
    assert texts(*TRAIN, *warm, *likeliest) == texts(*TRAIN) != texts(*TRAIN, *warm)


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_each_prompt_is_sampled_with_numbers_of_its_seed_and_itself(share: float) -> None:
    top_p = ("--top-p", str(share)) if share < 1 else ()
    for seed in (0, 1):
        how = ("--temperature", "0.7", "--seed", str(seed), *top_p)
        sides = [[sampled(m, t, n, seed, share) for t, n in zip(TALKS, "pqrs", strict=True)] for m in models()]
        assert texts(*TRAIN, *how) == list(zip(*sides, strict=True))
        user = [{"role": "user", "content": "say b"}]  # of --prompt, the text names the stream
        expected = [tuple(sampled(model, user, "say b", seed, share) for model in models())]
        assert texts(*ASK, "--prompt", "say b", "--json", *how) == expected


def test_an_answer_is_the_same_alone_and_among_others() -> None:
    how = ("--temperature", "1", "--top-k", "50")
    assert texts(*TRAIN, *how)[:2] == texts(*TRAIN, *how, "--limit", "2")
    alone = [texts(*ASK, *how, "--json", "--prompt", prompt)[0] for prompt in ("one", "a longer second", "3")]
    together = ("--prompt", "3", "--prompt", "one", "--prompt", "a longer second")
    edit("batch_size: ", "batch_size: 2 # ")
    assert texts(*ASK, *how, "--json", *together) == [alone[2], alone[0], alone[1]]
    assert len(set(alone)) == 3


def test_a_prompt_gets_the_system_message_of_the_settings() -> None:
    edit("system: null", "system: Be brief.")
    user = {"role": "user", "content": "say a"}
    [(base, _)] = texts(*ASK, "--prompt", "say a", "--json")
    assert base == greedy(models()[0], [{"role": "system", "content": "Be brief."}, user])
    assert base != greedy(models()[0], [user]), "the system prompt makes no difference: nothing was tested"


def test_prompts_known_ahead_are_answered_with_one_model_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    load = loading.load_model

    def watched(*arguments: Any) -> Any:
        assert not [model for model in loaded if model() is not None], "another model is in memory still"
        model = load(*arguments)
        loaded.append(weakref.ref(model))
        return model

    for module in (loading, checkpoint, four_bit):
        monkeypatch.setattr(module, "load_model", watched)
    run(*ASK, "--split", "train")
    run(*ASK, "--prompt", "a", "--prompt", "b")
    assert len(loaded) == 4


def test_asked_for_prompts_are_answered_as_given_ones() -> None:
    how = ("--temperature", "0.7", "--top-p", "0.9")
    _, *given = run(*ASK, *how, "--prompt", "second").output.splitlines()[1].split("\t")
    asked = run(*ASK, *how, stdin="first\n/clear\nsecond\n").output.splitlines()
    row = [line for line in asked if line.startswith("│")][-1]
    assert [cell.strip() for cell in row.strip("│").split("│")] == given


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids that the models are given, in order; they answer one, two, ..."""
    given: list[list[int]] = []

    def answers(engine: Any, tokenizer: Any, questions: list[Any], manner: Any) -> list[str]:
        for question in questions:
            if len(question.ids) > 256:
                raise PipelineError("too long")
            given.append(question.ids)
        return [["one", "two", "three", "four", "five", "six"][len(given) - 1] for _ in questions]

    monkeypatch.setattr("ppo_pipeline.cli.chat.answers", answers)
    return given


def test_a_conversation_goes_on_from_each_model_s_own_answers(seen: list[list[int]]) -> None:
    run(*ASK, stdin=f"say a\n{'x' * 300}\nand b\n/clear\nsay c\n")
    first, last = {"role": "user", "content": "say a"}, {"role": "user", "content": "and b"}
    base, trained = ([first, {"role": "assistant", "content": said}, last] for said in ("one", "two"))
    anew = [{"role": "user", "content": "say c"}]  # and the one that was too long was no part of it
    assert seen == [templated(talk) for talk in ([first], [first], base, trained, anew, anew)]


@pytest.mark.parametrize("given", ["Be long.", ""])
def test_a_system_message_of_the_command_line_is_in_place_of_the_settings(seen: list[list[int]], given: str) -> None:
    edit("system: null", "system: Be brief.")
    run(*ASK, "--prompt", "say a", "--system", given)
    assert seen == [templated([{"role": "system", "content": given}] * bool(given) + [TALKS[0][1]])] * 2


def test_a_round_s_own_stop_tokens_end_its_answers() -> None:
    whole = texts(*TRAIN)
    letter = next(
        letter for letter in whole[0][0][1:] if letter.isascii() and letter.isprintable() and letter not in "\\'\""
    )
    edit("r001: {parent: r000", f"r001: {{parent: r000, rollout: {{stop_tokens: ['{letter}']}}")
    assert texts(*TRAIN) == [tuple(text.split(letter)[0] for text in pair) for pair in whole]
