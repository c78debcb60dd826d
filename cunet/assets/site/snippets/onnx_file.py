import onnxruntime

from cunet import checkpoints, export, sampling
from cunet.diffusion import Diffusion

network, card = checkpoints.load(checkpoints.released("mnist", "cunet", "laptop"))
file = export.to_onnx(network, "cunet.onnx")
inputs = onnxruntime.InferenceSession(file).get_inputs()
stand_in = export.OnnxNetwork(file)
images = sampling.sample(stand_in, 4, Diffusion(**card["diffusion"]), sampler="ddim", steps=20)
