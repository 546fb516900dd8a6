"""Parameter Golf's baseline on one GPU: trains it, quantises it to int8 by rows, scores it in bits per byte.

Train:  python train_gpt.py --data DATASET --tokenizer tokenizer.model [--steps 20000] [--seconds 600]
Score:  python train_gpt.py --data DATASET --tokenizer tokenizer.model --score final_model.int8.ptz [--stride 64]
DATASET is a folder of *_train_*.bin and *_val_*.bin (256 i32 of header, magic 20240520, then u16 tokens).
"""

import argparse
import ctypes
import glob
import json
import math
import os
import struct
import time
import zlib

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = {"width": 512, "layers": 9, "heads": 8, "kv_heads": 4, "head_dim": 64, "factor": 2, "vocabulary": 1024, "length": 1024}
RATES = {"embedding": 0.05, "matrices": 0.04, "scalars": 0.04}
CONTROLS = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weight")


def rms(x):
    return F.rms_norm(x, (x.shape[-1],), eps=2.0**-23)


class Linear(nn.Linear):
    """f32 weights, products in the type of x."""

    def __init__(self, source, to, zero=False):
        super().__init__(source, to, bias=False)
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    def __init__(self, width, heads, kv_heads, head_dim):
        super().__init__()
        self.head_dim = head_dim
        self.c_q, self.c_k, self.c_v = (Linear(width, n * head_dim) for n in (heads, kv_heads, kv_heads))
        self.proj = Linear(heads * head_dim, width, zero=True)
        self.q_gain = nn.Parameter(torch.full((heads,), 1.5))

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = (c(x).view(b, t, -1, self.head_dim).transpose(1, 2) for c in (self.c_q, self.c_k, self.c_v))

        def turned(z):
            z1, z2 = rms(z).chunk(2, dim=-1)
            return torch.cat((z1 * cos + z2 * sin, z2 * cos - z1 * sin), dim=-1)

        q = turned(q) * self.q_gain.to(x.dtype)[None, :, None, None]
        y = F.scaled_dot_product_attention(q, turned(k), v, is_causal=True, enable_gqa=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, width, factor):
        super().__init__()
        self.fc, self.proj = Linear(width, factor * width), Linear(factor * width, width, zero=True)

    def forward(self, x):
        return self.proj(torch.relu(self.fc(x)).square())


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, head_dim, factor):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads, kv_heads, head_dim), Mlp(width, factor)
        self.attn_scale, self.mlp_scale = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def forward(self, x, x0, cos, sin):
        mix = self.resid_mix.to(x.dtype)
        x = mix[0] * x + mix[1] * x0
        x = x + self.attn_scale.to(x.dtype) * self.attn(rms(x), cos, sin)
        return x + self.mlp_scale.to(x.dtype) * self.mlp(rms(x))


class Gpt(nn.Module):
    def __init__(self, width, layers, heads, kv_heads, head_dim, factor, vocabulary, length, dtype=torch.bfloat16):
        super().__init__()
        self.dtype, self.early = dtype, layers // 2
        self.tok_emb = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tok_emb.weight, std=0.005)
        self.skip_weights = nn.Parameter(torch.ones(min(self.early, layers - self.early), width))
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, head_dim, factor) for _ in range(layers))
        frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, targets, reduction="mean"):
        cos, sin = (t[: tokens.shape[1]].to(self.dtype) for t in (self.cos, self.sin))
        x = x0 = rms(self.tok_emb(tokens).to(self.dtype))
        kept = []
        for i, block in enumerate(self.blocks):
            if i >= self.early and kept:
                x = x + self.skip_weights[i - self.early].to(x.dtype) * kept.pop()
            x = block(x, x0, cos, sin)
            if i < self.early:
                kept.append(x)
        logits = F.linear(rms(x), self.tok_emb.weight.to(x.dtype)).float()
        logits = 30 * torch.tanh(logits / 30)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction=reduction)


def newton_schulz(g, dtype=torch.bfloat16, steps=5):
    """Roughly U V^T of each matrix of g [n, rows, columns]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon:
    """Nesterov momentum, then the nearest half-orthogonal matrix; matrices of one shape together."""

    def __init__(self, matrices, dtype=torch.bfloat16, compiled=True):
        self.dtype, self.shapes = dtype, {}
        for p in matrices:
            self.shapes.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self.shapes.items()}
        self.orthogonal = torch.compile(newton_schulz) if compiled else newton_schulz

    @torch.no_grad()
    def step(self, rate, momentum):
        for shape, ps in self.shapes.items():
            g, buffer = torch.stack([p.grad for p in ps]), self.buffers[shape]
            buffer.mul_(momentum).add_(g)
            x = self.orthogonal(g.add(buffer, alpha=momentum), self.dtype).float()
            torch._foreach_add_(ps, list(x.unbind(0)), alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)

    def state(self):
        return list(self.buffers.values())


class Optimizers:
    def __init__(self, model, dtype=torch.bfloat16, compiled=True):
        named = dict(model.named_parameters())
        matrices = [p for n, p in named.items() if n.startswith("blocks.") and p.dim() == 2 and "resid_mix" not in n]
        ids = {id(p) for p in matrices} | {id(model.tok_emb.weight)}
        scalars = [p for p in named.values() if id(p) not in ids]
        groups = [{"params": [model.tok_emb.weight], "base": RATES["embedding"]}, {"params": scalars, "base": RATES["scalars"]}]
        self.adam = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=model.tok_emb.weight.is_cuda)
        self.muon = Muon(matrices, dtype, compiled)

    def step(self, multiplier, momentum):
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * multiplier
        self.adam.step()
        self.muon.step(RATES["matrices"] * multiplier, momentum)

    def clear(self):
        self.adam.state.clear()
        for buffer in self.muon.state():
            buffer.zero_()


def shard(path):
    with open(path, "rb") as f:
        data = f.read()
    magic, version, count = struct.unpack_from("<3i", data)
    if (magic, version) != (20240520, 1) or len(data) != 1024 + 2 * count:
        raise SystemExit(f"{path}: expected a shard of magic 20240520 and {count} tokens")
    # tokens of so small a vocabulary are the same as i16
    return torch.frombuffer(bytearray(data[1024:]), dtype=torch.int16)


def shards(folder, split):
    paths = sorted(glob.glob(os.path.join(folder, f"*_{split}_*.bin")))
    if not paths:
        raise SystemExit(f"{folder}: expected shards named *_{split}_*.bin")
    return torch.cat([shard(p) for p in paths])


class Stream:
    """All training tokens one after another, over and over; each batch takes rows * length + 1 of them."""

    def __init__(self, tokens):
        self.tokens, self.at = tokens, 0

    def batch(self, rows, length, device):
        parts, left = [], rows * length + 1
        while left > 0:
            if self.at == len(self.tokens):
                self.at = 0
            part = self.tokens[self.at : self.at + left]
            parts.append(part)
            self.at, left = self.at + len(part), left - len(part)
        span = torch.cat(parts).to(device=device, dtype=torch.int64)
        return span[:-1].view(rows, length), span[1:].view(rows, length)


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = (8, at) if key & 7 == 1 else (4, at) if key & 7 == 5 else varint(data, at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def byte_tables(path, device):
    """Of each token: its bytes, whether a blank leads it, whether it is a boundary (control, unknown, unused)."""
    table = []
    with open(path, "rb") as f:
        for number, message in fields(f.read()):
            if number != 1:
                continue
            piece = {1: b"", 3: 1, **dict(fields(message))}
            text, kind = piece[1].decode(), piece[3]
            leading = kind in (1, 4) and text.startswith("\u2581")
            size = 0 if kind in (2, 3, 5) else 1 if kind == 6 else len(text[leading:].replace("\u2581", " ").encode())
            table.append((size, int(leading), int(kind in (2, 3, 5))))
    return torch.tensor(table, device=device)


@torch.no_grad()
def evaluate(model, tokens, table, length, rows=64, stride=None):
    """Nats per token, bits per byte, tokens and bytes."""
    device = table.device
    count = (len(tokens) - 1) // length * length
    tokens = tokens[: count + 1].to(device=device, dtype=torch.int64)
    ends = list(range(length, count + 1, stride or length))
    if ends[-1] != count:
        ends.append(count)
    total, done = 0.0, 0
    for at in range(0, len(ends), rows):
        chosen = ends[at : at + rows]
        x = torch.stack([tokens[e - length : e] for e in chosen])
        y = torch.stack([tokens[e - length + 1 : e + 1] for e in chosen])
        losses = model(x, y, "none").view(y.shape)
        for row, end in enumerate(chosen):
            total, done = total + losses[row, length - (end - done) :].double().sum().item(), end
    t, p = table[tokens[1:]], table[tokens[:-1]]
    size = int((t[:, 0] + (t[:, 1] & (1 - p[:, 2]))).sum())
    loss = total / count
    return {"val_loss": loss, "val_bpb": loss / math.log(2) * count / size, "tokens": count, "bytes": size}


def quantize(state, least=1 / 127):
    """The artifact's bytes. least: of scales, 1/127 as the baseline had it, or 0."""
    entries = []
    for name, t in sorted(state.items()):
        t = t.detach().float().cpu().contiguous()
        if any(c in name for c in CONTROLS):
            entries.append((name, "F32", t))
        elif t.numel() <= 65536:
            entries.append((name, "F16", t.half()))
        else:
            rows = t if t.dim() == 2 else t.view(1, -1)
            clip = torch.quantile(rows.abs(), 0.9999984, dim=1)
            scale = (clip / 127).clamp_min(least)
            scale = torch.where(scale == 0, 1.0, scale)
            limited = torch.maximum(torch.minimum(rows, clip[:, None]), -clip[:, None])
            q = torch.clamp(torch.round(limited / scale[:, None]), -127, 127).to(torch.int8)
            entries += [(name, "I8", q.view(t.shape)), (f"{name}.scale", "F16", scale.half())]
    header, parts, end = {}, [], 0
    for name, dtype, t in entries:
        t = t.contiguous()
        data = ctypes.string_at(t.data_ptr(), t.numel() * t.element_size())
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    head = json.dumps(header).encode()
    return zlib.compress(struct.pack("<Q", len(head)) + head + b"".join(parts), 9)


TYPES = {"I8": torch.int8, "F16": torch.float16, "F32": torch.float32}


def read_tensors(data):
    """Tensors of safetensors bytes by name."""
    (size,) = struct.unpack_from("<Q", data)
    out = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = bytearray(data[8 + size + begin : 8 + size + end])
        out[name] = torch.frombuffer(raw, dtype=TYPES[entry["dtype"]]).view(entry["shape"])
    return out


def dequantize(artifact):
    """The state that an artifact holds, f32."""
    if artifact[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        container = zstandard.ZstdDecompressor().decompressobj().decompress(artifact)
    else:
        container = zlib.decompress(artifact)
    tensors = read_tensors(container)
    state = {}
    for name, t in tensors.items():
        if name.endswith(".scale") and name[:-6] in tensors:
            continue
        scale = tensors.get(f"{name}.scale")
        t = t.float()
        state[name] = t if scale is None else (t.view(len(scale), -1) * scale.float()[:, None]).view(t.shape)
    return state


def momentum_at(step, warm=500):
    """Of the step counted from 1."""
    share = min((step - 1) / warm, 1) if warm else 1
    return (1 - share) * 0.85 + share * 0.95


def multiplier_at(step, elapsed_ms, steps, seconds, warm_down=1200):
    """Of the step counted from 1, before which steps took so long."""
    if not warm_down:
        return 1.0
    if not seconds:
        return min(1.0, (steps - step + 1) / warm_down)
    span, left = warm_down * elapsed_ms / max(step - 1, 1), max(1000 * seconds - elapsed_ms, 0)
    return left / span if span > 0 and left <= span else 1.0


def train(model, stream, steps, seconds=0, rows=64, accumulation=8, length=1024, warmup=20, rates=None, log=print):
    """Steps with the baseline's optimisers; what they did and took."""
    device = model.tok_emb.weight.device
    cuda = device.type == "cuda"
    compiled = torch.compile(model, dynamic=False) if cuda else model
    optimizers = Optimizers(model, compiled=cuda)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}

    def one(step, multiplier):
        model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for _ in range(accumulation):
            loss = compiled(*stream.batch(rows, length, device)) / accumulation
            loss.backward()
            total += loss.detach()
        optimizers.step(multiplier, momentum_at(step))
        return total.item()

    for step in range(1, warmup + 1):
        one(step, 1.0)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(start[n])
    optimizers.clear()
    stream.at = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elapsed, losses, times, used = 0.0, [], [], []
    for step in range(1, steps + 1):
        if seconds and elapsed >= 1000 * seconds:
            break
        multiplier = rates[step - 1] if rates else multiplier_at(step, elapsed, steps, seconds)
        begun = time.perf_counter()
        losses.append(one(step, multiplier))
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begun))
        used.append(multiplier)
        elapsed += times[-1]
        if step <= 10 or step % 200 == 0:
            log(f"step:{step}/{steps} train_loss:{losses[-1]:.4f} train_time:{elapsed:.0f}ms step_avg:{elapsed / step:.2f}ms")
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {"losses": losses, "step_ms": times, "rates": used, "training_ms": elapsed, "peak_memory_bytes": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--score")
    parser.add_argument("--stride", type=int)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1337)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    model = Gpt(**SHAPE).to(device)
    table, held_out = byte_tables(args.tokenizer, device), shards(args.data, "val")
    if args.score:
        with open(args.score, "rb") as f:
            model.load_state_dict(dequantize(f.read()))
    else:
        train(model, Stream(shards(args.data, "train")), args.steps, args.seconds)
        print(evaluate(model, held_out, table, SHAPE["length"]))
        artifact = quantize(model.state_dict())
        with open("final_model.int8.ptz", "wb") as f:
            f.write(artifact)
        model.load_state_dict(dequantize(artifact))
    print(evaluate(model, held_out, table, SHAPE["length"], stride=args.stride))


if __name__ == "__main__":
    main()
