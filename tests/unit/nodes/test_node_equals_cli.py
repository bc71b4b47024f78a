"""The same photo, sound, seed and default settings give the same frames in the node graph and on the command line."""

from __future__ import annotations

from argparse import ArgumentParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.mark.slow
def test_node_graph_and_command_line_give_the_same_frames(module, monkeypatch, tmp_path):
    pytest.importorskip("dlib")
    generate = module("starcaster_core.generate")
    model_node, identity_node, speech_node, sampler_node, decode_node = (
        module(f"nodes.{name}") for name in ("model", "identity", "speech", "sampler", "decode")
    )
    assets = generate.Path(generate.__file__).parent / "assets"

    written, drawn, pipeline = [], [], module("starcaster_core.pipeline")

    def keep(path, model, chunks, sound, decode, say, on_fault):
        for chunk in chunks:
            drawn.append(model.decode_frames(chunk.latents).numpy())
            written.append(decode(chunk.latents, chunk.pose).numpy())
        return SimpleNamespace(frames=20, seconds=0.8)

    monkeypatch.setattr(pipeline, "write_chunks", keep)
    parser = ArgumentParser()
    generate.add_arguments(parser)
    photo, sound = str(assets / "portrait.png"), str(assets / "voice.flac")
    arguments = f"--portrait {photo} --speech {sound} --seconds 0.8 --seed 3 --device cpu --out {tmp_path / 'a.mp4'}"
    with torch.no_grad():
        generate.run(parser.parse_args(arguments.split()))
        typed, by_the_vae = np.concatenate(written), np.concatenate(drawn)

        for node in (identity_node.IdentityLoader, speech_node.AudioEncoder, sampler_node.Sampler, decode_node.Decode):
            monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None))
        model, vae = model_node.ModelLoader.execute("mini", "auto").args
        picture = module("starcaster_core.identity").read_picture(photo)
        image = torch.from_numpy(picture).float()[None] / 255
        identity, _ = identity_node.IdentityLoader.execute("none", "single", "", image=image, model=model).args
        waveform, rate = module("starcaster_core.speech").load_audio(sound)
        speech, _ = speech_node.AudioEncoder.execute(model, {"waveform": waveform[None], "sample_rate": rate}, 0.8).args
        widgets = {i.id: i.default for i in sampler_node.Sampler.define_schema().inputs if hasattr(i, "default")}
        widgets = {name: value for name, value in widgets.items() if value is not None} | {"seed": 3}
        (latent,) = sampler_node.Sampler.execute(model, identity, speech=speech, **widgets).args
        images, _ = decode_node.Decode.execute(latent, model, identity, "face", 0).args
        connected, small = images.numpy(), vae.decode(latent["samples"]).cpu().numpy()
    assert connected.shape == typed.shape == (20, 512, 512, 3)
    assert np.abs(connected - typed).max() < 4 / 255
    assert small.shape == by_the_vae.shape == (20, 128, 128, 3)
    assert np.abs(small - by_the_vae).max() < 4 / 255
