"""What makes the scripts quick, and could be deleted: each part does, number for number, what a
plain part of PyTorch does as well (tests/test_speed.py).

    GRU            in place of nn.GRU, on a CPU
    as_cuda_graph  around `update`, on a GPU
"""

from collections import Counter

import torch
import torch.nn as nn
import torch.nn.functional as F

# --- ON A CPU -------------------------------------------------------------------------------------


class GRU(nn.GRU):
    """nn.GRU of one layer, with the same weights and numbers; on a CPU its backward pass is written
    by hand. At the sizes of Wind's preset an update takes 25 ms in place of 36 ms."""

    def forward(self, x, h=None):
        """x (T, B, n_in), h (1, B, H) or None -> h_1..h_T (T, B, H), h_T (1, B, H)."""
        if x.is_cuda:
            return super().forward(x, h)
        h0 = x.new_zeros(x.shape[1], self.hidden_size) if h is None else h[0]
        x_gates = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)  # (T, B, 3H)
        out = GRUSteps.apply(x_gates, h0, self.weight_hh_l0, self.bias_hh_l0)
        return out, out[-1:]


class GRUSteps(torch.autograd.Function):
    """The recurrence of a GRU. In the backward pass, what does not depend on the gradient of the
    next step is computed for all steps at once."""

    @staticmethod
    def forward(ctx, x_gates, h0, weight, bias):
        """x_gates (T, B, 3H), what x adds to the gates r, z, n; h0 (B, H) -> h_1..h_T (T, B, H)."""
        (T, B, _), H = x_gates.shape, weight.shape[1]
        h, h_n, n = (x_gates.new_empty(steps, B, H) for steps in (T + 1, T, T))
        rz, x_n = x_gates[..., : 2 * H] + bias[: 2 * H], x_gates[..., 2 * H :]
        h_gates = x_gates.new_empty(B, 3 * H)
        h_rz, h_only_n = h_gates.split([2 * H, H], -1)
        h[0] = h0
        for h_t, next_h, rz_t, x_n_t, h_n_t, n_t in zip(h, h[1:], rz, x_n, h_n, n):
            torch.mm(h_t, weight.t(), out=h_gates)
            rz_t.add_(h_rz).sigmoid_()
            torch.add(h_only_n, bias[2 * H :], out=h_n_t)
            torch.addcmul(x_n_t, rz_t[:, :H], h_n_t, out=n_t).tanh_()
            torch.lerp(n_t, h_t, rz_t[:, H:], out=next_h)  # (1 - z) n + z h
        ctx.save_for_backward(h, h_n, rz, n, weight)
        return h[1:]

    @staticmethod
    def backward(ctx, grad):
        h, h_n, rz, n, weight = ctx.saved_tensors
        (T, B, H), (r, z) = n.shape, rz.chunk(2, -1)
        gates = n.new_empty(T, B, 3, H)
        by_n = (1 - z) * (1 - n**2)  # d h_t / d gate, for all steps at once
        by_r, by_z = (rz * (1 - rz)).chunk(2, -1)
        torch.mul(by_r, by_n * h_n, out=gates[:, :, 0])
        torch.mul(by_z, h[:-1] - n, out=gates[:, :, 1])
        torch.mul(by_n, r, out=gates[:, :, 2])
        dh, following = torch.empty_like(n), torch.zeros_like(h[0])
        steps = zip(grad, dh, gates, z.contiguous())
        for grad_t, dh_t, gates_t, z_t in reversed(list(steps)):
            torch.add(grad_t, following, out=dh_t)
            gates_t.mul_(dh_t.unsqueeze(1))  # (B, 3, H): now d loss / d gate
            following = torch.addmm(dh_t * z_t, gates_t.view(B, 3 * H), weight)
        flat = gates.view(T * B, 3 * H)
        d_weight, d_bias = flat.t() @ h[:-1].reshape(T * B, H), flat.sum(0)
        torch.mul(by_n, dh, out=gates[:, :, 2])  # x enters gate n outside of r * (...)
        return gates.view(T, B, 3 * H), following, d_weight, d_bias


# --- ON A GPU -------------------------------------------------------------------------------------

WARM_UP, MOST_GRAPHS = 3, 16


def as_cuda_graph(update):
    """-> a function that does what `update(agent, optimizer, batch, ...)` does, in one launch.

    Networks this small leave a GPU waiting for the next of some thousand kernels; a recorded update
    is replayed as a whole. One is recorded for each shape of batch and value of a bool among the
    last arguments, once `WARM_UP` updates of its kind were made the plain way; after `MOST_GRAPHS`
    kinds the rest stay plain. `update` may change nothing but what lies on the GPU, and must not
    look at a number there. The optimizer is a fused Adam, its learning rates may change.
    """
    seen, graphs, rates = Counter(), {}, []
    side = torch.cuda.Stream()  # recording needs its warm-up away from the default stream

    def replayed(agent, optimizer, batch, *rest):
        kind = (*(x.shape for x in batch), *(x for x in rest if isinstance(x, bool)))
        seen[kind] += 1
        groups, device = optimizer.param_groups, batch[0].device
        if not rates:  # a recorded step reads its learning rate here
            rates.extend(torch.zeros((), device=device) for _ in groups)
        if kind not in graphs and (seen[kind] <= WARM_UP or len(graphs) == MOST_GRAPHS):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                scalars = update(agent, optimizer, batch, *rest)
            torch.cuda.current_stream().wait_stream(side)
            return scalars
        current = [group["lr"] for group in groups]
        for rate, value in zip(rates, current):
            rate.fill_(value)
        if kind not in graphs:
            graph, own_batch = torch.cuda.CUDAGraph(), type(batch)(*(x.clone() for x in batch))
            for group, rate in zip(groups, rates):
                group["lr"], group["capturable"] = rate, True
            with torch.cuda.graph(graph):
                scalars = update(agent, optimizer, own_batch, *rest)
            for group, value in zip(groups, current):
                group["lr"], group["capturable"] = value, False
            graphs[kind] = graph, own_batch, scalars
        graph, own_batch, scalars = graphs[kind]
        for own, new in zip(own_batch, batch):
            own.copy_(new)
        graph.replay()
        return {name: value.clone() for name, value in scalars.items()}

    return replayed
