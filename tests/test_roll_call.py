"""Who came and who went, told once each."""

from trainer.report import GeneratorReport
from trainer.roll_call import RollCall


def report(name: str, state: str = "running", error: str | None = None) -> GeneratorReport:
    alive = state in ("running", "loading")
    return GeneratorReport(
        generator_id=name,
        alive=alive,
        state=state,
        counters={},
        first_error=error,
        fingerprint="llm image",
    )


def test_comings_and_goings_are_told_once() -> None:
    call = RollCall()
    assert call.changes([report("g0")]) == [], "torchrun's own are expected"
    joined = call.changes([report("g0"), report("lab.a")])
    assert joined == ["generator lab.a joined (models llm image)"]
    assert call.changes([report("g0"), report("lab.a", "loading")]) == []
    gone = [report("g0", "failed", "no GPU"), report("lab.a", "ended")]
    assert call.changes(gone) == ["generator g0 has failed: no GPU", "generator lab.a left"]
    assert call.changes(gone) == []
    assert call.changes([report("lab.a")]) == ["generator lab.a is back (models llm image)"]
    assert call.changes([report("lab.a", "silent")]) == ["generator lab.a is not heard any more"]


def test_one_that_came_and_went_between_two_looks_is_told() -> None:
    assert RollCall().changes([report("lab", "ended")]) == ["generator lab left"]
