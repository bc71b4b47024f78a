"""Draws a posed head with OpenGL, headless (moderngl on EGL; a software rasteriser is enough).

The expression is done on the CPU (one matrix product and the skin's normals), the head's turn and the camera in the
vertex shader. Colours are squared on the way in and rooted on the way out, a cheap stand-in for the sRGB curve.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...conventions import FOCAL_LENGTH
from . import shadow
from .lighting import Lighting
from .rig import HeadRig

VERTEX = """#version 330
in vec3 p; in vec3 n; in vec2 uv; in float follow; in float shade; in float cloth; in vec3 paint; in float sky_share;
uniform mat4 clip_from_world; uniform mat3 turn; uniform vec3 pivot;
out vec3 P; out vec3 N; out vec2 T; out float S; out float C; out vec3 D; out float O;
void main() {
    P = mix(p, turn * (p - pivot) + pivot, follow);
    N = mix(n, turn * n, follow);
    T = vec2(uv.x, 1. - uv.y); S = shade; C = cloth; D = paint; O = sky_share;
    gl_Position = clip_from_world * vec4(P, 1.);
}"""
FRAGMENT = """#version 330
in vec3 P; in vec3 N; in vec2 T; in float S; in float C; in vec3 D; in float O; out vec4 colour;
uniform sampler2D first; uniform sampler2D second; uniform float second_share; uniform float saturation;
uniform vec3 eye; uniform mat3 lights; uniform mat3 light_colours; uniform vec3 sky; uniform vec3 ground;
uniform sampler2DShadow shadows; uniform mat4 shadow_from_world; uniform float softness;
uniform vec3 tint; uniform vec3 iris; uniform vec3 cloth; uniform vec3 trim; uniform float mouth_light;
uniform vec3 paints; uniform mat3 paint_colours;
uniform float shine; uniform float gloss; uniform float wrap; uniform float density; uniform float cut;
uniform int kind;
const int SKIN = 0, EYE = 1, HAIR = 2, MOUTH = 3, FRAME = 4, LENS = 5;
const vec2 TAPS[6] = vec2[](vec2(.9, .1), vec2(.3, .8), vec2(-.7, .6), vec2(-.8, -.3), vec2(-.1, -.9), vec2(.6, -.6));
float lit(vec3 n) {  // how much of the key light arrives here: its depth map, asked at a few places round the point
    vec3 q = (shadow_from_world * vec4(P + .014 * n, 1.)).xyz * .5 + .5;
    float sum = texture(shadows, q);
    for (int i = 0; i < 6; i++) sum += texture(shadows, q + vec3(TAPS[i] * softness, 0.));
    return sum / 7.;
}
float speckle(vec2 at) {  // fine noise that is the same on every machine
    uvec2 q = uvec2(at * 700.);
    uint h = (q.x * 1597334677u) ^ (q.y * 3812015801u);
    h = (h ^ (h >> 15)) * 2246822519u;
    return float(h >> 8) / 16777216.;
}
void main() {
    vec4 t = texture(first, T);
    t.a = min(t.a * density, 1.);
    if (t.a < cut) discard;
    vec3 albedo = t.rgb * t.rgb;
    float light = S, specular = shine, power = gloss;
    if (kind == SKIN) {
        vec3 other = texture(second, T).rgb;
        albedo = mix(albedo, other * other, second_share);
        albedo = mix(vec3(dot(albedo, vec3(.3, .6, .1))), albedo, saturation) * tint;
        vec3 painted = D * paints;
        float hairs = painted.x * smoothstep(0., .35, painted.x + .5 * speckle(T) - .25);
        albedo = mix(albedo, paint_colours[0], .85 * hairs);
        albedo = mix(albedo, paint_colours[1] * (.4 + 1.2 * dot(albedo, vec3(.4))), painted.y);
        albedo = mix(albedo, paint_colours[2], painted.z);
        specular *= 1. - .7 * hairs;
        float dressed = smoothstep(0., .02, C);
        albedo = mix(albedo, mix(trim, cloth, smoothstep(.05, .06, C)), dressed);
        specular *= 1. - .85 * dressed;
        if (S < .5) { light *= mouth_light; specular = 0.; albedo *= vec3(.75, .45, .42); }
    } else if (kind == EYE) {
        vec2 q = T.x > T.y ? T - vec2(.705, .297) : T - vec2(.291, .703);
        float in_iris = 1. - smoothstep(.112, .122, length(q));
        float grey = dot(albedo, vec3(.3, .6, .1));
        albedo = mix(albedo * vec3(.78, .76, .75), mix(vec3(grey), albedo, .55) * iris, in_iris);
    } else {
        albedo *= tint;
        if (kind == MOUTH) light *= mouth_light;
    }
    vec3 n = normalize(N), v = normalize(eye - P);
    if (kind == HAIR && dot(n, v) < 0.) n = -n;
    vec3 soft = vec3(wrap, wrap * .45, wrap * .3);
    float open = (kind == MOUTH || S < .5) ? 1. : O;
    float shown = kind == MOUTH ? 1. : lit(n);
    vec3 sum = mix(ground, sky, .5 + .5 * n.y);
    for (int i = 1; i < 3; i++)
        sum += light_colours[i] * clamp((dot(n, lights[i]) + soft) / (1. + soft), 0., 1.);
    sum *= open;
    sum += shown * light_colours[0] * clamp((dot(n, lights[0]) + soft) / (1. + soft), 0., 1.);
    float edge = pow(1. - max(dot(n, v), 0.), 5.);
    float glint = pow(max(dot(n, normalize(lights[0] + v)), 0.), power) * (power + 8.) * .014;
    vec3 result = albedo * sum;
    result += specular * (shown * glint * light_colours[0] + .25 * open * edge * (light_colours[2] + sky));
    result *= light;
    if (kind == LENS) t.a = clamp(.02 + specular * (.35 * glint + .3 * edge), 0., .35);
    colour = vec4(sqrt(result / (1. + .2 * result)), t.a);
}"""
# Where a point of this frame lies in another one: its place in the other's image, 0..1, and its depth there, -1..1.
MATCH_VERTEX = """#version 330
in vec3 p; in vec3 q; in vec2 uv; in float follow;
uniform mat4 clip_from_world; uniform mat3 turn; uniform mat4 other_clip_from_world; uniform mat3 other_turn;
uniform vec3 pivot; out vec4 O; out vec2 T;
void main() {
    O = other_clip_from_world * vec4(mix(q, other_turn * (q - pivot) + pivot, follow), 1.);
    T = vec2(uv.x, 1. - uv.y);
    gl_Position = clip_from_world * vec4(mix(p, turn * (p - pivot) + pivot, follow), 1.);
}"""
MATCH_FRAGMENT = """#version 330
in vec4 O; in vec2 T; out vec4 match; uniform sampler2D first; uniform float cut;
void main() {
    if (texture(first, T).a < cut) discard;
    match = vec4(.5 + .5 * O.xy / O.w, O.z / O.w, 1.);
}"""
BACKDROP_VERTEX = """#version 330
in vec2 p; out vec2 q; void main() { q = p; gl_Position = vec4(p, .9999, 1.); }"""
BACKDROP_FRAGMENT = """#version 330
in vec2 q; out vec4 colour; uniform sampler2D tex; uniform vec2 shift; uniform vec2 spread;
void main() { colour = vec4(texture(tex, .5 + q * spread + shift).rgb, 1.); }"""
LAYOUT_DYNAMIC = ("3f 3f", "p", "n")
LAYOUT_STATIC = ("2f 1f 1f 1f 3f", "uv", "follow", "shade", "cloth", "paint")
LAYOUT_SKY = ("1f", "sky_share")
KINDS = {"skin": 0, "eyes": 1, "brows": 2, "lashes": 2, "hair core": 2, "hair": 2, "teeth": 3, "tongue": 3}
KINDS |= {"frame": 4, "lenses": 5}
MATCHED = ("skin", "teeth", "tongue", "eyes", "hair core", "frame")  # what has a place of its own in another frame
CASTING = ("skin", "hair core", "frame")  # what casts shadows
SOLID = ("skin", "teeth", "tongue", "eyes")  # closed surfaces: their backs are never seen
BLENDED = ("brows", "lashes", "hair", "lenses")
HAIR_CORE = 0.6  # alpha above which a strand is opaque
SHADOW_UNIT = 2  # of the textures
FAINT = 0.03  # alpha below which nothing is drawn
NEAR, FAR = 0.8, 6.0


@dataclass
class _Loaded:
    """A head on the device."""

    rig: HeadRig
    dynamic: object
    owned: list
    drawables: list[tuple[str, object]]
    casters: list[tuple[str, object]]
    matched: list[tuple[str, object]]
    other: object
    shadow_of: bytes = b""  # what the shadow map was drawn for
    poses: int = 0


class Renderer:
    """Renders square pictures with `supersample` squared samples a pixel. One per process; not thread-safe.

    Use: `load(rig)`, then `draw(...)` for every frame.
    """

    def __init__(self, kit_root: Path, supersample: int = 2):
        self.root, self.supersample = kit_root, supersample
        self.gl = _open_context()
        self.targets: dict[int, object] = {}
        self.program = self.gl.program(VERTEX, FRAGMENT)
        self.backdrop = self.gl.program(BACKDROP_VERTEX, BACKDROP_FRAGMENT)
        corners = np.array([-1, -1, 3, -1, -1, 3], "f4")
        self.backdrop_mesh = self.gl.vertex_array(self.backdrop, [(self.gl.buffer(corners), "2f", "p")])
        self.textures: dict[str, object] = {}
        self.loaded: _Loaded | None = None
        self.depth_program = self.gl.program(shadow.VERTEX, shadow.FRAGMENT)
        self.match_program = self.gl.program(MATCH_VERTEX, MATCH_FRAGMENT)
        self.match_targets: dict[int, object] = {}
        self.shadow_map = self._depth_target(shadow.SHADOW_SIDE, "<=")
        self.sky_map = self._depth_target(shadow.SKY_SIDE, "")
        self.program["first"], self.program["second"], self.program["shadows"] = 0, 1, SHADOW_UNIT

    def load(self, rig: HeadRig) -> None:
        """Put a person's head on the device in place of the one before."""
        if self.loaded:
            for thing in self.loaded.owned:
                thing.release()
        dynamic = self.gl.buffer(reserve=len(rig.expand) * 24, dynamic=True)
        static = self.gl.buffer(np.ascontiguousarray(rig.static))
        sky = self.gl.buffer(reserve=len(rig.expand) * 4)
        other = self.gl.buffer(reserve=len(rig.expand) * 12, dynamic=True)
        self.loaded = _Loaded(rig, dynamic, [dynamic, static, sky, other], [], [], [], other)
        for part in rig.parts:
            content = [(dynamic, *LAYOUT_DYNAMIC), (static, *LAYOUT_STATIC), (sky, *LAYOUT_SKY), (other, "3f", "q")]
            self._add(part.name, content, part.triangles)
        worn_sky = {}
        for name, (vertices, triangles) in rig.worn.items():
            packed, worn_sky[name] = self.gl.buffer(vertices), self.gl.buffer(reserve=len(vertices) * 4)
            self.loaded.owned += [packed, worn_sky[name]]
            layout = f"{LAYOUT_DYNAMIC[0]} {LAYOUT_STATIC[0]}", *LAYOUT_DYNAMIC[1:], *LAYOUT_STATIC[1:]
            content = [(packed, *layout), (worn_sky[name], *LAYOUT_SKY), (packed, "3f 44x", "q")]
            if name == "hair":
                self._add("hair core", content, triangles[::-1])
            self._add(name, content, triangles)
        positions = self.pose(np.zeros(len(rig.morphs), np.float32))
        _, normals = rig.pose(np.zeros(len(rig.morphs), np.float32))
        sky.write(shadow.sky_share(positions, normals, self._sky_depth)[rig.expand])
        for name, (vertices, _) in rig.worn.items():
            worn_sky[name].write(shadow.sky_share(vertices[:, :3], vertices[:, 3:6], self._sky_depth))

    def _add(self, name: str, content: list, triangles: np.ndarray) -> None:
        """A drawable made of `content` (buffers with their layouts), and the caster of its shadow."""
        index = self.gl.buffer(np.ascontiguousarray(triangles, "i4"))
        self.loaded.owned.append(index)
        todo = [(self.program, self.loaded.drawables)]
        if name in CASTING:
            todo.append((self.depth_program, self.loaded.casters))
        if name in MATCHED:
            todo.append((self.match_program, self.loaded.matched))
        for program, group in todo:
            mesh = self.gl.vertex_array(program, content, index_buffer=index, skip_errors=True)
            self.loaded.owned.append(mesh)
            group.append((name, mesh))

    def pose(self, weights: np.ndarray) -> np.ndarray:
        """Upload the expression `weights` [52]; returns the positions [N, 3] (see `HeadRig.pose`)."""
        rig = self.loaded.rig
        positions, normals = rig.pose(weights)
        both = np.concatenate([positions, normals], axis=1)[rig.expand]
        self.loaded.dynamic.write(np.ascontiguousarray(both, np.float32))
        self.loaded.poses += 1
        lips = [positions[rig.landmarks[k]] for k in (-6, -5)]  # upper_lip_bottom, lower_lip_top
        gap = float(np.linalg.norm(lips[0] - lips[1])) / rig.scale
        self.program["mouth_light"] = min(1.0, 0.4 + gap / 0.18)
        return positions

    def draw(
        self,
        lighting: Lighting,
        world_from_cam: np.ndarray,
        intrinsics: np.ndarray,
        turn: np.ndarray | None = None,
        size: int = 128,
    ) -> np.ndarray:
        """Draw the posed head, uint8 [size, size, 3] RGB; camera as in `camera/poses.py`, `turn` [3, 3]: its
        rotation."""
        rig, program, gl = self.loaded.rig, self.program, self.gl
        turn = np.eye(3) if turn is None else turn
        self._cast_shadow(lighting.directions[0], turn)
        target = self._target(size)
        target.use()
        gl.enable(gl.DEPTH_TEST)
        gl.disable(gl.BLEND | gl.CULL_FACE)
        gl.front_face = "cw"  # clip space is upside down here, see `_clip_matrix`
        target.clear(depth=1.0)
        self._draw_backdrop(lighting, world_from_cam, intrinsics)
        program["clip_from_world"].write(_clip_matrix(world_from_cam, intrinsics).T.astype("f4").tobytes())
        program["turn"].write(turn.T.astype("f4").tobytes())
        program["shadow_from_world"].write(shadow.light_matrix(lighting.directions[0]).T.astype("f4").tobytes())
        program["softness"] = lighting.softness
        program["pivot"], program["eye"] = tuple(rig.pivot), tuple(world_from_cam[:3, 3])
        program["lights"].write(lighting.directions.tobytes())
        program["light_colours"].write(lighting.colours.tobytes())
        program["sky"], program["ground"] = tuple(lighting.sky), tuple(lighting.ground)
        program["saturation"] = rig.identity.skin_saturation
        who, paint = rig.identity, rig.identity.paint
        program["cloth"], program["trim"], program["iris"] = (
            tuple(who.cloth),
            tuple(who.cloth_trim),
            tuple(who.iris_tint),
        )
        program["paints"] = paint.beard, paint.lips, paint.lids
        colours = np.stack([paint.beard_colour, paint.lip_colour, paint.lid_colour])
        program["paint_colours"].write(colours.astype("f4").tobytes())
        self.shadow_map.depth_attachment.use(SHADOW_UNIT)
        for name, mesh in self.loaded.drawables:
            self._draw_part(name, mesh, target)
        return _shrink(np.frombuffer(target.read(components=3, alignment=1), np.uint8), size, self.supersample)

    def match(
        self,
        weights: tuple[np.ndarray, np.ndarray],
        turns: tuple[np.ndarray, np.ndarray],
        cameras: tuple[np.ndarray, np.ndarray],
        intrinsics: tuple[np.ndarray, np.ndarray],
        size: int = 128,
    ) -> np.ndarray:
        """Say where every pixel of one frame lies in another: float32 [size, size, 4].

        Each pair is of (this frame, the other frame): expression [52], head rotation [3, 3], world_from_cam [4, 4],
        intrinsics [3, 3]. The result's x and y are in the other's image sides, 0..1, z is the depth there, -1..1, and
        the fourth number is 1 on the head and 0 beside it. Lashes, brows and single strands of hair have no place of
        their own.
        """
        rig, program, gl = self.loaded.rig, self.match_program, self.gl
        positions, _ = rig.pose(weights[1])
        self.loaded.other.write(np.ascontiguousarray(positions[rig.expand], np.float32))
        self.pose(weights[0])
        if size not in self.match_targets:
            colours = gl.texture((size, size), 4, dtype="f4")
            self.match_targets[size] = gl.framebuffer([colours], gl.depth_renderbuffer((size, size)))
        target = self.match_targets[size]
        target.use()
        gl.enable(gl.DEPTH_TEST)
        gl.disable(gl.BLEND)
        gl.front_face = "cw"
        target.clear(depth=1.0)
        for prefix, turn, camera, lens in zip(("", "other_"), turns, cameras, intrinsics):
            matrix = _clip_matrix(camera, lens)
            program[f"{prefix}clip_from_world"].write(matrix.T.astype("f4").tobytes())
            program[f"{prefix}turn"].write(np.asarray(turn).T.astype("f4").tobytes())
        program["pivot"] = tuple(rig.pivot)
        for name, mesh in self.loaded.matched:
            texture, program["cut"] = self._cutout(name)
            texture.use(0)
            (gl.enable if name in SOLID else gl.disable)(gl.CULL_FACE)
            mesh.render()
        gl.disable(gl.CULL_FACE)
        return np.frombuffer(target.read(components=4, dtype="f4"), np.float32).reshape(size, size, 4).copy()

    def _cutout(self, name: str):
        """The texture whose alpha says where a part is, and the alpha below which it is not."""
        if name == "hair core":
            return self._hair_texture(), HAIR_CORE
        if name == "eyes":  # their cornea is clear
            return self._texture(f"proxies/eyes/high-poly/{self.loaded.rig.identity.iris}.png"), 0.5
        return self._white(), 0.0

    def _depth_target(self, side: int, comparison: str):
        texture = self.gl.depth_texture((side, side))
        texture.compare_func, texture.repeat_x, texture.repeat_y = comparison, False, False
        return self.gl.framebuffer(depth_attachment=texture)

    def _cast_shadow(self, direction: np.ndarray, turn: np.ndarray) -> None:
        """Draw the key light's depth map, unless it shows this very moment already."""
        moment = np.concatenate([[self.loaded.poses], direction, np.ravel(turn)]).tobytes()
        if moment != self.loaded.shadow_of:
            self._draw_depth(self.shadow_map, shadow.light_matrix(direction), turn)
            self.loaded.shadow_of = moment

    def _sky_depth(self, matrix: np.ndarray) -> np.ndarray:
        """Depth picture [S, S] of the unturned head."""
        self._draw_depth(self.sky_map, matrix, np.eye(3))
        side = shadow.SKY_SIDE
        return np.frombuffer(self.sky_map.read(components=1, attachment=-1, dtype="f4"), np.float32).reshape(side, side)

    def _draw_depth(self, target, matrix: np.ndarray, turn: np.ndarray) -> None:
        program, rig = self.depth_program, self.loaded.rig
        target.use()
        self.gl.enable(self.gl.DEPTH_TEST)
        self.gl.disable(self.gl.BLEND | self.gl.CULL_FACE)
        target.clear(depth=1.0)
        program["clip_from_world"].write(matrix.T.astype("f4").tobytes())
        program["turn"].write(turn.T.astype("f4").tobytes())
        program["pivot"] = tuple(rig.pivot)
        for name, mesh in self.loaded.casters:
            program["cut"] = HAIR_CORE if name == "hair core" else 0.0
            if name == "hair core":
                self._hair_texture().use(0)
            mesh.render()

    def _hair_texture(self):
        texture = next((self.root / "proxies" / "hair" / self.loaded.rig.identity.hair).glob("*_diffuse.png"))
        return self._texture(str(texture.relative_to(self.root)), "grey")

    def _target(self, size: int):
        if size not in self.targets:
            full = (size * self.supersample,) * 2
            self.targets[size] = self.gl.framebuffer([self.gl.texture(full, 3)], self.gl.depth_renderbuffer(full))
        return self.targets[size]

    def _draw_part(self, name: str, mesh, target) -> None:
        program, gl, who = self.program, self.gl, self.loaded.rig.identity
        style = dict(tint=(1.0, 1.0, 1.0), shine=0.0, gloss=18.0, wrap=0.25, density=1.0, cut=0.0, second_share=0.0)
        if name == "skin":
            self._texture(f"skins/{who.skins[0]}.png").use(0)
            self._texture(f"skins/{who.skins[1]}.png").use(1)
            style |= dict(tint=tuple(who.skin_tint), second_share=who.skin_mix, shine=0.24, gloss=15.0, wrap=0.35)
        elif name == "eyes":
            self._texture(f"proxies/eyes/high-poly/{who.iris}.png").use(0)
            style |= dict(shine=0.8, gloss=120.0, wrap=0.15, cut=0.5)
        elif name == "teeth":
            self._texture(f"proxies/teeth/{who.teeth}/teeth.png").use(0)
            style |= dict(tint=(0.80, 0.77, 0.70), shine=0.12, gloss=40.0)
        elif name == "tongue":
            self._texture("proxies/tongue/tongue01/tongue01_diffuse.png").use(0)
            style |= dict(tint=(0.62, 0.42, 0.42), shine=0.08)
        elif name == "brows":
            self._texture(f"proxies/eyebrows/{who.brows}/{who.brows}.png", "grey").use(0)
            style |= dict(tint=tuple(2 * who.brow_colour), density=who.brow_density, wrap=0.4, cut=FAINT)
        elif name == "lashes":
            self._texture(f"proxies/eyelashes/{who.lashes}/{who.lashes}.png").use(0)
            style |= dict(density=0.45, wrap=0.4, cut=FAINT)
        elif name in ("hair core", "hair"):
            self._hair_texture().use(0)
            style |= dict(tint=tuple(2 * who.hair_colour), shine=0.05, gloss=20.0, wrap=0.3)
            # The opaque core of the strands comes first, so that what lies behind it is hidden.
            style["cut"] = HAIR_CORE if name == "hair core" else FAINT
        elif name == "frame":
            self._white().use(0)
            style |= dict(tint=tuple(who.glasses.colour), shine=0.5, gloss=60.0)
        elif name == "lenses":
            self._white().use(0)
            style |= dict(shine=1.0, gloss=150.0)
        for key, value in style.items():
            program[key] = value
        program["kind"] = KINDS[name]
        if name in SOLID:
            gl.enable(gl.CULL_FACE)
            mesh.render()
            gl.disable(gl.CULL_FACE)
            return
        if name not in BLENDED:
            mesh.render()
            return
        gl.enable(gl.BLEND)
        gl.blend_func = gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA
        target.depth_mask = False
        mesh.render()
        target.depth_mask = True
        gl.disable(gl.BLEND)

    def _draw_backdrop(self, lighting: Lighting, world_from_cam: np.ndarray, intrinsics: np.ndarray) -> None:
        key = f"backdrop:{lighting.background.tobytes().hex()}:{lighting.background.shape}"
        if key not in self.textures:
            for old in [k for k in self.textures if k.startswith("backdrop:")]:
                self.textures.pop(old).release()
            height, width, _ = lighting.background.shape
            texture = self.gl.texture((width, height), 3, lighting.background.tobytes(), alignment=1)
            texture.repeat_x = texture.repeat_y = lighting.kind == "scene"
            texture.filter = self.gl.LINEAR, self.gl.LINEAR
            self.textures[key] = texture
        self.textures[key].use(0)
        away = world_from_cam[:3, 2]
        yaw, pitch = np.arctan2(-away[0], -away[2]), np.arcsin(np.clip(-away[1], -1, 1))
        view = 0.42 * FOCAL_LENGTH / intrinsics[0, 0]
        if lighting.kind == "gradient":
            self.backdrop["shift"], self.backdrop["spread"] = (0.0, 0.35 * float(pitch)), (0.0, 0.25)
        else:
            self.backdrop["shift"], self.backdrop["spread"] = (float(yaw) * 0.8, float(pitch) * 0.8), (view, view)
        self.gl.disable(self.gl.DEPTH_TEST)
        self.backdrop_mesh.render()
        self.gl.enable(self.gl.DEPTH_TEST)

    def _white(self):
        if "white" not in self.textures:
            self.textures["white"] = self.gl.texture((1, 1), 4, b"\xff" * 4)
        return self.textures["white"]

    def _texture(self, path: str, mode: str = "colour"):
        key = f"{mode}:{path}"
        if key not in self.textures:
            image = _read_image(self.root / path)
            if mode == "grey":
                image = _detail(image)
            height, width, _ = image.shape
            texture = self.gl.texture((width, height), 4, image.tobytes())
            texture.build_mipmaps()
            self.textures[key] = texture
        return self.textures[key]


def _open_context():
    from ...errors import MissingDependencyError

    fix = "Install moderngl and an EGL driver (on Debian: libegl1 libgl1-mesa-dri); no display is needed."
    with suppress(ImportError):
        # PyTorch's compiler, which an optimizer loads too. It and Mesa bring an LLVM each, and the process dies where
        # Mesa's comes first.
        import triton  # noqa: F401
    try:
        import moderngl

        return moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # the driver's own complaints come in many types
        raise MissingDependencyError("OpenGL without a display", f"{error}", fix) from error


def _shrink(pixels: np.ndarray, size: int, factor: int) -> np.ndarray:
    """Mean over factor x factor samples: uint8 [size, size, 3]."""
    blocks = pixels.reshape(size, factor, size, factor, 3).astype(np.uint16)
    rows = sum(blocks[:, i] for i in range(factor))
    total = sum(rows[:, :, j] for j in range(factor))
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def _detail(image: np.ndarray) -> np.ndarray:
    """Keep only the light and dark of a hair texture, scaled so that its mean squared value is one half."""
    alpha = image[..., 3:] / 255.0
    grey = (image[..., :3] / 255.0) @ np.array([0.3, 0.59, 0.11])
    mean = (grey**2 * alpha[..., 0]).sum() / max(alpha.sum(), 1e-6)
    grey = np.clip(grey * np.sqrt(0.5 / max(mean, 1e-6)), 0.12, 1.0)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    return np.concatenate([np.round(rgb * 255).astype(np.uint8), image[..., 3:]], axis=2)


def _clip_matrix(world_from_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Clip space from world. Rows run downwards in clip space too, so that the first row read back is the top one."""
    rotation, centre = world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ centre
    k = intrinsics
    lens = np.zeros((4, 4))
    lens[0, 0], lens[0, 2] = 2 * k[0, 0], 2 * k[0, 2] - 1
    lens[1, 1], lens[1, 2] = 2 * k[1, 1], 2 * k[1, 2] - 1
    lens[2, 2], lens[2, 3] = (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    lens[3, 2] = 1
    return lens @ view
