"""The PyTorch half of bench_train.py: the same model, weights, batch and update. torch and numpy.

    python bench_train_torch.py FOLDER

FOLDER holds plan.json, weights.npz and batch.npz, which bench_train.py writes. Requests come on
standard input and answers go to standard output, one line of JSON each.

B batch, T length, D embed, N query heads, K key/value heads, H head dimension.
"""

import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, plan: dict[str, Any]):
        super().__init__()
        embed_dim, mlp_dim, self.head_dim = plan["embed_dim"], plan["mlp_dim"], plan["head_dim"]
        queries, keys = plan["num_heads"] * self.head_dim, plan["num_kv_heads"] * self.head_dim
        self.is_grouped = queries != keys
        self.attention_norm = nn.RMSNorm(embed_dim, plan["norm_epsilon"])
        self.query = nn.Linear(embed_dim, queries, bias=False)
        self.key = nn.Linear(embed_dim, keys, bias=False)
        self.value = nn.Linear(embed_dim, keys, bias=False)
        self.out = nn.Linear(queries, embed_dim, bias=False)
        self.mlp_norm = nn.RMSNorm(embed_dim, plan["norm_epsilon"])
        self.up = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.down = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x_BTD: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed_BTD = normalise(self.attention_norm, x_BTD)
        q_BNTH = rotate(self._heads(self.query(normed_BTD)), cos_TF, sin_TF)
        k_BKTH = rotate(self._heads(self.key(normed_BTD)), cos_TF, sin_TF)
        v_BKTH = self._heads(self.value(normed_BTD))
        out_BNTH = F.scaled_dot_product_attention(
            q_BNTH, k_BKTH, v_BKTH, is_causal=True, enable_gqa=self.is_grouped
        )
        x_BTD = x_BTD + self.out(out_BNTH.transpose(1, 2).flatten(2))
        normed_BTD = normalise(self.mlp_norm, x_BTD)
        return x_BTD + self.down(F.silu(self.gate(normed_BTD)) * self.up(normed_BTD))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Decoder(nn.Module):
    """Token ids and targets -> the mean loss in nats."""

    def __init__(self, plan: dict[str, Any], length: int):
        super().__init__()
        self.dtype = getattr(torch, plan["dtype"])
        self.embed = nn.Embedding(plan["vocab_size"], plan["embed_dim"])
        self.blocks = nn.ModuleList(Block(plan) for _ in range(plan["num_layers"]))
        self.norm = nn.RMSNorm(plan["embed_dim"], plan["norm_epsilon"])
        self.out = nn.Linear(plan["embed_dim"], plan["vocab_size"], bias=False)
        if plan["is_tied"]:
            self.out.weight = self.embed.weight
        half = plan["head_dim"] // 2
        frequencies = plan["rope_theta"] ** (-torch.arange(half, dtype=torch.float32) / half)
        angles_TF = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos_TF", angles_TF.cos())
        self.register_buffer("sin_TF", angles_TF.sin())

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Cross-entropy in float32, whatever the compute dtype."""
        x_BTD = self.embed(tokens_BT).to(self.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TF, self.sin_TF)
        logits_BTV = self.out(normalise(self.norm, x_BTD))
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


def normalise(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """RMS norm with its statistics in float32."""
    return norm(x.float()).to(x.dtype)


def rotate(x_BNTH: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
    """Rotary positions in the half-split form, in float32."""
    first, second = x_BNTH.float().chunk(2, dim=-1)
    rotated = (first * cos_TF - second * sin_TF, second * cos_TF + first * sin_TF)
    return torch.cat(rotated, dim=-1).to(x_BNTH.dtype)


def load_weights(model: Decoder, arrays: dict[str, np.ndarray], is_tied: bool) -> None:
    """Puts jaxllm's arrays in: layers lead, matrices are (inputs, outputs)."""
    with torch.no_grad():
        model.embed.weight.copy_(torch.from_numpy(arrays["embed.table"]))
        model.norm.weight.copy_(torch.from_numpy(arrays["norm.scale"]))
        if not is_tied:
            model.out.weight.copy_(torch.from_numpy(arrays["out.kernel"].T))
        for path, array_L in arrays.items():
            if not path.startswith("blocks.layers."):
                continue
            *_, name, kind = path.split(".")
            for block, array in zip(model.blocks, array_L, strict=True):
                weight = getattr(block, name).weight
                # (D, N, H) or (N, H, D) -> (D, N H) or (N H, D), and then PyTorch's order.
                matrix = array if kind == "scale" else array.reshape(weight.shape[::-1]).T
                weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))


class TorchHalf:
    """The model, its optimizer and its batch, ready to step."""

    def __init__(self, folder: Path):
        self.plan = json.loads((folder / "plan.json").read_text())
        self.device = torch.device(self.plan["device"])
        with np.load(folder / "batch.npz") as batch:
            self.tokens = torch.from_numpy(batch["tokens"]).long().to(self.device)
            self.targets = torch.from_numpy(batch["targets"]).long().to(self.device)
        model = Decoder(self.plan, self.tokens.shape[1])
        with np.load(folder / "weights.npz") as weights:
            load_weights(model, dict(weights), self.plan["is_tied"])
        self.model = model.to(self.device)
        self.forward: Callable = (
            torch.compile(self.model) if self.plan["is_compiled"] else self.model
        )
        self.optimizer = make_optimizer(self.model, self.plan["optimizer"])
        self.clock = time.perf_counter if self.plan["is_compiled"] else time.process_time

    def step(self) -> Tensor:
        """One update; the loss before it."""
        is_bf16 = self.plan["dtype"] == "bfloat16"
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16)
        with autocast, self._attention():
            loss = self.forward(self.tokens, self.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan["optimizer"]["clip_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def losses(self, steps: int) -> list[float]:
        """The loss before each of `steps` updates."""
        return [self.step().item() for _ in range(steps)]

    def seconds(self, steps: int) -> float:
        """Seconds a step, the mean of `steps` of them."""
        self._wait()
        begin = self.clock()
        for _ in range(steps):
            self.step()
        self._wait()
        return (self.clock() - begin) / steps

    def info(self) -> dict[str, Any]:
        """Versions, and the rate of a bare matmul in GFLOP/s."""
        on_gpu = self.device.type == "cuda"
        n, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
        a = torch.ones((n, n), dtype=dtype, device=self.device)
        seconds = []
        for _ in range(10):
            self._wait()
            begin = self.clock()
            a @ a
            self._wait()
            seconds.append(self.clock() - begin)
        return {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "matmul_gflops": 2e-9 * n**3 / statistics.median(seconds),
        }

    def _attention(self) -> contextlib.AbstractContextManager:
        if self.device.type == "cuda":
            return sdpa_kernel(SDPBackend.FLASH_ATTENTION)
        return contextlib.nullcontext()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def make_optimizer(model: nn.Module, settings: dict[str, float]) -> torch.optim.Optimizer:
    """AdamW in its fused form, the fastest of PyTorch's three; vectors do not decay."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings["weight_decay"]},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings["learning_rate"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
        fused=True,
    )


def main() -> None:
    half = TorchHalf(Path(sys.argv[1]))
    print(json.dumps(half.info()), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(half, request["what"])(request["steps"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
