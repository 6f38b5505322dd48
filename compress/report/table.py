"""A table as text cells, before it is Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column. Neighbours of one ``group`` share a heading above their titles."""

    title: str
    group: str = ""
    numeric: bool = True

    @property
    def full_title(self) -> str:
        """Group and title in one line."""
        return f"{self.group} {self.title}".strip()


@dataclass(frozen=True)
class Row:
    """Cells in the order of the columns; the row of the result stands out."""

    cells: tuple[str, ...]
    stands_out: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings above the columns, each with the number of columns that it spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def text_columns(*titles: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(title, numeric=False) for title in titles)


def number_columns(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title) for title in titles)
