"""dvc.yaml's deps and params are complete, and an edit of the code reruns what it must."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ppo_pipeline.storage.code_fingerprint import counted_files, fingerprint, fingerprint_of_c, stage_fingerprints
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


def test_the_stage_code_writes_the_fingerprints_of_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code.run()
    for name, body in BODIES.items():
        if name != "code":
            stage = stage_module(body["cmd"])
            written = json.loads((tmp_path / "data/code" / f"{stage.stem}.json").read_text())
            assert set(written) == counted_files(stage, ROOT)
            assert all(len(value) == 64 for value in written.values())


BY_SNAPSHOTS_ALONE = {"ppo_pipeline/storage/code_fingerprint.py"}  # imported by rooms that have no part


def is_empty_init(name: str) -> bool:
    """Tell whether a file is the package's own __init__, with its version, or one without code."""
    body = ast.parse((ROOT / name).read_text()).body
    return name.endswith("__init__.py") and (name.count("/") == 1 or all(isinstance(s, ast.Expr) for s in body))


def test_all_that_python_really_imports_counts_but_the_rooms_without_a_part() -> None:
    """Import each stage where nothing of this project is imported yet, and look at what is loaded then."""
    program = """
import importlib, os, sys
import torch, transformers.modeling_utils  # once, not in each process

for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"stages.{name}")
        ours = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("ppo_pipeline", "stages")]
        print(name, *ours, flush=True)
        os._exit(0)
    os.wait()
"""
    scripts = {stage_module(body["cmd"]).stem for body in BODIES.values()}
    done = subprocess.run([sys.executable, "-c", program, *scripts], cwd=ROOT, capture_output=True, text=True)
    found = {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines())}
    assert set(found) == scripts, done.stderr
    for name, body in BODIES.items():
        stage = stage_module(body["cmd"])
        loaded = {Path(f).relative_to(ROOT).as_posix() for f in found[stage.stem]}
        rooms = {"errors", "observe", "resume", "engine", "cli", "report"}
        if name not in ("settings", "source", "summary"):
            rooms |= {"settings", "project"}
        wanted = {f for f in loaded if f.split("/")[1] not in rooms and not is_empty_init(f)}
        assert f"stages/{stage.stem}.py" in wanted, done.stderr
        assert wanted - counted_files(stage, ROOT) <= BY_SNAPSHOTS_ALONE, name
        left_in = {f for f in counted_files(stage, ROOT) if f.split("/")[1] in rooms}
        assert left_in <= {"ppo_pipeline/project/stage_run.py"}, name


def test_no_file_that_counts_loads_others_by_name_but_in_folders_that_count_whole() -> None:
    for path in ROOT.glob("stages/*.py"):
        for name in counted_files(path, ROOT) if not path.stem.startswith("_") else ():
            whole = name.startswith(("ppo_pipeline/rewards/", "ppo_pipeline/maths/estimators/"))
            whole |= name.startswith("ppo_pipeline/settings/")  # to check settings: a light stage's work
            found = re.search(r"^\s*(import|from) (importlib|pkgutil|runpy)\b", (ROOT / name).read_text(), re.MULTILINE)
            assert whole or not found, name


def test_the_word_result_means_the_printed_one_in_all_that_counts() -> None:
    """Texts in calls of `result` do not count: none of them may be a call of something else."""
    for path in [*ROOT.glob("stages/*.py"), *ROOT.glob("ppo_pipeline/**/*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        if any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "result" for n in nodes):
            imported = [n.module for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names if a.name == "result"]
            assert [module.rpartition("observe.")[2] for module in imported if module] == ["progress"], path
            named = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            named += [n.name for n in nodes if isinstance(n, ast.FunctionDef)] + [
                n.arg for n in nodes if isinstance(n, ast.arg)
            ]
            assert "result" not in named, path


SOURCE = '''"""What it is."""

import os  # why


def one(x):
    """Return x."""
    # a remark
    text = "# no comment"
    if x < 0:
        raise ValueError(f"{x} is below 0: {text + 'lower'}" "; raise it", 1)
    result("one", f"{x:.3f} done", {"x": x})
    stage.done(f"{x:.2f} said at the end", {"val/x": x})
    print("printed")

    return x, text, """
    a text, no docstring
    """, 2.50
'''


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("# a remark", "# another", True),
        ("  # why", "", True),
        ("Return x.", "Return x and a text.", True),
        ("What it is.", "What it was.", True),
        ("\n\n    return", "\n    return", True),
        ("import os", "import  os", True),
        ('"# no comment"', "'# no comment'", True),
        ("2.50", "2.5", True),
        ("one(x)", "one(x,)", True),
        ("is below 0", "is negative", True),
        ("{x} is below 0: {text", "Below 0: {x} {text", True),
        ('"; raise it"', '"; raise what is too low"', True),
        ("'lower'", "'higher'", True),
        ("raise ValueError", "raise TypeError", False),
        ('raise it", 1', 'raise it", 2', False),
        ("{x} is", "{-x} is", False),
        ("x < 0", "x < 1", False),
        ('"one", f"{x:.3f} done"', '"two", f"after {x:.2f}"', True),
        ('{"x": x}', '{"y": x}', True),
        ('{"x": x}', '{"x": -x}', False),
        ("printed", "said", False),
        ("# no comment", "# none", False),
        ("a text, no docstring", "another text", False),
        ("return x,", "return -x,", False),
        ("    return", "        return", False),
        ("import os", "import sys", False),
        ("result(", "other.result(", False),
        ('f"{x:.2f} said at the end"', 'f"after {x:.1f}"', True),
        ("val/x", "val/y", False),
    ],
)
def test_only_what_can_change_an_output_counts(before: str, after: str, same: bool) -> None:
    """Worked by hand: which edits leave the fingerprint as it was."""
    assert before in SOURCE
    changed = SOURCE.replace(before, after)
    if before == "    return":
        changed = SOURCE.replace("    return x", "    if x:\n        return x", 1)
    assert changed != SOURCE
    assert (fingerprint(changed) == fingerprint(SOURCE)) is same


def test_the_fingerprint_is_of_the_tree_s_fields_that_every_python_has() -> None:
    """Written by hand: no place, no empty field, and numbers and texts as in the source."""
    tree = [["Assign", ["targets", [["Name", ["id", "'x'"], ["ctx", ["Store"]]]]],
             ["value", ["Call", ["func", ["Name", ["id", "'f'"], ["ctx", ["Load"]]]],
                        ["args", [["Constant", ["value", "'\\xe9'"]], ["Constant"]]]]]]]  # fmt: skip
    assert fingerprint("x = f('é', None)") == hashlib.sha256(json.dumps(tree).encode()).hexdigest()


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


def fingerprints(root: Path) -> dict[str, dict[str, str]]:
    scripts = [path for path in (root / "stages").glob("*.py") if not path.stem.startswith("_")]
    return {path.stem: stage_fingerprints(path, root) for path in scripts}


@cache
def fingerprints_of_the_repository() -> dict[str, dict[str, str]]:
    return fingerprints(ROOT)


class Copy:
    """A copy of the code, to be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ppo_pipeline", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def changed(self) -> set[str]:
        """Return the stages whose code is another one than at first."""
        before = fingerprints_of_the_repository()
        return {stage for stage, found in fingerprints(self.folder).items() if found != before[stage]} - {"code"}

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(change(before))
        assert path.read_text() != before


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def put(statement: str) -> Callable[[str], str]:
    return lambda source: f"{source}\n\n{statement}\n"


def in_other_words(source: str) -> str:
    """Reword each error of a file: every text within a `raise` gets one more word."""

    class Reword(ast.NodeTransformer):
        inside = False

        def visit_Raise(self, node: ast.Raise) -> ast.AST:
            self.inside = True
            self.generic_visit(node)
            self.inside = False
            return node

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant(f"{node.value} again") if self.inside and isinstance(node.value, str) else node

        def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
            node.value = self.visit(node.value)
            return node  # its format is no word

    return ast.unparse(Reword().visit(ast.parse(source)))


MODELS = {"rollout", "reference", "update", "evaluate"}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("ppo_pipeline/errors/__init__.py", set()),
        ("ppo_pipeline/errors/memory.py", set()),
        ("ppo_pipeline/observe/progress.py", set()),
        ("ppo_pipeline/observe/run_record.py", set()),
        ("ppo_pipeline/resume/snapshots.py", set()),
        ("ppo_pipeline/cli/main.py", set()),
        ("ppo_pipeline/engine/warm/server.py", set()),
        ("ppo_pipeline/settings/sections.py", {"settings", "source", "summary"}),
        ("ppo_pipeline/settings/params.py", {"settings", "source", "summary"}),
        ("ppo_pipeline/settings/stage_settings.py", {"settings", "summary"}),
        ("ppo_pipeline/settings/new.py", set()),
        ("ppo_pipeline/project/new.py", set()),
        ("ppo_pipeline/project/local_models.py", {"settings", "source"}),
        ("ppo_pipeline/project/learning_curve.py", {"summary"}),
        ("ppo_pipeline/rewards/scoring.py", {"reward", "evaluate"}),
        ("ppo_pipeline/rewards/types/new.py", {"reward", "evaluate"}),
        ("ppo_pipeline/maths/kl.py", {"advantage"}),
        ("ppo_pipeline/maths/ppo.py", {"update"}),
        ("ppo_pipeline/training/optimizer.py", {"sft", "reward_model", "update"}),
        ("ppo_pipeline/training/update_state.py", {"update"}),
        ("ppo_pipeline/training/supervised/loop.py", {"sft", "reward_model"}),
        ("ppo_pipeline/models/lora.py", {"base", "sft", "reward_model", "init", *MODELS}),
        ("ppo_pipeline/sampling/draw.py", {"base", "rollout", "evaluate"}),
        ("ppo_pipeline/prompts/rendering.py", {"sft", "reward_model", "rollout", "reward", "evaluate", "settings"}),
        ("ppo_pipeline/tables/advantages.py", {"advantage", "update"}),
        ("ppo_pipeline/storage/files.py", {name for name, body in BODIES.items()} - {"code", "baseline"}),
        ("stages/rollout.py", {"rollout"}),
    ],
)
def test_an_edit_reruns_the_stages_whose_outputs_it_can_change(copy: Copy, name: str, stages: set[str]) -> None:
    copy.edit(name, put("added = 1"))
    found = copy.changed()
    if name.startswith("ppo_pipeline/rewards/"):
        found -= {"settings"}  # which may ask a type of rewards to check its settings
    assert found == stages


def test_other_words_of_every_error_rerun_nothing(copy: Copy) -> None:
    for path in [*copy.folder.glob("ppo_pipeline/**/*.py"), *copy.folder.glob("stages/*.py")]:
        path.write_text(in_other_words(path.read_text()))
    assert not copy.changed()


def test_a_change_of_c_code_reruns_the_stages_with_kernels_and_only_those(copy: Copy) -> None:
    """Light stages and rewards, which may cost money, do not use it. base tries the decoder."""
    (kernel, *_) = sorted((copy.folder / "ppo_pipeline/compute/native").glob("*.c"))
    name = kernel.relative_to(copy.folder).as_posix()
    copy.edit(name, lambda source: "/* another remark */\n" + source)
    assert not copy.changed()
    copy.edit(name, lambda source: "static int added;\n" + source)
    assert copy.changed() == {"base", "sft", "reward_model", "init", *MODELS}


def test_code_in_the_init_of_a_package_counts(copy: Copy) -> None:
    copy.edit("ppo_pipeline/tables/__init__.py", put('"""A docstring."""'))
    assert not copy.changed()
    copy.edit("ppo_pipeline/tables/__init__.py", put("added = 1"))
    read = {"datasets", "prompts", "settings", "preferences", "sft", "reward_model"}
    assert copy.changed() == {*read, "init", "reward", "advantage", *MODELS}


def test_estimators_are_the_code_of_advantage_and_of_no_other_stage() -> None:
    """They are found by name; settings, which check the name in every stage, look them up without importing them."""
    folder = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ppo_pipeline/maths/estimators").glob("[a-z]*.py")}
    for script in (ROOT / "stages").glob("[a-z]*.py"):
        found = folder & counted_files(script, ROOT)
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
        "import sys, stages.advantage, stages.preferences, stages.reward, stages.settings, stages.summary;"
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
    assert BODIES["preferences"]["params"] == ["preferences.${key}", "prompts.continue_final_message"]
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    parts = {f"compute.{name}" for name in params.pop("compute")} - {"compute.engine", "compute.workers"}
    assert set(BODIES["settings"]["params"]) == {*params, *parts}
