"""Who came and who went, told once each."""

from trainer.report import GeneratorReport
from trainer.roll_call import RollCall


def report(name: str, state: str = "running", models: str = "llm image") -> GeneratorReport:
    alive = state in ("running", "loading")
    return GeneratorReport(
        generator_id=name,
        alive=alive,
        state=state,
        counters={},
        first_error="out of memory, weeks ago",
        fingerprint=models,
    )


def test_comings_and_goings_are_told_once() -> None:
    call = RollCall()
    assert call.changes([report("g0")]) == [], "torchrun's own are expected"
    assert call.changes([report("lab.a", "loading", models="")]) == []
    joined = call.changes([report("g0"), report("lab.a")])
    assert joined == ["generator lab.a joined (models llm image)"]
    assert call.changes([report("g0"), report("lab.a", "loading")]) == []
    gone = [report("g0", "silent"), report("lab.a", "ended")]
    said = ["generator g0 is not heard any more", "generator lab.a left"]
    assert call.changes(gone) == said
    assert call.changes(gone) == []
    assert call.changes([report("lab.a")]) == ["generator lab.a is back"]
    assert call.changes([report("lab.a", "failed")]) == [], "failures are told with their reason"


def test_one_that_came_and_went_between_two_looks_is_told() -> None:
    assert RollCall().changes([report("lab", "ended")]) == ["generator lab left"]
