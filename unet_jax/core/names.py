"""Escaping of user-chosen names (classes, images, runs, files) for matplotlib and Markdown.

matplotlib interprets $...$ as mathematics, and Markdown interprets markup and raw HTML. rich
interprets no markup in a `rich.text.Text`, and the templates of pages escape for HTML.
"""

import re

# Markdown may interpret these characters anywhere in a line. An underscore is markup only at the
# edge of a word.
MARKS = re.compile(r"[#$&*<>@\[\\\]`{|}~]|(?<![^\W_])_|_(?![^\W_])")


def printable(text: str) -> str:
    """Returns the text on one line, with U+FFFD for characters that cannot be shown or encoded."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def in_figure(text: str, longest: int = 80) -> str:
    """Escapes a text for a matplotlib figure, so that none of it is rendered as mathematics.

    Args:
      text: any text.
      longest: a longer text is cut to this number of characters, with an ellipsis at its end.

    Returns:
      The escaped text on one line.
    """
    text = printable(text)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return text.replace("$", r"\$")


def in_markdown(text: str) -> str:
    """Escapes a text for a Markdown paragraph, heading or table cell.

    Markup characters become numeric character references, which HTML also renders as the
    characters themselves; see `markup.prose`.
    """
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", printable(text).strip())


def as_code(text: str) -> str:
    """Formats a file name for Markdown, in backticks if possible.

    A blank name, or one with a backtick or a backslash, is escaped by `in_markdown` instead.
    """
    text = printable(text)
    return in_markdown(text) if {"`", "\\"} & {*text} or not text.strip() else f"`{text}`"
