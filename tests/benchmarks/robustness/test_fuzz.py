"""The fuzzer notices what it is there for, and finds nothing in a short run."""

import json
import random

import pytest
from faulty_readers import VALID

from benchmarks.robustness import fuzz, mutate
from benchmarks.robustness.readers import READERS

EXPECTED = {
    "good": "refused",
    "lenient": "read",
    "raises": "exception",
    "two lines": "message",
    "no line": "message",
    "long line": "message",
    "crashes": "crash",
    "hangs": "hang",
    "devours": "memory",
    "runs out": "exception",
    "misreads": "misread",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Three files of each faulty reader, by reader; and the folder of those that failed."""
    keep = tmp_path_factory.mktemp("keep")
    options = fuzz.Options(seconds=20, mib=100, keep=keep, module="faulty_readers")
    jobs = [(name, i) for name in EXPECTED for i in range(2 if name != "hangs" else 1)]
    found = fuzz.fuzz(jobs, options, processes=2)
    assert sorted((x.reader, x.index) for x in found) == sorted(jobs)
    return found, keep


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_each_kind_of_failure_is_detected(found, name):
    assert {x.outcome for x in found[0] if x.reader == name} == {EXPECTED[name]}


@pytest.mark.slow
def test_files_that_failed_are_kept_as_they_were_read(found):
    found, keep = found
    failed = {f"{x.reader}-{x.index}" for x in found if x.outcome in fuzz.FAILURES}
    kept = {path.name.rpartition("-")[0]: path.read_bytes() for path in keep.iterdir()}
    assert kept.keys() == failed
    assert VALID not in kept.values()


@pytest.mark.slow
def test_a_printed_failure_can_be_reproduced(found):
    about = {x.reader: x.about for x in found[0]}
    assert "ValueError('two\\nlines')" in about["raises"].replace("\n", "\\n")
    assert "faulty_readers.py" in about["raises"]
    assert about["crashes"] == "exit code -11"
    assert "20 s" in about["hangs"]
    assert 200 <= float(about["devours"].split()[0]) < 300
    assert about["misreads"] == "damage is not detected"


@pytest.mark.slow
def test_the_table_counts_outcomes(found):
    lines = fuzz.table(found[0]).splitlines()
    heads = [cell.strip() for cell in lines[0].split("|")]
    rows = {line.split("|")[1].strip(): [x.strip() for x in line.split("|")] for line in lines[2:]}
    for name, outcome in EXPECTED.items():
        row = dict(zip(heads, rows[name], strict=True))
        assert row[outcome] == row["files"]
    everything = dict(zip(heads, rows["all"], strict=True))
    assert (
        int(everything["files"]) == len(found[0]) == sum(int(everything[o]) for o in fuzz.OUTCOMES)
    )


@pytest.mark.slow
def test_valid_files_that_are_not_read_are_a_fault_of_the_fuzzer():
    with pytest.raises(SystemExit, match="unready: the valid files are not read"):
        fuzz.fuzz([("unready", 0)], fuzz.Options(module="faulty_readers"), processes=1)


@pytest.mark.parametrize("mutation", mutate.TEXT, ids=lambda x: x.__name__)
def test_mutations_change_files_of_any_length_and_repeat(mutation):
    for size in (0, 1, 2, 17, 300):
        content, other = bytes(i % 251 for i in range(size)), b"other\nlines\n" * 9
        made = [mutation(content, other, random.Random(seed)) for seed in range(60)]
        assert made == [mutation(content, other, random.Random(seed)) for seed in range(60)]
        assert size < 17 or len(set(made) - {content}) > 12


@pytest.mark.parametrize("name", [n for n, r in READERS.items() if n in ("png", "tiff", "jpeg")])
def test_mutations_that_know_a_format_apply_to_every_sample(tmp_path, name):
    READERS[name].make(tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        mutation = getattr(mutate, name)
        made = {mutation(content, content, random.Random(seed)) for seed in range(40)}
        assert len(made) > 15


def test_json_stays_json():
    content = b'{"a": {"b": [1, 2.5, null]}, "c": "x"}\n'
    made = {mutate.tree(content, b"", random.Random(seed)) for seed in range(200)}
    assert len(made) > 50
    lines = {mutate.tree(content * 3, b"", random.Random(seed)) for seed in range(200)}
    assert len(lines) > 50
    for one in [*made, *(line for text in lines for line in text.splitlines())]:
        json.loads(one)
    assert all(text.count(b"\n") == 3 for text in lines)


@pytest.mark.slow
def test_a_short_run_finds_nothing(tmp_path, capsys):
    arguments = ["--files=72", "--seed=1", f"--out={tmp_path / 'o.json'}", "--seconds=60"]
    assert fuzz.main([*arguments, f"--keep={tmp_path / 'keep'}"]) == 0, capsys.readouterr().out
    table = capsys.readouterr().out
    assert all(f"| {name} | 4 |" in table for name in READERS)
    assert not (tmp_path / "keep").exists()


def test_a_failure_is_named_with_the_command_that_repeats_it(monkeypatch, capsys):
    monkeypatch.setattr(fuzz.Options, "module", "faulty_readers")
    monkeypatch.setattr(
        fuzz.Options.__init__, "__defaults__", (0, 10, 1024, None, "faulty_readers")
    )
    arguments = ["--readers=raises,good", "--first=7", "--files=2", "--seed=5"]
    assert fuzz.main(arguments) == 1
    out = capsys.readouterr().out
    assert "exception: --seed=5 --readers=raises --first=7: ValueError" in out
    assert fuzz.main(["--readers=good", "--files=1"]) == 0
    with pytest.raises(SystemExit):
        fuzz.main(["--readers=bad"])
