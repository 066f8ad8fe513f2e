"""Hides nnU-Net, PyTorch and TotalSegmentator from a Python on whose PYTHONPATH this folder is."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.abc import MetaPathFinder

HIDDEN = {
    "acvl_utils",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "nnunetv2",
    "timm",
    "torch",
    "torchvision",
    "totalsegmentator",
}


class Hiding(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Hiding())

_version = importlib.metadata.version


def version(distribution_name):
    if distribution_name.lower() in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(distribution_name)
    return _version(distribution_name)


importlib.metadata.version = version
