"""The pictures of TensorBoard and of the console in the README."""
