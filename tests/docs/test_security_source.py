"""What no source file of this project calls: unpickling, evaluated text, a shell, a model's own code unasked."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("ppo_pipeline", "stages", "scripts", "benchmarks", "reward_functions")
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "tempfile.mktemp",
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "numpy.load", "np.load", "pandas.read_pickle",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open",
    "joblib.load", "cloudpickle.loads", "dill.loads", "importlib.import_module", "import_module", "runpy.run_module",
    "runpy.run_path", "shutil.unpack_archive",
}  # fmt: skip
METHODS = ("extractall", "extract")  # of tar and zip archives
MODULES = ("pickle", "marshal", "shelve", "joblib", "cloudpickle", "dill", "tarfile", "ctypes", "yaml")
KEYWORDS = {
    "shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False, "verify": False,
    "allow_redirects": True, "use_safetensors": False, "allow_all_kernels": True, "use_kernels": True,
}  # fmt: skip
ALLOWED = {
    ("ppo_pipeline/cli/main.py", "import_module"),  # of its own table of commands
    ("ppo_pipeline/compute/device.py", "ctypes"),  # mallopt
    ("ppo_pipeline/compute/native/library.py", "ctypes"),  # the library compiled of the package's own C files
    ("ppo_pipeline/compute/native/operations.py", "ctypes"),  # its arguments
    ("ppo_pipeline/trackers/tracker.py", "import_module"),  # the files beside it
    ("ppo_pipeline/rewards/user_function.py", "importlib.import_module"),  # the function that params.yaml names
    ("ppo_pipeline/settings/reward_sections.py", "import_module"),  # files of rewards/types/
    ("ppo_pipeline/errors/extras.py", "import_module"),  # a library that its caller's code names
    ("ppo_pipeline/engine/warm/child.py", "runpy.run_module"),  # the stage that this user's launcher names
    ("ppo_pipeline/engine/warm/server.py", "importlib.import_module"),  # installed libraries
    ("ppo_pipeline/engine/warm/server.py", "ctypes"),  # prctl
    ("ppo_pipeline/maths/estimators/registry.py", "import_module"),  # the files beside it
    ("ppo_pipeline/settings/estimators.py", "import_module"),  # that file
    ("stages/__main__.py", "import_module"),  # a file of stages/
    ("scripts/architecture_round.py", "PeftModel.from_pretrained(plain, policy)"),  # the adapter that it wrote
    ("benchmarks/__main__.py", "importlib.import_module"),  # a file of benchmarks/
    ("benchmarks/ablations.py", "import_module"),  # a file of stages/
}


def found(source: str) -> set[str]:
    """Return what a source file calls, imports or sets of the above."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names} & set(MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module.split(".")[0]} & set(MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names |= {called} & FORBIDDEN
            names |= {name for name in METHODS if called.endswith(f".{name}")}
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg in KEYWORDS and value is KEYWORDS[keyword.arg]:
                    names.add(f"{keyword.arg}={value}")
                if called.endswith("YAML") and keyword.arg == "typ" and value not in ("safe", "rt"):
                    names.add(ast.unparse(node))
            if called.endswith(".from_pretrained"):
                given = {keyword.arg for keyword in node.keywords}
                if None not in given and not given >= {"trust_remote_code", "local_files_only"}:
                    names.add(ast.unparse(node))
    return names


def test_no_source_file_unpickles_evaluates_or_trusts_by_itself() -> None:
    files = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(files) > 100
    seen = set()
    for path in files:
        name = path.relative_to(REPOSITORY).as_posix()
        own = name.startswith("benchmarks/")  # there a model is one that the benchmark made, or its user's
        seen |= {(name, item) for item in found(path.read_text()) if not (own and ".from_pretrained(" in item)}
    assert seen == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "torch.load(p)", "np.load(p, allow_pickle=True)", "subprocess.run('ls', shell=True)",
        "from pickle import loads", "import pickle as p", "archive.extractall(d)", "YAML(typ='unsafe')",
        "AutoModel.from_pretrained(d)", "f(trust_remote_code=True)", "torch.load(p, weights_only=False)",
        "requests.get(u, verify=False)",
    ],
)  # fmt: skip
def test_the_search_finds_each_kind(source: str) -> None:
    assert found(source)


def test_the_search_leaves_alone_what_is_harmless() -> None:
    assert not found("model.eval(); re.compile('x'); YAML(typ='safe'); YAML(); run(['ls'], shell=False)")
