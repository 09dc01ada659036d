"""Scripts of events with the transcript they must give, one command a block.

    join a
    ----
    v2 r2 waiting
      member a at a:9300

Commands and answers are words; a digest is written as two hexadecimal digits
and stands for them repeated. `WEFT_REWRITE=1` writes what happened into the files,
to be read before it is committed.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from weft.coordinator.membership import advance, create
from weft.coordinator.records import (
    Event,
    Joined,
    LeasesExpired,
    Left,
    MemberRecord,
    Promised,
    Reported,
    Revoked,
    RunRecord,
    SetOverdue,
    StateRequested,
    VersionPresented,
)
from weft.errors import WeftError
from weft.protocol.run import (
    Digest,
    FinalSpec,
    GlobalSet,
    MergeSpec,
    NodeId,
    Phase,
    RunSpec,
    RunState,
    members_digest,
)


@dataclass(frozen=True)
class Block:
    """Commands, and the lines they are expected to answer."""

    lead: str
    commands: list[str]
    expected: str


def parse(text: str) -> Iterator[Block]:
    for chunk in text.strip().split("\n\n"):
        asked, _, expected = chunk.partition("\n----")
        lines = asked.splitlines()
        lead = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        yield Block("\n".join(lead), lines[len(lead) :], expected.removeprefix("\n"))


def written(blocks: list[tuple[Block, str]]) -> str:
    parts = []
    for block, answer in blocks:
        lead = f"{block.lead}\n" if block.lead else ""
        asked = "\n".join(block.commands)
        parts.append(f"{lead}{asked}\n----\n{answer}" if block.commands else block.lead)
    return "\n\n".join(parts) + "\n"


def digest(text: str) -> Digest:
    return Digest(text * 32)


class Player:
    """A run that is told commands and answers what changed."""

    def __init__(self) -> None:
        self.record: RunRecord | None = None

    def play(self, command: str) -> str:
        verb, *words = command.split()
        if verb == "run":
            return self._begin(dict(word.split("=") for word in words))
        assert self.record is not None, "a script begins with `run`"
        event = _VERBS[verb](self.record, words)
        try:
            after = advance(self.record, event)
        except WeftError as error:
            return f"{type(error).__name__}: {error}"
        before, self.record = self.record, after
        return difference(before, after)

    def _begin(self, options: dict[str, str]) -> str:
        policy = cast(Literal["wait", "deadline"], options.get("policy", "wait"))
        spec = RunSpec(
            name=options.get("name", "quilt"),
            nodes=int(options["nodes"]),
            rounds=int(options["rounds"]),
            base=digest(options["base"]) if "base" in options else None,
            schema_digest=digest(options.get("schema", "5c")),
            merge=MergeSpec(policy=policy),
            final=FinalSpec(enabled=options.get("final", "on") == "on"),
        )
        self.record = create(spec, at=0.0)
        return _head(self.record)


def _split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    return [word for word in words if "=" not in word], options


def _joined(record: RunRecord, words: list[str]) -> Event:
    (node,), options = _split(words)
    return Joined(
        node=NodeId(node),
        address=options.get("address", f"{node}:9300"),
        data_size=int(options.get("size", "0")),
        base_digest=digest(options.get("base", "")),
        schema_digest=digest(options.get("schema", "")),
    )


def _reported(record: RunRecord, words: list[str]) -> Event:
    (node,), options = _split(words)
    ours = members_digest(record.plan.epochs[-1].members) if record.plan.epochs else None
    return Reported(
        node=NodeId(node),
        round=int(options.get("round", "0")),
        plan_version=int(options.get("plan", str(record.plan.version))),
        state=options.get("state", ""),
        announced={phase: digest(options[phase]) for phase in Phase if phase in options},
        members_digest=digest(options["list"]) if "list" in options else ours,
        result=digest(options["result"]) if "result" in options else None,
    )


def _promised(record: RunRecord, words: list[str]) -> Event:
    (node, phase), options = _split(words)
    pairs = tuple(sorted((NodeId(name), digest(text)) for name, text in options.items()))
    return Promised(node=NodeId(node), chosen=GlobalSet(phase=Phase(phase), contributors=pairs))


def _overdue(record: RunRecord, words: list[str]) -> Event:
    (phase, *silent), _ = _split(words)
    return SetOverdue(phase=Phase(phase), silent=tuple(NodeId(node) for node in silent))


_VERBS: dict[str, Callable[[RunRecord, list[str]], Event]] = {
    "join": _joined,
    "report": _reported,
    "promise": _promised,
    "overdue": _overdue,
    "watch": lambda _, words: VersionPresented(node=NodeId(words[0]), version=int(words[1])),
    "leave": lambda _, words: Left(node=NodeId(words[0])),
    "expire": lambda _, words: LeasesExpired(nodes=tuple(NodeId(word) for word in words)),
    "state": lambda _, words: StateRequested(state=RunState(words[0]), operator="olga"),
    "revoke": lambda _, words: Revoked(serials=tuple(words)),
}


def difference(before: RunRecord, after: RunRecord) -> str:
    """What an event has changed, in words."""
    if after is before:
        return "nothing new"
    plan, old = after.plan, before.plan
    lines = [_head(after)]
    lines += [
        f"  member {m.node} at {m.address}" + (f" size {m.data_size}" if m.data_size else "")
        for m in plan.members
        if m not in old.members
    ]
    lines += [f"  gone: {m.node}" for m in old.members if plan.member(m.node) is None]
    lines += [
        f"  epoch {epoch.number} from round {epoch.from_round}: {' '.join(epoch.members)}"
        for epoch in plan.epochs[len(old.epochs) :]
    ]
    lines += [f"  proposed {_set(s)}" for s in plan.proposed if s not in old.proposed]
    lines += [f"  withdrawn {_set(s)}" for s in old.proposed if s not in plan.proposed]
    lines += [f"  committed {_set(s)}" for s in plan.committed if s not in old.committed]
    lines += [
        f"  {node}: {words}"
        for node, member in sorted(after.members.items())
        if (words := _changes(before.members.get(node, MemberRecord(node=node)), member))
    ]
    if after.message != before.message:
        lines.append(f"  message: {after.message or '-'}")
    if plan.revoked != old.revoked:
        lines.append(f"  revoked: {' '.join(sorted(plan.revoked)) or '-'}")
    return "\n".join(lines)


def _head(record: RunRecord) -> str:
    return f"v{record.plan.version} r{record.revision} {record.plan.state}"


def _set(chosen: GlobalSet) -> str:
    pairs = " ".join(f"{node}={text[:2]}" for node, text in chosen.contributors)
    return f"{chosen.phase}: {pairs}"


def _changes(before: MemberRecord, after: MemberRecord) -> str:
    words = [f"round {after.round}"] if after.round != before.round else []
    words += [name for name in ("left", "dropped", "done") if _became(before, after, name)]
    words += [f"not {name}" for name in ("left", "dropped") if _became(after, before, name)]
    words += [
        f"{phase} {text[:2]}"
        for phase, text in after.announced.items()
        if text not in before.announced.values()
    ]
    words += [f"promised {phase}" for phase in after.promised if after.promised != before.promised]
    words += (
        [f"result {after.result[:2]}"] if after.result and after.result != before.result else []
    )
    return ", ".join(words)


def _became(before: MemberRecord, after: MemberRecord, name: str) -> bool:
    return bool(getattr(after, name)) and not getattr(before, name)
