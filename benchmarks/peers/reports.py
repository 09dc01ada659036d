"""The measurements as tables of text, and as plain values for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass

from peers.engine import Figure, FloorRow, PeerRow
from peers.spectral import Case

STARTUP_CPU = 2.5
PEAK_MIB = 1024.0
FLOOR_TARGETS = {"float32": (1.3, 1.3), "exact": (2.5, 1.3)}
"""By sums: at most so many times the floor's CPU seconds, and its wall seconds."""
PEER_TARGETS = {"ties": 8.0, "dare_ties": 8.0, "della": 8.0, "breadcrumbs": 8.0}
"""mergekit's net CPU seconds are at least so many times ours."""
SPECTRAL_TARGET = 2.0


def plain(found: object) -> object:
    """Dictionaries and lists all the way down."""
    if is_dataclass(found) and not isinstance(found, type):
        return asdict(found)
    if isinstance(found, Mapping):
        return {key: plain(value) for key, value in found.items()}
    return [plain(value) for value in found] if isinstance(found, Sequence) else found


def startup(found: Mapping[str, Figure]) -> str:
    """A merge of a tiny model."""
    lines = ["", f"start-up (tiny model, mean)  {HEAD}"]
    for name, figure in found.items():
        target = _target(figure.cpu, STARTUP_CPU, most=True) if name == "weft" else ""
        lines.append(f"  {name:27}{_figure(figure)}  {target}")
    return "\n".join(lines)


def floors(size: str, rows: Sequence[FloorRow]) -> str:
    """Weft over the floor with the method's arithmetic."""
    lines = ["", f"{size}: beside the floors      {HEAD}   x floor: CPU        wall"]
    for row in rows:
        lines.append(f"  {row.method}")
        lines.append(f"    only read and written    {_figure(row.move)}")
        lines.append(f"    with the arithmetic      {_figure(row.arithmetic)}")
        for sums, figure in row.weft.items():
            cpu = figure.net_cpu / row.arithmetic.net_cpu
            wall = figure.net_wall / row.arithmetic.net_wall
            most_cpu, most_wall = FLOOR_TARGETS[sums]
            lines.append(
                f"    weft --sums {sums:13}{_figure(figure)}"
                f"  {_target(cpu, most_cpu, most=True)}, {_target(wall, most_wall, most=True)}"
                f"{_peak(figure)}"
            )
    return "\n".join(lines)


def peers(size: str, rows: Sequence[PeerRow]) -> str:
    """How many times what weft takes mergekit takes."""
    lines = [
        "",
        f"{size}: weft and mergekit       {HEAD}   mergekit / weft: CPU net, whole, wall net, peak",
    ]
    for row in rows:
        theirs = row.mergekit
        lines.append(f"  {row.method:16} mergekit      {_figure(theirs)}")
        for sums, ours in row.weft.items():
            ratio = theirs.net_cpu / ours.net_cpu
            least = PEER_TARGETS.get(row.method)
            shown = _target(ratio, least, most=False) if least else f"{ratio:6.2f}"
            lines.append(
                f"  {'':16} weft, {sums:8}{_figure(ours)}  {shown}, {theirs.cpu / ours.cpu:.2f},"
                f" {theirs.net_wall / ours.net_wall:.2f}, {theirs.peak_mib / ours.peak_mib:.2f}"
                f"{_peak(ours)}"
            )
    return "\n".join(lines)


def spectral(cases: Sequence[Case]) -> str:
    """Matrix by matrix, and a whole ViT-B/32."""
    head = f"{'FusionBench':>12}{'weft':>9}{'ratio':>8}   {'error theirs':>13}{'ours':>10}"
    lines = ["", f"spectral, 4 task vectors, CPU s  {head}"]
    for case in cases:
        ratio = case.theirs / case.ours
        shown = _target(ratio, SPECTRAL_TARGET, most=False) if case.whole else f"{ratio:6.2f}"
        lines.append(
            f"  {case.method:9}{case.shape:22}{case.theirs:12.3f}{case.ours:9.3f}  {shown}"
            f"   {case.their_error:12.1e}{case.our_error:10.1e}"
        )
    return "\n".join(lines)


HEAD = f"{'CPU s':>8}{'least..most':>15}{'net':>8}{'wall s':>8}{'net':>8}{'MiB':>7}{'others':>7}"


def _figure(figure: Figure) -> str:
    least, most = figure.spread
    spread = f"{least:.2f}..{most:.2f}"
    return (
        f"{figure.cpu:8.2f}{spread:>15}{figure.net_cpu:8.2f}{figure.wall:8.2f}"
        f"{figure.net_wall:8.2f}{figure.peak_mib:7.0f}{figure.others:7.2f}"
    )


def _target(value: float, bound: float, *, most: bool) -> str:
    met = value <= bound if most else value >= bound
    return f"{value:6.2f} ({'<=' if most else '>='} {bound:g}{'' if met else ', MISSED'})"


def _peak(figure: Figure) -> str:
    return "" if figure.peak_mib < PEAK_MIB else f"; peak MISSED (< {PEAK_MIB:.0f} MiB)"
