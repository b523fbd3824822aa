"""DeepSpeed as an engine, ZeRO 0 to 3: stage, optimiser, schedule and checkpoints are those of the plain engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcodi.data.loading import Batch
from medcodi.distributed import Ranks
from medcodi.randomness import StepRandomness
from medcodi.stages.stage import Stage
from medcodi.stages.step import accumulations
from medcodi.training.config import TrainConfig
from medcodi.training.deepspeed import library
from medcodi.training.deepspeed.config import deepspeed_dictionary
from medcodi.training.engine import OPTIMIZER_STATE, Engine, StepResult, check_finite, features_of, marked, seed_step
from medcodi.training.optimizer import build_optimizer, learning_rate


@contextmanager
def scalars_left_alone(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep DeepSpeed from broadcasting scalar parameters, which fails; all ranks have read the same file."""
    scalars: list[Any] = [parameter for parameter in parameters if parameter.ndim == 0]
    for scalar in scalars:
        scalar.ds_optim_param = True  # marks parameters that it does not broadcast
    yield
    for scalar in scalars:
        del scalar.ds_optim_param


class DeepSpeedEngine(Engine):
    """ZeRO 0 to 3."""

    def __init__(self, stage: Stage, config: TrainConfig, ranks: Ranks) -> None:
        deepspeed = library.check_deepspeed(config, ranks)
        dictionary = deepspeed_dictionary(config, ranks.world_size, ranks.device.type)
        super().__init__(stage, config, ranks)
        self.zero_stage = config.engine.zero_stage

        # DeepSpeed takes the stage and our optimiser over.
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        optimizer = build_optimizer(stage, config.optimizer)
        prepared = library.scalars_as_vectors if self.zero_stage == 3 else scalars_left_alone
        with prepared(stage.parameters()):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=stage, optimizer=optimizer, config=dictionary
            )
        if self.zero_stage == 3:
            library.leave_gradients_in_memory(self._optimizer)
            library.clear_padding(self._optimizer, self._trained.values(), ranks.rank)
        self._make_optimizer_state(0)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context in which the stage and its parts are used outside a step, with the current shards."""
        with ExitStack() as stack:
            stack.enter_context(self.autocast())
            if self.zero_stage == 3:
                stack.enter_context(library.shares_changed(self._optimizer))
                stack.enter_context(library.gathering(self.stage))
            yield

    def run_step(self, micro_batches: Sequence[Batch], randomness: Sequence[StepRandomness]) -> StepResult:
        """Forward and backward over the micro-batches, then one optimiser step."""
        lr = learning_rate(self.config.optimizer, randomness[0].step, self.config.horizon)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self.zero_stage == 3:
            library.clear_gradients(self._optimizer)

        # What micro-batches must know of each other, computed before their own passes.
        batches = [batch.to(self.ranks.device) for batch in micro_batches]
        with library.gathering(self.stage) if self.zero_stage == 3 else nullcontext():
            step_accumulations = accumulations(self.stage.compare, batches, features_of(self, batches, randomness))

        # Accumulate gradients, and exchange them.
        losses, logs = [], []
        with self._gradient_exchange():
            try:
                for index, (batch, draw, accumulation) in enumerate(
                    zip(batches, randomness, step_accumulations, strict=True)
                ):
                    seed_step(draw, self.ranks.rank, index)
                    output = self._engine(batch, draw, accumulation)
                    losses.append(output.loss.detach())
                    logs.append(output.logs)
                    self._engine.set_gradient_accumulation_boundary(index + 1 == len(micro_batches))
                    self._engine.backward(marked(output.loss))
                self._fill_missing_gradients()
            except BaseException:
                self._drop_gradients()  # else leaving the block would exchange them with ranks that do something else
                raise
        self._engine.set_gradient_accumulation_boundary(True)

        # Clip and step, unless the norm is not finite.
        taken, norm = self._step_if_finite()
        suspects = [] if taken else check_finite(losses, micro_batches)
        return StepResult(losses, logs, norm, lr, not taken, suspects)

    def _gradient_exchange(self) -> Any:
        """Context of a step's backward passes.

        ZeRO 1 and 2 exchange gradients once per step, in the order of the parameters: batches on two ranks may reach
        different parts, and an exchange in order of arrival would pair the wrong ones. Under ZeRO-3 all ranks reach the
        same parts, and gradients are partitioned as they arrive, so that no rank holds all of them.
        """
        return self._engine.coalesce_grad_reduction() if self.zero_stage in (1, 2) else nullcontext()

    def _step_if_finite(self) -> tuple[bool, float | None]:
        """Step; returns whether the step was taken, and the gradient norm. ZeRO 1 to 3 check and clip it themselves."""
        if self.zero_stage == 0:
            parameters = list(self._trained.values())
            total = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
            if not bool(total.isfinite()):
                self._engine.zero_grad()
                return False, float(total)
            if self.config.optimizer.grad_clip is not None:  # DeepSpeed's own clipping fails on scalars
                nn.utils.clip_grads_with_norm_(parameters, self.config.optimizer.grad_clip, total)
            self._engine.step()
            return True, float(total)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return self._engine.was_step_applied(), None if norm is None else float(norm)

    def _fill_missing_gradients(self) -> None:
        if self.zero_stage == 3:
            library.fill_missing_gradients(self._optimizer)
        for parameter in self._trained.values():
            if parameter.grad is None and self.zero_stage in (1, 2):
                parameter.grad = torch.zeros_like(parameter)

    def _drop_gradients(self) -> None:
        for parameter in self._trained.values():
            parameter.grad = None

    # ---- state: whole tensors by name, so that a checkpoint fits every engine, ZeRO stage and number of ranks ----
    def shards(self) -> dict[str, Tensor]:
        """Name -> live tensor of the trained weights on this rank: under ZeRO-3 its flat, padded shard."""
        return {name: getattr(parameter, "ds_tensor", parameter.data) for name, parameter in self._trained.items()}

    def whole(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> whole tensor on the CPU, on the first rank."""
        result = {}
        for name, shard in shards.items():
            tensor = self._gathered(shard.detach().to(self.ranks.device), self._trained[name])
            if self.ranks.is_first:
                result[name] = tensor.to("cpu", copy=True).contiguous()
        return result

    def share(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of whole tensors, in the memory where its part of the weights is."""
        if self.zero_stage < 3:
            return {name: tensor.to(self.ranks.device) for name, tensor in whole.items()}
        shards = self.shards()
        return {
            name: self._own_share(tensor, self._trained[name]).to(shards[name].device) for name, tensor in whole.items()
        }

    def _gathered(self, shard: Tensor, parameter: Any) -> Tensor:
        if self.zero_stage < 3:
            return shard
        parts = [torch.empty_like(shard) for _ in range(self.ranks.world_size)]
        dist.all_gather(parts, shard.contiguous())
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Both moments of every trained parameter, on the first rank."""
        moments = {}
        for name, key, value in self._whole_moments():
            if self.ranks.is_first:
                moments[f"{key}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
        return moments

    def _whole_moments(self) -> Iterator[tuple[str, str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self.zero_stage == 3:
            names = {parameter: name for name, parameter in self._trained.items()}
            for parameter, key, share in library.shares_of_moments(self._optimizer, OPTIMIZER_STATE, changed=False):
                yield names[parameter], key, self._gathered(share.to(self.ranks.device), parameter)
            return
        for name, parameter in self._trained.items():
            for key in OPTIMIZER_STATE:
                value = (
                    safe_get_full_optimizer_state(parameter, key)
                    if self.zero_stage
                    else self._optimizer.state[parameter][key]
                )
                assert value is not None  # every rank of the first process group holds it
                yield name, key, value

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_steps: int) -> None:
        """Restore the moments."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self._make_optimizer_state(num_steps)
        if self.zero_stage == 3:
            names = {parameter: name for name, parameter in self._trained.items()}
            for parameter, key, share in library.shares_of_moments(self._optimizer, OPTIMIZER_STATE, changed=True):
                share.copy_(self._own_share(state[f"{key}.{names[parameter]}"], parameter))
            return
        for name, parameter in self._trained.items():
            for key in OPTIMIZER_STATE:
                value = state[f"{key}.{name}"].to(self.ranks.device)
                if self.zero_stage:
                    safe_set_full_optimizer_state(parameter, value, key)
                else:
                    self._optimizer.state[parameter][key].copy_(value)

    def _own_share(self, value: Tensor, parameter: Any) -> Tensor:
        size, rank = parameter.ds_tensor.numel(), self.ranks.rank
        padded = torch.zeros(size * self.ranks.world_size, dtype=value.dtype, device=value.device)
        padded[: value.numel()] = value.flatten()
        return padded[rank * size : (rank + 1) * size]

    def _make_optimizer_state(self, num_steps: int) -> None:
        """Create the optimiser's state now: DeepSpeed would at the first step, and then miss that of the second group."""
        base = self._optimizer if self.zero_stage == 0 else self._optimizer.optimizer
        for owner in self._owners():
            state = base.state[owner]
            state["step"] = torch.tensor(float(num_steps), device=owner.device)
            for key in OPTIMIZER_STATE:
                state.setdefault(key, torch.zeros_like(owner))
        if self.zero_stage in (1, 2):
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _owners(self) -> Iterator[nn.Parameter]:
        """The tensors whose moments this rank holds; from disk, each is in memory until the next one is requested."""
        if self.zero_stage == 0:
            yield from self._trained.values()
        elif self.zero_stage < 3:
            yield from self._optimizer.single_partition_of_fp32_groups
        else:
            for group in range(len(self._optimizer.fp16_groups)):
                with library.group_in_memory(self._optimizer, group, changed=True) as owner:
                    yield owner
