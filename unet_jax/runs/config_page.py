"""Writes docs/config-fields.md, the table of all config fields, from where they are defined.

python -m unet_jax.runs.config_page

Default, range and choices are those of `configs/base.py` and of the options of data sets, networks
and losses; what a field means is the comment above it or at the end of its line.
"""

import inspect
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence

from configs import base
from unet_jax.core.command_help import FIELDS, command_parser
from unet_jax.core.fields import Field
from unet_jax.core.registry import Registry
from unet_jax.metrics.registry import METRICS
from unet_jax.models.network import NETWORKS
from unet_jax.runs.choices import CHOICES
from unet_jax.runs.options import SELECTORS

PAGE = pathlib.Path(base.__file__).parents[1] / FIELDS
NETWORK_CHOICES = ("model.padding", "model.norm", "model.upsample")  # each network has its own
HEAD = """\
# All config fields: defaults, ranges, meanings

`python -m unet_jax.runs.config_page` writes this page from [configs/base.py](../configs/base.py).

A config of [configs](../configs) is a Python file that starts from these defaults and changes some.
The command line changes further fields, for one run:

```bash
python launch.py --config=configs/isbi.py --config.batch_size=8 --config.optim.learning_rate=3e-4
python launch.py --config=configs/isbi.py --config.data.augment=flip,rotation
```

The types of values are those of the defaults. `()` is an empty tuple, and `""` an empty text. A
field that a config sets to `None`, as [configs/folder.py](../configs/folder.py)`:auto` does, is
chosen from the data before training. The config that a run used, with every choice made, is in its
`config.json`.
"""
TABLE = "| field | default | values | meaning |\n| --- | --- | --- | --- |"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns 0."""
    command_parser("python -m unet_jax.runs.config_page", __doc__).parse_args(arguments)
    PAGE.write_text(page())
    print(PAGE)
    return 0


def page() -> str:
    """Returns the page as Markdown."""
    parts = [HEAD]
    comments = read_comments(pathlib.Path(base.__file__).read_text())
    for section in dict.fromkeys(name.rpartition(".")[0] for name in base.FIELDS):
        fields = {n: f for n, f in base.FIELDS.items() if n.rpartition(".")[0] == section}
        introduction = comments.get(f"{section}.", "")
        parts.append(f"## {f'`{section}`' if section else 'The experiment'}\n")
        parts += [f"{_marked(introduction)}\n"] if introduction else []
        parts.append(f"{_table(fields, comments)}\n")
    parts.append("## Options of one data set, network or loss\n")
    parts.append("A config has these fields only if it selects what they belong to.\n")
    for selected, options, source in _options():
        parts.append(f"### `{selected}`\n\n{_table(options, read_comments(source))}\n")
    names = ", ".join(f"`{name}`" for name in sorted(METRICS))
    parts.append(f"## Metrics of `eval.best` and `eval.tune`\n\n{names}")
    return "\n".join(parts) + "\n"


def read_comments(source: str) -> dict[str, str]:
    """Returns the comments of the fields in a dict of them, by the fields' names.

    A comment is above its field or at the end of its line. Fields of a section that follow it
    without a comment share it: their value is "". What stands above an empty line of a
    comment is that of the section, under its name with a full stop.

    Args:
      source: Python code with entries such as `"model.width": Field(64),  # channels`.
    """
    found: dict[str, str] = {}
    above: list[str] = []
    name, line, heading = "", 0, ""  # the latest field, its line, and a section's comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.start[0] == line:
                found[name] = text
            elif text:
                above.append(text)
            else:
                heading, above = " ".join(above), []
        elif re.match(r'\s*"[\w.]+": Field\(', token.line) and token.start[0] != line:
            line, name = token.start[0], token.line.split('"')[1]
            found[name] = " ".join(above)
            if heading:
                found[f"{name.rpartition('.')[0]}."] = heading
            above, heading = [], ""
        elif token.type not in (tokenize.NL, tokenize.COMMENT) and token.start[0] != line:
            above, heading = [], ""
    return found


def _options() -> Iterator[tuple[str, Mapping[str, Field], str]]:
    """Yields the selector, the options and the source of each entry that has options."""
    for selector, registry in SELECTORS.items():
        for name, entry in sorted(registry.items()):
            if options := getattr(entry, "options", {}):
                code = getattr(entry, "open", getattr(entry, "function", entry))
                path = inspect.getsourcefile(code)
                yield f"{selector}={name}", options, pathlib.Path(str(path)).read_text()


def _table(fields: Mapping[str, Field], comments: Mapping[str, str]) -> str:
    """Returns a table with a row for each comment; fields that share one are in one row."""
    rows: list[list[list[str]]] = []
    for name, field in fields.items():
        cells = [f"`{name}`", f"`{_shown(field.default)}`", _values(name, field)]
        if comments[name] or not rows:
            rows.append([[cell] for cell in (*cells, _marked(comments[name]))])
        else:
            for column, cell in zip(rows[-1], cells, strict=False):
                column.append(cell)
    lines = [" | ".join("<br>".join(column) for column in row) for row in rows]
    return "\n".join([TABLE, *(f"| {line} |" for line in lines)])


def _shown(value: object) -> str:
    return '""' if value == "" else f"{value:.6g}" if isinstance(value, float) else str(value)


def _values(name: str, field: Field) -> str:
    """Returns the values that a field may have."""
    choices = field.choices or CHOICES.get(name, ())
    if name in NETWORK_CHOICES:
        of_each = [network.choices[name.removeprefix("model.")] for network in NETWORKS.values()]
        choices = sorted({str(choice) for each in of_each for choice in each})
    elif name == "loss.name":
        choices = ["auto", *sorted(SELECTORS["loss.name"])]
    elif choices is METRICS:
        return "metrics, see below"
    elif isinstance(choices, Registry):
        choices = sorted(choices)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    several = isinstance(field.default, tuple)
    if field.range:
        return f"{'each in ' if several else ''}{field.range}"
    return "`True`, `False`" if isinstance(field.default, bool) else "texts" if several else "text"


def _marked(comment: str) -> str:
    """Returns a comment as a Markdown sentence: escaped, and with links to the pages it names."""
    text = re.sub(r"[|*<\\]", r"\\\g<0>", comment)
    text = re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", text)
    if re.match(r"[a-z]+ [a-z]", text):  # prose, and neither a value nor a transform's name
        text = text[0].upper() + text[1:]
    return f"{text.removesuffix('.')}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
