"""MagPrune of DELLA, Deep et al. 2024, arXiv:2406.11617, row by row, as the authors' code:

the keep probability rises linearly with the rank from density - epsilon to
density + epsilon, and what is kept is divided by it. Uniform numbers in [0, 1) are given.
Probabilities are rounded to multiples of 2^-16, as ours are.
"""

from torch import Tensor

Model = dict[str, Tensor]


def della(
    base: Model, model: Model, uniform: dict[str, Tensor], *, density: float, epsilon: float
) -> Model:
    result = {}
    for name in base:
        delta = model[name] - base[name]
        rows = delta.shape[0] if delta.ndim > 1 else 1
        changed = delta.clone().reshape(rows, -1)
        draws = uniform[name].reshape(rows, -1)
        for row in range(rows):
            magnitudes = changed[row].abs().tolist()
            ranking = sorted(range(len(magnitudes)), key=lambda place: magnitudes[place])
            for rank, place in enumerate(ranking):
                share = rank / (len(ranking) - 1) if len(ranking) > 1 else 0.5
                keep = round((density - epsilon + 2 * epsilon * share) * 65536) / 65536
                if draws[row, place] < keep:
                    changed[row, place] /= keep
                else:
                    changed[row, place] = 0.0
        result[name] = base[name] + changed.reshape(delta.shape)
    return result
