"""Predicted against measured wall-clock: the demo's run with throttled links.

    python benchmarks/predicted_time.py [--nodes 4] [--rounds 4] [--mbit 8] [--same-run]

Real daemons on loopback; what each of them sends passes a proxy in user space with a token
bucket. How long nodes compute is read from the logs of a run before it, without any bound on
links, or with `--same-run` of the very run; how long collecting, agreeing and the global
merge take is predicted from this, the bytes of contributions and the rate. Seconds run from
the first node's first round to the last node's last model.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from throttled.phases import Phases
from throttled.run import contribution_bytes, enlarged_digits, run_daemons

from weft.checkpoints.reader import open_checkpoint
from weft.simulations.clock.forecasts import forecast
from weft.simulations.clock.links import MBIT, Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.outcome import Forecast
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.references import TaskOptions
from weft.topology.shares import split_shares

TARGET = 0.2


def main() -> None:
    """Run, print both."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.out or Path(made) / "demo"
        data = Path(made) / "digits.npz"
        enlarged_digits(data, arguments.pixels)
        settings = DemoSettings(
            nodes=arguments.nodes,
            rounds=arguments.rounds,
            topology=arguments.topology,
            task=TaskOptions(nodes=arguments.nodes, data=str(data)),
        )
        free = None if arguments.same_run else run_daemons(settings, folder, None)
        measured = run_daemons(settings, folder, arguments.mbit * MBIT)
        sizes = tensor_bytes(DemoFolder(path=folder).base)
        sent = contribution_bytes(folder, settings)
        links = Links(up_mbit=arguments.mbit, codec_ratio=sent / sum(sizes.values()))
        predicted = predict(settings, free or measured, sizes, links, unbound=free is not None)
        print(json.dumps(report(measured, predicted, sum(sizes.values()), sent), indent=2))


def tensor_bytes(path: Path) -> dict[str, int]:
    """Bytes by tensor of a checkpoint."""
    with open_checkpoint(path) as reader:
        return {spec.name: spec.size_bytes for spec in reader.schema.tensors}


def predict(
    settings: DemoSettings, known: Phases, sizes: dict[str, int], links: Links, *, unbound: bool
) -> Forecast:
    """What the clock says.

    Args:
        settings: the run.
        known: how long nodes took to compute.
        sizes: bytes by tensor.
        links: between the nodes.
        unbound: nothing bounded the links where that was measured: what collecting and
            folding took then is the nodes' own work.
    """
    training = known.mean("trained")
    machines = Machines(
        slowness=tuple(seconds / training for seconds in known.means("trained")),
        publish_seconds=known.mean("publish"),
        judge_seconds=known.mean("collect") if unbound else 0.0,
        merge_seconds=known.mean("merge"),
        evaluate_seconds=known.mean("evaluate"),
        announce_seconds=known.mean("announce"),
        settle_seconds=known.settle_seconds,
        fold_seconds=known.mean("fold") / _largest_share(sizes, settings) if unbound else 0.0,
        finish_seconds=known.mean("finish"),
    )
    return forecast(
        settings.mixing_schedule(),
        machines,
        links,
        steps_seconds=training,
        model_bytes=sizes,
    )


def _largest_share(sizes: dict[str, int], settings: DemoSettings) -> float:
    """Of a model, which all wait for in the global merge."""
    cut = split_shares(sizes, settings.nodes)
    return max(sum(sizes[name] for name in names) for names in cut) / sum(sizes.values())


def report(measured: Phases, predicted: Forecast, model: int, sent: float) -> dict[str, object]:
    """Both, and what they are made of."""
    seconds, rounds = measured.seconds, float(predicted.round_ends.max())
    error = predicted.seconds / seconds - 1
    return {
        "model_bytes": model,
        "contribution_bytes": round(sent),
        "measured_s": round(seconds, 2),
        "predicted_s": round(predicted.seconds, 2),
        "error": round(error, 4),
        "within_target": abs(error) <= TARGET,
        "rounds_measured_s": round(measured.rounds_seconds, 2),
        "rounds_predicted_s": round(rounds, 2),
        "collect_measured_s": round(measured.mean("collect"), 3),
        "agree_measured_s": round(measured.mean("agree"), 3),
        "fold_measured_s": round(measured.mean("fold"), 3),
        "settle_measured_s": round(measured.settle_seconds, 3),
        "training_measured_s": round(measured.mean("trained"), 3),
        "busy_predicted_s": round(mean(predicted.busy.tolist()), 2),
        "idle_predicted_s": round(mean(predicted.idle.tolist()), 2),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--topology", default="ring")
    parser.add_argument("--mbit", type=float, default=8.0, help="what a node may send")
    parser.add_argument("--pixels", type=int, default=6, help="width of a digit's pixel")
    parser.add_argument("--same-run", action="store_true", help="compute times of the run itself")
    parser.add_argument("--out", type=Path, default=None, help="keep the run's folder here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
