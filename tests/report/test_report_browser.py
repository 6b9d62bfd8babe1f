"""The report in a real headless Chromium: opened from disk, filtered, sorted, searched, clicked.

Needs the extra `browser` and a Chromium; skipped where one of them is missing.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from report_project import BRANCHED, IMAGE, SCRIPT, TEXTS, write_project

from ppo_pipeline.cli.main import main
from ppo_pipeline.project.seeds.spread import spread, write_spread
from ppo_pipeline.report.contents import contents
from ppo_pipeline.report.page import page as page_text
from ppo_pipeline.report.run import Run
from ppo_pipeline.tables.prompts import PROMPTS

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
# Where to keep the screenshots, to be looked at: PPO_REPORT_SHOTS=folder.
SHOTS = os.environ.get("PPO_REPORT_SHOTS")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
Opener = Callable[..., Any]


def write_report(folder: Path) -> Path:
    """Run the command in `folder` and return its file."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, ["report"])
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder / "report.html"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("browser") / "project", BRANCHED, samples=14)
    write_report(folder)
    return folder


@pytest.fixture
def opened(project: Path) -> Iterator[Opener]:
    """Return a function that opens the report; at the end nothing must have been loaded, said or raised."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'")
    heard: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)

        def open_page(place: str = "", file: Path = project / "report.html", scheme: str = "light") -> Any:
            page = browser.new_page(viewport={"width": 1366, "height": 768}, color_scheme=scheme)
            page.set_default_timeout(30_000)
            page.on("console", lambda message: heard.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: heard.append(f"error: {error}"))
            page.on("request", lambda request: request.url.startswith("file:///") or heard.append(request.url))
            page.goto(f"file://{file}{place}")
            page.wait_for_selector("#message", state="hidden")
            return page

        yield open_page
        browser.close()
    assert heard == []


def column(page: Any, field: str) -> list[str]:
    """Return the texts of a column's cells that are drawn, from the top."""
    cells = page.locator(f'#table .tabulator-row .tabulator-cell[tabulator-field="{field}"]')
    texts: list[str] = cells.all_inner_texts()
    return texts


def counted(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#count').textContent === text", arg=text)


def shot(page: Any, name: str) -> bytes:
    page.wait_for_timeout(300)
    picture: bytes = page.screenshot()
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        (Path(SHOTS) / f"{name}.png").write_bytes(picture)
    return picture


def test_samples_are_filtered_sorted_and_searched(opened: Opener, project: Path) -> None:
    page = opened("#samples")
    counted(page, "70 samples")
    scores = {
        row["sample_id"]: row["score"]
        for name in BRANCHED
        for row in pq.read_table(project / f"data/rounds/{name}/rewards.parquet").to_pylist()
    }
    page.locator("#table .tabulator-col", has_text="Score").click()
    page.locator('#table .tabulator-col[aria-sort="ascending"]').wait_for()
    assert column(page, "score")[0] == f"{min(scores.values()):.3f}".replace("-", "−")
    page.select_option("#filter-column", "score")
    page.fill("#filter-low", "0.5")
    above = sum(score >= 0.5 for score in scores.values())
    counted(page, f"{above} of 70")
    page.select_option("#filter-round", "r002b")
    in_round = sum(score >= 0.5 for sample, score in scores.items() if sample.startswith("r002b-"))
    counted(page, f"{in_round} of 70")
    assert set(column(page, "round")) == {"r002b"}
    page.get_by_role("button", name="Clear").click()
    counted(page, "70 samples")
    page.select_option("#filter-finish", "length")
    counted(page, "10 of 70")
    page.get_by_role("button", name="Clear").click()
    counted(page, "70 samples")
    page.fill("#search", "القاهرة")
    counted(page, "10 of 70")
    assert set(column(page, "response")) == {TEXTS[3][1]}
    page.fill("#search", "no such words")
    page.get_by_text("Nothing matches.").wait_for()


def test_a_token_shows_the_number_of_its_table(opened: Opener, project: Path) -> None:
    tables = {
        name: pq.read_table(project / f"data/rounds/r003/{name}.parquet").to_pylist()
        for name in ("rollouts", "reference", "advantages")
    }
    page = opened("#samples")
    page.select_option("#filter-round", "r003")
    counted(page, "14 of 70")
    page.locator("#table .tabulator-row").first.click()
    token = page.locator(".token").nth(4)
    token.click()
    assert token.inner_text() == "c" and page.locator("#detail h2").inner_text() == "r003-p0-0"
    reference = tables["reference"][0]
    expected = {
        "Advantage": tables["advantages"][0]["advantages"][4],
        "KL": reference["policy_logprobs"][4] - reference["reference_logprobs"][4],
        "Value": reference["values"][4],
        "Logprob": reference["policy_logprobs"][4],
    }
    if "entropy" in reference:
        expected["Entropy"] = reference["entropy"][4]
    for name, number in expected.items():
        text = f"{number:.4f}".replace("-", "−")
        assert text in page.locator(".chosen div", has=page.locator(f"dt:text-is('{name}')")).last.inner_text()
        page.locator(".choices label", has_text=name).click()
        token.hover()
        assert page.locator("#tip b").inner_text() == f"{name} {text}"
        full = page.locator(".marks span").last.inner_text().replace("−", "-")
        strength = token.evaluate("e => Number(e.style.getPropertyValue('--strength'))")
        assert strength == pytest.approx(min(1, abs(number) / abs(float(full))), abs=0.002)
        signed = name not in ("Logprob", "Entropy")
        assert token.get_attribute("class").split()[-1] == ("size" if not signed else "minus" if number < 0 else "plus")
    assert page.locator(".choices label", has_text="Entropy").count() == ("Entropy" in expected)
    page.locator(".tokens").press("ArrowRight")
    page.get_by_text("Token 6:").wait_for()
    assert page.locator('.token[aria-selected="true"]').inner_text() == "a"
    page.locator(".token.special").wait_for()
    page.locator("#table .tabulator-row").first.click()
    page.keyboard.press("ArrowDown")
    page.locator("#detail h2", has_text="r003-p1-0").wait_for()


def test_markup_is_shown_as_text_and_never_run(opened: Opener) -> None:
    for sample, text in (("r001-p1-0", IMAGE), ("r001-p5-0", SCRIPT)):
        page = opened(f"#samples/{sample}")
        page.locator(".token").first.wait_for()
        assert page.locator(".tokens").inner_text() == text + "<|end|>"
        assert page.locator("#detail img, #detail script, #table img, #table script").count() == 0
        page.get_by_role("button", name="This prompt in all rounds").click()
        page.locator(".card").first.wait_for()
        assert page.locator(".card .prose").all_inner_texts() == [text] * 5
        page.locator("#tab-heldout").click()
        page.locator("#heldout-table .tabulator-row").first.wait_for()
        assert page.title().startswith("PPO run of")


def test_chinese_is_one_piece_a_character_and_arabic_runs_from_right_to_left(opened: Opener) -> None:
    page = opened("#samples/r001-p2-0")
    page.locator(".token").first.wait_for()
    assert page.locator(".token").all_inner_texts()[:3] == ["北", "京", "是"]
    page.locator(".token").nth(1).click()
    page.get_by_text("Tokens 4 to 6:").wait_for()
    for sample in ("r001-p3-0", "r001-p4-0"):
        page = opened(f"#samples/{sample}")
        page.locator(".token").first.wait_for()
        assert page.locator(".tokens").evaluate("e => getComputedStyle(e).direction") == "rtl"
        first, third = (page.locator(".token").nth(k).bounding_box()["x"] for k in (0, 2))
        assert first > third
        page.locator(".token").nth(2).click()
        page.locator(".tokens").press("ArrowLeft")
        assert page.locator(".token").nth(3).get_attribute("aria-selected") == "true"


def test_base_is_compared_with_trained_and_a_prompt_with_itself(opened: Opener, project: Path) -> None:
    page = opened("#heldout")
    base, last = (pq.read_table(project / f"data/rounds/{n}/eval.parquet").to_pylist() for n in ("r000", "r003b"))
    changes = [b["score"] - a["score"] for a, b in zip(base, last, strict=True)]
    better = sum(change > 0 for change in changes)
    page.get_by_text(f"better on {better}, worse on {len(changes) - better}").wait_for()
    shown = page.locator('#heldout-table [tabulator-field="change"] .pill').all_inner_texts()
    assert shown == [f"{x:+.3f}".replace("-", "−") for x in sorted(changes, reverse=True)]
    page.select_option("#change", "worse")
    page.get_by_text(f"{len(changes) - better} of {len(changes)} prompts").wait_for()
    page.locator("#heldout-table .tabulator-row").first.click()
    page.locator(".round").first.wait_for()
    assert page.locator(".round h3").all_inner_texts() == ["r000, base", "r001", "r002b", "r003b", "r002", "r003"]


def test_views_are_drawn_in_light_and_dark(opened: Opener) -> None:
    for scheme in ("light", "dark"):
        page = opened("#curves", scheme=scheme)
        page.locator("#main-charts canvas").nth(4).wait_for()
        assert page.locator("#lines button").all_inner_texts() == [
            "r000 to r003b: advantage.kl_coef=0.2 in r002b to r003b",
            "r002 to r003 from r001",
        ]
        curves = shot(page, f"curves-{scheme}")
        page.locator("#theme").click()
        assert shot(page, f"curves-{scheme}-toggled") != curves
        page.locator("#theme").click()
        page.locator("#tab-curves").press("ArrowRight")
        page.locator("#time-parts .hint", has_text="No records here").wait_for()
        page.locator("#tab-times").press("ArrowRight")
        page.locator("#spreads canvas").nth(6).wait_for()
        shot(page, f"distributions-{scheme}")
        page.locator("#tab-samples").click()
        page.locator("#table .tabulator-row").nth(2).click()
        page.locator(".token").nth(3).click()
        shot(page, f"samples-{scheme}")
        page.locator("#tab-heldout").click()
        shot(page, f"heldout-{scheme}")


def test_of_five_thousand_samples_only_those_in_sight_are_drawn(opened: Opener, tmp_path: Path) -> None:
    """That is why the page opens within two seconds; the time itself is printed, and is the machine's."""
    texts = [(f"Prompt {k}: " + "say it again. " * (k % 5), f"Answer {k}. " + "word " * (k % 20)) for k in range(500)]
    folder = write_project(tmp_path / "large", {f"r{k:03d}": f"r{k - 1:03d}" for k in range(1, 11)}, 500, texts)
    file = write_report(folder)
    page = opened("#samples", file)
    page.wait_for_function("performance.getEntriesByName('table-drawn').length > 0")
    counted(page, "5,000 samples")
    seconds = page.evaluate("performance.getEntriesByName('table-drawn')[0].startTime") / 1000
    print(f"\ntable drawn after {seconds:.2f} s, {file.stat().st_size / 1e6:.1f} MB")
    assert 0 < page.locator("#table .tabulator-row").count() < 250


def test_several_seeds_are_drawn_beside_this_run(opened: Opener, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "seeds", {"r001": "r000"}, samples=2)
    numbers = {seed: {"r000": {"eval/scores": 0.5}, "r001": {"eval/scores": 1.0 + seed, "x": 1}} for seed in (0, 1, 4)}
    write_spread(folder / "metrics/seeds/some.csv", spread(numbers, {"r000": "", "r001": "r000"}), [0, 1, 4])
    (folder / "metrics/rounds/r001.json").write_text(json.dumps({"eval/scores": 3}))
    page = opened(file=write_report(folder))
    drawn = page.locator("#compared figure")
    drawn.locator("canvas").first.wait_for()
    assert page.locator("#compared .legend button").all_inner_texts() == [
        "this run (seed 0)", "some, 3 seeds (seed 0, seed 1, seed 4)",
    ]  # fmt: skip
    assert drawn.locator(".readout span").all_inner_texts() == ["round 1: 3", "round 1: 2 (1 to 5)"]
    page.locator("#compared .legend button").first.click()
    assert drawn.locator(".readout span").all_inner_texts() == ["round 1: 2 (1 to 5)"]
    page.locator("#compared summary").click()
    page.locator("#compared details canvas").wait_for()
    assert drawn.count() == 2


def test_rewards_are_drawn_against_the_root_of_the_kl(opened: Opener, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "proxy", {"r001": "r000", "r002": "r001"}, samples=2)
    for name, kl in (("r001", 0.25), ("r002", 9.0)):
        rewards = {"objective/scores": kl, "reward/answer": 1 - kl, "objective/answer_std": 0.5, "reward/near": 2}
        path = folder / f"metrics/rounds/{name}.json"
        path.write_text(json.dumps({"objective/kl": kl, **rewards}))
    page = opened(file=write_report(folder))
    drawn = page.locator("#against-kl figure")
    drawn.locator("canvas").first.wait_for()
    assert drawn.locator(".name").all_inner_texts() == ["Training score", "answer, weight 1", "near, weight 1"]
    assert drawn.locator(".readout").all_inner_texts() == [
        "r002: 9 at 3", "r002: -8 ± 0.500 between members at 3".replace("-", "\u2212"), "r002: 2 at 3",
    ]  # fmt: skip
    said = drawn.locator("[role=img]").nth(1).get_attribute("aria-label")
    assert said.endswith("r001 0.750 at 0.500; r002 \u22128 at 3")


def cut(found: Any) -> list[str]:
    """Return the texts of the elements whose content is wider or higher than they are."""
    wide = (
        "all => all.filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight).map(e => e.innerText)"
    )
    texts: list[str] = found.evaluate_all(wide)
    return texts


def test_prompts_own_columns_turns_ends_and_times(opened: Opener, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "own", {"r001": "r000", "r002": "r001"}, samples=12)
    prompts = PROMPTS.read(folder / "data/prompts.parquet")
    topics = [f"multiplication {int(name[1:]) % 2}" for name in prompts.column("prompt_id").to_pylist()]
    levels = [int(name[1:]) // 4 for name in prompts.column("prompt_id").to_pylist()]
    own = prompts.append_column("topic", pa.array(topics)).append_column("level", pa.array(levels))
    PROMPTS.write(own, folder / "data/prompts.parquet")
    for name in ("r001", "r002"):
        (folder / "logs" / name).mkdir(parents=True)
        for stage in ("rollout", "reference", "update", "evaluate"):
            record = {"stage": stage, "round": name, "seconds": 45.0, "tokens": 1500, "tokens_per_second": 100.125}
            (folder / "logs" / name / f"{stage}.json").write_text(json.dumps(record))
    page = opened("#samples", write_report(folder))
    counted(page, "24 samples")
    page.locator('select[data-own="o0"]').select_option(label="multiplication 1")
    counted(page, "12 of 24")
    page.locator('select[data-own="o1"]').select_option(label="2")
    counted(page, "4 of 24")
    assert set(column(page, "o0")) == {"multiplication 1"} and set(column(page, "o1")) == {"2"}
    assert not cut(page.locator("#table .tabulator-cell[tabulator-field=o0]")), "a value is as wide as its column"
    page.locator("#table .tabulator-row").first.click()
    page.locator("#detail .turn.asks").wait_for()
    assert page.locator("#detail .turn").all_inner_texts() == [f"User\n{TEXTS[9 % len(TEXTS)][0]}"]
    assert "topic\nmultiplication 1" in page.locator("#detail").inner_text()
    shot(page, "own")
    page.locator("#tab-best").click()
    scores = {
        row["sample_id"]: row["score"] for row in pq.read_table(folder / "data/rounds/r002/rewards.parquet").to_pylist()
    }
    ranked = sorted(scores, key=lambda sample: -scores[sample])
    for place, expected in ((0, ranked[:5]), (1, ranked[:-6:-1])):
        assert page.locator(".end").nth(place).locator(".card button").all_inner_texts() == expected
    shot(page, "best")
    page.locator("#tab-times").click()
    page.locator("#time-parts canvas").first.wait_for()
    row = page.locator("#time-parts tr", has=page.locator("th:text-is('update')")).inner_text().split("\t")
    assert row == ["update", "2", "1.5 min", "25.0 %", "45 s", "3,000", "100.1", "–"]
    assert page.locator("#time-parts figure .name").all_inner_texts() == [
        "Seconds of each stage", "Tokens through each stage", "Speed",
    ]  # fmt: skip
    assert not cut(page.locator("#time-parts .readout")), "all of it can be read"
    shot(page, "times")


def test_a_watched_page_that_is_left_alone_loads_itself_anew(opened: Opener, tmp_path: Path) -> None:
    folder, file = write_project(tmp_path / "watched", {"r001": "r000"}, samples=2), tmp_path / "watched.html"

    def write(score: float, watched: float) -> None:
        (folder / "metrics/rounds/r001.json").write_text(json.dumps({"eval/scores": score}))
        file.write_text(page_text(contents(Run(folder), watched=watched), "PPO run of a model"), encoding="utf-8")

    write(1.25, watched=0.5)
    page = opened(file=file)
    readout = page.locator("#main-charts .readout").first
    readout.get_by_text("r001: 1.250").wait_for()
    page.locator("#watched").wait_for()  # on a busy machine it may be loading again
    write(2.75, watched=0)
    readout.get_by_text("r001: 2.750").wait_for()
    assert page.locator("#watched").is_hidden()
