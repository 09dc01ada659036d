"""An experiment's file, read: arms, sweeps, and every key checked.

    [experiment]
    name = "graphs"
    rounds = 20
    seeds = [0, 1, 2]
    [task]
    nodes = [8, 16]
    [[arm]]
    name = "ring"
    topology.graph = "ring"
    [[arm]]
    name = "alone"
    schedule.name = "final_only"

An arm overrides what stands outside; any key that takes one value may hold a list.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.protocol.configuration import validated
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell, Experiment
from weft.simulations.experiments.settings import CellSettings
from weft.simulations.experiments.sweeps import SEEDS, Document, overridden, points, with_key

ARMS = "arm"


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read a file; blocks.

    Args:
        path: the file.
        changes: `section.key=value` each, set in the file before its arms override it.

    Raises:
        BadExperiment: not readable, not TOML, arms without names, a sweep that cannot be.
        BadConfiguration: an unknown key (the nearest one is named), a wrong value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadExperiment(f"{path}: no such file; expected an experiment in TOML") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadExperiment(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadExperiment(f"{path}: not TOML: {error}") from error
    return experiment_of(document, where=str(path), folder=path.resolve().parent, changes=changes)


def experiment_of(
    document: Mapping[str, Any], *, where: str, folder: Path, changes: Sequence[str] = ()
) -> Experiment:
    """The experiment that a document describes.

    Args:
        document: as TOML is read.
        where: stands in front of what is wrong.
        folder: what relative paths count from.
        changes: as of `load_experiment`.

    Raises:
        BadExperiment, BadConfiguration: as `load_experiment`.
    """
    shared: Document = {key: value for key, value in document.items() if key != ARMS}
    for change in changes:
        shared = with_key(shared, change)
    cells = [
        cell
        for name, arm in _arms(document, where)
        for cell in _cells(name, overridden(shared, arm), where, folder)
    ]
    keys = dict.fromkeys(key for cell in cells for key in cell.swept if key != SEEDS)
    # A change may leave one value of a key that the document tunes.
    changed = {change.partition("=")[0].strip() for change in changes}
    for tuned in {cell.settings.experiment.tune for cell in cells} - {None, *keys, *changed}:
        raise BadExperiment(
            f"{where}: experiment.tune: found {tuned!r}, expected a key that holds a list: "
            f"{', '.join(keys) or 'there is none'}"
        )
    return Experiment(name=_name(cells, where), keys=tuple(keys), cells=cells)


def _arms(document: Mapping[str, Any], where: str) -> list[tuple[str, Document]]:
    given = document.get(ARMS, [{"name": ""}])
    if not isinstance(given, list) or not given or not all(isinstance(arm, dict) for arm in given):
        raise BadExperiment(f"{where}: arm: found no tables, expected [[arm]] with a name each")
    arms: dict[str, Document] = {}
    for arm in given:
        name = arm.get("name")
        if not isinstance(name, str) or (ARMS in document and not name):
            raise BadExperiment(f"{where}: arm {len(arms)}: found no name, expected one")
        if not name.isprintable():
            raise BadExperiment(f"{where}: arm {name!r}: found no printable name, expected one")
        if name in arms:
            raise BadExperiment(
                f"{where}: found two arms {name!r}, expected a name of its own each"
            )
        arms[name] = {key: value for key, value in arm.items() if key != "name"}
    return list(arms.items())


def _cells(arm: str, document: Document, where: str, folder: Path) -> Iterator[Cell]:
    where = f"{where}, arm {arm!r}" if arm else where
    try:
        found = list(points(document))
    except BadExperiment as error:
        raise BadExperiment(f"{where}: {error}") from None
    for point in found:
        settings = validated(point.document, CellSettings, where=where, folder=folder)
        yield Cell(arm=arm, swept=point.swept, settings=settings, folder=folder)


def _name(cells: Sequence[Cell], where: str) -> str:
    names = {cell.settings.experiment.name for cell in cells}
    if len(names) != 1:
        raise BadExperiment(f"{where}: experiment.name: found {len(names)}, expected one")
    return names.pop()
