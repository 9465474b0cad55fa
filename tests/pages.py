"""What README.md, CONTRIBUTING.md and the pages of docs/ and benchmarks/ contain."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
GUIDES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
PAGES = [*GUIDES, *sorted((ROOT / "benchmarks").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
CODE_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def path_of(page: pathlib.Path) -> str:
    """The path of a page in the repository: pages of two folders may have the same name."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of a page in one of the languages, such as sh."""
    return [code for language, code in BLOCK.findall(text) if language in languages]


def prose(text: str) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", text)


def links(text: str) -> list[str]:
    """The targets of a page's links to files and headings of the repository."""
    return LINK.findall(prose(text))


def anchors(text: str) -> list[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


def python_commands(text: str) -> list[list[str]]:
    """The arguments after `python` of the commands in a page's shell blocks.

    Commands that use variables of the shell, such as a loop's, are left out.
    """
    found, words = [], []
    for block in blocks(text, "sh", "bash"):
        line = ""
        for part in block.replace("\\\n", " ").splitlines():
            line += part
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # the quotation continues on the next line
                line += "\n"
                continue
            line = ""
            if "python" in words and not any("$" in word for word in words):
                found.append(words[words.index("python") + 1 :])
    return found
