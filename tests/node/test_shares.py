"""Shares of the global merge: whoever folds one gets the same digest."""

from pathlib import Path

import pytest
import torch

from tests.node.test_merging import Bench, tensors
from weft.checkpoints.artifacts import open_contribution
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.subset import Subset
from weft.node.collector import Peers
from weft.node.shares import ShareDesk, cut_schema
from weft.protocol.authority import Authority
from weft.protocol.channel import ChannelPool
from weft.protocol.identity import Credentials, Role
from weft.protocol.run import GlobalSet, Member, NodeId, Phase, Plan, RunName, RunState

NODES = (NodeId("n1"), NodeId("n2"))


def pool(folder: Path) -> ChannelPool:
    authority = Authority.init(folder / "ca", "test")
    authority.issue("n1", Role.NODE)
    return ChannelPool(Credentials.load(folder / "ca" / "issued" / "n1"))


def desk(bench: Bench, me: NodeId, channels: ChannelPool) -> ShareDesk:
    members = tuple(Member(node=node, address="127.0.0.1:1") for node in NODES)
    plan = Plan(run=RunName("r"), version=1, state=RunState.RUNNING, members=members)
    return ShareDesk(
        me=me,
        spec_of=lambda: bench.spec,
        store=bench.store,
        peers=Peers(me, channels, "r", lambda: plan),
        pool=channels,
        progress_s=5,
        patience_s=5,
    )


@pytest.mark.parametrize("with_base", [True, False])
async def test_every_owner_folds_the_same_share(tmp_path: Path, with_base: bool) -> None:
    bench, channels = Bench(tmp_path, with_base=with_base), pool(tmp_path)
    desks = {node: desk(bench, node, channels) for node in NODES}
    announced = {
        node: desks[node].announce(bench.model(seed)) for seed, node in enumerate(NODES, start=1)
    }
    chosen = GlobalSet(phase=Phase.PARAMETERS, contributors=tuple(announced.items()))
    found: dict[str, torch.Tensor] = {}
    for share in range(2):
        digests = {await desks[node].folded(chosen, share, 30) for node in NODES}
        assert len(digests) == 1
        digest = digests.pop()
        assert digest is not None
        with bench.merging.base() as base:
            names = bench.store.manifest(digest).schema.names
            part = None if base is None else Subset(base, names)
            with open_contribution(bench.store, digest, part) as reader:
                found |= {name: reader.read(name) for name in names}
    one, two = tensors(1), tensors(2)
    assert set(found) == set(one)
    for name in ("a.weight", "c.bias"):
        mean = ((one[name].double() + two[name].double()) / 2).float()
        torch.testing.assert_close(found[name], mean, rtol=1e-6, atol=1e-7)
    # What is not merged is the first contributor's, on every node.
    assert int(found["b.num_batches_tracked"]) == 1
    await channels.close()


def test_what_is_not_merged_travels_with_the_first_share(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with open_checkpoint(bench.model(1)) as reader:
        cut = cut_schema(reader.schema, 3)
        assert sorted(name for names in cut for name in names) == sorted(reader.schema.names)
    assert {"b.running_mean", "b.num_batches_tracked"} <= set(cut[0])


@pytest.mark.parametrize("with_base", [True, False])
async def test_a_whole_model_is_made_of_what_was_announced(tmp_path: Path, with_base: bool) -> None:
    bench, channels = Bench(tmp_path, with_base=with_base), pool(tmp_path)
    own = desk(bench, NODES[0], channels)
    announced = own.announce(bench.model(1))
    await own.restore(NODES[0], announced, tmp_path / "whole.safetensors")
    with open_checkpoint(tmp_path / "whole.safetensors") as reader:
        found = {name: reader.read(name) for name in reader.schema.names}
    assert set(found) == set(tensors(1))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(1).items())
    await channels.close()
