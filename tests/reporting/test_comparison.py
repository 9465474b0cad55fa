"""Tests of runs side by side: python -m unet_jax.report RUN RUN."""

import copy
import json
import re

import pytest
from made_reports import make_history, make_report, statistics

from configs import base
from unet_jax.reporting.comparison import read_runs, render
from unet_jax.reporting.report import main

pytestmark = pytest.mark.usefixtures("no_pictures")

EVIL = "<script>document.title='broken'</script>"


def make_run(folder, dice=0.9, loss=0.2, history=None, **fields):
    """A finished run's folder, with a config of these fields instead of `base.py`'s."""
    folder.mkdir(parents=True)
    report = copy.deepcopy(make_report())
    report["aggregate"]["dice"] = statistics(dice)
    report["aggregate"]["loss"] = statistics(loss)
    report["per_image"]["slice-03"]["dice"] = dice
    (folder / "report.json").write_text(json.dumps(report))
    config = base.get_config()
    config.update_from_flattened_dict(fields)
    (folder / "config.json").write_text(json.dumps({"config": config.to_dict()}))
    history = make_history() if history is None else history
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in history))
    return folder


def change(folder, **values):
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def page_of(*folders, place=None) -> str:
    return render(read_runs(folders), place or folders[0].parent)


def part(page: str, heading: str) -> str:
    return page.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]


def rows(page: str, heading: str) -> list[list[str]]:
    """The texts of a section's table, its heads first."""
    table = part(page, heading).split("</table>")[0]
    texts = (re.findall(r">([^<>]+)<", row) for row in re.findall(r"<tr>(.*?)</tr>", table))
    return [[text for text in row if " – " not in text] for row in texts]


def test_the_best_of_each_metric_is_marked(tmp_path):
    runs = [make_run(tmp_path / name, *v) for name, v in {"a": (0.9, 0.2), "b": (0.8, 0.1)}.items()]
    page = page_of(*runs)
    assert rows(page, "Scores") == [
        ["run", "Dice", "loss", "IoU", "pixel accuracy"],
        ["a", "★ 0.9000", "0.2000", "★ 0.8700", "★ 0.9000"],
        ["b", "0.8000", "★ 0.1000", "★ 0.8700", "★ 0.9000"],
    ]
    assert "★ 0.9000<small>0.8000 – 0.9500</small>" in page
    assert "<h1>2 runs side by side</h1>" in page and "Note" not in page


def test_one_run_is_shown_without_a_best(tmp_path):
    page = page_of(make_run(tmp_path / "a"))
    assert "★ 0" not in page and "<h1>a</h1>" in page and "Fields that differ" not in page


def test_only_fields_that_differ_are_listed(tmp_path):
    a = make_run(tmp_path / "a", **{"model.width": 17, "seed": 1})
    b = make_run(tmp_path / "b", **{"model.width": 18, "seed": 1})
    older = json.loads((b / "config.json").read_text())
    del older["config"]["optim"]  # as base.py says
    (b / "config.json").write_text(json.dumps(older))
    assert rows(page_of(a, b), "Fields that differ") == [
        ["field", "a", "b"],
        ["model.width", "17", "18"],
    ]
    assert "The runs have one config." in page_of(
        a, make_run(tmp_path / "c", **{"model.width": 17, "seed": 1})
    )
    (a / "config.json").unlink()
    assert ["model.width", "–", "18"] in rows(page_of(a, b), "Fields that differ")


def test_the_same_images_stand_side_by_side(tmp_path):
    a, b = make_run(tmp_path / "a", 0.9), make_run(tmp_path / "b", 0.75)
    change(b, per_image={"slice-03": {"dice": 0.75}, "other": {"dice": None}})
    page = page_of(a, b)
    assert rows(page, "Scores per image") == [
        ["Dice of", "a", "b", "max - min"],
        ["other", "–", "–", "–"],
        ["slice-03", "0.9000", "0.7500", "0.1500"],
        ["slice-11", "0.9200", "–", "–"],
    ]
    assert "scored on different images, and their means do not compare" in page


def test_what_does_not_compare_is_said(tmp_path):
    a = make_run(tmp_path / "a", loss=0.2)
    b = make_run(tmp_path / "b", loss=0.1, **{"loss.name": "dice"})
    page = page_of(a, b)
    assert "minimise different losses" in page and "★ 0.1000" not in page and "0.1000" in page
    assert "different settings" not in page
    assert "different classes" not in page and "different images" not in page
    change(b, classes=["cell", "membrane"])
    assert "segment different classes" in page_of(a, b)


def test_metrics_of_different_settings_do_not_compare_and_it_is_said(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b", "old")]
    for run, tolerance, value in zip(runs, (2.0, 3.0), (0.5, 0.75), strict=False):
        aggregate = json.loads((run / "report.json").read_text())["aggregate"]
        scored = aggregate | {"nsd": statistics(value)}
        change(run, aggregate=scored, settings={"nsd_pixels": [tolerance]})
    page = page_of(*runs)
    assert "the runs have different settings of NSD, and these do not compare" in page
    assert "0.7500" in page and "★ 0.7500" not in page
    assert "different settings" not in page_of(runs[0], runs[2])


def test_many_classes_are_ranked_by_the_pooled_iou(tmp_path):
    runs = []
    for name, mean, pooled in (("a", 0.5, 0.7), ("b", 0.6, 0.4)):
        runs.append(make_run(tmp_path / name))
        iou = statistics(mean) | {"pooled": pooled}
        change(runs[-1], classes=list("xyz"), aggregate={"mean_iou": iou})
    page = page_of(*runs)
    assert rows(page, "Scores") == [["run", "mean IoU, pooled"], ["a", "★ 0.7000"], ["b", "0.4000"]]
    assert rows(page, "Scores per image")[0][0] == "mean IoU of"


def test_each_quantity_has_a_chart_with_a_line_for_each_run(real_pictures, tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b"),
        make_run(tmp_path / "c", history=[]),
    ]
    curves = part(page_of(*runs), "Learning curves")
    titles = re.findall("<figcaption>([^<]*) <", curves)
    assert titles == ["Training loss", "Validation loss", "Validation: Dice", "Validation: IoU"]
    assert len(set(re.findall(r'data-label="([abc]): ', curves))) == 2
    assert re.findall(r"</i> (.*?)</li>", curves) == ["a", "b", "c"]
    assert "Learning curves" not in page_of(runs[2])


def test_names_are_of_folders_or_whole_paths_and_link_to_pages(tmp_path):
    a, b = make_run(tmp_path / "x" / "run 1"), make_run(tmp_path / "y" / "run 1")
    assert [run.name for run in read_runs([a, b])] == [str(a), str(b)]
    assert [run.name for run in read_runs([a])] == ["run 1"]
    (a / "report.html").write_text("")
    page = page_of(a, place=tmp_path / "y")
    assert '<a href="../x/run%201/report.html">run 1</a>' in page
    assert "<a" not in page_of(b)


def test_each_run_is_compared_with_the_first_image_by_image(tmp_path, capsys):
    runs = [
        make_run(tmp_path / name, dice) for name, dice in zip("abc", (0.5, 0.6, 0.4), strict=True)
    ]
    change(runs[1], threshold=0.7)
    page = page_of(*runs)
    section = part(page, "Paired comparison")
    titles = re.findall("<p><strong>(.*?)</strong></p>", section)
    assert titles == ["b minus a, 2 images, thresholds 0.7 and 0.5", "c minus a, 2 images"]
    assert "<td>+0.0500</td>" in section and "<td>-0.0500</td>" in section
    assert "Sign test</strong>: the two-sided probability" in section
    change(runs[1], per_image={"other": {"dice": 1.0}})
    section = part(page_of(*runs[:2]), "Paired comparison")
    assert "Not compared image by image: the runs are scored on different images" in section
    assert "Sign test" not in section
    assert main([*map(str, runs), f"--output={tmp_path / 'x.html'}"]) == 0
    assert "b minus a\nNot compared image by image: " in capsys.readouterr().out
    assert "Paired comparison" not in page_of(runs[0])


def test_losses_that_differ_are_not_compared_image_by_image(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", **{"loss.name": "dice"})
    assert '<th scope="row">loss</th>' not in part(page_of(a, b), "Paired comparison")
    same = make_run(tmp_path / "c")
    assert '<th scope="row">loss</th>' in part(page_of(a, same), "Paired comparison")


def test_confidence_intervals_stand_below_the_means(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", dice=0.8)
    aggregate = {"dice": statistics(0.9) | {"interval": [0.85, 0.91]}}
    change(a, aggregate=aggregate)
    change(b, aggregate={"dice": statistics(0.8) | {"interval": None}})
    page = page_of(a, b)
    assert "★ 0.9000<small>[0.8500, 0.9100]</small>" in page
    assert "0.8000<small>0.7000 – 0.8500</small>" in page


def test_facts_of_the_runs_stand_side_by_side(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    change(b, step=7, versions={"torch": "2.13"})
    facts = {name: values for name, *values in rows(page_of(a, b), "Provenance")}
    assert facts["images"] == ["2", "2"] and facts["step"] == ["48", "7"]
    assert facts["jax"] == ["0.10.2", "–"] and facts["torch"] == ["–", "2.13"]
    assert facts["parameters"] == ["1,942,481"] * 2


def test_the_command_writes_one_page_and_leaves_the_runs_alone(tmp_path, capsys):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    output = tmp_path / "compare.html"
    assert main([str(a), str(b), f"--output={output}"]) == 0
    first, _, title, *table = capsys.readouterr().out.splitlines()
    assert first == f"{output}: 2 runs"
    assert title == "b minus a, 2 images"
    heads = ["metric", "difference", "95 % CI", "better", "worse", "equal", "sign test"]
    assert re.split(" {2,}", table[0]) == heads
    assert table[2] == "Dice       +0.0000  [+0.0000, +0.0000]       0      0      2          –"
    assert output.read_text() == page_of(a, b)
    output.unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_errors_of_use_are_one_line(tmp_path, capsys):
    a, empty, odd = make_run(tmp_path / "a"), tmp_path / "empty", tmp_path / "odd"
    empty.mkdir(), odd.mkdir()
    (odd / "report.json").write_text("[]")
    cut = make_run(tmp_path / "cut")
    (cut / "report.json").write_text('{"name"')
    strange = make_run(tmp_path / "strange")
    (strange / "config.json").write_text("[]")
    cases = {
        (strange,): "strange/config.json: is not the config of a run",
        (empty,): f"{empty}: no report.json there; give .*--mode=eval --workdir={empty}",
        (a, tmp_path / "none"): "none: no report.json there",
        (a, odd): "odd/report.json: is not the report of a run",
        (cut,): "cut/report.json: cannot be read as JSON",
        (a, a / ".." / "a"): "given twice",
        (a, f"--output={tmp_path / 'no' / 'x.html'}"): "--output=.*x.html: cannot be written",
        (a, f"--output={tmp_path}"): "--output=.*: cannot be written",
    }
    for arguments, message in cases.items():
        assert main([*map(str, arguments)]) == 2
        output, error = capsys.readouterr()
        assert not output and error.count("\n") == 1 and re.search(message, error), error
    with pytest.raises(SystemExit, match="2"):
        main([])


@pytest.mark.slow
def test_a_browser_shows_it_whole_and_sorts_it(real_pictures, browser, tmp_path):
    runs = [make_run(tmp_path / f"{EVIL.replace('/', '-')}-{i}", 0.5 + i / 20) for i in range(9)]
    change(runs[0], name=EVIL, device=EVIL, versions={EVIL: EVIL})
    change(runs[1], per_image={EVIL: {"dice": 1.0}} | {f"x{i}": {"dice": i / 9} for i in range(9)})
    change(runs[2], aggregate={EVIL: statistics(0.5)})
    path = tmp_path / "compare.html"
    path.write_text(page_of(*runs))
    for width in (360, 1280):
        browser.open(path, width)
        assert browser.complaints() == [] and len(browser.requests()) == 1
        assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        assert browser.evaluate("document.title") == "9 runs side by side"
    scores = "[...document.querySelectorAll('#scores tbody tr')].map(r => r.cells[1].innerText)"
    for sign in (1, -1):
        browser.evaluate("document.querySelectorAll('#scores th button')[1].click()")
        *sorted_scores, last = browser.evaluate(scores)
        numbers = [float(re.search(r"0\.\d+", text)[0]) for text in sorted_scores]
        assert numbers == sorted(numbers)[::sign] and len(numbers) == 8 and last == "–"
