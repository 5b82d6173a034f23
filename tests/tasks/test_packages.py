"""What figures need is looked for before anything is trained."""

import pytest

from jaxllm.evaluation import extras
from jaxllm.tasks.classes import Classes


class Needy(Classes):
    """A task whose figures need what nobody has."""

    packages = ("json", "no_such_package")

    def __init__(self):
        pass


def test_a_package_that_is_missing_is_told_with_its_extra():
    with pytest.raises(ValueError, match=r"need the package no_such_package: .*jaxllm\[finetune\]"):
        Needy().check_figures()
    extras.check_finetune(["json"])
