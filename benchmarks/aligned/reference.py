"""A folder with the published DIMAT or ZipIt code, run as it is on networks of its own.

Nothing of it is here: whoever wants the comparison fetches it. What it imports for other
purposes and is not installed is stood in for by names that return their first argument.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

NEEDED = (
    "Models.resnetzip",
    "graphs.resnet_graph",
    "utils.model_merger",
    "utils.matching_functions",
    "utils.metric_calculators",
    "utils.am_utils",
)


class Anything:
    """A name of a module that is not installed: has all attributes, can be called."""

    def __getattr__(self, name: str) -> "Anything":
        """Again such a name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, given: Any = None, *_: Any, **__: Any) -> Any:
        """The first argument, such as the list that a progress bar is put around."""
        return self if given is None else given


class StandIn(ModuleType):
    """A module that is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Any name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


def loaded(folder: Path) -> dict[str, Any]:
    """The modules of the reference that a merge needs."""
    sys.path.insert(0, str(folder))
    # Its package of models imports networks for other purposes; one module of it is enough.
    models = ModuleType("Models")
    models.__path__ = [str(folder / "Models")]
    sys.modules["Models"] = models
    warnings.filterwarnings("ignore", module="(utils|graphs|Models|torch)")
    found = {name: _imported(name) for name in NEEDED}
    # Nobody else is to take them for what they stand in for.
    for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
        del sys.modules[name]
    return found


def network(modules: dict[str, Any], width: int) -> nn.Module:
    """Its ResNet-20, whose option is a multiple of 16 channels."""
    return modules["Models.resnetzip"].resnet20(w=width // 16)  # type: ignore[no-any-return]


def merge_of(
    modules: dict[str, Any], models: list[nn.Module], batches: list[tuple[Tensor]]
) -> Callable[[], None]:
    """One merge of an anchor, the first, with its neighbours, as its `main.py` does it."""
    loader = [(batch[0], None) for batch in batches]
    reset = modules["utils.am_utils"].reset_bn_stats
    graph = modules["graphs.resnet_graph"].resnet20
    metrics = modules["utils.metric_calculators"]

    def merge() -> None:
        into = deepcopy(models[0])
        graphs = [graph(deepcopy(reset(model, loader))).graphify() for model in models]
        merger = modules["utils.model_merger"].ModelMerge(*graphs, device="cpu")
        merger.transform(
            into,
            # A list would be taken for several loaders.
            tuple(loader),
            covsave_path="",
            corrsave_path="",
            transform_fn=modules["utils.matching_functions"].match_tensors_permute,
            metric_classes=(metrics.CovarianceMetric, metrics.MeanMetric),
            interp_w=[1 / len(models)] * len(models),
            a=0.0001,
            b=0.075,
        )
        reset(merger, loader)

    return merge


def _imported(name: str) -> Any:
    while True:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or error.name in NEEDED or error.name in sys.modules:
                raise
            sys.modules[error.name] = StandIn(error.name)
