"""Coverage traces the first examples of a property test, and everything of other tests."""

from hypothesis import given, settings
from hypothesis import strategies as st

from traced import first_examples


class Switch:
    """A tracer that is on from the start."""

    def __init__(self) -> None:
        self.on = True

    def start(self) -> None:
        self.on = True

    def stop(self) -> None:
        self.on = False


def test_the_first_examples_are_traced() -> None:
    switch, seen = Switch(), []

    @settings(max_examples=20, database=None)
    @given(st.integers())
    def run(number: int) -> None:
        seen.append(switch.on)

    with first_examples(run, switch, 3):
        run()
    assert seen[:3] == [True] * 3 and len(seen) > 3 and not any(seen[3:])
    assert switch.on
    seen.clear()
    run()
    assert seen and all(seen)


def test_a_property_test_with_few_examples_and_other_tests_stay_traced() -> None:
    switch, seen = Switch(), []

    @settings(max_examples=2, database=None)
    @given(st.integers())
    def run(number: int) -> None:
        seen.append(switch.on)

    for test in (run, lambda: seen.append(switch.on)):
        with first_examples(test, switch, 3):
            test()
    assert len(seen) >= 2 and all(seen) and switch.on
