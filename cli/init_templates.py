"""The files that `weft init` writes, as text with $names to fill in.

Every key of a configuration is there: those that must be set, set; the others
as comments with their defaults.
"""

from string import Template

TRAINER = '''\
"""What each node trains. Replace data and model with your own; keep the method names."""

import torch
from sklearn.datasets import load_digits
from torch import nn

TEST = 297  # the last images, on which every node measures


class Digits:
    def __init__(self, node: int = 0, nodes: int = 1) -> None:
        data = load_digits()  # here each node takes every nodes-th image; yours has its own data
        self.inputs = torch.tensor(data.data / 16, dtype=torch.float32)
        self.labels = torch.tensor(data.target)
        self.mine = torch.arange(node, len(self.labels) - TEST, nodes)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in self.mine[torch.randperm(len(self.mine))].split(32):
            loss = nn.functional.cross_entropy(model(self.inputs[batch]), self.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"loss": loss.item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        right = model(self.inputs[-TEST:]).argmax(dim=1) == self.labels[-TEST:]
        return {"accuracy": right.float().mean().item()}
'''

RUN = Template("""\
# The run, for: weft run create run.toml
name = "$run"
nodes = $nodes                 # it starts when so many have joined
rounds = 10               # train, exchange, merge: so many times
# seed = 0
# lease_s = 30.0          # a node that is silent for so long counts as away

[base]                    # the model that all nodes start from
trainer = "trainer:Digits"
# path = "base.safetensors"     # or a checkpoint, instead of trainer

# [base.options]          # keyword arguments of the trainer

[merge]                   # with neighbours, after each round
# mode = "rounds"         # or "continual": into a stream of the node's own
# method = "mean"
# align = "none"          # or "activations": for nodes that started apart; or "weights"
# policy = "wait"         # for a neighbour that is late; or "deadline": go on without it
# deadline_s = 60.0
# optimizer = "keep"      # its state after a merge; or "reset"
# codec = "lossless"      # or "raw"
# retain_rounds = 2       # how long contributions are kept for neighbours that are late

# [merge.options]         # options of the method

[topology]                # who talks to whom: weft topology ring --nodes $nodes
# graph = "ring"
# weights = "own"

# [topology.options]      # options of the graph

[schedule]                # when they do
# name = "every"

# [schedule.options]      # options of the schedule

[guards]                  # what a contribution must pass
# norm_ratio = 10.0       # refused if its norm is so many times its peers' median
# cosine = -1.0           # refused if it points further away from its peers' than that
# score_metric = "accuracy"     # refused if this falls; only with shared or balanced data
# score_drop = 0.0        # by more than that

[final]                   # one merge of all nodes at the end
# enabled = true
# method = "mean"
# weights = "uniform"     # or "data_size"

# [final.options]         # options of the method
""")

COORDINATOR = Template("""\
# The coordinator, for: weft coordinator --config coordinator.toml
listen = "127.0.0.1:$port"     # 0.0.0.0:$port lets other machines in
credentials = "certs/issued/coordinator"
data = "data/coordinator"
revoked = "certs/revoked.json"

# database = ""           # empty: SQLite in the data folder; or a URL such as postgresql://...
# metrics = "127.0.0.1:9400"    # status page and /metrics, plain HTTP; empty: none
# log_level = "info"
""")

NODE = Template("""\
# Node $name, for: weft node --config $name.toml
run = "$run"
coordinator = "127.0.0.1:$coordinator_port"
credentials = "certs/issued/$name"   # the node's name is its certificate's
data = "data/$name"
listen = "127.0.0.1:$port"     # 0.0.0.0:$port lets other machines in
metrics = "127.0.0.1:$metrics_port"    # /metrics, plain HTTP; empty: none

# advertise = "10.0.0.2:$port"   # where others reach this node, if not at listen
# coordinator_name = "coordinator"
# folder = "."            # where the trainer's module is looked for
# base = "base.safetensors"     # a copy of the base that is here already
# log_level = "info"
# linger_s = 600.0        # how long a node that is done waits for the others
# progress_s = 10.0       # a transfer that stands still for so long is given up
# share_patience_s = 30.0 # a share of the global merge that is late for so long is taken over

[train]
trainer = "trainer:Digits"
# command = "torchrun train.py {checkpoint_in} {checkpoint_out}"   # instead of trainer
# evaluate_command = "python evaluate.py {checkpoint_in} {metrics_out}"
# folder = "exchange"     # or two folders: in/round-000003/, out/round-000003/
# overrides = "units.toml"      # groups of units to pin or split, where the run aligns
# device = "auto"
# threads = 1
# data_size = 0           # for merges weighted by data
# timeout_s = 3600.0      # of a round's training; without: none

[train.options]           # keyword arguments of the trainer
node = $place
nodes = $nodes
""")

OPERATOR = Template("""\
# Where weft run and weft status find the coordinator, if they are called in this folder.
[operator]
coordinator = "127.0.0.1:$port"
credentials = "certs/issued/operator"
# coordinator_name = "coordinator"
""")

README = Template("""\
# $run

A run of $nodes nodes, ready to start on one machine. `trainer.py` is what they train: put
your own data and model there.

Terminal 1, the coordinator:

    weft coordinator --config coordinator.toml

Terminal 2, the run and its first node:

    weft run create run.toml
    weft node --config $first.toml

Terminal 3 and on, the other nodes:

$others

How it goes, in any terminal: `weft status $run`. When all are done, each node holds the merged
model in `data/NODE/merged/model.safetensors`.

On several machines: give coordinator and nodes addresses that the others reach (`listen`,
`coordinator`), copy to each machine its configuration, `trainer.py` and its own folder under
`certs/issued/`. `certs/ca.key` stays here. `weft doctor --config FILE` checks a machine first.
""")

IGNORED = "certs/\ndata/\n"
