"""The section `datasets` of params.yaml: data sets of a hub."""

from pydantic import Field, field_validator

from .sections import Section


class HubDataset(Section):
    """A data set of the Hugging Face hub, which makes data/datasets/NAME.parquet: a source for prompts and the like."""

    source: str = Field(
        description="hf://OWNER/NAME", pattern=r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    revision: str = Field(
        description="Commit of the data set, in quotes: the 40 digits on its page under Files, History. The same rows "
        "for everybody; another one fetches anew",
        pattern=r"^[0-9a-f]{40}$",
    )
    subset: str | None = Field(description="Its subset, which the page has beside the split; null: the only one")
    train: str = Field(description="Its split that is trained on, or a part: train[:2000], train[:50%]", min_length=1)
    heldout: str | None = Field(
        description="Its split that is held out, such as test or test[:500]; null: heldout_fraction of `train`",
        min_length=1,
    )
    columns: dict[str, str] = Field(
        description="The columns that are kept, by their new names: {prompt: question, answer: answer}; {}: all"
    )

    @field_validator("columns")
    @classmethod
    def _split_is_told_by_the_settings(cls, columns: dict[str, str]) -> dict[str, str]:
        if "split" in columns:
            raise ValueError("`train` and `heldout` say a row's split; leave split out")
        return columns
