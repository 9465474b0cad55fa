"""The lines of classes.txt and of data.mask_values name classes, or the error names the line."""

import pytest
from made_files import refused

from unet_jax.data.labels.names import parse_values, read_names


def write(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_names_are_read_as_editors_write_them(tmp_path, encoding, end):
    text = end.join(["Hintergrund", "", "  Grün  ", "3rd ventricle", ""])
    assert read_names(write(tmp_path, text.encode(encoding))).names == (
        "Hintergrund",
        "Grün",
        "3rd ventricle",
    )


def test_without_the_file_there_are_no_names(tmp_path):
    found = read_names(tmp_path / "classes.txt")
    assert (found.names, found.keys) == ((), ())


@pytest.mark.parametrize("separator", [" ", "\t", ": ", " = ", ", "])
def test_values_and_colours_may_have_names(tmp_path, separator):
    lines = [("#0000FF", "sky"), ("#010203", "ignored"), ("#000000", "ground"), ("#ffffff", "sky")]
    found = read_names(write(tmp_path, "\n".join(separator.join(line) for line in lines)))
    assert found.names == ("sky", "ground")
    assert [(str(key), name) for key, name in found.keys] == [
        (value.lower(), name) for value, name in lines
    ]
    assert read_names(write(tmp_path, "-1 ignored\n0 a\n17 b")).keys[2][0].value == 17


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("0 a\nb\n", ["line 1", "'0 a'", "line 2", "'b'"]),
        ("0 a\n0 b\n", ["0 has two names"]),
        ("0 a\n1 a\n", ["1 different names"]),
        ("a\n", ["1 names"]),
        ("a\nb\na\n", ["3 names, 2 different"]),
        (b"a\nb\xe9\n", ["line 2", "utf-8", "0xe9"]),
        (b"a\0\nb\0\n", ["UTF-8"]),
        (b"\xff\xfea\0\n", ["utf-16"]),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, content, parts):
    refused(read_names, write(tmp_path, content), *parts)


@pytest.mark.parametrize("entry", ["road", "x:road", "17:", "#ff00:road", ":", ""])
def test_entries_that_are_no_value_and_name_are_refused(entry):
    refused(parse_values, ("0:a", entry), repr(entry), "data.mask_values")
