"""Small models of transformers, for tests that compare with them."""

import torch
import transformers


def random_model(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """A model with every weight random, norms and biases included."""
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model
