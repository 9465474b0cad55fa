"""Numbers name the commit at which they were measured, which a reader must be able to check out."""

import re
import subprocess

import pytest
from pages import PAGES, ROOT, path_of

# Seven hexadecimal digits, with a letter and a digit, so that no number or word is taken for one.
HASH = re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7}\b")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def unknown(text: str, commits: list[str]) -> set[str]:
    known = {commit[:7] for commit in commits}
    return {found for found in HASH.findall(text) if found not in known}


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository").strip() != "false",
    reason="needs the whole history of the repository",
)
def test_the_commits_of_the_results_are_in_the_history():
    commits = git("log", "--format=%H").split()
    missing = {path_of(page): unknown(page.read_text(), commits) for page in PAGES}
    assert not {name: hashes for name, hashes in missing.items() if hashes}


def test_a_commit_outside_the_history_is_found():
    assert unknown("at 1234abc, of 1000000 pixels, defaced", ["1234abd" + "0" * 33]) == {"1234abc"}
    assert not unknown("at 1234abd", ["1234abd" + "0" * 33])
