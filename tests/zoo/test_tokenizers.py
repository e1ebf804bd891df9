"""Every tokenizer of the zoo as a whole: its protocol, one step of training, stages, adversary."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import varmini.zoo.tokenizers
from varmini.data import load_images
from varmini.training.presets import preset
from varmini.zoo.tokenizers.family import TOKENIZERS
from varmini.zoo.tokenizers.vqgan import VQGAN, VQGANConfig
from varmini.zoo.tokenizers.vqvae import VQVAE

SHAPES = {
    "vqvae": (4, 4), "vqgan": (4, 4), "vit-vqgan": (4, 4), "rq-vae": (4, 4, 4), "lfq": (4, 4),
    "open-magvit2": (4, 4, 2), "bsq": (4, 4), "fsq": (4, 4), "ibq": (4, 4), "titok": (16,),
    "multiscale-bsq": (30,),
}  # fmt: skip
BITS = {"rq-vae": 16 * 4 * 9, "multiscale-bsq": 30 * 9}  # all others: 16 * 9
each = pytest.mark.parametrize("name", TOKENIZERS)


@pytest.fixture(scope="module")
def images():
    garments = load_images("fashion-subset", limit=16)
    return torch.stack([garments[i][0] for i in range(16)])


def make(name, **options):
    torch.manual_seed(0)
    cls = TOKENIZERS[name]
    return cls(cls.config_class(**options))


def flat(tokens):
    return tokens if isinstance(tokens, list) else [tokens]


@each
def test_the_protocol(name, images, tmp_path):
    tokenizer = make(name)
    assert tokenizer.token_shape == SHAPES[name]
    assert tokenizer.tokens_per_image == math.prod(SHAPES[name])
    assert tokenizer.bits_per_image == pytest.approx(BITS.get(name, 16 * 9))
    tokenizer.start(images)
    tokenizer.eval()
    tokens = flat(tokenizer.encode(images))
    if name == "multiscale-bsq":
        assert [tuple(t.shape) for t in tokens] == [(16, n, n) for n in (1, 2, 3, 4)]
    else:
        assert tokens[0].shape == (16, *SHAPES[name])
    with torch.no_grad():
        result = tokenizer(images)
    assert all(a.equal(b) for a, b in zip(flat(result.tokens), tokens))
    assert result.images.shape == images.shape and result.loss.ndim == 0
    assert len(result.usage) == (4 if name in ("rq-vae", "multiscale-bsq") else
                                 2 if name == "open-magvit2" else 1)  # fmt: skip
    assert ((result.usage > 0) & (result.usage <= 1)).all()
    drawn = tokenizer.decode(result.tokens)
    assert torch.allclose(drawn, result.images.clamp(-1, 1), atol=1e-4)

    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    assert loaded.config == tokenizer.config
    assert loaded.decode(result.tokens).equal(drawn)
    assert all(a.equal(b) for a, b in zip(flat(loaded.encode(images)), tokens))


def training_loss(tokenizer, images):
    result = tokenizer(images)
    return F.mse_loss(result.images, images) + result.loss, result


@each
def test_one_step_lowers_the_loss(name, images):
    tokenizer = make(name).train()
    tokenizer.start(images)
    tokenizer.before_step(0.0)
    learning = [p for p in tokenizer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=2e-4)
    before, result = training_loss(tokenizer, images)
    before.backward()
    idle = {n.split(".")[0] for n, p in tokenizer.named_parameters() if p.grad is None}
    assert idle == ({"proxy"} if name == "titok" else
                    {"quantizer"} if name in ("vqvae", "rq-vae") else set())  # fmt: skip
    assert all(p.grad.isfinite().all() for p in learning if p.grad is not None)
    optimizer.step()
    tokenizer.after_step(result)
    assert training_loss(tokenizer, images)[0] < before
    ema = [name for name, buffer in tokenizer.named_buffers() if name.endswith("total")]
    assert bool(ema) == (name in ("vqvae", "rq-vae", "titok"))


@pytest.mark.parametrize("name", ["vqvae", "rq-vae"])
def test_the_step_without_a_gradient_moves_the_codes_alone(name, images):
    tokenizer = make(name).train()
    assert not [p for n, p in tokenizer.named_parameters() if "codebook" in n and p.requires_grad]
    before = {n: p.clone() for n, p in tokenizer.named_parameters()}
    tokenizer.after_step(tokenizer(images))
    moved = [n for n, p in tokenizer.named_parameters() if not p.equal(before[n])]
    assert moved == ["quantizer.codebook"]


@each
def test_a_step_under_bfloat16_quantizes_in_float32(name, images):
    tokenizer = make(name)
    seen = []
    tokenizer.quantizer.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, result = training_loss(tokenizer, images)
    loss.backward()
    assert seen == [torch.float32] and result.images.dtype == torch.float32
    assert result.loss.dtype == torch.float32 and loss.isfinite()


def test_a_pyramid_of_bits_can_be_cut_short(images):
    tokenizer = make("multiscale-bsq").eval()
    tokens = tokenizer.encode(images)
    assert not tokenizer.decode(tokens, num_scales=2).equal(tokenizer.decode(tokens))
    assert tokenizer.decode(tokens, num_scales=4).equal(tokenizer.decode(tokens))


def test_titok_learns_proxies_first_and_pixels_then(images):
    proxy = VQVAE(make("titok").proxy.config)
    proxy.start(images)
    tokenizer = make("titok")
    tokenizer.proxy.load_state_dict(proxy.state_dict())

    def learning():
        _, result = training_loss(tokenizer, images)
        tokenizer.zero_grad()
        (F.mse_loss(result.images, images) + result.loss).backward()
        return {n.split(".")[0] for n, p in tokenizer.named_parameters() if p.grad is not None}

    tokenizer.before_step(0.0)
    result = tokenizer(images)
    assert not result.images.requires_grad
    logits = tokenizer.decoder(tokenizer.quantizer.embed(result.tokens[:, None]))
    ce = F.cross_entropy(logits, proxy.encode(images))
    vq = tokenizer.quantizer(tokenizer.features(images)).loss
    assert result.loss.item() == pytest.approx((ce + vq).item(), rel=1e-4)
    assert learning() == {"encoder", "quantizer", "decoder"}

    tokenizer.before_step(0.6)
    tokens = tokenizer.encode(images)
    assert learning() == {"decoder", "proxy"}
    torch.optim.SGD(tokenizer.parameters(), lr=0.1).step()
    assert tokenizer.encode(images).equal(tokens)
    trained = [n for n, p in tokenizer.proxy.named_parameters() if p.grad is not None]
    assert trained and all(n.startswith("decoder.") for n in trained)


def test_sure_proxies_are_drawn_as_the_proxy_would():
    tokenizer = make("titok").eval()
    tokens = torch.randint(512, (2, 8, 8))
    sure = 100.0 * F.one_hot(tokens, 512).permute(0, 3, 1, 2)
    drawn = tokenizer.pixels(sure).clamp(-1, 1)
    assert torch.allclose(drawn, tokenizer.proxy.decode(tokens), atol=1e-5)


def test_the_adversary_of_vqgan(images):
    tokenizer = make("vqgan")
    adversary = tokenizer.adversary()
    drawn = tokenizer(images).images
    reconstruction, last = F.mse_loss(drawn, images), tokenizer.decoder.last_layer
    loss = adversary.generator_loss(reconstruction, drawn, last)
    fooled = -adversary.network(drawn).mean()
    norms = [
        torch.autograd.grad(term, last, retain_graph=True)[0].norm()
        for term in (reconstruction, fooled)
    ]
    expected = 0.8 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4) * fooled
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    (reconstruction + loss).backward()
    assert all(p.grad is None for p in adversary.parameters())
    assert all(p.requires_grad for p in adversary.parameters())
    optimizer = torch.optim.Adam(adversary.parameters(), lr=1e-4)
    drawn.grad = None
    before = adversary.discriminator_loss(images, drawn)
    before.backward()
    optimizer.step()
    assert adversary.discriminator_loss(images, drawn) < before
    assert VQGAN(VQGANConfig(adversarial=0.0)).adversary() is None
    assert not [cls for kind, cls in TOKENIZERS.items()
                if kind != "vqgan" and make(kind).adversary() is not None]  # fmt: skip


@each
def test_it_takes_the_live_beds_network(name):
    config_class = TOKENIZERS[name].config_class
    network = preset("fashion").tokenizer.model
    config = config_class.like(network)
    assert config.network(7).width == network.width and config.image_size == 32
    assert config.side == network.sizes[-1]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: t.encode(torch.zeros(1, 1, 28, 28)), "images have shape"),
        (lambda t: t.decode(torch.zeros(1, 4, 4)), r"float32 .*expected a LongTensor \(B, 4, 4, 2"),
        (lambda t: t.decode(torch.zeros(1, 4, 4).long()), r"shape \(1, 4, 4\), expected"),
        (lambda t: t.decode(torch.full((1, 4, 4, 2), 9)), r"9 to 9, expected \[0, 8\), \[0, 64\)"),
        (lambda t: make("fsq", levels=(8, 1)), r"levels are \(8, 1\), expected"),
        (lambda t: make("multiscale-bsq", sizes=(1, 2)), "expected to end at the side 4"),
        (lambda t: make("multiscale-bsq").decode([torch.zeros(1, 1, 1).long()]), "tokens are"),
        (lambda t: make("vqvae", width=6), "width is 6, expected a multiple of norm_groups 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make("open-magvit2"))


def test_each_system_is_one_short_file_and_a_paragraph_of_the_family():
    folder = Path(varmini.zoo.tokenizers.__file__).parent
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py", "family.py"}
    assert not [f for f in files if len((folder / f).read_text().splitlines()) > 200]
    family = (Path(__file__).resolve().parents[2] / "docs" / "family.md").read_text()
    systems = files - {"quantizer.py", "tokenizer.py"}
    assert len(systems) == len(TOKENIZERS) + 2  # and the KL autoencoder, and that of videos
    assert not [f for f in systems if f"(../varmini/zoo/tokenizers/{f})" not in family]
