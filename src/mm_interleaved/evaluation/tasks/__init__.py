"""The paper's benchmarks: one file per kind, each from official annotation files to questions and scores (spec §7)."""

from __future__ import annotations

from mm_interleaved.evaluation.tasks import captions, dialogue, pictures, questions, regions, segmentation, stories
from mm_interleaved.evaluation.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for tasks in (captions.TASKS, questions.TASKS, dialogue.TASKS, regions.TASKS, pictures.TASKS, segmentation.TASKS, stories.TASKS)
    for task in tasks
}
"""Every benchmark by its name, as `mmi evaluate --suite` takes it."""
