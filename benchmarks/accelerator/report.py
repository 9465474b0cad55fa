"""The Markdown page of the results."""

from typing import Any

from benchmarks.accelerator.plan import KINDS
from benchmarks.tables import table

NOTES = {
    "speed": "ms: median of the interleaved rounds, with the lowest and the highest. Ratios are "
    "PyTorch's best median over JAX's at the same precision; above 1, JAX is faster. At float32 "
    "both keep their defaults, which on NVIDIA GPUs is TF32 for convolutions.",
    "roofline": "Share: max(operations / peak, bytes / bandwidth) over the measured time. Peaks "
    "are the highest rates of a matrix product and of an array's negation on this device.",
    "input_pipeline": "Images/s: median of consecutive rounds, with the lowest and the highest.",
    "memory": "MiB: what the framework's allocator had in use at most on the device; on a CPU the "
    "process, without what it used after the imports. Compiled: programs of JAX that were not in "
    "its cache; if there are any, the peak may be that of their compilation.",
    "training": "Images/s as the launcher logs them: with the input pipeline, without the first "
    "step.",
}


def page(content: dict[str, Any]) -> str:
    """Returns the results as Markdown: the device, then a section for each kind of part."""
    device, settings = content["device"], content["settings"]
    lines = ["# Measurements on an accelerator", ""]
    if device:
        versions = ", ".join(f"{name} {number}" for name, number in device["versions"].items())
        count = f"{device['devices']} x {device['device']}"
        lines += [f"{count} ({device['platform']}), {device['cores']} cores; {versions}.", ""]
        lines += [f"{device['torch']}.", ""]
    if content["missing_packages"]:
        lines += [f"Packages missing: {', '.join(content['missing_packages'])}.", ""]
    if settings["smoke"]:
        lines += ["**Tiny sizes (`--smoke`): these numbers say nothing of speed.**", ""]
    for kind, title in KINDS.items():
        parts = [part for part in content["parts"] if part["kind"] == kind]
        if parts:
            lines += [f"## {title}", "", NOTES[kind], "", *_section(parts)]
    return "\n".join(lines)


def _section(parts: list[dict[str, Any]]) -> list[str]:
    lines = [f"- {part['name']}: {part['status']}" for part in parts]
    rows = [row for part in parts for row in part["rows"]]
    if rows:
        columns = dict.fromkeys(column for row in rows for column in row)
        filled = [{column: row.get(column) for column in columns} for row in rows]
        lines += ["", table([{k: _cell(v) for k, v in row.items()} for row in filled])]
    for part in parts:
        if part["summary"]:
            values = "; ".join(f"{name}: {_show(x)}" for name, x in part["summary"].items())
            lines += ["", f"{part['name']}: {values}"]
    return [*lines, ""]


def _cell(value: Any) -> Any:
    """Returns a cell's content; numbers from 1000 on are shown without exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if isinstance(value, float) and abs(value) >= 1000 else value


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(x)}" for name, x in value.items())
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
