"""A YAML file's map; where the text is no YAML, an error that shows the line and says what was expected."""

from pathlib import Path
from typing import Any

from ..errors import PipelineError


def read_map(path: Path, expected: str) -> dict[str, Any]:
    """Return a YAML file's map; raise PipelineError where it is missing, no YAML or no map."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run from the project's top folder.") from None
    except OSError as error:
        raise PipelineError(f"{path}: not readable: {error}") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: not valid YAML: {error}") from None
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise PipelineError(f"{path}: not valid YAML: nested too deeply") from None
    except (YAMLError, ValueError, KeyError) as error:  # of the latter two: a date, a number or !!bool that is none
        from .yaml_faults import described

        raise PipelineError(f"{path}: not valid YAML{described(text, error)}") from None
    if not isinstance(data, dict):
        raise PipelineError(f"{path}: expected {expected}, found {type(data).__name__}.")
    return data
