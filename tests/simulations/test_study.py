"""A study against the same rounds written out."""

from dataclasses import replace

import torch

from tests.simulations.engines.small import QUICK, digits_study
from weft.simulations.references import consensus_distance, mean_tensors
from weft.topology.schedules import ScheduleParams


def test_two_studies_are_equal_to_the_bit() -> None:
    one, other = (list(digits_study(ScheduleParams(graph="ring")).moments()) for _ in range(2))
    assert one == other


def test_evaluating_changes_nothing() -> None:
    watched, unwatched = (digits_study(ScheduleParams(graph="ring")) for _ in range(2))
    list(watched.moments())
    list(unwatched.moments(lambda _: False))
    assert torch.equal(watched.crew.fleet.parameters, unwatched.crew.fleet.parameters)


def test_a_silent_schedule_moves_nothing_and_is_training_alone() -> None:
    study = digits_study(ScheduleParams(graph="ring", schedule="final_only"))
    moments = list(study.moments())
    assert [moment.messages for moment in moments] == [0] * len(moments)
    assert all(moment.trained == moment.mixed > 0 for moment in moments)


def test_a_complete_graph_brings_all_nodes_together() -> None:
    study = digits_study(ScheduleParams(graph="complete"))
    last = list(study.moments())[-1]
    assert last.mixed < 1e-5 < last.trained
    assert last.accuracies is not None
    assert abs(last.accuracies.merged - last.accuracies.mean) < 0.01


def test_optimizers_start_afresh_after_every_exchange_and_at_no_other_time() -> None:
    every_other = ScheduleParams(graph="complete", schedule_options=(("k", 2),))
    study = replace(digits_study(every_other, rounds=3), resets=True)
    list(study.moments(lambda _: False))
    written = digits_study(every_other, rounds=3)
    rows = written.crew.fleet.parameters
    for round in range(3):
        if round == 2:
            written.crew.reset_optimizers()
        written.crew.train(round)
        written.rule.communicate(rows, written.schedule.mixing(round), written.exchange)
    assert torch.equal(study.crew.fleet.parameters, rows)
    kept = digits_study(every_other, rounds=3)
    list(kept.moments(lambda _: False))
    assert not torch.equal(kept.crew.fleet.parameters, rows)


def test_the_consensus_distance_is_that_of_the_references() -> None:
    study = digits_study(ScheduleParams(graph="ring"))
    last = list(study.moments())[-1]
    rows = study.crew.fleet.parameters
    models = [{"all": row} for row in rows]
    assert abs(last.mixed - consensus_distance(models)) < 1e-9
    assert torch.allclose(study.exchange.mean(rows).float(), mean_tensors(models)["all"])


def test_bytes_are_messages_times_the_model() -> None:
    study = digits_study(ScheduleParams(graph="ring"))
    first = next(study.moments())
    assert first.messages == 2 * QUICK.nodes
    assert first.bytes == first.messages * 4 * study.crew.fleet.parameters.shape[1]
