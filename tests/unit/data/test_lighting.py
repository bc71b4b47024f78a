"""What makes the heads look less like dolls: shadows, spectacles, cameras with faults, places behind them."""

import subprocess
import sys

import numpy as np
import pytest

from starcaster_core.data.heads import shadow
from starcaster_core.data.heads.degradation import CameraDegradation, degrade, sample_degradation
from starcaster_core.data.heads.glasses import Glasses, build_glasses
from starcaster_core.data.heads.lighting import sample_lighting
from starcaster_core.errors import MissingDependencyError

FAULTLESS = CameraDegradation(np.ones(3), gamma=1.0, saturation=1.0, vignette=0.0, blur=0.0, grain=0.0, coarse=0.0)


def plate_above(matrix: np.ndarray) -> np.ndarray:
    """Depth picture of a horizontal plate, 0.4 wide, 0.2 above the origin, drawn by asking every pixel's ray."""
    side = 64
    at = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(at, at)
    inverse = np.linalg.inv(matrix)
    near = np.stack([x, y, np.full_like(x, -1), np.ones_like(x)], axis=-1) @ inverse.T
    along = inverse[:3, 2]
    if abs(along[1]) < 1e-6:
        return np.ones((side, side), np.float32)
    steps = (0.2 - near[..., 1]) / along[1]
    hit = near[..., :3] + steps[..., None] * along
    inside = (np.abs(hit[..., 0]) < 0.2) & (np.abs(hit[..., 2]) < 0.2)
    return np.where(inside, steps / 2, 1.0).astype(np.float32)


def test_the_sky_is_hidden_under_a_plate_and_free_beside_it():
    points = np.array([[0, 0.15, 0], [0, 0, 0], [0.6, 0, 0], [0, 0.21, 0]], np.float32)
    share = shadow.sky_share(points, np.tile(np.float32([0, 1, 0]), (4, 1)), plate_above)
    assert share[0] < 0.2 < share[1] < 0.8 < 0.9 < share[2]
    assert share[3] > 0.99


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.5, 0.5, -0.7), (0, 1, 0), (0, -1, 0.01)])
def test_light_sees_what_is_nearer_in_front_of_what_is_farther(direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    matrix = shadow.light_matrix(direction)
    near, far = 0.3 * direction, -0.3 * direction
    assert (matrix[:3, :3] @ near)[2] < (matrix[:3, :3] @ far)[2]
    np.testing.assert_allclose((matrix[:3, :3] @ near)[:2], 0, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T * shadow.REACH**2, np.eye(3), atol=1e-9)


def test_spectacles_are_symmetric_and_stand_before_the_eyes():
    kind = Glasses(width=0.46, height=0.34, squareness=3.0, wire=0.02, colour=np.ones(3))
    left, right = np.array([0.3, 7.3, 1.4]), np.array([-0.3, 7.3, 1.4])
    frame, lenses = build_glasses(kind, left, right, 1.5)
    for vertices, normals, triangles in (frame, lenses):
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
        assert triangles.min() == 0 and triangles.max() == len(vertices) - 1
        assert vertices[:, 0].max() == pytest.approx(-vertices[:, 0].min(), abs=0.01)
    assert lenses[0][:, 2].min() > 1.45
    for eye in (left, right):  # each eye scenes through a lens
        around = lenses[0][np.abs(lenses[0][:, 0] - eye[0]) < 0.3]
        assert around[:, 0].min() < eye[0] < around[:, 0].max() and around[:, 1].min() < eye[1] < around[:, 1].max()


def test_a_faultless_camera_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(degrade(frames, FAULTLESS, 5), frames)


def test_grain_is_as_strong_as_said_new_in_every_frame_and_repeatable():
    from dataclasses import replace

    frames = np.full((2, 64, 64, 3), 40, np.uint8)
    noisy = degrade(frames, replace(FAULTLESS, grain=6.0), 5)
    np.testing.assert_array_equal(noisy, degrade(frames, replace(FAULTLESS, grain=6.0), 5))
    assert noisy.astype(float).std() == pytest.approx(6.0 * (1.2 - 0.7 * 40 / 255), rel=0.1)
    assert np.abs(noisy[0].astype(float) - noisy[1]).mean() > 3
    coarse = degrade(frames, replace(FAULTLESS, grain=6.0, coarse=0.8), 5)[0, ..., 0].astype(float)
    neighbours = np.corrcoef(coarse[:, :-1].ravel(), coarse[:, 1:].ravel())[0, 1]
    assert neighbours > 0.4 > abs(np.corrcoef(noisy[0, :, :-1, 0].ravel(), noisy[0, :, 1:, 0].ravel())[0, 1])


def test_corners_of_a_bad_lens_are_darker_and_a_seed_is_a_camera():
    from dataclasses import replace

    frames = np.full((1, 33, 33, 3), 200, np.uint8)
    dim = degrade(frames, replace(FAULTLESS, vignette=0.25), 1)[0, ..., 0]
    assert dim[16, 16] == 200 and dim[0, 0] == pytest.approx(150, abs=1)
    assert sample_degradation(3).grain == sample_degradation(3).grain != sample_degradation(4).grain


def test_places_behind_people_meet_themselves_at_the_edges():
    scenes = [lighting for lighting in map(sample_lighting, range(30)) if lighting.kind == "scene"]
    assert len(scenes) > 8
    for lighting in scenes:
        picture = lighting.background.astype(float)
        inside = np.abs(np.diff(picture, axis=1)).mean()
        assert np.abs(picture[:, 0] - picture[:, -1]).mean() < 4 * inside + 4


@pytest.fixture(scope="module")
def world():
    from starcaster_core.data.synth import SyntheticWorld

    try:
        return SyntheticWorld()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_lips_of_everybody_meet_at_rest(world):
    from starcaster_core.data.heads.identity import sample_identity
    from starcaster_core.data.heads.rig import LANDMARKS, build_rig

    upper, lower = LANDMARKS.index("upper_lip_bottom"), LANDMARKS.index("lower_lip_top")
    for person in range(12):
        rig = build_rig(world.kit, sample_identity(world.kit, person))
        points = rig.neutral[rig.landmarks] / rig.scale
        assert abs(points[upper, 1] - points[lower, 1]) < 0.01, person


def test_the_head_casts_a_shadow_on_the_neck(world, monkeypatch):
    from dataclasses import replace

    from starcaster_core.camera.poses import default_intrinsics, world_from_cam
    from starcaster_core.data.heads.lighting import neutral_lighting

    rig = world.load_person(1)
    world.renderer.pose(np.zeros(len(rig.morphs), np.float32))
    above = neutral_lighting().directions.copy()
    above[0] = [0, 0.94, 0.34]
    lighting = replace(neutral_lighting(), directions=above)

    def neck() -> float:
        picture = world.renderer.draw(lighting, world_from_cam(0, 0), default_intrinsics(3.4), size=128)
        return float(picture[104:114, 54:74].mean())

    shaded = neck()
    monkeypatch.setattr(world.renderer.loaded, "casters", [])
    monkeypatch.setattr(world.renderer.loaded, "shadow_of", b"")
    assert shaded < 0.9 * neck()


def test_a_process_that_has_rendered_can_train():
    """Two LLVMs in one process, Mesa's and that of PyTorch's compiler: the wrong order of loading kills it."""
    script = (
        "from starcaster_core.data.heads.render import _open_context\n"
        "context = _open_context()\n"
        "framebuffer = context.simple_framebuffer((8, 8)); framebuffer.use(); framebuffer.clear(); framebuffer.read()\n"
        "import torch\n"
        "torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    if "MissingDependencyError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout.strip() == "alive", (done.returncode, done.stderr[-500:])
