"""What the daemons show to Prometheus, and what the queries of deploy/ miss of it."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.files import Asked
from tests.deploy.promql import read_query

# What Prometheus adds itself to each series (prometheus.yml adds `node`).
SCRAPED = {"job", "instance", "node"}
ITS_OWN: dict[str, set[str]] = {"up": set()}


# How Prometheus writes a family of each kind, and the labels that come with that.
SERIES: dict[str, list[tuple[str, set[str]]]] = {
    "counter": [("_total", set())],
    "gauge": [("", set())],
    "histogram": [("_bucket", {"le"}), ("_sum", set()), ("_count", set())],
    "summary": [("_sum", set()), ("_count", set())],
    "info": [("_info", set())],
}


def families(registry: CollectorRegistry) -> dict[str, dict[str, set[str]]]:
    """The series of each family in a registry, those without a value yet included."""
    found: dict[str, dict[str, set[str]]] = {}
    for collector in registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            more_labels = getattr(family, "_labelnames", ())
            given = labels.union(more_labels, *(sample.labels for sample in family.samples))
            kinds = SERIES.get(family.type, [("", {family.name})])
            found[family.name] = {family.name + end: given | more for end, more in kinds}
    return found


def declared(page: str) -> set[str]:
    """The series that a daemon's page of metrics declares, with or without a value yet."""
    return {
        family.name + end
        for family in text_string_to_metric_families(page)
        for end, _ in SERIES.get(family.type, [("", set())])
    }


def missing(queries: Iterable[Asked], known: Mapping[str, set[str]]) -> list[str]:
    """What the queries name and no daemon shows: metrics, and labels of metrics."""
    everything = {**ITS_OWN, **known}
    complaints = []
    for asked in queries:
        query = read_query(asked.expression)
        labels = SCRAPED.union(*(everything.get(metric, set()) for metric in query.selected))
        for metric, selected in query.selected.items():
            if metric not in everything:
                complaints.append(f"{asked.where}: no metric {metric}")
            elif unknown := selected - everything[metric] - SCRAPED:
                complaints.append(f"{asked.where}: {metric} has no label {sorted(unknown)}")
        if unknown := (query.grouped | query.matched | asked.legend) - labels:
            complaints.append(
                f"{asked.where}: groups by, matches or shows {sorted(unknown)}, not there"
            )
        if lost := asked.legend - query.grouped if query.grouped else set():
            complaints.append(f"{asked.where}: shows {sorted(lost)}, which it groups away")
    return complaints
