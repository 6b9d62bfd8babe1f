"""`ppo-pipeline report`: what the file holds, against the tables read with pyarrow alone."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from report_project import BRANCHED, IMAGE, REPOSITORY, TEXTS, work_on_copy, write_project

from ppo_pipeline.cli.main import main
from ppo_pipeline.report import page as page_module
from ppo_pipeline.report.branches import changes, lines_of
from ppo_pipeline.report.conversations import Conversations
from ppo_pipeline.report.round_data import read_round
from ppo_pipeline.report.run import Run
from ppo_pipeline.report.token_numbers import numbers_of
from ppo_pipeline.settings.params import Round


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("made") / "project", BRANCHED, samples=12)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_on_copy(made, tmp_path / "project", monkeypatch)


def report(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["report", *arguments])
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result.output


class Scripts(HTMLParser):
    """The page as a browser reads it: its elements, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside = ""
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag in ("script", "style"):
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def blocks(self) -> dict[str, Any]:
        found = [(a["id"].removeprefix("block-"), text) for a, text in self.scripts if a.get("id")]
        return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in found}


def parsed(path: str = "report.html") -> Scripts:
    return Scripts(Path(path).read_text(encoding="utf-8"))


def rows_of(name: str, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(f"data/rounds/{name}/{table}.parquet").to_pylist()
    return rows


def test_the_samples_are_those_of_the_tables(project: Path) -> None:
    assert "6 rounds, 60 of 60 samples" in report()
    index = parsed().blocks()["index"]
    table = index["samples"]
    assert set(table["round"]) == set(BRANCHED) and len(table["id"]) == 60
    for name in ("r001", "r003b"):
        rollouts, rewards, reference = (rows_of(name, t) for t in ("rollouts", "rewards", "reference"))
        for i, (rollout, reward, scored) in enumerate(zip(rollouts, rewards, reference, strict=True)):
            at = table["id"].index(rollout["sample_id"])
            assert (table["round"][at], table["row"][at]) == (name, i)
            assert table["response"][at] == rollout["response_text"]
            assert index["texts"][table["prompt"][at]] == TEXTS[i % len(TEXTS)][0]
            assert index["texts"][table["full"][at]] == rollout["prompt_text"]
            assert (table["tokens"][at], table["finish"][at]) == (
                len(rollout["response_ids"]),
                rollout["finish_reason"],
            )
            for part in ("clarity", "brevity"):
                assert table["scores"][part][at] == pytest.approx(reward[part], abs=5.1e-5)
            assert table["score"][at] == pytest.approx(reward["score"], abs=5.1e-5)
            kl = sum(p - r for p, r in zip(scored["policy_logprobs"], scored["reference_logprobs"], strict=True))
            assert table["kl"][at] == pytest.approx(kl, abs=5.1e-5)


def test_each_token_has_its_own_numbers_and_pieces_make_the_response(project: Path) -> None:
    report()
    block = parsed().blocks()["tokens-r002b"]
    rollouts, reference, advantages = (rows_of("r002b", t) for t in ("rollouts", "reference", "advantages"))
    for i, rollout in enumerate(rollouts):
        pieces, special = block["pieces"][i], block["special"][i]
        assert "".join(pieces[:-1]) == rollout["response_text"] and (pieces[-1], special) == (
            "<|end|>",
            [len(pieces) - 1],
        )
        counts = block["counts"][i] or [1] * len(pieces)
        assert sum(counts) == len(rollout["response_ids"])
        if rollout["response_text"] == TEXTS[2][1]:  # bytes are this tokenizer's tokens
            assert [len(p.encode()) for p in pieces[:-1]] == counts[:-1]
        expected = {
            "advantage": advantages[i]["advantages"], "return": advantages[i]["returns"],
            "reward": advantages[i]["token_rewards"], "value": reference[i]["values"],
            "logprob": reference[i]["policy_logprobs"],
            "kl": np.subtract(reference[i]["policy_logprobs"], reference[i]["reference_logprobs"]),
        }  # fmt: skip
        if "entropy" in reference[i]:
            expected["entropy"] = reference[i]["entropy"]
        assert set(block["numbers"]) == set(expected)
        for name, numbers in expected.items():
            np.testing.assert_allclose(np.array(block["numbers"][name][i]) / 1e4, numbers, atol=5.1e-5)


def test_entropy_is_a_colouring_where_the_reference_table_has_it(project: Path) -> None:
    run = Run(project)
    r = read_round(run, "r001", 3, Conversations(run))
    assert r is not None and r.reference is not None
    without = r.reference.select([name for name in r.reference.column_names if name != "entropy"])
    entropy = pa.array([[0.5] * len(ids) for ids in r.rollouts.column("response_ids").to_pylist()])
    found = numbers_of(replace(r, reference=without.append_column("entropy", entropy)))
    assert set(found["entropy"]) == {0.5} and len(found["entropy"]) == len(found["kl"])
    for table in (without, without.append_column("entropy", pa.nulls(3, entropy.type))):
        assert "entropy" not in numbers_of(replace(r, reference=table))


def test_held_out_answers_curves_and_distributions(project: Path) -> None:
    report()
    blocks = parsed().blocks()
    heldout = blocks["heldout"]
    assert list(heldout["rounds"]) == ["r000", "r001", "r002b", "r003b", "r002", "r003"]
    for name in ("r000", "r003"):
        expected = rows_of(name, "eval")
        assert heldout["rounds"][name]["response"] == [row["response_text"] for row in expected]
        np.testing.assert_allclose(heldout["rounds"][name]["score"], [row["score"] for row in expected], atol=5.1e-5)
    curve = blocks["index"]["curves"]["values"]["objective/kl"]
    for name in BRANCHED:
        number = json.loads(Path(f"metrics/rounds/{name}.json").read_text())["objective/kl"]
        assert curve[name] == pytest.approx(number, rel=1e-5)
    assert "r000" not in curve
    kinds = {kind["key"]: kind for kind in blocks["index"]["distributions"]}
    scores = np.array([row["score"] for row in rows_of("r002", "rewards")])
    found = kinds["score"]["rounds"]["r002"]
    assert found["mean"] == pytest.approx(scores.mean(), abs=1e-4) and sum(found["counts"]) == len(scores)
    assert found["quantiles"] == pytest.approx(
        [np.quantile(scores, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)], abs=1e-4
    )
    edges = kinds["length"]["edges"]
    assert all(b - a == round(b - a) and a % 1 == 0.5 for a, b in pairwise(edges))


def test_a_standard_error_is_told_with_its_metric_and_has_no_chart(project: Path) -> None:
    path = Path("metrics/rounds/r001.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "eval/scores_se": 0.25, "of_use_se": 0.5}))
    report()
    curves = parsed().blocks()["index"]["curves"]
    assert curves["values"]["eval/scores_se"] == {"r001": 0.25}
    charts = [chart["metric"] for chart in curves["charts"]]
    assert "eval/scores" in charts and "of_use_se" in charts and "eval/scores_se" not in charts


def test_rewards_beside_the_score_are_told_with_their_weights(project: Path) -> None:
    report()
    shown = [reward["metric"] for reward in parsed().blocks()["index"]["curves"]["rewards"]]
    assert shown == ["objective/scores"], "no component was recorded"
    path = Path("metrics/rounds/r001.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "reward/answer": 0.25, "reward/near": 0.5}))
    report()
    found = [(reward["metric"], reward["title"]) for reward in parsed().blocks()["index"]["curves"]["rewards"]]
    assert found == [
        ("objective/scores", "Training score"),
        ("reward/answer", "answer, weight 1"), ("reward/near", "near, weight 1"),
    ]  # fmt: skip


def test_every_round_is_in_one_line_and_branches_start_at_their_parent(project: Path) -> None:
    lines = lines_of(Run(project).params)
    assert [(line.start, line.rounds) for line in lines] == [
        (None, ["r000", "r001", "r002b", "r003b"]),
        ("r001", ["r002", "r003"]),
    ]
    assert lines[0].label == "r000 to r003b: advantage.kl_coef=0.2 in r002b to r003b"
    assert lines[1].label == "r002 to r003 from r001"


def test_a_label_says_in_which_rounds_of_the_line_a_setting_holds() -> None:
    high = {"advantage": {"kl_coef": 0.2}}
    rounds = {
        "a": Round(parent="r000", **high), "b": Round(parent="a", **high), "c": Round(parent="b", main=True),
        "d": Round(parent="c", seed=1, **high),
    }  # fmt: skip
    assert changes(rounds, [*rounds]) == ": advantage.kl_coef=0.2 in a to b; seed=1, advantage.kl_coef=0.2 in d"
    assert changes(rounds, ["a", "b"]) == ": advantage.kl_coef=0.2" and changes(rounds, ["c"]) == ""


def test_limits_are_said(project: Path) -> None:
    output = report("--samples", "5", "--round", "r001", "--round", "r003")
    assert "10 of 24 samples are in this file, the first of each round." in output
    assert "Of 7 held-out prompts the first 5 are in this file." in output
    blocks = parsed().blocks()
    assert blocks["index"]["samples"]["round"] == ["r001"] * 5 + ["r003"] * 5
    assert blocks["index"]["total"] == 24 and set(blocks["heldout"]["rounds"]) == {"r000", "r001", "r003"}
    assert set(blocks["index"]["curves"]["values"]["objective/kl"]) == set(BRANCHED), "curves have every round"
    assert sum(blocks["index"]["distributions"][0]["rounds"]["r001"]["counts"]) == 12, (
        "so has a distribution every sample"
    )
    assert "no round 'r004'. Did you mean" in report("--round", "r004", code=1)


def test_without_a_limit_the_samples_make_a_sensible_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppo_pipeline.report import samples

    monkeypatch.setattr(samples, "MOST_SAMPLES", 47)  # 9 for each of 5 rounds
    assert "45 of 60 samples" in report()
    monkeypatch.setattr(samples, "MOST_TOKENS", 1000)
    lengths = [len(row["response_ids"]) for name in BRANCHED for row in rows_of(name, "rollouts")]
    each = int(1000 / (5 * np.mean(lengths)))
    assert 0 < each < 9 and f"{5 * each} of 60 samples" in report()
    assert "60 of 60 samples" in report("--samples", "12")


def test_what_is_missing_or_stale_is_left_out_and_noted(project: Path) -> None:
    (project / "data/rounds/r001/rewards.parquet").unlink()
    (project / "data/rounds/r002/rollouts.parquet").unlink()
    (project / "data/rounds/r003/reference.parquet").write_bytes(b"no table")
    shutil.copy("data/rounds/r001/advantages.parquet", "data/rounds/r002b/advantages.parquet")
    shutil.rmtree(project / "data/base")
    (project / "metrics/rounds/r003.json").unlink()
    output = report()
    notes = parsed().blocks()["index"]["notes"]
    for words in (
        "rewards.parquet: not here for r001; `dvc repro` makes it",
        "rollouts.parquet: not here for r002;",
        "data/rounds/r003/reference.parquet: not a readable Parquet file",
        "data/rounds/r002b/advantages.parquet: left out, it is of other samples",
        "data/base/tokenizer.json: not here, tokens are shown by their ids",
        "No metrics yet for r003;",
    ):
        assert any(words in note for note in notes), words
        assert words in output
    index = parsed().blocks()["index"]
    first = index["samples"]["round"].index("r001")
    assert index["samples"]["score"][first] is None and index["samples"]["kl"][first] is not None
    assert "r002" not in index["samples"]["round"]
    assert parsed().blocks()["tokens-r001"]["pieces"][0][0].startswith("[")


def test_a_run_with_nothing_done_yet(project: Path) -> None:
    shutil.rmtree(project / "data")
    shutil.rmtree(project / "metrics")
    assert "0 of 0 samples" in report()
    (project / "params.yaml").unlink()
    assert "run from the project's top folder" in report(code=1)


def test_sealed_rounds_are_in_it(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    entry = "  r001: {parent: r000}\n"
    assert entry in text
    (project / "params.yaml").write_text(text.replace(entry, ""))
    (project / "sealed/metrics").mkdir(parents=True)
    (project / "sealed/rounds.yaml").write_text("r001: {parent: r000}\n")
    (project / "sealed/metrics/r001.json").write_text('{"advantage": {"objective/kl": 1.25}}')
    report()
    index = parsed().blocks()["index"]
    assert index["curves"]["values"]["objective/kl"]["r001"] == 1.25 and "r001" in index["samples"]["round"]


def test_texts_cannot_break_out_and_nothing_is_loaded(project: Path) -> None:
    report()
    text = Path("report.html").read_text(encoding="utf-8")
    page = parsed()
    assert IMAGE in page.blocks()["index"]["samples"]["response"]
    assert "document.title='hit'" not in text and "\u2028" not in text
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    for attributes, content in page.scripts:
        if not attributes.get("type"):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy, "the policy forbids a script or style of the page itself"
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "href", "style") for name in attributes)
    assert "sourceMappingURL" not in text


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(project: Path, tmp_path: Path) -> None:
    report()
    report("--output", "again.html")
    assert Path("again.html").read_bytes() == Path("report.html").read_bytes()
    shutil.copytree(project, tmp_path / "elsewhere")
    command = [sys.executable, "-m", "ppo_pipeline.cli.main", "report", "--output", "other.html"]
    subprocess.run(command, cwd=tmp_path / "elsewhere", check=True, capture_output=True)
    assert (tmp_path / "elsewhere/other.html").read_bytes() == Path("report.html").read_bytes()


def test_neither_torch_nor_transformers_is_imported(project: Path) -> None:
    code = (
        "import sys; from ppo_pipeline.cli.main import main; main(['report'], standalone_mode=False);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)


def test_output_is_a_file_and_whole(project: Path) -> None:
    assert "is a folder" in report("--output", "data", code=1)
    Path("report.html").write_text("old")
    (project / "metrics/rounds/r001.json").write_text("{")
    assert "not valid JSON" in report(code=1)
    assert Path("report.html").read_text() == "old" and not list(project.glob(".report*"))


def test_embedded_libraries_are_the_ones_named_and_are_in_the_wheel() -> None:
    folder = REPOSITORY / "ppo_pipeline/report"
    listed = re.findall(r"^\| (\S+) \|.* ([0-9a-f]{64}) \|$", (folder / "vendor/README.md").read_text(), re.M)
    assert {name for name, _ in listed} == {p.name for p in (folder / "vendor").glob("*.min.*")}
    for name, digest in listed:
        assert hashlib.sha256((folder / "vendor" / name).read_bytes()).hexdigest() == digest
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    used = [*page_module.STYLES, *page_module.LIBRARIES, "template/page.html", "vendor/LICENSE.uPlot"]
    used += [f"template/{name}.js" for name in page_module.SCRIPTS]
    for name in used:
        assert (folder / name).is_file() and any(fnmatch(f"report/{name}", p) for p in settings["ppo_pipeline"])
