"""The section `preferences` of params.yaml: tables of pairs of answers."""

from pydantic import Field

from .sections import Section, UnitInterval


class Preferences(Section):
    """Pairs of answers to a prompt, of which one was preferred, which makes data/preferences/NAME.parquet."""

    source: str = Field(description="JSONL, JSON, CSV, TSV or Parquet file, or a folder of such files", min_length=1)
    heldout_fraction: UnitInterval = Field(
        description="Share of the prompts held out of training, where the source has no split column; by hash"
    )
