#!/usr/bin/env python3
"""The cases of benches/suite/gpu.rs on PyTorch and a GPU: prints lines `torch CASE MILLISECONDS`.

Each is the median of ten rounds, a round being as many calls as take about 50 ms, queued and waited for together. One that
cannot be measured is `torch CASE failed`, and a line that starts with # says why.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

BF16 = torch.bfloat16


def explain(what, error):
    print(f"# {what}: {' '.join(str(error).split())}", flush=True)


def measure(case, run):
    def round_of(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    try:
        round_of(3)
        calls = max(1, round(0.05 / round_of(3)))
        milliseconds = 1e3 * statistics.median(round_of(calls) for _ in range(10))
        print(f"torch {case} {milliseconds:.4f}", flush=True)
    # Whatever a case fails by, the others count: memory, or a compiler that torch.compile does not find.
    except Exception as error:
        print(f"torch {case} failed")
        explain(case, error)
    torch.cuda.empty_cache()


def random(*shape, dtype=BF16, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=grad)


def matmuls():
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype, name in [(torch.float32, "f32"), (BF16, "bf16"), (torch.float16, "f16")]:
        for n in (4096, 8192):
            a, b = random(n, n, dtype=dtype), random(n, n, dtype=dtype)
            measure(f"matmul_{n}_{name}", lambda: a @ b)
    shapes = [("qkv", 2304, 768), ("proj", 768, 768), ("fc", 3072, 768), ("out", 768, 3072), ("head", 50304, 768)]
    for name, n, k in shapes:
        x, w = random(8192, k), random(n, k)
        measure(f"matmul_{name}", lambda: F.linear(x, w))


def attentions():
    for d in (64, 128):
        for t in (1024, 2048, 4096, 8192, 16384):
            q, k, v = (random(16384 // t, 2048 // d, t, d, grad=True) for _ in range(3))
            dout = random(16384 // t, 2048 // d, t, d)

            def run():
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

            def run_backward():
                q.grad = k.grad = v.grad = None
                run().backward(dout)

            with torch.no_grad():
                measure(f"attention_d{d}_t{t}_forward", run)
            measure(f"attention_d{d}_t{t}_forward_backward", run_backward)


def memory_bound():
    x, w, b = random(8192, 768, grad=True), random(768, grad=True), random(768, grad=True)
    dy = random(8192, 768)
    with torch.no_grad():
        measure("layer_norm_forward", lambda: F.layer_norm(x, (768,), w, b))

    def norm():
        x.grad = w.grad = b.grad = None
        F.layer_norm(x, (768,), w, b).backward(dy)

    measure("layer_norm_forward_backward", norm)

    logits, targets = random(4096, 50304, grad=True), torch.arange(4096, device="cuda")

    def loss():
        logits.grad = None
        F.cross_entropy(logits, targets).backward()

    measure("cross_entropy", loss)

    parameters = [random(768, 768, dtype=torch.float32, grad=True) for _ in range(210)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, fused=True)
    measure("adamw_124m", optimizer.step)


class Block(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.fc, self.out = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        b, t, c = x.shape
        heads = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.ln1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary=50304, steps=1024, layers=12, heads=12, c=768):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, c), nn.Embedding(steps, c)
        self.blocks = nn.ModuleList(Block(c, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(c), nn.Linear(c, vocabulary, bias=False)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.ln(x)).flatten(0, 1), targets.flatten())


def gpt2_step():
    """f32 weights under autocast to bf16, as nanoGPT trains, eager and compiled."""
    gpt = Gpt().cuda()
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    ids, targets = (torch.randint(50304, (8, 1024), device="cuda") for _ in range(2))
    for name, model in [("gpt2_124m_step_eager", gpt), ("gpt2_124m_step", torch.compile(gpt))]:

        def step():
            with torch.autocast("cuda", BF16):
                loss = model(ids, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        measure(name, step)


def main():
    print(f"# {torch.__version__} on {torch.cuda.get_device_name()}")
    failed = False
    for cases in (matmuls, attentions, memory_bound, gpt2_step):
        try:
            cases()
        except Exception as error:
            explain(cases.__name__, error)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
