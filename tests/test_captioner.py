"""The captioner thread with fakes and gates: order, bounds, waits, refusals, errors."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from generators.caption_filter import CaptionFilter
from generators.captioner import Captioned, Captioner
from generators.concepts import ConceptBank, ConceptStream
from generators.counters import Counters
from generators.errors import GeneratorError
from generators.language.base import Completion
from tests.concept_banks import write_bank

WAIT_S = 10.0


class FakeModel:
    """Answers each seed as told; a gate can hold it back."""

    fingerprint = "fake"

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        self._answer = answer
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        self.batches.append(list(seeds))
        self.called.release()
        assert self.gate.wait(WAIT_S)
        texts = [self._answer(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [Completion(text, finished=True) for text in texts]

    def close(self) -> None:
        pass


@pytest.fixture
def draws(tmp_path: Path) -> ConceptStream:
    return ConceptStream(ConceptBank.load(write_bank(tmp_path)), 0, 1, 0)


def captioner(
    draws: ConceptStream, model: FakeModel, counters: Counters | None = None, **changes: Any
) -> Captioner:
    sizes: dict[str, Any] = {"batch_captions": 16, "queue_captions": 32, **changes}
    return Captioner(
        draws=draws,
        prompt_of=lambda draw: draw.concept.name,
        seed_of=lambda counter: counter,
        model=model,
        caption_filter=CaptionFilter(require_concept=False),
        counters=counters or Counters(),
        **sizes,
    )


def number(_: str, seed: int) -> str:
    return f"caption number {seed} of many"


def take(source: Captioner, count: int) -> list[Captioned]:
    taken: list[Captioned] = []
    while len(taken) < count:
        batch = source.take(count - len(taken), WAIT_S)
        assert batch
        taken += batch
    return taken


def test_captions_come_in_order_with_their_draws(draws: ConceptStream) -> None:
    source = captioner(draws, FakeModel(number))
    source.start()
    taken = take(source, 20)
    source.close()
    assert [one.counter for one in taken] == list(range(20))
    assert [one.caption for one in taken] == [number("", counter) for counter in range(20)]
    assert [one.draw for one in taken] == [draws.draw(counter) for counter in range(20)]


def test_first_batches_are_small_and_grow(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model)
    source.start()
    take(source, 30)
    source.close()
    assert [len(batch) for batch in model.batches[:3]] == [4, 8, 16]


def test_an_accepted_caption_keeps_the_counter_of_its_draw(draws: ConceptStream) -> None:
    counters = Counters()
    answer = lambda prompt, seed: number(prompt, seed) if seed % 2 else "no"  # noqa: E731
    source = captioner(draws, FakeModel(answer), counters)
    source.start()
    taken = take(source, 6)
    source.close()
    assert [one.counter for one in taken] == [1, 3, 5, 7, 9, 11]
    values = counters.snapshot()
    assert values["captions_written"] == (
        values["captions_accepted"] + values["rejected/too_short"]
    )


def test_the_queue_is_bounded_and_its_waiting_counted(draws: ConceptStream) -> None:
    counters, model = Counters(), FakeModel(number)
    source = captioner(draws, model, counters, batch_captions=4, queue_captions=8)
    source.start()
    for _ in range(2):
        assert model.called.acquire(timeout=WAIT_S)
    # Two batches of four fill it: the third may only be written once one was taken.
    first = source.take(3, WAIT_S)
    assert not model.called.acquire(blocking=False)
    take(source, 5)
    assert model.called.acquire(timeout=WAIT_S)
    source.close()
    assert len(first) == 3
    assert counters.snapshot()["wait_s/caption_queue_full"] > 0


def test_nothing_within_the_time_is_no_error(draws: ConceptStream) -> None:
    model = FakeModel(number)
    model.gate.clear()
    source = captioner(draws, model)
    source.start()
    assert source.take(4, 0.01) == []
    model.gate.set()
    assert len(take(source, 4)) == 4
    source.close()


def test_fewer_than_asked_for_are_left_in_the_queue(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model, batch_captions=4, queue_captions=4)
    source.start()
    assert model.called.acquire(timeout=WAIT_S)
    assert len(source.take(8, WAIT_S, least=4)) == 4
    model.gate.clear()
    # The batch under way may be finished already; it is never more than four.
    assert source.take(8, 0.0, least=5) == []
    model.gate.set()
    assert len(source.take(8, WAIT_S, least=4)) == 4
    source.close()


def test_a_model_whose_captions_are_all_refused_is_an_error(draws: ConceptStream) -> None:
    source = captioner(draws, FakeModel(lambda *_: "too short"))
    source.start()
    with pytest.raises(GeneratorError, match=r"all refused.*'too_short'.*captions\.model"):
        source.take(1, WAIT_S)
    source.close()


def test_the_models_error_reaches_the_renderer_after_its_captions(draws: ConceptStream) -> None:
    def answer(prompt: str, seed: int) -> str:
        if seed >= 4:
            raise GeneratorError("the model broke")
        return number(prompt, seed)

    source = captioner(draws, FakeModel(answer))
    source.start()
    assert len(take(source, 4)) == 4
    with pytest.raises(GeneratorError, match="the model broke"):
        source.take(1, WAIT_S)
    source.close()


def test_close_unblocks_a_full_captioner(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model, batch_captions=4, queue_captions=4)
    source.start()
    assert model.called.acquire(timeout=WAIT_S)
    source.close(WAIT_S)
    assert source.take(0, 0.0) == []


def test_waits_that_are_still_going_on_are_counted() -> None:
    now = [0.0]
    counters = Counters(clock=lambda: now[0])
    with counters.timed("wait_s/captions"):
        now[0] = 3.0
        assert counters.snapshot()["wait_s/captions"] == 3.0
    now[0] = 5.0
    assert counters.snapshot() == {"wait_s/captions": 3.0, "elapsed_s": 5.0}


def sources(captions: Sequence[Captioned]) -> set[str]:
    return {captioned.draw.concept.source for captioned in captions}


def test_new_shares_hold_from_the_next_batch_on(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model, batch_captions=4, queue_captions=8)
    source.set_shares({"cars": 1.0})
    source.start()
    for _ in range(2):
        assert model.called.acquire(timeout=WAIT_S)
    # Both batches are drawn and the queue has no room: nothing is drawn before it is emptied.
    source.set_shares({"scenes": 1.0})
    assert sources(take(source, 8)) == {"cars"}
    assert sources(take(source, 8)) == {"scenes"}
    source.close()


def test_nothing_is_written_before_the_trainers_word(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model, shares_within_s=WAIT_S)
    source.start()
    assert source.take(1, 0.0) == []
    assert model.batches == []
    source.set_shares({"scenes": 1.0})
    assert sources(take(source, 16)) == {"scenes"}
    source.close()


def test_without_a_word_the_bank_decides_in_the_end(draws: ConceptStream) -> None:
    source = captioner(draws, FakeModel(number), shares_within_s=0.01)
    source.start()
    assert [one.draw for one in take(source, 20)] == [draws.draw(n) for n in range(20)]
    source.close()


def test_close_unblocks_a_captioner_that_waits_for_the_word(draws: ConceptStream) -> None:
    model = FakeModel(number)
    source = captioner(draws, model, shares_within_s=10**6)
    source.start()
    source.close(WAIT_S)
    assert source.take(0, 0.0) == []
    assert model.batches == []
