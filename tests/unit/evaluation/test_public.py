"""Standard networks, here as tiny stand-ins with the interface of the published files."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from starcaster_core.errors import CheckpointError, MissingDependencyError
from starcaster_core.evaluation import csim, lse, public
from starcaster_core.evaluation.instruments import Instruments
from starcaster_core.evaluation.public import FILES, PublicWeights, load_public_weights
from starcaster_core.evaluation.videos import VERSIONS, EvaluatedClip
from starcaster_core.identity.align import MOUTH_ACROSS, MOUTH_ALONG
from starcaster_core.models.judges import published_syncnet


class Inception(nn.Module):
    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return img.float().mean(dim=(2, 3)) if return_features else img.float()


class I3D(nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale and resize and return_features
        return x.mean(dim=(3, 4)).flatten(1)


@pytest.fixture
def folder(tmp_path):
    torch.jit.script(Inception()).save(tmp_path / "inception-2015-12-05.pt")
    torch.jit.script(I3D()).save(tmp_path / "i3d_torchscript.pt")
    return tmp_path


@pytest.fixture
def evaluated_clips(make_clip):
    clips = [make_clip(number=n) for n in range(4)]
    videos = [torch.from_numpy(clip.frames) for clip in clips]
    return [EvaluatedClip(c, dict(zip(VERSIONS, (f // 3, f, f, f[:1].expand(f.shape))))) for c, f in zip(clips, videos)]


def test_fid_and_fvd_come_out_of_their_files(folder, evaluated_clips):
    weights = load_public_weights(folder)
    found = public.measure(evaluated_clips, weights)
    assert found["fid"]["decoded"]["mean"] == pytest.approx(0, abs=1e-6) and found["fid"]["generated"]["mean"] > 100
    assert found["fid"]["generated"]["samples"] == 4 * 32 and found["fvd"]["generated"]["samples"] == 4
    assert found["fvd"]["decoded"]["mean"] == pytest.approx(0, abs=1e-6) and found["fvd"]["generated"]["mean"] > 100
    assert list(weights.missing()) == ["arcface.onnx", "syncnet_v2.model"]


def test_without_files_the_figures_are_named_that_they_would_give(evaluated_clips):
    assert public.measure(evaluated_clips, PublicWeights()) == {}
    missing = " ".join(f"{file} {meaning}" for file, meaning in PublicWeights().missing().items())
    assert all(name in missing for name in FILES)
    assert all(figure in missing for figure in ("FID", "FVD", "CSIM", "LSE-C", "LSE-D"))


@pytest.mark.parametrize("name", ["inception-2015-12-05.pt", "syncnet_v2.model"])
def test_a_broken_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=name):
        load_public_weights(tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    torch.save({"weights": Malice()}, tmp_path / "syncnet_v2.model")
    with pytest.raises(CheckpointError):
        load_public_weights(tmp_path)
    assert not (tmp_path / "proof").exists()


def test_onnx_without_its_runtime_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "arcface.onnx").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        load_public_weights(tmp_path)


def field(number: int, content) -> bytes:
    """One field of a protobuf message: text, bytes or a small integer"""
    if isinstance(content, int):
        return bytes([number << 3, content])
    content = content.encode() if isinstance(content, str) else content
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def pooling_onnx() -> bytes:
    """frames [1, 3, 112, 112] -> mean colour [1, 3], as the smallest ONNX file there is"""

    def value(name: str, *shape: int) -> bytes:
        # Dimensions above 127 or nought need more bytes; 112 fits.
        dimensions = b"".join(field(1, field(1, size)) for size in shape)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dimensions)))

    pool = field(1, "frames") + field(2, "pooled") + field(4, "GlobalAveragePool")
    flat = field(1, "pooled") + field(2, "vector") + field(4, "Flatten")
    graph = field(1, pool) + field(1, flat) + field(2, "g")
    graph += field(11, value("frames", 1, 3, 112, 112)) + field(12, value("vector", 1, 3))
    length = len(graph)
    wrapped = bytes([7 << 3 | 2, length & 127 | 128, length >> 7]) + graph
    return field(1, 8) + wrapped + field(8, field(1, "") + field(2, 13))


def test_arcface_sees_the_aligned_face_in_its_own_range(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    import starcaster_core.identity as photos

    (tmp_path / "arcface.onnx").write_bytes(pooling_onnx())
    session = load_public_weights(tmp_path).arcface
    points = np.array([[70, 90], [90, 90], [150, 90], [170, 90], [120, 140]], float)
    monkeypatch.setattr(photos, "detect", lambda picture: [photos.Face(np.array([60, 60, 180, 180.0]), points, 1.0)])
    monkeypatch.setattr(photos, "select_face", lambda faces, picture, which: faces[0])
    picture = np.full((64, 64, 3), [255, 0, 0], np.uint8)
    np.testing.assert_allclose(csim.embed(session, picture), np.array([1, -1, -1]) / 3**0.5, atol=1e-3)


def test_arcface_sees_the_eye_at_its_place_to_a_tenth_of_a_pixel(monkeypatch):
    """InsightFace puts the left eye at (38.2946, 51.6963), counted from the centre of the first pixel."""
    import starcaster_core.identity as photos

    places = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.1396, 92.2848]])
    left, right, mouth = 4 * (places + 0.5)  # of a face four times as large as ArcFace's view
    across = (right - left) / np.linalg.norm(right - left)
    down = np.array([-across[1], across[0]])
    offset = mouth - (left + right) / 2
    nose = (left + right) / 2 + (offset @ across) / MOUTH_ACROSS * across + (offset @ down) / MOUTH_ALONG * down
    points = np.stack([left - 12 * across, left + 12 * across, right - 12 * across, right + 12 * across, nose])
    rows, columns = np.mgrid[:448, :448] + 0.5
    dot = 255 * np.exp(-((columns - left[0]) ** 2 + (rows - left[1]) ** 2) / (2 * 8**2))
    picture = np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2)
    monkeypatch.setattr(photos, "detect", lambda picture: [photos.Face(np.array([90, 90, 330, 430.0]), points, 1.0)])
    monkeypatch.setattr(photos, "select_face", lambda faces, picture, which: faces[0])
    views = []

    class Session:
        def get_inputs(self):
            return [SimpleNamespace(name="frames")]

        def run(self, outputs, inputs):
            views.append(inputs["frames"][0, 0] + 1)
            return [np.ones((1, 4), np.float32)]

    csim.embed(Session(), picture)
    weight = views[0] / views[0].sum()
    rows, columns = np.mgrid[:112, :112]
    np.testing.assert_allclose([(columns * weight).sum(), (rows * weight).sum()], places[0], atol=0.1)


# LSE -----------------------------------------------------------------------------------------------------------------


def test_cepstra_are_those_of_the_published_pipeline():
    """Row 3 of a 440 Hz tone, as python_speech_features 0.6 gives it"""
    tone = np.round(8000 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16000))
    expected = [19.0659, 26.0455, 9.4321, -7.5677, -21.8786, -29.1863, -25.9009, -15.1599, -0.256, 12.5442, 19.9296]
    found = published_syncnet.mfcc(tone)
    assert found.shape == (9, 13)
    np.testing.assert_allclose(found[3], [*expected, 19.1507, 12.2387], atol=1e-4)


def test_the_published_network_reads_its_own_file(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = published_syncnet.PublishedSyncNet().eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7) and shapes["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert shapes["netcnnaud.18.weight"] == (512, 256, 5, 4) and shapes["netfcaud.3.bias"] == (1024,)
    torch.save(net.state_dict(), tmp_path / "syncnet_v2.model")
    again = load_public_weights(tmp_path).syncnet
    faces, sound = torch.rand(3, 7, 224, 224) * 255, torch.rand(13, 28)
    with torch.no_grad():
        assert torch.equal(again.embed_video(faces), net.embed_video(faces)) and again.embed_video(faces).shape == (
            3,
            1024,
        )
        assert torch.equal(again.embed_audio(sound), net.embed_audio(sound)) and again.embed_audio(sound).shape == (
            3,
            1024,
        )


def test_lse_finds_what_belongs_together(make_clip):
    """With a network that sees and hears the same thing"""
    clip, other = make_clip(frames=60), make_clip(number=1, frames=60)
    heard = {}

    class Same:
        def embed_audio(self, spectra):
            loud = (spectra[0] - spectra[0].mean()) / spectra[0].std()
            return loud.unfold(0, 20, 4)

    seen = Same().embed_audio(
        torch.from_numpy(published_syncnet.mfcc(np.round(clip.audio * 32767)).T.astype(np.float32))
    )
    instruments = Instruments(public=PublicWeights(syncnet=Same()))
    for name, asked in {"own": clip, "wrong": lse.negative(clip, other)}.items():
        heard[name] = lse.score(instruments, seen[:55], asked)
    assert heard["own"]["lse_d"] < 0.5 < heard["wrong"]["lse_d"] and heard["own"]["lse_c"] > 2 * heard["wrong"]["lse_c"]


def test_faces_are_cut_with_the_chin_inside_and_blue_first(make_clip):
    clip = make_clip()
    video = torch.zeros(32, 64, 64, 3, dtype=torch.uint8)
    video[..., 0] = 200  # red
    video[:, 54:57, 31:34] = 255  # the chin, at (32, 55)
    faces = lse.faces_of(video, clip)
    assert faces.shape == (3, 32, 224, 224) and faces[2, 0].median() == 200 and faces[0, 0].median() == 0
    rows, columns = torch.nonzero(faces[0, 0] > 128, as_tuple=True)
    assert 100 < columns.float().mean() < 124 and 130 < rows.float().mean() < 170
