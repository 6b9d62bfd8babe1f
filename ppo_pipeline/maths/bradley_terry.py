"""The Bradley-Terry model of preferences: the answer c is chosen over r with probability sigmoid(r_c - r_r).

Bradley and Terry 1952; with the rewards of a model: Christiano et al. 2017 (arXiv:1706.03741), Stiennon et al. 2020
(arXiv:2009.01325, eq. 1).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_losses(chosen: Tensor, rejected: Tensor, margins: Tensor | None = None) -> Tensor:
    """Return each pair's loss (N,), the negative log likelihood of the choice

        -log sigmoid(r_c - r_r - m)

    chosen, rejected: rewards r_c and r_r (N,). margins: m (N,), by how much the chosen one should win at least
    (Llama 2, Touvron et al. 2023, arXiv:2307.09288, eq. 2); None: 0. As TRL's RewardTrainer, which takes the mean.
    """
    difference = chosen - rejected
    return -logsigmoid(difference if margins is None else difference - margins)
