"""Responses from a policy, behind one door: `open_engine(...).generate(requests)`."""

from .engines.decoder import DecoderEngine
from .engines.engine import Engine, Model, Sampling
from .engines.vllm_engine.engine import VllmEngine

ENGINES: dict[str, type[Engine]] = {"own": DecoderEngine, "vllm": VllmEngine}


def open_engine(model: Model, sampling: Sampling, name: str = "own") -> Engine:
    """Return the engine of this name with the policy loaded; it answers as many lists of requests as are given.

    Raises PipelineError for a device, model or way of sampling that the engine cannot do rightly.
    """
    return ENGINES[name](model, sampling)
