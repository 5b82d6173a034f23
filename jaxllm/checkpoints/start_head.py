"""What becomes of a head of classes that training starts from."""

from typing import Literal

from jaxllm.schema import Config


class StartHead(Config):
    """Of weights to start from: whether their head of classes is taken."""

    head: Literal["kept", "new"] | None = None
    """What a head of classes does that is called otherwise than the run's: `kept` takes each class
    for the one at its place there, `new` begins anew whatever there is; null refuses it."""

    @property
    def has_new_head(self) -> bool:
        """Whether the head begins anew though the weights have one like it."""
        return self.head == "new"
