"""Names that look like mathematics, markup or HTML, in all that shows them."""

import html.parser
import io
import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from launch_without_pictures import leave_out_pictures
from made_data import make_split
from made_reports import make_history, make_overlay, make_probabilistic, make_report, make_trivial
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unet_jax.core.names import as_code, in_figure, in_markdown, printable
from unet_jax.data.dataset import Dataset
from unet_jax.evaluation import inspection
from unet_jax.reporting import sweep
from unet_jax.reporting.html.page import prose
from unet_jax.reporting.overlays import Overlay
from unet_jax.reporting.report import write_report
from unet_jax.runs.log import Writer
from unet_jax.runs.progress import PixelProgress
from unet_jax.runs.tensorboard import summary

fast = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
MARKS = [
    "back$\\frac{$ground",
    "$",
    "land [/coast]",
    "[red]",
    ":cat:",
    "<img src=x>",
    "&lt;b&gt;",
    "a|b\\",
    "`",
    "**",
    "_x_",
    "__init__",
    "x_y",
    "![](http://x)",
    "a\nb",
    "\x1b[31m",
    "\x00",
    "# - 1.",
    "~~a~~",
    "\ud8ff",
]
names = (
    st.sampled_from(MARKS) | st.text(max_size=30) | st.lists(st.sampled_from(MARKS)).map("".join)
)
markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Reader(html.parser.HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append(name)

    def handle_data(self, data):
        self.text += data


def words(text: str) -> str:
    """Without the white space that Markdown does not keep."""
    return " ".join(printable(text).split())


@fast
@hypothesis.given(names)
def test_any_name_is_itself_in_markdown(name):
    for source, tags in (
        (f"# Of {in_markdown(name)} and", ["h1"]),
        (f"Of **{in_markdown(name)}** and", ["p", "strong"] if words(name) else ["p"]),
        (f"- of {in_markdown(name)} and", ["ul", "li"]),
    ):
        seen = Reader(markdown.render(source))
        assert seen.tags == tags or not words(name)
        assert words(name) in words(seen.text)
    shown = Reader(prose(f"Of {in_markdown(name)} and"))
    assert shown.tags == ["p"] and shown.text == f"Of {printable(name).strip()} and"


@fast
@hypothesis.given(names, names)
def test_any_name_stays_in_one_table_cell(name, file):
    row = f"| {as_code(file).replace('|', chr(92) + '|')} | {in_markdown(name)} | 7 |"
    seen = Reader(markdown.render(f"| a | b | c |\n| --- | --- | --- |\n{row}\n"))
    assert [tag for tag in seen.tags if tag != "code"] == [
        *("table", "thead", "tr", "th", "th", "th"),
        *("tbody", "tr", "td", "td", "td"),
    ]
    assert words(seen.text) == words(f"a b c {file} {name} 7")


@fast
@hypothesis.given(names)
def test_no_name_is_mathematics(name):
    text = Figure().text(0, 0, in_figure(name, 1000))
    assert text._preprocess_math(text.get_text()) == (printable(name), False)
    assert len(in_figure("y" * 200, 90)) == 90


def write_named(folder: pathlib.Path, name: str, other: str, many: bool) -> None:
    """Writes a report in which everything that has a name has one of these, and reads it."""
    classes = [name, f"{other}.", *([f"{name}?"] if many else [])]
    report = make_probabilistic(make_report()) | {"trivial": make_trivial(), "name": name}
    report |= {"classes": classes, "notes": [f"no pixel of {name}"], "split": other}
    report["trivial"]["prediction"] = f"all {name}"
    report["trivial"]["per_class"] = {name: {"dice": 0.1}}
    report["per_class"] = {each: {"dice": 0.5, "iou": 0.4} for each in classes}
    report["per_image"] = {name: {"dice": 0.5}, f"{other}!": {"dice": 0.6}}
    overlay = make_overlay()
    overlay = Overlay(name, f"best: {name}", overlay.image, overlay.label, overlay.prediction)
    write_report(folder, report, make_history(), [overlay])
    assert json.loads((folder / "report.json").read_text()) == report
    assert {path.name for path in folder.rglob("*.*")} == {
        *("report.json", "report.md", "report.html", "report-curves.png"),
        *("report-overlays.png", "report-calibration.png"),
    }
    known = "h1 h2 p ul ol li strong code table thead tbody tr th td img".split()
    page = Reader(markdown.render((folder / "report.md").read_text()))
    assert {*page.tags} <= {*known} and page.tags.count("img") == 3
    assert words(name) in words(page.text)


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(name=names, other=names, many=st.booleans())
def test_a_report_accepts_any_names(tmp_path_factory, name, other, many):
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        write_named(tmp_path_factory.mktemp("run"), name, other, many)


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has not all of them
@pytest.mark.parametrize(
    ("name", "other"),
    [(MARKS[0], "land [/coast]"), pytest.param(MARKS[5], "\ud8ff", marks=pytest.mark.slow)],
)
def test_the_figures_of_a_report_show_any_names(tmp_path, name, other):
    write_named(tmp_path, name, other, many=False)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", MARKS[:-1])
def test_an_inspection_shows_any_names(config, tmp_path, capsys, name):
    split = make_split(2, 16, seed=0)
    named = Dataset(
        splits={"train": split, name or "x": split, "test": split},
        classes=("other", name),
        channels=1,
        sha256={},
    )
    content = inspection.describe_split(split, named)
    inspection._print(
        {
            "classes": list(named.classes),
            "splits": {"train": content, name: content},
            "network_input": {},
            "weights": {"min": 1, "mean": 2, "max": 3, "class_balance": {name: 1.0, "other": 2.0}},
            "most_alike": [{"correlation": 0.97, "train": name, name: "image-1"}],
        }
    )
    out = capsys.readouterr().out
    assert words(f"share of {name}") in words(out)
    assert words(f"balance: {name} 1") in words(out) and "near-duplicates!" in out
    assert "\x1b" not in out


def test_an_inspection_whose_figure_fails_keeps_its_numbers(
    config, dataset, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(inspection.charts, "png", lambda _: 1 / 0)
    content = inspection.inspect(config, dataset, tmp_path / "run")
    assert json.loads((tmp_path / "run/inspection.json").read_text()) == content
    assert "inspection.png: could not be made (ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("name", MARKS)
def test_a_progress_bar_shows_any_file_name(name, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(out, "isatty", lambda: True)
    progress = PixelProgress(100)
    progress.advance(7, name)
    assert progress._bar is not None
    progress._bar.refresh()
    progress.close()
    assert "Mpixel/s" in out.getvalue()
    monkeypatch.undo()


@pytest.mark.parametrize("name", MARKS)
def test_tensorboard_takes_any_names(name, tmp_path):
    writer = Writer(tmp_path, 0)
    writer.describe({"data.root": name, "name": name})
    writer.write(1, 1.0, "validation", {f"iou/{name}": 0.5})
    writer.show(1, f"validation/{name}", np.zeros((4, 4, 3), np.uint8))
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)[f"iou/{name}"] == 0.5
    assert summary is not None


def test_a_sweep_draws_any_config_s_name(tmp_path):
    rows = [{"name": MARKS[0], "config": "c", "runs": [{}], "metrics": {"iou": [0.5]}}]
    rows[0] |= {"intervals": {"iou": [0.4, 0.6]}, "initial": [MARKS[0]]}
    figure = sweep.plot(rows)
    FigureCanvasAgg(figure).draw()
    sweep.write_table(tmp_path, rows, ["<b>"])
    page = Reader(markdown.render((tmp_path / "sweep.md").read_text()))
    assert MARKS[0] in page.text and "<b>.log" in page.text and "b" not in page.tags
