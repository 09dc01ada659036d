"""Reports: one HTML file with everything in it, no script, no network."""

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa;
       margin: 0 auto; padding: 2rem 1rem; max-width: 64rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; } .faint { color: #616e7c; }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 8px;
          padding: 1rem 1.25rem; margin: 1rem 0; overflow-x: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > section { flex: 1 1 18rem; margin: 0; }
svg, img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #cbd2d9; font-weight: 600; } td.n, th.n { text-align: right; }
tr.sum td { border-top: 1px solid #cbd2d9; font-weight: 600; }
code { font: .88em ui-monospace, monospace; } details > summary { cursor: pointer; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole page; `body` is HTML, the title plain text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section(title: str, inside: str) -> str:
    """A part with a heading; `inside` is HTML."""
    return f"<section><h2>{text(title)}</h2>{inside}</section>"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] = (),
    numbers_from: int = 1,
) -> str:
    """A table.

    Args:
        heads: plain text.
        rows: cells in HTML.
        total: a last row, set apart.
        numbers_from: the first column that stands to the right.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>'
            if place >= numbers_from
            else f"<{tag}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    last = f'<tr class="sum">{line(total, "td")}</tr>' if total else ""
    return f"<table><tr>{line([text(head) for head in heads], 'th')}</tr>{body}{last}</table>"


def picture(png: bytes, title: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{text(title)}" src="data:image/png;base64,{data}">'


def text(value: object) -> str:
    """Anything as text that is not taken for markup."""
    return html.escape(str(value))
