"""From a run's specification to the schedule that all of its programs compute.

Node, coordinator and command line ask here, so that a dry run, a check and a
round see the same edges. Pure.
"""

from collections.abc import Sequence

from weft.protocol.run import Epoch, Plan, RunSpec
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule


def schedule_params(spec: RunSpec) -> ScheduleParams:
    """The pure description of who meets whom, from the run's two sections."""
    return ScheduleParams(
        graph=spec.topology.graph,
        graph_options=tuple(sorted(spec.topology.options.items())),
        weights=spec.topology.weights,
        schedule=spec.schedule.name,
        schedule_options=tuple(sorted(spec.schedule.options.items())),
    )


def schedule_of(spec: RunSpec, nodes: int, data_sizes: Sequence[float]) -> Schedule:
    """The run's schedule for so many nodes."""
    return build_schedule(
        schedule_params(spec),
        nodes=nodes,
        rounds=spec.rounds,
        seed=spec.seed,
        data_sizes=data_sizes,
    )


def schedule_before(spec: RunSpec) -> Schedule:
    """The run's schedule before anybody joins: all its nodes, with equal data."""
    return schedule_of(spec, spec.nodes, [1.0] * spec.nodes)


def schedule_for(spec: RunSpec, plan: Plan, epoch: Epoch) -> Schedule:
    """The schedule of an epoch; node i is the i-th of its sorted members."""
    sizes = {member.node: member.data_size for member in plan.members}
    return schedule_of(
        spec, len(epoch.members), [max(1, sizes.get(node, 1)) for node in epoch.members]
    )
