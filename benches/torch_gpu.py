#!/usr/bin/env python3
"""The cases of benches/suite on PyTorch and a GPU: prints lines `torch CASE MILLISECONDS`, medians of synchronised runs."""

import statistics

import torch
import torch.nn.functional as F


def measure(case, run, repetitions=30):
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repetitions):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    print(f"torch {case} {statistics.median(times):.4f}", flush=True)


def random(*shape, dtype, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=grad)


def main():
    print(f"# {torch.__version__} on {torch.cuda.get_device_name()}")
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype, name in [(torch.float32, "f32"), (torch.bfloat16, "bf16")]:
        for n in (512, 1024, 2048, 4096):
            a, b = random(n, n, dtype=dtype), random(n, n, dtype=dtype)
            measure(f"mm_{n}_{name}", lambda: a @ b)
        x = random(4096, 768, dtype=dtype, grad=True)
        w, b = random(768, dtype=dtype, grad=True), random(768, dtype=dtype, grad=True)
        dy = random(4096, 768, dtype=dtype)
        with torch.no_grad():
            measure(f"ln_fwd_{name}", lambda: F.layer_norm(x, (768,), w, b))
        measure(f"ln_fwdbwd_{name}", lambda: F.layer_norm(x, (768,), w, b).backward(dy))
        q, k, v = (random(2, 6, 512, 64, dtype=dtype, grad=True) for _ in range(3))
        with torch.no_grad():
            measure(f"attn_fwd_{name}", lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))


if __name__ == "__main__":
    main()
