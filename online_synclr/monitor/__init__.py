"""What people see of a run: metrics, TensorBoard, console, summary."""
