"""Training as a program of its own: a node runs it once a round.

In a node's configuration (the run needs base.path: a command cannot make a model):

    [train]
    command = "python train_command.py {checkpoint_in} {checkpoint_out} --seed {seed}"
"""

import argparse

import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint_in")
    parser.add_argument("checkpoint_out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model.load_state_dict(load_file(arguments.checkpoint_in))

    data = load_digits()
    inputs = torch.tensor(data.data / 16, dtype=torch.float32)
    labels = torch.tensor(data.target)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.randperm(len(labels)).split(32):
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")

    save_file(model.state_dict(), arguments.checkpoint_out)


if __name__ == "__main__":
    main()
