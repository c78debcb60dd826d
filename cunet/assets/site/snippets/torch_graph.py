import torch

from cunet import checkpoints, export

network, _ = checkpoints.load(checkpoints.released("mnist", "cunet", "laptop"))
program = export.to_program(network)
torch.export.save(program, "cunet.pt2")
images = torch.randn(3, network.channels, network.image_size, network.image_size)
steps = torch.tensor([100, 500, 900])
answer = program.module()(images, steps)
