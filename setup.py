"""What pyproject.toml cannot say: stages/ becomes ppo_pipeline.stages, and a wheel has the files that `init` needs.

ppo_pipeline/storage/code_fingerprint.py finds the stages and ppo_pipeline/project/layout.py the files, in a clone and
in an installed wheel. All else is in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PATTERNS = (
    "dvc.yaml",
    "params.schema.json",
    "params/*.yaml",
    "data/prompts/*.jsonl",
    "data/demonstrations/*.jsonl",
    "data/pairs/*.jsonl",
    "reward_functions/*.py",
    ".dvcignore",
    ".dvc/.gitignore",
    ".dvc/plots.html",
)


class WithRepositoryFiles(build_py):
    """Copies the repository's files to ppo_pipeline/repository/ in the wheel; an editable install has them beside."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        for target, source in self.repository_files().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def repository_files(self) -> dict[str, str]:
        """Return {path in the build: path in the repository}."""
        if self.editable_mode:
            return {}
        found = [path for pattern in PATTERNS for path in sorted(Path().glob(pattern))]
        folder = Path(self.build_lib, "ppo_pipeline/repository")
        return {str(folder / path): str(path) for path in found}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return what is built, these files too."""
        return [*super().get_outputs(include_bytecode), *self.repository_files()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return what is built and of what, these files too."""
        return {**super().get_output_mapping(), **self.repository_files()}

    def get_source_files(self) -> list[str]:
        """Return what a source distribution has to bring, these files too."""
        return [*super().get_source_files(), *(str(p) for pattern in PATTERNS for p in sorted(Path().glob(pattern)))]


setup(
    packages=[*find_packages(include=["ppo_pipeline*"]), "ppo_pipeline.stages"],
    package_dir={"ppo_pipeline.stages": "stages"},
    cmdclass={"build_py": WithRepositoryFiles},
)
