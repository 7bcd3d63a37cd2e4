"""Co-design of edge accelerators: a model file in, a verified and generated accelerator out."""
