"""dvc.yaml's deps and params are complete, and an edit of the code reruns what it must."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ppo_pipeline.project.code_fingerprint import fingerprint, fingerprint_of_c, imported_files, stage_fingerprints
from stages import code

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = YAML(typ="safe").load(ROOT / "dvc.yaml")
BODIES = {name: stage.get("do", stage) for name, stage in DOCUMENT["stages"].items()}


def stage_module(command: str) -> Path:
    """Return the file of the stage that a dvc.yaml command runs (python -m stages NAME ...)."""
    words = command.split()
    return ROOT / "stages" / f"{words[words.index('stages') + 1]}.py"


def test_every_stage_depends_on_the_fingerprint_of_its_own_code() -> None:
    for name, body in BODIES.items():
        found = [d for d in body["deps"] if isinstance(d, str) and d.startswith("data/code/")]
        assert found == ([] if name == "code" else [f"data/code/{stage_module(body['cmd']).stem}.json"]), name


def test_the_stage_writes_a_fingerprint_of_exactly_the_code_that_each_stage_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code.run()
    for name, body in BODIES.items():
        if name != "code":
            stage = stage_module(body["cmd"])
            written = json.loads((tmp_path / "data/code" / f"{stage.stem}.json").read_text())
            assert set(written) == imported_files(stage, ROOT)
            assert all(len(value) == 64 for value in written.values())


def test_the_walker_agrees_with_what_python_really_imports() -> None:
    """Import each stage in a fresh interpreter: no project module may be loaded that the walker does not find."""
    program = (
        "import sys, importlib; importlib.import_module(sys.argv[1]);"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('ppo_pipeline', 'stages')))"
    )
    for name, body in BODIES.items():
        stage = stage_module(body["cmd"])
        command = [sys.executable, "-c", program, f"stages.{stage.stem}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        loaded = {Path(f).relative_to(ROOT).as_posix() for f in done.stdout.split()}
        found = {f for f in loaded if not f.endswith("__init__.py")}
        assert found, done.stderr
        assert found <= imported_files(stage, ROOT), name


SOURCE = '''"""What it is."""

import os  # why


def one(x):
    """Return x."""
    # a remark
    text = "# no comment"

    return x, text, """
    a text, no docstring
    """
'''


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("# a remark", "# another", True),
        ("  # why", "", True),
        ("Return x.", "Return x and a text.", True),
        ("What it is.", "What it was.", True),
        ("\n\n    return", "\n    return", True),
        ("# no comment", "# none", False),
        ("a text, no docstring", "another text", False),
        ("return x,", "return -x,", False),
        ("    return", "        return", False),
        ("import os", "import sys", False),
    ],
)
def test_only_what_runs_counts(before: str, after: str, same: bool) -> None:
    """Worked by hand: which edits leave the fingerprint as it was."""
    assert before in SOURCE
    changed = SOURCE.replace(before, after)
    if before == "    return":
        changed = SOURCE.replace("    return x", "    if x:\n        return x", 1)
    assert (fingerprint(changed) == fingerprint(SOURCE)) is same


C_SOURCE = """/* What it is. */
#define TWICE(x) ((x) + (x))  // why
float one(float x) {
    /* a remark, of
       two lines */
    const char *text = "/* no comment */ // neither \\" /* still none";

    return TWICE(x);
}
"""


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("What it is.", "What it was.", True),
        ("  // why", "", True),
        ("a remark, of\n", "a remark, again of\n\n", True),
        ("\n\n    return", "\n    return", True),
        ("no comment", "none", False),
        ("// neither", "", False),
        ("still none", "none", False),
        ("(x) + (x)", "(x) - (x)", False),
    ],
)
def test_comments_of_c_do_not_count_and_all_else_does(before: str, after: str, same: bool) -> None:
    assert before in C_SOURCE
    assert (fingerprint_of_c(C_SOURCE.replace(before, after)) == fingerprint_of_c(C_SOURCE)) is same


def test_a_change_of_c_code_reruns_the_stages_with_kernels_and_only_those(tmp_path: Path) -> None:
    """In a copy of the code; light stages and rewards, which may cost money, do not use it. base tries the decoder."""
    for name in ("ppo_pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (kernel, *_) = sorted((tmp_path / "ppo_pipeline/compute/native").glob("*.c"))
    scripts = [path for path in (tmp_path / "stages").glob("*.py") if not path.stem.startswith("_")]

    def fingerprints() -> dict[str, dict[str, str]]:
        return {path.stem: stage_fingerprints(path, tmp_path) for path in scripts}

    before = fingerprints()
    kernel.write_text("/* another remark */\n" + kernel.read_text())
    assert fingerprints() == before
    kernel.write_text("static int added;\n" + kernel.read_text())
    changed = {stage for stage, found in fingerprints().items() if found != before[stage]}
    assert {"base", "rollout", "reference", "update", "evaluate"} <= changed
    assert not changed & {"reward", "advantage", "settings", "prompts", "summary", "code"}


def test_estimators_are_the_code_of_advantage_and_of_no_other_stage() -> None:
    """They are found by name; settings, which check the name in every stage, look them up without importing them."""
    folder = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ppo_pipeline/maths/estimators").glob("[a-z]*.py")}
    for script in (ROOT / "stages").glob("[a-z]*.py"):
        found = folder & imported_files(script, ROOT)
        assert found == (folder if script.stem == "advantage" else set()), script


@given(st.sampled_from(sorted(ROOT.glob("ppo_pipeline/**/*.py"))), st.integers(0, 10**6))
def test_a_comment_put_anywhere_between_lines_changes_nothing_and_a_statement_does(path: Path, place: int) -> None:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    tops = [i for i, line in enumerate(lines) if line.startswith(("def ", "class "))]
    if not tops:
        return
    at = tops[place % len(tops)]
    if lines[at - 1].startswith(("@", ")")):  # a decorator comes before
        return
    assert fingerprint("\n".join([*lines[:at], "# a comment", *lines[at:]])) == fingerprint(source)
    assert fingerprint("\n".join([*lines[:at], "added = 1", *lines[at:]])) != fingerprint(source)


def test_the_advantage_stage_starts_without_torch_and_transformers() -> None:
    program = (
        "import sys, stages.advantage, stages.reward, stages.settings, stages.summary;"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_stages_that_read_params_yaml_track_the_sections_that_they_use() -> None:
    """What `load_params(...)` gives to a stage must be in its `params`; checked by the attributes in its source."""
    sections = {"seed", "base", "prompts", "policy", "compute", "rounds"}
    for name in ("base", "prompts", "init", "summary"):
        source = stage_module(BODIES[name]["cmd"]).read_text()
        used = {s for s in sections if f"params.{s}" in source or f"load_params().{s}" in source}
        assert used <= set(BODIES[name]["params"]), name
        assert used, name
    assert BODIES["source"]["params"] == ["sources.${key}"]
    assert set(BODIES["settings"]["params"]) == set(YAML(typ="safe").load(ROOT / "params.yaml"))
