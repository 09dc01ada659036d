"""The ceiling: one model, as many examples a step as all nodes together, all cores."""

import torch
from task import MOMENTUM, RATE, Clock, arguments, report, shares
from torch.nn.functional import cross_entropy

from weft.simulations.tasks.models import build_model
from weft.simulations.tasks.optimizers import build_optimizer


def main() -> None:
    given = arguments()
    images, labels = (torch.from_numpy(part) for part in shares(given))
    model = build_model(given.model, shape=tuple(images.shape[2:]), classes=10)
    optimizer = build_optimizer("sgd", model, {}, momentum=MOMENTUM)

    def step(place: int) -> None:
        part = slice(place * 32, (place + 1) * 32)
        loss = cross_entropy(model(images[:, part].flatten(0, 1)), labels[:, part].flatten())
        loss.backward()
        optimizer.step(RATE)

    step(0)
    clock = Clock()
    for _ in range(given.rounds):
        for place in range(given.steps):
            step(place % (images.shape[1] // 32))
    report(given.nodes * given.steps * given.rounds, clock.seconds)


if __name__ == "__main__":
    main()
