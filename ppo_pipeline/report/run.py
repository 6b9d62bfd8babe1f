"""What of a run is there to show: its rounds and the tables that can be read. What is missing becomes a note."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..project.paths import Paths
from ..settings.params import ROOT, load_params
from ..tables.schema import TableError, TableSchema
from .branches import lines_of

FILES = {"evaluation": "eval.parquet"}  # the others are called like their schema


class Run:
    """A project folder, opened to read; `notes` says in plain sentences what was left out, and why.

    only: the rounds whose samples are wanted, all where it is empty. Raises PipelineError for an unknown one.
    """

    def __init__(self, root: Path, only: Sequence[str] = ()) -> None:
        self.root = root
        self.params = load_params(root / "params.yaml")
        self.lines = lines_of(self.params)
        self.rounds = [name for line in self.lines for name in line.rounds]
        for name in only:
            if name not in self.rounds:
                raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, self.rounds)}")
        self.shown = [name for name in self.rounds if not only or name in only]
        self.notes: list[str] = []
        self._missing: dict[str, list[str]] = {}

    def path(self, schema: TableSchema, name: str) -> Path:
        """Return where round `name` has this table."""
        return Paths(name, root=self.root).folder / FILES.get(schema.name, f"{schema.name}.parquet")

    def read(self, schema: TableSchema, name: str, beside: pa.Table | None = None) -> pa.Table | None:
        """Return a round's table; None, and a note, where it is missing or unreadable, or of other samples."""
        path = self.path(schema, name)
        shown = path.relative_to(self.root)
        if not path.is_file():
            self._missing.setdefault(path.name, []).append(name)
            return None
        try:
            table = schema.read(path)
        except TableError as error:
            self.notes.append(str(error.message).replace(str(path), str(shown)))
            return None
        if beside is not None and table.column(0) != beside.column(0):
            self.notes.append(f"{shown}: left out, it is of other samples than the rollouts; `dvc repro` renews it.")
            return None
        return table

    def all_notes(self) -> list[str]:
        """Return the notes; the missing files are told once for each kind of file."""
        told = []
        for file, names in sorted(self._missing.items()):
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            told.append(f"{file}: not here for {some}; `dvc repro` makes it, `dvc pull` fetches it.")
        return [*told, *self.notes]

    def facts(self) -> list[tuple[str, str]]:
        """Return what the head of the page says of the run."""
        p = self.params
        model = p.base.model if not Path(p.base.model).is_absolute() else Path(p.base.model).name
        trained = sum(name != ROOT for name in self.rounds)
        branches = f", {len(self.lines) - 1} branches" if len(self.lines) > 2 else ""
        branches = ", 1 branch" if len(self.lines) == 2 else branches
        return [
            ("model", model + ("" if p.start == "data/base" else f", then {p.start}")),
            ("rounds", f"{trained}{branches}"),
            ("samples a round", str(p.samples)),
            ("KL coefficient", f"{p.advantage.kl_coef:g}"),
            ("learning rate", f"{p.update.lr:g}"),
            ("estimator", p.advantage.estimator),
        ]
