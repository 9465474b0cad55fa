import os

from made_files import refused

from unet_jax.core.files import cache_folder, expand, expand_utf8, printable, write_all


def test_the_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/runs/*.png") == "/home/me/runs/*.png"
    assert expand_utf8("~") == "/home/me"
    assert expand("~root/x").startswith("/")
    for as_it_is in ("a/~", "./~", "../x", "/a", "für"):
        assert expand_utf8(as_it_is) == as_it_is


def test_an_unknown_home_folder_is_named():
    refused(expand, "~nobody-of-this-name/runs", "~nobody-of-this-name", "unknown", "./~nobody")


def test_a_path_that_is_not_utf8_is_refused_where_libraries_cannot_take_it():
    latin = os.fsdecode("für".encode("latin-1"))
    assert expand(latin) == latin
    assert printable(latin) == r"f\xfcr"
    assert printable("für") == "für"
    refused(expand_utf8, f"runs/{latin}", r"runs/f\xfcr", "UTF-8")


def test_a_relative_cache_folder_is_none(monkeypatch, tmp_path):
    """So says the specification of XDG_CACHE_HOME."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "unet_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert str(cache_folder()) == "/var/cache/unet_jax"


def test_a_file_is_replaced_and_never_rewritten(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"before")
    with path.open("rb") as reader:  # a reader in the middle, or a crash, has the old file whole
        write_all({path: b"after, and longer"})
        assert reader.read() == b"before"
    assert path.read_bytes() == b"after, and longer"
