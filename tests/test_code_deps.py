"""dvc.yaml's deps and params are complete."""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from code_deps import ROOT, imported_files, is_code, stage_module

DOCUMENT = YAML(typ="safe").load(ROOT / "dvc.yaml")
BODIES = {name: stage.get("do", stage) for name, stage in DOCUMENT["stages"].items()}


def test_every_stage_lists_exactly_the_code_that_it_imports() -> None:
    for name, body in BODIES.items():
        assert {d for d in body["deps"] if is_code(d)} == imported_files(stage_module(body["cmd"])), name


def test_the_walker_agrees_with_what_python_really_imports() -> None:
    """Import each stage in a fresh interpreter: no project module may be loaded that dvc.yaml does not list."""
    program = (
        "import sys, importlib; importlib.import_module(sys.argv[1]);"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('ppo_pipeline', 'stages')))"
    )
    for name, body in BODIES.items():
        module = body["cmd"].split()[body["cmd"].split().index("-m") + 1]
        done = subprocess.run([sys.executable, "-c", program, module], cwd=ROOT, capture_output=True, text=True)
        loaded = {Path(f).relative_to(ROOT).as_posix() for f in done.stdout.split()}
        code = {f for f in loaded if not f.endswith("__init__.py")}
        assert code, done.stderr
        assert code <= set(body["deps"]), name


def test_every_file_that_a_command_reads_is_a_dependency_and_every_one_it_writes_an_output() -> None:
    for name, body in BODIES.items():
        words = body["cmd"].split()
        paths = {w for w in words if w.startswith(("data/", "metrics/"))}
        outs = {o if isinstance(o, str) else next(iter(o)) for o in body["outs"]}
        assert paths - outs <= set(body["deps"]), name
        assert outs <= paths, name
        assert "params.yaml" not in words or "params" in body, name


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
        used = {s for s in sections if f"params.{s}" in source or f"load_params(params_path).{s}" in source}
        assert used <= set(BODIES[name]["params"]), name
        assert used, name
    assert set(BODIES["settings"]["params"]) == set(YAML(typ="safe").load(ROOT / "params.yaml"))
