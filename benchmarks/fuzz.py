"""Let atheris look for bytes that no reader ends well with, kind by kind.

    python benchmarks/fuzz.py rtstruct -runs=100000

Options behind the kind are libFuzzer's. Coverage of jipflow and pydicom leads the choice of bytes;
a crash, an exception that is no refusal, a run of over 20 s or of over 4 GiB ends it and leaves the
bytes in ``crash-<hash>``, ``timeout-<hash>`` or ``oom-<hash>`` in the working directory.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "tests"), str(HERE / "tests" / "unit")]

with atheris.instrument_imports(include=["jipflow", "pydicom", "nibabel"]):
    from fuzzing import World, mutated

CORPUS = 200
LIMITS = ("-timeout=20", "-rss_limit_mb=4096")


def main() -> None:
    """Fuzz the kind that is named first."""
    kind, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        sound, target = world.seeds[kind]
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        (corpus / "sound").write_bytes(sound)
        for number in range(CORPUS):
            content = mutated(sound, random.Random(f"{kind} {number}"))
            (corpus / str(number)).write_bytes(content)
        atheris.Setup([sys.argv[0], *LIMITS, *options, str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
