"""The reader of queries that the checks of alerts and panels stand on."""

import pytest

from tests.deploy.promql import Query, read_query


@pytest.mark.parametrize(
    ("expression", "selected", "grouped", "matched"),
    [
        ("up", {"up": set()}, set(), set()),
        ('up{job="a", node=~"b|c"} == 0', {"up": {"job", "node"}}, set(), set()),
        ("rate(x_total[5m])", {"x_total": set()}, set(), set()),
        (
            "sum by (node, peer) (rate(x_total[$__rate_interval]))",
            {"x_total": set()},
            {"node", "peer"},
            set(),
        ),
        ("sum(a) without (node) / count(b)", {"a": set(), "b": set()}, set(), {"node"}),
        ("a * on (node) group_left b{c!='d'}", {"a": set(), "b": {"c"}}, set(), {"node"}),
        ("increase(x[30m]) > 0 or (x unless x offset 30m)", {"x": set()}, set(), set()),
        ("a > 1 and on (run) b", {"a": set(), "b": set()}, set(), {"run"}),
        (
            "histogram_quantile(0.95, sum by (le) (rate(h_bucket[5m])))",
            {"h_bucket": set()},
            {"le"},
            set(),
        ),
        ('label_replace(a, "b", "$1", "c", "(.*):.*") > bool 1e3', {"a": set()}, set(), set()),
        ('a{b="c) by {d"} + 14 * 86400', {"a": {"b"}}, set(), set()),
    ],
)
def test_names_are_read(
    expression: str, selected: dict[str, set[str]], grouped: set[str], matched: set[str]
) -> None:
    assert read_query(expression) == Query(selected, grouped, matched)
