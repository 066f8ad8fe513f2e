"""`jipflow algorithm check` passes the template, and says of others what to fix."""

from __future__ import annotations

import numpy as np
import pytest

from container_images import program_image
from jipflow.cli import main
from jipflow.images.volume import Volume
from jipflow.segment.containers.check import part, phantom_image, tilted, turned
from jipflow.settings.resources import RESOURCES

TEMPLATE = (RESOURCES / "algorithm" / "main.py").read_text()


def check(image, *arguments):
    return main(["algorithm", "check", str(image), "--runtime", "charliecloud", *arguments])


def verdicts(text):
    lines = [line for line in text.splitlines() if line.startswith(("PASS  ", "FAIL  "))]
    return {line[6:].split(":")[0]: line for line in lines}


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_the_orientations_show_the_same_patient(modality):
    image = phantom_image(modality)
    coronal = turned(image)
    assert coronal.grid.shape != image.grid.shape
    np.testing.assert_array_equal(coronal.with_axes_of(image.grid).array, image.array)
    assert coronal.with_axes_of(image.grid).grid.matches(image.grid)
    assert not tilted(image).grid.matches(image.grid, 1)
    middle = part(image, 7)
    first = (image.grid.shape[0] - 7) // 2
    place = middle.grid.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(image.grid.affine @ [first, 0, 0, 1], place)
    np.testing.assert_array_equal(middle.array, image.array[first : first + 7, :-3, :-5])
    assert isinstance(part(image, 1), Volume)


@pytest.mark.long
def test_the_template_passes(tmp_path, capsys):
    image = program_image(tmp_path / "template.tar", TEMPLATE)
    assert check(image, "--label", "body=1", "--label", "bone=2") == 0
    found = verdicts(capsys.readouterr().out)
    assert len(found) == 13
    assert all(line.startswith("PASS") for line in found.values())


@pytest.mark.long
def test_what_is_wrong_is_named_with_its_fix(tmp_path, capsys):
    careless = TEMPLATE.replace(
        "    return found\n",
        "    found[..., : hu.shape[2] // 3] = 0\n"
        "    return np.where(np.random.default_rng().random(hu.shape) < 1e-3, 0, found)\n",
    )
    careless = careless.replace('(OUTPUT / case["error"]).write_text(', "print(")
    image = program_image(tmp_path / "careless.tar", careless)
    assert check(image, "--label", "body=1") == 1
    printed = capsys.readouterr()
    failed = {name: line for name, line in verdicts(printed.out).items() if line.startswith("FAIL")}
    assert set(failed) == {
        "finds the same in the coronal image",
        "says that a broken image cannot be read, and goes on",
        "gives the same segmentation again",
    }
    assert "by their affine" in failed["finds the same in the coronal image"]
    assert "voxels differ" in failed["gives the same segmentation again"]
    assert "3 checks failed; docs/algorithms.md helps" in printed.err


@pytest.mark.long
def test_an_image_that_does_not_run_shows_its_log(tmp_path, capsys):
    image = program_image(tmp_path / "wrong.tar", 'open("/data/model.bin")')
    assert check(image, "--label", "body=1") == 1
    printed = capsys.readouterr()
    assert "exit code 1" in printed.out
    assert "No such file or directory: '/data/model.bin'" in printed.out
    assert "there is no cases/0001/segmentation.nii.gz" in printed.out


def test_what_is_asked_wrongly_is_named(tmp_path, capsys):
    assert check(tmp_path / "none.tar", "--label", "body") == 1
    assert "--label liver=1" in capsys.readouterr().err
    assert check(tmp_path / "none.tar", "--label", "body=1") == 1
    assert "none.tar" in capsys.readouterr().err
