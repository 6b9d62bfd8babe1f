"""The card itself: huggingface_hub's ModelCard, metadata and text, of a round's facts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import __version__
from ...models.packaged import PACKAGED
from ...project.policies import params_of_round
from ...project.published import hub_base
from ...settings.params import ROOT, Params
from .facts import commit_here, curve_lines, data_hashes, policy_hash, settings_lines
from .heldout import Measured, answers_of, chosen_of, fenced, measured, measured_average, samples

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

TEMPLATE = Path(__file__).with_name("model_card.md")
SAMPLES = 5
ON_THE_HUB = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # what a packaged model was made of
TYPES = {"scores": "reward", "correct": "accuracy"}
MERGED = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{0}")
tokenizer = AutoTokenizer.from_pretrained("{0}")"""
ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{0}")
tokenizer = AutoTokenizer.from_pretrained("{0}")"""
ADAPTER_OF_LOCAL = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{1}")  # of the project that trained it
model = PeftModel.from_pretrained(base, "{0}")"""


class Published(NamedTuple):
    """What a card is of: a round's policy or the average, as an adapter or merged; where: its folder or repository."""

    round: str
    average: bool
    adapter: bool
    where: str
    licence: str | None = None


def card_of(params: Params, of: Published) -> "ModelCard":
    """Return the model card of a round that has been computed; what is missing of it, the card does without."""
    from huggingface_hub import ModelCard

    name, table = of.round, answers_of(of.round)
    numbers = measured_average(params, name) if of.average else measured(name)
    settings, as_run = settings_lines(params, name)
    system = (params if name == ROOT else params_of_round(params, name)).prompts.system
    how = "average" if of.average else "policy"
    return ModelCard.from_template(
        metadata(params, of, numbers),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=_title(of), base_text=_base_text(params), round=name, rounds=len(params.all_rounds),
        average=of.average, adapter=of.adapter, load=how_to_load(params, of), system=fenced(system) if system else None,
        measured=[_cells(each) for each in numbers], prompts=0 if table is None else table.num_rows,
        chosen=0 if of.average else chosen_of(params, name), samples=[] if of.average else samples(name, SAMPLES),
        curve=curve_lines(params, name), settings=settings, as_run=as_run, **commit_here(),
        target="init" if name == ROOT else f"update@{name}", version=__version__, hashes=data_hashes(params),
        policy_hash=policy_hash(params, name, of.average), policy_path=f"data/rounds/{name}/{how}",
    )  # fmt: skip


def metadata(params: Params, of: Published, numbers: list[Measured]) -> Any:
    """Return the card's head: what a hub indexes of the model."""
    from huggingface_hub import EvalResult, ModelCardData

    hub, results = hub_base(params), [
        EvalResult(
            task_type="text-generation",
            dataset_type="ppo-pipeline-heldout",
            dataset_name=f"held-out prompts of {Path(params.prompts.source).name}",
            metric_type=TYPES[each.metric],
            metric_name=each.title,
            metric_value=round(each.value, 4),
        )
        for each in numbers
    ]  # fmt: skip
    base = hub.name if hub else ON_THE_HUB.get(params.base.model)
    return ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "adapter" if of.adapter else "finetune",
        license=of.licence or licence_of(params),
        library_name="peft" if of.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["ppo", "reinforcement-learning", "ppo-pipeline", *(["lora"] if of.adapter else [])],
        model_name=_title(of),
        eval_results=results or None,
    )


def licence_of(params: Params) -> str | None:
    """Return the licence of a packaged base model, as a hub spells it; of others it is not known here."""
    packaged = PACKAGED.get(params.base.model)
    return packaged.licence.lower() if packaged else None


def how_to_load(params: Params, of: Published) -> str:
    """Return the Python that loads it."""
    text = MERGED if not of.adapter else ADAPTER if hub_base(params) else ADAPTER_OF_LOCAL
    return text.format(of.where, params.start)


def _title(of: Published) -> str:
    return of.where.rstrip("/").rpartition("/")[2]


def _base_text(params: Params) -> str:
    """Return which model was trained; of a local one its last name alone, since a path says who trained it where."""
    hub, model = hub_base(params), params.base.model
    if hub:
        at = f" at {hub.revision}" if hub.revision else ""
        return f"`{hub.name}`{at}"
    if model in ON_THE_HUB:
        name = f"`{ON_THE_HUB[model]}` (its 4-bit GGUF, unpacked)"
    else:
        name = f"The model `{Path(model).name}`"
    return name + ("" if params.start == "data/base" else f" after supervised training ({params.start})")


def _cells(each: Measured) -> dict[str, str]:
    def number(value: float | None, error: float | None = None, shape: str = ".3f") -> str:
        return "" if value is None else f"{value:{shape}}" + ("" if error is None else f" +- {error:.3f}")

    return {
        "title": each.title,
        "before": number(each.before),
        "value": number(each.value, each.error),
        "change": number(each.change, each.change_error, "+.3f"),
    }
