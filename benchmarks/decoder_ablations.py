"""What does each part of the reference decoder bring? Decoders trained alike but for one part, on the same inputs.

    python -m starcaster_core train --stage decoder --pairs PAIRS --init mini --anew --steps 320 --seed 17 --out whole
    python -m starcaster_core train ... --without photos --out no-photos   # and geometry, discriminator
    PYTHONPATH=. python benchmarks/decoder_ablations.py --models */decoder.safetensors \\
        --photos PHOTOS --videos VIDEOS --voice VOICE --out benchmarks/results/decoder-ablations.json

Figures of held-out photos are those of `evaluation/photos.py`, of held-out renders and videos those of
`photo_frames.py`. A model is called by its folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.photo_frames import means, measure_renders, measure_videos, swim_ratios
from starcaster_core.evaluation.photos import evaluate_photos, identities_in
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.speech import load_audio, mono16k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--voice", type=Path, required=True, help="what the photos say, two seconds of it")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--count", type=int, default=8, help="videos")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    people = identities_in(args.photos, held_out=True, people=args.people)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for path in args.models:
        model = load_checkpoint(str(path))
        speech = model.encode_speech(mono16k(*load_audio(args.voice), 2.0))
        photos, _ = evaluate_photos(model, people, speech, SamplerSettings.of(model.config))
        mouths, swims = measure_renders(model, args.scenes)
        results[path.parent.name] = {
            "photos": photos["summary"]["all"],
            "renders": means(mouths),
            "swim": swim_ratios(swims),
            "people": means(measure_videos(model, args.videos, args.count)),
        }
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({path.parent.name: results[path.parent.name]}), flush=True)


if __name__ == "__main__":
    main()
