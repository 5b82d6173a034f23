"""Figures of a trained model: perplexity and bits per byte by source, and scores of tasks."""

from jaxllm.evaluation.harness import TextModel
from jaxllm.evaluation.perplexity import EvaluationConfig, Score, make_eval_step, score_sets, total
from jaxllm.evaluation.tasks import TaskFigure, Tasks, find_tasks, task_figures

__all__ = [
    "EvaluationConfig",
    "Score",
    "TaskFigure",
    "Tasks",
    "TextModel",
    "find_tasks",
    "make_eval_step",
    "score_sets",
    "task_figures",
    "total",
]
