"""What stages of a round do besides their work: settings, record, scratch, progress, metrics, line of result.

So do those that are given the name of an entry of params.yaml.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from ..engine.done_together import do_together
from ..engine.opened import open_pool
from ..engine.pool import Pool
from ..engine.together import Together
from ..errors import PipelineError, nearest
from ..observe.counter import Counter
from ..observe.progress import progress, result
from ..observe.run_record import run_record
from ..resume.scratch import Scratch
from ..settings.params import ROOT, Params, load_params
from ..settings.sections import Compute
from ..settings.stage_settings import StageSettings, read_settings
from ..storage.files import write_json
from .paths import Paths

Settings = TypeVar("Settings", bound=BaseModel)
OfRound = TypeVar("OfRound", bound=StageSettings)


class StageRun(Generic[Settings]):
    """A stage at work: its settings, its round's paths, and `record` for what is to be known of how it ran.

    name: of its round, or of its entry in params.yaml. metrics: the file that they are written to.
    """

    def __init__(
        self, stage: str, name: str, settings: Settings, paths: Paths, metrics: Path, record: dict[str, Any]
    ) -> None:
        self.stage, self.name, self.settings, self.paths, self.record = stage, name, settings, paths, record
        self.metrics = metrics
        self.label = f"{stage} {name}"
        self.numbers: dict[str, Any] = {}
        self.text = ""
        self._machine: Any = None
        self._scratch: Scratch | None = None

    def on(self, machine: Any) -> Any:
        """Take note of the machine that a stage with a model was set up on (compute/machine.py); return it."""
        self.record |= machine.told()
        self._machine = machine
        return machine

    @contextmanager
    def pool(self, compute: Compute, gpus: int = 1) -> Iterator[Pool]:
        """Yield the workers of a stage with a model, as `compute.engine` asks for them; gpus: of each of them."""
        with open_pool(compute, self.label, gpus) as pool:
            self.on(pool.machine)
            yield pool
            self.record |= pool.told()

    def together(self, compute: Compute, work: Together, counter: Counter) -> Any:
        """Have a work done by one process or by many together, as `compute.engine` asks for it; return its result."""
        found, told = do_together(compute, work, counter, self.label)
        self.record |= told
        return found

    def keeps(self, scratch: Scratch) -> None:
        """Take note of where such a work has kept what it had done."""
        self._scratch = scratch

    def scratch(self, *inputs: Path, more: tuple[object, ...] = ()) -> Scratch:
        """Return where the stage keeps what it has done so far of work on these files; more: what else decides it."""
        machine = () if self._machine is None else self._machine.decides()
        self._scratch = Scratch(self.stage, self.name, inputs, *machine, *more)
        return self._scratch

    @contextmanager
    def progress(self, total: int, unit: str, at_once: int = 0) -> Iterator[Counter]:
        """Yield a Counter of the stage's work over `total` items: so many `unit`; at_once: that are under way."""
        with progress(total, self.label, unit, at_once) as counter:
            yield counter
        self.record |= {"tokens": counter.tokens, "tokens_per_second": round(counter.tokens / counter.seconds, 1)}

    def done(self, text: str, numbers: dict[str, Any]) -> None:
        """Say what came out, when the outputs are written. numbers: the stage's metrics."""
        self.text, self.numbers = text, numbers

    def finish(self) -> None:
        """Write the metrics, last of all outputs; let go of the scratch; print the line of result."""
        write_json(self.metrics, self.numbers)
        if self._scratch is not None:
            self._scratch.finish()
        result(self.label, self.text, self.numbers)


@contextmanager
def stage_run(kind: type[OfRound], name: str) -> Iterator[StageRun[OfRound]]:
    """Yield the run of the stage whose settings `kind` is, in round `name`; finish it where nothing is raised.

    Raises PipelineError, with what to do, where the round has no such settings.
    """
    settings = _settings(kind, Paths(name))
    with run_record(kind.stage, name) as record:
        paths = Paths(name, settings.parent_round, start=settings.start_folder)
        run = StageRun(kind.stage, name, settings, paths, paths.metrics(kind.stage), record)
        yield run
    run.finish()


@contextmanager
def named_run(stage: str, name: str) -> Iterator[tuple[StageRun[Any], Params]]:
    """Yield the run of a stage that is given an entry of the section called like it, and all of params.yaml.

    Raises PipelineError where there is no such entry.
    """
    params, paths = load_params(), Paths()
    entry = params.entry(stage, name)
    with run_record(stage, name) as record:
        run = StageRun(stage, name, entry, paths, paths.named_metrics(stage, name), record)
        yield run, params
    run.finish()


def _settings(kind: type[OfRound], paths: Paths) -> OfRound:
    path = paths.settings(kind.stage)
    known = sorted(folder.name for folder in paths.settings_folder.glob("*") if folder.is_dir())
    if known and paths.round not in known:
        raise PipelineError(
            f"{paths.settings_folder}: no round '{paths.round}'.{nearest(paths.round, known)} `dvc repro settings` "
            "writes a folder for each open round of params.yaml."
        )
    if paths.round == ROOT and not path.is_file():
        raise PipelineError(f"{path}: no such file; the untrained policy {ROOT} is only evaluated.")
    return read_settings(kind, path)
