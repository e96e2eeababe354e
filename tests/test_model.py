"""The model as methods see it: keys, batches, commits, and what is not done twice."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conrad_bench.engines import transformers
from conrad_bench.engines.calls import Call
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConfigError, DataError, ImageError, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.digests import file_digest, image_digest
from conrad_bench.rollouts.model import GREEDY, Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import END, Message, Prompt, Sampling

SHORT = Sampling(max_tokens=5)
WARM = Sampling(temperature=1.0, max_tokens=5, seed=3)


def ask(text: str, images: Sequence[str] = (), prefix: str = "") -> Prompt:
    return Prompt((Message("user", text),), tuple(images), None, prefix)


def missing(model: Model, prompts: Sequence[Prompt], sampling: Sampling = GREEDY, n: int = 1) -> int:
    """How many responses the store lacks."""
    keys = {key for row in model.keys(prompts, sampling, n) for key in row}
    return len(keys - model.store.read(sorted(keys)).keys())


@pytest.fixture(scope="module")
def engine(tiny_gemma3: Path) -> TransformersEngine:
    """One engine whose model stays loaded; batches of three."""
    return TransformersEngine(model=str(tiny_gemma3), device="cpu", batch_size=3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts") as opened:
        yield opened


@pytest.fixture
def model(engine: TransformersEngine, store: RolloutStore) -> Model:
    return Model(engine, store, Reporter(quiet=True))


@pytest.fixture(scope="module")
def prompts(image_files: list[str]) -> list[Prompt]:
    texts = ["Findings?", "Is the heart enlarged?", "Is it clear?", "Indication: shortness of breath.", "Effusion?"]
    images = [image_files[:1], [], image_files[1:], image_files[:2], []]
    return [ask(text, paths) for text, paths in zip(texts, images, strict=True)]


def unloaded(engine: TransformersEngine) -> TransformersEngine:
    return TransformersEngine(**engine.model_dump())


class LimitedStore(RolloutStore):
    """A store on a disk that is full after some commits."""

    left = 1

    def append(self, rows: object) -> None:
        if self.left == 0:
            raise OSError("disk full")
        self.left -= 1
        super().append(rows)  # type: ignore[arg-type]


def shards(store: RolloutStore) -> list[str]:
    return sorted(path.name for path in store.folder.glob("*.parquet"))


def test_a_second_call_loads_no_model_and_returns_the_same(
    model: Model, engine: TransformersEngine, prompts: list[Prompt]
) -> None:
    responses = model.generate(prompts, SHORT)
    samples = model.sample(prompts, 2, WARM)
    scores = model.score(prompts, ("yes" + END, "no" + END))
    states = model.hidden(prompts, responses, 2, "mean")
    fresh = unloaded(engine)
    again = Model(fresh, model.store, model.reporter)
    assert again.generate(prompts, SHORT) == responses
    assert again.sample(prompts, 2, WARM) == samples
    assert again.score(prompts, ("yes" + END, "no" + END)) == scores
    assert np.array_equal(again.hidden(prompts, responses, 2, "mean"), states)
    assert fresh._loaded is None
    assert states.dtype == np.float32


def test_answers_are_those_of_the_engine(model: Model, engine: TransformersEngine, prompts: list[Prompt]) -> None:
    responses = model.generate(prompts, SHORT)
    assert [r.token_ids for r in responses] == [r.token_ids for r in model.generate(prompts[::-1], SHORT)[::-1]]
    scores = model.score(prompts, [["yes"], ["no"], [], ["yes", "no"], ["10"]])
    assert [len(row) for row in scores] == [1, 1, 0, 2, 1]
    expected = engine.score(prompts[3:4], [["yes", "no"]], None)[0]
    assert scores[3] == pytest.approx(expected, abs=2e-4)
    states = model.hidden(prompts, responses, -1, "last")
    direct = engine.hidden(prompts[1:2], [responses[1].token_ids], -1, "last", None)[0][0]
    assert states[1] == pytest.approx(direct, abs=1e-3, rel=1e-4)


def test_two_continuations_for_two_prompts_are_texts_for_both(model: Model, prompts: list[Prompt]) -> None:
    shared = model.score(prompts[:2], (" True", " False"))
    assert shared == model.score(prompts[:2], [[" True", " False"]] * 2)
    assert all(math.isfinite(value) for row in shared for value in row)


def test_samples_are_kept_by_index(model: Model, prompts: list[Prompt]) -> None:
    five = model.sample(prompts[:2], 5, WARM)
    assert missing(model, prompts[:2], WARM, n=8) == 6
    eight = model.sample(prompts[:2], 8, WARM)
    assert [row[:5] for row in eight] == five
    assert [r.sample for r in eight[0]] == list(range(8))
    assert len({r.token_ids for r in eight[0]}) > 4
    assert model.generate(prompts[:2], WARM) == [row[0] for row in five]
    assert missing(model, prompts[:2], WARM, n=8) == 0


def test_a_seed_gives_other_samples_and_greedy_decoding_has_none(model: Model, prompts: list[Prompt]) -> None:
    one, other = (model.sample(prompts[:1], 3, replace(WARM, seed=seed))[0] for seed in (0, 1))
    assert {r.token_ids for r in one}.isdisjoint(r.token_ids for r in other)
    assert model.keys(prompts[:1], replace(SHORT, seed=7)) == model.keys(prompts[:1], SHORT)
    with pytest.raises(ConfigError, match="temperature above 0"):
        model.sample(prompts[:1], 2, GREEDY)


def test_sampling_does_not_depend_on_the_batch_size(
    engine: TransformersEngine, tmp_path: Path, prompts: list[Prompt]
) -> None:
    texts = []
    for size in (1, 7):
        sized = TransformersEngine(**{**engine.model_dump(), "batch_size": size})
        with RolloutStore(tmp_path / str(size)) as store:
            rows = Model(sized, store, Reporter(quiet=True)).sample(prompts, 3, WARM)
            texts.append([[r.token_ids for r in row] for row in rows])
    assert texts[0] == texts[1]


def test_duplicates_in_one_call_are_generated_once(model: Model, prompts: list[Prompt]) -> None:
    repeated = [prompts[1], prompts[4], prompts[1]]
    assert missing(model, repeated, SHORT) == 2
    responses = model.generate(repeated, SHORT)
    assert responses[0] == responses[2]
    assert len(model.store.read([r.key for r in responses])) == 2


def test_every_batch_is_committed_and_a_resumed_run_forms_the_same_batches(
    engine: TransformersEngine, tmp_path: Path, prompts: list[Prompt]
) -> None:
    asked = [*prompts, *(ask(f"Is it {n}?") for n in range(4))]
    with RolloutStore(tmp_path / "whole") as whole:
        undisturbed = Model(engine, whole, Reporter(quiet=True)).generate(asked, SHORT)
        names = shards(whole)
    assert len(names) == 3
    with LimitedStore(tmp_path / "killed") as killed, pytest.raises(OSError, match="disk full"):
        Model(engine, killed, Reporter(quiet=True)).generate(asked, SHORT)
    with RolloutStore(tmp_path / "killed") as resumed:
        model = Model(engine, resumed, Reporter(quiet=True))
        assert missing(model, asked, SHORT) == len(asked) - 3
        again = model.generate(asked[::-1], SHORT)[::-1]
        assert [r.token_ids for r in again] == [r.token_ids for r in undisturbed]
        for row, other in zip(again, undisturbed, strict=True):
            assert row.key == other.key
            assert row.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        batches = [keys_of(resumed, name) for name in shards(resumed)]
    with RolloutStore(tmp_path / "whole") as whole:
        assert batches == [keys_of(whole, name) for name in names]


def keys_of(store: RolloutStore, shard: str) -> list[str]:
    import pyarrow.parquet as pq

    keys: list[str] = pq.read_table(store.folder / shard)["key"].to_pylist()
    return keys


def test_the_key_holds_all_that_determines_the_answer(
    model: Model, engine: TransformersEngine, tmp_path: Path, image_files: list[str]
) -> None:
    prompt = ask("Findings?", image_files[:1], "The")
    variants = [
        replace(prompt, messages=(Message("user", "Findings"),)),
        replace(prompt, messages=(Message("user", "Findings?"), Message("assistant", "."), Message("user", "?"))),
        replace(prompt, images=(image_files[1],)),
        replace(prompt, images=(image_files[0], image_files[1])),
        replace(prompt, images=(image_files[1], image_files[0])),
        replace(prompt, images=()),
        replace(prompt, prefix="The heart"),
        replace(prompt, prefix_ids=(5, 6)),
    ]
    ((key,),) = model.keys([prompt])
    keys = {key, *(row[0] for row in model.keys(variants))}
    keys |= {model.keys([prompt], sampling)[0][0] for sampling in (SHORT, WARM, replace(WARM, top_p=0.5))}
    keys |= {model.keys([prompt], replace(WARM, seed=4))[0][0], model.keys([prompt], WARM, 2)[0][1]}
    for change in ({"dtype": "bfloat16"}, {"quantization": "nf4"}):
        other = TransformersEngine(**{**engine.model_dump(), **change})
        keys.add(Model(other, model.store, model.reporter).keys([prompt])[0][0])
    assert len(keys) == 1 + len(variants) + 5 + 2
    # What does not change the answer: where the image lies, the name of the format, the size of batches.
    copied = tmp_path / "elsewhere.png"
    copied.write_bytes(Path(image_files[0]).read_bytes())
    same = replace(prompt, images=(str(copied),), elicit="confidence")
    batches = TransformersEngine(**{**engine.model_dump(), "batch_size": 99})
    assert Model(batches, model.store, model.reporter).keys([same]) == [[key]]


def test_another_version_of_a_library_has_answers_of_its_own_from_the_same_draws(
    model: Model, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = model.sample(prompts, 2, WARM)
    monkeypatch.setattr(transformers, "version", lambda _: "99.0")
    assert missing(model, prompts, WARM, 2) == 2 * len(prompts)
    again = model.sample(prompts, 2, WARM)
    assert [[r.token_ids for r in row] for row in again] == [[r.token_ids for r in row] for row in samples]
    assert not {r.key for row in again for r in row} & {r.key for row in samples for r in row}


@pytest.fixture(scope="module")
def asked_for_keys(engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with RolloutStore(tmp_path_factory.mktemp("keys")) as opened:
        yield Model(engine, opened, Reporter(quiet=True))


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_different_texts_have_different_keys(asked_for_keys: Model, some: list[str], others: list[str]) -> None:
    one, other = (Prompt(tuple(Message("user", text) for text in texts)) for texts in (some, others))
    assert (asked_for_keys.keys([one]) == asked_for_keys.keys([other])) == (some == others)


def test_a_changed_image_is_another_request(model: Model, tmp_path: Path, image_files: list[str]) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(Path(image_files[0]).read_bytes())
    before = model.keys([ask("Findings?", [str(path)])])
    path.write_bytes(Path(image_files[1]).read_bytes())
    assert model.keys([ask("Findings?", [str(path)])]) != before
    with pytest.raises(DataError, match=r"absent\.png cannot be read"):
        model.keys([ask("Findings?", [str(tmp_path / "absent.png")])])


def test_an_adapted_model_has_answers_of_its_own(model: Model, prompts: list[Prompt], tmp_path: Path) -> None:
    import peft
    import torch

    network, _ = model.engine.torch_model()
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.v_proj", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    base = model.generate(prompts, SHORT)
    adapted = model.adapted(tmp_path / "adapter")
    own = adapted.generate(prompts, SHORT)
    assert {r.key for r in base}.isdisjoint(r.key for r in own)
    assert [r.logprobs for r in base] != [r.logprobs for r in own]
    assert missing(model, prompts, SHORT) == missing(adapted, prompts, SHORT) == 0
    assert [r.token_ids for r in model.generate(prompts[::-1], SHORT)] == [r.token_ids for r in base[::-1]]
    with pytest.raises(ModelError, match="not a LoRA adapter"):
        model.adapted(tmp_path)


def test_nothing_asked_is_nothing_loaded(engine: TransformersEngine, store: RolloutStore) -> None:
    fresh = unloaded(engine)
    model = Model(fresh, store, Reporter(quiet=True))
    assert (model.generate([]), model.score([], []), missing(model, [])) == ([], [], 0)
    assert fresh._loaded is None


def test_a_training_has_the_memory_to_itself(base_model: Path, store: RolloutStore, prompts: list[Prompt]) -> None:
    """The engine and the judge are gone while a trainer holds its copy of the model, and that copy is, afterwards."""
    import gc
    import weakref

    engine, judge = (TransformersEngine(model=str(base_model), batch_size=size) for size in (2, 3))
    model = Model(engine, store, Reporter(quiet=True), beside=(judge,))
    model.generate(prompts[:1], SHORT)
    replace(model, engine=judge).score(prompts[:1], ["yes"])
    assert engine._loaded is not None
    assert judge._loaded is not None
    before = [weakref.ref(each._loaded.model) for each in (engine, judge)]  # type: ignore[union-attr]
    trained: list[Any] = []

    def trainer(torch_model: Any, processor: Any, stage: Any) -> None:
        gc.collect()
        assert [ref() for ref in before] == [None, None]
        torch_model.itself = torch_model  # libraries leave such circles
        trained.append(weakref.ref(torch_model))

    model.train(trainer, {}, {})
    assert trained[0]() is None
    assert [len(r.token_ids) for r in model.generate(prompts[:1], SHORT)] != []


def test_an_engine_that_fills_the_device_and_the_others_make_room(
    base_model: Path, store: RolloutStore, prompts: list[Prompt]
) -> None:
    """Where none fills it, models stay; where one does, it and the others take turns."""

    class Filling(TransformersEngine):
        name = "filling"

        def fills_the_device(self) -> bool:
            return True

    engine, judge, filling = (
        kind(model=str(base_model), batch_size=3, device="cpu")
        for kind in (TransformersEngine, TransformersEngine, Filling)
    )
    held: list[list[bool]] = []
    model = Model(engine, store, Reporter(quiet=True), beside=(judge, filling))
    for number, asked in enumerate((model, model.judged_by(judge), model.judged_by(filling), model)):
        asked.generate([ask(f"Clear? {number}")], SHORT)
        held.append([each._loaded is not None for each in (engine, judge, filling)])
    assert held == [[True, False, False], [True, True, False], [False, False, True], [True, False, False]]
    assert len(model.judged_by(judge).beside) == 2


def test_the_sentences_of_a_response_are_read_in_one_pass(model: Model, prompts: list[Prompt]) -> None:
    """Each has the states of a response that ends with it; the prompt and the response are read once."""
    responses = [replace(r, token_ids=r.token_ids[:6]) for r in model.generate(prompts[:2], Sampling(max_tokens=8))]
    spans = [[(0, 2), (2, 6)], [(1, 4)]]
    read: list[int] = []
    decoder = model.engine._load().model.get_decoder()  # type: ignore[attr-defined]
    handle = decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: read.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    states = model.hidden(prompts[:2], responses, 1, "mean", spans)
    handle.remove()
    assert sum(read) == 2
    apart = [
        model.hidden(
            [replace(prompts[i], prefix_ids=responses[i].token_ids[:start])],
            [replace(responses[i], token_ids=responses[i].token_ids[start:end])],
            1,
            "mean",
        )[0]
        for i, found in enumerate(spans)
        for start, end in found
    ]
    assert states == pytest.approx(np.array(apart), abs=1e-5)


@pytest.fixture
def with_broken(prompts: list[Prompt], image_files: list[str], tmp_path: Path) -> list[Prompt]:
    """Prompts of which the second has an empty image and the last a good and a torn one."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "torn.png").write_bytes(Path(image_files[0]).read_bytes()[:900])
    empty, torn = (
        ask("Clear?", [str(tmp_path / "empty.png")]),
        ask("Clear?", [image_files[0], str(tmp_path / "torn.png")]),
    )
    return [prompts[0], empty, *prompts[1:], torn]


def test_an_image_that_cannot_be_read_costs_its_prompt(
    model: Model, prompts: list[Prompt], with_broken: list[Prompt]
) -> None:
    """Whatever batch it falls into: the others are answered and kept, and the next time nothing else is asked."""
    responses = model.generate(with_broken, SHORT)
    assert [response.finish_reason == "image_unreadable" for response in responses] == [False, True, *[False] * 4, True]
    assert all(response.text == "" and not response.token_ids for response in (responses[1], responses[-1]))
    assert [Path(path).name for path in sorted(model.unreadable)] == ["empty.png", "torn.png"]
    kept = [responses[0], *responses[2:-1]]
    asked = {key for row in model.keys(with_broken, SHORT) for key in row}
    assert len(model.store.read(sorted(asked))) == 5
    assert model.generate(prompts, SHORT) == kept
    assert model.generate(with_broken, SHORT) == responses
    again = model.sample(with_broken, 2, WARM)
    assert [row[1].finish_reason == "image_unreadable" for row in again] == [False, True, *[False] * 4, True]
    assert model.readable(with_broken) == [True, False, *[True] * 4, False]


def test_a_strict_model_stops_at_an_image_that_cannot_be_read(model: Model, with_broken: list[Prompt]) -> None:
    strict = replace(model, strict=True)
    with pytest.raises(ImageError, match=r"(empty|torn)\.png cannot be read"):
        strict.generate(with_broken, SHORT)
    with pytest.raises(ImageError, match=r"empty\.png cannot be read"):
        strict.readable(with_broken)


def test_there_is_no_number_for_an_image_that_cannot_be_read(model: Model, with_broken: list[Prompt]) -> None:
    """Who asks all the same is told which one, when the others are answered and kept."""
    for _ in range(2):
        with pytest.raises(ImageError, match=r"(empty|torn)\.png cannot be read"):
            model.score(with_broken, ("yes" + END, "no" + END))
    good = [prompt for prompt, ok in zip(with_broken, model.readable(with_broken), strict=True) if ok]
    assert np.isfinite(model.score(good, ("yes" + END, "no" + END))).all()
    responses = model.generate(good, SHORT)
    with pytest.raises(ImageError, match=r"(empty|torn)\.png cannot be read"):
        model.hidden(with_broken, [responses[0]] * len(with_broken), -1, "last")


def test_a_replica_says_which_prompts_have_no_answer(engine: TransformersEngine, with_broken: list[Prompt]) -> None:
    """A call and its answers travel between processes, the errors among them with the files' names."""
    call = pickle.loads(pickle.dumps(Call("score", (with_broken[-2:], [["yes"], ["no"]], None))))
    scores, error = pickle.loads(pickle.dumps(call.run(engine))).answers
    assert len(scores) == 1
    assert isinstance(error, ImageError)
    assert error.path == with_broken[-1].images[1]


def test_an_image_file_that_is_gone_is_no_broken_image(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png cannot be read \(No such file") as caught:
        model.generate([ask("Clear?", [str(tmp_path / "absent.png")])], SHORT)
    assert not isinstance(caught.value, ImageError)


def test_keys_tell_how_an_image_is_seen(model: Model, tmp_path: Path) -> None:
    """Images that are seen as they are stored have the keys that they always had: those of their bytes alone."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey).save(tmp_path / "plain.png")
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "deep.png")
    plain, turned, deep = (tmp_path / f"{name}.png" for name in ("plain", "turned", "deep"))
    assert image_digest(plain) == file_digest(plain)
    assert image_digest(turned) == f"{file_digest(turned)} turned"
    assert image_digest(deep) == f"{file_digest(deep)} windowed"
