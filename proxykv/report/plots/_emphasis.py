"""Many methods in one figure: the important ones in colour, the others grey and behind them.

What is drawn of a method carries its name as gid (`Look.gid`), from which both the files and the
page's script find it. A page shows all methods, and its reader chooses which are in colour.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.collections import Collection as Patches
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

GID = "method-"
CROWDED = 8
"""A figure with more methods shows some of them in grey."""
GREY, GREY_TEXT = "#c3c8ce", "#848b93"
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
for prefix, space in {"": SVG, "xlink": LINK}.items():
    ElementTree.register_namespace(prefix, space)


def crowded(figure: Figure) -> bool:
    """Whether a figure shows too many methods to tell their colours apart."""
    return len({method for method, _ in _drawn(figure)}) > CROWDED


def mute(figure: Figure, main: Collection[str]) -> None:
    """Turn all but the main methods of a crowded figure grey.

    Args:
        figure: the figure.
        main: methods that keep their colours.
    """
    if not crowded(figure):
        return
    for method, artist in _drawn(figure):
        if method not in main:
            filled = isinstance(artist, Patches) and not isinstance(artist, LineCollection)
            paint = artist.set_facecolor if filled else artist.set_color
            paint(GREY_TEXT if isinstance(artist, Text) else GREY)
            artist.set_zorder(1)


def _drawn(figure: Figure) -> Iterator[tuple[str, Any]]:
    """Methods and what is drawn of them."""
    for artist in figure.findobj():
        gid = artist.get_gid() or ""
        if gid.startswith(GID):
            yield gid.removeprefix(GID), artist


def inline(svg: bytes, name: str, label: str) -> Markup:
    """A figure as a part of an HTML page.

    The names of its parts become unique in the page; those of methods become `data-method`.

    Args:
        svg: the file that Matplotlib writes.
        name: of the figure.
        label: what the figure shows, for readers who do not see it.
    """
    root = ElementTree.fromstring(svg)
    for parent in [root, *root.iterfind("{*}defs")]:  # the style would hold for the whole page
        for child in [*parent.iterfind("{*}metadata"), *parent.iterfind("{*}style")]:
            parent.remove(child)
    for node in root.iter():
        for key, value in list(node.items()):
            if key == "id" and value.startswith(GID):
                del node.attrib[key]
                node.set("data-method", value.removeprefix(GID))
            elif key == "id":
                node.set(key, f"{name}-{value}")
            elif key == f"{{{LINK}}}href":
                node.set(key, value.replace("#", f"#{name}-"))
            else:
                node.set(key, value.replace("url(#", f"url(#{name}-"))
    root.attrib |= {"role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))
