"""What a run must be before anybody joins it: checked once, where it is made.

Names of methods, graph, weights and schedule, and whether they fit together: a
mistake is told to the operator who made it, not to the nodes. Options of the
methods themselves need torch, which the coordinator does not import; `weft run
create` checks those.
"""

from weft.checkpoints.manifest import Manifest
from weft.checkpoints.store import Store
from weft.coordinator.errors import BadSpecification, BaseMissing
from weft.merging import registry
from weft.merging.registry import Kind
from weft.protocol.run import RunSpec
from weft.protocol.scheduling import schedule_before


def check(spec: RunSpec, store: Store) -> None:
    """Refuse a run that could never go; blocks on the disk and computes.

    Raises:
        InvalidInput: a name or an option that does not exist, or that does not fit;
            names the nearest one.
        BadSpecification: a final method that cannot be folded, a base that is no model.
        BaseMissing: the base is not in the coordinator's store.
    """
    _check_merge(spec)
    _check_final(spec)
    _check_schedule(spec)
    if spec.base is not None:
        _check_base(spec, spec.base, store)


def _check_merge(spec: RunSpec) -> None:
    kind = registry.entry(spec.merge.method).kind
    if kind in (Kind.TRANSFORM, Kind.CALIBRATION):
        raise BadSpecification(
            f"merge.method {spec.merge.method!r} is a {kind}: it changes one task vector and"
            " merges none; `weft methods` tells the kinds"
        )
    if spec.merge.mode == "continual":
        _check_continual(spec, kind)


def _check_continual(spec: RunSpec, kind: Kind) -> None:
    if kind not in (Kind.FOLD, Kind.SEQUENTIAL):
        raise BadSpecification(
            f"merge.method {spec.merge.method!r} is a {kind} method and needs all contributions at"
            " once; a node's stream (merge.mode 'continual') takes a fold or a sequential method"
        )
    if spec.base is None:
        raise BadSpecification(
            "merge.mode 'continual' needs a base, which a stream begins on; nodes of this run"
            " start apart"
        )


def _check_final(spec: RunSpec) -> None:
    if not spec.final.enabled:
        return
    kind = registry.entry(spec.final.method).kind
    if kind is not Kind.FOLD:
        folds = [name for name in registry.names() if registry.entry(name).kind is Kind.FOLD]
        raise BadSpecification(
            f"final.method {spec.final.method!r} is a {kind} method; the global merge is "
            f"shared out, which takes a fold: one of {', '.join(folds)}"
        )


def _check_schedule(spec: RunSpec) -> None:
    schedule = schedule_before(spec)
    schedule.check()
    if schedule.push_sum:
        raise BadSpecification(
            f"topology {spec.topology.graph!r} takes push-sum weights here, and daemons do not "
            "carry those yet: choose a graph or weights that need none "
            "(weft topology NAME --nodes N tells)"
        )


def _check_base(spec: RunSpec, digest: str, store: Store) -> None:
    if not store.has(digest):
        raise BaseMissing(
            f"the base {digest} is not in the coordinator's store; upload it first "
            "(weft run create does, unless told not to)"
        )
    manifest: Manifest = store.manifest(digest)
    if manifest.kind != "model":
        raise BadSpecification(f"the base {digest} is a {manifest.kind}, expected a model")
    if spec.schema_digest is not None and manifest.schema.digest != spec.schema_digest:
        raise BadSpecification(
            f"schema_digest is {spec.schema_digest}, that of the base {digest[:12]} is "
            f"{manifest.schema.digest}; leave schema_digest out"
        )
