"""The frame of every HTML report: one file, no script, nothing loaded from elsewhere; and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

DISCLAIMER = (
    "Research use only, not for diagnosis. This is not a medical device; no figure on this page permits the use of its "
    "results for diagnosis or treatment."
)
WIDE_COLUMNS = 9
"""Tables of so many columns are set small, so that they fit a page, and smaller on paper, where nobody can scroll."""

_STYLE = """
:root { color-scheme: light dark; --rule: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.disclaimer { border: 2px solid #c2410c; border-radius: 6px; padding: .6rem 1rem; font-weight: 600; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
td { white-space: nowrap; } td.words, th.words { text-align: left; white-space: normal; }
td:first-child { min-width: 6.5rem; }
table.wide { font-size: .8rem; } table.wide th, table.wide td { padding: .25rem .35rem; }
td.words + td.words { overflow-wrap: anywhere; min-width: 6rem; }
thead th { border-bottom: 2px solid var(--rule); } tr.strong td { font-weight: 600; }
.scroll { overflow-x: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 26rem; max-width: 34rem; }
figcaption { font-size: .9rem; } svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } .grid { stroke: currentColor; stroke-opacity: .13; }
.frame { stroke: currentColor; fill: none; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none; }
.cards li { background: var(--soft); border-radius: 6px; padding: .5rem .9rem; }
.cards b { display: block; font-size: 1.3rem; }
.passed::before { content: "\\2713  "; color: #2f855a; } .failed::before { content: "\\2717  "; color: #c2410c; }
.films { display: flex; flex-wrap: wrap; gap: .8rem; } .films figure { flex: 0 1 12rem; } .films img { width: 100%; }
table.wide td:first-child { min-width: 9rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 13px; }
  h2 { break-after: avoid; } figure, table { break-inside: avoid; }
  .scroll { overflow: visible; } td { white-space: normal; } figure { flex: 1 1 18rem; }
  table.wide { font-size: 10px; } table.wide th, table.wide td { padding: .15rem .25rem; }
  table.wide td:first-child { min-width: 6rem; }
}
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """Return a whole HTML document; ``lead`` is plain text, sections are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f'<p>{escape(lead)}</p>\n<p class="disclaimer">{DISCLAIMER}</p>\n' + "\n".join(sections) + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a section of HTML parts under a heading."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def paragraph(words: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{escape(words)}</p>"


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, strong_last: bool = False, words: int = 1
) -> str:
    """Return a table of plain-text cells; the first ``words`` columns hold words, the others numbers.

    Numbers are not broken. On a screen a table wider than its page scrolls; on paper it is set smaller.
    """
    listed = list(rows)

    def line(cells: Sequence[str], tag: str) -> str:
        classes = (' class="words"' if place < words else "" for place in range(len(cells)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, classes, strict=True))

    wide = ' class="wide"' if len(head) >= WIDE_COLUMNS else ""
    body = "".join(
        f"<tr{' class=strong' if strong_last and place == len(listed) - 1 else ''}>{line(row, 'td')}</tr>"
        for place, row in enumerate(listed)
    )
    return (
        f'<div class="scroll"><table{wide}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{line(head, 'th')}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> str:
    """Return a figure with its caption (plain text)."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(*drawn: str) -> str:
    """Put figures side by side where there is room."""
    return f'<div class="figures">{"".join(drawn)}</div>'


def cards(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the few numbers that matter: (number, what it is)."""
    return '<ul class="cards">' + "".join(f"<li><b>{escape(a)}</b>{escape(b)}</li>" for a, b in pairs) + "</ul>"


def verdicts(sentences: Iterable[tuple[bool, str]]) -> str:
    """Return a list of sentences, each passed or failed."""
    items = (f'<li class="{"passed" if ok else "failed"}">{escape(words)}</li>' for ok, words in sentences)
    return f"<ul>{''.join(items)}</ul>"


def decimal(value: float | None, digits: int = 1) -> str:
    """Write a number; a dash for one that could not be measured."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share in percent; a dash for one that could not be measured."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f} %"
