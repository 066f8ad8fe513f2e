"""Siemens' CSA header: what is read of it, and that a damaged or hostile one costs nothing else."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from pydicom.dataset import Dataset

from jipflow.images.diffusion import b_value, direction
from series_factory import csa

CSA = (0x0029, "SIEMENS CSA HEADER")


def test_the_direction_stands_in_the_csa_header():
    dataset = Dataset()
    block = dataset.private_block(*CSA, create=True)
    block.add_new(0x10, "OB", csa(DiffusionGradientDirection=["1", "0", "0"]))
    assert direction(dataset) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"SV10", b"SV10\4\3\2\1" + b"\xff" * 64, b"B_value", b"\1\0\0\0" * 400),
        csa(B_value=["many"]),
        csa(B_value=["-5"]),
        csa(B_value=[]),
        csa(B_value=["800"])[:90],
        csa(B_value=["800"]) + bytes(1 << 20),
    ],
)
def test_a_damaged_csa_header_states_nothing(value):
    dataset = Dataset()
    block = dataset.private_block(*CSA, create=True)
    block.add_new(0x10, "OB", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert b_value(dataset) is None


def test_random_csa_headers_raise_nothing():
    random = np.random.default_rng(0)
    sound = csa(B_value=["800"], Other=["1"])
    for _ in range(300):
        value = bytearray(sound)
        for place in random.integers(0, len(value), 6):
            value[place] = random.integers(256)
        dataset = Dataset()
        dataset.private_block(*CSA, create=True).add_new(0x10, "OB", bytes(value))
        assert b_value(dataset) is None or isinstance(b_value(dataset), int)


def test_a_csa_header_that_goes_back_is_not_read_for_ever():
    # The first item goes back to the start of its tag, the second forth to the first, and the last
    # of them ends where the next tag begins: at the same one.
    tag = struct.pack("<4si56si4s3i", b"", 68, b"B_value", 1000, b"LO", 6, 999, 77)
    item = struct.pack("<4i", 0, -100, 77, 0)
    dataset = Dataset()
    value = b"SV10\4\3\2\1" + struct.pack("<2I", 1000, 77) + tag + item
    dataset.private_block(*CSA, create=True).add_new(0x10, "OB", value)
    read = Dataset()
    read.private_block(*CSA, create=True).add_new(0x10, "OB", csa(B_value=["800"]))
    assert b_value(read) == 800
    started = time.process_time()
    assert b_value(dataset) is None
    assert time.process_time() - started < 0.1


def test_the_reader_of_csa_headers_comes_without_its_warning():
    code = (
        "from pydicom import Dataset; from jipflow.images.csa import csa_values as read\n"
        "data = Dataset(); block = data.private_block(0x29, 'SIEMENS CSA HEADER', create=True)\n"
        "block.add_new(0x10, 'OB', b'SV10 B_value'); assert read(data, 'B_value') == ()"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
