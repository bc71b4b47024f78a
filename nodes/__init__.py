"""The nodes: schemas, each with one call into the core. The only folder that knows ComfyUI."""
