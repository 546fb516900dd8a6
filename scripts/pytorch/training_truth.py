"""Truth values for training: loss, gradients of all parameters, ten AdamW and ten Muon steps of a small GPT-2 and a
small GPT-OSS, from plain PyTorch in f32 on the CPU, and the parameters they start from; loss and gradients of that GPT-2
at the initial values of its paper, and of the golden GPT-OSS model of the fixtures, whose weights are in bf16.

Usage: python scripts/pytorch/training_truth.py OUT_FOLDER [GOLDEN_FOLDER]
       Needs torch alone. Deterministic: one thread, seeds below. GOLDEN_FOLDER has the golden model's config.json and
       its model.safetensors, unpacked.
Output: OUT_FOLDER/gpt2, gpt2_initial, gpt_oss and, where it is named, gpt_oss_golden with
       model.safetensors      initial values by the names of src/train/models
       gradients.safetensors  d loss / d parameter of the first batch, and `loss` [1]
       gradients_all_experts.safetensors  (gpt_oss) the same where every token uses all experts, for comparisons in
                              bf16, whose rounding would otherwise send tokens to other experts
       truth.json             config, tokens and targets of ten batches, losses of ten AdamW and ten Muon steps (of
                              gpt2 and gpt_oss), and what PyTorch's own gradients in bf16 are off by
       src/train/truth.test.ts reads them from the folder that PSIONIC_GOLDEN names (as training/gpt2 and so on).
"""

import ctypes
import json
import math
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F

torch.manual_seed(1)
torch.set_num_threads(1)

SEQUENCES, LENGTH, BATCHES = 3, 24, 10
ADAMW = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MUON = {"lr": 0.02, "momentum": 0.95, "steps": 5}

GPT2 = {"width": 48, "layers": 3, "heads": 4, "vocabularySize": 211, "contextLength": 32}
GPT_OSS = {
    **{"width": 40, "layers": 4, "heads": 8, "kvHeads": 2, "headDim": 8, "window": 9, "experts": 6, "expertsUsed": 2},
    **{"expertFeedForward": 28, "vocabularySize": 211, "contextLength": 64, "ropeBase": 150000, "balance": 0.01},
    "ropeScaling": {
        **{"type": "yarn", "factor": 4, "originalContext": 16, "betaFast": 32, "betaSlow": 1},
        **{"attentionFactor": 1, "round": False},
    },
}


def save_file(tensors, path):
    """One safetensors file of f32 tensors."""
    header, parts, end = {}, [], 0
    for name, t in tensors.items():
        t = t.detach().contiguous()
        data = ctypes.string_at(t.data_ptr(), 4 * t.numel())
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def causal_mask(length, window):
    i = torch.arange(length)
    seen = i[None, :] <= i[:, None]
    if window:
        seen &= i[None, :] > i[:, None] - window
    return seen


def attention(q, k, v, scale, window=0, sinks=None):
    """q [B, T, H, E], k and v [B, T, K, E] -> [B, T, H * E]; a sink is one more logit whose value is zero."""
    B, T, H, E = q.shape
    group = H // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bihe,bjhe->bhij", q, k) * scale
    scores = scores.masked_fill(~causal_mask(T, window), float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, H, 1, 1).expand(B, H, T, 1)], -1)
    p = scores.softmax(-1)[..., :T]
    return torch.einsum("bhij,bjhe->bihe", p, v).reshape(B, T, H * E)


def gpt2_parameters(c):
    D, std = c["width"], 0.02
    writes = std / math.sqrt(2 * c["layers"])
    p = {
        "wte.weight": torch.randn(c["vocabularySize"], D) * 0.3,
        "wpe.weight": torch.randn(c["contextLength"], D) * 0.1,
    }

    def norm(name):
        p[f"{name}.weight"] = 1 + 0.1 * torch.randn(D)
        p[f"{name}.bias"] = 0.1 * torch.randn(D)

    def linear(name, a, b, spread):
        p[f"{name}.weight"] = torch.randn(a, b) * spread * 6
        p[f"{name}.bias"] = torch.randn(b) * 0.05

    for i in range(c["layers"]):
        norm(f"h.{i}.ln_1")
        for part in "qkv":
            linear(f"h.{i}.attn.{part}", D, D, std)
        linear(f"h.{i}.attn.c_proj", D, D, writes)
        norm(f"h.{i}.ln_2")
        linear(f"h.{i}.mlp.c_fc", D, 4 * D, std)
        linear(f"h.{i}.mlp.c_proj", 4 * D, D, writes)
    norm("ln_f")
    return p


def gpt2_initial(c):
    """Normal 0.02, matrices that write to h less by the square root of their number, norms 1, biases 0."""
    std = 0.02

    def value(name, t):
        if t.dim() == 1:
            return torch.ones_like(t) if "ln_" in name and name.endswith(".weight") else torch.zeros_like(t)
        return torch.randn_like(t) * (std / math.sqrt(2 * c["layers"]) if "c_proj" in name else std)

    return {name: value(name, t) for name, t in gpt2_parameters(c).items()}


def gpt2_loss(c, p, tokens, targets):
    B, T = tokens.shape
    H, E = c["heads"], c["width"] // c["heads"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    h = p["wte.weight"][tokens] + p["wpe.weight"][:T]
    for i in range(c["layers"]):
        a = norm(h, f"h.{i}.ln_1")
        q, k, v = (linear(a, f"h.{i}.attn.{part}").view(B, T, H, E) for part in "qkv")
        h = h + linear(attention(q, k, v, E**-0.5), f"h.{i}.attn.c_proj")
        inner = F.gelu(linear(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        h = h + linear(inner, f"h.{i}.mlp.c_proj")
    logits = norm(h, "ln_f") @ p["wte.weight"].T
    return F.cross_entropy(logits.view(B * T, -1), targets.reshape(-1))


def gpt_oss_parameters(c):
    D, E, N, FF = c["width"], c["headDim"], c["experts"], c["expertFeedForward"]
    p = {"model.embed_tokens.weight": torch.randn(c["vocabularySize"], D) * 0.3}

    def linear(name, to, source):
        p[f"{name}.weight"] = torch.randn(to, source) * 0.15
        p[f"{name}.bias"] = torch.randn(to) * 0.05

    for i in range(c["layers"]):
        at = f"model.layers.{i}"
        p[f"{at}.input_layernorm.weight"] = 1 + 0.1 * torch.randn(D)
        linear(f"{at}.self_attn.q_proj", c["heads"] * E, D)
        linear(f"{at}.self_attn.k_proj", c["kvHeads"] * E, D)
        linear(f"{at}.self_attn.v_proj", c["kvHeads"] * E, D)
        linear(f"{at}.self_attn.o_proj", D, c["heads"] * E)
        p[f"{at}.self_attn.sinks"] = torch.randn(c["heads"])
        p[f"{at}.post_attention_layernorm.weight"] = 1 + 0.1 * torch.randn(D)
        linear(f"{at}.mlp.router", N, D)
        for part, to, source in (("gate", FF, D), ("up", FF, D), ("down", D, FF)):
            p[f"{at}.mlp.experts.{part}_proj"] = torch.randn(N, to, source) * 0.15
            p[f"{at}.mlp.experts.{part}_proj_bias"] = torch.randn(N, to) * 0.05
    p["model.norm.weight"] = 1 + 0.1 * torch.randn(D)
    p["lm_head.weight"] = torch.randn(c["vocabularySize"], D) * 0.15
    return p


def yarn(c):
    """Inverse frequencies and the factor on cos and sin (arXiv:2309.00071)."""
    base, dims, s = c["ropeBase"], c["headDim"], c["ropeScaling"]
    plain = base ** (-2 * torch.arange(dims // 2, dtype=torch.float64) / dims)

    def pair(rotations):
        return dims * math.log(s["originalContext"] / (2 * math.pi * rotations)) / (2 * math.log(base))

    low, high = max(0, pair(s["betaFast"])), min(dims - 1, pair(s["betaSlow"]))
    ramp = ((torch.arange(dims // 2, dtype=torch.float64) - low) / max(0.001, high - low)).clamp(0, 1)
    keep = 1 - ramp
    mscale = s["attentionFactor"] * (0.1 * math.log(s["factor"]) + 1)
    return (plain * ((1 - keep) / s["factor"] + keep)).float(), mscale


def gpt_oss_loss(c, p, tokens, targets):
    B, T = tokens.shape
    H, K, E, N, used = c["heads"], c["kvHeads"], c["headDim"], c["experts"], c["expertsUsed"]
    frequencies, mscale = yarn(c)
    angle = torch.arange(T).float()[:, None] * frequencies
    cos, sin = (angle.cos() * mscale)[:, None], (angle.sin() * mscale)[:, None]

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * p[f"{name}.weight"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def turn(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    balances = 0
    h = p["model.embed_tokens.weight"][tokens]
    for i in range(c["layers"]):
        at = f"model.layers.{i}"
        a = norm(h, f"{at}.input_layernorm")
        q = linear(a, f"{at}.self_attn.q_proj").view(B, T, H, E)
        k, v = (linear(a, f"{at}.self_attn.{part}_proj").view(B, T, K, E) for part in "kv")
        window = c["window"] if i % 2 == 0 else 0
        y = attention(turn(q), turn(k), v, E**-0.5, window, p[f"{at}.self_attn.sinks"])
        h = h + linear(y, f"{at}.self_attn.o_proj")
        b = norm(h, f"{at}.post_attention_layernorm").view(B * T, -1)
        logits = linear(b, f"{at}.mlp.router")
        top, ids = logits.topk(used, -1)
        weights = top.softmax(-1)
        share = F.one_hot(ids, N).float().sum((0, 1)) / ids.numel()
        balances = balances + N * (share.detach() * logits.softmax(-1).mean(0)).sum()
        w = {part: p[f"{at}.mlp.experts.{part}_proj"][ids] for part in ("gate", "up", "down")}
        bias = {part: p[f"{at}.mlp.experts.{part}_proj_bias"][ids] for part in ("gate", "up", "down")}
        gate = (torch.einsum("td,tjfd->tjf", b, w["gate"]) + bias["gate"]).clamp(max=7)
        up = (torch.einsum("td,tjfd->tjf", b, w["up"]) + bias["up"]).clamp(-7, 7)
        inner = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        out = torch.einsum("tjf,tjdf->tjd", inner, w["down"]) + bias["down"]
        h = h + (weights[..., None] * out).sum(1).view(B, T, -1)
    logits = norm(h, "model.norm") @ p["lm_head.weight"].T
    loss = F.cross_entropy(logits.view(B * T, -1), targets.reshape(-1))
    return loss, c["balance"] / c["layers"] * balances


def is_matrix(name, t):
    head = ("wte", "wpe", "lm_head", "embed")
    return t.dim() == 2 and not any(h in name for h in head) and not name.endswith("_bias")


def newton_schulz(g, steps):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


def losses_of(loss_of, start, batches, muon):
    p = {name: t.clone().requires_grad_() for name, t in start.items()}
    matrices = [n for n, t in p.items() if muon and is_matrix(n, t)]
    rest = [n for n in p if n not in matrices]
    plain = [p[n] for n in rest if p[n].dim() == 1 or n.endswith("_bias")]
    decayed = [p[n] for n in rest if not (p[n].dim() == 1 or n.endswith("_bias"))]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": ADAMW["weight_decay"]}]
    adamw = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"])
    buffers = {n: torch.zeros_like(p[n]) for n in matrices}
    losses = []
    for tokens, targets in batches:
        for t in p.values():
            t.grad = None
        loss, total = loss_of(p, tokens, targets)
        losses.append(float(loss))
        total.backward()
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        adamw.step()
        with torch.no_grad():
            for n in matrices:
                g = p[n].grad
                buffers[n].mul_(MUON["momentum"]).add_(g)
                step = newton_schulz(g + MUON["momentum"] * buffers[n], MUON["steps"])
                scale = max(1, p[n].shape[0] / p[n].shape[1]) ** 0.5
                p[n].mul_(1 - MUON["lr"] * ADAMW["weight_decay"]).sub_(MUON["lr"] * scale * step)
    return losses


def bf16_noise(parameters, loss_of, batch):
    """What PyTorch's own bf16 (autocast) is off its f32 by at worst, as a share of a gradient's norm."""

    def gradients(rounded):
        p = {name: t.clone().requires_grad_() for name, t in parameters.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            _, total = loss_of(p, *batch)
        total.backward()
        return {n: t.grad for n, t in p.items()}

    exact, rounded = gradients(False), gradients(True)
    total = sum(g.pow(2).sum() for g in exact.values()).sqrt()
    return max(float((rounded[n] - g).norm() / max(g.norm(), 1e-3 * total)) for n, g in exact.items())


def write_gradients(path, parameters, loss_of, batch):
    p = {name: t.clone().requires_grad_() for name, t in parameters.items()}
    loss, total = loss_of(p, *batch)
    total.backward()
    gradients = {n: t.grad.contiguous() for n, t in p.items()}
    save_file({**gradients, "loss": loss.detach().view(1)}, path)
    return float(loss)


def golden(folder):
    """Config and parameters of a GPT-OSS checkpoint as src/train/models/gpt_oss.ts names them: gate and up apart."""
    c = json.loads((folder / "config.json").read_text())
    rope = c["rope_parameters"]
    config = {
        **{"width": c["hidden_size"], "layers": c["num_hidden_layers"], "heads": c["num_attention_heads"]},
        **{"kvHeads": c["num_key_value_heads"], "headDim": c["head_dim"], "window": c["sliding_window"]},
        **{"experts": c["num_local_experts"], "expertsUsed": c["num_experts_per_tok"]},
        **{"expertFeedForward": c["intermediate_size"], "vocabularySize": c["vocab_size"]},
        **{"contextLength": c["max_position_embeddings"], "ropeBase": rope["rope_theta"]},
        "balance": c["router_aux_loss_coef"],
        "ropeScaling": {
            **{"type": "yarn", "factor": rope["factor"], "attentionFactor": 1, "round": rope["truncate"]},
            "originalContext": rope["original_max_position_embeddings"],
            **{"betaFast": rope["beta_fast"], "betaSlow": rope["beta_slow"]},
        },
    }
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    parameters = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind = {"BF16": torch.bfloat16, "F32": torch.float32}[entry["dtype"]]
        t = torch.frombuffer(bytearray(data[8 + size + begin : 8 + size + end]), dtype=kind)
        t = t.float().view(entry["shape"])
        if "gate_up_proj" in name:
            t = t if name.endswith("_bias") else t.transpose(1, 2)
            for i, part in enumerate(("gate", "up")):
                parameters[name.replace("gate_up", part)] = t[:, i::2].contiguous()
        else:
            parameters[name] = (t.transpose(1, 2) if name.endswith("experts.down_proj") else t).contiguous()
    return config, parameters


def write(folder, config, parameters, loss_of, all_experts=None, steps=True):
    folder.mkdir(parents=True, exist_ok=True)
    batches = []
    for _ in range(BATCHES):
        tokens = torch.randint(0, config["vocabularySize"], (SEQUENCES, LENGTH + 1))
        batches.append((tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
    save_file({n: t.contiguous() for n, t in parameters.items()}, folder / "model.safetensors")
    loss = write_gradients(folder / "gradients.safetensors", parameters, loss_of, batches[0])
    if all_experts:
        write_gradients(folder / "gradients_all_experts.safetensors", parameters, all_experts, batches[0])
    truth = {
        "torch": torch.__version__,
        "config": config,
        "sequences": SEQUENCES,
        "length": LENGTH,
        "adam_w": ADAMW,
        "muon": MUON,
        "tokens": [t.flatten().tolist() for t, _ in batches],
        "targets": [t.flatten().tolist() for _, t in batches],
        "bf16_noise": bf16_noise(parameters, all_experts or loss_of, batches[0]),
    }
    text = f"{folder}: loss {loss:.6f}"
    if steps:
        for kind in ("adam_w", "muon"):
            truth[f"{kind}_losses"] = losses_of(loss_of, parameters, batches, kind == "muon")
            text += f", {kind} {truth[f'{kind}_losses'][-1]:.6f}"
    (folder / "truth.json").write_text(json.dumps(truth))
    print(f"{text}, bf16 off by {truth['bf16_noise']:.4f}")


def main():
    out = pathlib.Path(sys.argv[1])

    def gpt2(p, tokens, targets):
        loss = gpt2_loss(GPT2, p, tokens, targets)
        return loss, loss

    def gpt_oss(config):
        def loss_of(p, tokens, targets):
            loss, balance = gpt_oss_loss(config, p, tokens, targets)
            return loss, loss + balance

        return loss_of

    def everything(config):
        return gpt_oss({**config, "expertsUsed": config["experts"]})

    write(out / "gpt2", GPT2, gpt2_parameters(GPT2), gpt2)
    write(out / "gpt_oss", GPT_OSS, gpt_oss_parameters(GPT_OSS), gpt_oss(GPT_OSS), everything(GPT_OSS))
    if len(sys.argv) > 2:
        config, parameters = golden(pathlib.Path(sys.argv[2]))
        write(out / "gpt_oss_golden", config, parameters, gpt_oss(config), everything(config), steps=False)
    torch.manual_seed(2)
    write(out / "gpt2_initial", GPT2, gpt2_initial(GPT2), gpt2, steps=False)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main()
