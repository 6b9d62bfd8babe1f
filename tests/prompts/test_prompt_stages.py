"""From a prompt file to what the stages `rollout` and `evaluate` show the model: the settings reach both."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import CHAT_TEMPLATE, save_tiny, tiny_tokenizer
from reward_models import save_reward_model
from rewards.test_rewards_model import component
from ruamel.yaml import YAML
from transformers import AutoTokenizer

from ppo_pipeline.cli.questions import of_split, of_texts
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.rewards.model_inputs import tokenise
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import EvaluateSettings, RolloutSettings
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.rollouts import ROLLOUTS
from stages.__main__ import main

BASE = Paths().base
COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
DATED = "{{ strftime_now('%d %b') }}" + CHAT_TEMPLATE
ROWS = [
    {"prompt": [{"role": "user", "content": "q <|end|>"}, {"role": "assistant", "content": "It is"}], "split": split}
    for split in ("train", "heldout")
]
ROWS[1]["prompt"][0] = {"role": "user", "content": "r <|end|>"}  # type: ignore[index]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the three stages with these settings of `prompts` and returns their outputs."""
    monkeypatch.chdir(tmp_path)
    save_tiny(BASE, chat_template=DATED)
    for name in ("r000", "r001"):
        Path("data/settings", name).mkdir(parents=True)
    Path("data/rounds/r000").mkdir(parents=True)
    Path("data/rounds/r000/policy").symlink_to(BASE.resolve())
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def start(**changes: Any) -> tuple[str, Any, Any]:
        data = YAML(typ="safe").load(COMMITTED)
        data["prompts"] |= {"source": "p.jsonl", "continue_final_message": True, "date": "2025-03-05", **changes}
        data["compute"] |= {"device": "cpu", "dtype": "fp32"}
        data["rollout"] |= {"prompts_per_round": 1, "max_new_tokens": 3}
        data["update"]["minibatches"] = 1
        data["reward"]["components"] = data["reward"]["components"][:1]
        data["reward"]["components"][0] |= {"match": "regex", "pattern": "x", "case_column": None}
        YAML().dump(data, Path("params.yaml"))
        PROMPT_SCORES.write(PROMPT_SCORES.arrow.empty_table(), Paths("r000").prompt_scores)
        params = load_params(Path("params.yaml"))
        for stage, name in ((RolloutSettings, "r001"), (EvaluateSettings, "r000")):
            text = stage.of(params, name).model_dump_json(by_alias=True)
            Paths(name).settings(stage.stage).write_text(text)
        output = ""
        for arguments in (["prompts"], ["evaluate", "r000"], ["rollout", "r001"]):
            result = CliRunner().invoke(main, arguments)
            output += " ".join(result.output.split())
            if result.exit_code:
                return output, None, None
        return output, ROLLOUTS.read(Paths("r001").rollouts), EVALUATION.read(Paths("r000").evaluation)

    return start


def test_both_stages_show_the_open_message_the_date_and_text_in_place_of_tokens(run: Any) -> None:
    output, rollouts, answers = run()
    assert rollouts["prompt_text"].to_pylist() == ["05 Mar<|user|>q <|end|><|end|><|assistant|>It is"]
    assert answers["prompt_text"].to_pylist() == ["05 Mar<|user|>r <|end|><|end|><|assistant|>It is"]
    tokenizer = tiny_tokenizer()

    def letters(text: str) -> list[int]:
        return [i for c in text for i in tokenizer(c, add_special_tokens=False)["input_ids"]]

    ids = [*letters("05 Mar"), 258, *letters("q <|end|>"), 257, 259, *letters("It is")]
    assert rollouts["prompt_ids"].to_pylist() == [ids]
    assert "taken as text" in output
    assert letters("<|end|>") != [257]
    _, as_tokens, other_answers = run(special_tokens="tokens")
    assert as_tokens["prompt_ids"].to_pylist()[0].count(257) == 2
    assert other_answers["prompt_text"] == answers["prompt_text"]
    assert other_answers["response_ids"] != answers["response_ids"]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_token_that_the_model_has_not_stops_either_stage(run: Any, split: str) -> None:
    tokenizer = tiny_tokenizer(DATED)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(BASE)
    more = {"prompt": "<new>", "prompt_id": "n", "split": split}
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, more]))
    output, rollouts, _ = run()
    assert "prompt 'n': its token '<new>' is number 261, the model has 261" in output
    assert rollouts is None


def test_what_a_setting_refuses_stops_the_stage_that_meets_it(run: Any) -> None:
    output, rollouts, _ = run(continue_final_message=False)
    assert "p.jsonl, row 1: the last message is the assistant's" in output
    assert rollouts is None
    output, rollouts, _ = run(date=None)
    assert "prompts.date: the model's chat template asks for today's date" in output
    assert rollouts is None


def test_chat_shows_the_model_what_the_stages_do(run: Any) -> None:
    """The messages with special tokens' text, a begun answer and a date in the template: the same ids."""
    _, rollouts, evaluation = run()
    params, tokenizer = load_params(), tiny_tokenizer(DATED)
    [train], _ = of_split(tokenizer, params, "train", 10, 261)
    assert train.ids == rollouts.column("prompt_ids").to_pylist()[0]
    [heldout], _ = of_split(tokenizer, params, "heldout", 10, 261)
    assert tokenizer.decode(heldout.ids) == evaluation.column("prompt_text").to_pylist()[0]
    [text] = of_texts(tokenizer, params, ["q <|end|>"], 261)
    assert tokenizer.decode(text.ids) + "It is" == tokenizer.decode(train.ids)
    assert text.ids == train.ids[: len(text.ids)]


def test_chat_refuses_what_the_stages_refuse() -> None:
    params, tokenizer = load_params(COMMITTED), tiny_tokenizer(DATED)
    undated = params.model_copy(update={"prompts": params.prompts.model_copy(update={"date": None})})
    with pytest.raises(PipelineError, match=r"prompts\.date"):
        of_texts(tokenizer, undated, ["q"], 261)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(PipelineError, match="the prompt '<new>': its token '<new>' is number 261, the model has 261"):
        of_texts(tokenizer, params, ["q", "<new>"], 261)


def test_a_chat_reward_model_reads_the_begun_answer_and_its_end_as_one_message(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "It "}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    [inputs], _ = tokenise(component(folder, input="chat"), tokenizer, Samples(["s"], [talk], ["q"], ["is"], [[1]], {}))
    whole = [talk[0], {"role": "assistant", "content": "It is"}]
    assert inputs["input_ids"] == tokenizer.apply_chat_template(whole)["input_ids"]
