"""What a template or tokenizer could lose, add or change in a prompt: right in the rendered one, or refused by name."""

import datetime
from typing import Any

import pytest
import transformers.utils.chat_template_utils as chat_template_utils
from conftest import CHAT_TEMPLATE, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.chat_template import dated
from ppo_pipeline.prompts.conversations import answered
from ppo_pipeline.prompts.rendering import check_prompts, plain_text, render, render_all

USER = {"role": "user", "content": "q"}
START, END = 256, 257
TRIMMED = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}Today Date: {{ date_string }}|" + CHAT_TEMPLATE
)
ASKS = "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now( \"%B %d, %Y\" ) }}|" + CHAT_TEMPLATE
NO_SYSTEM = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}" + CHAT_TEMPLATE


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Return user and assistant in turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


# ---- a last message by the assistant


def test_the_model_goes_on_with_the_assistant_s_last_message() -> None:
    tokenizer, messages = tiny_tokenizer(), talk("q", "The answer is")
    text, ids = render(tokenizer, messages, "auto")
    assert text == "<|user|>q<|end|><|assistant|>The answer is"
    theirs = tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=True)
    assert ids == theirs["input_ids"]
    assert END not in ids[-13:]
    assert render(tokenizer, messages, "plain")[0] == "User: q\nAssistant: The answer is"
    assert plain_text([{"role": "assistant", "content": "Once"}]) == "Assistant: Once"
    assert answered(messages, " 4") == talk("q", "The answer is 4")
    assert answered(messages[:1], " 4") == talk("q", " 4")


@pytest.mark.parametrize("content", ["The answer is ", " The answer is"])
def test_a_template_that_trims_the_open_message_is_refused(content: str) -> None:
    assert render(tiny_tokenizer(), talk("q", content), "auto")[0].endswith(f"<|assistant|>{content}")
    assert render(tiny_tokenizer(TRIMMED), talk("q", content.strip()), "auto")[0].endswith(">The answer is")
    with pytest.raises(PipelineError, match="changes the assistant's message that the model is to go on with"):
        render(tiny_tokenizer(TRIMMED), talk("q", content), "auto")


def test_a_template_that_writes_after_or_in_place_of_the_open_message_is_refused() -> None:
    for template in (CHAT_TEMPLATE.replace("<|end|>", "{{ message['content'] | upper }}"), CHAT_TEMPLATE.upper()):
        with pytest.raises(PipelineError, match="the prompt: the model's chat template"):
            render(tiny_tokenizer(template), talk("q", "The answer"), "auto")


# ---- dates


def on(day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of transformers' templates."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return cls.fromisoformat(day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize(
    ("template", "expected"), [(LLAMA, "Today Date: 05 Mar 2025|"), (ASKS, "2025-03-05 March 05, 2025|")]
)
def test_no_prompt_depends_on_the_clock(template: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(template)
    on("2031-01-02", monkeypatch)
    assert "2031" in tokenizer.apply_chat_template([USER], tokenize=False)  # the clock is what templates read
    found = [render(tokenizer, [USER], "auto", date="2025-03-05")]
    on("2032-03-04", monkeypatch)
    found.append(render(tokenizer, [USER], "auto", date="2025-03-05"))
    assert found[0] == found[1]
    assert found[0][0] == expected + "<|user|>q<|end|><|assistant|>"
    with pytest.raises(PipelineError, match=r"prompts\.date: the model's chat template asks for today's date"):
        render(tokenizer, [USER], "auto", date=None)
    assert render(tokenizer, [USER], "plain", date=None)[0] == "q"


def test_llama_s_own_date_is_the_committed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of templates that take a date but no clock, such as Llama 3.1's: the setting changes nothing unless changed."""
    from pathlib import Path

    from ppo_pipeline.settings.params import load_params

    committed = load_params(Path(__file__).resolve().parents[2] / "params.yaml").prompts.date
    clockless = LLAMA.replace("strftime_now is defined", "false")
    own = tiny_tokenizer(clockless).apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert own.startswith("Today Date: 26 Jul 2024|")
    assert render(tiny_tokenizer(clockless), [USER], "auto", date=committed)[0] == own
    assert render(tiny_tokenizer(clockless), [USER], "auto", date="2025-03-05")[0].startswith(
        "Today Date: 05 Mar 2025|"
    )


def test_a_date_in_a_computed_format_is_refused_and_the_name_alone_is_no_question() -> None:
    for asks in ("{% set f = '%d' %}{{ strftime_now(f) }}", "{% set now = strftime_now %}{{ now('%d') }}"):
        with pytest.raises(PipelineError, match="a format that it computes"):
            dated(asks, "2025-03-05")
    for harmless in ("{% if strftime_now is not defined %}x{% endif %}", "{# strftime_now #}", "strftime_nowhere"):
        assert dated(harmless, None) == harmless


# ---- tokenizers that add tokens, and tokens that the model has not


@pytest.mark.parametrize(
    ("shape", "before"),
    [("$A <|end|>", []), ("<s> $A <|end|>", [START]), ("<s> $A", [START]), ("<s> $A <|end|> <s>", [START]), ("$A", [])],
)
def test_a_plain_prompt_keeps_its_start_token_and_no_end_token(shape: str, before: list[int]) -> None:
    tokenizer = tiny_tokenizer()
    bare = tokenizer("q")["input_ids"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=shape, special_tokens=[("<s>", START), ("<|end|>", END)]
    )
    assert tokenizer("q")["input_ids"] == before + bare + [END] * ("<|end|>" in shape) + [START] * shape.endswith("<s>")
    assert render(tokenizer, [USER], "plain")[1] == before + bare
    letters = [i for letter in "<|end|>" for i in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert render(tokenizer, talk("<|end|>"), "plain")[1] == before + letters
    assert render(tokenizer, [USER], "auto")[1] == [258, *bare, END, 259]


def test_a_token_that_the_model_has_not_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    one = [talk("a"), talk("a <new>")]
    assert len(render_all(tokenizer, ["x", "y"], one, "auto", 50, vocabulary=262)) == 2
    with pytest.raises(PipelineError, match=r"prompt 'y': its token '<new>' is number 261, the model has 261"):
        render_all(tokenizer, ["x", "y"], one, "auto", 50, vocabulary=261)


# ---- words that vanish


@pytest.mark.parametrize("system", ["be short", "user", "q"])
def test_a_system_message_that_the_template_drops_is_refused(system: str) -> None:
    """`user` and `q` stand in the text all the same, as another's words."""
    messages = talk("q", system=system)
    assert f"<|system|>{system}<|end|>" in render(tiny_tokenizer(), messages, "auto")[0]
    with pytest.raises(PipelineError, match=f"prompt 'x': .* leaves out or changes the system's message '{system}'"):
        render_all(tiny_tokenizer(NO_SYSTEM), ["x"], [messages], "auto", 99)
    assert render(tiny_tokenizer(NO_SYSTEM), messages, "plain")[0] == f"System: {system}\nUser: q\nAssistant:"
    folded = "{% for m in messages %}{{ m.content | trim }}\n{% endfor %}"  # no roles, but all words
    assert render(tiny_tokenizer(folded), messages, "auto")[0] == f"{system}\nq\n"


def test_one_of_two_equal_messages_that_is_dropped_is_found() -> None:
    with pytest.raises(PipelineError, match="leaves out or changes the user's message 'q'"):
        render(tiny_tokenizer(CHAT_TEMPLATE.replace("in messages", "in messages[-2:]")), talk("q", "a", "q"), "auto")


def test_a_template_may_drop_a_thought_and_nothing_else() -> None:
    thinking = CHAT_TEMPLATE.replace(
        "{{ message['content'] }}",
        "{{ message.content.split('</think>')[-1].lstrip() if message.role == 'assistant' else message.content }}",
    )
    text, _ = render(tiny_tokenizer(thinking), talk("q", "<think>hm</think>\n\nfour \n", "q?"), "auto")
    assert text == "<|user|>q<|end|><|assistant|>four \n<|end|><|user|>q?<|end|><|assistant|>"
    with pytest.raises(PipelineError, match="the assistant's message 'four'"):
        thinking = thinking.replace("[-1]", "[0]")
        render(tiny_tokenizer(thinking), talk("q", "<think>hm</think>four", "q?"), "auto")


def test_a_template_s_refusal_names_the_prompt() -> None:
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(PipelineError, match=r"prompt 'y': the model's chat template refuses .*: one only"):
        render_all(tiny_tokenizer(refusing), ["x", "y"], [talk("a"), talk("a", "b", "c")], "auto", 99)


def test_a_model_with_several_templates_and_no_default_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"rag": CHAT_TEMPLATE, "tools": CHAT_TEMPLATE}
    with pytest.raises(PipelineError, match="the model's chat template cannot be used"):
        render(tokenizer, [USER], "auto")


def test_the_first_round_says_where_special_tokens_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist([{"prompt_id": i, "messages": talk(t)} for i, t in (("a", "q"), ("b", "<|end|>!"))])
    check_prompts(tiny_tokenizer(), table, "auto", 99, "rollout r001")
    said = " ".join(capsys.readouterr().out.split())
    assert "prompts with special tokens' text: 1, such as '<|end|>' in 'b'; it is taken as text" in said
    check_prompts(tiny_tokenizer(), table, "auto", 99, "rollout r001", special_tokens="tokens")
    assert capsys.readouterr().out == ""
