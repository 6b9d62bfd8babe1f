"""A user's Python function: imported, asked what it takes, and the line of it that raised."""

import importlib
import inspect
import traceback
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from .samples import MissingColumn

Function = Callable[..., Any]
RAISED = (Exception, SystemExit)  # sys.exit() in a function must not end the stage as if all were well
HERE = Path(__file__).resolve().parents[1]


def load_function(path: str, name: str) -> Function:
    """Import `package.module:function` from the project's top folder or the environment; name: the reward's.

    Raises PipelineError, with the line that is at fault, where that fails.
    """
    module, _, attribute = path.partition(":")
    try:
        with chdir("."):  # the module's code may leave the folder
            function = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise PipelineError(f"reward '{name}': function '{path}': {error}{_at(error)}.") from None
    except AttributeError as error:
        if _at(error):  # of the module's own code
            raise _import_raised(name, module, error) from error
        raise PipelineError(f"reward '{name}': the module '{module}' has no '{attribute}'.") from None
    except RAISED as error:  # what the module's own code raises, or that it is no Python
        raise _import_raised(name, module, error) from error
    if not callable(function):
        raise PipelineError(f"reward '{name}': '{path}' is not a function.")
    return function  # type: ignore[no-any-return]


def refuse_arguments(function: Function, path: str, name: str, given: list[str], columns: dict[str, Any]) -> None:
    """Raise PipelineError where the function cannot be called with the arguments `given`, `columns` among them.

    MissingColumn where it asks for one more, which only the prompts could have.
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # of one in C nothing is known
        return
    kinds = inspect.Parameter
    for each in signature.parameters.values():
        by_name = each.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        if by_name and each.default is kinds.empty and each.name not in given:
            raise MissingColumn(f"reward '{name}': {path}", each.name, columns)
    try:
        signature.bind(**dict.fromkeys(given))
    except TypeError as error:
        raise PipelineError(
            f"reward '{name}': {path} cannot be called with {', '.join(given)}: {error}; `**kwargs` as its last "
            "parameter takes what it does not use."
        ) from None


def line_of(error: BaseException) -> str:
    """Return file and line of the user's code that raised: `reward_functions/mine.py, line 12`; empty for none.

    The innermost line that is neither this package's nor an installed library's; where all are, the innermost.
    """
    frames = [
        (Path(frame.filename), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(HERE / "rewards")
    ]
    library = Path(inspect.__file__).parent
    own = [place for place in frames if not place[0].is_relative_to(library) and "site-packages" not in place[0].parts]
    if not frames:
        return ""
    file, line = (own or frames)[-1]
    here = Path.cwd()
    return f"{file.relative_to(here) if file.is_relative_to(here) else file}, line {line}"


def _at(error: BaseException) -> str:
    """Return where a module's own code raised, in brackets; empty where it is importing itself that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    of_import = Path(importlib.__file__).parent
    own = [f for f in frames if not f.filename.startswith("<") and not Path(f.filename).is_relative_to(of_import)]
    return f" ({line_of(error)})" if own[1:] else ""  # the first is this file's


def _import_raised(name: str, module: str, error: BaseException) -> PipelineError:
    place = "" if isinstance(error, SyntaxError) else _at(error)  # whose words have it
    return PipelineError(f"reward '{name}': importing '{module}' raised {type(error).__name__}: {error}{place}.")
