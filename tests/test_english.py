"""Code and pages use the words of the field, and none that only the authors would understand."""

import pathlib
import re

import pytest
from pages import PAGES

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("unet_jax", "configs", "benchmarks")

# Regular expression, better wording, and a text that it must find, in any letter case. A space
# also matches the end of a line, within a comment or between the parts of a string.
WORDS = [
    (r"\b(goes|go|went|going) on\b", "resumes; continues", "the same command goes on"),
    (
        r"\bthe same command (again|resumes|makes|now)\b",
        "rerunning the command",
        "the same command again",
    ),
    (r"\bunbroken\b", "uninterrupted", "an unbroken run"),
    (r"\bmend(s|ed|ing)?\b", "fix", "mend or remove it"),
    (r"\bby heart\b", "overfits", "learns five pictures by heart"),
    (
        r"\b(mean|average)s? of (the|its) (weights|variables)\b",
        "EMA of the weights",
        "the mean of the weights",
    ),
    (
        r"\bsymmetries (that|which) (training|a run) (drew|has|draws)\b",
        "training symmetries",
        "symmetries that training drew",
    ),
    (r"\b(said|say|says) aloud\b", "logs a warning; reports", "it is said aloud"),
    (r"\btell(s|ing)? of\b|\btold of\b", "reports", "tells of a damaged file"),
    (r"\blearned\(", "name what it returns, such as training_symmetries", "learned(config)"),
    (r"\bof another version\b", "written by an incompatible version", "it is of another version"),
    (r"\bnot all of its\b", "is truncated; lacks some", "it has not all of its pixels"),
    (
        r"\bunless more are (said|given|named)\b",
        "unless stated otherwise",
        "one seed, unless more are said",
    ),
    (r"\bthe mean of several\b", "ensemble", "predicts the mean of several"),
    (r"\bhangs on\b", "is dominated by; depends on", "the mean hangs on slice 24"),
    (r"\bwhere up is\b", "trained on rotated images", "does not know where up is"),
    (r"\blook(ed)? into\b", "investigate", "why was not looked into"),
    (r"\b(CPU|GPU|TPU)s? likes?\b", "is optimised for", "as a CPU likes it"),
    (r"\bknows? of (devices|hosts|files)\b", "handles", "every line that knows of devices"),
    (r"\b0 has none\b", "0 disables it", "of the EMA; 0 has none"),
    (r"\bthat class \d parts\b|\bwhat parts them\b", "separated by", "cells that class 0 parts"),
    (r"\bdeep \(of\b|\b_?is_deep\b", "is_16bit", "_is_deep(image)"),
    (r"\bmake room\b", "free disk space", "make room, and rerun"),
    (r"\bbring (it|them|the \w+|the run's own) back\b", "restore it", "bring it back"),
    (r"\bfetch or write\b", "download or save", "fetch or write it again"),
    (r"\bis no (record|report)\b", "is not a record (report) of", "this is no record of a run"),
    (r"\b(told|tell|tells) apart\b", "distinguished", "told apart by their names"),
    (r"\bthe one before is taken\b", "using the previous one", "and the one before is taken"),
    (r"\b(own|last) (lines|words)\b", "see its output", "its own lines say more"),
    (r"\b(did not come|had come|have (all )?come)\b", "connected", "process 1 did not come"),
    (r"\bone a (file|class|line)\b", "one per", "expected one a file"),
    (r"\b(bits|bytes|samples|colours) a (pixel|channel)\b", "per pixel", "16 bits a channel"),
    (r"\bmade (otherwise|differently)\b", "differ in", "they are made otherwise"),
    # Names in code: a name says what it holds.
    (
        r"\b(its|said|told|way|asked|together)\b\s*"
        r"(=[^=]|:\s*(str|int|float|bool|dict|list|tuple|pathlib)\b|,\s*\w+ = )",
        "name what it holds",
        "said = str(error)",
    ),
    (r"\bits\b\s*[.\[]\s*\w+[\](.=]", "name the object", "its.predict(image)"),
    (r"\bgoes_on\b|\bwent_on\w*\b", "resumed", "goes_on = ''"),
    (
        r"\bdef (_?said|_?told|_?asked|learned|together|naming|heeded|one|member)\b",
        "name what it returns",
        "def said(run):",
    ),
    (
        r"\b(heeded|make_lasting|naming)\(",
        "stop_signals, make_streams_robust, set_error_filename",
        "with naming(path):",
    ),
]
SPACE = r"""(?:[ ]+|[ ]*["']?[ ]*\n[ ]*(?:\#[ ]*|[rf]{0,2}["'])?)"""


def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", SPACE), re.IGNORECASE)


@pytest.mark.parametrize(("pattern", "better", "example"), WORDS)
def test_each_pattern_finds_its_example(pattern, better, example):
    assert compiled(pattern).search(example)
    assert not compiled(pattern).search(better)


@pytest.mark.parametrize(
    "text",
    [
        'say("rerun it: the same command goes "\n    f"on from step {step}")',
        "# The same command goes\n    # on.",
        '"""Says that the same command goes\n    on."""',
    ],
)
def test_words_are_found_across_lines(text):
    assert compiled(WORDS[0][0]).search(text)


@pytest.mark.parametrize(
    "text",
    [
        "the run resumes from step 8",
        "its size, in pixels",
        "resized together with its label",
        "stored as told by the header",
        "a value recommended by the authors",
        "it was saved by an earlier version",
        "a = b if way else c",
    ],
)
def test_plain_sentences_pass(text):
    assert not [pattern for pattern, _, _ in WORDS if compiled(pattern).search(text)]


def python_files() -> list[pathlib.Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted([*files, ROOT / "launch.py"])


def test_code_and_pages_are_written_in_plain_english():
    patterns = [(compiled(pattern), better) for pattern, better, _ in WORDS]
    found = []
    for path in [*python_files(), *PAGES]:
        text = path.read_text()
        for pattern, better in patterns:
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}: write {better!r}")
    assert not found, "words that only insiders understand:\n" + "\n".join(found)
