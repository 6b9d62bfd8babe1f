"""Stage `settings`: check params.yaml and write the effective settings of each stage of each round."""

from ppo_pipeline.models.bitsandbytes_library import require_bitsandbytes
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.early_checks import check_rounds
from ppo_pipeline.project.local_models import check_sources, model_texts, settle_records
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.project.sealing.older import refuse_parents_of_another_start, refuse_parents_without_memory
from ppo_pipeline.rewards import component  # noqa: F401  (its types check their settings; they are found by name)
from ppo_pipeline.sampling.engines.vllm_engine.installed import check_engines
from ppo_pipeline.settings.files import settings_texts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.files import atomic_folder
from ppo_pipeline.tables.prompts import PROMPTS


def run() -> None:
    """Write data/settings/<round>/<stage>.json; any mistake in params.yaml stops here, before costly work.

    So does what the prompts lack for it, and a reward that cannot be had.

    Write data/models/ too: the hashes of the files of each round's local reward models.
    """
    params, paths = load_params(), Paths()
    check_engines(params)
    if params.policy.quantization is not None:
        require_bitsandbytes()
    check_sources(params)
    refuse_parents_without_memory(params)
    refuse_parents_of_another_start(params)
    if paths.prompts.is_file():  # always under DVC, but with --allow-missing
        check_rounds(params, PROMPTS.read(paths.prompts))
    settle_records(params)
    with atomic_folder(paths.models) as partial:
        for name, text in model_texts(params):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
    with atomic_folder(paths.settings_folder) as partial:
        for name, stage, text in settings_texts(params):
            (partial / name).mkdir(exist_ok=True)
            (partial / name / f"{stage}.json").write_text(text, encoding="utf-8")
    sealed = len(params.all_rounds) - len(params.rounds)
    more = f" and {sealed} sealed" if sealed else ""
    result("settings", f"{len(params.rounds)} rounds{more}, params.yaml is sound")
