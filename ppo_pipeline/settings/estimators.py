"""`advantage.estimator`: the names there are, and which other settings go with each, as its own file declares.

The estimators are imported by name, when a setting is checked: they are no part of the code of a stage that does not
use them, and an edit of one reruns `advantage` alone.
"""

from importlib import import_module
from typing import Annotated, Any

from pydantic import AfterValidator


def declared() -> dict[str, Any]:
    """Return what each estimator declares, an Estimator (maths/estimators/registry.py) by name."""
    found: dict[str, Any] = import_module("ppo_pipeline.maths.estimators.registry").estimators()
    return found


def known(name: str) -> str:
    """Return an estimator's name; ValueError for one that is not there."""
    if name not in (names := list(declared())):
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


class OneOfThem:
    """Says in the setting's JSON schema which names there are, and in docs/params.md what each means."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the names as a list of choices."""
        return {"enum": list(declared())}

    @staticmethod
    def meanings() -> str:
        """Return what each is, in one text."""
        return "; ".join(f"{name}: {each.about}" for name, each in declared().items())


EstimatorName = Annotated[str, AfterValidator(known), OneOfThem]


def whitening_fault(name: str, whiten: str) -> str | None:
    """Return what is wrong with this `whiten_advantages` for the estimator, None where nothing is."""
    each = declared()[name]
    if each.whiten is not None and whiten != each.whiten:
        return f"{name} is {each.about}; set whiten_advantages to {each.whiten}"
    if each.per_response and whiten == "response":
        return (
            f"{name} gives all tokens of a response one advantage, which whiten_advantages: response makes 0; set it "
            "to none or round"
        )
    return None


def lambda_fault(name: str, given: dict[str, float | None]) -> str | None:
    """Return what is wrong with a lambda of its own for returns or by length, None where the estimator uses it.

    given: lambda_returns and lambda_alpha by the name of the estimator's argument.
    """
    for argument, value in given.items():
        if value is not None and not declared()[name].reads(argument):
            return f"{argument.replace('lam', 'lambda')} is gae's, and {name} does not use it; set it to null"
    return None


def memory_fault(name: str, discount: float | None, whiten_rewards: str) -> str | None:
    """Return what is wrong for an estimator that goes by earlier rounds' rewards, None where nothing is."""
    if not declared()[name].needs_memory:
        return None
    if discount is None:
        return f"{name} compares a response with its prompt's earlier ones; set memory_discount, such as 0.9"
    if whiten_rewards != "none":
        return f"{name} compares rewards of different rounds, which whiten_rewards rescales in each; set it to none"
    return None


def learns_values(name: str) -> bool:
    """Tell whether a critic learns by this estimator."""
    return bool(declared()[name].needs_values)


def misfit(name: str, critic: str, samples: int, smallest: int | None) -> str | None:
    """Return what in other sections does not fit the estimator, None where all does.

    samples: to each prompt. smallest: responses in the smallest minibatch that is whitened by itself, None for none.
    """
    each = declared()[name]
    if each.needs_values and critic == "none":
        return f"advantage.estimator {name} needs values; set policy.critic to shared or separate"
    if samples < each.samples:
        return (
            f"advantage.estimator {name} compares the responses to a prompt; set rollout.samples_per_prompt to "
            f"{each.samples} or more"
        )
    if each.per_response and smallest is not None and smallest < 2:
        return (
            f"advantage.whiten_advantages: minibatch, over one response, makes {name}'s advantages 0; set it to "
            "round, or lower update.minibatches"
        )
    return None
