"""One process a node, all at once, each with weft's trainer and a share of its own.

Every process imports what it needs by itself, as daemons on one machine do, and has one
torch thread; none exchanges anything. All are warm before the clock starts.
"""

import multiprocessing
from multiprocessing.synchronize import Barrier

from task import RATE, Clock, arguments, one_node, report

AT_ONCE = 4
"""So many may start at the same time."""


def train(given, barrier: Barrier, starting) -> None:
    """A node's process."""
    with starting:
        import torch

        from weft.simulations.references import initial_model
        from weft.simulations.tasks.classification import ClassificationTrainer

        torch.set_num_threads(1)
        trainer = ClassificationTrainer(
            data=str(one_node(given.data)),
            split="whole",
            steps=given.steps,
            model=given.model,
            lr=RATE,
        )
        model = initial_model(trainer, 0)
        trainer.train(model, 0)
    barrier.wait()
    for round in range(given.rounds):
        trainer.train(model, round)
    barrier.wait()
    barrier.wait()


def main() -> None:
    given = arguments()
    context = multiprocessing.get_context("spawn")
    barrier, starting = context.Barrier(given.nodes + 1), context.Semaphore(AT_ONCE)
    nodes = [
        context.Process(target=train, args=(given, barrier, starting), daemon=True)
        for _ in range(given.nodes)
    ]
    for node in nodes:
        node.start()
    barrier.wait()
    clock = Clock()
    barrier.wait()
    report(given.nodes * given.steps * given.rounds, clock.seconds)
    barrier.wait()
    for node in nodes:
        node.join()


if __name__ == "__main__":
    main()
