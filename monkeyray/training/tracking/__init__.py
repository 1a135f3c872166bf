"""Where the figures of a training go while it runs: TensorBoard, MLflow, and progress lines."""
