"""A task has all of its parts."""

import inspect

import pytest

from jaxllm.tasks import _TASKS, Task
from jaxllm.tasks.label_sets import LabelSets


@pytest.mark.parametrize(
    "kind", sorted({*_TASKS.values(), LabelSets}, key=lambda one: one.__name__)
)
def test_every_task_is_whole_and_the_base_is_none(kind):
    assert inspect.isabstract(Task)
    assert not inspect.isabstract(kind)
