"""A few steps of training, so that a tiny model has something to say."""

import torch

from plumbline.training.task import TrainingJob


def teach(job: TrainingJob, steps: int, lr: float) -> None:
    """Train a job's model over its whole training split, and leave it evaluating."""
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=lr)
    batch = job.task.collate([job.train.sample(index, 0) for index in range(len(job.train))])
    torch.manual_seed(0)
    for _ in range(steps):
        loss = job.task.loss(job.model.train(), batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    job.model.eval()
