import subprocess
import sys

import pytest

from weft.errors import InvalidInput, NotFound
from weft.merging.errors import BadOption, UnknownMethod
from weft.merging.methods.mean import Mean
from weft.merging.registry import TABLE, Entry, Kind, Registry, create, entry, names


def test_names_are_sorted_and_the_table_is_too() -> None:
    assert names() == [line.name for line in TABLE]
    assert {"ema", "magmax", "mean", "task_arithmetic"} <= set(names())


def test_every_line_says_what_it_is() -> None:
    for line in TABLE:
        assert entry(line.name) is line
        assert line.paper.startswith(("arXiv:", "openreview:"))
        assert line.load().__module__ == line.module
        assert (line.load().__doc__ or "").count("Source:") == 1


def test_options_reach_the_method() -> None:
    assert create("mean", bound=8192) == Mean(bound=8192)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownMethod, match=r"'task_arithmatic'; did you mean 'task_arithmetic'\?"):
        create("task_arithmatic")
    with pytest.raises(NotFound, match=r"'zzz' \(known: .*mean, .*task_arithmetic"):
        entry("zzz")


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(
        BadOption, match=r"method 'task_arithmetic' has no option 'scael'; did you mean 'scale'\?"
    ):
        create("task_arithmetic", scael=1.0)


def test_a_bad_value_is_the_methods_to_refuse() -> None:
    with pytest.raises(InvalidInput, match="scale is 'x'"):
        create("task_arithmetic", scale="x")


def test_a_table_of_ones_own() -> None:
    mine = Entry("mine", "weft.merging.methods.mean", "Mean", Kind.FOLD, "arXiv:2203.05482")
    registry = Registry((*TABLE, mine))
    assert registry.create("mine") == Mean()
    assert "mine" not in names()


def test_listing_methods_does_not_load_torch() -> None:
    code = "import sys, weft.merging.registry as r; r.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
