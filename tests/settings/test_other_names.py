"""TRL's and verl's names of the settings: each stands for one of ours, each is one of theirs, and errors tell both."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from ppo_pipeline.settings.other_names import TABLE, called_here
from ppo_pipeline.settings.params import Params


def test_every_setting_in_the_table_is_one_of_ours_and_stands_there_once() -> None:
    ours = {"seed", "rounds"}
    for section, field in Params.model_fields.items():
        ours |= {f"{section}.{f.alias or name}" for name, f in getattr(field.annotation, "model_fields", {}).items()}
    table = [names.here for names in TABLE]
    assert set(table) <= ours and len(set(table)) == len(table)


def fields(path: Path) -> set[str]:
    """Return the names of the fields of every class in a source file, without running it."""
    classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    return {each.target.id for cls in classes for each in cls.body if isinstance(each, ast.AnnAssign)}  # type: ignore[union-attr]


def test_trl_has_each_of_its_names() -> None:
    trl, transformers = find_spec("trl"), find_spec("transformers")
    if trl is None or trl.origin is None:
        pytest.skip("TRL is an extra: pip install -c constraints.txt -e '.[test,trl]'")
    assert transformers is not None and transformers.origin is not None
    folder = Path(trl.origin).parent
    common = fields(Path(transformers.origin).parent / "training_args.py") | fields(folder / "trainer/model_config.py")
    common |= fields(folder / "scripts/utils.py")
    ppo = common | fields(folder / "experimental/ppo/ppo_config.py")
    grpo = common | fields(folder / "trainer/grpo_config.py")
    assert {names.ppo for names in TABLE if names.ppo} <= ppo
    assert {names.grpo for names in TABLE if names.grpo} <= grpo


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "of TRL's PPOConfig and TRL's GRPOConfig is update.lr here."),
        ("beta", "`beta` of TRL's GRPOConfig is update.kl_loss_coef here."),
        ("ppo_epochs", "`ppo_epochs` of verl is update.epochs here."),
        ("betas", "is update.adam_beta1 here; `betas` of verl is update.adam_beta2 here."),
        ("actor_rollout_ref", "is a section of verl's; docs/params.md has a table"),
        ("none_of_theirs", ""),
    ],
)
def test_a_name_of_theirs_is_told_as_ours(name: str, said: str) -> None:
    told = called_here(name)
    assert said in told and bool(said) == bool(told)
