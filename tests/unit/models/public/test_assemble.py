"""From public files to one checkpoint: what is in it, what it does, what it says of itself. Small networks stand in."""

from __future__ import annotations

import json
import re
import wave
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from provision_comfyui import REPO
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from starcaster_core.cli import main
from starcaster_core.errors import CheckpointError, InputError
from starcaster_core.identity import save_identity
from starcaster_core.models import starcaster as whole
from starcaster_core.models.autoencoder import StableDiffusionAutoencoder
from starcaster_core.models.checkpoint import load_checkpoint, random_model, read_checkpoint, save_checkpoint
from starcaster_core.models.public.assemble import Ingredients, assemble
from starcaster_core.models.public.delta import open_delta, save_delta
from starcaster_core.models.public.parts import PUBLIC_FILES
from starcaster_core.models.public.weights import Lazy, sha256
from starcaster_core.models.public.writer import write_streaming
from starcaster_core.models.weight_groups import GROUPS, group_of
from starcaster_core.presets import PRESETS
from starcaster_core.types import Identity, Speech

FULL = PRESETS["sd15"]


@pytest.fixture(scope="module")
def config(tools):
    conditioning = replace(FULL.conditioning, speech_hidden=16, camera_hidden=16, speech_dim=24)
    return replace(FULL, unet=tools.TINY_UNET, conditioning=conditioning, image_size=64)


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch, tools):
    """The three encoders whose sizes are fixed, in small."""

    class Text(torch.nn.Module):
        def __init__(self, _config):
            super().__init__()
            model = tools.small_clip()
            self.text = getattr(model, "text_model", model)

        def forward(self, embedding):
            return embedding[:, :120].reshape(-1, 5, 24)

        def unconditional(self, batch):
            return torch.zeros(batch, 5, 24, dtype=next(self.parameters()).dtype)

    class Vae(StableDiffusionAutoencoder):
        def __init__(self, config):
            torch.nn.Module.__init__(self)
            self.config, self.kl = config, tools.small_vae()

    class Speech(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = tools.small_wav2vec2()

    monkeypatch.setattr(whole, "build_identity_encoder", Text)
    monkeypatch.setattr(whole, "build_autoencoder", Vae)
    monkeypatch.setattr("starcaster_core.speech.wav2vec2.Wav2Vec2Encoder", Speech)


@pytest.fixture(scope="module")
def nets(tools):
    return SimpleNamespace(
        unet=tools.small_unet(tools.TINY_UNET),
        vae=tools.small_vae(),
        motion=tools.small_adapter(tools.TINY_UNET),
        clip=tools.small_clip(),
        wav2vec2=tools.small_wav2vec2(),
    )


@pytest.fixture(scope="module")
def files(nets, tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    nets.unet.save_pretrained(folder / "arc2face")
    nets.clip.save_pretrained(folder / "encoder")
    vae = {tools.original_vae_name(name): value for name, value in nets.vae.state_dict().items()}
    tools.save(folder / "vae.safetensors", vae)
    torch.save(tools.original_motion_names(nets.motion.state_dict()), folder / "mm.ckpt")
    tools.save(folder / "wav2vec2.safetensors", nets.wav2vec2.state_dict())
    return SimpleNamespace(
        folder=folder,
        needed={
            "unet": folder / "arc2face",
            "identity_encoder": folder / "encoder",
            "vae": folder / "vae.safetensors",
        },
        motion=folder / "mm.ckpt",
        audio_encoder=folder / "wav2vec2.safetensors",
    )


@pytest.fixture
def assembled(files, config, tmp_path):
    def run(precision="float32", **more):
        out = tmp_path / "sd15.safetensors"
        assemble(Ingredients(**files.needed, **more), out, precision, config)
        return out

    return run


def test_every_part_arrives_where_it_belongs(assembled, files, nets, tools):
    path = assembled(motion=files.motion, audio_encoder=files.audio_encoder)
    weights = load_file(path)
    clip = {name.removeprefix("text_model."): value for name, value in nets.clip.state_dict().items()}
    for prefix, wanted in (
        ("unet.", nets.unet.state_dict()),
        ("unet.", nets.motion.state_dict()),
        ("vae.kl.", nets.vae.state_dict()),
        ("identity_tokens.text.", clip),
        ("speech_encoder.network.", nets.wav2vec2.state_dict()),
    ):
        for name, value in wanted.items():
            assert torch.equal(weights[prefix + name], value), name
    model = load_checkpoint(path, dtype=torch.float32)
    assert model.config.conditioning.wav2vec2_inside
    assert model.config.noise.beta_schedule == "linear", "what AnimateDiff was trained with"
    assert model.untrained == ("lora", "audio", "camera")


def test_the_file_says_what_it_was_made_of(assembled, files):
    _, _, provenance = read_checkpoint(assembled(motion=files.motion))
    parts = provenance["parts"]
    assert parts.keys() == {"unet", "identity_encoder", "vae", "motion"}
    assert parts["motion"]["sha256"] == sha256(files.motion) and len(parts["motion"]["sha256"]) == 64
    assert parts["vae"]["layout"] == "original" and parts["unet"]["layout"] == "diffusers"
    assert provenance["untrained"] == ["lora", "audio", "camera"]


@torch.no_grad()
def test_untrained_streams_change_nothing(assembled, files, nets, tools):
    """Speech, camera and adapters at full strength: the output is that of the public networks alone."""
    from diffusers import UNetMotionModel

    from starcaster_core.models.attention_cache import cache_condition

    unet = load_checkpoint(assembled(motion=files.motion), dtype=torch.float32).unet
    generator = torch.Generator().manual_seed(3)
    latents, tokens = torch.randn(1, 4, 3, 16, 16, generator=generator), torch.randn(1, 5, 24, generator=generator)
    stream = torch.randn(1, 3, 4, 24, generator=generator)
    identity = unet.cache_identity(tokens)
    condition = cache_condition(identity, audio=unet.cache_audio(stream), camera=unet.cache_camera(stream))
    ours = unet(latents, torch.tensor([500]), condition)

    theirs = UNetMotionModel.from_unet2d(nets.unet, nets.motion).eval()
    wanted = theirs(latents, torch.tensor([500]), encoder_hidden_states=tokens.repeat_interleave(3, 0)).sample
    assert float((ours - wanted).abs().max() / wanted.abs().max()) < 1e-4


def test_asking_for_an_untrained_stream_is_told(assembled):
    model = load_checkpoint(assembled(), dtype=torch.float32)
    assert model.untrained == tuple(GROUPS)
    speech = Speech(torch.zeros(3, 24), 0.12, "wav2vec2-base")
    (warning,) = model.warnings(speech, None)
    assert "mouth will not follow" in warning and "delta" in warning
    assert not model.warnings(None, None)
    assert not random_model(PRESETS["tiny"]).warnings(speech, None)


def test_assembling_twice_gives_the_same_bytes(assembled):
    first = assembled().read_bytes()
    torch.manual_seed(99)
    assert assembled().read_bytes() == first


def test_half_precision_is_the_rounded_float(assembled, nets):
    weights = load_file(assembled("float16"))
    name = "conv_in.weight"
    assert torch.equal(weights["unet." + name], nets.unet.state_dict()[name].half())
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_a_module_without_a_middle_is_silent_there(assembled, tools, files):
    path = tools.save(
        files.folder / "v3.safetensors",
        tools.small_adapter(tools.TINY_UNET, middle=False, frames=24).state_dict(),
    )
    out = assembled(motion=path)
    model = load_checkpoint(out, dtype=torch.float32)
    assert "motion" not in model.untrained
    assert not model.unet.mid_block.motion_modules[0].proj_out.weight.any()
    assert model.config.unet.motion_max_seq_length == 24
    assert read_checkpoint(out)[2]["parts"]["motion"]["middle"] is False


def trained(config):
    return random_model(config, seed=5)


@pytest.mark.parametrize("groups", [tuple(GROUPS), ("audio", "lora")])
def test_a_delta_brings_its_groups_and_its_configuration(assembled, files, config, tmp_path, groups):
    model = trained(replace(config, guidance_scale=1.5))
    save_delta(tmp_path / "delta.safetensors", model.config, model.state_dict(), {"steps": 7}, groups, torch.float32)
    out = assembled(motion=files.motion, delta=tmp_path / "delta.safetensors")
    loaded = load_checkpoint(out, dtype=torch.float32)
    assert loaded.config.guidance_scale == 1.5
    assert loaded.config.noise == config.noise, "a delta's own, not AnimateDiff's"
    assert set(loaded.untrained) == set(GROUPS) - set(groups) - {"motion"}
    mine, its = model.state_dict(), loaded.state_dict()
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.audio.to_v.weight"
    assert torch.equal(mine[name], its[name]) and mine[name].any()
    assert torch.equal(mine["speech_tokens.mlp.1.weight"], its["speech_tokens.mlp.1.weight"])
    moved = "unet.down_blocks.0.motion_modules.0.proj_in.weight"
    assert torch.equal(mine[moved], its[moved]) == ("motion" in groups)
    facts = read_checkpoint(out)[2]["parts"]["delta"]
    assert facts["provenance"] == {"steps": 7} and facts["groups"] == list(groups)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen", "foreign", "truncated"])
def test_broken_deltas_are_refused(assembled, config, tmp_path, fault):
    path = tmp_path / "delta.safetensors"
    save_delta(path, config, trained(config).state_dict(), {}, ("audio",))
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    name = "speech_tokens.norm.weight"
    if fault == "missing":
        del weights[name]
    elif fault == "misshapen":
        weights[name] = weights[name][:1]
    elif fault == "unexpected":
        name = "camera_tokens.norm.weight"  # of a group it does not say it has
        weights[name] = torch.zeros(1)
    elif fault == "foreign":
        metadata, name = None, "which is none"
    save_file(weights, path, metadata)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
        name = "which is none"
    with pytest.raises(CheckpointError, match=name):
        assembled(delta=path)


def test_unknown_groups_are_refused(config, tmp_path):
    with pytest.raises(InputError, match="gaze"):
        save_delta(tmp_path / "x.safetensors", config, {}, {}, ("gaze",))


def test_the_command_makes_a_delta_of_what_was_trained(assembled, files, config, tmp_path, capsys):
    """Assembled with the same public files it is the trained checkpoint again."""
    model = load_checkpoint(assembled(motion=files.motion), dtype=torch.float32)
    weights = trained(model.config).state_dict()
    for name, value in model.state_dict().items():
        if group_of(name) in ("audio", "lora"):
            value.copy_(weights[name])
    model.untrained = ("camera",)
    checkpoint, delta = tmp_path / "2-audio.safetensors", tmp_path / "delta.safetensors"
    made_with = {"stage": {"name": "2-audio", "trainable": ["lora", "attn2.audio"]}}
    save_checkpoint(checkpoint, model, made_with, torch.float32)
    command = ["delta", "--checkpoint", str(checkpoint), "--precision", "float32", "--out", str(delta)]
    assert main(command) == 0
    assert (
        open_delta(delta)[1]["groups"] == ["lora", "audio", "motion"]
        and "audio, lora, motion" in capsys.readouterr().out
    )

    again = load_checkpoint(assembled(motion=files.motion, delta=delta), dtype=torch.float32)
    assert again.untrained == ("camera",)
    mine, its = model.state_dict(), again.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    assert read_checkpoint(tmp_path / "sd15.safetensors")[2]["parts"]["delta"]["provenance"] == made_with

    assert main([*command, "--groups", "camera"]) == 1
    assert "camera, untrained in" in capsys.readouterr().err
    made_with["stage"]["trainable"] = []
    save_checkpoint(checkpoint, model, made_with, torch.float32)
    assert main(command) == 1
    assert "stage 2-audio trained the image weights too" in capsys.readouterr().err


# LCM-LoRA


def lora_of(unet, rank: int = 2, seed: int = 4) -> dict:
    """kohya's names for every linear map and convolution of the UNet."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in unet.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            key, shape = "lora_unet_" + name.replace(".", "_"), module.weight.shape
            ones = (1, 1) if len(shape) == 4 else ()
            weights[f"{key}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator) * 0.1
            weights[f"{key}.lora_up.weight"] = torch.randn(shape[0], rank, *ones, generator=generator) * 0.1
            weights[f"{key}.alpha"] = torch.tensor(3.0)
    return weights


@torch.no_grad()
def test_the_merged_lora_is_the_two_maps_one_after_the_other(assembled, nets, tools, files):
    weights = lora_of(nets.unet)
    path = tools.save(files.folder / "lcm.safetensors", weights)
    out = assembled(lcm_lora=path)
    merged = load_file(out)
    generator = torch.Generator().manual_seed(0)
    for name in ("down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"):
        module = nets.unet.get_submodule(name)
        key = "lora_unet_" + name.replace(".", "_")
        down, up = weights[f"{key}.lora_down.weight"], weights[f"{key}.lora_up.weight"]
        if isinstance(module, torch.nn.Conv2d):
            x = torch.randn(1, module.in_channels, 6, 6, generator=generator)
            run = torch.nn.functional.conv2d
            wanted = module(x) + 3 / 2 * run(run(x, down, padding=1), up)
            ours = run(x, merged[f"unet.{name}.weight"], module.bias, padding=1)
        else:
            x = torch.randn(1, module.in_features, generator=generator)
            wanted, ours = module(x) + 3 / 2 * x @ down.T @ up.T, x @ merged[f"unet.{name}.weight"].T
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    model = load_checkpoint(out, dtype=torch.float32)
    assert (model.config.steps, model.config.guidance_scale) == (4, 1.0)
    assert read_checkpoint(out)[2]["parts"]["lcm_lora"]["merged into"] == len(weights) // 3


def test_diffusers_lora_names_mean_the_same(assembled, nets, tools, files):
    kohya, module = lora_of(nets.unet), "mid_block.resnets.0.conv1"
    key = "lora_unet_" + module.replace(".", "_")
    one = {name: value for name, value in kohya.items() if name.startswith(key + ".")}
    first = load_file(assembled(lcm_lora=tools.save(files.folder / "one.safetensors", one)))
    renamed = {
        f"unet.{module}.lora_A.weight": one[f"{key}.lora_down.weight"],
        f"unet.{module}.lora_B.weight": one[f"{key}.lora_up.weight"] * 1.5,  # alpha / rank, as nothing names it here
    }
    second = load_file(assembled(lcm_lora=tools.save(files.folder / "two.safetensors", renamed)))
    torch.testing.assert_close(first[f"unet.{module}.weight"], second[f"unet.{module}.weight"])
    assert not torch.equal(first[f"unet.{module}.weight"], nets.unet.state_dict()[f"{module}.weight"])


@pytest.mark.parametrize("fault", ["half", "stranger", "misshapen", "text"])
def test_loras_that_do_not_fit_are_refused(assembled, nets, tools, files, fault):
    weights = lora_of(nets.unet)
    name = "lora_unet_conv_in.lora_up.weight"
    if fault == "half":
        del weights[name]
        name = "conv_in.weight"
    elif fault == "misshapen":
        weights[name] = weights[name][:3]
        name = "conv_in.weight"
    else:
        name = "lora_unet_attic.lora_up.weight" if fault == "stranger" else "lora_te_layer.lora_up.weight"
        weights[name] = torch.zeros(1, 1)
    with pytest.raises(CheckpointError, match=name):
        assembled(lcm_lora=tools.save(files.folder / "bad.safetensors", weights))


# Writing


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    alive, most = weakref.WeakSet(), []

    def read():
        tensor = torch.ones(1000)
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    weights = {str(index): Lazy((1000,), read) for index in range(12)}
    write_streaming(tmp_path / "x.safetensors", weights, {"a": "b"}, torch.float32)
    assert max(most) <= 2, "the one being written and the one being read"
    written = load_file(tmp_path / "x.safetensors")
    assert len(written) == 12 and all(value.equal(torch.ones(1000)) for value in written.values())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "a": "b"}


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_what_does_not_fit_into_the_precision_leaves_no_file(tmp_path, value):
    weights = {"fine": Lazy((1,), lambda: torch.ones(1)), "loud": Lazy((1,), lambda: torch.tensor([value]))}
    with pytest.raises(CheckpointError, match="loud"):
        write_streaming(tmp_path / "x.safetensors", weights, {}, torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_failing_part_leaves_the_former_file_alone(assembled, files, config):
    out = assembled()
    before = out.read_bytes()
    with pytest.raises(CheckpointError):
        assemble(Ingredients(**files.needed | {"vae": files.motion}), out, config=config)
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == [out.name]


# The command line


def test_the_command_says_what_it_wrote(files, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("starcaster_core.models.public.assemble.assemble.__defaults__", defaults(config))
    options = [f"--{name.replace('_', '-')}={path}" for name, path in files.needed.items()]
    assert main(["assemble", *options, "--motion", str(files.motion), "--out", str(tmp_path / "a.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "mm.ckpt" in said and "Untrained, and without effect: lora, audio, camera." in said
    assert main(["assemble", *options, "--motion", str(files.motion), "--out", str(tmp_path / "a.ckpt")]) == 1
    assert json.loads(json.dumps(read_checkpoint(tmp_path / "a.safetensors")[0].to_dict()))["name"] == "sd15"


def defaults(config):
    """`assemble`'s own, but for the configuration."""
    precision, _, progress = assemble.__defaults__
    return precision, config, progress


class Listener(torch.nn.Module):
    def encode(self, samples, fps):
        return Speech(torch.zeros(2, 24), 0.08, "wav2vec2-base", fps)


def save_wave(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.arange(1280, dtype=np.int16).tobytes())


def test_an_assembled_model_makes_a_video(assembled, files, tmp_path, monkeypatch, capsys):
    model = assembled(motion=files.motion)
    save_identity(tmp_path / "who.safetensors", Identity(np.arange(512, dtype=np.float32), None, "arcface"))
    save_wave(tmp_path / "voice.wav")
    out = tmp_path / "o.mp4"
    command = ["generate", "--model", str(model), "--identity", str(tmp_path / "who.safetensors"), "--identity-only"]
    command += ["--steps", "1", "--device", "cpu", "--out", str(out)]
    assert main([*command, "--seconds", "0.08"]) == 0 and out.stat().st_size > 500
    assert "untrained" not in capsys.readouterr().err

    assert main([*command, "--speech", str(tmp_path / "voice.wav")]) == 1
    assert "--audio-encoder" in capsys.readouterr().err, "it brings no wav2vec2"
    monkeypatch.setattr("starcaster_core.models.public.wav2vec2.load_wav2vec2", lambda _path: Listener())
    assert main([*command, "--speech", str(tmp_path / "voice.wav"), "--audio-encoder", "wav2vec2.safetensors"]) == 0
    assert "audio stream is untrained" in capsys.readouterr().err


def test_needed_files_are_named(files):
    for name in files.needed:
        described = next(file for file in PUBLIC_FILES if file.name == name)
        with pytest.raises(InputError, match=described.folders[0]):
            Ingredients(**files.needed | {name: None})


def test_the_guide_lists_every_file_with_its_folder():
    guide = (REPO / "docs" / "paper-scale.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("|")]
    for file in PUBLIC_FILES:
        first = re.split(r",? or |, ", file.file)[0].strip("`")
        assert any(first in row and f"models/{file.folders[0]}`" in row for row in rows), file.name
    help_page = (REPO / "web" / "docs" / "STARCaster_AssembleCheckpoint.md").read_text()
    assert all(f"**{file.name}**" in help_page and f"`{file.folders[0]}`" in help_page for file in PUBLIC_FILES)
