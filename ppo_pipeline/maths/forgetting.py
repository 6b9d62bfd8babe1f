"""A mean that forgets."""


def forgetting_mean(mean: float, weight: float, added: float, count: float, discount: float) -> tuple[float, float]:
    """Return mean and weight after `count` further values, whose sum is `added`.

        w' = rho w + n,   m' = (rho w m + sum) / w'

    rho: discount, from 0, where nothing is kept, to 1, the plain mean of all. Neither count nor w may be 0 both.
    With values 0 or 1 this is SPO's Beta tracker (arXiv:2509.13232): alpha = w m, beta = w (1 - m), each multiplied by
    rho before the new values are counted; m is its mean alpha / (alpha + beta).
    """
    total = discount * weight + count
    return (discount * weight * mean + added) / total, total
