"""Which stages are run, what an ablation leaves out, and what is made before the first one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starcaster_core.errors import InputError
from starcaster_core.presets import PRESETS
from starcaster_core.training import prepare
from starcaster_core.training.recipe import ablate, choose_stages, unfrozen
from starcaster_core.training.recipes import RECIPES

MINI = RECIPES["mini"]


def names(stages):
    return [stage.name for stage in stages]


def test_stages_are_chosen_by_number_or_name():
    assert choose_stages(MINI, ["all"]) == MINI[:-2]  # chunks and voices are optional
    assert names(choose_stages(MINI, ["0"])) == ["0-backbone", "0-frames"]
    assert names(choose_stages(MINI, ["3", "1-motion"])) == ["1-motion", "3-views"]
    assert names(choose_stages(MINI, ["5"])) == ["5-chunks"]
    assert names(choose_stages(MINI, ["4"])) == names(choose_stages(MINI, ["4-student"])) == ["4-student"]
    with pytest.raises(InputError, match="1-motion"):
        choose_stages(MINI, ["motion"])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_papers_stages_are_in_its_order(recipe):
    motion, *_, forcing, views = (stage for stage in recipe if stage.name[0] in "123")
    assert motion.reference == 0 and motion.recursion == 1 and motion.frames == 16 and motion.lip_start == 0.5
    assert forcing.reference > 0.9 and forcing.recursion >= 2 and forcing.self_forcing == 1
    assert forcing.context_frames[0] == 2 and forcing.drop_identity == forcing.drop_audio == 0.05
    assert views.kinds == (("spatial", 1.0),) and not views.lip_weight
    assert all(stage.trainable for stage in (motion, forcing, views)), "the 2D weights are frozen"


def test_the_student_comes_last_with_a_quarter_of_the_time():
    *before, student = (stage for stage in MINI if not stage.optional)
    assert student.student_steps == 4 and not any(stage.student_steps for stage in before)
    assert 0.2 < student.share / sum(stage.share for stage in MINI if not stage.optional) < 0.25


def test_the_student_of_chunks_learns_temporal_attention_alone_and_looks_back():
    (chunks,) = choose_stages(MINI, ["5"])
    assert set(chunks.trainable) == {"motion_modules", "lora"} and chunks.motion and chunks.frames == 16
    assert chunks.recursion == 2 and chunks.context and chunks.context_frames == (2, 2) and chunks.self_forcing == 1


def test_voices_are_learned_by_what_hears_under_audio_guidance():
    (voices,) = choose_stages(MINI, ["6"])
    assert set(voices.trainable) == {"attn2.audio", "speech_tokens"}
    assert voices.audio_guidance == 0.5 and voices.student_steps == 4
    assert voices.drop_audio == 0  # nothing would learn
    assert all(stage.audio_guidance == 0 for stage in MINI if not stage.optional)


def test_an_ablation_leaves_out_one_thing():
    assert set(names(MINI)) - set(names(ablate(MINI, ["stage3"]))) == {"3-views"}
    assert {stage.lip_weight for stage in ablate(MINI, ["lips"])} == {0.0}
    taught = ablate(MINI, ["self-forcing"])
    assert {stage.self_forcing for stage in taught} == {0.0}
    assert [stage.recursion for stage in taught] == [stage.recursion for stage in MINI]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_one_stage_instead_of_three_trains_all_that_they_train_for_as_long(recipe):
    *before, together = (stage for stage in ablate(recipe, ["stages"]) if not stage.student_steps)
    own = [stage for stage in recipe if stage.name[0] in "123"]
    assert [stage for stage in recipe if stage.name[0] == "0"] == before
    assert set(together.trainable) == {part for stage in own for part in stage.trainable}
    assert together.share == pytest.approx(sum(stage.share for stage in own))
    assert together.steps == sum(stage.steps for stage in own)
    assert {kind for kind, share in together.kinds if share > 0} == {"temporal", "spatial"}
    assert sum(share for _, share in together.kinds) == pytest.approx(1)
    assert together.reference > 0.9 and together.self_forcing == 1 and together.lip_weight


def test_an_unfrozen_recipe_trains_all_of_the_denoiser_and_is_otherwise_the_same():
    free = unfrozen(MINI)
    assert all(not stage.trainable for stage in free)
    assert [replace(stage, trainable=()) for stage in MINI] == list(free)


@pytest.fixture
def made(monkeypatch):
    """What `prepare` would have made, in order"""
    order = []

    def stub(name):
        def make(*args, **kwargs):
            order.append(name)
            return prepare.Path(f"made/{name}")

        return make

    for name in ("render", "train_autoencoder", "train_speech", "train_lipreader", "encode_shards"):
        monkeypatch.setattr(prepare, name, stub(name))
    monkeypatch.setattr(prepare, "new_model", lambda *args: _Model())
    monkeypatch.setattr(prepare, "load_checkpoint", lambda name: _Model())
    return order


class _Model:
    def to(self, device):
        return self


def test_with_nothing_given_everything_is_made(made, tmp_path):
    materials = prepare.prepare(PRESETS["mini"], tmp_path, 25, 0)
    assert made == ["render", "train_autoencoder", "train_speech", "train_lipreader", "encode_shards"]
    assert materials.clips == tmp_path / "clips" and materials.latents == tmp_path / "latents"


def test_what_is_given_is_not_made(made, tmp_path):
    given = {name: tmp_path / name for name in ("latents", "autoencoder", "speech", "lipreader")}
    materials = prepare.prepare(PRESETS["mini"], tmp_path, 25, 0, **given)
    assert made == [] and materials.lipreader == given["lipreader"]
    assert prepare.prepare(PRESETS["mini"], tmp_path, 25, 0, read_lips=False, **given).lipreader is None
    prepare.prepare(PRESETS["mini"], tmp_path, 25, 0, clips=tmp_path, init="mini")
    assert made == ["train_lipreader", "encode_shards"], "a checkpoint brings its helpers along"


def test_the_large_model_is_not_begun_from_nothing(made, tmp_path):
    with pytest.raises(InputError, match="--init"):
        prepare.prepare(PRESETS["sd15"], tmp_path, 25, 0, clips=tmp_path)
