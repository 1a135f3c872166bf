"""The engines that run a network on pixels: TensorFlow, OpenVINO and ONNX Runtime, and int8."""
