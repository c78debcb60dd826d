from diffusers import DDIMPipeline, DDIMScheduler

from cunet import checkpoints
from cunet.diffusion import Diffusion
from cunet.pipelines import PipelineModel

network, card = checkpoints.load(checkpoints.released("mnist", "cunet", "laptop"))
model = PipelineModel.wrap(network)
scheduler = DDIMScheduler(**Diffusion(**card["diffusion"]).scheduler_config())
pictures = DDIMPipeline(model, scheduler)(batch_size=4, num_inference_steps=20).images
model.save_pretrained("cunet-mnist")
again = PipelineModel.from_pretrained("cunet-mnist")
