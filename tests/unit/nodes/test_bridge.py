"""The adapter to ComfyUI, piece by piece."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def core(module):
    return module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)


def test_user_errors_arrive_bare(bridge, module):
    errors = module("starcaster_core.errors")

    @bridge.user_errors
    def execute():
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise errors.FaceError("one face", "two", "Crop.") from inner

    with pytest.raises(errors.FaceError) as caught:
        execute()
    assert str(caught.value) == "Wanted one face, got two. Crop."
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    names = [entry.name for entry in caught.traceback]
    assert "execute" not in names, "the frames below the boundary are gone"


def test_other_errors_keep_their_trace(bridge):
    @bridge.user_errors
    def execute():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        execute()
    assert "execute" in [entry.name for entry in caught.traceback]


def test_outputs_stay_in_the_output_folder_and_count_up(bridge, module):
    errors = module("starcaster_core.errors")
    first, subfolder = next(bridge.next_outputs("some/name", ".mp4"))
    assert (first.name, subfolder) == ("name_00001_.mp4", "some")
    first.touch()
    assert next(bridge.next_outputs("some/name", ".mp4"))[0].name == "name_00002_.mp4"
    for bad in ("../x", "a/../../x", "/tmp/x", "C:\\x", "", "a//b"):
        with pytest.raises(errors.InputError):
            next(bridge.next_outputs(bad, ".mp4"))
        with pytest.raises(errors.InputError):
            bridge.identity_output_path(bad)


def test_metadata_follows_the_switch(bridge, monkeypatch):
    node = SimpleNamespace(hidden=SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}}))
    assert {key: json.loads(text) for key, text in bridge.workflow_metadata(node).items()} == {
        "prompt": {"1": {}},
        "workflow": {"nodes": []},
    }
    monkeypatch.setattr(bridge.args, "disable_metadata", True)
    assert bridge.workflow_metadata(node) == {}


def test_sample_inputs_are_copied_once(bridge, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.folder_paths, "get_input_directory", lambda: str(tmp_path))
    bridge.install_sample_inputs()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(bridge.SAMPLE_INPUTS)
    mine = tmp_path / "starcaster_voice.flac"
    mine.write_text("the user's own")
    bridge.install_sample_inputs()
    assert mine.read_text() == "the user's own"


def test_a_read_only_input_folder_is_no_reason_to_fail(bridge, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.folder_paths, "get_input_directory", lambda: str(tmp_path / "missing"))
    bridge.install_sample_inputs()


def test_the_vae_is_core_s_type_and_gives_what_the_model_gives(bridge, core):
    import comfy.sd

    vae = bridge.StarcasterVAE(core.vae)
    assert isinstance(vae, comfy.sd.VAE)
    images = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latents = vae.encode(images)
        assert latents.shape == (3, core.config.autoencoder.latent_channels, 8, 8)
        wanted = core.vae.encode((images.movedim(-1, 1) * 2 - 1).to(core.dtype)).float()
        assert torch.allclose(latents, wanted, atol=1e-5)
        decoded = vae.decode(latents)
        wanted = (core.vae.decode(latents.to(core.dtype)).float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert decoded.shape == images.shape and torch.allclose(decoded, wanted, atol=1e-5)
    assert vae.first_stage_model is not core.vae, "two patchers must not share weights"


def test_a_loaded_model_comes_onto_the_device(bridge, core):
    model = bridge.LoadedModel(core)
    assert model.on_device() is core
    assert model.patcher.model_size() > 0


def answer(core, latents):
    core.unet.merge_adapters()
    try:
        with torch.no_grad():
            identity = core.cache_identity(None)
            bank = core.cache_frames(torch.zeros_like(latents[:, :, :1]), identity)
            speech = core.unet.cache_audio(core.speech_tokens(latents.new_ones(1, 2 + 4, 64)))
            extensions = {"portrait_copy": core.unet.extensions["portrait_copy"].prepare(latents[:, :, :1])}
            condition = core.condition(identity, audio=speech, banks=(bank,), extensions=extensions)
            said = core.unet(latents, torch.tensor([9], device=latents.device), condition)
            return core.vae.decode(said[:, :, 0])
    finally:
        core.unet.unmerge_adapters()


def load_partly(bridge, model, device) -> None:
    """As ComfyUI does where there is hardly any room on the device"""
    model.patcher.patch_model(torch.device(device), lowvram_model_memory=0.1)
    bridge.move_the_rest(model.core, torch.device(device))


@pytest.mark.parametrize("eight_bits", [False, True])
def test_layers_are_comfyui_s_and_answer_as_before_wherever_their_weights_are(bridge, module, eight_bits):
    load_checkpoint = module("starcaster_core.models.checkpoint").load_checkpoint
    core = load_checkpoint("tiny", torch.float32, float8=eight_bits)
    latents = torch.randn(1, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = answer(core, latents)
    model = bridge.LoadedModel(core)
    assert torch.equal(answer(model.on_device(), latents), wanted)

    large = [layer for block in core.unet.blocks() for layer in block.modules() if hasattr(layer, "comfy_cast_weights")]
    held = sum(layer.weight.numel() for layer in large)
    assert held > 0.9 * sum(x.numel() for block in core.unet.blocks() for x in block.parameters())
    assert not any(layer.comfy_cast_weights for layer in large)
    load_partly(bridge, model, "cpu")
    assert all(layer.comfy_cast_weights for layer in large)
    torch.testing.assert_close(answer(core, latents), wanted, rtol=1e-5, atol=1e-5)
    model.patcher.unpatch_model(torch.device("cpu"))
    assert torch.equal(answer(model.on_device(), latents), wanted)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_weights_kept_elsewhere_come_to_where_is_computed(bridge, module, eight_bits):
    """The meta device refuses, as a GPU does, to compute with tensors left on the CPU."""
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32, float8=eight_bits)
    model = bridge.LoadedModel(core)
    model.patcher.load_device = torch.device("meta")
    load_partly(bridge, model, "meta")
    assert core.device.type == "meta" and core.unet.mid_block.resnets[0].conv1.weight.device.type == "cpu"
    assert module("starcaster_core.models.offload").is_offloaded(core.unet)  # hence no CUDA graphs
    assert answer(core, torch.zeros(1, 16, 2, 16, 16, device="meta")).device.type == "meta"


def test_comfyui_s_layers_can_be_compiled(bridge, module, monkeypatch, recwarn):
    execution = module("starcaster_core.sampling.execution")
    core = bridge.LoadedModel(module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)).core
    latents = torch.randn(1, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = answer(core, latents)
    monkeypatch.setattr(execution, "COMPILER", "eager")
    execution.compile_blocks(core.unet)
    torch.testing.assert_close(answer(core, latents), wanted, rtol=1e-5, atol=1e-5)
    assert all(block.forward.compiled is not None for block in core.unet.blocks()), "the compiler gave up"
    assert not recwarn.list


def test_a_model_is_never_forced_onto_a_device_it_does_not_fit(bridge, core, monkeypatch):
    asked = []
    monkeypatch.setattr(bridge.management, "load_models_gpu", lambda models, **wishes: asked.append(wishes))
    model = bridge.LoadedModel(core)
    model.on_device()
    assert asked == [{"memory_required": model._activations}] and model._activations > 0


def test_progress_counts_steps_over_all_chunks_and_previews_now_and_then(bridge, monkeypatch):
    calls = []
    progress = bridge.SamplingProgress(None)
    monkeypatch.setattr(progress.bar, "update_absolute", lambda *arguments: calls.append(arguments))
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    for chunk in range(2):
        for step in (1, 2, 3):
            progress(SimpleNamespace(chunk=chunk, chunks=2, step=step, steps=3, preview=lambda: picture))
    assert [(done, total) for done, total, _ in calls] == [(n, 6) for n in range(1, 7)]
    assert [preview is not None for _, _, preview in calls] == [True, False, False, False, False, True]


def test_a_missing_identity_file_is_named(bridge, module):
    with pytest.raises(module("starcaster_core.errors").InputError, match="not there"):
        bridge.input_path("gone.identity.safetensors")


def test_precision_names(bridge):
    assert bridge.choose_dtype("float16") is torch.float16
    assert bridge.choose_dtype("float8") is None, "stored in eight bits, computed as auto does"
    assert bridge.choose_dtype("auto") is None, "on a CPU the core decides"


def test_assets_exist(bridge):
    for asset in bridge.SAMPLE_INPUTS.values():
        assert (Path(bridge.ASSETS) / asset).is_file()
