"""params.yaml changed at random: it loads, or the error names the setting; rounds of any shape; edits of any file."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, changed, declared, examples, places
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.rounds_file import RoundsFile, flow, parse_overrides
from ppo_pipeline.settings.params import Params, Round, load_params
from ppo_pipeline.settings.stage_settings import ROUND_STAGES, read_settings

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
DATA = YAML(typ="safe", pure=True).load(COMMITTED.read_text(encoding="utf-8"))
DATA["rounds"] = {"r001": {"parent": "r000"}, "r002": {"parent": "r001", "advantage": {"gamma": 0.5}, "seed": 3}}
HEAD = COMMITTED.read_text(encoding="utf-8").split("\nrounds:")[0] + "\n"
PARAMS = Params.model_validate(DATA)


def text_of(data: Any) -> str:
    """Return settings as YAML on one line: no style of its own, so that any value can stand in it."""
    return flow(data) + "\n"


def names_it(message: str, path: tuple[Any, ...]) -> bool:
    """Tell whether an error names the setting, or the section that it is in and its own name.

    Two settings that disagree are told by a sentence; one about too few samples speaks of them alone, and
    one about a component that is gone of reward.correct, which names it.
    """
    texts = [str(part) for part in path]
    whole = ".".join(texts)
    if path[0] == "rounds" and len(path) > 2:
        whole = f"(rounds.{path[1]}): {'.'.join(texts[2:])}"
    known = whole in message or ".".join(texts) in message
    named_elsewhere = path[:2] == ("reward", "components") and "correct.component" in message
    return known or texts[-1] in message or "samples a round" in message or named_elsewhere


@examples(70)
@given(st.sampled_from([*places(DATA)]), JSON | st.just(...))
def test_a_setting_of_any_value_loads_or_is_named(tmp_path_factory: pytest.TempPathFactory, path, value) -> None:
    try:
        text = text_of(changed(DATA, path, value))
        text.encode("utf-8")
    except Exception:  # what cannot be written as YAML cannot stand in the file
        return
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        load_params(file)
    except PipelineError as error:
        message = error.message.replace(str(file), "params.yaml")
        assert names_it(message, path) or "not valid YAML" in message, message


@examples(60)
@given(
    st.sampled_from([(), *(p for p in places(DATA) if isinstance(p[-1], str))]),
    st.text("abcdefg_", min_size=1, max_size=9),
)
def test_a_setting_that_does_not_exist_is_named_wherever_it_stands(path, name: str) -> None:
    holder: Any = DATA
    for part in path:
        holder = holder[part]
    maps = (("rounds",), ("sources",), ("preferences",), ("sft",), ("reward_model",))
    if not isinstance(holder, dict) or name in holder or path in maps:
        return
    if path[:1] == ("rounds",) and len(path) == 2 and name in Round.model_fields:
        return
    data = changed(DATA, (*path, name), 1)
    from pydantic import ValidationError

    from ppo_pipeline.settings.explain import explain

    if path[:1] == ("rounds",) and len(path) > 2:
        with pytest.raises(
            PipelineError, match=rf"\(rounds\.{path[1]}\): {'.'.join(path[2:])}\.{name}: no such setting"
        ):
            Params.model_validate(data).of_round(path[1])
        return
    with pytest.raises(ValidationError) as caught:
        Params.model_validate(data)
    assert f"params.yaml: {'.'.join(map(str, (*path, name)))}: no such setting." in explain(
        caught.value, Params, "params.yaml"
    )


POSITIVE = st.floats(1e-12, 1e12)
OVERRIDES = {
    "seed": st.integers(0, 2**63),
    "advantage.kl_coef": POSITIVE,
    "advantage.gamma": st.floats(0, 1),
    "advantage.lambda": st.floats(0, 1),
    "advantage.estimator": st.sampled_from(["gae", "reinforce++"]),
    "advantage.missing_eos_score": st.none() | st.floats(-1e300, 1e300),
    "rollout.temperature": POSITIVE,
    "rollout.top_k": st.none() | st.integers(1, 10**6),
    "rollout.stop_tokens": st.lists(st.text(max_size=5), max_size=3),
    "update.lr": POSITIVE,
    "update.clip_range_high": st.none() | POSITIVE,
    "update.epochs": st.integers(1, 10**6),
    "reference.share_prefix": st.sampled_from((False, True, "tree")),
    "evaluate.max_prompts": st.integers(0, 10**6),
}


@examples(20)
@given(st.data())
def test_an_override_comes_back_from_the_command_line_the_file_and_the_stage_s_json(tmp_path_factory, data) -> None:
    names = data.draw(st.lists(st.sampled_from([*OVERRIDES]), unique=True, min_size=1, max_size=4))
    values = {name: data.draw(OVERRIDES[name]) for name in names}
    overrides = parse_overrides([f"{name}={flow([value])[1:-1]}" for name, value in values.items()])
    folder = tmp_path_factory.getbasetemp() / "overrides"
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(text_of(DATA), encoding="utf-8", newline="")
    file = RoundsFile(folder / "params.yaml")
    file.add("b", "r002", overrides)
    file.save()
    params = load_params(folder / "params.yaml")
    expected = DATA
    for name, value in values.items():
        expected = changed(expected, tuple(name.split(".")), value)
    effective = params.of_round("b").model_dump(by_alias=True)
    assert {key: effective[key] for key in expected if key != "rounds"} == {
        key: value for key, value in expected.items() if key != "rounds"
    }
    assert params.of_round("r001").model_dump(exclude={"rounds"}) == PARAMS.model_dump(exclude={"rounds"})
    for cls in ROUND_STAGES.values():
        settings = cls.of(params, "b")
        (folder / "stage.json").write_text(settings.model_dump_json(by_alias=True), encoding="utf-8")
        assert read_settings(cls, folder / "stage.json") == settings


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    """Return rounds with their parents, in any order: a random tree below r000."""
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,5}", fullmatch=True), unique=True, min_size=1, max_size=12)
    )
    names = [name for name in names if name != "r000"] or ["a"]
    parents = {name: draw(st.sampled_from(["r000", *names[:i]])) for i, name in enumerate(names)}
    return {name: parents[name] for name in draw(st.permutations(names))}


def with_rounds(parents: dict[str, str]) -> Params:
    return Params.model_validate({**DATA, "rounds": {name: {"parent": parent} for name, parent in parents.items()}})


@examples(80)
@given(trees())
def test_lineage_and_depth_of_any_tree(parents: dict[str, str]) -> None:
    params = with_rounds(parents)

    def way(name: str) -> list[str]:
        return [] if name == "r000" else [*way(parents[name]), name]

    for name in parents:
        assert params.lineage(name) == way(name)
        assert params.depth(name) == len(way(name))
    end = "r000"
    while behind := [name for name, parent in parents.items() if parent == end]:
        end = behind[0]
    assert params.last_round == end and params.lines[0][-1] == end
    assert sorted(name for line in params.lines for name in line) == sorted(parents)
    assert all(parents[child] == name for line in params.lines for name, child in pairwise(line))


@examples(80)
@given(trees(), st.data())
def test_a_cycle_or_an_unknown_parent_anywhere_is_refused(parents: dict[str, str], data) -> None:
    name = data.draw(st.sampled_from([*parents]))
    below = {name}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    cycle = with_rounds({**parents, name: data.draw(st.sampled_from(sorted(below)))})
    lost = with_rounds({**parents, name: "no-such-round"})
    for child in parents:
        if child in below:
            with pytest.raises(PipelineError, match=r"rounds\.\S+ is among its own ancestors"):
                cycle.lineage(child)
            with pytest.raises(PipelineError, match=rf"rounds\.{name}\.parent: no round 'no-such-round'"):
                lost.lineage(child)
        else:
            assert cycle.depth(child) == lost.depth(child) == with_rounds(parents).depth(child)


@st.composite
def round_files(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, list[str]], list[tuple[str | None, str]]]:
    """Return a rounds map's parents and its lines, each with the round that it belongs to (None: comments)."""
    parents = draw(trees())
    indent = " " * draw(st.integers(1, 4))
    lines: list[tuple[str | None, str]] = []
    comment = st.sampled_from(["", "", "# why", f"{indent}# about the next", f"{indent}   # deep"])
    for name, parent in parents.items():
        if text := draw(comment):
            lines.append((None, text))
        key = draw(st.sampled_from([name, f'"{name}"', f"'{name}'"]))
        how = draw(st.sampled_from(["flow", "flow over lines", "block", "block with override"]))
        tail = draw(st.sampled_from(["", "  # tail", " "]))
        if how == "flow":
            own = [f"{indent}{key}: {{parent: {parent}}}{tail}"]
        elif how == "flow over lines":
            own = [f"{indent}{key}: {{parent: {parent},", f"{indent}  seed: 1}}{tail}"]
        else:
            own = [f"{indent}{key}:{tail}", f"{indent}  parent: {parent}{tail}"]
            own += [f"{indent}  advantage:", f"{indent}    gamma: 0.5"] if how == "block with override" else []
        lines += [(name, line) for line in own]
        if draw(st.booleans()):
            lines.append((None, ""))
    lines += [(None, line) for line in draw(st.sampled_from([[], ["# the end"], ["", "# the end", ""]]))]
    return parents, lines


@examples(20)
@given(round_files(), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
def test_rounds_are_added_and_removed_and_no_other_line_changes(tmp_path_factory, file, end, at_end, data) -> None:
    """at_end: the rounds are the file's last section. The added line stands behind the last round's last line."""
    parents, lines = file
    head, behind = (HEAD, "") if at_end else ("", HEAD)
    before = head + "rounds:  # mine\n"
    texts = [text for _, text in lines]
    path = tmp_path_factory.getbasetemp() / "edited.yaml"

    def write(body: list[str]) -> bytes:
        return (before + "".join(f"{text}\n" for text in body) + behind).replace("\n", end).encode()

    path.write_bytes(write(texts))
    parent = data.draw(st.sampled_from(["r000", *parents]))
    edited = RoundsFile(path)
    edited.add("new-round", parent, {"seed": 7})
    edited.save()
    last = max(i for i, (owner, _) in enumerate(lines) if owner is not None)
    indent = " " * (len(lines[0 if lines[0][0] else 1][1]) - len(lines[0 if lines[0][0] else 1][1].lstrip()))
    added = f"{indent}new-round: {{parent: {parent}, seed: 7}}"
    assert path.read_bytes() == write([*texts[: last + 1], added, *texts[last + 1 :]])
    edited = RoundsFile(path)
    edited.remove("new-round")
    edited.save()
    assert path.read_bytes() == write(texts)
    leaves = sorted(set(parents) - set(parents.values()))
    name = data.draw(st.sampled_from(leaves))
    edited = RoundsFile(path)  # both at a time
    edited.remove(name)
    edited.add("new-round", "r000", {"seed": 7})
    edited.save()
    kept, later = ([text for owner, text in part if owner != name] for part in (lines[: last + 1], lines[last + 1 :]))
    assert path.read_bytes() == write([*kept, f"{indent}new-round: {{parent: r000, seed: 7}}", *later])
    path.write_bytes(write(texts))
    if len(parents) > 1:
        edited = RoundsFile(path)
        edited.remove(name)
        edited.save()
        assert path.read_bytes() == write([text for owner, text in lines if owner != name])
        assert [*load_params(path).rounds] == [each for each in parents if each != name]


@examples(60)
@given(st.text(max_size=20))
def test_any_text_as_an_override_is_a_value_or_a_message(text: str) -> None:
    declared(lambda: parse_overrides([f"advantage.gamma={text}"]))
    declared(lambda: parse_overrides([text]))
