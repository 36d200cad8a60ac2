"""What is true of what makes the scripts quick: the numbers are those of the plain way."""

import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from conftest import AS_STARTED
from torch.func import functional_call

import speed

ROOT = Path(__file__).resolve().parents[1]

# --- GRU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 20])
@pytest.mark.parametrize("with_h0", [True, False])
def test_the_hand_written_gru_equals_torchs(T, with_h0):
    torch.manual_seed(0)
    theirs = torch.nn.GRU(5, 7).double()
    ours = speed.GRU(5, 7).double()
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(T, 3, 5).double(), torch.randn(1, 3, 7).double()
    weight = torch.randn(T, 3, 7).double()  # every output has its own weight in the loss
    results = []
    for gru in (theirs, ours):
        inputs = [x.clone().requires_grad_(), h0.clone().requires_grad_()][: 1 + with_h0]
        out, h_n = gru(*inputs)
        ((out * weight).sum() + (h_n**2).sum()).backward()
        grads = {k: p.grad for k, p in gru.named_parameters()}
        results.append([out, h_n, grads, [x.grad for x in inputs]])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_gru_is_its_derivative():
    torch.manual_seed(0)
    gru = speed.GRU(2, 3).double()
    names, weights = zip(*gru.named_parameters())
    x, h0 = torch.randn(4, 2, 2).double(), torch.randn(1, 2, 3).double()

    def run(x, h0, *weights):
        return functional_call(gru, dict(zip(names, weights)), (x, h0))

    inputs = [t.detach().requires_grad_() for t in (x, h0, *weights)]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("B", [1, 4])
def test_the_gru_takes_what_is_not_contiguous_and_needs_no_gradient_of_it(B):
    """As `Encoder` is called: by a window that is a part of another tensor, or under no_grad."""
    torch.manual_seed(0)
    gru, x = speed.GRU(5, 7).double(), torch.randn(B, 20, 5).double().transpose(0, 1)
    theirs = torch.nn.GRU(5, 7).double()
    theirs.load_state_dict(gru.state_dict())
    results = []
    for net in (theirs, gru):
        out, h_n = net(x)
        out[3:, :, 0].sum().backward()  # a gradient that is 0 for most of what comes out
        with torch.no_grad():
            results.append([out.detach(), net(x)[1], h_n.detach(),
                            [p.grad for p in net.parameters()]])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


# --- CUDA GRAPH -----------------------------------------------------------------------------------


class Recording:
    """In place of a CUDA graph: while it records, work is kept and not done."""
    now, made = None, []

    def __init__(self):
        self.work = []
        Recording.made.append(self)

    def replay(self):
        for do in self.work:
            do()


@contextmanager
def recorded(graph):
    Recording.now = graph
    yield
    Recording.now = None


@pytest.fixture
def no_cuda(monkeypatch):
    """What `as_cuda_graph` needs of CUDA, without any: the bookkeeping is its own."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {"Stream": lambda: stream, "current_stream": lambda: stream, "stream":
                       lambda s: nullcontext(), "CUDAGraph": Recording, "graph": recorded}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(Recording, "made", [])


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def toy_update(agent, optimizer, batch, doubled):
    """Adds to each agent what depends on batch, learning rate, and a bool."""
    result, rates = torch.zeros(()), [group["lr"] for group in optimizer.param_groups]

    def work():
        for weight, rate in zip(agent, rates):
            weight += rate * (1 + doubled) * (batch.x.sum() + batch.y.sum())
        result.copy_(agent[0] + agent[1])

    Recording.now.work.append(work) if Recording.now else work()
    return {"sum": result}


def toy_run(learn, n_shapes, n_updates):
    """-> weights and results after updates with other batches and learning rates each time."""
    agent, results = torch.zeros(2, dtype=torch.float64), []
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}, {"lr": 0.0}])
    for i in range(n_updates):
        rates = [1 / (i + 1), 2 / (i + 3)]
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        x = torch.full((1 + i % n_shapes,), float(i))
        results.append(learn(agent, optimizer, Pair(x, -x[:1] / 3), i % 3 == 0)["sum"])
        left = [group["lr"] for group in optimizer.param_groups]
        assert left == rates and {type(rate) for rate in left} == {float}  # no tensors
    return agent, torch.stack(results)


@pytest.mark.parametrize(
    "n_shapes, n_updates, n_graphs", [(1, 30, 2), (2, 60, 4), (10, 200, 16)])
def test_batches_rates_and_bools_reach_a_replayed_update(n_shapes, n_updates, n_graphs, no_cuda):
    learn = speed.as_cuda_graph(toy_update)
    expected, found = (toy_run(f, n_shapes, n_updates) for f in (toy_update, learn))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(Recording.made) == n_graphs  # one for each shape and value of the bool, 16 at most



GRAPH_EQUALS_PLAIN = """
import copy, sys, torch
import speed, rmf_sac_gru, rmf_td3_lstm

device, graph = sys.argv[1], {"cuda": speed.as_cuda_graph, "cpu": lambda update: update}
script = {"sac": rmf_sac_gru, "td3": rmf_td3_lstm}[sys.argv[2]]
args = script.Args(rnn_size=16, hidden_sizes=(16, 16), embeddings=(8, 8, 8), inputs="oar",
                   shared_encoder=sys.argv[3])


def batch(T, B, seed):
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(T + 1, B, *d, generator=g).double() for d in ((3,), (2,), ())]
    length = torch.randint(2, T + 1, (B,), generator=g)
    x += [x[1][1:].clone(), x[2][1:].clone(), (torch.rand(T, B, generator=g) < 0.1).double(),
          (torch.arange(T)[:, None] < length).double()]
    return script.Batch(*(t.to(device) for t in x))


def trained(make):
    torch.manual_seed(0)
    agent = script.Agent(3, 2, args).double().to(device)
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3, fused=True)
    learn, seen = make(script.update), []
    torch.manual_seed(1)
    for i in range(16 if script is rmf_sac_gru else 32):  # 8 of each kind
        new = batch(*((12, 4), (9, 5))[i % 2], seed=i)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - i / 40)
        rest = () if script is rmf_sac_gru else (i // 2 % 2 == 0,)
        scalars = learn(agent, optimizer, new, args, *rest)
        seen.append({k: v.item() for k, v in scalars.items()})
        (left,) = (group["lr"] for group in optimizer.param_groups)
        assert type(left) is float and left == 1e-3 * (1 - i / 40)
    return agent.state_dict(), seen, optimizer.state_dict()["state"]


(weights, seen, moments), (other_weights, other_seen, other_moments) = (
    trained(make) for make in (lambda update: update, graph[device]))
start = script.Agent(3, 2, args).double().state_dict()
assert not any(torch.equal(start[k], v.cpu()) for k, v in weights.items())
close = dict(rtol=1e-5, atol=1e-7)
torch.testing.assert_close(other_weights, weights, **close)
torch.testing.assert_close(other_seen, seen, **close)
torch.testing.assert_close(other_moments, moments, **close)
print("equal")
"""


def equal_on(device, *flags):
    process = subprocess.run(
        [sys.executable, "-c", GRAPH_EQUALS_PLAIN, device, *flags], cwd=ROOT, env=AS_STARTED,
        capture_output=True, text=True, timeout=300)
    assert process.stdout.endswith("equal\n"), process.stderr[-3000:]


@pytest.mark.parametrize("flags", ["sac separate", "sac published-clipped", "td3 separate"])
def test_a_replayed_update_equals_the_plain_one(flags):
    """Eight updates of each kind, three of them before it is recorded; in float64, so that a
    learning rate of the update before would be seen."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if not torch.version.cuda or subprocess.run(
            [sys.executable, "-c", code], env=AS_STARTED, cwd=ROOT).returncode:
        pytest.skip("no GPU")
    equal_on("cuda", *flags.split())
