"""What a stream is, from the options of `weft stream init`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.errors import InvalidInput

if TYPE_CHECKING:
    from weft.node.continual.spec import StreamSpec


def spec_of(
    *,
    method: str | None,
    settings: Sequence[str],
    scale: str,
    sums: str | None,
    keep: str,
    retain: int,
    norm_factor: float,
    gate: str,
    gate_bound: float,
    shard_size: str,
) -> "StreamSpec":
    """The specification that the options of a command line are.

    Raises:
        InvalidInput: an option's value cannot be; names the option.
    """
    from weft.cli.byte_sizes import byte_size
    from weft.cli.merge_options import pairs_of
    from weft.merging.option_texts import parse_options
    from weft.merging.precision import Precision
    from weft.merging.registry import entry
    from weft.node.continual.spec import DEFAULT_METHOD, DEFAULT_OPTIONS, Keep, StreamSpec

    name = method or DEFAULT_METHOD
    sums = sums or ("exact" if method else "float32")
    given = parse_options(entry(name).load(), pairs_of(settings, "--set"), called=name)
    options = {**(DEFAULT_OPTIONS if name == DEFAULT_METHOD else {}), **given}
    return StreamSpec(
        method=name,
        options=options,
        precision=Precision(_one_of(sums, [str(each) for each in Precision], "--sums")),
        scale=_scale(scale),
        keep=Keep(_one_of(keep, [str(each) for each in Keep], "--keep")),
        retain=retain,
        norm_factor=norm_factor,
        gate=gate,
        gate_bound=gate_bound,
        shard_bytes=byte_size(shard_size, "--shard-size"),
    )


def _one_of(value: str, known: Sequence[str], option: str) -> str:
    if value not in known:
        raise InvalidInput(f"{option}: found {value!r}, expected {', '.join(known)}")
    return value


def _scale(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"--scale: found {text!r}, expected a number or auto") from None
