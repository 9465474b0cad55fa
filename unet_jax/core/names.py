"""Names that users chose (of classes, images, runs, files), for what reads marks in its text.

matplotlib reads $...$ as mathematics, and Markdown has marks and raw HTML. For rich a
`rich.text.Text` has no marks, and `markup.py` escapes for HTML.
"""

import re

# What Markdown may read as a mark wherever it stands in a line; an underscore only beside a word.
MARKS = re.compile(r"[#$&*<>@\[\\\]`{|}~]|(?<![^\W_])_|_(?![^\W_])")


def printable(text: str) -> str:
    """The text on one line: a replacement character for what cannot be shown or encoded."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def in_figure(text: str, longest: int = 80) -> str:
    """For any text of a matplotlib figure, none of it mathematics; cut to `longest` characters."""
    text = printable(text)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return text.replace("$", r"\$")


def in_markdown(text: str) -> str:
    """For a paragraph, a heading or the cell of a table: marks as numeric character references.

    These mean the character itself in HTML too; see `markup.prose`.
    """
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", printable(text).strip())


def as_code(text: str) -> str:
    """For Markdown: the name of a file in backticks, or without where it has marks of its own."""
    text = printable(text)
    return in_markdown(text) if {"`", "\\"} & {*text} or not text.strip() else f"`{text}`"
