"""bitsandbytes, which quantizes to 4 bits: an extra, imported only where it is used."""

import logging
from functools import cache
from typing import Any

from ..errors import PipelineError
from ..errors.extras import to_install
from ..observe.run_record import version_of


def require_bitsandbytes() -> None:
    """Raise PipelineError, with what to install, where bitsandbytes is missing; it is not imported, which is slow."""
    if version_of("bitsandbytes") is None:
        raise PipelineError(
            "params.yaml: policy.quantization: needs bitsandbytes, which is not installed here: "
            f"{to_install('nf4')}. Or set it to null."
        )


@cache
def functional() -> Any:
    """Return bitsandbytes' module of functions; PipelineError where it is missing."""
    require_bitsandbytes()
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of kernels that are not used here
    import bitsandbytes.functional

    log.setLevel(level)
    return bitsandbytes.functional
