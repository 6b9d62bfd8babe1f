"""Stage `base`: bring the base model into data/base/, a plain transformers folder."""

from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.observe.progress import result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.local_models import check_sources
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.sampling.trial import check_model
from ppo_pipeline.settings.params import load_params


def run() -> None:
    """Fetch, convert and check the model that `base.model` names."""
    params, folder = load_params(), Paths().base
    check_sources(params)  # else DVC does not notice when a local model changes
    settings = params.base
    with run_record("base") as record:
        model = acquire_base(settings, folder, check_model)
        record["parameters"] = sum(p.numel() for p in model.parameters())
    result("base", f"{settings.model}, {record['parameters'] / 1e6:,.0f} million parameters, in {folder}")
