"""What the nodes do with what they are given, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def errors(module):
    return module("starcaster_core.errors")


@pytest.mark.parametrize("preset", ["mini", "sd15"])
def test_a_sampler_just_dropped_samples_as_the_model_does(module, preset):
    config, sampler = module("starcaster_core.presets").PRESETS[preset], module("nodes.sampler")
    widgets = {i.id: i for i in sampler.Sampler.define_schema().inputs}
    names = [name for name, widget in widgets.items() if getattr(widget, "default", None) is not None]
    values = {name: widgets[name].default for name in names if name not in ("seconds", "on_fault", "redo")}
    own = module("starcaster_core.sampling.settings").SamplerSettings.of(config)
    assert sampler.chosen_settings(config, values) == own
    assert (widgets["seed"].min, widgets["seed"].max) == (0, 2**64 - 1)


def test_old_workflows_keep_their_values(module):
    """Values that were saved before the widgets knew "the model's own" mean what they meant."""
    config, sampler = module("starcaster_core.presets").PRESETS["mini"], module("nodes.sampler")
    saved = {
        "seed": 1,
        "steps": 25,
        "scheduler": "dpmpp",
        "guidance_scale": 0.0,
        "context_frames": 0,
        "guidance_end": 0.0,
    }
    settings = sampler.chosen_settings(config, saved)
    assert all(getattr(settings, name) == value for name, value in saved.items())


def test_frames_for_the_video(module, errors):
    combine = module("nodes.video")
    vae = SimpleNamespace(decode=lambda latents: latents.movedim(1, -1).repeat(1, 2, 2, 1))
    latents = torch.rand(35, 3, 4, 4)
    count, slices = combine._frames({"samples": latents}, vae, None)
    parts = list(slices)
    assert count == 35 and [len(part) for part in parts] == [16, 16, 3]
    count, slices = combine._frames({"samples": latents.movedim(0, 1)[None]}, vae, None)
    assert torch.equal(torch.cat(list(slices)), torch.cat(parts)), "[B, C, T, h, w] means the same"
    count, slices = combine._frames(None, None, torch.rand(5, 8, 8, 4))
    assert count == 5 and next(slices).shape == (5, 8, 8, 3)
    for arguments in ((None, None, None), ({"samples": latents}, None, None), ({"samples": latents}, vae, latents)):
        with pytest.raises(errors.InputError):
            combine._frames(*arguments)


def test_empty_masks_count_as_none(module):
    masks = module("nodes.identity")._masks
    painted = torch.zeros(1, 8, 8)
    painted[0, 2:4, 2:4] = 1
    assert masks(None, 2) is None
    assert masks(torch.zeros(1, 64, 64), 2) == [None, None]
    both = masks(painted, 2)
    assert len(both) == 2 and all(np.array_equal(mask, painted[0].numpy()) for mask in both)


def test_identity_needs_a_source(module, errors):
    with pytest.raises(errors.InputError, match="Connect an image"):
        module("nodes.identity").IdentityLoader.execute(identity_file="none", face="single", save_as="")


def test_an_identity_from_the_side_is_remarked_on(module, bridge, monkeypatch, tmp_path):
    node, types = module("nodes.identity"), module("starcaster_core.types")
    told = []
    monkeypatch.setattr(node.IdentityLoader, "hidden", SimpleNamespace(unique_id="7"))
    monkeypatch.setattr(node, "tell_user", lambda node_id, sentence: told.append((node_id, sentence)))
    monkeypatch.setattr(node, "input_path", lambda name: tmp_path / name)
    save = module("starcaster_core.identity").save_identity
    for yaw in (0.0, -40.0):
        save(tmp_path / "who", types.Identity(np.ones(128, np.float32), yaw=yaw))
        identity, _ = node.IdentityLoader.execute(identity_file="who", face="single", save_as="").args
        assert identity.yaw == yaw
    assert told[0] == ("7", "") and "40 degrees" in told[1][1]


def core_encoder(module, layers: int = 12):
    """Core's AUDIO_ENCODER, wav2vec2 in small, but for what moves it onto a device."""
    import comfy.ops
    from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model

    base = {"conv_norm": False, "conv_bias": False, "do_normalize": False, "do_stable_layer_norm": False}
    network = Wav2Vec2Model(embed_dim=768, num_heads=12, num_layers=layers, **base, operations=comfy.ops.manual_cast)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
    return SimpleNamespace(model=network.eval(), patcher=None, load_device=torch.device("cpu"))


@pytest.mark.slow
@torch.no_grad()
def test_core_s_audio_encoder_gives_what_our_own_gives(module, bridge, monkeypatch):
    monkeypatch.setattr(bridge.management, "load_model_gpu", lambda _: None)
    wav2vec2 = module("starcaster_core.speech.wav2vec2")
    core = core_encoder(module)
    own = wav2vec2.Wav2Vec2Encoder().eval()
    weights = core.model.state_dict()
    del weights["masked_spec_embed"]
    own.network.load_state_dict(weights)
    samples = torch.randn(8000, generator=torch.Generator().manual_seed(0)) * 0.1
    theirs = wav2vec2.encode_with(*bridge.core_wav2vec2(core), samples, 25.0)
    ours = own.encode(samples, 25.0)
    assert theirs.features.shape == (12, 9216) and theirs.encoder == "wav2vec2-base"
    torch.testing.assert_close(theirs.features, ours.features, rtol=1e-3, atol=1e-4)


def test_other_audio_encoders_are_refused(module, bridge, errors, monkeypatch):
    monkeypatch.setattr(bridge.management, "load_model_gpu", lambda _: None)
    with pytest.raises(errors.InputError, match="wav2vec2"):
        bridge.core_wav2vec2(SimpleNamespace(model=torch.nn.Linear(1, 1)))
    halves = bridge.core_wav2vec2(core_encoder(module, layers=2))
    with torch.no_grad(), pytest.raises(errors.InputError, match="2 layers of 768"):
        module("starcaster_core.speech.wav2vec2").encode_with(*halves, torch.zeros(1000), 25.0)


def test_the_identity_loader_asks_the_model_for_its_backend(module, errors, bridge):
    core = SimpleNamespace(config=module("starcaster_core.presets").PRESETS["sd15"])
    checkpoint_error = errors.CheckpointError
    with pytest.raises(checkpoint_error, match=r"scrfd_10g_bnkps.onnx.*models/starcaster"):
        module("nodes.identity").IdentityLoader.execute(
            identity_file="none",
            face="single",
            save_as="",
            image=torch.zeros(1, 64, 64, 3),
            model=SimpleNamespace(core=core),
        )
    assert any(path.name == "starcaster" for path in bridge.face_model_folders())


def test_assembling_names_the_folder_of_what_is_missing(module, errors):
    node = module("nodes.assemble").AssembleCheckpoint
    widgets = {i.id: i for i in node.define_schema().inputs}
    nothing = {name: "none" for name in widgets if name not in ("precision", "save_as")}
    with pytest.raises(errors.InputError, match="Arc2Face, in ComfyUI/models/diffusion_models"):
        node.execute(precision="float16", save_as="sd15", **nothing)
    with pytest.raises(errors.InputError):
        node.execute(precision="float16", save_as="../sd15", **nothing)
    with pytest.raises(errors.InputError, match="not there"):
        node.execute(precision="float16", save_as="sd15", **{**nothing, "unet": "vae/gone.safetensors"})


def test_files_of_the_model_folders_are_offered(module, bridge, tmp_path, monkeypatch):
    folder = tmp_path / "vae"
    folder.mkdir()
    for name in ("a.safetensors", "b.ckpt", "readme.txt"):
        (folder / name).touch()
    monkeypatch.setitem(bridge.folder_paths.folder_names_and_paths, "vae", ([str(folder)], set()))
    assert bridge.public_files(("vae", "no_such_folder")) == ["vae/a.safetensors", "vae/b.ckpt"]
    assert bridge.public_path("vae/b.ckpt") == folder / "b.ckpt"
    assert "animatediff_models" in bridge.folder_paths.folder_names_and_paths


def test_the_sampler_tells_of_streams_that_are_not_trained(module, monkeypatch):
    sampler, said = module("nodes.sampler"), []
    monkeypatch.setattr(sampler, "tell_user", lambda _, sentence: said.append(sentence))
    monkeypatch.setattr(sampler.Sampler, "hidden", SimpleNamespace(unique_id=None))
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny")
    core.untrained = ("audio",)
    speech = module("starcaster_core.types").Speech(torch.zeros(1, 64), 0.04, "phonetic")
    identity = module("starcaster_core.types").Identity(np.ones(128, np.float32), None)
    model = SimpleNamespace(core=core, execution=None, on_device=lambda: core)
    with torch.no_grad():
        sampler.Sampler.execute(model, identity, 1.0, speech=speech, steps=1, use_reference=False)
    assert "mouth will not follow" in said[0]


def test_execution_options_reach_the_network_and_leave_the_model_that_came_in(module, bridge, monkeypatch):
    node, pipeline = module("nodes.execution").ExecutionOptions, module("starcaster_core.pipeline")
    execution = module("starcaster_core.sampling.execution").Execution
    model = bridge.LoadedModel(module("starcaster_core.models.checkpoint").load_checkpoint("tiny"))
    (other,) = node.execute(model, batch_guidance="on", compile=True, cuda_graphs=False).result
    assert other.execution == execution(batch_guidance=True, compile=True, cuda_graphs=False)
    assert model.execution == execution() and other.core is model.core
    assert (
        node.execute(model, batch_guidance="auto", compile=False, cuda_graphs=False).result[0].execution == execution()
    )

    asked = []
    monkeypatch.setattr(
        pipeline, "generate_latents", lambda *a, **options: asked.append(options["execution"]) or iter(())
    )
    monkeypatch.setattr(module("nodes.sampler").Sampler, "hidden", SimpleNamespace(unique_id=None))
    identity = module("starcaster_core.types").Identity(np.ones(128, np.float32), None)
    for one in (model, other):
        with pytest.raises((RuntimeError, ValueError)):  # nothing to join
            module("nodes.sampler").Sampler.execute(one, identity, 1.0)
    assert asked == [model.execution, other.execution]


def test_core_s_face_landmarks_say_where_mouth_and_eyes_are(module, monkeypatch):
    node, landmarks = module("nodes.identity"), module("starcaster_core.identity.landmarks")
    monkeypatch.setattr(node.IdentityLoader, "hidden", SimpleNamespace(unique_id="7"))
    assets = Path(__file__).parents[3] / "starcaster_core" / "assets"
    photo = module("starcaster_core.identity").read_picture(assets / "portrait.png")
    image = torch.from_numpy(photo).float()[None] / 255
    face = landmarks.find_landmarks(photo)

    def connected(move: float):
        points = face.points + [move, 0, 0]
        known = {
            "landmarks_xy": points[:, :2],
            "landmarks_3d": points,
            "blendshapes": dict(zip(landmarks.BLENDSHAPES, face.blendshapes.tolist())),
            "presence": 12.0,
        }
        found = {"frames": [[known]]}
        return node.IdentityLoader.execute("none", "single", "", image=image, face_landmarks=found).args[0]

    alone = node.IdentityLoader.execute("none", "single", "", image=image).args[0]
    assert np.abs(connected(0).regions - alone.regions).max() < 0.01
    assert connected(20).regions[0, 0] - alone.regions[0, 0] > 0.02
    with pytest.raises(module("starcaster_core.errors").InputError, match="same picture"):
        connected(400)


def test_names_that_cannot_be_are_refused_before_the_prompt_runs(module):
    combine, loader = module("nodes.video").VideoCombine, module("nodes.identity").IdentityLoader
    for prefix in ("../escaped", "/tmp/escaped", "", "a|b", "a" * 300):
        assert combine.validate_inputs(filename_prefix=prefix).startswith("Wanted a file name inside the output folder")
    for prefix in ("starcaster/video", "%date:yyyy-MM-dd%/%STARCaster Sampler.seed%", None):
        assert combine.validate_inputs(filename_prefix=prefix) is True
    assert loader.validate_inputs(save_as="../me").startswith("Wanted")
    assert loader.validate_inputs(save_as=" ") is True and loader.validate_inputs(save_as="me") is True


def test_more_frames_than_the_memory_holds_are_refused_at_once(module, bridge, errors, monkeypatch, tmp_path):
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)
    identity = module("starcaster_core.types").Identity(np.ones(128, np.float32))
    latent = {"samples": torch.zeros(1, 16, 8, 8).expand(10**9, -1, -1, -1)}
    decode, combine, sampler = (module(f"nodes.{name}") for name in ("decode", "video", "sampler"))
    for node in (decode.Decode, combine.VideoCombine, sampler.Sampler):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None))
    with pytest.raises(Exception, match=r"free memory for 1000000000 frames of .* STARCaster Video Combine instead"):
        decode.Decode.execute(latent, bridge.LoadedModel(core), identity, "face", 0)
    monkeypatch.setattr(bridge.folder_paths, "get_output_directory", lambda: str(tmp_path))
    with pytest.raises(Exception, match=r"of free disk for 1000000000 frames"):
        combine.VideoCombine.execute(
            25, "png", 18, "video", samples=latent, model=bridge.LoadedModel(core), identity=identity
        )
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(module("nodes.latents"), "free_memory", lambda: 1000)
    with pytest.raises(Exception, match=r"free memory for the samples of 25 frames"):
        sampler.Sampler.execute(bridge.LoadedModel(core), identity, seconds=1.0)
