"""The queue: transcripts by hand, and any interleaving against a model in a few lines."""

import json
from dataclasses import asdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.node.continual.errors import NoSuchContribution, NoSuchGeneration
from weft.node.continual.queue import (
    ACCEPTED,
    ADVANCED,
    ASKED,
    BEGUN,
    DROPPED,
    REFUSED,
    SET_ASIDE,
    Advance,
    Entry,
    Queue,
    replayed,
)
from weft.node.continual.records import (
    Cause,
    Contribution,
    Form,
    Generation,
    Status,
    spans_of,
)

Entries = list[tuple[str, Entry]]


def digest_of(seq: int) -> str:
    return f"{seq:064x}"


def stored(entry: object) -> Entry:
    """As a journal gives it back."""
    found: Entry = json.loads(json.dumps(asdict(entry), allow_nan=False))  # type: ignore[call-overload]
    return found


def accepted(seq: int, lineage: str = "", step: int = 0, name: str = "") -> tuple[str, Entry]:
    each = Contribution(
        seq=seq,
        name=name or f"c{seq}",
        digest=digest_of(seq),
        lineage=lineage,
        step=step,
        norm=1.5,
        form=Form.DELTA,
    )
    return ACCEPTED, stored(each)


def done(due: Advance, number: int) -> tuple[str, Entry]:
    """What a stream writes down when it has done what was due."""
    made = Generation(
        number=number,
        cause=due.cause,
        head=f"head {number}",
        state=f"state {due.members}",
        contribution=due.contribution,
        spans=spans_of(due.members),
        warnings=("beware",),
    )
    return ADVANCED, {**stored(made), "overlap": 0.25}


def begun() -> tuple[str, Entry]:
    return BEGUN, stored(Generation(number=0, cause=Cause.BEGUN, head="base"))


class Transcript:
    """A queue, and the entries that led to it."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.entries: Entries = []
        self.write(*begun())

    def write(self, kind: str, data: Entry) -> None:
        self.entries.append((kind, data))
        self.queue.apply(kind, data)

    def work(self) -> str:
        """Do what is due; says what it was."""
        due = self.queue.due()
        if due is None:
            return "nothing"
        self.write(*done(due, self.queue.generation.number + 1))
        about = f"to {due.back_to}" if due.contribution is None else due.contribution
        return f"{due.cause} {about}: {list(due.members)}"


def picture(queue: Queue) -> object:
    """All that a queue says."""
    asked = [queue.wishes({"revoke": each.seq}) for each in queue.contributions]
    return (
        *(queue.contributions, queue.generations, queue.due(), queue.waiting),
        *(queue.next_seq, queue.wishing, asked),
    )


def test_comings_and_goings() -> None:
    script = Transcript()
    for seq in (1, 2, 3):
        script.write(*accepted(seq))
    assert script.work() == "absorbed 1: [1]"
    script.write(ASKED, {"revoke": 1})
    assert script.work() == "revoked 1: []"
    assert script.work() == "absorbed 2: [2]"
    script.write(*accepted(4))
    assert script.work() == "absorbed 3: [2, 3]"
    script.write(ASKED, {"back_to": 3})
    assert script.work() == "rolled back to 3: [2]"
    assert script.work() == "absorbed 4: [2, 4]"
    assert script.work() == "nothing"
    said = [(each.seq, each.status.value, each.generation) for each in script.queue.contributions]
    assert said == [
        (1, "revoked", 1),
        (2, "absorbed", 3),
        (3, "rolled back", 4),
        (4, "absorbed", 6),
    ]
    assert script.queue.generation.spans == ((2, 2), (4, 4))
    assert script.queue.contribution(4).overlap == 0.25


def test_a_newer_checkpoint_takes_the_place_of_an_older_one() -> None:
    script = Transcript()
    script.write(*accepted(1, "run", 500))
    script.write(*accepted(2))
    script.write(*accepted(3, "run", 1000))
    script.write(*accepted(4, "other", 1))
    assert script.work() == "absorbed 1: [1]"
    assert script.work() == "absorbed 2: [1, 2]"
    assert script.work() == "replaced 3: [2, 3]"
    assert script.work() == "absorbed 4: [2, 3, 4]"
    assert script.queue.contribution(1).status is Status.REPLACED
    script.write(ASKED, {"back_to": 2})
    assert script.work() == "rolled back to 2: [1, 2]"
    statuses = [each.status.value for each in script.queue.contributions]
    assert statuses == ["absorbed", "absorbed", "rolled back", "rolled back"]


def test_of_a_run_whose_first_was_set_aside_the_second_is_no_replacement() -> None:
    script = Transcript()
    script.write(*accepted(1, "run", 500))
    script.write(*accepted(2, "run", 1000))
    script.write(SET_ASIDE, {"seq": 1, "reason": "NaN"})
    assert script.work() == "absorbed 2: [2]"
    assert script.queue.contribution(1).reason == "NaN"


def test_a_wish_that_cannot_be_done_holds_nobody_up() -> None:
    script = Transcript()
    script.write(*accepted(1))
    script.work()
    script.write(*accepted(2))
    script.write(ASKED, {"revoke": 1})
    assert script.queue.wishes({"revoke": 1})
    script.write(DROPPED, {"reason": "rotten"})
    assert not script.queue.wishing
    assert script.work() == "absorbed 2: [1, 2]"


def test_finding() -> None:
    script = Transcript()
    script.write(*accepted(1, name="same"))
    script.write(*accepted(2, name="same"))
    script.write(*accepted(3, name="1x"))
    find = script.queue.find
    assert find("1").seq == 1
    assert find("1x").seq == 3
    assert find(digest_of(2)).seq == 2
    for text, found in (
        ("same", "names 2"),
        ("00000000", "names 3"),
        ("4", "names no"),
        ("", "no"),
    ):
        with pytest.raises(NoSuchContribution, match=found):
            find(text)
    with pytest.raises(NoSuchContribution, match="no contribution 9; there are 3"):
        script.queue.contribution(9)
    for number in (-1, 1):
        with pytest.raises(NoSuchGeneration, match="there are 0 to 0"):
            script.queue.past(number)


def test_what_has_gone_back_since() -> None:
    script = Transcript()
    for seq in (1, 2):
        script.write(*accepted(seq))
        script.work()
    for _ in range(2):
        script.write(ASKED, {"back_to": 1})
        script.work()
    queue = script.queue
    found = {seen: queue.gone_back(1, seen) for seen in range(6)}
    assert {seen: made and made.number for seen, made in found.items()} == {
        **{0: 3, 1: 3, 2: 3},
        **{3: 4, 4: None, 5: None},
    }
    assert queue.gone_back(2, 2) is None, "to another merge"
    assert queue.gone_back(3, 2) == queue.generations[4], "a way back to itself is none"
    with pytest.raises(NoSuchGeneration):
        queue.gone_back(9, 0)


def test_the_newest_of_one_content() -> None:
    script = Transcript()
    script.write(*accepted(1))
    kind, data = accepted(2)
    script.write(kind, {**data, "digest": digest_of(1)})
    found = script.queue.of_digest(digest_of(1))
    assert found is not None
    assert found.seq == 2
    assert script.queue.of_digest(digest_of(2)) is None


def test_entries_of_a_later_version_are_read_as_far_as_they_are_known() -> None:
    script = Transcript()
    kind, data = accepted(1)
    script.write(kind, {**data, "signature": "x"})
    assert script.queue.contribution(1).name == "c1"


RUNS = st.sampled_from(["", "", "run", "other"])


class Interleaving(RuleBasedStateMachine):
    """Anything may come at any time; what is due is done one thing at a time, or is not."""

    def __init__(self) -> None:
        super().__init__()
        self.script = Transcript()
        self.coming: list[int] = []
        self.wishes: list[tuple[str, int]] = []
        self.members: list[int] = []
        self.past: list[list[int]] = [[]]
        self.runs: dict[int, str] = {}
        self.absorbed: list[int] = []

    @property
    def queue(self) -> Queue:
        return self.script.queue

    @rule(run=RUNS)
    def somebody_comes(self, run: str) -> None:
        seq = self.queue.next_seq
        self.script.write(*accepted(seq, run, seq))
        self.coming.append(seq)
        self.runs[seq] = run

    @rule()
    def somebody_is_refused(self) -> None:
        each = Contribution(
            seq=self.queue.next_seq, name="x", digest="", status=Status.SET_ASIDE, reason="NaN"
        )
        self.script.write(REFUSED, stored(each))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def somebody_is_to_go(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.members))
        self.script.write(ASKED, {"revoke": seq})
        self.wishes.append(("revoke", seq))

    @rule(data=st.data())
    def all_is_to_be_as_it_was(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.past) - 1))
        self.script.write(ASKED, {"back_to": number})
        self.wishes.append(("back_to", number))

    @precondition(lambda self: self.coming and not self.wishes)
    @rule()
    def the_next_is_set_aside(self) -> None:
        due = self.queue.due()
        assert due is not None
        assert due.contribution == self.coming[0]
        self.script.write(SET_ASIDE, {"seq": due.contribution, "reason": "out of bound"})
        self.coming.pop(0)

    @precondition(lambda self: self.wishes)
    @rule()
    def a_wish_is_dropped(self) -> None:
        self.script.write(DROPPED, {"reason": "not kept"})
        self.wishes.pop(0)

    @rule()
    def what_is_due_is_done(self) -> None:
        due, before = self.queue.due(), list(self.members)
        if due is None:
            assert not self.coming
            assert not self.wishes
            return
        if self.wishes:
            kind, number = self.wishes.pop(0)
            if kind == "revoke":
                self.members = [seq for seq in before if seq != number]
            else:
                self.members = list(self.past[number])
        else:
            seq = self.coming.pop(0)
            run = self.runs[seq]
            self.members = [m for m in before if not run or self.runs[m] != run] + [seq]
            self.absorbed.append(seq)
        assert list(due.members) == self.members
        self.script.write(*done(due, self.queue.generation.number + 1))
        self.past.append(list(self.members))

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert list(self.queue.generation.members) == self.members
        assert [list(each.members) for each in self.queue.generations] == self.past
        assert [each.seq for each in self.queue.waiting] == self.coming
        assert self.queue.wishing == bool(self.wishes)
        assert (self.queue.due() is None) == (not self.coming and not self.wishes)

    @invariant()
    def nobody_is_lost_and_nobody_comes_twice(self) -> None:
        assert len(self.absorbed) == len(set(self.absorbed))
        seqs = [each.seq for each in self.queue.contributions]
        assert seqs == list(range(1, len(seqs) + 1))
        inside = [s.seq for s in self.queue.contributions if s.status is Status.ABSORBED]
        assert inside == sorted(self.members)

    def teardown(self) -> None:
        """Whatever a process was killed in, the next one stands where the journal ends."""
        again = Queue()
        for number, (kind, data) in enumerate(self.script.entries, 1):
            again.apply(kind, data)
            short = replayed(iter(self.script.entries[:number]))
            assert picture(short) == picture(again)
        assert picture(again) == picture(self.queue)
        left = len(self.coming) + len(self.wishes)
        for _ in range(left):
            assert self.script.work() != "nothing"
        assert self.script.work() == "nothing"


TestInterleavings = Interleaving.TestCase
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
