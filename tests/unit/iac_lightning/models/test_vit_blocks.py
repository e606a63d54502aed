from __future__ import annotations

from typing import Any

import pytest
import torch

from iac_lightning.models.vit_blocks import Attention, Block, SwiGLU, initialise_depth_scaled
from iac_lightning.models.vit_positions import rotary_table
from tests.unit.iac_lightning.models import eva


@pytest.mark.parametrize("first", [0, 3])
def test_attention_is_softmax_attention(first: int) -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).reshape(2, 5, 3, 3, 4)
    heads = []
    for h in range(3):
        q, k, v = (qkv[:, :, i, h] for i in range(3))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v)  # √4 = 2
    expected = attention.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, first), expected[:, first:])


def test_block_from_a_token_on_equals_the_whole_block() -> None:
    torch.manual_seed(0)
    block, x = Block(12, 3, 2.0), torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x, 2), block(x)[:, 2:])


def test_drop_path_skips_or_scales_whole_samples() -> None:
    torch.manual_seed(0)
    block, x = Block(4, 1, 2.0, drop_path=0.75), torch.randn(1, 3, 4).expand(400, -1, -1)
    for parameter in block.attention.projection.parameters():
        torch.nn.init.zeros_(parameter)  # only the MLP branch is left
    branch = (block.eval()(x) - x)[0]
    change = block.train()(x) - x
    ratio = (change / branch).mean(dim=(1, 2))
    dropped = ratio.abs() < 1e-4
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 4.0), rtol=1e-3, atol=0)
    assert 0.65 < dropped.float().mean() < 0.85


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True}, {"inner_norm": True}, {"mlp": "swiglu"}, {"layer_scale": 0.1}]
)
@pytest.mark.parametrize("rotary", [False, True])
def test_block_is_eva_s(options: dict[str, Any], rotary: bool) -> None:
    """timm's `EvaBlock` with the same weights and its own three-axis rotations, forward and backward."""
    grid, dim, heads, registers = (2, 3, 4), 36, 2, 2
    timm = eva.load()
    torch.manual_seed(0)
    block = Block(dim, heads, 8 / 3, key_bias=False, **options)
    peer = timm.EvaBlock(
        dim=dim,
        num_heads=heads,
        qkv_fused=False,
        mlp_ratio=8 / 3,
        swiglu_mlp=options.get("mlp") == "swiglu",
        scale_mlp=options.get("mlp") == "swiglu",
        scale_attn_inner=options.get("inner_norm", False),
        qk_norm=options.get("qk_norm", False),
        init_values=options.get("layer_scale"),
        num_prefix_tokens=registers,
        norm_layer=torch.nn.LayerNorm,
    )
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    copy_block(peer, block)
    table, peer_table = None, None
    if rotary:
        still = rotary_table((1, 1, 1), dim // heads).expand(registers, -1)
        table = torch.cat([still, rotary_table(grid, dim // heads)])[None]
        peer_table = timm.RotaryEmbeddingCat(dim // heads * 2 // 3, in_pixels=False).get_embed(grid)
    x = torch.randn(2, registers + 24, dim)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = block(ours, 0, table), peer(theirs, rope=peer_table)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for tensor in (out, expected):
        tensor.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def copy_block(peer: torch.nn.Module, block: Block) -> None:
    """Weights of an `EvaBlock`: its pairs of channels lie beside each other, ours half a head apart."""
    width = block.norm1.weight.shape[0] // block.attention.heads
    pairs = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    order = torch.cat([pairs + width * h for h in range(block.attention.heads)])
    theirs = peer.attn
    weight = torch.cat([theirs.q_proj.weight[order], theirs.k_proj.weight[order], theirs.v_proj.weight])
    state = {"attention.qkv.weight": weight, "attention.query_bias": theirs.q_proj.bias[order]}
    state["attention.value_bias"] = theirs.v_proj.bias
    for ours, name in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
        for key, tensor in getattr(theirs, name).state_dict().items():
            state[f"attention.{ours}.{key}"] = tensor[pairs]
    modules = [
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("attention.norm", "attn.norm"),
        ("attention.projection", "attn.proj"),
    ]
    if isinstance(block.mlp, SwiGLU):
        modules += [("mlp.norm", "mlp.norm"), ("mlp.projection", "mlp.fc2")]
        for key in ("weight", "bias"):
            state[f"mlp.gate_and_value.{key}"] = torch.cat([getattr(peer.mlp.fc1_g, key), getattr(peer.mlp.fc1_x, key)])
    else:
        modules += [("mlp.0", "mlp.fc1"), ("mlp.2", "mlp.fc2")]
    for ours, name in modules:
        state |= {f"{ours}.{key}": tensor for key, tensor in peer.get_submodule(name).state_dict().items()}
    if block.scale1 is not None:
        state |= {"scale1": peer.gamma_1, "scale2": peer.gamma_2}
    block.load_state_dict(state)  # strict: every option has its tensors


def test_a_bias_of_keys_counts_for_nothing_without_rotations() -> None:
    torch.manual_seed(0)
    with_bias, without = Attention(12, 2), Attention(12, 2, key_bias=False)
    torch.nn.init.normal_(with_bias.qkv.bias)
    state = with_bias.state_dict()
    state["query_bias"], _, state["value_bias"] = state.pop("qkv.bias").chunk(3)
    without.load_state_dict(state)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(with_bias(x), without(x))


def test_silenced_attention_projects_each_token_s_own_value() -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    mixed = attention(x, 1)
    attention.silenced = True
    own = x[:, 1:] @ attention.qkv.weight[24:].T + attention.qkv.bias[24:]
    torch.testing.assert_close(attention(x, 1), attention.projection(own))
    attention.silenced = False
    assert torch.equal(attention(x, 1), mixed)


def test_layer_scale_starts_at_its_value_and_weighs_both_branches() -> None:
    torch.manual_seed(0)
    block, plain, x = Block(12, 3, 2.0, layer_scale=0.1), Block(12, 3, 2.0), torch.randn(2, 5, 12)
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("scale")})
    assert block.scale1 is not None
    assert block.scale2 is not None
    assert block.scale1.eq(0.1).all()
    assert block.scale2.eq(0.1).all()
    between = x + 0.1 * plain.attention(plain.norm1(x))
    torch.testing.assert_close(block(x), between + 0.1 * plain.mlp(plain.norm2(between)))


def test_depth_scaled_start() -> None:
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(192, 4, 4.0, mlp=mlp) for mlp in ("gelu", "swiglu", "gelu", "swiglu"))
    initialise_depth_scaled(blocks)
    for number, block in enumerate(blocks, start=1):
        linear = {name: m for name, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
        assert all(m.bias.eq(0).all() for m in linear.values())
        last = {"attention.projection", "mlp.projection" if isinstance(block.mlp, SwiGLU) else "mlp.2"}
        for name, module in linear.items():
            expected = 0.02 / (2 * number) ** 0.5 if name in last else 0.02
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03), name


def test_an_unknown_mlp_is_refused() -> None:
    with pytest.raises(ValueError, match="'relu' is none of the MLPs gelu, swiglu"):
        Block(12, 3, 2.0, mlp="relu")
