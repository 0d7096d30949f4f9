"""Reading XML that others wrote: elements with their lines, and one sentence for whatever is wrong.

Document type declarations are refused: entities could expand to any size or name other files, and no format of
annotations has any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from lucid_maskrcnn.validators import shown

from .records import AnnotationError

__all__ = ["Element", "parse_xml"]

_MAX_DEPTH = 50


@dataclass(slots=True)
class Element:
    """An element: its tag, attributes, text without spaces around it, children, and where it stands."""

    tag: str
    attributes: dict[str, str]
    place: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        """Yield the children of a tag."""
        return (child for child in self.children if child.tag == tag)

    def find(self, tag: str) -> Element | None:
        """Return the first child of a tag, or None."""
        return next(self.all(tag), None)

    def value(self, tag: str) -> str:
        """Return the text of the first child of a tag; it must be there and not empty."""
        child = self.find(tag)
        if child is None or not child.text:
            raise AnnotationError(f"{self.place}: <{self.tag}> must have a <{tag}>.")
        return child.text

    def attribute(self, name: str) -> str:
        """Return an attribute, which must be there."""
        if name not in self.attributes:
            raise AnnotationError(f"{self.place}: <{self.tag}> must have the attribute {name!r}.")
        return self.attributes[name]

    def number(self, what: str, text: str) -> float:
        """Return a finite number of a text; ``what`` is what messages call it."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or abs(number) > 1e9:
            raise AnnotationError(f"{self.place}: {what} of <{self.tag}> must be a number, got {shown(text)}.")
        return number


def parse_xml(content: bytes, source: str) -> Element:
    """Return the root of an XML file.

    Parameters
    ----------
    content : bytes
    source : str
        What messages call the file.

    Raises
    ------
    AnnotationError
        If it is no XML, has a document type declaration, or is nested deeply.
    """
    root = Element("", {}, source)
    open_elements = [root]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(open_elements) > _MAX_DEPTH:
            raise AnnotationError(f"{source}, line {parser.CurrentLineNumber}: its elements are nested too deeply.")
        element = Element(tag, attributes, f"{source}, line {parser.CurrentLineNumber}")
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        element = open_elements.pop()
        element.text = element.text.strip()

    def text(part: str) -> None:
        open_elements[-1].text += part

    def doctype(*_: object) -> None:
        raise AnnotationError(f"{source} has a document type declaration, which files of annotations do not need.")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise AnnotationError(f"{source} is not XML: {reason}, at line {error.lineno}.") from None
    except (LookupError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{source} is not XML: its encoding is not known.") from None
    return root.children[0]
