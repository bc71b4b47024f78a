"""STARCaster_AssembleCheckpoint: public files by name -> one checkpoint in models/starcaster for the Model Loader."""

from __future__ import annotations

from ..starcaster_core.models.public.parts import PUBLIC_FILES
from .comfy_bridge import (
    CATEGORY,
    io,
    model_output_path,
    progress_bar,
    public_files,
    public_path,
    stop_if_interrupted,
    ui,
    user_errors,
)

NONE = "none"


class AssembleCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_AssembleCheckpoint",
            display_name="STARCaster Assemble Checkpoint",
            category=CATEGORY,
            description="Makes one paper-scale STARCaster checkpoint out of public files that you put into ComfyUI's "
            "model folders. Nothing is downloaded. Several of them forbid commercial use: see docs/paper-scale.md.",
            search_aliases=["arc2face", "animatediff", "merge checkpoint", "sd15", "build model"],
            is_output_node=True,
            inputs=[
                *(
                    io.Combo.Input(
                        file.name,
                        options=[NONE, *public_files(file.folders)],
                        default=NONE,
                        tooltip=f"For {file.gives}{' (needed)' if file.needed else ''}: {file.where}. "
                        f"Licence: {file.licence}.",
                    )
                    for file in PUBLIC_FILES
                ),
                io.Combo.Input(
                    "precision",
                    options=["float16", "float32"],
                    default="float16",
                    tooltip="How the weights are stored. float16 halves the file and changes nothing visible.",
                ),
                io.String.Input(
                    "save_as",
                    default="sd15",
                    tooltip="Name of the file in ComfyUI/models/starcaster; one of that name is replaced.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="checkpoint", tooltip="The file's name, as the Model Loader lists it after a refresh."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, precision, save_as, **files) -> io.NodeOutput:
        from ..starcaster_core.models.public.assemble import Ingredients, assemble, report

        target, name = model_output_path(save_as.strip())
        ingredients = Ingredients(**{part: None if file == NONE else public_path(file) for part, file in files.items()})
        bar = progress_bar(1, cls.hidden.unique_id)

        def progress(done: int, total: int) -> None:
            stop_if_interrupted()
            bar.update_absolute(done, total)

        assembly = assemble(ingredients, target, precision, progress=progress)
        return io.NodeOutput(name, ui=ui.PreviewText(f"{name}: {report(assembly)}"))
