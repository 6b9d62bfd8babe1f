"""The scale of fp16's loss, which keeps small gradients from becoming 0."""

import torch

FIRST_LOSS_SCALE, LEAST_LOSS_SCALE = 65536.0, 1.0


def loss_scaler(device: torch.device, dtype: torch.dtype, scale: float | None, streak: int) -> torch.amp.GradScaler:
    """Return the scaler of fp16's loss as it was left, or one that does nothing for other dtypes."""
    if dtype != torch.float16:
        return torch.amp.GradScaler(device.type, enabled=False)
    scaler = torch.amp.GradScaler(device.type, init_scale=scale or FIRST_LOSS_SCALE)
    if scale is not None:
        scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": streak})
    return scaler
