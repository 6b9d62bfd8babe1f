"""The rule reward and the weighted sum of components."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.normal_form import normalise
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import correct_of, join_prompts, score_samples
from ppo_pipeline.rewards.types.rule import RuleComponent, matches
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.reward_sections import Reward


def rule(**changes: object) -> RuleComponent:
    values = {
        "type": "rule", "name": "rule", "weight": 1.0, "match": "contains", "column": "expected", "pattern": None,
        "tolerance": None, "hit": 1.0, "miss": -1.0, "length_penalty": 0.002, "max_length_penalty": None,
        "case_column": None,
    }  # fmt: skip
    return RuleComponent(**{**values, **changes})


def samples(responses: list[str], **columns: list) -> Samples:
    ids = [f"s{i}" for i in range(len(responses))]
    talk = [[{"role": "user", "content": "q"}]] * len(ids)
    return Samples(ids, talk, ["q"] * len(ids), responses, [[0]] * len(ids), columns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" The  Cat.\n", "the cat"), ("“猫”。", "猫"), ("ＡＢＣ！", "abc"), ("**7**", "7"), ("...", ""), ("a-b", "a-b")],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("response", "expected", "exact", "word", "contains"),
    [
        ("12", "1", False, False, True),
        ("it is 1", "1", False, True, True),
        ("category", "cat", False, False, True),
        ("答案是北京市", "北京", False, True, True),
        ("cold", "cold", True, True, True),
        ("hot", "cold", False, False, False),
        ("a.b", "a+b", False, False, False),
    ],
)
def test_matches(response: str, expected: str, exact: bool, word: bool, contains: bool) -> None:
    found = [matches(response, expected, how) for how in ("exact", "word", "contains")]
    assert found == [exact, word, contains]


def test_the_lora_notebook_s_rule() -> None:
    """Found: +1, else -1, less 0.002 for each character of the normalised answer."""
    given = samples([" The answer is Paris. ", "London", ""], expected=["paris", "Paris", "x"])
    assert rule().score(given) == pytest.approx([1 - 0.002 * 19, -1 - 0.002 * 6, -1.0])


@pytest.mark.parametrize(
    ("response", "expected", "reward"),
    [
        ("The name is: Alice  Brown.", "alice brown", 1 - 0.002 * 19),  # thenameisalicebrown
        ("alice-BROWN", "Alice Brown", 1 - 0.002 * 10),
        ("“李明”，\n是我的 名字。", "李明", 1 - 0.002 * 7),
        ("I love\tmusic!", "I love music", 1 - 0.002 * 10),
        ("1 2", "12", 1 - 0.002 * 2),  # a known weakness
        ("-5", "5", 1 - 0.002 * 2),  # as with contains
        ("5", "-5", -1 - 0.002),
        ("1.5", "15", -1 - 0.002 * 3),
        ("... !", "x", -1.0),
    ],
)
def test_characters_leave_white_space_and_punctuation_out(response: str, expected: str, reward: float) -> None:
    given = samples([response], expected=[expected])
    assert rule(match="characters").score(given) == pytest.approx([reward])


@pytest.mark.parametrize(
    ("response", "expected", "share"),
    [
        ("abcd", "bcde", 2 * 3 / 8),  # bcd
        ("e-o-h", "e-s-u-o-h", 2 * 5 / 14),  # e- and o-h
        ("A = 12.", "a = 12", 1.0),  # normalised
        ("132", ["321", "13"], 2 * 2 / 5),  # of 321 it has 32, of 13 both
        ("xyz", ["abc", "d"], 0.0),
        ("", "abc", 0.0),
    ],
)
def test_similarity_goes_from_miss_to_hit_by_the_share_in_common_with_the_nearest_answer(
    response: str, expected: str | list[str], share: float
) -> None:
    given = samples([response], expected=[expected])
    settings = {"match": "similarity", "hit": 0.75, "miss": -0.25, "length_penalty": 0.0}
    assert rule(**settings).score(given) == pytest.approx([-0.25 + share])
    length = len(normalise(response))
    assert rule(**settings | {"length_penalty": 0.5}).score(given) == pytest.approx([-0.25 + share - 0.5 * length])


def test_similarity_has_no_heuristic_for_frequent_characters() -> None:
    """difflib takes a character for junk that is more than a hundredth of 200 or more, if nobody stops it."""
    given = samples(["x" + "a" * 150], expected=["a" * 250])
    assert rule(match="similarity", miss=0.0, length_penalty=0.0).score(given) == pytest.approx([300 / 401])


def test_case_counts_only_where_the_column_says_so() -> None:
    given = samples(["CAT", "CAT", "cat"], expected=["cat", "cat", "cat"], exact_case=[True, False, True])
    settings = rule(match="exact", length_penalty=0.0, case_column="exact_case")
    assert settings.score(given) == [-1.0, 1.0, 1.0]


def test_match_none_counts_length_alone_and_needs_no_answer() -> None:
    assert rule(match="none", length_penalty=0.5).score(samples(["abcd."])) == [-2.0]


def test_the_length_penalty_stops_at_its_limit() -> None:
    settings = rule(match="none", length_penalty=0.5, max_length_penalty=1.5)
    assert settings.score(samples(["ab", "abc", "abcd" * 9])) == [-1.0, -1.5, -1.5]


def test_a_regular_expression_is_searched_in_the_response_as_it_was_written() -> None:
    settings = rule(match="regex", pattern=r"^Answer: \d+\.$", length_penalty=0.0)
    assert settings.score(samples(["Answer: 12.", "answer: 12.", "Answer: 12", ""])) == [1.0, -1.0, -1.0, -1.0]
    penalised = rule(match="regex", pattern="(?i)CAT", length_penalty=0.5)
    assert penalised.score(samples([" a cat. "])) == [1.0 - 0.5 * len("a cat")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"match": "regex", "pattern": "(a"}, "not a regular expression: missing \\)"),
        ({"match": "regex"}, "match: regex needs a pattern"),
        ({"match": "word", "pattern": "a"}, "every other match needs pattern: null"),
        ({"match": "regex", "pattern": "a", "case_column": "exact_case"}, "needs case_column: null"),
        ({"weight": float("nan")}, "weight"),
        ({"hit": float("inf")}, "hit"),
    ],
)
def test_rule_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**changes)


def test_missing_column_and_empty_answer_are_named() -> None:
    with pytest.raises(PipelineError, match=r"no column 'expected'\. Did you mean 'expectd'"):
        rule().score(samples(["a"], expectd=["a"]))
    with pytest.raises(PipelineError, match="sample 's1': its prompt's `expected` is empty"):
        rule().score(samples(["a", "b"], expected=["a", None]))
    with pytest.raises(PipelineError, match="no column 'case'"):
        rule(case_column="case").score(samples(["a"], expected=["a"]))


def test_the_score_is_the_weighted_sum_of_the_columns() -> None:
    given = samples(["a", "ab"], expected=["a", "a"])
    parts = [
        rule(name="one", weight=2.0, match="exact", length_penalty=0.0),
        rule(name="two", weight=-0.5, match="contains", length_penalty=0.0),
        rule(name="seen", weight=0.0, length_penalty=99.0),
    ]
    found = score_samples(Reward(correct=None, components=parts), given)
    assert found["one"] == [1.0, -1.0]
    assert found["two"] == [1.0, 1.0]
    assert found["score"] == [1.5, -2.5]
    assert list(found) == ["score", "one", "two", "seen"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 10**400, None, "1", True])
def test_a_reward_that_is_no_finite_number_names_the_sample(monkeypatch: pytest.MonkeyPatch, bad: object) -> None:
    monkeypatch.setattr(RuleComponent, "score", lambda settings, given, kept: [1.0, bad])
    with pytest.raises(PipelineError, match=r"reward 'rule': sample 's1': .* is not a finite number"):
        score_samples(Reward(correct=None, components=[rule()]), samples(["a", "b"]))


def test_a_wrong_number_of_rewards_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RuleComponent, "score", lambda settings, given, kept: [1.0])
    with pytest.raises(PipelineError, match="1 rewards for 2 samples"):
        score_samples(Reward(correct=None, components=[rule()]), samples(["a", "b"]))


@pytest.mark.parametrize("names", [["rule", "rule"], ["score"], ["prompt_id"], ["vote"], ["majority"]])
def test_a_name_that_is_taken_is_refused_with_the_settings(names: list[str]) -> None:
    with pytest.raises(ValueError, match=f"the name '{names[0]}' is taken"):
        Reward(correct=None, components=[rule(name=name) for name in names])


def test_samples_get_their_prompt_s_columns() -> None:
    prompts = pa.table(
        {"prompt_id": ["p", "q"], "messages": [[{"role": "user", "content": c}] for c in "pq"],
         "split": ["train", "train"], "expected": ["1", "2"]}
    )  # fmt: skip
    found = join_prompts(["s0", "s1", "s2"], ["q", "p", "q"], ["t"] * 3, ["r"] * 3, [[1], [2], [3]], prompts)
    assert found.columns["expected"] == ["2", "1", "2"]
    assert found.response_ids == [[1], [2], [3]]
    assert [m[0]["content"] for m in found.messages] == ["q", "p", "q"]
    with pytest.raises(PipelineError, match="no prompt 'z'"):
        join_prompts(["s"], ["z"], ["t"], ["r"], [[1]], prompts)


@pytest.mark.parametrize(
    ("response", "expected", "found"),
    [
        ("cafés", "caf", False),  # é is a letter of the Latin script as much as e is
        ("höl", "l", False),
        ("élan", "lan", False),
        ("un café.", "café", True),
        ("1, 12", "1", True),
        ("x1", "1", False),
        ("21", "1", False),
        ("有1个", "1", True),
        ("the (cat)", "(cat)", True),
        ("हिन्दी", "हिन्द", False),  # ी is a letter's vowel
        ("वह हिन्दी है", "हिन्दी", True),
        ("كِتابُ", "كِتاب", False),
    ],
)
def test_a_word_is_not_part_of_a_longer_latin_word(response: str, expected: str, found: bool) -> None:
    assert matches(response, expected, "word") is found


def test_normalise_keeps_case_on_demand_and_folds_width_and_space() -> None:
    assert normalise("  The\n\t ＣＡＴ！ ", keep_case=True) == "The CAT"
    assert normalise("STRASSE") == normalise("straße") == "strasse"
    assert normalise("a 　  b") == "a b"


@given(st.text(max_size=8), st.text(alphabet=" \n.,!?。，！？“”'\"()（）*", max_size=4))
def test_what_stands_around_an_answer_does_not_count(text: str, around: str) -> None:
    if normalise(text)[:1].isdecimal():
        around = around.replace(".", "")  # .5 is not 5
    assert normalise(around + text + around) == normalise(text) == normalise(normalise(text))


@pytest.mark.parametrize(
    ("response", "expected", "reward"),
    [
        ("Paris", "paris", 0.99),  # 1 - 5 x 0.002
        ("  It is   PARIS!!  ", "Paris", 0.978),  # 11 characters are left: "it is paris"
        ("巴黎。", "巴黎", 0.996),
        ("１２", "1", 0.996),  # contains: 1 is found in 12
        ("London", "Paris", -1.012),
        ("", "Paris", -1.0),
    ],
)
def test_the_english_task_s_notebook_component_by_hand(response: str, expected: str, reward: float) -> None:
    """It is the LoRA notebook's rule; its weight of 0 records it without rewarding it."""
    settings = load_params(Path(__file__).resolve().parents[2] / "params/english.yaml").reward
    given = samples([response], expected=[expected], exact_case=[True])
    found = score_samples(settings, given)
    assert found["notebook"] == pytest.approx([reward])
    assert found["score"] == pytest.approx([found["answer"][0] + found["mentioned"][0]])


def test_an_empty_case_column_means_that_case_does_not_count() -> None:
    given = samples(["CAT", "CAT"], expected=["cat", "cat"], case=[None, False])
    assert rule(match="exact", length_penalty=0.0, case_column="case").score(given) == [1.0, 1.0]


def test_right_answers_are_those_whose_component_reaches_the_bound() -> None:
    parts = [rule(name="one", weight=0.0, hit=0.75, length_penalty=0.25), rule(name="two", match="exact")]
    given = samples(["a", "ab", "b"], expected=["a", "a", "a"])
    settings = Reward(components=parts, correct={"component": "one", "at_least": 0.5})
    scores = score_samples(settings, given)
    assert scores["one"][:2] == [0.5, 0.25]
    assert correct_of(settings, scores) == [True, False, False]
    assert correct_of(Reward(components=parts, correct=None), scores) is None
    with pytest.raises(ValidationError, match=r"no component is called 'three', only one, two"):
        Reward(components=parts, correct={"component": "three", "at_least": 0.5})


def test_components_without_weight_alone_score_0() -> None:
    parts = [rule(name="one", weight=0.0), rule(name="two", weight=0.0, match="exact")]
    assert score_samples(Reward(correct=None, components=parts), samples(["a", "b"], expected=["a", "a"]))["score"] == [
        0.0,
        0.0,
    ]
