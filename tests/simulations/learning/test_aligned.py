"""Aligned mixing: the laws of it on small nets, and what it is good for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.simulations.learning.quadratics import quadratics, ring, run
from tests.topology.built import built
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import trace
from weft.simulations.engines.aligner import Aligns, places
from weft.simulations.engines.crew import Crew, Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet, bind, parameters_of
from weft.simulations.engines.stacked import Stacked
from weft.simulations.errors import BadOption
from weft.simulations.learning.aligned import Dimat
from weft.simulations.learning.rule import Gossip, Rule
from weft.simulations.references import TaskOptions, initial_model, initial_model_of
from weft.simulations.study import Accuracies, Moment, Study
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.topology.matrices import Mixing
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule

WAYS = ("activations", "weights")

TASK = TaskOptions(
    nodes=4, split="iid", steps=40, decay=1.0, model_options={"hidden": 48, "layers": 2}
)


def crew_of(options: TaskOptions = TASK, *, apart: bool = True) -> Looped:
    task = options.dealt()
    trainers = [options.trainer(node, task) for node in range(options.nodes)]
    return Looped(fleet_of(trainers, options, apart=apart), trainers, options.seed)


def fleet_of(
    trainers: Sequence[ClassificationTrainer], options: TaskOptions, *, apart: bool
) -> Fleet:
    nodes = range(options.nodes)
    if apart:
        first, seed = trainers[0], options.seed
        return Fleet.of((initial_model_of(first, seed, node) for node in nodes), nodes)
    return Fleet.alike(initial_model(trainers[0], options.seed), nodes)


def study(crew: Crew, rule: Rule, schedule: Schedule) -> list[Moment]:
    return list(Study(crew=crew, exchange=Here(), rule=rule, schedule=schedule).moments())


def accuracies(moment: Moment) -> Accuracies:
    assert moment.accuracies is not None
    return moment.accuracies


def once(crew: Looped, rule: Rule, mixing: Mixing) -> Tensor:
    """(nodes, P): what one exchange leaves."""
    rows = crew.fleet.parameters
    rule.join(crew)
    rule.begin(rows)
    rule.communicate(rows, mixing, Here())
    return rows


def everybody(nodes: int = 4) -> Mixing:
    return built("complete", nodes).mixing(0)


def only(node: int, nodes: int = 4) -> Mixing:
    """One node takes from all, the others from nobody."""
    rows = [range(nodes) if place == node else [place] for place in range(nodes)]
    return Mixing(
        nodes,
        np.repeat(np.arange(nodes), [len(row) for row in rows]).astype(np.int32),
        np.concatenate([np.asarray(row) for row in rows]).astype(np.int32),
        np.concatenate([np.full(len(row), 1 / len(row)) for row in rows]),
    )


def shuffle(crew: Looped, seed: int = 0) -> None:
    """Give all nodes but the first the first one's function, in other orders of its units."""
    model = crew._model
    groups = groups_of(trace(model, [torch.zeros(2, 8, 8)], {}))
    layout, rows = parameters_of(model), crew.fleet.parameters
    for place in range(1, len(rows)):
        chance = torch.Generator().manual_seed(seed + place)
        orders = {each: torch.randperm(each.size, generator=chance) for each in groups.groups}
        rows[place] = rows[0, places(Permutation(groups, orders), layout)]


def outputs(crew: Looped) -> Tensor:
    """(nodes, examples, classes): of every node's model."""
    fleet, model, found = crew.fleet, crew._model, []
    for row, statistics in zip(fleet.parameters, fleet.statistics, strict=True):
        bind(model, row.clone(), statistics.clone())
        with torch.no_grad():
            found.append(model.eval()(crew._trainers[0].test[0][:100]))  # type: ignore[attr-defined]
    return torch.stack(found)


@pytest.mark.parametrize("align", WAYS)
def test_a_node_that_hears_nobody_keeps_its_model_to_the_bit(align: str) -> None:
    crew = crew_of()
    before = crew.fleet.parameters.clone()
    after = once(crew, Dimat(align=align), only(2))
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.allclose(after[2], before[2], atol=1e-3)


@pytest.mark.parametrize("align", WAYS)
def test_copies_stay_and_nothing_moves(align: str) -> None:
    crew, rule = crew_of(apart=False), Dimat(align=align)
    before = crew.fleet.parameters.clone()
    after = once(crew, rule, everybody())
    assert torch.allclose(after, before, atol=1e-7)
    assert rule.moved == 0


@pytest.mark.parametrize("align", WAYS)
def test_one_function_in_any_order_of_its_units_stays_that_function(align: str) -> None:
    """After a complete merge all compute what they did; the plain mean computes another."""
    aligned, plain = crew_of(), crew_of()
    for crew in (aligned, plain):
        crew.train(0)
        shuffle(crew)
    wanted, rule = outputs(aligned), Dimat(align=align)
    assert torch.allclose(wanted, wanted[:1], atol=1e-4)
    once(aligned, rule, everybody())
    once(plain, Gossip(), everybody())
    scale = float(wanted.abs().max())
    assert float((outputs(aligned) - wanted).abs().max()) < 1e-4 * scale
    assert float((outputs(plain) - wanted).abs().max()) > 0.2 * scale
    assert rule.moved > 0.8


def test_a_complete_merge_of_models_near_each_other_makes_all_functions_equal() -> None:
    crew = crew_of()
    crew.train(0)
    shuffle(crew)
    rows = crew.fleet.parameters
    rows += 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    before = outputs(crew)
    once(crew, Dimat(), everybody())
    after = outputs(crew)
    assert float((after - after[:1]).abs().max()) < 1e-4
    assert float((before - before[:1]).abs().max()) > 1e-2
    # Each in its own order of units, nevertheless.
    assert float((rows - rows[:1]).abs().max()) > 0.1


@pytest.mark.parametrize("align", WAYS)
def test_the_order_of_the_nodes_does_not_matter(align: str) -> None:
    """All are matched as they were before the round: nodes in reverse end as in order."""
    crew, turned = crew_of(), crew_of()
    crew.train(0)
    backwards = [3, 2, 1, 0]
    turned.fleet.parameters.copy_(crew.fleet.parameters[backwards])
    turned._trainers = [crew._trainers[node] for node in backwards]
    after = once(crew, Dimat(align=align), ring(4).mixing(0))
    assert torch.allclose(
        once(turned, Dimat(align=align), ring(4).mixing(0))[backwards], after, atol=1e-6
    )


class Counted(ClassificationTrainer):
    """Counts who was asked for examples."""

    asked: list[int]
    node: int

    def calibration(self):  # type: ignore[no-untyped-def]
        self.asked.append(self.node)
        return super().calibration()


def counted() -> tuple[Looped, list[int]]:
    asked: list[int] = []
    trainers = []
    for node in range(TASK.nodes):
        trainer = Counted(**TASK.of_node(node))
        trainer.asked, trainer.node = asked, node
        trainers.append(trainer)
    return Looped(fleet_of(trainers, TASK, apart=True), trainers, 0), asked


@pytest.mark.parametrize("align", WAYS)
@pytest.mark.parametrize("node", range(4))
def test_a_node_matches_on_its_own_examples_alone(node: int, align: str) -> None:
    crew, asked = counted()
    once(crew, Dimat(align=align), only(node))
    assert set(asked) == {node}


def test_a_global_merge_matches_each_model_on_its_own_node_s_examples() -> None:
    crew, asked = counted()
    rule = Dimat()
    rule.join(crew)
    rule.comparable(crew.fleet.parameters)
    assert sorted(asked) == [1, 2, 3]


def test_a_proxy_is_everybody_s_examples() -> None:
    crew, asked = counted()
    once(crew, Dimat(proxy=True), only(2))
    assert set(asked) == {0, 1, 2, 3}


def test_comparing_leaves_the_rows_and_the_first_node_s_order() -> None:
    crew, rule = crew_of(), Dimat()
    crew.train(0)
    shuffle(crew)
    rule.join(crew)
    rows = crew.fleet.parameters
    before = rows.clone()
    seen = rule.comparable(rows)
    assert torch.equal(rows, before)
    assert torch.allclose(seen, before[:1].expand_as(seen), atol=1e-7)


def test_from_different_starts_it_reaches_what_plain_mixing_does_not() -> None:
    """One merge after three rounds alone; the mean over nodes, each with its own model."""
    when: dict[str, Scalar] = {"start": 3, "length": 1, "inside": "graph", "pairs_per_node": 0.0}
    schedule = built("complete", 4, schedule="window", when=when, rounds=4)
    aligned, plain = (study(crew_of(), rule, schedule)[-2:] for rule in (Dimat(), Gossip()))
    assert accuracies(aligned[0]).mean > 0.85
    assert accuracies(aligned[1]).mean > 0.8
    assert accuracies(aligned[1]).merged > 0.8
    assert accuracies(plain[1]).mean < 0.6
    assert aligned[1].trained < 0.9 * plain[1].trained
    assert aligned[1].moved > 0.5
    assert aligned[0].moved == plain[1].moved == 0


def test_what_would_take_models_apart_stays_where_it_is() -> None:
    """Nodes of one start with whole classes each, which match badly; and of four starts."""
    for apart in (False, True):
        crew = crew_of(replace(TASK, split="classes"), apart=apart)
        crew.train(0)
        rows = crew.fleet.parameters
        plain = (rows - rows[0]).norm(dim=1)
        found = {}
        for nearer in (False, True):
            rule = Dimat(nearer=nearer)
            rule.join(crew)
            found[nearer] = (rule.comparable(rows) - rows[0]).norm(dim=1)
        assert (found[True] <= plain).all()
        if apart:
            assert torch.equal(found[True], found[False])
        else:
            assert (found[False] > 1.1 * plain)[1:].any()


def test_where_nobody_talks_the_merge_that_might_be_is_aligned_all_the_same() -> None:
    silent = built("complete", 4, schedule="final_only", rounds=3)
    dimat, gossip = (study(crew_of(), rule, silent)[-1] for rule in (Dimat(), Gossip()))
    assert accuracies(dimat).mean == accuracies(gossip).mean
    assert accuracies(dimat).merged > accuracies(gossip).merged + 0.1
    assert dimat.trained < gossip.trained


def test_running_statistics_are_looked_at_and_stay() -> None:
    crew = crew_of(TaskOptions(nodes=3, steps=5, model="cnn", model_options={"width": 4}))
    crew.train(0)
    before = crew.fleet.statistics.clone()
    merged = once(crew, Dimat(), everybody(3)).clone()
    assert torch.equal(crew.fleet.statistics, before)
    again = crew_of(TaskOptions(nodes=3, steps=5, model="cnn", model_options={"width": 4}))
    again.train(0)
    again.fleet.statistics[1] = 1.0
    assert not torch.equal(once(again, Dimat(), everybody(3)), merged)


def test_the_stacked_engine_aligns_alike() -> None:
    options = TaskOptions(nodes=3, steps=3, split="iid", model="cnn", model_options={"width": 4})
    crew = crew_of(options)
    stacked = Stacked(fleet_of(crew._trainers, options, apart=True), crew._trainers, 0)  # type: ignore[arg-type]
    for each in (crew, stacked):
        each.train(0)
        assert isinstance(each, Aligns)
    stacked.fleet.parameters.copy_(crew.fleet.parameters)
    stacked.fleet.statistics.copy_(crew.fleet.statistics)
    rule = Dimat()
    rule.join(stacked)
    rule.communicate(stacked.fleet.parameters, everybody(3), Here())
    assert torch.equal(stacked.fleet.parameters, once(crew, Dimat(), everybody(3)))


def test_without_alignment_it_is_gossip_to_the_bit() -> None:
    one, other = crew_of(), crew_of()
    study(one, Dimat(align="none"), ring(4, 2))
    study(other, Gossip(), ring(4, 2))
    assert torch.equal(one.fleet.parameters, other.fleet.parameters)


def test_what_has_no_units_is_refused() -> None:
    with pytest.raises(BadOption, match="Quadratics cannot match units; take the engine local"):
        run(Dimat(), quadratics(), ring())
