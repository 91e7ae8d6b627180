"""The language models: one caption depends on its prompt and seed; servers that misbehave."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.errors import GeneratorError, ServerAbsentError, SetupError
from generators.language.base import Sampling
from generators.language.factory import choose_backend, create_language_model
from generators.language.openai_backend import OpenAIModel
from generators.language.sampling import RowSampler
from generators.language.template_backend import TemplateModel
from generators.language.transformers_backend import TransformersModel
from generators.language.vllm_arguments import as_flags, engine_arguments
from online_synclr.config.schema import CaptionsConfig, VllmConfig
from tests.fake_completions_server import completion, serve
from tests.tiny_pipeline import save_tiny_language_model

SAMPLING = Sampling(temperature=0.8, top_p=0.9, max_tokens=8)
PROMPTS = ["fox =>", "a red fox in the snow =>", "owl =>", "the small blue boat on a river =>"]


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersModel]:
    folder = save_tiny_language_model(tmp_path_factory.mktemp("llm"))
    model = TransformersModel(str(folder), sampling=SAMPLING, dtype=torch.float32)
    yield model
    model.close()


def test_a_caption_depends_on_its_prompt_and_seed_only(tiny_llm: TransformersModel) -> None:
    together = tiny_llm.complete(PROMPTS, [1, 2, 3, 4])
    alone = [tiny_llm.complete([p], [s])[0] for p, s in zip(PROMPTS, [1, 2, 3, 4], strict=True)]
    backwards = tiny_llm.complete(PROMPTS[::-1], [4, 3, 2, 1])[::-1]
    assert together == alone == backwards
    assert len({one.text for one in tiny_llm.complete(["fox =>"] * 6, range(6))}) > 1


def test_a_caption_is_one_line_and_says_whether_it_ended(tiny_llm: TransformersModel) -> None:
    written = tiny_llm.complete(["fox =>"] * 40, range(40))
    assert all("\n" not in one.text and one.text == one.text.strip() for one in written)
    assert {one.finished for one in written} == {True, False}


def test_no_prompts_no_captions(tiny_llm: TransformersModel) -> None:
    assert tiny_llm.complete([], []) == []


def test_greedy_needs_no_seed(tmp_path: Path) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=4)
    folder = save_tiny_language_model(tmp_path)
    model = TransformersModel(str(folder), sampling=greedy, dtype=torch.float32)
    assert model.complete(["fox =>"], [1]) == model.complete(["fox =>"], [2])


def test_fingerprint_names_model_and_sampling(tmp_path: Path, tiny_llm: TransformersModel) -> None:
    folder = save_tiny_language_model(tmp_path)
    same = TransformersModel(str(folder), sampling=SAMPLING, dtype=torch.float32)
    other = TransformersModel(
        str(folder), sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=8)
    )
    assert same.fingerprint == tiny_llm.fingerprint != other.fingerprint


def test_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(GeneratorError, match=r"captions\.model=/nowhere could not be loaded"):
        TransformersModel("/nowhere", sampling=SAMPLING)


def test_nucleus_of_a_flat_distribution_goes_beyond_the_short_list() -> None:
    num_rows, vocabulary, top_p = 400, 4096, 0.9
    sampler = RowSampler(range(num_rows), max_tokens=1, temperature=1.0, top_p=top_p)
    logits = torch.linspace(0.0, 1e-3, vocabulary).expand(num_rows, vocabulary)
    chosen = sampler(logits, 0)
    # The nucleus of a nearly flat distribution is its largest 90 %: here the highest tokens.
    assert int(chosen.min()) >= int(vocabulary * (1 - top_p)) - 8
    assert int(chosen.min()) < vocabulary // 4
    assert int(chosen.max()) > vocabulary * 3 // 4


def test_sampling_follows_the_distribution() -> None:
    num_rows = 4000
    sampler = RowSampler(range(num_rows), max_tokens=1, temperature=1.0, top_p=0.95)
    probs = torch.tensor([0.5, 0.3, 0.16, 0.04])
    chosen = sampler(probs.log().expand(num_rows, 4), 0)
    shares = torch.bincount(chosen, minlength=4) / num_rows
    # 0.04 lies outside the nucleus; the others are scaled up to sum to one.
    expected = torch.tensor([0.5, 0.3, 0.16, 0.0]) / 0.96
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0.0)


def openai(url: str, **changes: Any) -> OpenAIModel:
    arguments = {"sampling": SAMPLING, "retries": 2, "first_pause_s": 0.001, "timeout_s": 5.0}
    return OpenAIModel(url, **{**arguments, **changes})


def test_openai_asks_for_each_prompt_with_its_seed_and_keeps_the_order() -> None:
    with serve(lambda _, question: completion(f" a {question['prompt']}\nmore")) as server:
        model = openai(server.url, api_key="secret")
        texts = [one.text for one in model.complete(PROMPTS, [5, 6, 7, 8])]
        model.close()
    assert texts == [f"a {prompt}" for prompt in PROMPTS]
    seeds = {question["prompt"]: question["seed"] for question in server.questions}
    assert seeds == dict(zip(PROMPTS, [5, 6, 7, 8], strict=True))
    assert {question["model"] for question in server.questions} == {"served"}
    assert server.questions[0]["stop"] == ["\n"]
    assert server.authorizations[0] == "Bearer secret"


def test_openai_keeps_requests_under_way_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(_: int, question: dict[str, Any]) -> tuple[int, bytes]:
        both.wait()
        return completion("a fox")

    with serve(answer) as server:
        model = openai(server.url, concurrency=2)
        assert len(model.complete(["a", "b"], [1, 2])) == 2
        model.close()


@pytest.mark.parametrize(
    "bad",
    [
        (503, b""),
        (429, b"slow down"),
        (200, b"no json"),
        (200, b'{"choices": []}'),
        (200, b'{"choices": [{"text": 7}]}'),
        (200, b"x" * (2**20 + 1)),
    ],
)
def test_openai_tries_again_after_a_bad_answer(bad: tuple[int, bytes]) -> None:
    with serve(lambda number, _: bad if number == 0 else completion("a fox")) as server:
        model = openai(server.url)
        assert model.complete(["fox =>"], [1])[0].text == "a fox"
        model.close()
    assert len(server.questions) == 2


def test_openai_gives_up_with_one_line_that_names_the_setting() -> None:
    with serve(lambda *_: (500, b"")) as server:
        model = openai(server.url)
        with pytest.raises(GeneratorError, match=r"captions\.url=.*after 3 tries \(status 500\)"):
            model.complete(["fox =>"], [1])
        model.close()


@pytest.mark.parametrize("model", ["", "named"])
def test_openai_server_that_is_not_there_shows_at_once(model: str) -> None:
    with serve(lambda *_: completion("")) as server:
        url = server.url
    with pytest.raises(ServerAbsentError, match=r"captions\.url=.*start the server"):
        openai(url, model=model)


def test_openai_waits_for_a_server_that_is_started_anew() -> None:
    def answer(number: int, _: dict[str, Any]) -> tuple[int, bytes]:
        return (503, b"") if number < 10 else completion("a fox")

    with serve(answer) as server:
        model = openai(server.url, retries=0, patience_s=60.0)
        assert model.complete(["fox =>"], [1])[0].text == "a fox"
        model.close()
    assert len(server.questions) == 11


def test_openai_refusal_is_not_tried_again() -> None:
    with serve(lambda *_: (404, b'{"error": "no such model"}')) as server:
        model = openai(server.url, model="other")
        with pytest.raises(GeneratorError, match=r"no such model.*captions\.model"):
            model.complete(["fox =>"], [1])
        model.close()
    assert len(server.questions) == 1


def test_openai_time_out_counts_as_a_try() -> None:
    release = threading.Event()

    def answer(number: int, _: dict[str, Any]) -> tuple[int, bytes]:
        if number == 0:
            release.wait(10)
        return completion("a fox")

    with serve(answer) as server:
        model = openai(server.url, timeout_s=0.2)
        assert model.complete(["fox =>"], [1])[0].text == "a fox"
        release.set()
        model.close()
    assert len(server.questions) == 2


def test_openai_cut_off_caption_is_not_finished() -> None:
    with serve(lambda *_: completion("a fox and", "length")) as server:
        model = openai(server.url)
        assert not model.complete(["fox =>"], [1])[0].finished
        model.close()


def test_openai_close_ends_the_pauses_between_tries() -> None:
    failed = threading.Event()

    def answer(*_: Any) -> tuple[int, bytes]:
        failed.set()
        return 503, b""

    with serve(answer) as server:
        model = openai(server.url, first_pause_s=3600.0)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                model.complete(["fox =>"], [1])
            except GeneratorError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert failed.wait(10)
        model.close()
        thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_templates_name_the_concept_and_differ_by_seed() -> None:
    model = TemplateModel()
    texts = [one.text for one in model.complete(["x => y\ncrane (bird), river =>"] * 50, range(50))]
    assert all("crane" in text and "river" in text and "(" not in text for text in texts)
    assert len(set(texts)) > 20
    assert texts[3] == model.complete(["x => y\ncrane (bird), river =>"], [3])[0].text


@pytest.mark.parametrize(
    ("settings", "device", "server_url", "installed", "chosen"),
    [
        ({}, "cuda", "", {"vllm", "transformers"}, "vllm"),
        ({}, "cuda", "", {"transformers"}, "transformers"),
        ({}, "cpu", "", {"vllm", "transformers"}, "transformers"),
        ({}, "cpu", "", {"vllm"}, "vllm"),
        ({}, "cpu", "http://x/v1", {"vllm", "httpx"}, "openai"),
        ({"url": "http://x/v1"}, "cuda", "", {"vllm", "httpx"}, "openai"),
        ({"backend": "template"}, "cuda", "", set(), "template"),
        ({"backend": "vllm"}, "cpu", "", {"vllm", "transformers"}, "vllm"),
    ],
)
def test_choice_of_back_end(
    settings: dict[str, Any], device: str, server_url: str, installed: set[str], chosen: str
) -> None:
    config = CaptionsConfig(**settings)
    found = choose_backend(
        config, device=device, server_url=server_url, installed=installed.__contains__
    )
    assert found[0] == chosen


def test_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(SetupError, match=r"needs the package vllm.*pip install vllm"):
        choose_backend(CaptionsConfig(backend="vllm"), device="cuda", installed=lambda _: False)


def test_factory_says_what_it_picked() -> None:
    said: list[str] = []
    model = create_language_model(CaptionsConfig(backend="template"), device="cpu", say=said.append)
    assert isinstance(model, TemplateModel)
    assert "template" in said[0]
    assert "SYNTHETIC" in said[1]


def test_vllm_arguments_on_cpu_keep_prompts_whole() -> None:
    arguments = engine_arguments(VllmConfig(max_model_len=8192), device="cpu")
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] == 8192
    flags = as_flags(arguments)
    assert "--no-enable-chunked-prefill" in flags
    assert flags[flags.index("--max-model-len") + 1] == "8192"


def test_vllm_arguments_on_gpu_follow_the_settings() -> None:
    settings = VllmConfig(gpu_memory_utilization=0.2, kv_cache_memory_bytes=123)
    arguments = engine_arguments(settings, device="cuda")
    assert arguments["gpu_memory_utilization"] == 0.2
    assert arguments["kv_cache_memory_bytes"] == 123
    assert "enable_chunked_prefill" not in arguments
