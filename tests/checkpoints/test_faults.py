import errno

from jaxllm.checkpoints.faults import TRANSIENT, system_error


def test_a_deadline_of_orbax_is_a_fault_that_may_pass():
    """It is measured by the time of day, so a clock that jumps within a save is enough."""
    assert system_error(TimeoutError("Thread did not complete within 1200 seconds")) in TRANSIENT
    assert system_error(TimeoutError(errno.ENOSPC, "as the system says")) == errno.ENOSPC


def test_what_tensorstore_says_is_read_from_its_text():
    assert system_error(ValueError("failed: os_error_code='28' while writing")) == errno.ENOSPC
    assert system_error(ValueError("another thing")) is None
