"""What is wrong with a command line or its config is one line that names it."""

import os
import sys

import pytest
from absl import flags
from ml_collections import config_flags

import launch
from unet_jax.core.errors import UserError
from unet_jax.runs.commandline import check_mode, load_config, parse, require
from unet_jax.runs.experiment import check

# ml_collections loads configs in a way that Python calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
DEMO = "--config=configs/demo.py"


def parsed(*arguments: str, modes_of_runs=()) -> flags.FlagValues:
    values, argv = flags.FlagValues(), ["launch.py", *arguments]
    sys.modules.pop("config_config", None)  # a second config would be loaded into the first's
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("mode", "train", "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_string("input", None, "", flag_values=values)
    flags.DEFINE_integer("tile", 1, "", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("tta", False, "", flag_values=values)
    flags.DEFINE_multi_string("ensemble", [], "", flag_values=values)
    parse(values, argv, modes_of_runs)
    return values


def refused(*arguments: str, **options) -> str:
    with pytest.raises(UserError) as error:
        parsed(*arguments, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_flags_and_overrides_are_read():
    overrides = ("--config.seed", "3", "--noconfig.data.download", "--config.data.split=(1, 2, 3)")
    values = parsed(DEMO, *overrides, "--tta", "--ensemble=a", "--ensemble=b")
    assert (values.config.seed, values.config.data.download) == (3, False)
    assert values.config.data.split == (1, 2, 3)
    assert (values.tta, values.ensemble) == (True, ["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input=a", "--input=b"), "--input is given 2 times"),
        (("--input=a", "--input", "a"), "--input is given 2 times"),
        (("--tta", "--notta"), "--tta is given 2 times"),
        (("--tile=3", "--tile=3"), "--tile is given 2 times"),
        ((DEMO, DEMO), "--config is given 2 times"),
        ((DEMO, "--config", "configs/isbi.py"), "--config is given 2 times"),
        ((DEMO, "--config.seed=1", "--config.seed=2"), "--config.seed is given 2 times"),
        ((DEMO, "--config.seed=1", "-config.seed", "2"), "--config.seed is given 2 times"),
        ((DEMO, "--config.data.download", "--noconfig.data.download"), "download is given 2 times"),
        ((DEMO, "--config.data.split=1", "--config.data.split=2"), "data.split is given 2 times"),
    ],
)
def test_a_flag_is_given_once(arguments, said):
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("--config.lr=1", ("--config.lr: no such field", "optim.learning_rate")),
        ("--config.optim.lr=1", ("--config.optim.lr: no such field", "optim.learning_rate")),
        ("--config.data=x", ("--config.data: ", "section", "data.name")),
        ("--config.data.split[0]=3", ("no such field", "data.split")),
        ("--config.=3", ("no such field",)),
        (f"--config.{'x' * 10_000}=3", ("no such field",)),
        ("--config.batch_size=abc", ("--config.batch_size=abc: must be a whole number in [1,",)),
        ("--config.batch_size=1.5", ("--config.batch_size=1.5: must be a whole number",)),
        (f"--config.seed={'9' * 5000}", ("--config.seed=999", "whole number")),
        ("--config.optim.momentum=a:b", ("--config.optim.momentum=a:b: must be a number",)),
        ("--config.data.download=perhaps", ("--config.data.download=perhaps: must be True",)),
        ("--config.data.split=(1,", ("--config.data.split=(1,: must be a tuple",)),
        ("--config.data.augment=" + "(" * 9999, ("--config.data.augment=((", "must be a tuple")),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else None,
)
def test_an_override_that_is_none_names_the_field(override, parts):
    said = refused(DEMO, override)
    for part in parts:
        assert part in said


def test_an_option_of_the_config_s_data_set_is_overridden():
    values = parsed("--config=configs/voc.py", "--config.data.train_list=trainaug")
    assert values.config.data.train_list == "trainaug"
    assert "no such field; did you mean data.train_list" in refused(
        "--config=configs/voc.py", "--config.data.trainlist=trainaug", "--config.data.train_list=x"
    )


def test_options_of_what_the_command_line_selects_can_be_given_with_any_config():
    network = ("--config.model.name=smp_unet", "--config.model.encoder=resnet18")
    config = parsed(DEMO, *network).config
    assert (config.model.encoder, config.model.name) == ("resnet18", "smp_unet")
    check(config)
    with pytest.raises(UserError, match=r"data\.train_list: an option of data\.name=folder and"):
        check(parsed(DEMO, "--config.data.train_list=trainaug").config)


def test_an_override_of_an_option_of_another_type_names_the_type(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(BASE + "    config.data.heights = (1.5, 2.0)\n    config.data.rows = 3\n")
    with path.open("a") as file:
        file.write("    return config\n")
    values = parsed(f"--config={path}", "--config.data.heights=(1.0,)", "--config.data.rows=4")
    assert (values.config.data.heights, values.config.data.rows) == ((1.0,), 4)
    said = refused(f"--config={path}", "--config.data.heights=(1.0,")
    assert "--config.data.heights=(1.0,: must be a tuple" in said
    said = refused(f"--config={path}", "--config.data.rows=many")
    assert "--config.data.rows=many: must be a whole number" in said


def test_an_override_needs_a_config():
    assert refused("--config.seed=1").startswith("--config.seed: there is no config to change")
    said = refused("--config.seed=1", "--mode=eval", modes_of_runs=["eval"])
    assert "add --config=PATH, or --workdir=RUN to change that of a run" in said
    said = refused("--config.seed=1", "--workdir=a", modes_of_runs=["eval"])
    assert said.endswith("add --config=PATH")


def test_without_a_config_overrides_change_that_of_the_run():
    run = ("--mode=eval", "--workdir=a")
    names = ("eval.threshold=0.3", "data.object_border=2", "eval.nsd_pixels=2,3")
    overrides = [f"--config.{name}" for name in names]
    assert parsed(*run, *overrides, modes_of_runs=["eval"]).config == {
        "eval.threshold": 0.3,
        "data.object_border": 2,
        "eval.nsd_pixels": (2, 3),
    }
    assert parsed(*run, modes_of_runs=["eval"]).config is None
    said = refused(*run, "--config.data.objct_border=2", modes_of_runs=["eval"])
    assert said.endswith("no such field; did you mean data.object_border?")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("default,boundary", ("default", "boundary")),
        ("default, boundary,", ("default", "boundary")),
        ("(default,boundary)", ("default", "boundary")),
        ("[boundary]", ("boundary",)),
        ("boundary", ("boundary",)),
        ("('boundary',)", ("boundary",)),
        ("()", ()),
    ],
)
def test_the_texts_of_a_tuple_need_no_quotes(value, expected):
    config = parsed(DEMO, f"--config.eval.metrics={value}").config
    assert config.eval.metrics == expected


@pytest.mark.parametrize("place", ["configs/none.py", "configs", "/dev/zero", "", "{fifo}"])
def test_a_missing_config_file_lists_the_available_ones(place, tmp_path):
    os.mkfifo(tmp_path / "fifo.py")
    said = refused(f"--config={place.format(fifo=tmp_path / 'fifo.py')}")
    assert "no such file" in said
    assert "base.py" in said and "isbi.py" in said


BASE = "from configs import base\ndef get_config():\n    config = base.get_config()\n"


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        ("def get_config(:\n", 1, "SyntaxError"),
        ("\n\nimport nowhere_at_all\n", 3, "No module named 'nowhere_at_all'"),
        (BASE + "    config.model.width = 'wide'\n    return config\n", 4, "width"),
        (BASE + "    config.no.such = 3\n    return config\n", 4, "no"),
        (BASE + "    open('/nowhere/at/all')\n    return config\n", 4, "/nowhere/at/all"),
        (BASE + "    return 1 / 0\n", 4, "ZeroDivisionError: division by zero"),
        ("x = 1\n", None, "has no function get_config"),
        ("def get_config():\n    pass\n", None, "must return a ConfigDict"),
        ("def get_config():\n    return {}\n", None, "must return a ConfigDict"),
        ("def get_config(option):\n    pass\n", None, "needs options"),
        ("\0", None, "null bytes"),
    ],
)
def test_a_config_that_fails_names_its_file_and_line(code, line, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(code)
    message = refused(f"--config={path}")
    assert str(path) in message
    assert said in message
    assert line is None or f"{path}, line {line}: " in message


def test_an_unknown_variant_lists_the_available_ones():
    assert "there are best, small, pretrained" in refused("--config=configs/isbi.py:banana")
    assert "takes no options" in refused("--config=configs/demo.py:banana")


def test_the_table_of_modes_has_every_flag_that_not_all_use():
    own = {flag.name for flag in flags.FLAGS.get_flags_for_module("launch")}
    assert own - {"workdir", "mode", "platform"} == set(launch.USES)
    for modes in launch.USES.values():
        assert set(modes) < set(launch.MODES)


@pytest.mark.parametrize("mode", launch.MODES)
@pytest.mark.parametrize("name", launch.USES)
def test_a_flag_that_a_mode_does_not_use_is_refused(name, mode):
    values = flags.FlagValues()
    for flag in launch.USES:
        flags.DEFINE_string(flag, None, "", flag_values=values)
    values(["launch.py", f"--{name}=1"])
    if mode in launch.USES[name]:
        check_mode(values, launch.USES, mode)
        return
    with pytest.raises(UserError, match=rf"^--{name}: --mode={mode} does not use it") as error:
        check_mode(values, launch.USES, mode)
    for uses in launch.USES[name]:
        assert uses in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--config=configs/none.py"], ["--config=configs/demo.py:x"], ["--config.seed=1"],
     ["--config=configs/demo.py", "more"], ["--config=configs/demo.py", "--config.sed=1"]],
)  # fmt: skip
def test_a_config_that_cannot_be_loaded_is_reported_in_one_line(arguments):
    with pytest.raises(UserError) as error:
        load_config(arguments)
    assert "\n" not in str(error.value)


def test_a_config_is_loaded_without_other_flags():
    assert load_config([DEMO, "--config.seed=3"]).seed == 3


def test_a_flag_that_a_mode_needs_is_named():
    values = flags.FlagValues()
    for name in ("workdir", "input", "output"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    values(["launch.py", "--workdir=a", "--output=b"])
    require(values, ("workdir", "output"), "export")
    require(values, (), "train")
    needed = "--mode=predict needs --workdir, --input and --output"
    with pytest.raises(UserError, match=needed):
        require(values, ("workdir", "input", "output"), "predict")


def test_a_mode_uses_the_flags_that_it_needs():
    for mode, names in launch.NEEDS.items():
        assert all(mode in launch.USES.get(name, launch.MODES) for name in names)
