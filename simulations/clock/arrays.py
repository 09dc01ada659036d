"""The same run as arrays over all nodes and edges: for many nodes that wait for each other.

Under `wait`, where nobody is ever away or cut off and nothing is lost, a node's moments are
maxima over its neighbours' moments plus constants, so a round is a few operations on arrays.
Rates are the one thing that may differ from the machines: ways that are shared are shared
by all of a node's transfers of the round, as if they were all under way at once. That is
exact where they are, or where nothing is shared, and otherwise too slow rather than too
fast.
"""

from collections.abc import Iterator

import numpy as np

from weft.simulations.clock.outcome import Forecast, Question
from weft.simulations.errors import BadOption
from weft.topology.edges import Float64, Int32, Int64, summed
from weft.topology.matrices import Mixing

_PAIRS = 1 << 22
"""Pairs of the global merge that are looked at at a time."""


def timed_by_arrays(question: Question) -> Forecast:
    """Answer a question round by round.

    Raises:
        BadOption: it has deadlines, losses, absences or churn.
    """
    if question.deadline_s is not None or question.links.loss or not question.machines.always_there:
        raise BadOption(
            'form="arrays": found deadlines, losses or absences, expected the policy wait and '
            'none of these; take form="machines"'
        )
    nodes, pace = question.schedule.nodes, question.pace
    ends, busy = np.zeros(nodes), np.zeros(nodes)
    round_ends = np.empty((question.rounds, nodes))
    traffic = _Traffic(nodes)
    for number in range(question.rounds):
        mixing = question.schedule.mixing(number)
        ends, spent = _round(question, mixing, ends, pace.trainings(number))
        busy += spent
        round_ends[number] = ends
        traffic.add(mixing, question.message_bytes)
    ends, spent = _final(question, ends)
    shares = np.zeros(nodes) if question.share_bytes is None else question.share_bytes
    senders, receivers, moved = traffic.links()
    return Forecast(
        round_ends=round_ends,
        ends=ends,
        busy=busy + spent,
        away=np.zeros(nodes),
        senders=senders,
        receivers=receivers,
        bytes=moved,
        share_bytes=shares,
        final_bytes=2 * (nodes - 1) * float(shares.sum()),
        missed=np.zeros(question.rounds, dtype=np.int64),
    )


def _round(
    question: Question, mixing: Mixing, start: Float64, trainings: Float64
) -> tuple[Float64, Float64]:
    """When each node ends a round, and what it computed in it: (nodes,) each."""
    pace, links = question.pace, question.links
    sender, receiver = mixing.senders[mixing.between], mixing.receivers[mixing.between]
    hears = np.bincount(receiver, minlength=mixing.nodes) > 0
    talks = hears | (np.bincount(sender, minlength=mixing.nodes) > 0)
    there, back = links.latencies(receiver, sender), links.latencies(sender, receiver)
    published = start + trainings + np.where(talks, pace.all("publish"), 0.0)
    known = np.maximum(published[receiver] + there, published[sender]) + back
    moving = question.message_bytes / _rates(question, sender, receiver)
    arrived = known + there + back + there + moving + back
    judging = np.where(talks, pace.all("judge"), 0.0)
    judged = _latest(published, receiver, arrived) + judging
    # The sender asks each of its listeners for a verdict.
    verdict = np.maximum(judged[sender] + back, judged[receiver]) + there
    agreed = _latest(judged, sender, verdict)
    rest = np.where(hears, pace.all("merge"), 0.0) + pace.all("evaluate")
    spent = trainings + np.where(talks, pace.all("publish"), 0.0) + judging + rest
    return agreed + rest, spent


def _rates(question: Question, senders: Int32, receivers: Int32) -> Float64:
    """Bytes a second of transfers that are all under way at once: (transfers,) float64."""
    links, nodes = question.links, question.schedule.nodes
    outgoing = np.bincount(senders, minlength=nodes)
    incoming = np.bincount(receivers, minlength=nodes)
    shared = np.minimum(
        links.up[senders] / outgoing[senders], links.down[receivers] / incoming[receivers]
    )
    return np.minimum(links.rates(senders, receivers), shared)


def _latest(own: Float64, index: Int32, others: Float64) -> Float64:
    """Each node's own moment, or the latest of its edges' where that is later: (nodes,)."""
    found = own.copy()
    np.maximum.at(found, index, others)
    return found


def _final(question: Question, ends: Float64) -> tuple[Float64, Float64]:
    """When each node is done, and what it computed since its last round: (nodes,) each."""
    pace, machines = question.pace, question.machines
    finishing = pace.all("finish")
    shares = question.share_bytes
    if shares is None:
        return ends + finishing, finishing
    announcing, nodes = pace.all("announce"), len(ends)
    committed = float((ends + announcing).max()) + machines.settle_seconds
    total = float(shares.sum())
    folding = (shares / total if total else np.full(nodes, 1 / nodes)) * pace.all("fold")
    folded = np.full(nodes, committed)
    for owner, _, there, back, moving in _pairs(question, shares):
        # The other sends its slice to `owner`: two manifests, a request, the bytes.
        came = committed + 2 * (back + there) + back + moving[0] + there
        np.maximum.at(folded, owner, came)
    folded += folding
    gathered = folded.copy()
    for owner, other, there, back, moving in _pairs(question, shares):
        known = np.maximum(committed + there, folded[owner]) + back
        came = known + there + back + there + moving[1] + back
        np.maximum.at(gathered, other, came)
    return gathered + finishing, announcing + folding + finishing


def _pairs(
    question: Question, shares: Float64
) -> Iterator[tuple[Int64, Int64, Float64, Float64, tuple[Float64, Float64]]]:
    """Pairs of an owner and another node, in blocks of owners.

    Yields:
        owners, others; seconds of a message from other to owner, and back; seconds in which
        the other's slice moves to the owner, and the owner's share to the other.
    """
    nodes, links = len(shares), question.links
    up, down = links.up / max(1, nodes - 1), links.down / max(1, nodes - 1)
    block = max(1, _PAIRS // nodes)
    for start in range(0, nodes, block):
        owner = np.repeat(np.arange(start, min(start + block, nodes)), nodes)
        other = np.tile(np.arange(nodes), len(owner) // nodes)
        apart = owner != other
        owner, other = owner[apart], other[apart]
        to_owner = np.minimum(links.rates(other, owner), np.minimum(up[other], down[owner]))
        to_other = np.minimum(links.rates(owner, other), np.minimum(up[owner], down[other]))
        there, back = links.latencies(other, owner), links.latencies(owner, other)
        size = shares[owner]
        yield owner, other, there, back, (size / to_owner, size / to_other)


class _Traffic:
    """Messages of links, counted as numbers of sender and receiver."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._keys: Int64 = np.empty(0, dtype=np.int64)
        self._bytes: Float64 = np.empty(0)

    def add(self, mixing: Mixing, size: float) -> None:
        between = mixing.between
        keys = mixing.receivers[between].astype(np.int64) * self._nodes + mixing.senders[between]
        if np.array_equal(keys, self._keys):  # a schedule that stays: nothing to sort
            self._bytes += size
            return
        moved = np.concatenate([self._bytes, np.full(len(keys), size)])
        self._keys, place = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        self._bytes = summed(place.astype(np.int32), moved, len(self._keys))

    def links(self) -> tuple[Int32, Int32, Float64]:
        receivers, senders = np.divmod(self._keys, self._nodes)
        return senders.astype(np.int32), receivers.astype(np.int32), self._bytes
