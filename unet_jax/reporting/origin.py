"""Where a run's initial weights are from, for its report and for comparisons.

Reports have it under `initial`, as `runs.folder.read_initial` returns it. Those of earlier versions
lack it.
"""

from unet_jax.reporting.sections import Part, Record, Table, rows_of

# What became of a module of the network, and how that is called in a table.
STATES = {"taken": "taken", "adapted": "adapted to other channels", "new": "from random weights"}
# Names of the facts about the origin.
FACTS = {
    "parent": {
        "folder": "run",
        "checkpoint": "checkpoint",
        "step": "step",
        "config_digest": "config digest",
        "weights": "hash of its weights",
    },
    "pretrained": {"source": "model.pretrained", "file": "file", "sha256": "SHA-256"},
}


def initial_weights(report: Record) -> list[Part]:
    """Tabulates the origin and what became of each module; empty if all weights were random."""
    origins = _origins(report)
    rows = [
        [label, str(origins[origin][key])]
        for origin, facts in FACTS.items()
        for key, label in facts.items()
        if key in origins.get(origin, {})
    ]
    if not rows:
        return []
    what = "another run" if "parent" in origins else "a file with the weights of an encoder"
    rows += [[f"modules {text}", ", ".join(_modules(report, s))] for s, text in STATES.items()]
    return [
        f"The training began with the weights of {what}.",
        Table(["what", "which"], [row for row in rows if row[1]], of_files=True),
    ]


def summary(report: Record) -> str | None:
    """Describes the origin in a line: the parent with its step, or the weights of an encoder.

    Returns:
      Such as `runs/a, step 40; new: head`, or `random`; None for reports of earlier versions.
    """
    if "initial" not in report:
        return None
    origins = _origins(report)
    if parent := origins.get("parent"):
        text = f"{parent.get('folder', '–')}, step {parent.get('step', '–')}"
    elif pretrained := origins.get("pretrained"):
        text = str(pretrained.get("source", "–"))
    else:
        return "random"
    changed = [(state, _modules(report, state)) for state in ("adapted", "new")]
    return "; ".join([text, *(f"{s}: {', '.join(names)}" for s, names in changed if names)])


def _origins(report: Record) -> dict[str, Record]:
    return rows_of(report, "initial") if isinstance(report.get("initial"), dict) else {}


def _modules(report: Record, state: str) -> list[str]:
    """Returns the names of the modules with this state."""
    modules = _origins(report).get("modules", {})
    return [str(name) for name, found in modules.items() if found == state]
