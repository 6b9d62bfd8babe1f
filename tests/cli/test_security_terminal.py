"""Text of models, prompt files and services in the terminal: harmless in every command that prints it."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe.progress import result
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rollouts import ROLLOUTS

# Colour, title, an OSC 8 link, a C1 introducer, erase, bell, backspace, a carriage return, reversed order, rich markup.
EVIL = (
    "\x1b[31mred\x1b]0;title\x07\x1b]8;;http://evil/\x1b\\link\x1b]8;;\x1b\\ \x9b2J\x9d0;t\x9c \x08\x08 over\rwrite "
    "\u202eabc\u2066 [bold red]x[/] [link=http://evil/]y[/link] [/nothing] \x00\x7f"
)


def harmless(text: str) -> bool:
    """Tell whether a terminal prints `text` and does nothing else. In a pipe tabs stand between a table's cells."""
    controls = {c for c in text if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    return not controls and not {c for c in text if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLI", "LRI")}


@pytest.fixture(params=["rollouts", "prompts", "evaluation"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a table with EVIL wherever it has text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    texts = {"prompt_id": [EVIL], "prompt_text": [EVIL], "response_text": [EVIL]}
    path = tmp_path / "data/rounds/r001/table.parquet"
    if request.param == "prompts":
        messages = pa.array([[{"role": "user", "content": EVIL}]])
        rows = {"prompt_id": [EVIL], "messages": messages, "split": ["train"], EVIL: [EVIL]}
        PROMPTS.write(pa.table(rows), path)
    elif request.param == "rollouts":
        more = {"sample_id": [EVIL], "sample_index": [0], "prompt_ids": [[1]], "response_ids": [[65]]}
        more |= {"rollout_logprobs": [[-1.0]], "kept_mass": [[1.0]], "finish_reason": ["stop"]}
        ROLLOUTS.write(pa.table({**more, **texts}), path)
    else:
        more = {"response_ids": [[65, 66]], "finish_reason": ["stop"], "score": [1.5], "correct": [True]}
        EVALUATION.write(pa.table({**texts, **more}), path)
    return path


@pytest.mark.parametrize(
    "options", [[], ["--sample", EVIL], ["--json"], ["--sample", EVIL[:-1]], ["--sort", "nothing"]]
)
def test_show_prints_hostile_text_harmlessly(table: Path, options: list[str]) -> None:
    assert not harmless(EVIL)
    shown = CliRunner().invoke(main, ["show", str(table), *options])
    assert "Traceback" not in shown.output
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    assert harmless(shown.output), ascii(shown.output)
    if "--json" in options:
        assert EVIL in json.loads(shown.output).values(), "the same text, only written with escapes"
    elif options[:1] != ["--sort"]:
        assert "[31mred" in shown.output
        assert "[bold red]x[/]" in shown.output


def test_errors_and_results_print_hostile_text_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    PipelineError(f"prompts.parquet: prompt '{EVIL}':\n\tremove it.").show()
    result("rollout", EVIL)
    out, err = capsys.readouterr()
    assert harmless(out)
    assert harmless(err.replace("\t", ""))
    assert ":\n\tremove it." in err
