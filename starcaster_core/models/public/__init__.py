"""Public weights of the paper's backbone, read from the layouts they were published in; `assemble` makes one file of
them."""
