"""Settings that had another name, or other values, in earlier versions: what each becomes, stated once.

`ppo-pipeline params upgrade` writes what is returned here; None where a value is as it should be.
"""

from collections.abc import Callable
from typing import Any

Now = dict[str, Any]


def _bootstrap(value: Any) -> Now:
    return {"bootstrap": "truncated" if value else "none"}


def _whitening(value: Any) -> Now | None:
    return {"whiten_advantages": "round" if value else "none"} if isinstance(value, bool) else None


def _correction(value: Any) -> Now | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"rollout_correction": "token_truncate", "rollout_correction_max": value} if number else None


FORMER: dict[str, Callable[[Any], Now | None]] = {
    "advantage.missing_end_penalty": lambda value: {"missing_eos_penalty": value},
    "advantage.missing_end_score": lambda value: {"missing_eos_score": value},
    "advantage.bootstrap_truncated": _bootstrap,
    "advantage.whiten_advantages": _whitening,
    "update.rollout_correction": _correction,
}
