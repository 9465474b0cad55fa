"""The garbage collector pauses, and resumes if it ran before."""

import gc

import pytest

from unet_jax.core.garbage import garbage_collection


def test_it_pauses_and_resumes_also_after_an_error():
    assert gc.isenabled()
    with pytest.raises(ValueError), garbage_collection(False):
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_contexts_nest():
    with garbage_collection(False):
        with garbage_collection(True):
            assert gc.isenabled()
        with garbage_collection(False):
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
