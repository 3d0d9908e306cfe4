"""What a report consists of, before it is HTML, Markdown or JSON.

    numbers = Table("Accuracy", ("network", "top-1"), (("float", "88.69"), ("W4A4", "87.90")))
    section = Section("accuracy", "Accuracy", tables=(numbers,), notices=("Not trained yet.",))
    write(Document("runs/first", (section,)), Path("runs/first/report"))     # pages.write

All text here is plain text, also where it comes from a file of somebody else's: whoever renders it
has to escape it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of each is its heading.

    Attributes:
        caption: What it shows.
        columns: Headings.
        rows: As many cells each as there are columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"The table {self.caption!r} has rows of another length than columns.")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawing, and the same for those who cannot see it.

    Attributes:
        name: Unique in its document; letters, digits, "-".
        title: What it shows.
        description: What a look at it tells.
        drawing: The drawing, in the colours of `pictures.STYLE`.
        numbers: The figures behind it.
    """

    name: str
    title: str
    description: str
    drawing: Figure
    numbers: Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: Unique in its document; letters, digits, "-".
        title: Its heading.
        text: Paragraphs.
        notices: What is missing, damaged or was not run, in whole sentences.
        tables: Tables.
        pictures: Pictures.
        data: The same for programs, of plain JSON types.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    data: Any = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "title": self.title,
            "notices": list(self.notices),
            "tables": [table.to_dict() for table in self.tables],
            "numbers": {picture.name: picture.numbers.to_dict() for picture in self.pictures},
            "data": self.data,
        }


@dataclasses.dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its title.
        summary: What it says, in a sentence or two.
        sections: Its parts.
        facts: More for programs, of plain JSON types.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [s.name for s in self.sections] + [p.name for p in self.pictures]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Names are not unique in {self.title!r}: {', '.join(twice)}.")

    @property
    def pictures(self) -> Sequence[Picture]:
        """All pictures."""
        return [picture for section in self.sections for picture in section.pictures]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "title": self.title,
            "summary": self.summary,
            **self.facts,
            "sections": {section.name: section.to_dict() for section in self.sections},
        }
