"""What a step computes, for the model's share of a device's peak."""

from jaxllm.commands.assembly import Assembly
from jaxllm.commands.batches import abstract_batch
from jaxllm.config import RunConfig
from jaxllm.models import EncoderDecoderConfig, TwoTowersConfig
from jaxllm.parallel.layouts import weight_items


def flops_per_token(config: RunConfig, parts: Assembly) -> float:
    """Forward and backward FLOPs of a row over its data.sequence_length tokens.

    A weight that is not trained has no gradient of its own: two FLOPs less for each of its numbers.
    """
    length, model = config.data.sequence_length, config.model
    trained = {path for path, _ in weight_items(parts.trained)}
    if not isinstance(model, EncoderDecoderConfig):
        # The tower of images meets patches, and no tokens of the text.
        patches = model.vision.num_positions if isinstance(model, TwoTowersConfig) else length
        idle = sum(
            size * (patches / length if path.startswith("vision.") else 1.0)
            for path, size in parts.matmul_sizes.items()
            if path not in trained
        )
        of_text = model.flops_per_token(parts.num_matmul_params, length) - 2.0 * idle
        return of_text * config.objective.texts_per_row
    # Six FLOPs are counted for each of a weight's numbers, of which one that stays takes four.
    sizes = {
        path: size if path in trained else size * 4 / 6 for path, size in parts.matmul_sizes.items()
    }
    fields = abstract_batch(config)
    # Where rows are divided on the device, both parts are filled up to the whole.
    source, target = (
        fields[name].shape[1] if name in fields else length
        for name in ("encoder_tokens", "targets")
    )
    return model.flops_per_row(sizes, source=source, target=target) / length
