"""`ppo-pipeline preset`: list the presets, this package's and those in params/, or make one of them params.yaml."""

from pathlib import Path

import click

from ..errors import PipelineError, nearest
from ..project.layout import repository_file
from ..settings.json_schema import FILE, HEAD
from ..settings.params import SEALED, Params, load_params, read_sealed
from ..storage.files import atomic_file
from .literal import token_text

PARAMS, FOLDER = Path("params.yaml"), Path("params")


@click.command()
@click.argument("name", required=False)
@click.option("--scaled", is_flag=True, help="The preset NAME-scaled: the same task with rounds of a sensible size.")
def preset(name: str | None, scaled: bool) -> None:
    """List the presets, or check the preset NAME and make it params.yaml.

    A file in the project's folder params/ is a preset too, and counts before this package's of the same name. The
    former params.yaml is kept as params.before-NAME.yaml, unless a preset holds the same bytes.
    """
    found = presets()
    if name is not None and scaled:
        if name in found and f"{name}-scaled" not in found:
            raise PipelineError(f"the preset '{name}' has no scaled variant: there is no '{name}-scaled'.")
        name += "-scaled"
    if name is None:
        width = max(map(len, found))
        for stem, path in found.items():
            click.echo(f"{stem:{width}}  {first_comment(path)}".rstrip())
        return
    if name not in found:
        raise PipelineError(f"no preset '{name}'.{nearest(name, list(found))} There are: {', '.join(found)}.")
    wanted = files_of(load_params(found[name]))
    refuse_sealed(name)
    content = content_of(found[name])
    if PARAMS.is_file() and PARAMS.read_bytes() == content:
        click.echo(f"params.yaml is {name} already; `dvc repro` runs it")
        return
    kept = keep_former(Path(f"params.before-{name}.yaml"), list(found.values()))
    with atomic_file(PARAMS) as partial:  # replaces a link by a file: what it pointed to stays as it is
        partial.write_bytes(content)
    former = f", the former one is {kept}" if kept else ""
    came = [str(path) for path in wanted if bring(path)]
    brought = f", with {', '.join(came)}" if came else ""
    click.echo(f"params.yaml is {name} now{brought}{former}; `dvc repro` runs it")


def files_of(params: Params) -> list[Path]:
    """Return the data files and Python files that these settings name."""
    functions = [c.function for c in params.reward.components if c.type == "python"]
    code = [Path(*function.partition(":")[0].split(".")).with_suffix(".py") for function in functions]
    return [*map(Path, params.data_files), *code]


def content_of(path: Path) -> bytes:
    """Return a preset as params.yaml, with the line that tells editors of the schema, where that lies beside it."""
    content = path.read_bytes()
    head = HEAD.encode() + b"\n"
    return head + content if Path(FILE).is_file() and not content.startswith(head) else content


def bring(path: Path) -> bool:
    """Write this package's own file where the project has none; tell whether it was."""
    packaged = repository_file(path.as_posix())
    if path.exists() or path.is_absolute() or not packaged.is_file():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_bytes(packaged.read_bytes())
    return True


def refuse_sealed(name: str) -> None:
    """Raise PipelineError where rounds are sealed: they were trained with other settings, and have their names."""
    sealed = read_sealed(SEALED)
    if sealed:
        raise PipelineError(
            f"{SEALED}: {', '.join(sealed)} were trained with the settings at hand and would stay beside those of "
            f"{name}; `ppo-pipeline rounds unseal {next(iter(sealed))}` comes first, or a clone without them."
        )


def presets() -> dict[str, Path]:
    """Return the presets by name; raise PipelineError where this folder is no project."""
    if not Path("dvc.yaml").is_file() and not FOLDER.is_dir():
        raise PipelineError("neither dvc.yaml nor params/ in this folder; run from the project's top folder.")
    paths = [*repository_file("params").glob("*.yaml"), *FOLDER.glob("*.yaml")]
    return dict(sorted({path.stem: path for path in paths}.items()))


def first_comment(path: Path) -> str:
    """Return the file's first line of comment that has words, empty where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    comments = (line.lstrip("# ") for line in lines if line.startswith("#"))
    return token_text(next((text for text in comments if text), ""))


def keep_former(target: Path, committed: list[Path]) -> Path | None:
    """Copy params.yaml to `target`, unless a file of `committed` holds its bytes; return where it is kept.

    An existing `target` is never overwritten: with other bytes in it, that is an error.
    """
    if not PARAMS.is_file():
        return None
    content = PARAMS.read_bytes()
    if any(content in (path.read_bytes(), content_of(path)) for path in committed):
        return None
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        if not target.is_file() or target.read_bytes() != content:
            raise PipelineError(
                f"{target} holds former settings already, others than params.yaml has now; move or delete it. "
                "Nothing was changed."
            ) from None
    return target
