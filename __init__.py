"""STARCaster for ComfyUI: the two names ComfyUI looks for, nothing else."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension. Imported here, so that naming the pack costs nothing and needs no ComfyUI."""
    from .nodes.extension import StarcasterExtension

    return StarcasterExtension()
