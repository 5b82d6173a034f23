import pytest

from jaxllm.training.phases import Phases


class Heard(list):
    def entered(self, phase):
        self.append(phase)

    def stepped(self, step):
        self.append(step)


def test_the_inner_phase_takes_over_and_the_outer_goes_on():
    heard = Heard()
    phases = Phases(heard)
    with phases.during("step"):
        with phases.during("evaluation"):
            assert phases.current == "evaluation"
        phases.stepped(7)
        assert phases.current == "step"
    assert heard == ["start", "step", "evaluation", "step", 7, "start"]


def test_an_error_ends_its_phase():
    phases = Phases()
    with pytest.raises(ValueError, match="broken"), phases.during("restore"):
        raise ValueError("broken")
    assert phases.current == "start"


def test_waiting_for_each_batch_is_a_phase_and_the_work_on_it_is_not():
    heard = Heard()
    phases = Phases(heard)

    def batches():
        for batch in range(2):
            heard.append(f"made {batch}")
            yield batch

    with phases.during("step"):
        for batch in phases.waiting(batches()):
            heard.append(f"used {batch}")
    assert heard == [
        *("start", "step"),
        *("data", "made 0", "step", "used 0"),
        *("data", "made 1", "step", "used 1"),
        *("data", "step", "start"),
    ]


def test_a_source_that_fails_leaves_the_phase():
    phases = Phases()

    def batches():
        yield 1
        raise OSError("gone")

    seen = []
    with pytest.raises(OSError, match="gone"):
        seen.extend(phases.waiting(batches()))
    assert phases.current == "start"


def test_every_listener_hears_of_everything():
    one, two = Heard(), Heard()
    phases = Phases(one, two)
    phases.stepped(3)
    assert one == two == ["start", 3]


def test_steps_begin_and_end_for_good():
    heard = Heard()
    phases = Phases(heard)
    phases.begin_steps()
    with phases.during("evaluation"):
        pass
    phases.end()
    assert heard == ["start", "step", "evaluation", "step", "end"]
    assert phases.current == "end"
