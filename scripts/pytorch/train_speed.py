"""Speed of training steps in PyTorch, compiled, bf16 autocast: the peer of scripts/gpu/train_speed.ts, same shapes.

Usage: python scripts/pytorch/train_speed.py gpt2|golf [--sequences 64] [--length 1024] [--accumulation N] [--steps 20]
         [--warm 5] [--tiny]
Output: the last line is JSON: msPerStep, tokensPerSecond, losses. Needs a CUDA device and torch.
"""

import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Gpt2Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(self.ln_1(x)).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, width, layers, heads, vocabulary, length):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Gpt2Block(width, heads) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def rms(x):
    return F.rms_norm(x, (x.shape[-1],))


class GolfBlock(nn.Module):
    """The block of the Parameter Golf baseline: learned mixes with the first hidden state, grouped heads, squared ReLU."""

    def __init__(self, width, heads, kv_heads, head_dim, factor):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        linear = lambda a, b: nn.Linear(a, b, bias=False)
        self.q, self.k, self.v = linear(width, heads * head_dim), linear(width, kv_heads * head_dim), linear(width, kv_heads * head_dim)
        self.proj, self.fc, self.out = linear(heads * head_dim, width), linear(width, factor * width), linear(factor * width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.out.weight)
        self.gain = nn.Parameter(torch.full((heads,), 1.5))
        self.attn_scale, self.mlp_scale = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def forward(self, x, x0, cos, sin):
        b, t, _ = x.shape
        x = self.mix[0].to(x.dtype) * x + self.mix[1].to(x.dtype) * x0
        a = rms(x)
        q = self.q(a).view(b, t, self.heads, -1).transpose(1, 2)
        k = self.k(a).view(b, t, self.kv_heads, -1).transpose(1, 2)
        v = self.v(a).view(b, t, self.kv_heads, -1).transpose(1, 2)

        def turn(z):
            z1, z2 = rms(z).chunk(2, dim=-1)
            return torch.cat((z1 * cos + z2 * sin, z2 * cos - z1 * sin), dim=-1)

        q = turn(q) * self.gain.to(x.dtype)[None, :, None, None]
        y = F.scaled_dot_product_attention(q, turn(k), v, is_causal=True, enable_gqa=True)
        x = x + self.attn_scale.to(x.dtype) * self.proj(y.transpose(1, 2).reshape(b, t, -1))
        return x + self.mlp_scale.to(x.dtype) * self.out(F.relu(self.fc(rms(x))).square())


class Golf(nn.Module):
    def __init__(self, width, layers, heads, kv_heads, head_dim, vocabulary, length, factor=2):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.005)
        self.blocks = nn.ModuleList(GolfBlock(width, heads, kv_heads, head_dim, factor) for _ in range(layers))
        self.early = layers // 2
        self.skips = nn.Parameter(torch.ones(min(self.early, layers - self.early), width))
        angles = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, head_dim, 2).float() / head_dim))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, targets):
        x = x0 = rms(self.embedding(tokens).to(torch.bfloat16))
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        kept = []
        for i, block in enumerate(self.blocks):
            if i >= self.early and kept:
                x = x + self.skips[i - self.early].to(x.dtype) * kept.pop()
            x = block(x, x0, cos, sin)
            if i < self.early:
                kept.append(x)
        logits = 30 * torch.tanh(F.linear(rms(x), self.embedding.weight.to(x.dtype)).float() / 30)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


@torch.compile
def orthogonalised(g, steps=5):
    a, b, c = 3.4445, -4.775, 2.0315
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if turned else x


class Muon:
    def __init__(self, parameters, rate=0.04, momentum=0.95):
        self.parameters, self.rate, self.momentum = list(parameters), rate, momentum
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        for p, buffer in zip(self.parameters, self.buffers):
            buffer.mul_(self.momentum).add_(p.grad)
            y = orthogonalised(p.grad.add(buffer, alpha=self.momentum))
            p.add_(y.to(p.dtype), alpha=-self.rate * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=["gpt2", "golf"])
    for name, default in (("sequences", 64), ("length", 1024), ("accumulation", 1), ("steps", 20), ("warm", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    device = "cuda"
    if args.model == "gpt2":
        size = (64, 2, 2, 320) if args.tiny else (768, 12, 12, 50257)
        model = Gpt2(*size, args.length).to(device)
        matrices = []
    else:
        size = (64, 3, 2, 1, 32, 320) if args.tiny else (512, 9, 8, 4, 64, 1024)
        model = Golf(*size, args.length).to(device)
        matrices = [p for p in model.blocks.parameters() if p.dim() == 2 and p.shape[0] > 2]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    optimizers = [torch.optim.AdamW(rest, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)]
    if matrices:
        optimizers.append(Muon(matrices))
    compiled = torch.compile(model)
    vocabulary = size[3] if args.model == "gpt2" else size[5]
    rows = args.sequences * args.length
    flat = torch.tensor([(i * 7919 + (i % 97) * 31) % vocabulary for i in range(rows + 1)], device=device)
    tokens, targets = flat[:-1].view(args.sequences, -1), flat[1:].view(args.sequences, -1)
    losses = []

    def step():
        total = 0.0
        for _ in range(args.accumulation):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = compiled(tokens, targets) / args.accumulation
            loss.backward()
            total = total + loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
        model.zero_grad(set_to_none=True)
        losses.append(total)

    for _ in range(args.warm):
        step()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(args.steps):
        step()
    torch.cuda.synchronize()
    ms = (time.perf_counter() - begun) * 1000 / args.steps
    tokens_per_second = rows * args.accumulation * 1000 / ms
    print(json.dumps({"msPerStep": ms, "tokensPerSecond": tokens_per_second, "losses": [float(x) for x in losses]}))


main()
