"""dvc.yaml and params.yaml of a new project, made of this repository's dvc.yaml and preset `skills`.

So they never drift apart. The preset and not params.yaml, which is edited in a clone: an experiment is no template.
"""

import json
import re

from ...settings.json_schema import HEAD

SOURCE, REWARD = "prompts/example.jsonl", "reward_functions.example:reward"

# Few prompts, and answers with room for a sentence.
SIZES = (
    ("rollout", "prompts_per_round", 16), ("rollout", "samples_per_prompt", 4),
    ("rollout", "max_new_tokens", 48), ("evaluate", "max_new_tokens", 48),
)  # fmt: skip
COMPONENTS = f"""\
reward:
  components:
    - name: example  # a Python function: the file reward_functions/example.py
      type: python
      weight: 1.0
      function: {REWARD}
      format: text
      columns: {{}}
      none_as: null
    - name: found  # a rule: is `expected` in the answer? weight 0: recorded, not rewarded
      type: rule
      weight: 0.0
      match: word
      column: expected
      pattern: null
      tolerance: null
      hit: 1.0
      miss: 0.0
      length_penalty: 0.0
      max_length_penalty: null
      case_column: null
  correct: null  # or which answers count as right: {{component: found, at_least: 1.0}}

"""


def project_dvc_yaml(text: str) -> str:
    """Return the repository's dvc.yaml with the stages of the installed package.

    The code lies outside of the project, where its path differs from machine to machine. So the stage `code` looks at
    it on each `dvc repro`, and what depends on its output runs when that has changed.
    """
    deps = r"(?<=\n)    deps:\n      - ppo_pipeline\n      - stages\n(?=    outs:\n)"
    text = _replaced(deps, "    always_changed: true\n", text, 1)
    return _replaced(r"python -m stages ", "python -m ppo_pipeline.stages ", text)


def project_params(text: str, model: str | None = None, local: bool = False) -> str:
    """Return the preset `skills` with the example's prompts and reward.

    model: `base.model`; local: it is a folder or file, which `sources` names too.
    """
    text = _replaced(r"\A# Skills: .*\n#\n", f"{HEAD}\n", text, 1)
    text = _replaced(r"(?<=\n)  source: .*\n", f"  source: {SOURCE}\n", text, 1)
    text = _replaced(r"(?<=\n)reward:\n(?:(?: .*)?\n)*", COMPONENTS, text, 1)
    for section, name, count in SIZES:
        text = _replaced(rf"(?<=\n)({section}:\n(?:  .*\n)*?  {name}: ).*", str(count), text, 1)
    if model is not None:
        line = f"  model: {json.dumps(model, ensure_ascii=False)}\n"  # YAML reads JSON's strings
        text = _replaced(r"(?<=\n)  model: .*\n", line, text, 1)
    if model is not None and local:
        line = f"sources: {{base: {json.dumps(model, ensure_ascii=False)}}}\n"
        text = _replaced(r"(?<=\n)sources: .*\n", line, text, 1)
    return text


def _replaced(pattern: str, by: str, text: str, times: int | None = None) -> str:
    """Return `text` with each match replaced, but for its group where the pattern has one.

    LookupError where there is no match, or not as many as there must be.
    """
    new, count = re.subn(pattern, lambda match: (match[1] if match.re.groups else "") + by, text)
    if count == 0 or times not in (None, count):
        raise LookupError(f"{count} matches of {pattern!r}; derived.py no longer fits the repository's file")
    return new
