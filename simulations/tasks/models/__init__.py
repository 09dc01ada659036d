"""The models of the tasks: small nets for images and vectors, a transformer for text.

`build_model` makes one by name. A new one is a function in a module of this
package and a line in `registry.MODELS`.
"""

from weft.simulations.tasks.models.registry import MODELS, build_model, parse_options, written

__all__ = ["MODELS", "build_model", "parse_options", "written"]
