"""What git is asked and told, by its command."""

import subprocess
from pathlib import Path

from ...errors import PipelineError


def git(*arguments: str, folder: Path = Path(), about: str = "") -> str:
    """Return what a git command in `folder` prints; PipelineError with its own words where it fails.

    about: what it was for, in front of these words.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PipelineError("git: no such command; seeds are kept as DVC experiments, which are in git.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise PipelineError(f"{about or 'git ' + arguments[0]}: {said}")
    return done.stdout.strip()


def head() -> str:
    """Return the last commit; PipelineError where this folder is no git repository's top, or nothing is committed."""
    top = git("rev-parse", "--show-toplevel", about="Seeds are kept as DVC experiments, which want a git repository")
    if Path(top).resolve() != Path().resolve():
        raise PipelineError(f"This project lies inside of the git repository {top}; seeds want one of its own.")
    try:
        return git("rev-parse", "--verify", "HEAD")
    except PipelineError:
        raise PipelineError(
            "Nothing is committed yet, and each seed starts from a commit: `git add . && git commit -m 'first'`."
        ) from None


def snapshot(commit: str, needed: list[str]) -> str:
    """Return a commit of the tracked files as they lie here, changes since `commit` included; nothing is touched.

    needed: files and folders that stages read. Raises PipelineError for a file there that git does not know: the
    seeds would run without it.
    """
    here = [path for path in needed if Path(path).expanduser().resolve().is_relative_to(Path().resolve())]
    unknown = git("ls-files", "--others", "--exclude-standard", "--", *here).splitlines()
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise PipelineError(
            f"{unknown[0]}{more}: not in git, so the seeds would run without; `git add {unknown[0]}` is enough. "
            "A model may have an absolute path in params.yaml instead."
        )
    return git("stash", "create", about="git cannot record the files as they are") or commit
