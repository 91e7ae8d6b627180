"""A backbone handed on: a folder that timm, transformers and ONNX runtimes load on their own."""
