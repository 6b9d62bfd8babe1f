"""Weights of the policy loss where the sampler's probabilities differ from the training forward's.

Importance sampling: a token drawn with q counts as r = p / q draws from the training forward's p. The forms differ in
whose ratio is bounded, and in what happens beyond a bound. Four are called as in TRL (vllm_importance_sampling_mode).
"""

from torch import Tensor


def correction_weights(log_ratios: Tensor, form: str, low: float | None, high: float) -> tuple[Tensor, Tensor]:
    """Return the weight of each token of one response, and whether its ratio was beyond a bound; both (T,).

    log_ratios: (T,) float64, log p / q of each token. low: the lower bound; None for none. high: the upper bound.

    token_truncate: clip(r_t, low, high). Ionides 2008, "Truncated importance sampling", with `high` alone; for this
        use Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    token_mask: r_t within the bounds, 0 beyond. IcePop: Ling team 2025, arXiv:2510.18855 (Ring-1T).
    sequence_truncate, sequence_mask: the same of the response's ratio r_1 r_2 ... r_T, for each of its tokens. Liu, Li
        et al. 2025, "When speed kills stability: demystifying RL collapse from the training-inference mismatch".
    geometric_mask: r_t in a response whose geometric mean (r_1 r_2 ... r_T)^(1/T) is within the bounds, 0 in others.
        seq-mask-tis of NeMo RL and OpenRLHF, after Liu, Li et al.
    """
    level, beyond = form.split("_")
    judged = {"token": log_ratios, "sequence": log_ratios.sum(), "geometric": log_ratios.mean()}[level]
    ratios = judged.exp().expand_as(log_ratios)  # infinite where a product is too large: then it is beyond `high`
    outside = (ratios > high) | (ratios < (low or 0.0))
    if beyond == "truncate":
        return ratios.clamp(low, high), outside
    weights = log_ratios.exp() if level == "geometric" else ratios
    return weights.masked_fill(outside, 0.0), outside
