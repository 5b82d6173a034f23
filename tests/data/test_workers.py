import os

import pytest

from jaxllm.data.workers import Workers


def test_every_task_is_answered_by_other_processes_and_errors_come_back():
    with Workers(2) as pool:
        assert sorted(pool.run(abs, [-1, 2, -3, 4, -5])) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
        with pytest.raises(ValueError, match="invalid literal"):
            list(pool.run(int, ["1", "x"]))
    with Workers(2) as pool:
        pids = {pid for _, pid in pool.run(os.getpgid, [0, 0])}
        assert pids
        with pytest.raises(RuntimeError, match="exit code 7"):
            list(pool.run(os._exit, [7, 7]))


def test_one_worker_is_the_calling_process():
    assert list(Workers(1).run(os.getsid, [0, 0])) == [(0, os.getsid(0)), (1, os.getsid(0))]
