"""`weft run` against a coordinator's process: documents, tables and one-line refusals."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.operating import Desk
from tests.coordinator.processes import CoordinatorProcess
from weft.checkpoints.store import Store
from weft.cli.run_file import load_run_file, prepared
from weft.cli.run_forecast import bandwidth, byte_count, forecast
from weft.errors import InvalidInput
from weft.protocol.run import RunSpec

BYTES = 4 * (3 * 4 + 4 + 4 * 2 + 2)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    made = CoordinatorProcess(tmp_path_factory.mktemp("federation"))
    made.start()
    yield made
    made.close()


@pytest.fixture
def desk(
    process: CoordinatorProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    return Desk(process, tmp_path, capsys, monkeypatch)


def test_a_run_from_a_trainer_is_made_shown_and_listed(desk: Desk) -> None:
    made = desk.reads("run", "create", desk.run_file("one", "seed = 7"))
    assert made["run"] == "one"
    assert made["uploaded"]
    assert Store(desk.process.folder / "data" / "store").has(made["base"])
    shown = desk.reads("run", "show", "one")
    assert shown["digest"] == made["spec_digest"]
    assert shown["spec"]["base"] == made["base"]
    assert shown["spec"]["schema_digest"] == made["schema_digest"]
    assert (shown["plan"]["state"], shown["plan"]["version"]) == ("waiting", 1)
    (listed,) = [run for run in desk.reads("run", "list")["runs"] if run["run"] == "one"]
    assert (listed["state"], listed["members"], listed["rounds"]) == ("waiting", 0, 4)
    again = desk.reads("run", "create", desk.run_file("one", "seed = 7"))
    assert again == {**made, "uploaded": False}


def test_the_seed_and_the_options_make_the_base(desk: Desk) -> None:
    bases = [
        desk.reads("run", "create", desk.run_file(f"s{i}", f"seed = {seed}", base))["base"]
        for i, (seed, base) in enumerate(
            [
                (1, 'trainer = "tiny:Tiny"'),
                (1, 'trainer = "tiny:Tiny"\noptions = {hidden = 4}'),
                (2, 'trainer = "tiny:Tiny"'),
                (1, 'trainer = "tiny:Tiny"\noptions = {hidden = 5}'),
            ]
        )
    ]
    assert bases[0] == bases[1]
    assert len(set(bases)) == 3


def test_a_checkpoint_is_a_base_whatever_the_file_says(desk: Desk) -> None:
    save_file({"w": torch.ones(3)}, desk.folder / "mine.safetensors")
    by_file = desk.reads("run", "create", desk.run_file("p1", base='path = "mine.safetensors"'))
    by_option = desk.reads(
        "run", "create", desk.run_file("p2"), "--base", str(desk.folder / "mine.safetensors")
    )
    assert by_file["base"] == by_option["base"]
    by_class = desk.reads("run", "create", desk.run_file("p3"), "--base", "tiny:Tiny")
    assert by_class["base"] != by_file["base"]


def test_a_run_without_a_base_has_a_schema(desk: Desk) -> None:
    save_file({"w": torch.ones(3)}, desk.folder / "any.safetensors")
    file = desk.run_file("apart", base='none = true\nschema = "any.safetensors"')
    made = desk.reads("run", "create", file)
    assert (made["base"], made["uploaded"]) == (None, False)
    assert len(made["schema_digest"]) == 64
    assert made["align"] == "none"


def test_nodes_that_start_apart_are_aligned_or_it_is_said(desk: Desk) -> None:
    save_file({"w": torch.ones(3)}, desk.folder / "any.safetensors")
    base = 'none = true\nschema = "any.safetensors"'
    for align, said in (("none", "as they are"), ("activations", "aligned by activations")):
        file = desk.run_file(f"from-{align}", f'[merge]\nalign = "{align}"', base)
        assert said in desk.types("run", "create", file)[1]
        shown = desk.reads("run", "show", f"from-{align}")
        assert shown["spec"]["merge"]["align"] == align
    wrong = desk.run_file("wrong", '[merge]\nalign = "activation"', base)
    assert "merge.align" in desk.mistakes("run", "create", wrong)


def test_a_base_that_is_not_sent_must_be_there(desk: Desk) -> None:
    base = 'trainer = "tiny:Tiny"\nupload = false'
    assert "is not in the coordinator's store" in desk.mistakes(
        "run", "create", desk.run_file("unsent", "seed = 12345", base)
    )
    assert desk.types("run", "create", desk.run_file("sent", "seed = 12345"))[0] == 0
    assert desk.types("run", "create", desk.run_file("unsent", "seed = 12345", base))[0] == 0


def test_pause_resume_and_stop(desk: Desk) -> None:
    code, out, _ = desk.types("run", "create", desk.run_file("life"))
    assert code == 0
    assert out.startswith("run life is made, base ")
    assert desk.reads("run", "pause", "life")["state"] == "paused"
    assert desk.types("run", "resume", "life")[1] == "run life is waiting\n"
    assert desk.types("run", "stop", "life")[1] == "run life is stopped\n"
    assert "is stopped: it cannot become paused" in desk.mistakes("run", "pause", "life")


def test_tables_are_for_people(desk: Desk) -> None:
    desk.types("run", "create", desk.run_file("seen"))
    assert "seen" in desk.types("run", "list")[1]
    shown = desk.types("run", "show", "seen")[1]
    assert '"own"' in shown


@pytest.mark.parametrize(
    ("more", "base", "complaint"),
    [
        ("nodse = 3", 'trainer = "tiny:Tiny"', "nearest valid key nodes"),
        ('[merge]\nmethod = "meen"', 'trainer = "tiny:Tiny"', "did you mean 'mean'"),
        ("[merge.options]\nscal = 2", 'trainer = "tiny:Tiny"', "has no option 'scal'"),
        ('[topology]\ngraph = "rign"', 'trainer = "tiny:Tiny"', "ring"),
        ("", 'trainer = "tiny:Tony"', "did you mean 'Tiny'"),
        ("", 'trainer = "tiny:Tiny"\noptions = {hiden = 3}', "did you mean 'hidden'"),
        ("", 'path = "nothing.safetensors"', "nothing.safetensors"),
        ("", 'path = "a"\ntrainer = "b:C"', "exactly one of path, trainer, none"),
        ("", "none = true", "wants schema = PATH"),
        ('[merge]\nmode = "continuous"', 'trainer = "tiny:Tiny"', "'rounds' or 'continual'"),
    ],
)
def test_mistakes_in_a_file_are_one_line(desk: Desk, more: str, base: str, complaint: str) -> None:
    assert complaint in desk.mistakes("run", "create", desk.run_file("wrong", more, base))
    assert "wrong" not in [run["run"] for run in desk.reads("run", "list")["runs"]]


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("consensus", "'consensus' does not go with merge.mode 'continual': Consensus looks "),
        ("geometric_median", "merge.method 'geometric_median' does not go with"),
        ("dare", "merge.method 'dare' does not go with"),
    ],
)
def test_a_method_that_cannot_stream_makes_no_continual_run(
    desk: Desk, method: str, complaint: str
) -> None:
    more = f'[merge]\nmode = "continual"\nmethod = "{method}"'
    for words in (("create",), ("plan",), ("plan", "--model-bytes", "1MB")):
        file = desk.run_file("stuck", more)
        assert complaint in desk.mistakes("run", words[0], file, *words[1:])
    assert "stuck" not in [run["run"] for run in desk.reads("run", "list")["runs"]]


def test_a_continual_run_has_a_base(desk: Desk) -> None:
    save_file({"w": torch.ones(3)}, desk.folder / "any.safetensors")
    more, base = '[merge]\nmode = "continual"', 'none = true\nschema = "any.safetensors"'
    assert "'continual' needs a base" in desk.mistakes(
        "run", "create", desk.run_file("adrift", more, base)
    )
    desk.reads("run", "create", desk.run_file("moored", more))
    shown = desk.reads("run", "show", "moored")
    assert shown["spec"]["merge"]["mode"] == "continual"


def test_names_that_are_not_there_or_taken(desk: Desk) -> None:
    desk.types("run", "create", desk.run_file("taken"))
    assert "exists already with another specification" in desk.mistakes(
        "run", "create", desk.run_file("taken", "seed = 99")
    )
    assert "did you mean 'taken'" in desk.mistakes("run", "show", "takn")
    assert "no such configuration file" in desk.mistakes("run", "create", "nothing.toml")


def test_who_and_where_come_from_a_file_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WEFT_COORDINATOR")
    assert "give --coordinator HOST:PORT" in desk.mistakes("run", "list")
    operator = f'[operator]\ncoordinator = "{desk.process.address}"\n'
    (tmp_path / "weft.toml").write_text(operator)
    assert desk.types("run", "list")[0] == 0
    monkeypatch.delenv("WEFT_CREDENTIALS")
    assert "give --credentials FOLDER" in desk.mistakes("run", "list")
    (tmp_path / "weft.toml").write_text(f'{operator}credentails = "x"\n')
    assert "nearest valid key operator.credentials" in desk.mistakes("run", "list")
    assert desk.types("run", "list", "--credentials", str(desk.process.operator))[0] == 2
    (tmp_path / "weft.toml").write_text(f'{operator}credentials = "{desk.process.operator}"\n')
    assert desk.types("run", "list")[0] == 0


def test_a_node_is_no_operator(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    node = desk.process.enrol("some-node").folder
    monkeypatch.setenv("WEFT_CREDENTIALS", str(node))
    assert "the role node may not call" in desk.mistakes("run", "list")


def test_a_coordinator_that_is_away_is_a_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_COORDINATOR", "127.0.0.1:9")
    code, out, err = desk.types("run", "list")
    assert (code, out) == (1, "")
    assert "coordinator (127.0.0.1:9)" in err


def test_the_dry_run_of_a_file(desk: Desk) -> None:
    plan = desk.reads("run", "plan", desk.run_file("dry"), "--bandwidth", "8kbit")
    assert (plan["model_bytes"], len(plan["rounds"])) == (BYTES, 4)
    # A ring of two: each sends one model and gets one.
    assert {(load["messages"], load["bytes"]) for load in plan["rounds"]} == {(2, 2 * BYTES)}
    assert plan["rounds"][0]["seconds"] == BYTES * 8 / 8000
    assert plan["final"]["busiest_node_bytes"] == BYTES
    assert plan["total"]["bytes"] == 5 * 2 * BYTES
    out = desk.types("run", "plan", desk.run_file("dry"))[1]
    assert "0 to 3, each" in out
    assert "global merge" in out


def test_the_dry_run_of_a_run_that_exists(desk: Desk) -> None:
    desk.types("run", "create", desk.run_file("exists"))
    assert desk.reads("run", "plan", "exists")["model_bytes"] == BYTES
    assert desk.reads("run", "plan", "exists", "--model-bytes", "1KiB")["model_bytes"] == 1024


def test_a_size_given_needs_no_base_at_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_COORDINATOR")
    file = desk.run_file("later", base='trainer = "not.there:Yet"')
    assert desk.reads("run", "plan", file, "--model-bytes", "2GB")["model_bytes"] == 2 * 10**9
    assert "a bandwidth such as" in desk.mistakes("run", "plan", file, "--bandwidth", "fast")
    wrong = desk.run_file("later", '[topology]\ngraph = "rign"', 'trainer = "not.there:Yet"')
    assert "ring" in desk.mistakes("run", "plan", wrong, "--model-bytes", "1")


def spec(**fields: object) -> RunSpec:
    given = {"name": "f", "nodes": 4, "rounds": 4, "schema_digest": "5c" * 32, **fields}
    return RunSpec.model_validate(given)


def test_a_forecast_counts_the_schedule() -> None:
    every_second = forecast(
        spec(schedule={"name": "every", "options": {"k": 2}}, topology={"graph": "complete"}),
        1000,
        8000.0,
    )
    assert [load.messages for load in every_second.rounds].count(12) == 2
    assert [load.messages for load in every_second.rounds].count(0) == 2
    assert every_second.total.messages == 2 * 12 + 2 * 4 * 3
    # Per node: 3 models in each mixing round, and 2 * 3 / 4 for the global merge.
    assert every_second.total.busiest_bytes == 2 * 3000 + 1500
    assert every_second.seconds(every_second.total) == 7.5
    star = forecast(spec(topology={"graph": "star"}, final={"enabled": False}), 1000, None)
    assert star.rounds[0].busiest_bytes == 3000, "the centre"
    assert star.final is None
    assert star.seconds(star.total) is None


def test_the_anchor_s_model_goes_to_all_others() -> None:
    plain, aligned = (
        forecast(spec(nodes=4, rounds=0, merge={"align": align}), 1000, None).final
        for align in ("none", "weights")
    )
    assert plain is not None
    assert aligned is not None
    assert aligned.bytes - plain.bytes == 3 * 1000
    assert aligned.busiest_bytes - plain.busiest_bytes == 3 * 1000, "the anchor"


def test_two_models_a_node_whatever_the_number_of_nodes() -> None:
    for nodes in (2, 10, 100):
        final = forecast(spec(nodes=nodes, rounds=0), 1_000_000, None).final
        assert final is not None
        assert final.busiest_bytes == pytest.approx(2e6 * (nodes - 1) / nodes, abs=1)
        assert final.bytes == 2 * (nodes - 1) * 1_000_000


@pytest.mark.parametrize(
    ("text", "bits"),
    [("200Mbit", 2e8), ("1 Gbit/s", 1e9), ("25MB/s", 2e8), ("1.5kbps", 1.5e3), ("8", None)],
)
def test_bandwidths(text: str, bits: float | None) -> None:
    if bits is None:
        with pytest.raises(InvalidInput):
            bandwidth(text)
    else:
        assert bandwidth(text) == bits


def test_sizes() -> None:
    assert [byte_count(text) for text in ("12", "1KiB", "1.5MB", "2 GiB")] == [
        12,
        1024,
        1_500_000,
        2 * 2**30,
    ]
    for text in ("", "x", "-1", "0", "1 parsec"):
        with pytest.raises(InvalidInput, match="a size such as"):
            byte_count(text)


def test_the_base_of_a_file_opens_in_its_own_library(tmp_path: Path) -> None:
    save_file({"w": torch.arange(3.0)}, tmp_path / "m.safetensors")
    (tmp_path / "run.toml").write_text(
        'name = "x"\nnodes = 1\nrounds = 1\n[base]\npath = "m.safetensors"\n'
    )
    with prepared(load_run_file(tmp_path / "run.toml"), tmp_path) as (found, reader):
        assert reader is not None
        assert found.schema_digest == reader.schema.digest
        assert torch.equal(reader.read("w"), torch.arange(3.0))
