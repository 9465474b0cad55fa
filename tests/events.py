"""What the TensorBoard events in a folder show, read record by record."""

import collections
import pathlib
import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData


def read(folder: pathlib.Path) -> dict:
    """Steps of scalars and images by tag; tags of texts; hyperparameters and their metrics."""
    shown = {
        "scalars": collections.defaultdict(list),
        "images": collections.defaultdict(list),
        "texts": set(),
        "hyperparameters": {},
        "metrics": set(),
    }
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16  # length, its checksum, the record, its checksum
            for value in event.summary.value:
                _note(shown, event.step, value)
    return shown


def _note(shown: dict, step: int, value) -> None:
    plugin = value.metadata.plugin_data
    if plugin.plugin_name == "hparams":
        content = HParamsPluginData.FromString(plugin.content)
        shown["metrics"] |= {info.name.tag for info in content.experiment.metric_infos}
        for name, field in content.session_start_info.hparams.items():
            kind = field.WhichOneof("kind")
            shown["hyperparameters"][name] = getattr(field, kind)
    elif plugin.plugin_name == "text":
        shown["texts"].add(value.tag.removesuffix("/text_summary"))
    elif value.HasField("image"):
        shown["images"][value.tag].append(step)
    elif value.HasField("simple_value"):
        shown["scalars"][value.tag].append(step)
