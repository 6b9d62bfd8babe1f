"""Bring a folder to a model hub's repository, by huggingface_hub: HF_ENDPOINT names the hub, HF_TOKEN who writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import PipelineError
from .hub import offline


def open_repository(repo: str, private: bool) -> None:
    """Make the repository where it is not there yet; PipelineError where its name is none, or one may not write there.

    Asked before anything costly. private: of a new one; one that is there stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PipelineError(f"{repo}: {error}") from None
    with told(repo):
        HfApi().create_repo(repo, private=private, exist_ok=True)


def upload(folder: Path, repo: str, message: str) -> str:
    """Commit all files of `folder` to the repository, over those of the same names there; return the commit's URL."""
    from huggingface_hub import HfApi

    with told(repo):
        return str(HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url)


@contextmanager
def told(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub and the libraries below it raise into a PipelineError with their words."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        raise PipelineError(
            f"{repo}: not uploaded: {type(error).__name__}: {said:.400}{offline()} `hf auth login` or HF_TOKEN gives "
            "the right to write."
        ) from None
