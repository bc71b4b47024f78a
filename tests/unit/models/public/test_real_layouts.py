"""Against the real things: the original code's own networks (ComfyUI keeps them), transformers, and the full sizes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from provision_comfyui import locate

from starcaster_core.models.arc2face import END, ID_POSITION, LENGTH, PROMPT, START, Arc2FaceTokens
from starcaster_core.models.attention_cache import cache_condition
from starcaster_core.models.public.assemble import image_unet, meta_model, motion_modules, shapes_of
from starcaster_core.models.public.clip import read_identity_encoder
from starcaster_core.models.public.layouts import below
from starcaster_core.models.public.parameters import PAPER, count_by_part, table
from starcaster_core.models.public.unet import from_original as unet_names
from starcaster_core.models.public.unet import read_unet
from starcaster_core.models.public.vae import from_original as vae_names
from starcaster_core.models.public.vae import read_vae
from starcaster_core.models.public.wav2vec2 import load_wav2vec2
from starcaster_core.models.unet import StarcasterUNet
from starcaster_core.presets import PRESETS, UNetConfig

SD15 = PRESETS["sd15"]


@pytest.fixture(scope="module")
def comfy():
    if not (locate().comfyui / "main.py").exists():
        pytest.skip("no ComfyUI: run `make setup`, or set COMFYUI_PATH")
    sys.path.append(str(locate().comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.ldm.models.autoencoder
    import comfy.ldm.modules.diffusionmodules.openaimodel
    import comfy.ops

    return comfy


def original_unet(comfy, config: UNetConfig):
    """Stable Diffusion's own UNet code. It normalises in 32 groups."""
    width = config.block_out_channels[0]
    return comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=width,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[channels // width for channels in config.block_out_channels],
        num_heads=config.num_attention_heads[0],
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        context_dim=config.cross_attention_dim,
        use_linear_in_transformer=False,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )


def original_vae(comfy, width: int = 128, mult=(1, 2, 4, 4), blocks: int = 2):
    sizes = {"ch": width, "ch_mult": list(mult), "num_res_blocks": blocks, "out_ch": 3, "in_channels": 3}
    sizes |= {"z_channels": 4, "double_z": True, "resolution": 64, "attn_resolutions": [], "dropout": 0.0}
    return comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=sizes, embed_dim=4)


@pytest.fixture(scope="module")
def full_shapes():
    return shapes_of(SD15)


def test_full_size_original_names_are_all_known(comfy, full_shapes, tools):
    with torch.device("meta"):
        unet, vae = original_unet(comfy, SD15.unet), original_vae(comfy)
    for network, names_of, wanted in (
        (unet, unet_names, image_unet(full_shapes)),
        (vae, vae_names, below("vae.kl.", full_shapes)),
    ):
        theirs = tools.shapes_of(network)
        names = names_of(theirs)
        assert set(names.values()) == theirs.keys() and names.keys() == wanted.keys()
        for ours, original in names.items():
            assert without_ones(theirs[original]) == without_ones(wanted[ours]), ours


def without_ones(shape):
    return tuple(shape[:2]) if len(shape) == 4 and shape[2:] == (1, 1) else tuple(shape)


@torch.no_grad()
def test_equals_the_original_unet_code(comfy, tools, tmp_path):
    theirs = tools.randomise(original_unet(comfy, tools.SMALL_UNET))
    unet = StarcasterUNet(tools.SMALL_UNET).eval()
    part = read_unet(
        tools.save(tmp_path / "unet.safetensors", theirs.state_dict()),
        image_unet({f"unet.{k}": v for k, v in tools.shapes_of(unet).items()}),
    )
    unet.load_state_dict({name: lazy.read() for name, lazy in part.weights.items()}, strict=False)
    generator = torch.Generator().manual_seed(0)
    latents, tokens = torch.randn(1, 4, 1, 16, 16, generator=generator), torch.randn(1, 5, 24, generator=generator)
    ours = unet(latents, torch.tensor([321]), cache_condition(unet.cache_identity(tokens)), motion=False)
    wanted = theirs(latents[:, :, 0], torch.tensor([321]), context=tokens)
    assert float((ours[:, :, 0] - wanted).abs().max() / wanted.abs().max()) < 1e-4


@torch.no_grad()
def test_equals_the_original_autoencoder_code(comfy, tools, tmp_path):
    theirs = tools.randomise(original_vae(comfy, 32, (1, 1, 1, 1), 1))
    ours = tools.small_vae()
    part = read_vae(tools.save(tmp_path / "vae.safetensors", theirs.state_dict()), tools.shapes_of(ours))
    ours.load_state_dict({name: lazy.read() for name, lazy in part.weights.items()})
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.decode(latents).sample, theirs.decode(latents), rtol=1e-3, atol=1e-4)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = theirs.quant_conv(theirs.encoder(images))
    torch.testing.assert_close(ours.encode(images).latent_dist.mode(), moments[:, :4], rtol=1e-3, atol=1e-4)


def test_full_size_shapes_are_those_of_the_public_classes(full_shapes, tools):
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        adapter = MotionAdapter(motion_max_seq_length=32)
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        clip, speech = CLIPTextModel(CLIPTextConfig(**sizes)), Wav2Vec2Model(Wav2Vec2Config())
    assert image_unet(full_shapes) == tools.shapes_of(unet)
    assert motion_modules(full_shapes) == tools.shapes_of(adapter)
    assert below("vae.kl.", full_shapes) == tools.shapes_of(vae)
    text = {name.removeprefix("text_model."): shape for name, shape in tools.shapes_of(clip).items()}
    assert below("identity_tokens.text.", full_shapes) == text
    from dataclasses import replace

    with_speech = replace(SD15, conditioning=replace(SD15.conditioning, wav2vec2_inside=True))
    wanted = {name: shape for name, shape in tools.shapes_of(speech).items() if name != "masked_spec_embed"}
    assert below("speech_encoder.network.", shapes_of(with_speech)) == wanted


def test_counts_stand_beside_the_paper_s(capsys):
    counts = count_by_part(SD15)
    assert sum(counts.values()) == sum(p.numel() for p in meta_model(SD15).parameters())
    for part in ("image UNet", "motion"):
        assert round(counts[part] / 1e9, 1) == float(PAPER[part])
    with capsys.disabled():
        print("\n" + table(counts))


# The encoders at their real size


@pytest.mark.slow
@torch.no_grad()
def test_identity_tokens_are_arc2face_s(tools, tmp_path):
    """Its wrapper's way: word embeddings with the face in place of "id", then CLIP's text transformer on them."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    clip = tools.randomise(CLIPTextModel(CLIPTextConfig(**sizes)))
    torch.save(clip.half().state_dict(), tmp_path / "pytorch_model.bin")
    clip.float()
    ours = Arc2FaceTokens().eval()
    part = read_identity_encoder(tmp_path, tools.shapes_of(ours.text))
    ours.text.load_state_dict({name: lazy.read().float() for name, lazy in part.weights.items()})

    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(2)) * 20
    text = getattr(clip, "text_model", clip)
    table = text.embeddings.token_embedding.weight

    def read_sentence(words: torch.Tensor) -> torch.Tensor:
        """By hand: positions added, causal attention in every layer, the last norm."""
        x = words + text.embeddings.position_embedding.weight
        for layer in text.encoder.layers:
            h = layer.layer_norm1(x)
            attention = layer.self_attn
            q, k, v = (
                to(h).reshape(LENGTH, 12, 64).transpose(0, 1)
                for to in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(LENGTH, 768)
            x = x + attention.out_proj(mixed)
            h = layer.mlp.fc1(layer.layer_norm2(x))
            x = x + layer.mlp.fc2(h * torch.sigmoid(1.702 * h))
        return text.final_layer_norm(x)

    words = table[torch.tensor(PROMPT + (END,) * (LENGTH - len(PROMPT)))].clone()
    words[ID_POSITION] = torch.cat([face[0] / face[0].norm(), torch.zeros(256)])
    torch.testing.assert_close(ours(face)[0], read_sentence(words), rtol=1e-3, atol=1e-3)
    empty = table[torch.tensor((START,) + (END,) * (LENGTH - 1))]
    torch.testing.assert_close(ours.unconditional(1)[0], read_sentence(empty), rtol=1e-3, atol=1e-3)
    whole = clip(torch.tensor([(START,) + (END,) * (LENGTH - 1)])).last_hidden_state
    torch.testing.assert_close(ours.unconditional(1), whole, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def wav2vec2(tools, tmp_path_factory):
    """(transformers' model, ours read from its file)"""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    network = tools.randomise(Wav2Vec2Model(Wav2Vec2Config()))
    folder = tmp_path_factory.mktemp("wav2vec2-base")
    network.half().save_pretrained(folder)
    return network.float(), load_wav2vec2(folder)


@pytest.mark.slow
@torch.no_grad()
def test_speech_features_are_transformers_hidden_states(wav2vec2):
    from transformers import Wav2Vec2FeatureExtractor

    theirs, ours = wav2vec2
    samples = torch.randn(6400 + 80, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.02
    sound = Wav2Vec2FeatureExtractor()(samples.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    # At 50 frames a second nothing is resampled, but for the last half frame that the convolutions do not reach.
    hidden = theirs(sound, output_hidden_states=True).hidden_states[1:]
    assert len(hidden) == 12
    at_50 = ours.encode(samples, 50.0)
    rows = hidden[0].shape[1]
    assert rows == 20 and at_50.frames == 20
    torch.testing.assert_close(at_50.features, torch.cat(hidden, -1)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_speech_is_resampled_before_the_transformer(wav2vec2):
    theirs, ours = wav2vec2
    samples = torch.randn(9600, generator=torch.Generator().manual_seed(0)) * 0.1
    sound = (samples - samples.mean()) / samples.std(correction=0)
    convolved = theirs.feature_extractor(sound[None])[0]  # [512, rows] at 50 a second
    rows = convolved.shape[1]
    centres, at = (np.arange(rows) + 0.5) / 50, (np.arange(15) + 0.5) / 25
    resampled = np.stack([np.interp(at, centres, channel) for channel in convolved.numpy()], -1)
    hidden = theirs.feature_projection(torch.from_numpy(resampled).float()[None])[0]
    outputs = []
    x = theirs.encoder.layer_norm(hidden + theirs.encoder.pos_conv_embed(hidden))
    for layer in theirs.encoder.layers:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
        outputs.append(x[0])
    features = ours.encode(samples, 25.0)
    assert features.encoder == "wav2vec2-base" and features.features.shape == (15, 9216)
    torch.testing.assert_close(features.features, torch.cat(outputs, -1), rtol=1e-3, atol=1e-3)
    assert ours.encode(samples[:100], 25.0).frames == 1
