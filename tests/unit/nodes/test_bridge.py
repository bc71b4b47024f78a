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
    first, subfolder = bridge.next_output("some/name", ".mp4")
    assert (first.name, subfolder) == ("name_00001_.mp4", "some")
    first.touch()
    assert bridge.next_output("some/name", ".mp4")[0].name == "name_00002_.mp4"
    for bad in ("../x", "a/../../x", "/tmp/x", "C:\\x", "", "a//b"):
        with pytest.raises(errors.InputError):
            bridge.next_output(bad, ".mp4")
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


def test_a_model_too_large_for_its_device_is_sampled_block_by_block(bridge, core, monkeypatch):
    model = bridge.LoadedModel(core)
    with model.sampling() as whole:
        assert whole is core and not core.unet.mid_block.resnets[0]._forward_hooks
    latents = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0)).to(core.dtype)

    def answer():
        with torch.no_grad():
            condition = core.condition(core.cache_identity(None))
            return core.unet(latents, torch.tensor([9]), condition)

    wanted = answer()
    monkeypatch.setattr(bridge.management, "is_device_cpu", lambda device: False)
    for memory, offloaded in ((2**20, True), (2**40, False)):
        monkeypatch.setattr(bridge.management, "get_total_memory", lambda device, memory=memory: memory)
        monkeypatch.setattr(bridge.management, "vram_state", bridge.management.VRAMState.NORMAL_VRAM)
        assert model._fits() != offloaded
    monkeypatch.setattr(bridge.management, "vram_state", bridge.management.VRAMState.LOW_VRAM)
    assert not model._fits()
    with model.sampling() as core_again:
        assert core_again is core
        assert all(block._forward_hooks for block in core.unet.blocks())
        assert torch.equal(answer(), wanted)
    assert not any(block._forward_hooks for block in core.unet.blocks())
    assert torch.equal(answer(), wanted)


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
