"""The command line: everything the node pack does, and the training, without ComfyUI."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from .command import add_debug, run_command
from .signals import ending_at_once

# command -> (module with add_arguments(parser) and run(args), one line of help)
COMMANDS = {
    "generate": ("generate", "make a talking portrait: picture + voice + camera path -> video"),
    "synth": ("data.synth", "make synthetic talking heads with exact ground truth"),
    "clips": ("data.clips", "turn a folder of real videos into training clips"),
    "train": ("training.portrait", "train a model, stage after stage"),
    "evaluate": ("evaluation.evaluate", "measure a model on held-out clips"),
    "assemble": ("models.public.assemble", "make one paper-scale checkpoint out of public weights"),
    "delta": ("models.public.delta", "make a small file of what training added to the public weights"),
    "bench": ("benchmark", "measure seconds of computing per second of video"),
    "bench-gpu": ("benchmark.gpu", "measure the paper's scale on a GPU, with random weights"),
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Only the module of the command that was asked for is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m starcaster_core" if sys.argv[0].endswith("__main__.py") else "starcaster",
        description="STARCaster: talking portraits by autoregressive video diffusion.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        add_debug(sub)
        if name == command:
            import_module(f".{module}", __package__).add_arguments(sub)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Whatever fails is said in one sentence; `--debug` shows the traceback as well.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in arguments if word in COMMANDS), None)

    def work() -> None:
        with ending_at_once():
            args = build_parser(command).parse_args(arguments)
        import_module(f".{COMMANDS[args.command][0]}", __package__).run(args)

    return run_command(command or "start", work, arguments)
