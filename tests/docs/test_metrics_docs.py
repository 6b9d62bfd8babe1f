"""docs/metrics.md names each metric of a round, and none that no stage writes."""

import json
import re
from pathlib import Path

from stage_runs import Stages

ROOT = Path(__file__).resolve().parents[2]
OF_A_ROUND = "objective|val|policy|loss|critic|reward|eval"
NAMED = set(re.findall(rf"`((?:{OF_A_ROUND})/[\w@]+|lr)`", (ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
IN_CODE = {
    name
    for folder in ("ppo_pipeline", "stages")
    for path in (ROOT / folder).rglob("*.py")
    for name in re.findall(rf"[\"']((?:{OF_A_ROUND})/\w+)[\"']", path.read_text(encoding="utf-8"))
}
OF_PAIRS = {"eval/accuracy", "eval/accuracy_se", "eval/pairs", "eval/std", "eval/longer_chosen"}  # docs/rlhf.md


def of_components(names: set[str]) -> set[str]:
    return {name for name in names if name.rpartition("/")[2] in ("answer", "near")}


def test_what_a_round_writes_is_there(tmp_path: Path) -> None:
    def all_kinds(params: dict) -> None:
        params["evaluate"]["samples_per_prompt"] = 2
        params["advantage"]["memory_discount"] = 0.9
        params["update"].update(likelihood_coef=0.1, kl_loss_coef=0.1, rollout_correction="token_truncate",
                                rollout_correction_max=2.0)  # fmt: skip

    stages = Stages(tmp_path, all_kinds)
    stages.run("init")
    stages.round("r001")
    written = {
        name for path in (tmp_path / "metrics/stages/r001").glob("*.json") for name in json.loads(path.read_text())
    }
    assert len(written) > 40
    sampled = {f"eval/{name}" for name in ("sampled_scores_se", "sampled_correct_se", "pass@1", "pass@2", "majority")}
    assert written - NAMED - of_components(written) <= sampled


def test_what_the_code_names_is_there_and_the_other_way_round() -> None:
    assert OF_PAIRS | {"eval/loss_before", "eval/mean_token_accuracy_before"} >= IN_CODE - NAMED
    made_up = {"val/response_length_max", "val/finished", "eval/sampled_scores", "eval/sampled_correct", "lr"}
    assert made_up | {"eval/majority", "eval/response_length"} >= NAMED - IN_CODE
