"""Ask a stored model to go on from a prompt."""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.asking import ANSWER_TOKENS, Answer, Ask, Options, say_cut_tokens
from plumbline.data.turns import Turn, count_images
from plumbline.errors import ConfigError
from plumbline.kinds.language.ask import MESSAGES, of_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """What the model adds to a prompt."""
    from plumbline.config import check_config
    from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
    from plumbline.kinds.causal_lm.sampling import continue_text
    from plumbline.kinds.language.settings import SamplingConfig

    assert isinstance(stored.model, CausalLm)
    assert isinstance(stored.spec, CausalLmSpec)
    given = {name: getattr(options, name) for name in SamplingConfig.model_fields}
    # What no option says keeps the default of the settings.
    given = {name: value for name, value in given.items() if value is not None}
    flags = {name: f"--{name.replace('_', '-')}" for name in given}
    values = {flags[name]: value for name, value in given.items()}
    # An error names the option, since its user has not written any setting.
    config = check_config(SamplingConfig, flags, values)
    if options.messages and count_images(options.messages.turns):
        raise ConfigError("--messages: show images, which a model of texts does not see")
    asked: str | list[Turn] = options.messages.turns if options.messages else options.prompt
    said = continue_text(stored.model, stored.spec, stored.text, asked, config)
    name = "messages" if options.messages else "prompt"
    return {name: asked, "text": said.text, **say_cut_tokens(said.cut_tokens)}


ASK = Ask(
    answer,
    required="prompt",
    options={
        **ANSWER_TOKENS,
        "temperature": {"type": float, "metavar": "X", "help": "0: the likeliest tokens"},
        "top_k": {"type": int, "metavar": "N"},
        "top_p": {"type": float, "metavar": "X"},
        "stop": {"action": "append", "metavar": "TEXT", "help": "may be given repeatedly"},
        "seed": {"type": int, "metavar": "N"},
        **MESSAGES,
    },
    instead="messages",
)

predictions = of_tokens
